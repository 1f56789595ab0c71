//! The part of a configuration that is one node's own, with the defaults of its state directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Config, Node, Volume, check::tidy};

/// What the daemon of one node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnConfig {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The own name.
    pub(crate) name: String,
    /// The own table.
    pub(crate) node: Node,
    /// Every other node of the cluster, by name.
    pub(crate) peers: BTreeMap<String, Node>,
    /// The volumes of which this node holds a copy, by name.
    pub(crate) volumes: BTreeMap<String, OwnVolume>,
}

/// One volume as this node holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnVolume {
    /// What is the same on every node.
    pub(crate) volume: Volume,
    /// The data: a file or a block device.
    pub(crate) data: PathBuf,
    /// The metadata: a file or a block device.
    pub(crate) meta: PathBuf,
    /// The other nodes that hold a copy, in the order of their names.
    pub(crate) peers: Vec<String>,
}

pub(super) fn select(config: &Config, name: &str, state_dir: &Path) -> Result<OwnConfig, String> {
    let Some(&node) = config.nodes.get(name) else {
        let names: Vec<&str> = config.nodes.keys().map(String::as_str).collect();
        return Err(format!(
            "there is no node {name}; add [node.{name}], or say with --node which of these this machine is: {}",
            names.join(", ")
        ));
    };
    let mut volumes = BTreeMap::new();
    let mut used: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (volume_name, volume) in &config.volumes {
        let holders = volume.holders(config.nodes.keys().map(String::as_str));
        if !holders.contains(&name) {
            continue;
        }
        let replica = volume.replicas.get(name).cloned().unwrap_or_default();
        let default = |ending: &str| state_dir.join(format!("{volume_name}.{ending}"));
        let data = replica.data.unwrap_or_else(|| default("img"));
        let meta = replica.meta.unwrap_or_else(|| default("meta"));
        for (what, path) in [("data", &data), ("meta", &meta)] {
            let user = format!("{what} of volume {volume_name}");
            if let Some(other) = used.insert(tidy(path), user) {
                return Err(format!(
                    "{} is {what} of volume {volume_name} and {other}; write another path in [volume.{volume_name}.on.{name}]",
                    path.display()
                ));
            }
        }
        let peers = holders.into_iter().filter(|holder| *holder != name).map(str::to_owned).collect();
        volumes.insert(volume_name.clone(), OwnVolume { volume: volume.clone(), data, meta, peers });
    }
    let peers = config.nodes.iter().filter(|(other, _)| *other != name);
    Ok(OwnConfig {
        cluster: config.cluster.clone(),
        name: name.to_owned(),
        node,
        peers: peers.map(|(name, node)| (name.clone(), *node)).collect(),
        volumes,
    })
}
