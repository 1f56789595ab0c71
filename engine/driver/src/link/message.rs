//! What nodes say on a stream before frames, or instead of them (`docs/links.md` has the bytes).
//!
//! Everything is read as if a stranger had sent it: at most [`BODY_BYTES_MAX`] are taken, names are checked, and
//! what is left over is an error. Magic, kind, length and the two versions of a greeting are the same for all
//! time, so that every node understands of every other whether they can talk.

use bytes::{Buf, BufMut};
use evenkeel_core::volume::{io::Channel, wire::PROTOCOL_VERSION};
use quinn::RecvStream;
use thiserror::Error;

use super::closing::Broken;

const MAGIC: u16 = u16::from_le_bytes(*b"EL");
const HEADER_BYTES: usize = 8;

/// No name of a cluster, node or volume, and no reason, is longer.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// A peer lists no more volumes.
pub(super) const VOLUMES_MAX: usize = 1024;

/// No message has a longer body: that of a full list.
const BODY_BYTES_MAX: usize = VOLUMES_MAX * (2 * NAME_BYTES_MAX + 3);

/// Names one link among those of a control connection; the caller counts.
pub(super) type LinkNumber = u64;

/// Shows that a connection belongs to a link: derived from the TLS session of the control connection.
pub(super) type Ticket = [u8; 16];

/// Who speaks, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The oldest version of the protocol that the sender speaks.
    pub(super) version_min: u16,
    /// The newest.
    pub(super) version_max: u16,
    /// The sender's process: another number is another run.
    pub(super) run: u64,
    pub(super) cluster: String,
    pub(super) node: String,
    /// The name under which the sender knows the receiver.
    pub(super) to: String,
}

