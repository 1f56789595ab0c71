//! What the steps have in common: what a node may do, what happens to links, and how a verdict is carried out.

use super::{About, BLOCKS, GENERATIONS, Link, NODES, Setup, WRITES, World, bit};
use evenkeel_core::generation::decide::{decide, must_suspend};
use evenkeel_core::generation::verdict::{Extent, Side, Verdict};
use evenkeel_core::generation::view::{Copy, Power, Replies, Wish};
use evenkeel_core::ids::GenerationId;

impl World {
    pub(super) fn peers(&self, setup: &Setup, n: usize) -> impl Iterator<Item = usize> + use<> {
        (0..setup.nodes).filter(move |peer| *peer != n)
    }

    /// Those that must have a write of `p` before it is replied to, itself included.
    pub(super) fn counted(&self, setup: &Setup, p: usize) -> u8 {
        self.peers(setup, p)
            .filter(|q| match self.link(p, *q) {
                Link::Synced => true,
                Link::Counted { from } | Link::Taken { from } => usize::from(from) == p,
                Link::Down | Link::Copying { .. } => false,
            })
            .fold(bit(p), |all, q| all | bit(q))
    }

    /// G1: whether `p` may reply to anything.
    pub(super) fn may_reply(&self, setup: &Setup, p: usize) -> bool {
        let node = &self.nodes[p];
        node.serving
            && !node.must_begin
            && self.peers(setup, p).all(|q| self.link(p, q) != Link::Synced || node.about[q].standing == 1)
    }

    /// P3: a peer is primary, or has one.
    pub(super) fn serving_peer(&self, setup: &Setup, n: usize) -> bool {
        let primary = |p: usize| self.nodes[p].serving;
        self.peers(setup, n).filter(|q| self.link(n, *q) != Link::Down).any(|q| {
            primary(q) || self.peers(setup, q).any(|p| p != n && primary(p) && self.link(q, p) != Link::Down)
        })
    }

    /// G1: a new generation on `n`, offered to every peer in sync.
    pub(super) fn begin_generation(&mut self, setup: &Setup, n: usize) {
        self.stabilise(n);
        let term = self.nodes[n].term.0;
        let new = self.mint(n, term);
        let old = self.nodes[n].head();
        for q in self.peers(setup, n) {
            let offered = self.link(n, q) == Link::Synced;
            if old != 0 {
                let changed = self.standing(n, q).head_changed(id(old), id(new), offered);
                self.set_standing(n, q, changed);
            }
            if !offered && self.nodes[n].about[q].standing != 0 {
                self.nodes[n].about[q].bits |= self.nodes[n].log;
            }
        }
        let mut history = self.history(n);
        history.push(self.generation(new), &self.windows(n));
        self.set_history(n, &history);
        self.nodes[n].must_begin = false;
        (self.nodes[n].power, self.nodes[n].noted) = (Power::SameRun, false);
        for q in self.peers(setup, n) {
            self.nodes[n].about[q].solo = true;
        }
    }

    /// Replies to the pending write if everything that is needed is there.
    pub(super) fn try_reply(&mut self, setup: &Setup) {
        let Some(pending) = self.pending else { return };
        let p = usize::from(pending.primary);
        let counted = self.counted(setup, p);
        let complete = pending.applied & counted == counted;
        let enough = match setup.replies {
            Replies::Together => complete,
            Replies::Ahead => pending.applied & bit(p) != 0,
        };
        let write = &mut self.writes[usize::from(pending.write) - 1];
        if enough && !write.acked && self.may_reply(setup, p) {
            let write = &mut self.writes[usize::from(pending.write) - 1];
            write.acked = true;
            // One that is counted but whose resync has not ended vouches for nothing yet.
            write.crew = (0..NODES).filter(|n| !self.nodes[*n].torn).fold(0, |all, n| all | bit(n)) & counted;
        }
        if complete && self.writes[usize::from(pending.write) - 1].acked {
            self.pending = None;
        }
    }

    /// One node applies a write: data, activity log, bits for those that lack it (G9).
    pub(super) fn apply_write(&mut self, setup: &Setup, primary: usize, node: usize, version: u8) {
        let block = usize::from(self.writes[usize::from(version) - 1].block);
        self.nodes[node].cache[block] = version;
        if node == primary || setup.nodes > 2 {
            self.nodes[node].log |= bit(block);
        }
        let counted = self.counted(setup, primary);
        for q in self.peers(setup, node) {
            if counted & bit(q) == 0 && self.nodes[node].about[q].standing != 0 {
                self.nodes[node].about[q].bits |= bit(block);
            }
        }
    }

