//! Taking over a changed configuration, all of it or none (design section 8).
//!
//! Volumes and peers may come and go, tunables change, and the size that a volume may grow to. What a running volume is
//! built on (files, peers, protocol) cannot: that needs a restart. A volume that could not be opened is tried again.

use std::{rc::Rc, time::Duration};

use evenkeel_core::volume::{
    Role,
    operator::{OperatorAnswer, OperatorCommand},
};

use super::{
    data_thread::DataThread,
    handle::{ReloadError, Reloaded},
    settings::NodeSettings,
    slot::{Opened, Slot},
};

/// A volume that was taken out of the configuration gets this long to become stable.
const LEAVING: Duration = Duration::from_secs(10);

/// See the module's head.
pub(super) async fn reload(thread: &Rc<DataThread>, new: NodeSettings) -> Result<Reloaded, ReloadError> {
    check(thread, &new)?;
    let mut changes = Reloaded::new();
    let mut leaving = Vec::new();
    thread.slots.borrow_mut().retain(|slot| {
        let stays = new.volumes.iter().any(|volume| volume.name == slot.name());
        if !stays {
            changes.push(format!("volume {} removed", slot.name()));
            leaving.push(Rc::clone(slot));
        }
        stays
    });
    for slot in leaving {
        leave(thread, &slot).await;
    }
    let old_peers = thread.settings.borrow().peers.clone();
    for peer in new.peers.iter().filter(|peer| !old_peers.contains(peer)) {
        changes.push(format!("node {} added or changed", peer.name));
    }
    for peer in old_peers.iter().filter(|old| new.peers.iter().all(|peer| peer.name != old.name)) {
        changes.push(format!("node {} removed", peer.name));
        if let Some(key) = thread.peer_keys.borrow_mut().remove(&peer.name) {
            thread.endpoint.remove_peer(key);
        }
    }
    let mut closed = Vec::new();
    for volume in &new.volumes {
        let slot = match thread.slot(&volume.name) {
            Some(slot) => slot,
            None => {
                changes.push(format!("volume {} added", volume.name));
                let slot = thread.add_volume(volume.clone());
                closed.push(slot);
                continue;
            }
        };
        if slot.settings() != *volume {
            changes.push(format!("volume {} changed", volume.name));
            slot.change(volume, &thread.directory);
        }
        if matches!(slot.opened(), Opened::Closed(_)) {
            closed.push(slot);
        }
    }
    let place = |slot: &Rc<Slot>| new.volumes.iter().position(|volume| volume.name == slot.name());
    thread.slots.borrow_mut().sort_by_key(place);
    *thread.settings.borrow_mut() = new;
    thread.call_peers().map_err(|error| ReloadError::Refused(error.to_string()))?;
    closed.iter().for_each(|slot| thread.begin_to_open(slot));
    Ok(changes)
}

fn check(thread: &DataThread, new: &NodeSettings) -> Result<(), ReloadError> {
    let old = thread.settings.borrow();
    let fixed = [
        (old.cluster != new.cluster, "the cluster's name"),
        (old.node != new.node, "this node's name"),
        (old.listen != new.listen, "this node's address"),
        (old.identity.fingerprint() != new.identity.fingerprint(), "this node's key"),
        (old.state_dir != new.state_dir, "the state directory"),
        (old.backend != new.backend, "the disk backend"),
    ];
    if let Some((_, what)) = fixed.into_iter().find(|(differs, _)| *differs) {
        return Err(ReloadError::Fixed { what: what.to_owned() });
    }
    let mut keys = vec![(new.identity.fingerprint(), &new.node)];
    for peer in &new.peers {
        if let Some((_, other)) = keys.iter().find(|(key, _)| *key == peer.fingerprint) {
            let text = format!(
                "{} and {other} have the same fingerprint: each node has a key of its own",
                peer.name
            );
            return Err(ReloadError::Refused(text));
        }
        keys.push((peer.fingerprint, &peer.name));
    }
    for slot in thread.slots.borrow().iter() {
        let (name, settings) = (slot.name(), slot.settings());
        let Opened::Open(runner, _) = slot.opened() else { continue };
        match new.volumes.iter().find(|volume| volume.name == name) {
            Some(volume) => {
                if let Some(what) = settings.fixed_difference(volume) {
                    return Err(ReloadError::Fixed { what: format!("`{what}` of volume {name}") });
                }
                let has = runner.core_status().size_bytes;
                if volume.size_bytes < has {
                    return Err(ReloadError::Refused(format!(
                        "volume {name} has {has} bytes and never shrinks: its `size` cannot be {}",
                        volume.size_bytes
                    )));
                }
            }
            None if runner.core_status().role == Role::Primary => {
                return Err(ReloadError::Refused(format!(
                    "volume {name} is primary on this node: `evenkeel secondary {name}` before it is removed"
                )));
            }
            None => {}
        }
    }
    Ok(())
}

/// Closes a volume that is not configured any more, cleanly if it gets that far.
async fn leave(thread: &DataThread, slot: &Slot) {
    let name = slot.name();
    thread.directory.withdraw(&name);
    if let Opened::Open(runner, _) = slot.opened() {
        runner.close_to_clients(Some("the volume was removed from the configuration"));
        let order = runner.order(OperatorCommand::Shutdown);
        match tokio::time::timeout(LEAVING, order).await {
            Ok(OperatorAnswer::Done | OperatorAnswer::Verified { .. } | OperatorAnswer::Foretold(_)) => {}
            Ok(OperatorAnswer::Refused(why)) => tracing::warn!(volume = name, why, "not left cleanly"),
            Err(_) => tracing::warn!(volume = name, "not left cleanly: it did not become stable in time"),
        }
        for peer in slot.settings().peers {
            if let Some(&key) = thread.peer_keys.borrow().get(&peer) {
                thread.endpoint.disable(key, slot.key(), "the volume was removed from the configuration");
            }
        }
    }
    slot.close();
}
