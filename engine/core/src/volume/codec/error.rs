//! Why bytes are not a frame. Each names the kind, the place and the values.

use super::{
    header::{HEADER_BYTES, MAGIC},
    kind::Kind,
    limits::FIELDS_BYTES_MAX,
};
use crate::{generation::history::HistoryError, volume::wire::PROTOCOL_VERSION};

/// Why a frame from a peer was refused. The connection on which it came cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the beginning of a frame.
    #[error(
        "a frame begins with {found:#06x} instead of {MAGIC:#06x}: the peer is not Evenkeel, or bytes were lost"
    )]
    Magic {
        /// What is there.
        found: u16,
    },
    /// The peer speaks no version that this node speaks. Nothing else in its hello was looked at.
    #[error(
        "the peer speaks versions {theirs_min} to {theirs_max} of the protocol, this node only {PROTOCOL_VERSION}: update the older of the two"
    )]
    Version {
        /// The oldest version of the peer.
        theirs_min: u16,
        /// Its newest.
        theirs_max: u16,
    },
    /// A range of versions that is none.
    #[error("a hello of versions {min} to {max}, which is no range")]
    VersionRange {
        /// The oldest.
        min: u16,
        /// The newest.
        max: u16,
    },
    /// No frame of this version has this number.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A flag that frames of this kind do not have.
    #[error("{kind}: flags {found:#04x}, of which only {known:#04x} are known")]
    Flags {
        /// Of the frame.
        kind: Kind,
        /// Its flags.
        found: u8,
        /// Those that exist.
        known: u8,
    },
    /// The fields cannot have this length.
    #[error(
        "{kind}: {found} bytes of fields; {fixed} and {element} for each of at most {elements_max} elements are allowed"
    )]
    FieldsLength {
        /// Of the frame.
        kind: Kind,
        /// As the header says.
        found: u32,
        /// Bytes that are always there.
        fixed: usize,
        /// Bytes of an element.
        element: usize,
        /// How many elements there may be.
        elements_max: usize,
    },
    /// A hello too short to say its version, or too long for any version.
    #[error("Hello: {found} bytes of fields; a hello of any version has 4 to {FIELDS_BYTES_MAX}")]
    HelloLength {
        /// As the header says.
        found: u32,
    },
    /// The payload cannot have this length.
    #[error("{kind}: {found} bytes of payload; {min} to {max} are allowed")]
    PayloadLength {
        /// Of the frame.
        kind: Kind,
        /// As the header says.
        found: u32,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Header or fields were changed on the way.
    #[error("{kind}: the checksum of header and fields is {found:#010x}, the frame says {expected:#010x}")]
    HeadChecksum {
        /// As the header says.
        kind: Kind,
        /// Of the bytes that arrived.
        found: u32,
        /// In the frame.
        expected: u32,
    },
    /// The payload was changed, on the way or in the sender's memory since it came in.
    #[error("{kind}: the checksum of the payload is {found:#010x}, the frame says {expected:#010x}")]
    PayloadChecksum {
        /// Of the frame.
        kind: Kind,
        /// Of the bytes that arrived.
        found: u32,
        /// In the frame.
        expected: u32,
    },
    /// A frame of another session: replayed, or sent to the wrong connection.
    #[error("{kind}: session {found:#010x}; this one is {expected:#010x}")]
    Session {
        /// Of the frame.
        kind: Kind,
        /// In the frame.
        found: u32,
        /// That of the link; 0 for a hello.
        expected: u32,
    },
    /// Bytes without a meaning that are not zero.
    #[error("{kind}: {place} must be zero")]
    Unused {
        /// Of the frame.
        kind: Kind,
        /// Which.
        place: &'static str,
    },
    /// A value that the field cannot have.
    #[error("{kind}: {field} is {found}, which it cannot be")]
    Value {
        /// Of the frame.
        kind: Kind,
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// An id that must name something is zero.
    #[error("{kind}: {field} is zero, which names nothing")]
    ZeroId {
        /// Of the frame.
        kind: Kind,
        /// Which.
        field: &'static str,
    },
    /// A range of bytes that no device has.
    #[error("{kind}: {len} bytes from byte {offset} are no range of a device")]
    Span {
        /// Of the frame.
        kind: Kind,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Generations that make no history.
    #[error("{kind}: {error}")]
    History {
        /// Of the frame.
        kind: Kind,
        /// Why.
        error: HistoryError,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame, after {have} bytes (a header has {HEADER_BYTES})")]
    Truncated {
        /// How many bytes of the frame are there.
        have: usize,
    },
}
