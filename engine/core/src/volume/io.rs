//! Everything that goes into a volume and comes out of it.
//!
//! [`Event`]s go in, one at a time; [`Action`]s come out, in an order that the driver must keep per target: disk
//! actions are begun in order (they may end in any order), frames of one [`Channel`] arrive in order or not at
//! all. Nothing else is assumed of disks, links or clocks.

use bytes::Bytes;

use super::{
    operator::{OperatorAnswer, OperatorCommand},
    span::ByteSpan,
    wire::Frame,
};
use crate::{
    ids::{PeerIndex, Timestamp},
    meta::superblock_pair::OpenError,
};

/// Names an NBD connection (or whatever else brings requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Names a request among those of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names a disk action until it is done; never used twice in the life of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskTag(pub u64);

/// Names an operator's command until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// Names one connection to a peer, from link up to link down; chosen by the driver, never used twice in the
/// life of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What a client asks for. Offsets and lengths are multiples of [`SECTOR_BYTES`](super::SECTOR_BYTES) and lie
/// on the device; anything else is answered with [`RequestError::Invalid`].
#[derive(Clone, Debug)]
pub enum ClientOperation {
    /// Read; answered with [`RequestOutcome::Data`].
    Read(ByteSpan),
    /// Write.
    Write {
        /// First byte on the device.
        offset: u64,
        /// The data; shared from here on, never changed.
        payload: Bytes,
        /// Answer only when stable (here and on every peer that counts).
        fua: bool,
    },
    /// Discard or zero: reads as zeroes afterwards, on every node (design R7).
    Zero {
        /// Where.
        span: ByteSpan,
        /// How.
        mode: ZeroMode,
        /// Answer only when stable.
        fua: bool,
    },
    /// Answer when everything answered before is stable.
    Flush,
}

/// How zeroes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// Give the space back.
    Punch,
    /// Keep the space allocated.
    Allocate,
}

/// How a request ends well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Done.
    Done,
    /// The data that was read.
    Data(Bytes),
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Range, alignment or the like.
    Invalid,
    /// No good copy could be read or written.
    Io,
    /// This node is not primary, or ceases to be.
    Shutdown,
}

/// Which part of a node's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// The replica: a plain raw image (design D1).
    Data,
    /// The metadata file or device.
    Meta,
}

/// How a disk action failed. Any failure of a write, a flush or a commit is final for the disk (design W4); a failed
/// read is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The disk says so.
    Io,
    /// No room.
    NoSpace,
}

/// The channels to a peer. Frames within one arrive in order; between two nothing is promised (design section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Handshake, state, pings.
    Control,
    /// Writes one way, their acknowledgements the other.
    Data,
    /// Resync and verify.
    Resync,
}

/// Everything that can happen to a volume.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks for something.
    Request {
        /// Who.
        client: ClientId,
        /// Echoed in the answer.
        id: RequestId,
        /// What.
        operation: ClientOperation,
    },
    /// A client is gone; what it asked and has not begun is dropped (design W1).
    ClientGone(ClientId),
    /// A read of data or metadata ended.
    ReadDone {
        /// That of the action.
        tag: DiskTag,
        /// Exactly the bytes asked for, or the failure.
        result: Result<Bytes, DiskError>,
    },
    /// A write, zeroing, flush or commit ended.
    DiskDone {
        /// That of the action.
        tag: DiskTag,
        /// Whether it worked.
        result: Result<(), DiskError>,
    },
    /// An authenticated connection to a peer is there; a later one replaces an earlier one at once.
    LinkUp {
        /// To whom.
        peer: PeerIndex,
        /// Its name.
        link: LinkId,
    },
    /// A frame came in.
    Frame {
        /// From whom.
        peer: PeerIndex,
        /// On which connection; one that is not the peer's newest is ignored.
        link: LinkId,
        /// On which channel.
        channel: Channel,
        /// The frame, its checksum verified by the parser.
        frame: Frame,
    },
    /// A connection is gone.
    LinkDown {
        /// To whom.
        peer: PeerIndex,
        /// Which.
        link: LinkId,
    },
    /// The time set by [`Action::WakeAt`] has come.
    Wake,
    /// An operator wants something.
    Command {
        /// Echoed in the answer.
        id: CommandId,
        /// What.
        command: OperatorCommand,
    },
}

