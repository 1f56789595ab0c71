//! Everything that the cluster and its operator can do, one atomic step at a time.
//!
//! A step changes durable state as one superblock write would, so a crash can fall between any two of them.

use super::effects::id;
use super::{BLOCKS, Link, NODES, Node, Pending, Setup, World, bit};
use evenkeel_core::generation::verdict::{Clause, Side, Verdict};
use evenkeel_core::generation::view::{Copy, Power, Replies, Wish};

/// How a node becomes primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// `primary` with every peer in sync.
    Plan,
    /// P7: only its process died.
    Resuming,
    /// `--force`, also `--force=inconsistent`.
    Force,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Promote(u8, By),
    /// A write by a primary; `applied` are the nodes that have it at first.
    Write {
        primary: u8,
        block: u8,
        applied: u8,
    },
    Apply(u8),
    Flush(u8),
    /// Everybody flushes, the primary empties its activity log (protocol A does not wait for this).
    Settle(u8),
    /// A secondary's activity log is emptied (three nodes).
    Release(u8),
    Demote(u8),
    LoseLink(u8, u8),
    Begin(u8),
    TakeOffer(u8, u8),
    AnswerOffer(u8, u8),
    /// The process dies and is started again.
    Restart(u8),
    /// The machine loses power and comes back; `kept` are blocks of which the cache had been written back.
    LosePower {
        node: u8,
        kept: u8,
    },
    Connect(u8, u8),
    Resolve {
        discard: u8,
        keep: u8,
    },
    CopyBlock {
        from: u8,
        to: u8,
        block: u8,
        stable: bool,
    },
    CountTarget(u8, u8),
    TakeHead(u8, u8),
    CloseBase(u8, u8),
    Blank {
        node: u8,
        fresh: bool,
    },
    Invalidate(u8),
    TakeSnapshot(u8),
    RestoreSnapshot,
}

/// All steps that could ever be possible in `setup`.
pub(crate) fn all_steps(setup: &Setup) -> Vec<Step> {
    let mut steps = Vec::new();
    let nodes = setup.nodes as u8;
    let subsets = 1_u8 << setup.blocks;
    for n in 0..nodes {
        for by in [By::Plan, By::Resuming, By::Force] {
            steps.push(Step::Promote(n, by));
        }
        for block in 0..setup.blocks as u8 {
            steps.extend((1..1_u8 << nodes).map(|applied| Step::Write { primary: n, block, applied }));
        }
        steps.extend([Step::Apply(n), Step::Flush(n), Step::Settle(n), Step::Release(n), Step::Demote(n)]);
        steps.extend([Step::Begin(n), Step::Restart(n)]);
        steps.extend((0..subsets).map(|kept| Step::LosePower { node: n, kept }));
        if setup.blanking {
            steps.extend([true, false].map(|fresh| Step::Blank { node: n, fresh }));
            steps.push(Step::Invalidate(n));
        }
        if setup.snapshots {
            steps.push(Step::TakeSnapshot(n));
        }
        for m in 0..nodes {
            if m == n {
                continue;
            }
            if n < m {
                steps.extend([Step::LoseLink(n, m), Step::Connect(n, m)]);
            }
            steps.push(Step::Resolve { discard: n, keep: m });
            steps.extend([Step::TakeOffer(n, m), Step::AnswerOffer(n, m)]);
            steps.extend([Step::CountTarget(n, m), Step::TakeHead(n, m), Step::CloseBase(n, m)]);
            for block in 0..setup.blocks as u8 {
                steps.extend([false, true].map(|stable| Step::CopyBlock { from: n, to: m, block, stable }));
            }
        }
    }
    if setup.snapshots {
        steps.push(Step::RestoreSnapshot);
    }
    steps
}

impl World {
    /// The world after `step`, or nothing if it is not possible here.
    pub(crate) fn after(&self, setup: &Setup, step: Step) -> Option<Self> {
        let mut w = *self;
        w.take(setup, step).then_some(w)
    }

