//! What the simulator needs of an engine: the core's `Volume`, or the toy that proves the simulator.
//!
//! The seam is the same `Event`s in and `Action`s out that the production driver carries; an engine brings no
//! input or output of its own, so a run is a pure function of its seed.

use bytes::Bytes;
use evenkeel_core::{
    ids::{Term, Timestamp},
    volume::{
        config::{RunInfo, VolumeConfig},
        io::{Action, Event},
        status::Status,
    },
};

/// How a disk is made.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Size of the device in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// The settings of the volume on this node.
    pub config: VolumeConfig,
    /// This node's place among all nodes.
    pub node: usize,
    /// The node's id, which its state directory keeps; never zero.
    pub node_id: u64,
    /// 128 random bits for the identities that are made here.
    pub entropy: u128,
    /// The node's state directory remembers the volume: the disk is a blank one under an old identity (D2).
    pub remembered: bool,
}

/// What a node's state directory, on another disk, remembers of a volume (design D6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Memory {
    /// The attach counter; zero for none.
    pub attach: u64,
    /// The highest term.
    pub term: Option<Term>,
}

/// What the driver knows of the two files when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Length of the data file or device in bytes.
    pub data_len: u64,
    /// Length of the metadata file in bytes.
    pub meta_len: u64,
    /// What the state directory remembers.
    pub remembered: Memory,
}

/// What a metadata image says, for the rule that nothing in it ever goes backwards (O10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaFacts {
    /// The number of the highest term.
    pub term: u64,
    /// The attach counter (design D6).
    pub attach: u64,
}

/// A replication engine of one volume on one node.
pub trait Engine: Sized {
    /// Settings of the engine itself that all nodes share (the toy's bugs).
    type Settings: Clone + Default + Send + Sync;

    /// Whether [`Engine::inspect`] can read this engine's metadata.
    const INSPECTS: bool;

    /// Whether its frames are such that the codec takes them.
    const ENCODES: bool;

    /// Whether a demotion ends when the images are equal on media (design P5), and not before.
    const LEAVES_EQUAL: bool;

    /// Length of the metadata file in bytes for a device that may grow to this size, and so many peers.
    fn meta_len(size_bytes: u64, peers: usize, settings: &Self::Settings) -> u64;

    /// The pieces of a freshly created metadata file; the caller makes them stable before it attaches.
    fn create(spec: &CreateSpec, settings: &Self::Settings) -> Vec<(u64, Bytes)>;

    /// Begins to open a disk; the first actions read its metadata.
    fn attach(
        config: VolumeConfig,
        run: RunInfo,
        files: FileFacts,
        settings: &Self::Settings,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Self;

    /// Takes one event.
    fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>);

    /// What the engine says of itself.
    fn status(&self) -> Status;

    /// What is stable on its disk and to be remembered in its state directory.
    fn to_remember(&self) -> Memory;

    /// Reads a metadata image from outside; `None` when it holds nothing readable.
    fn inspect(meta: &[u8]) -> Option<MetaFacts>;
}
