//! From the configuration file, the options and the identity to what a node is told at its start.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use evenkeel_driver::{
    disk::BackendChoice,
    identity::Identity,
    node::{NodeSettings, PeerSettings, VolumeSettings},
};
use evenkeel_nbd::limits::Limits;

use crate::{
    config::{OwnConfig, OwnVolume},
    exit::{Ended, Failure},
    options::Options,
};

/// What a daemon runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// For the data thread.
    pub(crate) node: NodeSettings,
    /// An extra NBD listener.
    pub(crate) nbd: Option<SocketAddr>,
}

impl Settings {
    /// Reads configuration and identity; they must agree.
    pub(crate) fn load(options: &Options) -> Result<Self> {
        let own = options.own_config()?;
        let identity = Identity::load(&options.state_dir)?;
        if identity.fingerprint() != own.node.fingerprint {
            let text = format!(
                "{}: [node.{}] has the fingerprint {}, but the key in {} has {}; write the latter into the \
                 configuration of every node, or name the right folder with --state-dir",
                options.config.display(),
                own.name,
                own.node.fingerprint,
                options.state_dir.display(),
                identity.fingerprint()
            );
            return Err(Ended::error(Failure::Usage, text));
        }
        Ok(Self { nbd: own.node.nbd, node: node_settings(own, identity, options) })
    }
}

fn node_settings(own: OwnConfig, identity: Identity, options: &Options) -> NodeSettings {
    let peers = own.peers.into_iter().map(|(name, node)| PeerSettings {
        name,
        address: node.address,
        fingerprint: node.fingerprint,
    });
    NodeSettings {
        cluster: own.cluster,
        node: own.name,
        identity: Arc::new(identity),
        listen: own.node.address,
        peers: peers.collect(),
        volumes: own.volumes.into_iter().map(|(name, volume)| volume_settings(name, volume)).collect(),
        backend: BackendChoice::Auto,
        nbd_limits: Limits::default(),
        state_dir: options.state_dir.clone(),
    }
}

fn volume_settings(name: String, OwnVolume { volume, data, meta, peers }: OwnVolume) -> VolumeSettings {
    VolumeSettings {
        name,
        size_bytes: volume.geometry.size_bytes(),
        protocol: volume.protocol,
        on_peer_loss: volume.on_peer_loss,
        peer_timeout: volume.peer_timeout,
        hold: volume.hold,
        max_lag_bytes: volume.max_lag.0,
        al_extent_bytes: volume.geometry.extent_bytes(),
        block_bytes: volume.geometry.block_bytes(),
        resync_limit: volume.resync_limit.0,
        data,
        meta,
        peers,
    }
}
