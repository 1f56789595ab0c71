//! How connections end: the codes that nodes tell each other, and what an end means to the one that sees it.

use evenkeel_core::volume::codec::FrameError;
use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};

use super::{
    event::{Cause, Ending, ProblemCode},
    message::MessageError,
};

/// No text that is sent with an end is longer: it has to fit into one datagram.
const TEXT_BYTES_MAX: usize = 500;

/// The code with which a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseCode {
    /// It has done what it was for.
    Done,
    /// The node ends.
    Leaving,
    /// A newer one takes its place.
    Replaced,
    /// The engine or the operator ended the link.
    Closed,
    /// Nothing came in time.
    Silent,
    /// More than is allowed at a time.
    Limit,
    /// The receiver belongs to another cluster.
    Cluster,
    /// A node has another name than the other one believes.
    Node,
    /// No version of the protocol that both speak.
    Version,
    /// What came was not the protocol.
    Protocol,
}

impl CloseCode {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Leaving,
        Self::Replaced,
        Self::Closed,
        Self::Silent,
        Self::Limit,
        Self::Cluster,
        Self::Node,
        Self::Version,
        Self::Protocol,
    ];

    /// Its number in the protocol.
    fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Leaving => 1,
            Self::Replaced => 2,
            Self::Closed => 3,
            Self::Silent => 4,
            Self::Limit => 5,
            Self::Cluster => 16,
            Self::Node => 17,
            Self::Version => 18,
            Self::Protocol => 19,
        }
    }

    fn from_number(number: VarInt) -> Option<Self> {
        Self::ALL.into_iter().find(|code| u64::from(code.number()) == number.into_inner())
    }

    /// What has to be mended, if a peer closes with this code.
    fn problem(self) -> Option<ProblemCode> {
        match self {
            Self::Done | Self::Leaving | Self::Replaced | Self::Closed | Self::Silent | Self::Limit => None,
            Self::Cluster => Some(ProblemCode::Cluster),
            Self::Node => Some(ProblemCode::Node),
            Self::Version => Some(ProblemCode::Version),
            Self::Protocol => Some(ProblemCode::Protocol),
        }
    }
}

/// Closes a connection; the peer sees code and text.
pub(super) fn close(connection: &quinn::Connection, code: CloseCode, text: &str) {
    connection.close(VarInt::from_u32(code.number()), bounded(text));
}

/// Closes all connections, and takes no more.
pub(super) fn close_all(endpoint: &quinn::Endpoint, code: CloseCode, text: &str) {
    endpoint.close(VarInt::from_u32(code.number()), bounded(text));
}

fn bounded(text: &str) -> &[u8] {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

/// Text from a peer, for the log and for people: bounded, and without anything that moves a terminal's cursor.
fn harmless(text: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES_MAX)]);
    shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Why something with a peer came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) cause: Cause,
    pub(super) text: String,
    /// What has to be mended, if anything.
    pub(super) problem: Option<ProblemCode>,
    /// The code with which this node closes what is still open.
    pub(super) code: CloseCode,
}

impl Broken {
    pub(super) fn by_peer(text: &str) -> Self {
        Self { cause: Cause::ClosedByPeer, text: text.to_owned(), problem: None, code: CloseCode::Done }
    }

    pub(super) fn silent(text: &str) -> Self {
        Self { cause: Cause::Silent, text: text.to_owned(), problem: None, code: CloseCode::Silent }
    }

    pub(super) fn gone(text: &str) -> Self {
        Self { cause: Cause::PeerGone, text: text.to_owned(), problem: None, code: CloseCode::Done }
    }

    pub(super) fn replaced(text: &str) -> Self {
        Self { cause: Cause::Replaced, text: text.to_owned(), problem: None, code: CloseCode::Replaced }
    }

    pub(super) fn closed(text: &str) -> Self {
        Self { cause: Cause::Closed, text: text.to_owned(), problem: None, code: CloseCode::Closed }
    }

    pub(super) fn protocol(text: String) -> Self {
        let problem = Some(ProblemCode::Protocol);
        Self { cause: Cause::Protocol, text, problem, code: CloseCode::Protocol }
    }

    pub(super) fn refused(problem: ProblemCode, code: CloseCode, text: String) -> Self {
        Self { cause: Cause::Protocol, text, problem: Some(problem), code }
    }

    pub(super) fn ending(&self) -> Ending {
        Ending { cause: self.cause, text: self.text.clone() }
    }
}

/// A TLS alert, as QUIC numbers it (RFC 9001 section 4.8).
fn is_alert(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

impl From<ConnectionError> for Broken {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) if is_alert(error.code) => Self::refused(
                ProblemCode::Identity,
                CloseCode::Done,
                format!("its certificate is refused: {}", error.reason),
            ),
            ConnectionError::ConnectionClosed(close) if is_alert(close.error_code) => Self {
                cause: Cause::ClosedByPeer,
                text: "it does not accept this node's key: its configuration must name the fingerprint that \
                       `evenkeel init` prints here"
                    .to_owned(),
                problem: Some(ProblemCode::Identity),
                code: CloseCode::Done,
            },
            ConnectionError::ConnectionClosed(close) => {
                Self::by_peer(&harmless(close.to_string().as_bytes()))
            }
            ConnectionError::ApplicationClosed(close) => {
                let code = CloseCode::from_number(close.error_code);
                Self {
                    cause: if code == Some(CloseCode::Replaced) {
                        Cause::Replaced
                    } else {
                        Cause::ClosedByPeer
                    },
                    text: format!("it says: {}", harmless(&close.reason)),
                    problem: code.and_then(CloseCode::problem),
                    code: CloseCode::Done,
                }
            }
            ConnectionError::Reset => Self::gone("its process was started again"),
            ConnectionError::TimedOut => Self::silent("nothing came from it for the idle time"),
            ConnectionError::LocallyClosed => Self::closed("closed here"),
            ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::CidsExhausted => Self::protocol(format!("QUIC: {error}")),
        }
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::Reset(_) => Self::by_peer("it gave up the stream"),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                Self::closed("the stream is closed")
            }
        }
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(_) => Self::by_peer("it does not read the stream any more"),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::closed("the stream is closed"),
        }
    }
}

impl From<StoppedError> for Broken {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => error.into(),
            StoppedError::ZeroRttRejected => Self::closed("the stream is closed"),
        }
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        if let FrameError::Version { .. } = error {
            return Self::refused(ProblemCode::Version, CloseCode::Version, error.to_string());
        }
        Self::protocol(error.to_string())
    }
}

impl From<MessageError> for Broken {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Version { .. } => {
                Self::refused(ProblemCode::Version, CloseCode::Version, error.to_string())
            }
            MessageError::Magic(_)
            | MessageError::Kind(_)
            | MessageError::Length { .. }
            | MessageError::Field { .. } => Self::protocol(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_number_of_its_own() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(VarInt::from_u32(code.number())), Some(code));
        }
        assert_eq!(CloseCode::from_number(VarInt::from_u32(6)), None);
    }

    #[test]
    fn what_a_peer_says_cannot_move_the_cursor_and_is_bounded() {
        assert_eq!(harmless(b"go away\x1b[2J\n"), "go away [2J ");
        assert!(harmless(&[b'x'; 10_000]).len() <= TEXT_BYTES_MAX);
        assert_eq!(harmless(b"\xff"), "\u{fffd}");
    }
}