/// Whether a node wants a volume's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Wanted,
    /// Not now, for this reason.
    HeldBack(String),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// First on the control connection, both ways.
    Greeting(Greeting),
    /// Instead of it: "I am here, call me", from the side that does not call.
    Knock(Greeting),
    /// All volumes that the sender shares with the receiver; replaces what was said before.
    Volumes(Vec<(String, Wish)>),
    /// First on a stream of the control connection: the control channel of a link.
    Link { number: LinkNumber, volume: String },
    /// First on the other two connections of a link.
    Join { channel: Channel, ticket: Ticket },
    /// The receiver of `Link` expects the other two.
    Expecting,
    /// All three are there.
    Up,
    /// Means nothing; is there to be acknowledged.
    Beat,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum MessageError {
    #[error("a message begins with {0:#06x}: the peer is not Evenkeel")]
    Magic(u16),
    #[error("a message of unknown kind {0}")]
    Kind(u8),
    #[error("message {kind}: {found} bytes are too many or too few")]
    Length { kind: u8, found: usize },
    #[error("message {kind}: {field} is wrong")]
    Field { kind: u8, field: &'static str },
    #[error(
        "the peer speaks versions {min} to {max} of the protocol, this node only {PROTOCOL_VERSION}: update the older of the two"
    )]
    Version { min: u16, max: u16 },
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Greeting(_) => 1,
            Self::Knock(_) => 2,
            Self::Volumes(_) => 3,
            Self::Link { .. } => 4,
            Self::Join { .. } => 5,
            Self::Expecting => 6,
            Self::Up => 7,
            Self::Beat => 8,
        }
    }

    /// The message as bytes.
    ///
    /// # Panics
    /// If a name or a list is longer than allowed: they are checked where they come in.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        match self {
            Self::Greeting(greeting) | Self::Knock(greeting) => {
                out.put_u16_le(greeting.version_min);
                out.put_u16_le(greeting.version_max);
                out.put_u32_le(0);
                out.put_u64_le(greeting.run);
                [&greeting.cluster, &greeting.node, &greeting.to]
                    .into_iter()
                    .for_each(|text| put_text(&mut out, text));
            }
            Self::Volumes(volumes) => {
                assert!(volumes.len() <= VOLUMES_MAX, "{} volumes", volumes.len());
                for (name, wish) in volumes {
                    put_text(&mut out, name);
                    match wish {
                        Wish::Wanted => out.put_u8(1),
                        Wish::HeldBack(reason) => {
                            out.put_u8(2);
                            put_text(&mut out, reason);
                        }
                    }
                }
            }
            Self::Link { number, volume } => {
                out.put_u64_le(*number);
                put_text(&mut out, volume);
            }
            Self::Join { channel, ticket } => {
                out.put_u8(match channel {
                    Channel::Control => panic!("the control channel joins by `Link`"),
                    Channel::Data => 1,
                    Channel::Resync => 2,
                });
                out.put_slice(ticket);
            }
            Self::Expecting | Self::Up | Self::Beat => {}
        }
        let body = u32::try_from(out.len() - HEADER_BYTES).expect("bounded by names and lists");
        let mut header = &mut out[..HEADER_BYTES];
        header.put_u16_le(MAGIC);
        header.put_u8(self.kind());
        header.put_u8(0);
        header.put_u32_le(body);
        out
    }

    /// The message at the beginning of `bytes` and its length, or nothing as long as it is not all there.
    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, MessageError> {
        let Some((mut header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let (magic, kind, zero, len) =
            (header.get_u16_le(), header.get_u8(), header.get_u8(), header.get_u32_le() as usize);
        if magic != MAGIC {
            return Err(MessageError::Magic(magic));
        }
        if !(1..=8).contains(&kind) {
            return Err(MessageError::Kind(kind));
        }
        if zero != 0 {
            return Err(MessageError::Field { kind, field: "the byte that must be zero" });
        }
        if len > BODY_BYTES_MAX {
            return Err(MessageError::Length { kind, found: len });
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        Ok(Some((Self::decode_body(kind, body)?, HEADER_BYTES + len)))
    }

    fn decode_body(kind: u8, body: &[u8]) -> Result<Self, MessageError> {
        let mut body = Body { kind, rest: body, len: body.len() };
        let message = match kind {
            1 => Self::Greeting(body.greeting()?),
            2 => Self::Knock(body.greeting()?),
            3 => {
                let mut volumes = Vec::new();
                while !body.rest.is_empty() {
                    let name = body.text("the name of a volume")?;
                    let wish = match body.take(1)?[0] {
                        1 => Wish::Wanted,
                        2 => Wish::HeldBack(body.text("a reason")?),
                        _ => return Err(body.wrong("the wish for a volume")),
                    };
                    volumes.push((name, wish));
                    if volumes.len() > VOLUMES_MAX {
                        return Err(body.wrong("the number of volumes"));
                    }
                }
                Self::Volumes(volumes)
            }
            4 => {
                Self::Link { number: body.take(8)?.get_u64_le(), volume: body.text("the name of a volume")? }
            }
            5 => {
                let channel = match body.take(1)?[0] {
                    1 => Channel::Data,
                    2 => Channel::Resync,
                    _ => return Err(body.wrong("the channel")),
                };
                Self::Join { channel, ticket: body.take(16)?.try_into().expect("16 bytes") }
            }
            6 => Self::Expecting,
            7 => Self::Up,
            8 => Self::Beat,
            kind => return Err(MessageError::Kind(kind)),
        };
        // A newer node may say more in its greeting than this one knows.
        let newer = matches!(&message, Self::Greeting(greeting) | Self::Knock(greeting)
            if greeting.version_max > PROTOCOL_VERSION);
        if body.rest.is_empty() || newer { Ok(message) } else { Err(body.length()) }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= NAME_BYTES_MAX, "a name of {} bytes", text.len());
    out.put_u8(u8::try_from(text.len()).expect("just asserted"));
    out.put_slice(text.as_bytes());
}

/// What is left of a body.
struct Body<'a> {
    kind: u8,
    rest: &'a [u8],
    len: usize,
}

impl<'a> Body<'a> {
    fn wrong(&self, field: &'static str) -> MessageError {
        MessageError::Field { kind: self.kind, field }
    }

    fn length(&self) -> MessageError {
        MessageError::Length { kind: self.kind, found: self.len }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], MessageError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.length())?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, field: &'static str) -> Result<String, MessageError> {
        let len = usize::from(self.take(1)?[0]);
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong(field))?;
        if text.chars().any(char::is_control) {
            return Err(self.wrong(field));
        }
        Ok(text.to_owned())
    }

    fn greeting(&mut self) -> Result<Greeting, MessageError> {
        let (version_min, version_max) = (self.take(2)?.get_u16_le(), self.take(2)?.get_u16_le());
        if version_min == 0 || version_min > version_max {
            return Err(self.wrong("the range of versions"));
        }
        if !(version_min..=version_max).contains(&PROTOCOL_VERSION) {
            // Nothing else in it is looked at: it may have another form.
            return Err(MessageError::Version { min: version_min, max: version_max });
        }
        self.take(4)?;
        Ok(Greeting {
            version_min,
            version_max,
            run: self.take(8)?.get_u64_le(),
            cluster: self.text("the cluster")?,
            node: self.text("the sender's name")?,
            to: self.text("the receiver's name")?,
        })
    }
}

/// Reads messages from a stream, and not one byte behind the last of them.
#[derive(Debug)]
pub(super) struct Messages {
    stream: RecvStream,
    gathered: Vec<u8>,
}

