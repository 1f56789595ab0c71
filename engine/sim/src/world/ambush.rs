//! A node that dies beside a rare moment: just after it was told something of a certain kind, when what it does about it is
//! half done. Faults at random times seldom meet a change of role, which lasts for a millisecond.
//!
//! ```text
//!   laid --the n-th event of the kind comes--> sprung --some microseconds to milliseconds--> the node is gone
//! ```

use evenkeel_core::volume::codec::Kind as Frame;

use super::{Phase, World, agenda::Due};
use crate::{
    coverage::Kind,
    decision::Stream,
    engine::Engine,
    plan::{FaultKind, Planned},
};

/// The moments: what begins or ends something.
const MOMENTS: [Kind; 32] = [
    Kind::LinkUp,
    Kind::LinkDown,
    Kind::Primary,
    Kind::Secondary,
    Kind::Resolve,
    Kind::Resize,
    Kind::Frame(Frame::Hello),
    Kind::Frame(Frame::Report),
    Kind::Frame(Frame::Agree),
    Kind::Frame(Frame::Begin),
    Kind::Frame(Frame::Ready),
    Kind::Frame(Frame::Offer),
    Kind::Frame(Frame::Adopted),
    Kind::Frame(Frame::Ask),
    Kind::Frame(Frame::Answer),
    Kind::Frame(Frame::Mark),
    Kind::Frame(Frame::Outdate),
    Kind::Frame(Frame::Outdated),
    Kind::Frame(Frame::Yield),
    Kind::Frame(Frame::Yielded),
    Kind::Frame(Frame::Leave),
    Kind::Frame(Frame::Everywhere),
    Kind::Frame(Frame::Host),
    Kind::Frame(Frame::Grow),
    Kind::Frame(Frame::Grown),
    Kind::Frame(Frame::Start),
    Kind::Frame(Frame::Failed),
    Kind::Frame(Frame::RunsEnd),
    Kind::Frame(Frame::Settled),
    Kind::Frame(Frame::Finish),
    Kind::Frame(Frame::Counted),
    Kind::Frame(Frame::Finished),
];
/// How long after the moment, in microseconds.
const DELAY_MICROS: u64 = 5_000;

/// One that is laid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ambush {
    entry: usize,
    moment: Kind,
    /// So many of the kind come first.
    skip: u64,
    delay: u64,
}

impl<E: Engine> World<'_, E> {
    pub(super) fn lay_ambush(&mut self, entry: usize, draws: &mut Stream) {
        let moment = MOMENTS[draws.index(MOMENTS.len())];
        let (skip, delay) = (draws.below(3), draws.skewed(0, DELAY_MICROS) * 1000);
        self.ambushes.push(Ambush { entry, moment, skip, delay });
    }

    /// A node was told something.
    pub(super) fn spring_ambushes(&mut self, node: usize, moment: Kind) {
        let faults = &self.plan.faults;
        let fits = |ambush: &Ambush| ambush.moment == moment && faults[ambush.entry].node == node;
        let Some(place) = self.ambushes.iter().position(fits) else { return };
        let ambush = &mut self.ambushes[place];
        if ambush.skip > 0 {
            ambush.skip -= 1;
            return;
        }
        let Ambush { entry, delay, .. } = self.ambushes.swap_remove(place);
        self.agenda.put(self.now + delay, Due::FaultEnds { entry });
    }

    /// The moment has come.
    pub(super) fn die_in_ambush(&mut self, entry: usize) {
        let Planned { kind, node, peer, lasts, key, .. } = self.plan.faults[entry];
        assert!(self.phase == Phase::Faults && kind == FaultKind::Ambush, "only then, and only of those");
        let mut draws = Stream::of_key(!key);
        let power = draws.chance(1, 3);
        let struck = if power { self.lose_power(node, &mut draws) } else { self.crash(node, &mut draws) };
        if struck {
            self.counts.faults[kind.number()] += 1;
            self.note(|| format!("### {kind:?} node {node} peer {peer}"));
            self.come_back(node, lasts);
        }
    }
}
