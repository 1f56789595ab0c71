//! Which nodes hold every acknowledged write, and what may be lost because none does any more.
//!
//! The contract (design section 2) says what a reply promises; this file turns it into a set. After each reply
//! the *holders* are the nodes whose copy has everything replied to: on C and B the primary and every in-sync
//! peer, on A the primary. A holder that loses power, or whose copy is damaged, holds no longer (on B a peer
//! whose process dies, too). While there is a holder, nothing replied may be missing from it; when the last one
//! goes, the licence to lose is recorded, and the floor of flushed writes is what remains owed by the nodes that
//! were in sync.

use evenkeel_core::volume::{DiskState, config::Protocol};

use super::cut::Demand;

/// A set of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct NodeSet(u8);

impl NodeSet {
    pub(crate) fn only(node: usize) -> Self {
        Self(1 << node)
    }

    pub(crate) fn insert(&mut self, node: usize) {
        self.0 |= 1 << node;
    }

    pub(crate) fn remove(&mut self, node: usize) {
        self.0 &= !(1 << node);
    }

    pub(crate) fn has(self, node: usize) -> bool {
        self.0 & (1 << node) != 0
    }

    pub(crate) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(crate) fn both(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it has anybody but `node`.
    pub(crate) fn others_than(self, node: usize) -> bool {
        self.0 & !(1 << node) != 0
    }
}

/// What a new primary's image is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    /// Everything acknowledged.
    Everything,
    /// What a loss leaves owed.
    Loss(Demand),
    /// Order, and no more lost than the lag that the settings allow (protocol A).
    Lag,
    /// Nothing: a fault took the last good copy (rule O12).
    Nothing,
}

/// The holders.
#[derive(Debug)]
pub(crate) struct Copies {
    protocol: Protocol,
    /// Who holds everything acknowledged.
    pub(crate) holders: NodeSet,
    /// Who was in sync at the last acknowledgement, whatever happened since.
    pub(crate) in_sync: NodeSet,
    /// Which of them has, in its memory at least, everything that it was sent until then.
    intact: NodeSet,
    /// Who had part in the last acknowledgement, or has caught up since, whatever became of its copy: no generation was
    /// begun without it.
    counted: NodeSet,
    /// Whose copy calls itself half synced or failed, as far as is known: it may hold everything, and is no good copy.
    unfit: NodeSet,
    /// Whose last resync ended in the middle: everybody may copy into it, and only what it is then can be said of it.
    half_synced: NodeSet,
    /// The last good copy was damaged.
    damaged: bool,
    /// How often each node lost its memory (on B: or its process).
    losses: Vec<u32>,
    /// `seen[p][s]`: the losses of `s` when primary `p` first saw it in sync; `None` while it does not.
    seen: Vec<Vec<Option<u32>>>,
}

impl Copies {
    pub(crate) fn new(nodes: usize, protocol: Protocol) -> Self {
        let mut everybody = NodeSet::default();
        (0..nodes).for_each(|node| everybody.insert(node));
        Self {
            protocol,
            holders: everybody,
            in_sync: everybody,
            intact: everybody,
            counted: everybody,
            unfit: NodeSet::default(),
            half_synced: NodeSet::default(),
            damaged: false,
            losses: vec![0; nodes],
            seen: vec![vec![None; nodes]; nodes],
        }
    }

    /// A node says of another that it is in sync with it, or not.
    pub(crate) fn sees(&mut self, node: usize, peer: usize, in_sync: bool) {
        let seen = &mut self.seen[node][peer];
        if in_sync {
            seen.get_or_insert(self.losses[peer]);
        } else {
            *seen = None;
        }
    }

