//! Everything that touches data on the own disk, in one slab and under one range lock, whoever wants it: a
//! client, the primary whose writes are followed, or a resync.

use bytes::Bytes;

use super::{
    io::{ClientId, DiskTag, LinkId, RequestId, ZeroMode},
    range_lock::LockId,
    slab::Key,
    span::ByteSpan,
    verify::CheckId,
    wire::BlockContent,
};
use crate::ids::{GenerationId, PeerIndex, Sequence, Timestamp};

/// What is to be on the disk afterwards.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// These bytes.
    Data(Bytes),
    /// Zeroes.
    Zero(ZeroMode),
}

/// One operation, from its entry into the range lock until it leaves.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) span: ByteSpan,
    pub(crate) lock: LockId,
    pub(crate) kind: Kind,
}

impl Operation {
    /// Whether it is a write that has to be stable when it is done.
    pub(crate) fn is_fua(&self) -> bool {
        match self.kind {
            Kind::ClientWrite { fua, .. } | Kind::Replica { fua, .. } => fua,
            Kind::ClientRead { .. }
            | Kind::SourceRead { .. }
            | Kind::Check { .. }
            | Kind::TargetStore { .. } => false,
        }
    }
}

/// Who wants the operation, and what.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A piece of a client's write.
    ClientWrite {
        /// The request that it is a piece of.
        request: Key,
        content: Content,
        fua: bool,
        /// Given when the write is issued.
        sequence: Option<Sequence>,
    },
    /// A client's read.
    ClientRead { client: ClientId, id: RequestId, since: Timestamp },
    /// A write of the primary that this node follows.
    Replica {
        peer: PeerIndex,
        link: LinkId,
        sequence: Sequence,
        content: Content,
        fua: bool,
        /// Of a write that this node applies as a host: its sequence in the own log, zero before it has one.
        hosted: Option<Sequence>,
    },
    /// The source's read for a resync.
    SourceRead { peer: PeerIndex, link: LinkId, pull: u64, read_at: Sequence, digests: Vec<u128> },
    /// The leader's side of a comparison.
    Check { id: CheckId },
    /// The target's write for a resync.
    TargetStore {
        peer: PeerIndex,
        link: LinkId,
        pull: u64,
        read_at: Sequence,
        blocks: Vec<BlockContent>,
        /// Writes of the blocks that are under way.
        writes_left: u32,
        /// The blocks that were stored as the source read them.
        kept: Vec<ByteSpan>,
    },
}

/// What a disk action was for, by its tag.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// The flush before anything is read.
    AttachFlush,
    /// A step of opening the metadata.
    Attach,
    /// A commit of metadata.
    Commit,
    /// The first flush after the metadata were read.
    FirstFlush,
    /// The flush before a promotion.
    PromotionFlush,
    /// A primary's flush before a new generation.
    GenerationFlush,
    /// The flush before an offered generation is taken.
    OfferFlush { peer: PeerIndex, link: LinkId, id: GenerationId },
    /// The last flush before a node leaves.
    ClosingFlush,
    /// A leader's flush before a session begins.
    LeadFlush { peer: PeerIndex, link: LinkId },
    /// A follower's flush before a session begins.
    StartFlush { peer: PeerIndex, link: LinkId },
    /// The data of an operation.
    Operation(Key),
    /// A flush that covers every write up to this one of the own log.
    OwnFlush(Sequence),
    /// A flush for the primary that this node follows.
    FollowerFlush { peer: PeerIndex, link: LinkId, upto: Sequence },
    /// The flush before a follower becomes the host.
    HostFlush { peer: PeerIndex, link: LinkId },
    /// The host's read for its primary.
    FetchRead { peer: PeerIndex, link: LinkId, fetch: u64 },
    /// The follower's read for a comparison.
    QuestionRead { peer: PeerIndex, link: LinkId, question: u64 },
    /// The target's read of what it has, to compare.
    TargetRead { peer: PeerIndex, link: LinkId, pull: u64 },
    /// One of the writes of a resync block run.
    TargetWrite { operation: Key },
    /// Room for a larger volume.
    Extend,
    /// The target's flush after which what it has stored is settled.
    TargetFlush { peer: PeerIndex, link: LinkId },
}

impl From<Key> for DiskTag {
    fn from(key: Key) -> Self {
        Self(key.as_u64())
    }
}

/// One request of a client that has been admitted.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: ClientId,
    pub(crate) id: RequestId,
    /// Pieces that are not answerable yet.
    pub(crate) pieces_left: u32,
    /// For the limit on bytes in flight.
    pub(crate) bytes: u64,
    /// Whether a piece failed.
    pub(crate) failed: bool,
    /// Whether the client has been told already (that it failed, because it was held too long).
    pub(crate) answered: bool,
    /// When it was admitted.
    pub(crate) since: Timestamp,
}