    /// What a crash does to links, and to a write that was under way.
    pub(super) fn stop(&mut self, setup: &Setup, n: usize) {
        for q in self.peers(setup, n) {
            self.cut(n, q);
        }
        self.stop_serving(n);
    }

    /// What a start does: the activity log is emptied into the bitmaps.
    pub(super) fn attach(&mut self, setup: &Setup, n: usize) {
        self.empty_log(setup, n, 0);
    }

    pub(super) fn stop_serving(&mut self, n: usize) {
        if self.pending.is_some_and(|pending| usize::from(pending.primary) == n) {
            self.pending = None;
        }
        if self.nodes[n].serving {
            (0..NODES).filter(|q| *q != n).for_each(|q| self.cut(n, q));
        }
        (self.nodes[n].serving, self.nodes[n].must_begin) = (false, false);
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        let may_have_our_head = |from: Option<u8>, n: usize| from.is_none_or(|from| usize::from(from) == n);
        let source = match self.link(a, b) {
            Link::Down => return,
            Link::Copying { .. } => None,
            Link::Synced => Some(None),
            Link::Counted { from } | Link::Taken { from } => Some(Some(from)),
        };
        for n in [a, b] {
            if source.is_some_and(|from| may_have_our_head(from, n)) && self.nodes[n].serving {
                self.nodes[n].must_begin = true;
            }
        }
        self.set_link(a, b, Link::Down);
        // G9: a secondary that lost its primary is in sync with nobody until they have compared.
        for (primary, left) in [(a, b), (b, a)] {
            if self.nodes[primary].serving && !self.nodes[left].serving {
                let others = (0..NODES).filter(|r| ![a, b].contains(r) && !self.nodes[*r].serving);
                others.collect::<Vec<_>>().into_iter().for_each(|r| self.set_link(left, r, Link::Down));
            }
        }
    }

    /// D8: no extent leaves the log of `n` before it is in the bits for every peer but those in `stable`.
    pub(super) fn empty_log(&mut self, setup: &Setup, n: usize, stable: u8) {
        for q in self.peers(setup, n) {
            if stable & bit(q) == 0 && self.nodes[n].about[q].standing != 0 {
                self.nodes[n].about[q].bits |= self.nodes[n].log;
            }
        }
        self.nodes[n].log = 0;
    }

    pub(super) fn stabilise(&mut self, n: usize) {
        self.nodes[n].stable = self.nodes[n].cache;
    }

    /// A flush of `p` was replied to.
    pub(super) fn mark_durable(&mut self, p: usize) {
        for write in 0..WRITES {
            if self.writes[write].acked && self.has(p, write) {
                self.writes[write].durable = true;
            }
        }
    }

    /// Gives up every write for which `lost` holds.
    pub(super) fn forfeit(&mut self, lost: impl Fn(&Self, usize) -> bool) {
        for write in 0..WRITES {
            if self.writes[write].used && lost(self, write) {
                self.writes[write].forfeited = true;
            }
        }
    }

    pub(super) fn met(&mut self, a: usize, b: usize) {
        for (n, m) in [(a, b), (b, a)] {
            self.nodes[n].about[m].seen = self.nodes[n].about[m].seen.max(self.nodes[m].attach);
            self.nodes[n].term = self.nodes[n].term.max(self.nodes[m].term);
        }
    }

    pub(super) fn in_sync(&mut self, a: usize, b: usize) {
        self.set_link(a, b, Link::Synced);
        for (n, m) in [(a, b), (b, a)] {
            let standing = self.standing(n, m).caught_up();
            self.set_standing(n, m, standing);
            self.nodes[n].about[m].solo = false;
            self.nodes[n].noted = false;
        }
        for write in 0..WRITES {
            if self.writes[write].acked && self.has(a, write) && self.has(b, write) {
                self.writes[write].crew |= bit(a) | bit(b);
                self.writes[write].unlucky &= !(bit(a) | bit(b));
            }
        }
    }

    /// R6: nothing is left to copy, and no primary writes to the source without counting the target.
    pub(super) fn may_end(&self, setup: &Setup, s: usize, t: usize) -> bool {
        let unaware = |p: usize| p != t && self.nodes[p].serving && self.link(s, p) == Link::Synced;
        self.nodes[s].about[t].bits | self.nodes[t].about[s].bits == 0 && !self.peers(setup, s).any(unaware)
    }

