//! What is asked of a primary that stood still (P8): if a peer that followed it was promoted meanwhile, it answers
//! nobody and makes no generation before it has met that peer, or the peer's time is over.
//!
//! ```text
//!   followed --pause--> Away --resume, a follower is primary--> Replaced --deposed, crash, peer's time over--> nothing
//!                        \------resume, else----------------> nothing
//! ```

use evenkeel_core::{ids::Generation, volume::Role};

use super::World;
use crate::{engine::Engine, plan::MILLISECOND};

/// Shorter stops than this no engine has to notice: within it no peer can have been promoted for this node's silence
/// (P3), but only because the link broke too, and that can happen without a stop. (The engine takes 490 ms by its own
/// clock for a gap.)
const NOTICED: u64 = 492 * MILLISECOND;

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) enum Absence {
    /// It stands still; these nodes followed it when it stopped.
    Away { since: u64, followers: Vec<usize>, head: Option<Generation> },
    /// Somebody has taken its place. Until then it has to be silent.
    Replaced { by: usize, until: u64, head: Option<Generation> },
}

impl<E: Engine> World<'_, E> {
    /// What a node leaves behind that stands still from now on.
    pub(super) fn absence_of(&self, node: usize) -> Absence {
        let leads = self.nodes[node].is_primary();
        let followers = (0..self.plan.nodes).filter(|other| leads && self.in_sync(node, *other)).collect();
        let head = self.nodes[node].status.as_ref().and_then(|status| status.head);
        Absence::Away { since: self.now, followers, head }
    }

    /// A node goes on.
    pub(super) fn end_absence(&mut self, node: usize) {
        let Some(Absence::Away { since, followers, head }) = self.nodes[node].absence.take() else { return };
        let term = self.nodes[node].term();
        let by = followers.into_iter().find(|other| {
            self.nodes[*other].is_primary() && self.nodes[*other].term() > term && self.nodes[*other].runs()
        });
        if let Some(by) = by.filter(|_| self.now - since >= NOTICED) {
            // By its own clock, which may be a little fast.
            let timeout = u64::try_from(self.plan.peer_timeout.as_nanos()).expect("short");
            let until = self.now + timeout - timeout / 500;
            self.nodes[node].absence = Some(Absence::Replaced { by, until, head });
        }
    }

    /// The node has looked at itself: whether the matter is settled, and that it has made no generation.
    pub(super) fn follow_absence(&mut self, node: usize) {
        let Some(Absence::Replaced { until, head, .. }) = self.nodes[node].absence else { return };
        let Some(status) = &self.nodes[node].status else { return };
        let (role, now_head) = (status.role, status.head);
        if role == Role::Secondary || self.now >= until {
            self.nodes[node].absence = None;
        } else if now_head != head {
            self.check_absence(node, "made a generation");
        }
    }

    /// A node does what nobody may do whose place is taken.
    pub(super) fn check_absence(&mut self, node: usize, what: &str) {
        if let Some(Absence::Replaced { by, until, .. }) = self.nodes[node].absence
            && self.now < until
        {
            let text = format!("node {node} {what} after it had stood still while node {by} took its place");
            self.oracle.broken("O6", text);
        }
    }
}
