//! What a node is at one moment: everything that `evenkeel status` shows (design section 8).

use evenkeel_core::{
    ids::GenerationId,
    volume::{
        DiskState, Replication, Role,
        config::Protocol,
        status::{IoCounters, Suspended},
    },
};

use super::problem::Problem;
use crate::disk::Backend;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// How disks are used.
    pub backend: Backend,
    /// All configured volumes, in the order of the configuration.
    pub volumes: Vec<VolumeStatus>,
}

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Own role.
    pub role: Role,
    /// Own disk.
    pub disk: DiskState,
    /// The newest generation here.
    pub generation: Option<GenerationId>,
    /// The number of the highest term seen.
    pub term: Option<u64>,
    /// Whether this node may be promoted without force while peers are absent (design P2).
    pub entitled: bool,
    /// When a write is answered.
    pub protocol: Protocol,
    /// Whether this node is about to take up again the role that its process died in: clients are held.
    pub resuming: bool,
    /// Why I/O is held, if it is.
    pub suspended: Option<Suspended>,
    /// What clients did in this run, and what is held now.
    pub io: IoCounters,
    /// The operator holds resyncs still.
    pub resync_paused: bool,
    /// The last resync that ended in this run, whichever its direction.
    pub last_resync: Option<LastResync>,
    /// NBD clients that are connected, in words.
    pub clients: Vec<String>,
    /// All configured peers, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A resync that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastResync {
    /// With whom.
    pub peer: String,
    /// Why it was needed: the sentence of the verdict.
    pub reason: String,
    /// Bytes compared or copied.
    pub compared_bytes: u64,
    /// Bytes whose data crossed the link.
    pub moved_bytes: u64,
    /// When it ended, in seconds since 1970.
    pub finished_unix_seconds: u64,
}

/// How the connection to a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Up, and the peer has said hello.
    Connected,
    /// Not up; it is tried again and again.
    Connecting,
    /// Closed by the operator.
    Disconnected,
    /// Not possible: wrong identity, version, or unrelated data.
    Refused,
}

/// A peer, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// How the connection stands.
    pub connection: Connection,
    /// Its role, if it is connected.
    pub role: Option<Role>,
    /// Its disk, if it is connected.
    pub disk: Option<DiskState>,
    /// What happens between the two.
    pub replication: Replication,
    /// Bytes that it is known to lack; `None` without metadata.
    pub dirty_bytes: Option<u64>,
    /// Bytes written here and not yet acknowledged by it.
    pub lag_bytes: u64,
    /// The resync under way, if there is one.
    pub resync: Option<ResyncStatus>,
    /// The last conclusion of a handshake with it, in words.
    pub verdict: Option<String>,
    /// What each side has that the other lacks, while the copies have parted.
    pub parted: Option<PartedStatus>,
}

/// Two copies that have parted (design G6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartedStatus {
    /// The newest generation that both have had, if there is one.
    pub common: Option<GenerationId>,
    /// This node's side.
    pub mine: BranchStatus,
    /// The peer's, as it was when they met.
    pub theirs: BranchStatus,
}

/// One side of a split brain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchStatus {
    /// The newest generation.
    pub generation: Option<GenerationId>,
    /// The number of the term of that generation.
    pub term: Option<u64>,
    /// Whether it is primary.
    pub primary: bool,
    /// When it was last known to be primary, in seconds since 1970.
    pub last_primary_unix_seconds: Option<u64>,
    /// Bytes that it has changed since the other was in sync, if it can say.
    pub dirty_bytes: Option<u64>,
    /// The same in bitmap blocks.
    pub dirty_blocks: Option<u64>,
}

/// A resync under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes to be done altogether.
    pub total_bytes: u64,
    /// Bytes whose data crossed the link.
    pub moved_bytes: u64,
    /// Bytes done per second, lately.
    pub bytes_per_second: u64,
    /// Seconds to its end at that rate, if it moves.
    pub eta_seconds: Option<u64>,
}
