//! Whether clients may come in, as the volume's state changes (design section 8).
//!
//! A primary serves. A node that is about to take up its role again after a crash holds clients; any other secondary
//! refuses them and names the primary, if it knows one.

use std::sync::Arc;

use evenkeel_core::volume::{DiskState, Role, Volume};
use evenkeel_nbd::device::{ExportState, Features, MapContext};

use super::Runner;
use crate::disk::Shape;

/// What an export promises.
pub(super) fn features(name: &str, shape: &Shape) -> Features {
    Features {
        description: format!("replicated volume {name}"),
        read_only: false,
        rotational: false,
        fast_zero: shape.can_punch || shape.can_zero_keep,
        contexts: MapContext::ALL.to_vec(),
    }
}

impl Runner {
    /// What the export promises.
    pub(in crate::node) fn features(&self) -> Arc<Features> {
        Arc::clone(&self.features)
    }

    /// From now on clients are refused, and those that are there leave, with this reason; `None` lets them in again
    /// as far as the volume allows.
    pub(in crate::node) fn close_to_clients(&self, reason: Option<&str>) {
        *self.closing.borrow_mut() = reason.map(Arc::from);
        self.update_export(&self.inner.borrow().volume);
    }

    pub(super) fn update_export(&self, volume: &Volume) {
        let state = self.export_state(volume);
        self.export.send_if_modified(|current| {
            let changes = *current != state;
            *current = state;
            changes
        });
    }

    fn export_state(&self, volume: &Volume) -> ExportState {
        if let Some(reason) = &*self.closing.borrow() {
            return ExportState::Refused(Arc::clone(reason));
        }
        let settings = self.settings.borrow();
        let status = volume.status();
        match status.role {
            Role::Primary => return ExportState::Serving { size: status.size_bytes },
            Role::Secondary if status.resuming => return ExportState::Held,
            Role::Secondary => {}
        }
        let name = &settings.name;
        let primary = status.peers.iter().find(|peer| peer.role == Some(Role::Primary));
        let text = match (primary, status.disk) {
            (Some(peer), _) => {
                let peer = self.peer_name(peer.index);
                format!("{name} is secondary on this node: {peer} is its primary, connect there")
            }
            (None, DiskState::Diskless | DiskState::Failed) => {
                format!("{name} has no working disk on this node: `evenkeel status {name}` says why")
            }
            (
                None,
                DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent | DiskState::UpToDate,
            ) => {
                format!(
                    "{name} is secondary on this node and no primary is known: `evenkeel primary {name}` makes it one"
                )
            }
        };
        ExportState::Refused(text.into())
    }
}
