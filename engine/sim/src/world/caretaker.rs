//! The operator who keeps the cluster useful: starts what is down, promotes when nobody is primary, ends split
//! brains. It reacts to what it sees and draws almost nothing, so that it adapts when a schedule is shrunk.
//!
//! It uses force as a careful operator would: when asking nicely has not helped for a while, and then on a node
//! that holds everything acknowledged, or, when no node does any more, on one that was in sync last.

use evenkeel_core::{
    generation::verdict::{Refusal, Side, Verdict},
    volume::{
        DiskState, Replication, Role,
        operator::{Discard, Force, OperatorCommand},
    },
};

use super::{
    Phase, TICK, World,
    agenda::Due,
    node::{peer_index, peer_node},
};
use crate::{
    decision::{Concern, Stream},
    engine::Engine,
    plan::{Plan, SECOND},
};

/// The images of all holders are looked at once in so many ticks (and before each crash).
const LOOK_EVERY: u64 = 40;

/// What the caretaker remembers.
#[derive(Debug)]
pub(crate) struct Caretaker {
    /// How long it asks nicely.
    patience: u64,
    /// Whom it would like to be primary.
    preferred: usize,
    /// Somebody was primary, or was meant not to be, at this time.
    primary_seen: u64,
    rests_until: u64,
    ticks: u64,
    asked_at: u64,
    rotation: usize,
    /// Since when two connected nodes are seen to have parted without saying so.
    parted_since: Option<u64>,
    resolve_at: u64,
    resolves: usize,
    /// Whose writes a split brain's end discards.
    discards_first: bool,
    /// A split brain was ended by command, and the two lines have not joined yet.
    pub(super) resolved: bool,
}

impl Caretaker {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut draws = Stream::new(plan.seed, Concern::Operator);
        Self {
            patience: draws.between(4, 20) * SECOND,
            preferred: draws.index(plan.nodes),
            primary_seen: 0,
            rests_until: 0,
            ticks: 0,
            asked_at: 0,
            rotation: 0,
            parted_since: None,
            resolve_at: 0,
            resolves: 0,
            discards_first: draws.chance(1, 2),
            resolved: false,
        }
    }

    pub(super) fn prefer(&mut self, node: usize) {
        self.preferred = node;
    }

    pub(super) fn rest_until(&mut self, until: u64) {
        self.rests_until = until;
    }
}

