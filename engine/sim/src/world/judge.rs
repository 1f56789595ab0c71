//! What the oracle is told of states and images, and the end of a run.

use evenkeel_core::volume::{
    DiskState, Replication, Role, config::Protocol, operator::OperatorCommand, status::Status,
};

use super::{Phase, World, node::peer_node};
use crate::{
    engine::Engine,
    oracle::convergence::{self, HEAL_BOUND},
    plan::{MILLISECOND, SECOND},
};

impl<E: Engine> World<'_, E> {
    /// Asks a node what it is, and draws the conclusions from what has changed.
    pub(super) fn look(&mut self, node: usize) {
        let Some(engine) = &self.nodes[node].engine else { return };
        let status = engine.status();
        let linked = status.peers.iter().any(|peer| peer.connected);
        self.oracle.shows(node, status.disk, linked);
        let before = self.nodes[node].status.replace(status);
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            let in_sync = self.in_sync(node, peer);
            self.oracle.sees(node, peer, in_sync);
        }
        let resyncs =
            |status: &Status| status.peers.iter().any(|peer| peer.replication == Replication::SyncTarget);
        let now = self.nodes[node].status.as_ref().expect("just put there");
        if now.disk == DiskState::Inconsistent
            && !resyncs(now)
            && before.as_ref().is_none_or(|old| old.disk == DiskState::Diskless || resyncs(old))
        {
            self.oracle.interrupted(node);
        }
        self.follow_absence(node);
        let status = self.nodes[node].status.clone().expect("just put there");
        let was_primary = before.as_ref().is_some_and(|status| status.role == Role::Primary);
        let old_disk = before.as_ref().map(|status| status.disk);
        for (place, peer) in status.peers.iter().enumerate() {
            let old = before.as_ref().map(|status| status.peers[place].replication);
            if old == Some(Replication::SyncTarget) && peer.replication == Replication::Established {
                self.counts.resyncs_completed += 1;
                let source = peer_node(node, peer.index);
                self.oracle.copied(source, node, self.nodes[source].is_primary());
            }
            // A verify begins and ends on a link that the peer may have given up long ago: it is no meeting.
            let verifies = |replication| replication == Replication::Verify;
            if old != Some(peer.replication) && !verifies(peer.replication) && !old.is_some_and(verifies) {
                let other = peer_node(node, peer.index);
                self.replication_changed(node, other, peer.replication);
            }
        }
        let steps_down =
            E::LEAVES_EQUAL && status.role == Role::Secondary && status.disk == DiskState::UpToDate;
        if steps_down
            && before.as_ref().is_some_and(|old| old.role == Role::Primary && old.suspended.is_none())
        {
            self.check_left(node);
        }
        if status.role == Role::Primary && !was_primary {
            self.counts.promotions += 1;
            self.note(|| format!("node {node} is primary"));
            let forced = self.nodes[node].forced;
            if forced {
                self.note_force(node);
            }
            if (0..self.plan.nodes).any(|other| other != node && self.nodes[other].is_primary()) {
                self.oracle.two_primaries();
            }
            if forced || status.disk == DiskState::UpToDate {
                let forced = forced.then(|| old_disk.unwrap_or(DiskState::Diskless));
                self.oracle.promoted(node, &self.nodes[node].image(), forced);
            }
        } else if old_disk != Some(status.disk)
            && matches!(status.disk, DiskState::Consistent | DiskState::UpToDate)
        {
            // A primary may have gone on without it, and the news be on its way.
            let up_to_date = status.disk == DiskState::UpToDate && !self.is_dismissed(node);
            self.oracle.claims(node, &self.nodes[node].image(), up_to_date);
        }
    }

    /// Whether a primary has closed its link to the node, which may not have heard of it.
    fn is_dismissed(&self, node: usize) -> bool {
        (0..self.plan.nodes).filter(|other| *other != node && self.nodes[*other].is_primary()).any(
            |primary| {
                self.nodes[primary].status.as_ref().is_some_and(|status| {
                    status.peers.iter().any(|peer| peer_node(primary, peer.index) == node && !peer.connected)
                })
            },
        )
    }

    /// Force was used: whoever has no session with this node may be, or become, primary too. (A peer may be connected and
    /// refused: its history is another one from now on.)
    fn note_force(&mut self, node: usize) {
        let connected = |other: usize| {
            self.replication(node, other)
                .is_some_and(|replication| !matches!(replication, Replication::Off | Replication::SplitBrain))
        };
        let others = (0..self.plan.nodes).filter(|other| *other != node);
        let with = others.filter(|other| connected(*other) && !self.nodes[*other].is_primary());
        let together: Vec<usize> = std::iter::once(node).chain(with).collect();
        if together.len() < self.plan.nodes {
            self.oracle.fork_possible(node, &together);
        }
    }

    /// Two lines that may have parted meet again, or must have been found to be apart.
    fn replication_changed(&mut self, node: usize, other: usize, replication: Replication) {
        // One that stood still may go through what is long over for the other.
        if !self.oracle.are_apart(node, other) || self.replication(other, node).is_none() {
            return;
        }
        let meets = match replication {
            Replication::Established | Replication::SyncSource | Replication::SyncTarget => true,
            Replication::Off | Replication::SplitBrain | Replication::Verify => false,
        };
        if !meets {
            return;
        }
        if self.oracle.have_parted(node, other) && !self.caretaker.resolved {
            let text = format!(
                "node {node} and node {other} have both written since a forced promotion, and node {node} says \
                 {replication:?}: the split brain was not found"
            );
            self.oracle.broken("O6", text);
            return;
        }
        let survivor = match replication {
            Replication::SyncTarget => other,
            Replication::Established if self.nodes[other].is_primary() => other,
            _ => node,
        };
        let loser = if survivor == node { other } else { node };
        self.oracle.joined(survivor, loser, &self.nodes[survivor].image());
        self.counts.forks += u64::from(self.caretaker.resolved);
        self.caretaker.resolved = false;
    }

    /// A primary that served has become secondary: on media it is what its peers in sync are (O5, P5).
    fn check_left(&mut self, node: usize) {
        if self.plan.beyond_budget {
            return;
        }
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            let [own, other] = [node, peer].map(|node| self.nodes[node].disk.certain_data());
            // The peer may be gone, and back with another disk, by the time at which this node hears of it.
            if self.in_sync(node, peer)
                && self.in_sync(peer, node)
                && let Some(sector) = convergence::difference(&own, &other)
            {
                let text = format!(
                    "node {node} became secondary, and on media node {peer}, in sync, differs in sector {sector}"
                );
                self.oracle.broken("O5", text);
            }
        }
    }

    /// Compares what the nodes have told with what they are (O11).
    pub(super) fn check_notices(&mut self) {
        for node in 0..self.plan.nodes {
            let this = &mut self.nodes[node];
            if this.paused {
                continue;
            }
            let Some(status) = &this.status else { continue };
            if let Some(what) = this.notices.compare(status, self.now).filter(|_| E::INSPECTS) {
                self.oracle.broken("O11", format!("node {node}: {what}"));
            }
        }
    }

    /// A node is woken: not without end (O9).
    pub(super) fn check_wakes(&mut self, node: usize) {
        const WAKES_MAX: u32 = 1000;
        let millisecond = self.now / MILLISECOND;
        let wakes = &mut self.nodes[node].wakes;
        *wakes = if wakes.0 == millisecond { (millisecond, wakes.1 + 1) } else { (millisecond, 1) };
        if wakes.1 > WAKES_MAX {
            self.oracle
                .broken("O9", format!("node {node} asks to be woken again and again, and does nothing"));
        }
    }

    /// A node has answered that something is stable: it is, on its own media and on those of every peer that it counts
    /// (O2, W4). One in sixteen is looked at.
    pub(super) fn check_stable(&mut self, node: usize, own_disk: bool) {
        self.told_stable += 1;
        if !self.told_stable.is_multiple_of(16) {
            return;
        }
        for other in 0..self.plan.nodes {
            // A node that is gone may have another disk by the time at which its primary hears of it, and may even be
            // back with it.
            let counts = if other == node {
                own_disk
            } else {
                let both_say_so = self.in_sync(node, other) && self.in_sync(other, node);
                self.nodes[other].runs() && self.plan.protocol != Protocol::A && both_say_so
            };
            if counts {
                self.oracle.stable_on(other, &self.nodes[other].disk.certain_data());
            }
        }
    }

    /// Looks at the images of all holders (O7, the atlas).
    pub(super) fn check_holders(&mut self) {
        for node in 0..self.plan.nodes {
            self.oracle.held(node, self.nodes[node].disk.data());
        }
        self.oracle.some_copy_is_whole(self.nodes.iter().map(|node| (node.disk.data(), node.runs())));
    }

    /// Looks at a node's metadata on media (O10).
    pub(super) fn check_metadata(&mut self, node: usize) {
        let facts = E::inspect(self.nodes[node].disk.stable_meta());
        if E::INSPECTS {
            self.oracle.metadata(node, facts);
        }
    }

    /// A resync has ended: it moved no more than what can have differed (O5). Called for both ends. A block that the
    /// application writes to meanwhile may travel more than once (R4).
    pub(super) fn resync_done(&mut self, node: usize, peer: usize, moved_bytes: u64) {
        if moved_bytes > self.plan.size_bytes_max * 4 {
            let text = format!(
                "a resync between node {node} and node {peer} moved {moved_bytes} bytes of a device of {}",
                self.plan.size_bytes_max
            );
            self.oracle.broken("O5", text);
        }
    }

    /// How far the end of the run is.
    pub(super) fn advance_phase(&mut self) {
        match self.phase {
            Phase::Faults => {
                if self.now >= self.plan.heal_at {
                    self.heal();
                    self.phase = Phase::Healing;
                    self.healing_since = self.now;
                }
            }
            Phase::Healing => {
                if self.now > self.healing_since + 10 * SECOND {
                    self.clients.stop();
                }
                let statuses: Vec<_> = self.nodes.iter().map(|node| node.status.clone()).collect();
                let unwell = convergence::unwell(&statuses, self.clients.waiting());
                match unwell {
                    None if self.now > self.healing_since + 11 * SECOND => self.leave(),
                    None => {}
                    // Beyond the budget the only duty is to refuse.
                    Some(_) if self.plan.beyond_budget && self.now > self.healing_since + 120 * SECOND => {
                        self.phase = Phase::Over;
                    }
                    Some(_) if self.plan.beyond_budget => {}
                    Some(what) if self.now > self.healing_since + HEAL_BOUND => {
                        let text = format!("{} s after the last fault: {what}", HEAL_BOUND / SECOND);
                        self.oracle.broken("O5", text);
                    }
                    Some(_) => {}
                }
            }
            Phase::Leaving => {
                if (0..self.plan.nodes).all(|node| !self.nodes[node].is_primary())
                    && self.nodes.iter().all(|node| node.commands.is_empty())
                {
                    self.last_look();
                    self.phase = Phase::Over;
                } else if self.now > self.healing_since + HEAL_BOUND + 60 * SECOND {
                    self.oracle.broken("O9", "the primary cannot be made secondary".to_owned());
                }
            }
            Phase::Over => {}
        }
    }

    fn leave(&mut self) {
        self.phase = Phase::Leaving;
        self.healing_since = self.now;
        for node in 0..self.plan.nodes {
            if self.nodes[node].is_primary() {
                self.command(node, OperatorCommand::Secondary { force: true });
            }
        }
    }

    /// Everything is well and the primary has left: images are equal, stable, and hold what was acknowledged.
    fn last_look(&mut self) {
        // All are well, so all have one size.
        let size_bytes = self.nodes[0].status.as_ref().map_or(0, |status| status.size_bytes);
        let end = usize::try_from(size_bytes).expect("a small device");
        let first = &self.nodes[0].disk.data()[..end];
        for (node, this) in self.nodes.iter().enumerate() {
            let (image, stable) = (&this.disk.data()[..end], &this.disk.stable_data()[..end]);
            for (image, which) in [(image, "image"), (stable, "stable image")] {
                // Beyond the budget a failure of both files of a disk may leave no trace of itself.
                if self.plan.beyond_budget && which != "image" {
                    continue;
                }
                if let Some(sector) = convergence::difference(first, image) {
                    let text = format!(
                        "the {which} of node {node} differs from the image of node 0 in sector {sector}"
                    );
                    self.oracle.broken("O5", text);
                    return;
                }
            }
        }
        for node in 0..self.plan.nodes {
            let image = self.nodes[node].image().into_owned();
            self.oracle.final_image(node, &image);
            self.check_metadata(node);
        }
    }
}
