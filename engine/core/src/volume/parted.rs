//! What would be lost on either side when an operator ends a split brain: from the two reports of the handshake, the own
//! side as it is now.

use super::{
    status::{Branch, Parted},
    volume::Volume,
};
use crate::{
    generation::{
        record::Dirty,
        verdict::Verdict,
        view::{Copy, NodeView},
    },
    ids::PeerIndex,
};

impl Volume {
    /// The two branches, while the verdict lets nothing move.
    pub(crate) fn parted(&self, peer: PeerIndex) -> Option<Parted> {
        let verdict = self.peer(peer).apart()?;
        let (_, theirs) = self.peer(peer).comparing()?.theirs.as_ref()?;
        let common = match verdict {
            Verdict::SplitBrain { common, .. } => Some(common),
            Verdict::Unrelated { .. } | Verdict::Refused(_) => None,
            Verdict::NoSync | Verdict::FreshPair { .. } | Verdict::NoCopy(_) | Verdict::Resync { .. } => {
                return None;
            }
        };
        Some(Parted { common, mine: branch(&self.view_for(peer)), theirs: branch(theirs) })
    }
}

fn branch(view: &NodeView) -> Branch {
    let dirty_blocks = match (view.copy, view.record.dirty) {
        (Copy::Diskless | Copy::Inconsistent, _) | (_, Dirty::Unreadable) => None,
        (Copy::Fresh | Copy::Good, Dirty::Clean) => Some(0),
        (Copy::Fresh | Copy::Good, Dirty::Blocks(blocks)) => Some(blocks),
    };
    Branch {
        head: view.history.head(),
        term: view.history.head().map(|head| head.term),
        primary: view.role.is_primary(),
        dirty_bytes: dirty_blocks.map(|blocks| blocks.saturating_mul(u64::from(view.block_bytes))),
        dirty_blocks,
    }
}