    fn take(&mut self, setup: &Setup, step: Step) -> bool {
        let room = self.live_generations() < usize::from(setup.generations);
        let ns = usize::from;
        match step {
            Step::Promote(n, by) => {
                let n = ns(n);
                let node = self.nodes[n];
                let good = node.copy == Copy::Good;
                let linked = |q: usize| match self.link(n, q) {
                    Link::Synced => true,
                    Link::Copying { from } => ns(from) == n,
                    Link::Down | Link::Counted { .. } | Link::Taken { .. } => false,
                };
                let allowed = match by {
                    By::Plan => good && self.peers(setup, n).all(linked),
                    By::Resuming => good && node.crashed && node.power != Power::Lost,
                    By::Force => node.copy != Copy::Fresh,
                };
                let free = !node.serving && !self.serving_peer(setup, n);
                let busy = self.peers(setup, n).any(|q| match self.link(n, q) {
                    Link::Copying { from } | Link::Counted { from } | Link::Taken { from } => ns(from) != n,
                    Link::Down | Link::Synced => false,
                });
                let halfway = self.peers(setup, n).any(|q| {
                    matches!(self.link(n, q), Link::Counted { .. } | Link::Taken { .. })
                        || (self.link(n, q) == Link::Synced && self.nodes[q].head() != node.head())
                });
                if !allowed || !free || busy || halfway || !room {
                    return false;
                }
                if by == By::Force {
                    self.forfeit(|w, write| w.writes[write].crew & bit(n) != 0 && !w.has(n, write));
                }
                let node = &mut self.nodes[n];
                node.term = (node.term.0.max(1) + 1, n as u8);
                (node.serving, node.crashed, node.copy, node.torn) = (true, true, Copy::Good, false);
                self.begin_generation(setup, n);
                true
            }
            Step::Write { primary, block, applied } => {
                let p = ns(primary);
                let counted = self.counted(setup, p);
                if !self.may_reply(setup, p)
                    || self.pending.is_some()
                    || self.live_writes() >= usize::from(setup.writes)
                    || applied & !counted != 0
                {
                    return false;
                }
                let version = self.new_write(p, ns(block));
                // D7: the extent is in the log before the write is submitted or sent.
                self.nodes[p].log |= bit(ns(block));
                for n in (0..setup.nodes).filter(|n| applied & bit(*n) != 0) {
                    self.apply_write(setup, p, n, version);
                }
                self.pending = Some(Pending { write: version, primary, applied });
                self.try_reply(setup);
                true
            }
            Step::Apply(n) => {
                let n = ns(n);
                let Some(pending) = self.pending else { return false };
                let p = ns(pending.primary);
                if pending.applied & bit(n) != 0 || self.counted(setup, p) & bit(n) == 0 {
                    return false;
                }
                self.apply_write(setup, p, n, pending.write);
                self.pending = Some(Pending { applied: pending.applied | bit(n), ..pending });
                self.try_reply(setup);
                true
            }
            Step::Flush(p) | Step::Settle(p) => {
                let p = ns(p);
                let settle = matches!(step, Step::Settle(_));
                // On protocol A a flush does not wait for the peers.
                let lag = setup.replies == Replies::Ahead
                    && !settle
                    && self.pending.is_some_and(|pending| self.writes[ns(pending.write) - 1].acked);
                if !self.may_reply(setup, p) || (self.pending.is_some() && !lag) {
                    return false;
                }
                match (setup.replies, settle) {
                    (Replies::Together, true) => return false,
                    (Replies::Ahead, false) => self.stabilise(p),
                    (Replies::Together, false) | (Replies::Ahead, true) => {
                        let counted = self.counted(setup, p);
                        (0..setup.nodes).filter(|n| counted & bit(*n) != 0).for_each(|n| self.stabilise(n));
                        self.empty_log(setup, p, counted);
                    }
                }
                self.mark_durable(p);
                true
            }
            Step::Release(q) => {
                let q = ns(q);
                let told = self.peers(setup, q).find(|p| {
                    let counted = self.counted(setup, *p);
                    let stable = |n: usize| self.nodes[n].cache == self.nodes[n].stable;
                    self.nodes[*p].serving
                        && self.link(*p, q) == Link::Synced
                        && (0..setup.nodes).filter(|n| counted & bit(*n) != 0).all(stable)
                });
                let Some(p) = told else { return false };
                if self.nodes[q].log == 0 || self.pending.is_some() {
                    return false;
                }
                let counted = self.counted(setup, p);
                self.empty_log(setup, q, counted);
                true
            }
            Step::Demote(p) => {
                let p = ns(p);
                if !self.may_reply(setup, p) || self.pending.is_some() {
                    return false;
                }
                let counted = self.counted(setup, p);
                for n in (0..setup.nodes).filter(|n| counted & bit(*n) != 0) {
                    self.stabilise(n);
                    self.empty_log(setup, n, counted);
                }
                self.mark_durable(p);
                (self.nodes[p].serving, self.nodes[p].crashed) = (false, false);
                true
            }
            Step::LoseLink(a, b) => {
                if self.link(ns(a), ns(b)) == Link::Down {
                    return false;
                }
                self.cut(ns(a), ns(b));
                true
            }
            Step::Begin(p) => {
                let p = ns(p);
                // R6 is not interrupted by a new generation: the target would take one that is no longer the head.
                let ending = self
                    .peers(setup, p)
                    .any(|q| matches!(self.link(p, q), Link::Counted { .. } | Link::Taken { .. }));
                if !self.nodes[p].serving || !self.nodes[p].must_begin || ending || !room {
                    return false;
                }
                self.begin_generation(setup, p);
                self.try_reply(setup);
                true
            }
            Step::TakeOffer(p, q) => {
                let (p, q) = (ns(p), ns(q));
                let (old, new) = (self.nodes[q].head(), self.nodes[p].head());
                if self.link(p, q) != Link::Synced || !self.nodes[p].serving || old == new {
                    return false;
                }
                for r in self.peers(setup, q).filter(|r| *r != p) {
                    let offered = self.link(p, r) == Link::Synced;
                    if !offered {
                        // It is not in sync with a node that is left behind.
                        self.cut(q, r);
                    }
                    let changed = self.standing(q, r).head_changed(id(old), id(new), offered);
                    self.set_standing(q, r, changed);
                    if !offered && self.nodes[q].about[r].standing != 0 {
                        self.nodes[q].about[r].bits |= self.nodes[q].log;
                    }
                }
                self.set_standing(q, p, evenkeel_core::generation::record::Standing::InSync);
                let mut history = self.history(q);
                history.adopt(&self.history(p), &self.windows(q));
                self.set_history(q, &history);
                self.stabilise(q);
                self.nodes[q].term = self.nodes[p].term;
                (self.nodes[q].power, self.nodes[q].noted) = (Power::SameRun, false);
                self.nodes[q].crashed = false;
                true
            }
            Step::AnswerOffer(p, q) => {
                let (p, q) = (ns(p), ns(q));
                let same = self.nodes[p].head() == self.nodes[q].head();
                if self.link(p, q) != Link::Synced
                    || !self.nodes[p].serving
                    || !same
                    || self.nodes[p].about[q].standing == 1
                {
                    return false;
                }
                let standing = self.standing(p, q).caught_up();
                self.set_standing(p, q, standing);
                self.nodes[p].about[q].solo = false;
                self.try_reply(setup);
                true
            }
            Step::Restart(n) => {
                let n = ns(n);
                self.stop(setup, n);
                if self.nodes[n].power == Power::SameRun {
                    self.nodes[n].power = Power::SameBoot;
                }
                self.attach(setup, n);
                true
            }
            Step::LosePower { node, kept } => {
                let n = ns(node);
                let changed = (0..BLOCKS).filter(|b| self.nodes[n].cache[*b] != self.nodes[n].stable[*b]);
                let changed = changed.fold(0, |all, b| all | bit(b));
                if kept & !changed != 0 {
                    return false;
                }
                self.writes.iter_mut().filter(|write| write.acked).for_each(|write| write.unlucky |= bit(n));
                self.stop(setup, n);
                let node = &mut self.nodes[n];
                for block in 0..BLOCKS {
                    if kept & bit(block) == 0 {
                        node.cache[block] = node.stable[block];
                    }
                }
                if !node.noted {
                    node.power = Power::Lost;
                }
                self.attach(setup, n);
                true
            }
            Step::Connect(a, b) => {
                let (a, b) = (ns(a), ns(b));
                if self.link(a, b) != Link::Down {
                    return false;
                }
                let verdict = self.verdict(setup, a, b, [Wish::Nothing; 2]);
                if matches!(verdict, Verdict::FreshPair { .. }) && !room {
                    return false;
                }
                if let Verdict::Resync { source, .. } = verdict {
                    let t = if source == Side::Mine { b } else { a };
                    if self.peers(setup, t).any(|p| self.link(t, p) == Link::Synced && self.nodes[p].serving)
                    {
                        // In sync with a primary: nobody else makes it a target.
                        return false;
                    }
                }
                self.carry_out(setup, a, b, verdict);
                true
            }
            Step::Resolve { discard, keep } => {
                let (t, s) = (ns(discard), ns(keep));
                if self.link(t, s) != Link::Down {
                    return false;
                }
                let verdict = self.verdict(setup, t, s, [Wish::Discard, Wish::Nothing]);
                match verdict {
                    Verdict::Resync { clause: Clause::Discarded, .. } => {
                        self.forfeit(|w, write| w.has(t, write) && !w.has(s, write));
                        self.carry_out(setup, t, s, verdict);
                        true
                    }
                    Verdict::NoSync
                    | Verdict::FreshPair { .. }
                    | Verdict::NoCopy(_)
                    | Verdict::Resync { .. }
                    | Verdict::SplitBrain { .. }
                    | Verdict::Unrelated { .. }
                    | Verdict::Refused(_) => false,
                }
            }
            Step::CopyBlock { from, to, block, stable } => {
                let (s, t, b) = (ns(from), ns(to), ns(block));
                let set = self.nodes[s].about[t].bits | self.nodes[t].about[s].bits;
                if self.link(s, t) != (Link::Copying { from }) || set & bit(b) == 0 {
                    return false;
                }
                let version = self.nodes[s].cache[b];
                if self.nodes[t].cache[b] != version {
                    // G9: a write like any other; where the checksums agree nothing is written.
                    for r in self.peers(setup, t).filter(|r| *r != s) {
                        if self.nodes[t].about[r].standing != 0 {
                            self.nodes[t].about[r].bits |= bit(b);
                        }
                    }
                }
                self.nodes[t].cache[b] = version;
                if stable {
                    self.nodes[t].stable[b] = version;
                    self.nodes[s].about[t].bits &= !bit(b);
                    self.nodes[t].about[s].bits &= !bit(b);
                }
                true
            }
            Step::CountTarget(s, t) => {
                let (from, s, t) = (s, ns(s), ns(t));
                let writing = self.pending.is_some_and(|pending| ns(pending.primary) == s);
                if self.link(s, t) != (Link::Copying { from }) || !self.may_end(setup, s, t) || writing {
                    return false;
                }
                let standing = self.standing(s, t).begin_as_source(&self.history(s), self.history(t).key());
                self.set_standing(s, t, standing);
                self.set_link(s, t, Link::Counted { from });
                true
            }
            Step::TakeHead(s, t) => {
                let (from, s, t) = (s, ns(s), ns(t));
                let counted = self.link(s, t) == Link::Counted { from };
                let proposed = self.link(s, t) == (Link::Taken { from }) && self.nodes[t].copy == Copy::Fresh;
                if !(proposed || counted && self.may_end(setup, s, t)) {
                    return false;
                }
                let (old, new) = (self.nodes[t].head(), self.nodes[s].head());
                for r in self.peers(setup, t).filter(|r| *r != s) {
                    if old != 0 && old != new {
                        let changed = self.standing(t, r).head_changed(id(old), id(new), false);
                        self.set_standing(t, r, changed);
                    }
                    self.nodes[t].about[r].solo = self.nodes[s].about[r].solo;
                }
                self.set_standing(t, s, evenkeel_core::generation::record::Standing::InSync);
                let mut history = self.history(t);
                history.adopt(&self.history(s), &self.windows(t));
                self.set_history(t, &history);
                self.stabilise(t);
                if let Some(pending) = self.pending {
                    // Protocol A: from here on a write that is under way is lag of a node in sync.
                    let write = &mut self.writes[ns(pending.write) - 1];
                    write.crew |= if write.acked { bit(t) } else { 0 };
                }
                let power = match self.nodes[s].power {
                    Power::Lost => Power::Lost,
                    Power::SameRun | Power::SameBoot => Power::SameRun,
                };
                self.empty_log(setup, t, bit(s));
                let target = &mut self.nodes[t];
                (target.copy, target.torn, target.crashed) = (Copy::Good, false, false);
                (target.power, target.noted) = (power, false);
                self.nodes[t].term = self.nodes[t].term.max(self.nodes[s].term);
                self.set_link(s, t, Link::Taken { from });
                true
            }
            Step::CloseBase(s, t) => {
                let (from, s, t) = (s, ns(s), ns(t));
                if self.link(s, t) != (Link::Taken { from }) || self.nodes[t].copy != Copy::Good {
                    return false;
                }
                if self.nodes[t].head() != self.nodes[s].head() {
                    return false;
                }
                self.in_sync(s, t);
                if !self.nodes[s].serving {
                    self.nodes[s].crashed = false;
                }
                self.try_reply(setup);
                true
            }
            Step::Blank { node, fresh } => {
                let n = ns(node);
                if self.nodes[n].copy == Copy::Fresh {
                    return false;
                }
                self.stop(setup, n);
                self.forfeit(|w, write| w.writes[write].crew == bit(n) || !w.held_elsewhere(setup, n, write));
                self.nodes[n] = Node::FRESH;
                if !fresh {
                    self.spoil(setup, n);
                }
                true
            }
            Step::Invalidate(n) => {
                let n = ns(n);
                let node = &self.nodes[n];
                let linked = self.peers(setup, n).any(|q| self.link(n, q) != Link::Down);
                if node.serving || node.copy != Copy::Good || linked {
                    return false;
                }
                self.forfeit(|w, write| w.writes[write].crew == bit(n) || !w.held_elsewhere(setup, n, write));
                self.spoil(setup, n);
                true
            }
            Step::TakeSnapshot(n) => {
                let n = ns(n);
                if self.snapshot.is_some() || self.snapshot_used || self.nodes[n].copy == Copy::Fresh {
                    return false;
                }
                self.snapshot = Some((n as u8, self.nodes[n]));
                self.nodes[n].attach += 1;
                for q in self.peers(setup, n) {
                    if self.link(n, q) != Link::Down {
                        self.nodes[q].about[n].seen = self.nodes[n].attach;
                    }
                }
                true
            }
            Step::RestoreSnapshot => {
                let Some((n, taken)) = self.snapshot else { return false };
                let n = ns(n);
                self.stop(setup, n);
                self.writes.iter_mut().filter(|write| write.acked).for_each(|write| write.unlucky |= bit(n));
                self.forfeit(|w, write| w.writes[write].crew == bit(n) || !w.held_elsewhere(setup, n, write));
                self.nodes[n] = Node { serving: false, must_begin: false, ..taken };
                self.nodes[n].stable = taken.cache;
                if taken.power == Power::SameRun {
                    self.nodes[n].power = Power::SameBoot;
                }
                for q in 0..NODES {
                    self.nodes[n].about[q].solo |= self.nodes[q].about[n].solo;
                }
                self.attach(setup, n);
                (self.snapshot, self.snapshot_used) = (None, true);
                true
            }
        }
    }
}
