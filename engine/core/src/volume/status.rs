//! A snapshot of a volume, for the operator and for the simulator's oracle.

use super::{DiskState, Replication, Role};
use crate::ids::{Generation, NodeId, PeerIndex, Sequence, Term};

/// What a volume is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
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
    /// Why I/O is held, if it is.
    pub suspended: Option<Suspended>,
    /// The last write issued (primary) or applied in order (secondary).
    pub sequence: Sequence,
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

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its place.
    pub index: PeerIndex,
    /// Whether a link is up and its handshake begun.
    pub connected: bool,
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
}
