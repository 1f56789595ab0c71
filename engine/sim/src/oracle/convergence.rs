//! O5 and O9 at the end of a run: faults stop, and within bounded virtual time everything is well again.
//!
//! *Well*: every node runs, one is primary, all disks are UpToDate, every pair with the primary is established
//! with nothing dirty, each node knows what its peers are, and no request waits. Then all images are byte for byte the same, in the caches and, after
//! a flush, on media.

use evenkeel_core::volume::{DiskState, Replication, Role, status::Status};

use crate::{payload::SECTOR, plan::SECOND, world::node::peer_node};

/// So long after the last fault everything must be well (virtual time).
pub(crate) const HEAL_BOUND: u64 = 900 * SECOND;

/// What is not well yet, if anything; the statuses are the nodes', `None` for one that does not run.
pub(crate) fn unwell(statuses: &[Option<Status>], waiting: usize) -> Option<String> {
    let mut primaries = 0;
    let mut sizes = statuses.iter().flatten().map(|status| status.size_bytes);
    let first = sizes.next();
    if let Some(other) = sizes.find(|size| Some(*size) != first) {
        return Some(format!("nodes have {first:?} and {other} bytes"));
    }
    for (node, status) in statuses.iter().enumerate() {
        let Some(status) = status else { return Some(format!("node {node} does not run")) };
        if status.disk != DiskState::UpToDate {
            return Some(format!("the disk of node {node} is {:?}", status.disk));
        }
        if let Some(reason) = status.suspended {
            return Some(format!("node {node} holds I/O: {reason:?}"));
        }
        primaries += usize::from(status.role == Role::Primary);
        for peer in &status.peers {
            if peer.replication != Replication::Established {
                return Some(format!("node {node} says {:?} of its peer {:?}", peer.replication, peer.index));
            }
            if peer.dirty_bytes > 0 {
                return Some(format!(
                    "node {node} says that {:?} lacks {} bytes",
                    peer.index, peer.dirty_bytes
                ));
            }
            let is = statuses[peer_node(node, peer.index)].as_ref().map(|status| (status.role, status.disk));
            let told = peer.role.zip(peer.disk);
            if told.is_some() && is.is_some() && told != is {
                return Some(format!("node {node} says that {:?} is {told:?}, and it is {is:?}", peer.index));
            }
        }
    }
    if primaries != 1 {
        return Some(format!("{primaries} nodes are primary"));
    }
    (waiting > 0).then(|| format!("{waiting} requests wait"))
}

/// The first sector in which two images differ.
pub(crate) fn difference(first: &[u8], second: &[u8]) -> Option<usize> {
    if first == second {
        return None;
    }
    first.chunks(SECTOR).zip(second.chunks(SECTOR)).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found() {
        let first = vec![0; 3 * 4096];
        let mut second = first.clone();
        assert_eq!(difference(&first, &second), None);
        second[4096 + 512] = 1;
        assert_eq!(difference(&first, &second), Some(9));
    }

    #[test]
    fn a_node_that_does_not_run_is_not_well() {
        assert_eq!(unwell(&[None], 0).as_deref(), Some("node 0 does not run"));
    }
}
