//! What a volume is told at its start.

use std::time::Duration;

use crate::ids::{BootId, InstanceId};

/// When a write is answered (design section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// When the primary has written it; peers follow in order.
    A,
    /// When the primary has written it and every in-sync peer has received it.
    B,
    /// When the primary and every in-sync peer have written it.
    C,
}

/// What a primary does when it has lost a peer (design W6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPeerLoss {
    /// Go on alone, after the new generation is stable.
    Continue,
    /// Hold all I/O until the peer is back or the operator decides.
    Suspend,
}

/// The settings of one volume on one node, from the configuration file.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// The volume's name.
    pub name: String,
    /// Own node's name, for sentences.
    pub node_name: String,
    /// Names of the peers by their index.
    pub peer_names: Vec<String>,
    /// The size that the configuration names, in bytes; the volume may grow up to it.
    pub size_bytes_max: u64,
    /// When a write is answered.
    pub protocol: Protocol,
    /// What happens when a peer is lost.
    pub on_peer_loss: OnPeerLoss,
    /// A peer that is silent for this long is dropped.
    pub peer_timeout: Duration,
    /// I/O that cannot go on is held this long, then fails.
    pub hold: Duration,
    /// Protocol A: writes wait when the peers are further behind than this, in bytes.
    pub max_lag_bytes: u64,
    /// At most this many bytes of writes are in flight.
    pub max_inflight_bytes: u64,
    /// At most this many writes are in flight.
    pub max_inflight_writes: usize,
}

/// The settings that may change while a volume runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// The size that the configuration names, in bytes; the volume may grow up to it.
    pub size_bytes_max: u64,
    /// What happens when the next peer is lost.
    pub on_peer_loss: OnPeerLoss,
    /// A peer that is silent for this long is dropped.
    pub peer_timeout: Duration,
    /// I/O that cannot go on is held this long, then fails.
    pub hold: Duration,
    /// Protocol A: writes wait when the peers are further behind than this, in bytes.
    pub max_lag_bytes: u64,
    /// A resync compares at most so many bytes a second; `None` for as fast as it goes.
    pub resync_limit: Option<u64>,
}

/// What is true of this run of the daemon and not in any file.
#[derive(Clone, Copy, Debug)]
pub struct RunInfo {
    /// The kernel's id of the running system.
    pub boot: BootId,
    /// A fresh random id for this run.
    pub instance: InstanceId,
    /// Time since the kernel booted, in nanoseconds, that goes on while the machine sleeps.
    pub boot_clock_nanos: u64,
    /// Seed for the ids that this run will make; must be random in production.
    pub entropy: u128,
}
