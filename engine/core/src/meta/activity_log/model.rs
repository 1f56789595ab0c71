//! The activity log against a naive model: any order of operations, with a power loss at any point.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::{
    tests::{Rig, open, set, some},
    *,
};
use crate::meta::crash::Medium;

/// What the engine may do, in any order.
#[derive(Clone, Debug)]
enum Op {
    Hold { first: u32, count: u32 },
    Assign(usize),
    Cancel(usize),
    Advance,
    Commit,
    Stable(u64),
    Bits(u32),
    Clean(u64),
    Crash(u64),
    Term,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u32..40, 1u32..=2).prop_map(|(first, count)| Op::Hold { first, count }),
        5 => any::<usize>().prop_map(Op::Assign),
        1 => any::<usize>().prop_map(Op::Cancel),
        5 => Just(Op::Advance),
        5 => Just(Op::Commit),
        3 => (0u64..8).prop_map(Op::Stable),
        2 => (0u32..42).prop_map(Op::Bits),
        1 => (0u64..30).prop_map(Op::Clean),
        1 => any::<u64>().prop_map(Op::Crash),
        1 => Just(Op::Term),
        1 => Just(Op::Settle),
    ]
}

/// The naive model: what must be found on disk whenever the power goes.
struct Model {
    rig: Rig,
    writes: Vec<MetaWrite>,
    waiting: VecDeque<(PieceId, Extents)>,
    holding: Vec<Extents>,
    /// Last write of this term, by extent.
    last: BTreeMap<u32, u64>,
    /// Written in an earlier term or run.
    carried: BTreeSet<u32>,
    /// Of which an absent peer's bits are not flushed.
    bits_unflushed: BTreeSet<u32>,
    pieces: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            rig: Rig::new(42, 16),
            writes: Vec::new(),
            waiting: VecDeque::new(),
            holding: Vec::new(),
            last: BTreeMap::new(),
            carried: BTreeSet::new(),
            bits_unflushed: BTreeSet::new(),
            pieces: 0,
        }
    }

    /// The extents that may differ between the replicas.
    fn required(&self) -> BTreeSet<u32> {
        let unstable = self
            .last
            .iter()
            .filter(|(extent, last)| **last > self.rig.stable.0 || self.bits_unflushed.contains(extent));
        let held = self.holding.iter().flat_map(|extents| extents.iter().map(|extent| extent.0));
        unstable.map(|(extent, _)| *extent).chain(held).chain(self.carried.iter().copied()).collect()
    }

    fn admit(&mut self, admitted: Vec<PieceId>) {
        for piece in admitted {
            // Pieces of a transaction are named after ones that became hot behind them; among themselves in order.
            let place = self.waiting.iter().position(|(id, _)| *id == piece).expect("it waited");
            let (_, extents) = self.waiting.remove(place).unwrap();
            self.holding.push(extents);
        }
    }

    fn run(&mut self, op: &Op) {
        let mut admitted = Vec::new();
        let bits = self.bits_unflushed.clone();
        let flushed = |extent: ExtentIndex| !bits.contains(&extent.0);
        let pick = |index: usize, len: usize| (len > 0).then(|| index % len);
        match op {
            Op::Hold { first, count } => {
                let (piece, extents) = (PieceId(self.pieces), some(*first, *count));
                self.pieces += 1;
                match self.rig.log.hold(piece, extents) {
                    Hold::Hot => self.holding.push(extents),
                    Hold::Waiting => self.waiting.push_back((piece, extents)),
                }
            }
            Op::Assign(index) => {
                if let Some(index) = pick(*index, self.holding.len()) {
                    let extents = self.holding.swap_remove(index);
                    self.rig.log.assigned(extents, Sequence(self.rig.next));
                    for extent in extents.iter() {
                        self.last.insert(extent.0, self.rig.next);
                    }
                    self.rig.next += 1;
                }
            }
            Op::Cancel(index) => {
                if let Some(index) = pick(*index, self.holding.len()) {
                    self.rig.log.cancelled(self.holding.swap_remove(index));
                }
            }
            Op::Advance => {
                if let Step::Write(writes) = self.rig.log.advance(self.rig.stable, flushed, &mut admitted) {
                    self.writes = writes;
                }
            }
            Op::Clean(idle) => {
                let step = self.rig.log.clean(Sequence(*idle), self.rig.stable, flushed, 4);
                if let Step::Write(writes) = step {
                    self.writes = writes;
                }
            }
            Op::Commit => {
                if !self.writes.is_empty() {
                    self.rig.medium.apply(&std::mem::take(&mut self.writes));
                    self.rig.log.committed(&mut admitted);
                }
            }
            Op::Stable(back) => {
                let to = (self.rig.next - 1).saturating_sub(*back);
                self.rig.stable = self.rig.stable.max(Sequence(to));
            }
            Op::Bits(extent) => {
                // Setting a bit of an absent peer comes with a write; flushing it comes later.
                if !self.bits_unflushed.remove(extent) && self.last.contains_key(extent) {
                    self.bits_unflushed.insert(*extent);
                }
                let required = self.required();
                if !required.iter().all(|extent| self.rig.log.is_hot(ExtentIndex(*extent))) {
                    self.bits_unflushed.remove(extent);
                }
            }
            Op::Crash(seed) => {
                let medium = self.crashed(*seed);
                self.carried = self.required();
                let (log, replay) = open(&self.rig.layout, &medium);
                assert!(!replay.everything_may_differ());
                let found = set(&log);
                assert!(self.carried.is_subset(&found), "lost by a crash");
                *self = Self {
                    carried: found,
                    rig: Rig {
                        layout: self.rig.layout.clone(),
                        log,
                        medium,
                        stable: Sequence::ZERO,
                        next: 1,
                    },
                    pieces: self.pieces,
                    ..Self::new()
                };
            }
            Op::Term => {
                self.rig.log.begin_term();
                self.carried
                    .extend(self.last.keys().filter(|extent| self.rig.log.is_hot(ExtentIndex(**extent))));
                self.last.clear();
                self.bits_unflushed.clear();
                self.rig.stable = Sequence::ZERO;
                self.rig.next = 1;
            }
            Op::Settle => {
                self.rig.log.carried_settled();
                self.carried.clear();
            }
        }
        self.admit(admitted);
    }

    /// The disk with some of the sectors that are being written.
    fn crashed(&self, seed: u64) -> Medium {
        let mut medium = self.rig.medium.clone();
        let mut at = 0;
        for write in &self.writes {
            for (index, sector) in write.bytes.chunks_exact(512).enumerate() {
                if seed >> (at % 64) & 1 == 1 {
                    medium.write(write.offset.0 + index as u64 * 512, sector);
                }
                at += 1;
            }
        }
        medium
    }

    fn check(&self) {
        let required = self.required();
        for seed in [0, u64::MAX, 0x5555_5555_5555_5555] {
            let (log, replay) = open(&self.rig.layout, &self.crashed(seed));
            assert!(!replay.everything_may_differ());
            assert!(required.is_subset(&set(&log)), "{required:?} not in {:?}", set(&log));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// D7, D8, D9, O10: whatever happens, the extents that may differ are found after a crash, and every piece
    /// is served in the end.
    #[test]
    fn the_log_against_a_naive_model(ops in proptest::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in &ops {
            model.run(op);
            model.check();
        }
        model.run(&Op::Settle);
        for _ in 0..20 + 3 * model.waiting.len() {
            while !model.holding.is_empty() {
                model.run(&Op::Assign(0));
            }
            model.bits_unflushed.clear();
            model.run(&Op::Stable(0));
            model.run(&Op::Advance);
            model.run(&Op::Commit);
            model.check();
        }
        prop_assert!(model.waiting.is_empty(), "{} pieces were never served", model.waiting.len());
    }
}
