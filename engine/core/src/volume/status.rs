//! A snapshot of a volume, for the operator and for the simulator's oracle.

use super::{DiskState, Replication, Role, Stranger};
use crate::{
    generation::verdict::Verdict,
    ids::{Generation, NodeId, PeerIndex, Term, Timestamp},
};

/// What a volume is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The size that is in force, in bytes; zero while the metadata are not open.
    pub size_bytes: u64,
    /// Own id, once the metadata is read.
    pub node: Option<NodeId>,
    /// Own role.
    pub role: Role,
    /// Own disk.
    pub disk: DiskState,
    /// The newest generation here.
    pub head: Option<Generation>,
    /// The highest term seen.
    pub term: Option<Term>,
    /// Whether this node may be promoted without force while peers are absent (P2).
    pub entitled: bool,
    /// Whether this node is about to take up again the role of primary that its process died in (P7): clients are
    /// held.
    pub resuming: bool,
    /// Why I/O is held, if it is.
    pub suspended: Option<Suspended>,
    /// What clients have done in this run.
    pub io: IoCounters,
    /// The operator holds resyncs still.
    pub resync_paused: bool,
    /// The last resync that ended in this run, as source or as target.
    pub last_resync: Option<LastResync>,
    /// One entry per configured peer.
    pub peers: Vec<PeerStatus>,
}

/// Why a primary holds I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspended {
    /// A new generation is on its way to stable media.
    NewGeneration,
    /// A peer was lost and the policy says so.
    PeerLost,
    /// A peer has a higher term, or the histories parted.
    Deposed,
    /// The own disk failed and no peer serves.
    NoData,
}

/// Requests of clients that ended well in this run, and those that are held now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Reads.
    pub reads: u64,
    /// Writes and zeroings.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written; a zeroing counts as one sector.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that are held now: the volume is suspended, or about to take up its role again.
    pub held: u64,
}

/// A resync under way (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncProgress {
    /// Which rules decided it; [`Verdict::explain`] says it in words.
    pub why: Verdict,
    /// Bytes that are stable on the target.
    pub done_bytes: u64,
    /// Bytes that were to be compared; the source learns of the target's part of them only as they are asked for.
    pub total_bytes: u64,
    /// Bytes whose data had to cross the link.
    pub moved_bytes: u64,
    /// Bytes per second that became stable on the target in the last seconds.
    pub rate: u64,
    /// Seconds until the end at this rate; `None` while it stands still.
    pub eta_seconds: Option<u64>,
}

/// A resync that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastResync {
    /// With whom.
    pub peer: PeerIndex,
    /// Which rules decided it; [`Verdict::explain`] says it in words.
    pub why: Verdict,
    /// Bytes compared or copied.
    pub compared_bytes: u64,
    /// Bytes whose data had to cross the link.
    pub moved_bytes: u64,
    /// When it ended.
    pub finished: Timestamp,
}

/// Two copies that have parted, as the two reports of the handshake say (G6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parted {
    /// The newest generation that both have had; `None` if they have nothing in common.
    pub common: Option<Generation>,
    /// This node's.
    pub mine: Branch,
    /// The peer's, as it said when they met.
    pub theirs: Branch,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The newest generation, and with it who wrote it as primary.
    pub head: Option<Generation>,
    /// The term of that generation. (The highest term seen is the other's, once they have met.)
    pub term: Option<Term>,
    /// Whether that node is primary.
    pub primary: bool,
    /// Bytes that it has marked as changed since the other was in sync; `None` if it cannot say.
    pub dirty_bytes: Option<u64>,
    /// The same in bitmap blocks.
    pub dirty_blocks: Option<u64>,
}

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its place.
    pub index: PeerIndex,
    /// Whether a link is up and its handshake begun.
    pub connected: bool,
    /// False after `disconnect`: links are closed as they come.
    pub allowed: bool,
    /// The conclusion of the handshake, if it lets nothing move.
    pub apart: Option<Verdict>,
    /// Why the disk of the peer does not belong here, if so.
    pub stranger: Option<Stranger>,
    /// What each of the two has that the other lacks, while the copies have parted.
    pub parted: Option<Parted>,
    /// What happens on the link.
    pub replication: Replication,
    /// Its role, if it said so on this link.
    pub role: Option<Role>,
    /// Its disk, if it said so on this link.
    pub disk: Option<DiskState>,
    /// Bytes that it is known to lack.
    pub dirty_bytes: u64,
    /// Bytes written here and not yet acknowledged by it.
    pub lag_bytes: u64,
    /// The resync with it, if one is under way.
    pub resync: Option<ResyncProgress>,
}
