//! One volume on one node: the single owner of its state.
//!
//! [`Volume::handle`] takes one [`Event`](io::Event) and changes state at once; what it wants done comes out as
//! [`Action`](io::Action)s. There is no other way in and none out.

mod attach;
mod clients;
pub mod codec;
mod commands;
mod company;
pub mod config;
mod courtesy;
mod create;
mod demotion;
mod dirty_map;
mod disk_failure;
mod diskless;
mod entropy;
mod flush;
mod follow;
mod foretell;
mod gap;
mod generations;
mod growth;
mod handshake;
mod host;
mod invalidation;
pub mod io;
mod lead;
mod liveness;
mod operation;
mod operations;
pub mod operator;
mod pace;
mod parted;
mod peer;
mod progress;
mod promotion;
mod pull;
mod range_lock;
mod remote_read;
mod set_back;
mod slab;
pub mod span;
mod start;
pub mod status;
mod store;
mod stranger;
mod supply;
mod survivors;
mod verify;
#[expect(clippy::module_inception, reason = "the volume itself, beside its parts")]
mod volume;
pub mod wire;
mod write_log;

pub use attach::{FileFacts, Remembered};
pub use create::{CreateSpec, Origin, create};
pub use dirty_map::DirtyExtent;
pub use stranger::Stranger;
pub use volume::Volume;

/// Offsets and lengths of client requests are multiples of this.
pub const SECTOR_BYTES: u64 = 512;

/// The role of a node for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves clients.
    Primary,
    /// Keeps a copy.
    Secondary,
}

/// What the own copy is worth (design section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskState {
    /// No disk, or not opened.
    Diskless,
    /// The disk failed in this run.
    Failed,
    /// A mixture: a resync into it has begun and not ended.
    Inconsistent,
    /// Good once, known to be old.
    Outdated,
    /// Good, but perhaps not the newest.
    Consistent,
    /// The newest.
    UpToDate,
}

/// What happens between this node and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replication {
    /// No connection, or the handshake is not over.
    Off,
    /// Connected and in sync.
    Established,
    /// The peer copies from here.
    SyncSource,
    /// This node copies from the peer.
    SyncTarget,
    /// In sync, and being compared.
    Verify,
    /// Both have written since they parted; nothing moves.
    SplitBrain,
}