    /// R1: source, then target, make stable that a resync begins.
    pub(super) fn begin_resync(&mut self, setup: &Setup, s: usize, t: usize, extent: Extent) {
        let everything = (1_u8 << setup.blocks) - 1;
        let set = match extent {
            Extent::Full(_) => everything,
            Extent::Bitmap => {
                self.nodes[s].about[t].bits
                    | self.nodes[t].about[s].bits
                    | self.nodes[s].log
                    | self.nodes[t].log
            }
        };
        self.stabilise(s);
        self.nodes[s].noted = !self.nodes[s].serving;
        let key = self.history(t).key();
        let standing = self.standing(s, t).begin_as_source(&self.history(s), key);
        self.set_standing(s, t, standing);
        self.nodes[s].about[t].bits |= set;

        let source_head = id(self.nodes[s].head());
        let standing = self.standing(t, s).begin_as_target(&self.history(t), source_head);
        self.set_standing(t, s, standing);
        let mut history = self.history(t);
        history.begin_resync(source_head);
        self.set_history(t, &history);
        self.nodes[t].about[s].bits |= set;
        let seen = self.nodes[s].about[t].seen;
        let target = &mut self.nodes[t];
        target.copy = Copy::Inconsistent;
        (target.torn, target.noted) = (true, false);
        target.attach = target.attach.max(seen);
        self.stop_serving(t);
        // A target is in sync with nobody.
        for q in self.peers(setup, t).filter(|q| *q != s) {
            self.cut(t, q);
        }
        self.set_link(s, t, Link::Copying { from: s as u8 });
    }

    pub(crate) fn carry_out(&mut self, setup: &Setup, a: usize, b: usize, verdict: Verdict) {
        let suspend = [(a, b), (b, a)]
            .map(|(n, m)| must_suspend(&self.view(n, m, setup.replies), &self.view(m, n, setup.replies)));
        for (n, suspends) in [a, b].into_iter().zip(suspend) {
            if suspends {
                self.stop_serving(n);
            }
        }
        match verdict {
            Verdict::NoSync => {
                self.in_sync(a, b);
                if [a, b].iter().any(|n| self.nodes[*n].power != Power::Lost) {
                    [a, b].into_iter().for_each(|n| self.nodes[n].power = Power::SameRun);
                }
                for n in [a, b] {
                    self.nodes[n].must_begin &= setup.nodes > 2;
                }
            }
            Verdict::FreshPair { proposer } => {
                let (p, q) = if proposer == Side::Mine { (a, b) } else { (b, a) };
                let generation = self.mint(p, 1);
                let node = &mut self.nodes[p];
                node.term = node.term.max((1, p as u8));
                node.chain[0] = generation;
                node.copy = Copy::Good;
                node.about[q] = About { standing: 2, base: generation, offered: generation, ..node.about[q] };
                self.set_link(a, b, Link::Taken { from: p as u8 });
            }
            Verdict::Resync { source, extent, .. } => {
                let (s, t) = if source == Side::Mine { (a, b) } else { (b, a) };
                self.begin_resync(setup, s, t, extent);
            }
            Verdict::NoCopy(_)
            | Verdict::SplitBrain { .. }
            | Verdict::Unrelated { .. }
            | Verdict::Refused(_) => {}
        }
        self.met(a, b);
        for (n, m) in [(a, b), (b, a)] {
            // D6: a node that learns that it was set back makes that stable, and is then above what was seen.
            if self.nodes[n].attach < self.nodes[m].about[n].seen {
                self.stop_serving(n);
                self.nodes[n].attach = self.nodes[m].about[n].seen;
                if self.nodes[n].copy != Copy::Fresh {
                    self.spoil(setup, n);
                }
            }
        }
    }

    /// Nothing in the copy of `n` can be believed any more: everything will be compared, with everybody.
    pub(super) fn spoil(&mut self, setup: &Setup, n: usize) {
        (self.nodes[n].copy, self.nodes[n].torn) = (Copy::Inconsistent, true);
        for q in self.peers(setup, n) {
            self.nodes[n].about[q].bits = (1 << setup.blocks) - 1;
        }
    }

    /// The verdict for two nodes, with the wishes of an operator.
    pub(crate) fn verdict(&self, setup: &Setup, a: usize, b: usize, wishes: [Wish; 2]) -> Verdict {
        let mut mine = self.view(a, b, setup.replies);
        let mut theirs = self.view(b, a, setup.replies);
        [mine.wish, theirs.wish] = wishes;
        decide(&mine, &theirs)
    }

    /// Whether a good copy other than that of `n` shows `write`.
    pub(crate) fn held_elsewhere(&self, setup: &Setup, n: usize, write: usize) -> bool {
        self.peers(setup, n).any(|q| !self.nodes[q].torn && self.has(q, write))
    }
}

pub(super) fn id(number: u8) -> GenerationId {
    GenerationId(u128::from(number))
}

const _: () = assert!(GENERATIONS <= 8 && WRITES <= 8 && BLOCKS <= 8, "masks are bytes");