    /// Whom a primary has in sync, as far as it knows.
    pub(crate) fn seen_by(&self, primary: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.losses.len()).filter(move |peer| self.seen[primary][*peer].is_some())
    }

    /// A node's engine is gone; it sees nobody.
    pub(crate) fn forgets(&mut self, node: usize) {
        self.seen[node].fill(None);
    }

    /// A resync has ended: the target has what the source has. Of a primary (`serves`) it has that only on C for
    /// certain: on B what was replied to meanwhile may only have reached its memory, on A not even that.
    pub(crate) fn copied(&mut self, from: usize, to: usize, serves: bool) {
        let everything = match self.protocol {
            Protocol::A | Protocol::B => !serves,
            Protocol::C => true,
        };
        if self.holders.has(from) && everything {
            self.holders.insert(to);
        } else if !self.holders.has(from) && self.half_synced.has(to) {
            // It may have held everything by chance. (A copy that was whole must not be overwritten by one that is not.)
            self.holders.remove(to);
        }
        self.half_synced.remove(to);
        if self.in_sync.has(from) {
            self.in_sync.insert(to);
        }
        if self.intact.has(from) {
            self.intact.insert(to);
        } else {
            self.intact.remove(to);
        }
        if self.counted.has(from) {
            self.counted.insert(to);
        }
    }

    /// A resync into a node ended in the middle.
    pub(crate) fn interrupted(&mut self, node: usize) {
        self.half_synced.insert(node);
    }

    /// Of two lines with writes of their own `loser` gives up its own for that of `node`.
    pub(crate) fn gives_up(&mut self, node: usize, loser: usize) {
        if !self.holders.has(node) {
            self.holders.remove(loser);
        }
    }

    /// The primary has acknowledged a write; `own_disk`: its own copy counts.
    pub(crate) fn acknowledged(&mut self, primary: usize, own_disk: bool) {
        let mut in_sync = NodeSet::default();
        let mut intact = NodeSet::default();
        if own_disk {
            in_sync.insert(primary);
            intact.insert(primary);
        }
        for (peer, seen) in self.seen[primary].iter().enumerate() {
            if let Some(losses) = seen {
                in_sync.insert(peer);
                if *losses == self.losses[peer] {
                    intact.insert(peer);
                }
            }
        }
        self.holders = match self.protocol {
            Protocol::A if own_disk => NodeSet::only(primary),
            Protocol::A | Protocol::B | Protocol::C => intact,
        };
        (self.in_sync, self.intact) = (in_sync, intact);
        self.counted = in_sync;
        self.damaged = false;
    }

    /// A machine lost power.
    pub(crate) fn lost_power(&mut self, node: usize) {
        self.losses[node] += 1;
        self.holders.remove(node);
        self.intact.remove(node);
    }

    /// A process died; on B a peer may have had replied writes only in its memory.
    pub(crate) fn died(&mut self, node: usize, was_primary: bool) {
        if self.protocol == Protocol::B && !was_primary {
            self.losses[node] += 1;
            self.holders.remove(node);
        }
    }

    /// A node's copy is damaged, or may be.
    pub(crate) fn damage(&mut self, node: usize) {
        self.losses[node] += 1;
        let was_last = !self.holders.others_than(node) && self.in_sync.has(node);
        self.holders.remove(node);
        self.in_sync.remove(node);
        self.intact.remove(node);
        if was_last {
            self.damaged = true;
        }
    }

    /// What a node's copy calls itself; `linked`: there is a peer on a link, whose target it may be about to become.
    pub(crate) fn shows(&mut self, node: usize, disk: DiskState, linked: bool) {
        match disk {
            DiskState::Inconsistent | DiskState::Failed => self.unfit.insert(node),
            DiskState::Outdated | DiskState::Consistent if linked => self.unfit.insert(node),
            DiskState::Outdated | DiskState::Consistent | DiskState::UpToDate => self.unfit.remove(node),
            // Not read yet, or not there: what was seen of it last is still true.
            DiskState::Diskless => {}
        }
    }

    /// Whether a node's copy may be damaged without taking the last good one. The target of a resync is none, even if
    /// it happens to have everything: it may not be promoted while its source is gone.
    pub(crate) fn may_damage(&self, node: usize) -> bool {
        self.holders.without(self.unfit).others_than(node)
    }

    /// Whether something was acknowledged without this node, so that its history and the other's have parted if it goes
    /// on by itself. (On A it may lag behind what was: that is no history of its own.)
    pub(crate) fn went_on_without(&self, node: usize) -> bool {
        !self.counted.has(node)
    }

    /// What the image of a node that becomes primary is held to; `forced`: what its copy called itself before force was
    /// used.
    pub(crate) fn standard(&self, node: usize, forced: Option<DiskState>) -> Standard {
        match self.standard_of_whole(node, forced.is_some()) {
            // A resync or a failed flush has left a mixture of old and new: only who calls itself Consistent or UpToDate
            // is a cut, so `--force=inconsistent` finds none.
            Standard::Loss(Demand::Cut) | Standard::Lag if forced == Some(DiskState::Inconsistent) => {
                Standard::Nothing
            }
            owed => owed,
        }
    }

    fn standard_of_whole(&self, node: usize, forced: bool) -> Standard {
        if self.damaged {
            Standard::Nothing
        } else if self.holders.has(node) {
            Standard::Everything
        } else if self.holders.is_empty() {
            match (self.in_sync.has(node), self.protocol) {
                (true, Protocol::A) if self.in_sync.others_than(node) => Standard::Loss(Demand::Cut),
                (true, _) => Standard::Loss(Demand::Floor),
                (false, _) if forced => Standard::Loss(Demand::Cut),
                (false, _) => Standard::Loss(Demand::Floor),
            }
        } else if forced && self.protocol == Protocol::A && self.in_sync.both(self.intact).has(node) {
            Standard::Lag
        } else if forced {
            Standard::Loss(Demand::Cut)
        } else {
            Standard::Everything
        }
    }

    /// The truth is settled on this node's image; `parts`: from everybody but these, who get its generation with it.
    pub(crate) fn settle(&mut self, node: usize, parts: Option<NodeSet>) {
        self.holders = NodeSet::only(node);
        self.in_sync = NodeSet::only(node);
        self.intact = NodeSet::only(node);
        if let Some(with_it) = parts {
            self.counted = with_it;
        }
        self.counted.insert(node);
        self.damaged = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy that is good, and perhaps not the newest.
    const FORCED: Option<DiskState> = Some(DiskState::Consistent);

    #[test]
    fn a_peer_that_lost_power_unnoticed_does_not_hold() {
        let mut copies = Copies::new(2, Protocol::C);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        assert!(copies.holders.has(1));
        copies.lost_power(1);
        copies.acknowledged(0, true);
        assert!(!copies.holders.has(1), "the primary has not noticed yet");
        copies.sees(0, 1, false);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        assert!(copies.holders.has(1));
    }

    #[test]
    fn the_standard_follows_the_contract() {
        let mut copies = Copies::new(2, Protocol::C);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        copies.lost_power(0);
        assert_eq!(copies.standard(1, FORCED), Standard::Everything, "the peer kept power");
        assert_eq!(copies.standard(0, None), Standard::Everything, "so the primary must not go first");
        copies.lost_power(1);
        assert_eq!(copies.standard(0, None), Standard::Loss(Demand::Floor));

        let mut alone = Copies::new(2, Protocol::C);
        alone.acknowledged(0, true);
        assert_eq!(alone.standard(1, FORCED), Standard::Loss(Demand::Cut), "force on an old copy");
        assert_eq!(alone.standard(1, None), Standard::Everything);
        alone.damage(0);
        assert_eq!(alone.standard(1, FORCED), Standard::Nothing);

        let mut behind = Copies::new(2, Protocol::A);
        behind.sees(0, 1, true);
        behind.acknowledged(0, true);
        assert_eq!(behind.standard(1, FORCED), Standard::Lag, "force on a copy that only lags");
        behind.lost_power(1);
        assert_eq!(behind.standard(1, FORCED), Standard::Loss(Demand::Cut), "its memory is gone too");
    }

    #[test]
    fn of_an_inconsistent_copy_no_cut_is_owed() {
        let inconsistent = Some(DiskState::Inconsistent);
        for protocol in [Protocol::A, Protocol::B, Protocol::C] {
            let mut copies = Copies::new(2, protocol);
            copies.acknowledged(0, true);
            for last_one_gone in [false, true] {
                if last_one_gone {
                    copies.lost_power(0);
                }
                assert_eq!(copies.standard(1, FORCED), Standard::Loss(Demand::Cut), "an old copy is whole");
                assert_eq!(copies.standard(1, inconsistent), Standard::Nothing, "a half synced one is not");
            }
            // Who was in sync last has everything that was flushed, whatever else was written over it since.
            assert_eq!(copies.standard(0, inconsistent), Standard::Loss(Demand::Floor));
        }
        let mut holds = Copies::new(2, Protocol::C);
        holds.sees(0, 1, true);
        holds.acknowledged(0, true);
        assert_eq!(holds.standard(1, inconsistent), Standard::Everything, "and who holds everything owes it");
    }

    #[test]
    fn a_target_is_no_copy_to_fall_back_on() {
        let mut copies = Copies::new(2, Protocol::C);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        assert!(copies.may_damage(0));
        copies.shows(1, DiskState::Inconsistent, true);
        copies.shows(1, DiskState::Diskless, false);
        assert!(!copies.may_damage(0), "the other one is half synced");
        copies.shows(1, DiskState::Consistent, true);
        assert!(!copies.may_damage(0), "it may be so at any moment");
        copies.shows(1, DiskState::Consistent, false);
        assert!(copies.may_damage(0));
    }

    #[test]
    fn a_half_synced_copy_that_held_everything_holds_what_its_next_source_does() {
        for half_synced in [false, true] {
            let mut copies = Copies::new(3, Protocol::C);
            copies.lost_power(1);
            if half_synced {
                copies.interrupted(2);
            }
            copies.copied(1, 2, false);
            assert_eq!(copies.holders.has(2), !half_synced, "who overwrites a whole copy is found by it");
        }
    }

    #[test]
    fn on_a_a_peer_may_lag_and_on_b_its_memory_counts() {
        let mut copies = Copies::new(2, Protocol::A);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        assert_eq!(copies.standard(1, FORCED), Standard::Lag);
        let mut copies = Copies::new(2, Protocol::B);
        copies.sees(0, 1, true);
        copies.acknowledged(0, true);
        copies.died(1, false);
        assert!(!copies.holders.has(1));
    }
}