/// Everything that a volume can want.
#[derive(Clone, Debug)]
pub enum Action {
    /// Read bytes; answered by [`Event::ReadDone`].
    Read {
        /// For the answer.
        tag: DiskTag,
        /// From where.
        area: Area,
        /// What.
        span: ByteSpan,
    },
    /// Write data; answered by [`Event::DiskDone`] when the disk has it (in its cache, or stable if `fua`).
    Write {
        /// For the answer.
        tag: DiskTag,
        /// First byte.
        offset: u64,
        /// The data.
        payload: Bytes,
        /// Stable before the answer.
        fua: bool,
    },
    /// Make data read as zeroes; answered as [`Action::Write`].
    Zero {
        /// For the answer.
        tag: DiskTag,
        /// Where.
        span: ByteSpan,
        /// How.
        mode: ZeroMode,
        /// Stable before the answer.
        fua: bool,
    },
    /// Make room for a larger volume; answered by [`Event::DiskDone`]. Nothing of the volume lies there yet, so that
    /// there is no room ([`DiskError::NoSpace`]) is no failure of the disk; everything else is.
    Extend {
        /// For the answer.
        tag: DiskTag,
        /// These bytes of the data exist and read as zeroes, on stable media.
        data: ByteSpan,
        /// These bytes of the metadata can be written without asking for room again. Nothing lies there yet.
        meta: ByteSpan,
    },
    /// Make every data write that was answered before this action stable; answered by [`Event::DiskDone`].
    Flush {
        /// For the answer.
        tag: DiskTag,
    },
    /// Write these pieces of metadata and make them stable; answered once, by [`Event::DiskDone`]. Until then
    /// any part of them may be there. At most one is under way at a time.
    Commit {
        /// For the answer.
        tag: DiskTag,
        /// Offset and bytes of each piece.
        pieces: Vec<(u64, Bytes)>,
    },
    /// Send a frame.
    Send {
        /// To whom.
        peer: PeerIndex,
        /// On which connection.
        link: LinkId,
        /// On which channel.
        channel: Channel,
        /// What.
        frame: Frame,
    },
    /// Close a connection; [`Event::LinkDown`] is not needed for it any more.
    CloseLink {
        /// To whom.
        peer: PeerIndex,
        /// Which.
        link: LinkId,
        /// For the log.
        reason: &'static str,
    },
    /// Answer a client.
    Reply {
        /// Whom.
        client: ClientId,
        /// Which request.
        id: RequestId,
        /// How it ended.
        result: Result<RequestOutcome, RequestError>,
    },
    /// Send [`Event::Wake`] at this time; replaces the time set before.
    WakeAt(Timestamp),
    /// Answer an operator.
    Answer {
        /// Which command.
        id: CommandId,
        /// How it ended.
        answer: OperatorAnswer,
    },
    /// Something an operator should know.
    Notice(Notice),
}

/// What is worth a line in the log and an entry in the event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The role changed.
    Role(super::Role),
    /// The own disk state changed.
    Disk(super::DiskState),
    /// A peer came or went, or its replication changed.
    Peer(PeerIndex, super::Replication),
    /// The handshake with a peer came to this conclusion, in words.
    Verdict(PeerIndex, String),
    /// A resync from here ended; one that found nothing to copy is none.
    ResyncDone {
        /// With whom.
        peer: PeerIndex,
        /// Bytes compared or copied.
        compared_bytes: u64,
        /// Bytes whose data crossed the link.
        moved_bytes: u64,
    },
    /// A peer broke the protocol; the connection was closed.
    ProtocolError(PeerIndex, &'static str),
    /// A peer has seen a later state of this copy: an older one was put back (D6). It will be compared whole.
    SetBack {
        /// Who knows better.
        peer: PeerIndex,
    },
    /// The disk of a peer is not the one that belongs here; in words, with both values.
    Stranger(PeerIndex, String),
    /// A part of the metadata was torn or damaged; what it would have said is taken as the worst.
    MetadataDamaged(String),
    /// The metadata are older than this node remembers (D6); in words. Every block will be compared.
    Older(String),
    /// The disk could not be opened; the text says why and what helps. The volume does nothing any more.
    NotOpened(OpenError),
    /// The own disk failed.
    DiskFailed(Area, DiskError),
    /// The volume has grown to so many bytes.
    Grown(u64),
    /// The volume was to grow, and did not; in words.
    NotGrown(String),
    /// The own disk failed, and this primary goes on through the peer: the only copy is there (W7).
    ServedByPeer(PeerIndex),
    /// Bytes of the own disk cannot be read; what asked for them got them elsewhere, or failed.
    Unreadable(ByteSpan),
}