impl<E: Engine> World<'_, E> {
    /// The caretaker looks around.
    pub(super) fn tick(&mut self) {
        self.agenda.put(self.now + TICK, Due::Tick);
        for node in 0..self.plan.nodes {
            if !self.nodes[node].paused {
                self.look(node);
            }
        }
        self.dial();
        self.caretaker.ticks += 1;
        if self.caretaker.ticks.is_multiple_of(LOOK_EVERY) {
            self.check_holders();
        }
        self.check_patience();
        self.check_notices();
        self.advance_phase();
        if matches!(self.phase, Phase::Faults | Phase::Healing) {
            self.end_split_brain();
            self.give_up_unfit();
            self.see_to_a_primary();
            self.attach_clients();
        }
        if self.phase == Phase::Healing {
            self.mend_disks();
        }
    }

    /// While healing: a node whose disk failed in this run is restarted (its disk was replaced or mended). Metadata that
    /// cannot be opened are made anew, if another node has everything (`volume create --blank`).
    fn mend_disks(&mut self) {
        for node in 0..self.plan.nodes {
            let disk = self.nodes[node].status.as_ref().map(|status| status.disk);
            let broken = matches!(disk, Some(DiskState::Failed | DiskState::Diskless));
            if broken && self.now > self.nodes[node].started + 10 * SECOND {
                let mut draws = Stream::of_key(self.now);
                self.crash(node, &mut draws);
                if disk == Some(DiskState::Diskless)
                    && !self.plan.beyond_budget
                    && self.oracle.may_damage(node)
                {
                    self.oracle.damaged(node);
                    self.nodes[node].blank = true;
                }
                self.come_back(node, SECOND);
            }
        }
    }

    fn see_to_a_primary(&mut self) {
        let primary = (0..self.plan.nodes).any(|node| self.nodes[node].is_primary());
        if primary || self.now < self.caretaker.rests_until {
            self.caretaker.primary_seen = self.now;
            return;
        }
        if self.now < self.caretaker.asked_at + SECOND {
            return;
        }
        let busy = self.nodes.iter().any(|node| {
            node.runs()
                && !node.paused
                && node.commands.iter().any(|(_, command)| matches!(command, OperatorCommand::Primary(_)))
        });
        if busy && self.now < self.caretaker.asked_at + 20 * SECOND {
            return;
        }
        self.caretaker.asked_at = self.now;
        let waited = self.now - self.caretaker.primary_seen;
        if waited > self.caretaker.patience
            && let Some(node) = self.whom_to_force(waited > 3 * self.caretaker.patience)
        {
            let force = if self.plan.beyond_budget && waited > 3 * self.caretaker.patience {
                Force::Inconsistent
            } else {
                Force::Yes
            };
            self.command(node, OperatorCommand::Primary(force));
            return;
        }
        // The preferred node first, then every node in turn.
        let nodes = self.plan.nodes;
        let turn = self.caretaker.rotation;
        self.caretaker.rotation += 1;
        let node = (self.caretaker.preferred + turn / 2) % nodes;
        self.command(node, OperatorCommand::Primary(Force::No));
    }

    /// Whether whoever holds everything acknowledged cannot be used: half synced, and the others refuse to be its source
    /// (its data may be ahead of theirs). An operator gives up what only such a copy has, when nothing else helps.
    fn holders_are_unfit(&self) -> bool {
        self.nodes.iter().enumerate().all(|(node, this)| {
            let disk = this.status.as_ref().filter(|_| this.runs() && !this.paused).map(|status| status.disk);
            match disk {
                Some(DiskState::Inconsistent) => true,
                Some(_) => !self.oracle.holds(node),
                None => false,
            }
        })
    }

    /// A node that holds everything acknowledged; when none does, or none that can be used `at_last`, one that was in
    /// sync last.
    fn whom_to_force(&self, at_last: bool) -> Option<usize> {
        let usable = |node: &usize| {
            let this = &self.nodes[*node];
            let good = this.status.as_ref().is_some_and(|status| match status.disk {
                DiskState::UpToDate | DiskState::Consistent | DiskState::Outdated => true,
                DiskState::Inconsistent => self.plan.beyond_budget,
                DiskState::Diskless | DiskState::Failed => false,
            });
            this.runs() && !this.paused && good
        };
        let mut nodes: Vec<usize> = (0..self.plan.nodes).filter(usable).collect();
        if self.oracle.last_writer().is_none() {
            // Nothing was ever acknowledged: any will do, once all can be asked.
            return nodes
                .into_iter()
                .next()
                .filter(|_| (0..self.plan.nodes).all(|node| self.nodes[node].runs()));
        }
        let lost = self.oracle.nobody_holds() || (at_last && self.holders_are_unfit());
        let good = |node: usize| if lost { self.oracle.was_in_sync(node) } else { self.oracle.holds(node) };
        nodes.sort_by_key(|node| (!good(*node), self.oracle.last_writer() != Some(*node)));
        let best = *nodes.first()?;
        (good(best) || self.plan.beyond_budget).then_some(best)
    }

    pub(super) fn replication(&self, node: usize, peer: usize) -> Option<Replication> {
        let status = self.nodes[node].status.as_ref()?;
        let entry = status.peers.iter().find(|entry| peer_node(node, entry.index) == peer)?;
        entry.connected.then_some(entry.replication)
    }

    /// Whether a node says that its copy and that of a peer have parted, or never had anything in common.
    fn says_parted(&self, node: usize, peer: usize) -> bool {
        self.nodes[node].status.iter().flat_map(|status| &status.peers).any(|entry| {
            let parted = entry.replication == Replication::SplitBrain
                || matches!(entry.apart, Some(Verdict::Unrelated { .. }));
            parted && peer_node(node, entry.index) == peer
        })
    }

    /// Ends split brains by command, and complains of one that is not found (G6).
    fn end_split_brain(&mut self) {
        let mut parted = false;
        let mut told = Vec::new();
        for first in 0..self.plan.nodes {
            for second in first + 1..self.plan.nodes {
                let linked = self.replication(first, second).and(self.replication(second, first)).is_some();
                if linked && self.says_parted(first, second) && self.says_parted(second, first) {
                    told.push((first, second));
                } else if linked && self.oracle.have_parted(first, second) && !self.caretaker.resolved {
                    parted = true;
                }
            }
        }
        if !told.is_empty() && self.now >= self.caretaker.resolve_at {
            self.caretaker.resolve_at = self.now + 3 * SECOND;
            // One that gave its writes up for a second has still parted from the third: each pair has its turn.
            let (first, second) = told[self.caretaker.resolves % told.len()];
            self.caretaker.resolves += 1;
            self.resolve(first, second);
        }
        if !parted || self.nodes.iter().any(|node| node.paused) {
            self.caretaker.parted_since = None;
            return;
        }
        let since = *self.caretaker.parted_since.get_or_insert(self.now);
        if self.now > since + 90 * SECOND {
            let text =
                "two nodes have both written since a forced promotion, are connected, and do not say so";
            self.oracle.broken("O6", text.to_owned());
        }
    }

    /// A copy that is not complete and ahead of the primary's is refused until it is given up (G6): by command, once
    /// somebody else serves.
    fn give_up_unfit(&mut self) {
        for node in 0..self.plan.nodes {
            let Some(status) = &self.nodes[node].status else { continue };
            let unfit = status.peers.iter().find(|entry| {
                let refused = Verdict::Refused(Refusal::UnfitButAhead(Side::Mine));
                entry.apart == Some(refused) && self.nodes[peer_node(node, entry.index)].is_primary()
            });
            let Some(peer) = unfit.map(|entry| entry.index) else { continue };
            if self.now >= self.caretaker.resolve_at {
                self.caretaker.resolve_at = self.now + 3 * SECOND;
                self.command(node, OperatorCommand::Resolve { peer, discard: Discard::Own });
            }
        }
    }

    fn resolve(&mut self, first: usize, second: usize) {
        // Of two real lines either may go; if only one was answered for, that one stays, whoever of it is asked.
        let first_loses = match self.oracle.last_writer() {
            Some(last) if !self.oracle.is_split() => self.oracle.are_apart(last, first),
            _ => self.caretaker.discards_first,
        };
        let (loser, winner) = if first_loses { (first, second) } else { (second, first) };
        let primary = self.nodes[loser].status.as_ref().is_some_and(|status| status.role == Role::Primary);
        if primary {
            self.command(loser, OperatorCommand::Secondary { force: true });
        } else {
            let peer = peer_index(loser, winner);
            self.command(loser, OperatorCommand::Resolve { peer, discard: Discard::Own });
        }
    }
}
