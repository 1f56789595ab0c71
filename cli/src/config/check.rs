//! What must hold of names, and between the tables of a file.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use evenkeel_core::ids::MAX_PEERS;

use super::{fault::Place, node::NodeEntry, section::Section, volume::VolumeEntry};

/// Names become file names, export names and words of the log.
const MAX_NAME_BYTES: usize = 64;

/// A name of letters, digits, `-`, `_` and `.`, which begins with a letter or a digit.
pub(super) fn name(section: &Section<'_, '_>, what: &str, name: &str, place: Place) {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let starts = name.starts_with(|character: char| character.is_ascii_alphanumeric());
    if !starts || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        let text = format!(
            "{what} name \"{}\": take 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.', a letter or digit first",
            name.escape_debug()
        );
        section.faults().at(place, text);
    }
}

/// There is a node, and no two share an address or a key.
pub(super) fn nodes(root: &Section<'_, '_>, nodes: &[NodeEntry]) {
    if nodes.is_empty() {
        root.faults().whole("there is no node; add a table [node.NAME] for each machine");
    }
    let mut addresses = BTreeMap::new();
    let mut fingerprints = BTreeMap::new();
    for node in nodes {
        if let Some(address) = node.address
            && let Some(other) = addresses.insert(address.value, &node.name)
        {
            let text = format!("node {other} has the address {} too; each node has its own", address.value);
            root.faults().at(address.place, text);
        }
        if let Some(fingerprint) = node.fingerprint
            && let Some(other) = fingerprints.insert(fingerprint.value, &node.name)
        {
            let text =
                format!("node {other} has this fingerprint too; each node has its own key (evenkeel init)");
            root.faults().at(fingerprint.place, text);
        }
    }
}

/// Every copy lies on a known node, and no file serves twice.
pub(super) fn volumes(root: &Section<'_, '_>, volumes: &[VolumeEntry], nodes: &[NodeEntry]) {
    let mut used: BTreeMap<(&str, PathBuf), String> = BTreeMap::new();
    for volume in volumes {
        let copies = if volume.replicas.is_empty() { nodes.len() } else { volume.replicas.len() };
        if copies > MAX_PEERS + 1 {
            let text = format!(
                "volume {} is on {copies} nodes; at most {} can hold a copy: name them with [volume.{}.on.NODE]",
                volume.name,
                MAX_PEERS + 1,
                volume.name
            );
            root.faults().at(volume.place, text);
        }
        for replica in &volume.replicas {
            if !nodes.iter().any(|node| node.name == replica.node) {
                let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
                let text = format!(
                    "there is no node {}; add [node.{}] or write one of: {}",
                    replica.node,
                    replica.node,
                    names.join(", ")
                );
                root.faults().at(replica.place, text);
            }
            for (what, path) in [("data", &replica.data), ("meta", &replica.meta)] {
                let Some(path) = path else { continue };
                let user = format!("{what} of volume {}", volume.name);
                if let Some(other) = used.insert((&replica.node, tidy(&path.value)), user) {
                    let text = format!(
                        "{} is already {other} on {}; each needs a file of its own",
                        path.value.display(),
                        replica.node
                    );
                    root.faults().at(path.place, text);
                }
            }
        }
    }
}

/// Without `.` and doubled slashes, so that two spellings of a path are equal.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}