impl Messages {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, gathered: Vec::new() }
    }

    /// The next message. May be dropped and called again without losing any.
    pub(super) async fn next(&mut self) -> Result<Message, Broken> {
        loop {
            if let Some((message, len)) = Message::decode(&self.gathered)? {
                assert_eq!(len, self.gathered.len(), "no more is read than a message needs");
                self.gathered.clear();
                return Ok(message);
            }
            let missing = match self.gathered.get(4..HEADER_BYTES) {
                Some(len) => {
                    let body = u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
                    HEADER_BYTES + body - self.gathered.len()
                }
                None => HEADER_BYTES - self.gathered.len(),
            };
            match self.stream.read_chunk(missing, true).await {
                Ok(Some(chunk)) => self.gathered.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(Broken::by_peer("it ended the stream")),
                Err(error) => return Err(Broken::from(error)),
            }
        }
    }

    /// The stream, behind the last message.
    ///
    /// # Panics
    /// In the middle of a message.
    pub(super) fn into_stream(self) -> RecvStream {
        assert!(self.gathered.is_empty(), "a message has begun");
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            version_min: 1,
            version_max: PROTOCOL_VERSION,
            run: 7,
            cluster: "demo".into(),
            node: "alpha".into(),
            to: "beta".into(),
        }
    }

    fn all() -> Vec<Message> {
        vec![
            Message::Greeting(greeting()),
            Message::Knock(Greeting { node: "x".repeat(NAME_BYTES_MAX), ..greeting() }),
            Message::Volumes(vec![]),
            Message::Volumes(vec![
                ("r0".into(), Wish::Wanted),
                ("r1".into(), Wish::HeldBack("by hand".into())),
            ]),
            Message::Link { number: u64::MAX, volume: "r0".into() },
            Message::Join { channel: Channel::Data, ticket: [3; 16] },
            Message::Join { channel: Channel::Resync, ticket: [4; 16] },
            Message::Expecting,
            Message::Up,
            Message::Beat,
        ]
    }

    #[test]
    fn bytes_and_back_and_never_early() {
        for message in all() {
            let mut bytes = message.encode();
            let len = bytes.len();
            for cut in 0..len {
                assert_eq!(Message::decode(&bytes[..cut]), Ok(None), "{message:?} cut at {cut}");
            }
            bytes.extend_from_slice(b"frames");
            assert_eq!(Message::decode(&bytes), Ok(Some((message, len))));
        }
    }

    #[test]
    fn another_version_is_told_by_the_range_alone() {
        let mut bytes = Message::Greeting(greeting()).encode();
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&[9, 0, 12, 0]);
        bytes[HEADER_BYTES + 4..].fill(0xff);
        assert_eq!(Message::decode(&bytes), Err(MessageError::Version { min: 9, max: 12 }));
        let newer = Greeting { version_max: PROTOCOL_VERSION + 1, ..greeting() };
        let mut bytes = Message::Greeting(newer.clone()).encode();
        bytes.extend_from_slice(b"new field");
        let len = bytes.len() - HEADER_BYTES;
        bytes[4..8].copy_from_slice(&u32::try_from(len).expect("small").to_le_bytes());
        assert_eq!(Message::decode(&bytes), Ok(Some((Message::Greeting(newer), bytes.len()))));
    }

    #[test]
    fn what_is_no_message_is_refused_before_its_body() {
        assert_eq!(Message::decode(b"GET / HT"), Err(MessageError::Magic(0x4547)));
        assert_eq!(Message::decode(b"EL\x09\0\0\0\0\0"), Err(MessageError::Kind(9)));
        assert_eq!(
            Message::decode(b"EL\x01\0\xff\xff\xff\xff"),
            Err(MessageError::Length { kind: 1, found: 0xffff_ffff })
        );
        assert_eq!(Message::decode(b"EL\x08\0\x01\0\0\0x"), Err(MessageError::Length { kind: 8, found: 1 }));
        let hostile = Message::Link { number: 1, volume: "r0\x1b[2J".into() }.encode();
        assert!(matches!(Message::decode(&hostile), Err(MessageError::Field { kind: 4, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0_u8..12, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Message::Up.encode();
            bytes[2] = kind;
            bytes[4] = u8::try_from(body.len()).expect("small");
            bytes.extend_from_slice(&body);
            if let Ok(Some((message, len))) = Message::decode(&bytes) {
                prop_assert_eq!(len, bytes.len());
                prop_assert!(matches!(message, Message::Greeting(_) | Message::Knock(_)) || message.encode() == bytes);
            }
        }
    }
}
