//! What a node is told at its start: everything that the configuration file and the command line say about it.
//!
//! Names stand for nodes here; the core's indices of peers are made from them when a volume is opened
//! ([`memory`](super::memory)).

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use evenkeel_core::volume::config::{OnPeerLoss, Protocol};
use evenkeel_nbd::limits::Limits;

use crate::{
    disk::BackendChoice,
    identity::{Fingerprint, Identity},
};

/// One node of a cluster.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// What this node proves itself with.
    pub identity: Arc<Identity>,
    /// Where this node listens for its peers (QUIC, UDP).
    pub listen: SocketAddr,
    /// All other nodes of the cluster.
    pub peers: Vec<PeerSettings>,
    /// The volumes that this node keeps a copy of.
    pub volumes: Vec<VolumeSettings>,
    /// How disks are used.
    pub backend: BackendChoice,
    /// The bounds of the NBD side; the door has the same.
    pub nbd_limits: Limits,
    /// Where this node remembers what must not be forgotten when a disk is lost (design D2, D6).
    pub state_dir: PathBuf,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its key.
    pub fingerprint: Fingerprint,
}

/// One volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Its name, which is also that of its NBD export.
    pub name: String,
    /// Bytes of the device when it is made; it may grow up to this.
    pub size_bytes: u64,
    /// When a write is answered.
    pub protocol: Protocol,
    /// What happens when a peer is lost.
    pub on_peer_loss: OnPeerLoss,
    /// A peer that is silent for this long is dropped.
    pub peer_timeout: Duration,
    /// I/O that cannot go on is held this long, then fails.
    pub hold: Duration,
    /// Protocol A: writes wait when a peer is further behind than this.
    pub max_lag_bytes: u64,
    /// Bytes of an extent of the activity log; fixed when the metadata are made.
    pub al_extent_bytes: u32,
    /// Bytes of a block of the dirty bitmap; fixed when the metadata are made.
    pub block_bytes: u32,
    /// A resync moves at most this many bytes a second; `None` for as fast as it can.
    pub resync_limit: Option<u64>,
    /// The data: a file or a block device.
    pub data: PathBuf,
    /// The metadata: a file or a block device.
    pub meta: PathBuf,
    /// Names of the other nodes that keep a copy.
    pub peers: Vec<String>,
}

impl VolumeSettings {
    /// Why a running volume cannot go over to `other` without being closed; `None` if it can. The size is another
    /// matter: it may not be less than the volume has.
    #[must_use]
    pub fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        let sorted = |peers: &[String]| {
            let mut peers = peers.to_vec();
            peers.sort();
            peers
        };
        let differences = [
            (self.data != other.data, "data"),
            (self.meta != other.meta, "meta"),
            (self.al_extent_bytes != other.al_extent_bytes, "al_extent"),
            (self.block_bytes != other.block_bytes, "block_size"),
            (sorted(&self.peers) != sorted(&other.peers), "the nodes that keep a copy"),
            (self.protocol != other.protocol, "protocol"),
        ];
        differences.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }
}
