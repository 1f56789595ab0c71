//! What two nodes that meet do about their copies: a pure function of two views.
//!
//! Why: this is where DRBD still loses data (rules added one by one, the first match wins, bits cleared on the
//! way). Here the result is total, the same from both sides, and enumerated against a model of block versions
//! (`tests/decide_*.rs`). A pair that the table does not list is refused.
//!
//! First each copy is judged by itself ([`Fitness`]). Only a *sound* one can be a source.
//!
//! | | copy | fitness |
//! |---|---|---|
//! | F1 | fresh | `Fresh` |
//! | F2 | the other node remembers a higher attach counter (D6) | `SetBack` |
//! | F3 | Inconsistent, a resync into it has not ended | `Mixed` |
//! | F4 | Inconsistent, otherwise | `Unknown` |
//! | F5 | good | `Sound` |
//!
//! Then the first line that fits decides. *key*: [`History::key`]. *known*: a generation that the source has.
//!
//! | | the two | verdict | rule |
//! |---|---|---|---|
//! | T1 | same node id, other size, other block size | refused | |
//! | T2 | a view that contradicts itself or the other | refused | |
//! | T3 | one or both without a disk | `NoCopy` | W7 |
//! | T4 | both fresh | `FreshPair`, lower node id proposes | G3 |
//! | T5 | neither sound | refused | G8 |
//! | **one sound, the other is target:** | | | |
//! | T6 | target fresh | full | G3 |
//! | T7 | target without any generation | full | G3 |
//! | T8 | target set back, while it is primary under the highest term | refused | G10, D6 |
//! | T9 | target set back or unknown, its key known | full | D6, G4 |
//! | T10 | target mixed, its key known | extent by E | G8, G5 |
//! | T11 | target's key not known, operator discards it | full | G6 |
//! | T12 | target's key not known | refused | G6 |
//! | **both sound, equal heads:** | | | |
//! | T13 | both primary | refused | G10 |
//! | T14 | no bits, nothing unsettled, none crashed; each has kept bits for the other, or no primary ever wrote | `NoSync` | G3, G4 |
//! | T15 | one is primary: it is source | extent by E | G8 |
//! | T16 | replies together; one kept more: it is source | extent by E | G8 |
//! | T17 | one wrote the generation: it is source | extent by E | G8 |
//! | T18 | replies ahead; one kept more: it is source | extent by E | G8 |
//! | T19 | lower node id is source | extent by E | G8 |
//! | **both sound, one head in the other's history:** | | | |
//! | T20 | the older is primary under the highest term | refused | G10 |
//! | T21 | the older is target | extent by E | G5 |
//! | **both sound, a common generation that is neither head:** | | | |
//! | T22 | operator discards one: it is target | extent by E, base is the common one | G6 |
//! | T23 | operator discards both | refused | G6 |
//! | T24 | operator discards none | `SplitBrain` | G6, G10 |
//! | **both sound, nothing in common:** | | | |
//! | T25 | operator discards one: it is target | full | G6 |
//! | T26 | operator discards both | refused | G6 |
//! | T27 | operator discards none | `Unrelated` | G6, G10 |
//!
//! | | extent of a resync by E | |
//! |---|---|---|
//! | E1 | a bitmap or activity log of either side is unreadable | full |
//! | E2 | the source's bitmap for the target does not go back to the target's key | full |
//! | E3 | the target kept no bitmap for the source; in T22: none that goes back to the common generation | full |
//! | E4 | otherwise | union of bitmaps, activity logs and unstable writes (G7) |

use super::history::History;
use super::record::{Dirty, Standing};
use super::verdict::{Clause, Extent, FullBecause, Refusal, Side, Verdict, Which};
use super::view::{Copy, NodeView, Power, Replies, Role, Unsettled, Wish};
use crate::ids::{Generation, GenerationId, Term};
use std::cmp::Ordering;

/// What two nodes that meet do about their copies. `decide(a, b)` is always `decide(b, a).mirror()`.
#[must_use]
pub fn decide(mine: &NodeView, theirs: &NodeView) -> Verdict {
    if let Some(refusal) = misfit(mine, theirs) {
        return Verdict::Refused(refusal); // T1, T2
    }
    let diskless = Which::of(mine.copy == Copy::Diskless, theirs.copy == Copy::Diskless);
    if diskless != Which::Neither {
        return Verdict::NoCopy(diskless); // T3
    }
    match (fitness(mine, theirs), fitness(theirs, mine)) {
        (Fitness::Fresh, Fitness::Fresh) => Verdict::FreshPair { proposer: lower_id(mine, theirs) }, // T4
        (Fitness::Sound, Fitness::Sound) => both_sound(mine, theirs),
        (Fitness::Sound, target) => one_sound(mine, theirs, target),
        (target, Fitness::Sound) => one_sound(theirs, mine, target).mirror(),
        (
            Fitness::Fresh | Fitness::SetBack | Fitness::Mixed | Fitness::Unknown,
            Fitness::Fresh | Fitness::SetBack | Fitness::Mixed | Fitness::Unknown,
        ) => Verdict::Refused(Refusal::NoGoodCopy), // T5
    }
}

/// Whether the other node remembers a higher attach counter than `mine` has (design D6). Whatever the verdict,
/// `mine` then makes stable, in one superblock write after the bits: every block marked for every peer, the copy
/// Inconsistent (unless fresh), its counter raised to what `theirs` has seen; and if it is primary it stops.
#[must_use]
pub fn was_set_back(mine: &NodeView, theirs: &NodeView) -> bool {
    mine.attach < theirs.record.seen
}

/// Whether `mine`, being primary, must stop serving at once because `theirs` has seen a higher term (design
/// G10). It holds whatever the verdict is. Two primaries that claim the same term both stop.
#[must_use]
pub fn must_suspend(mine: &NodeView, theirs: &NodeView) -> bool {
    mine.role.is_primary()
        && match mine.highest_term.cmp(&theirs.highest_term) {
            Ordering::Less => true,
            Ordering::Equal => theirs.role.is_primary(),
            Ordering::Greater => false,
        }
}

/// How much a copy is worth by itself: F1 to F5 of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Fresh,
    SetBack,
    Mixed,
    Unknown,
    Sound,
}

fn fitness(own: &NodeView, other: &NodeView) -> Fitness {
    match own.copy {
        Copy::Fresh => Fitness::Fresh, // F1
        Copy::Inconsistent | Copy::Good if was_set_back(own, other) => Fitness::SetBack, // F2
        Copy::Inconsistent if own.history.toward().is_some() => Fitness::Mixed, // F3
        Copy::Inconsistent | Copy::Diskless => Fitness::Unknown, // F4
        Copy::Good => Fitness::Sound,  // F5
    }
}

/// T1, T2: why the two cannot be compared at all.
fn misfit(mine: &NodeView, theirs: &NodeView) -> Option<Refusal> {
    if mine.node == theirs.node {
        return Some(Refusal::SameNode(mine.node));
    }
    // A disk that failed does not grow any more, and nothing is copied to it.
    let has_copy = |node: &NodeView| node.copy != Copy::Diskless;
    if mine.size_bytes != theirs.size_bytes && has_copy(mine) && has_copy(theirs) {
        return Some(Refusal::Size { mine: mine.size_bytes, theirs: theirs.size_bytes });
    }
    if mine.block_bytes != theirs.block_bytes {
        return Some(Refusal::BlockSize { mine: mine.block_bytes, theirs: theirs.block_bytes });
    }
    let contradicting = match Which::of(contradicts_itself(mine), contradicts_itself(theirs)) {
        Which::Neither if contradict_each_other(&mine.history, &theirs.history) => Which::Both,
        which => which,
    };
    (contradicting != Which::Neither).then_some(Refusal::Contradiction(contradicting))
}

fn contradicts_itself(view: &NodeView) -> bool {
    let (head, toward) = (view.history.head(), view.history.toward());
    match view.copy {
        Copy::Diskless | Copy::Inconsistent => false,
        Copy::Fresh => head.is_some() || toward.is_some(),
        Copy::Good => head.is_none() || toward.is_some(),
    }
}

/// Whether each of two different heads is among the other's ancestors (no chain allows that), or one generation
/// was made by two nodes.
fn contradict_each_other(mine: &History, theirs: &History) -> bool {
    match (mine.head(), theirs.head()) {
        (Some(my_head), Some(their_head)) if my_head.id == their_head.id => my_head.term != their_head.term,
        (Some(my_head), Some(their_head)) => mine.contains(their_head.id) && theirs.contains(my_head.id),
        (None, _) | (_, None) => false,
    }
}

/// T6 to T12, from the source's point of view.
fn one_sound(source: &NodeView, target: &NodeView, fitness: Fitness) -> Verdict {
    if fitness == Fitness::Fresh {
        return to_theirs(Extent::Full(FullBecause::NoData), Clause::Fresh); // T6
    }
    let Some(key) = target.history.key() else {
        return to_theirs(Extent::Full(FullBecause::NoData), Clause::Recreated); // T7
    };
    if source.history.contains(key) {
        return match fitness {
            Fitness::SetBack if primary_under_highest_term(target, source) => {
                Verdict::Refused(Refusal::PrimaryAsTarget(Side::Theirs)) // T8
            }
            Fitness::SetBack => to_theirs(Extent::Full(FullBecause::Unknown), Clause::SetBack), // T9
            Fitness::Unknown => to_theirs(Extent::Full(FullBecause::Unknown), Clause::Inconsistent), // T9
            Fitness::Mixed => to_theirs(extent(source, target, key), Clause::Inconsistent),     // T10
            Fitness::Fresh | Fitness::Sound => unreachable!("fresh is T6, and the target is not sound"),
        };
    }
    match target.wish {
        Wish::Discard => to_theirs(Extent::Full(FullBecause::NoBase), Clause::Discarded), // T11
        Wish::Nothing => Verdict::Refused(Refusal::UnfitButAhead(Side::Theirs)),          // T12
    }
}

/// T13 to T27.
fn both_sound(mine: &NodeView, theirs: &NodeView) -> Verdict {
    match relation(&mine.history, &theirs.history) {
        Relation::Equal(head) => equal(mine, theirs, head),
        Relation::MineNewer(key) => into_older(mine, theirs, key),
        Relation::TheirsNewer(key) => into_older(theirs, mine, key).mirror(),
        Relation::Forked(common) => match discarded(mine, theirs) {
            Which::One(target) => {
                let extent = branches_extent(mine, theirs, common.id);
                Verdict::Resync { source: target.other(), extent, clause: Clause::Discarded } // T22
            }
            Which::Both => Verdict::Refused(Refusal::BothDiscarded), // T23
            Which::Neither => Verdict::SplitBrain { common, suspends: suspending(mine, theirs) }, // T24
        },
        Relation::Unrelated => match discarded(mine, theirs) {
            Which::One(target) => {
                let extent = Extent::Full(FullBecause::NoBase);
                Verdict::Resync { source: target.other(), extent, clause: Clause::Discarded } // T25
            }
            Which::Both => Verdict::Refused(Refusal::BothDiscarded), // T26
            Which::Neither => Verdict::Unrelated { suspends: suspending(mine, theirs) }, // T27
        },
    }
}

/// How two heads stand to each other.
enum Relation {
    Equal(Generation),
    /// With the head of the other.
    MineNewer(GenerationId),
    /// With our own head.
    TheirsNewer(GenerationId),
    /// With the newest generation that both have.
    Forked(Generation),
    Unrelated,
}

fn relation(mine: &History, theirs: &History) -> Relation {
    let (Some(my_head), Some(their_head)) = (mine.head(), theirs.head()) else {
        unreachable!("a sound copy has a head (T2)")
    };
    if my_head.id == their_head.id {
        Relation::Equal(my_head)
    } else if mine.contains(their_head.id) {
        Relation::MineNewer(their_head.id)
    } else if theirs.contains(my_head.id) {
        Relation::TheirsNewer(my_head.id)
    } else {
        newest_common(mine, theirs).map_or(Relation::Unrelated, Relation::Forked)
    }
}

/// The newest generation that both have. Where hostile or damaged chains disagree about the order, the one that
/// is newest on the side with the lower head: any would be safe, but both sides must name the same.
fn newest_common(mine: &History, theirs: &History) -> Option<Generation> {
    if mine.head().map(|head| head.id) < theirs.head().map(|head| head.id) {
        mine.newest_common(theirs)
    } else {
        theirs.newest_common(mine)
    }
}

/// T13 to T19.
fn equal(mine: &NodeView, theirs: &NodeView, head: Generation) -> Verdict {
    let primaries = Which::of(mine.role.is_primary(), theirs.role.is_primary());
    if primaries == Which::Both {
        return Verdict::Refused(Refusal::TwoPrimaries); // T13
    }
    let tracked = mine.record.standing.covers(&mine.history, head.id)
        && theirs.record.standing.covers(&theirs.history, head.id);
    let empty = head.term.number == Term::FIRST;
    if (tracked || empty) && nothing_outstanding(mine) && nothing_outstanding(theirs) {
        return Verdict::NoSync; // T14
    }
    let writer = Which::of(head.term.node == mine.node, head.term.node == theirs.node);
    let kept = match retained(mine, head).cmp(&retained(theirs, head)) {
        Ordering::Less => Which::One(Side::Theirs),
        Ordering::Equal => Which::Neither,
        Ordering::Greater => Which::One(Side::Mine),
    };
    let (source, clause) = match (primaries, replies(mine, theirs, head), kept, writer) {
        (Which::One(side), _, _, _) => (side, Clause::NeverStopped), // T15
        (_, Replies::Together, Which::One(side), _) => (side, Clause::KeptPower), // T16
        (_, _, _, Which::One(side)) => (side, Clause::Writer),       // T17
        (_, Replies::Ahead, Which::One(side), _) => (side, Clause::KeptPower), // T18
        (_, _, Which::Neither | Which::Both, Which::Neither | Which::Both) => {
            (lower_id(mine, theirs), Clause::LowerId) // T19
        }
    };
    let extent = match source {
        Side::Mine => extent(mine, theirs, head.id),
        Side::Theirs => extent(theirs, mine, head.id),
    };
    Verdict::Resync { source, extent, clause }
}

/// T20, T21, from the newer side's point of view; `key` is the head of the older.
fn into_older(newer: &NodeView, older: &NodeView, key: GenerationId) -> Verdict {
    if primary_under_highest_term(older, newer) {
        return Verdict::Refused(Refusal::PrimaryAsTarget(Side::Theirs)); // T20
    }
    to_theirs(extent(newer, older, key), Clause::Older) // T21
}

/// E1 to E4; `key` is the target's.
fn extent(source: &NodeView, target: &NodeView, key: GenerationId) -> Extent {
    if unreadable(source) || unreadable(target) {
        Extent::Full(FullBecause::Unreadable) // E1
    } else if !source.record.standing.covers(&source.history, key)
        || target.record.standing == Standing::Never
    {
        Extent::Full(FullBecause::NoBase) // E2, E3
    } else {
        Extent::Bitmap // E4
    }
}

/// E1 to E4 for two branches, where both sides have written since `common`.
fn branches_extent(mine: &NodeView, theirs: &NodeView, common: GenerationId) -> Extent {
    if unreadable(mine) || unreadable(theirs) {
        Extent::Full(FullBecause::Unreadable) // E1
    } else if [mine, theirs].iter().all(|view| view.record.standing.covers(&view.history, common)) {
        Extent::Bitmap // E4
    } else {
        Extent::Full(FullBecause::NoBase) // E2, E3
    }
}

fn to_theirs(extent: Extent, clause: Clause) -> Verdict {
    Verdict::Resync { source: Side::Mine, extent, clause }
}

fn unreadable(view: &NodeView) -> bool {
    view.record.dirty == Dirty::Unreadable || view.unsettled == Unsettled::Unreadable
}

fn nothing_outstanding(view: &NodeView) -> bool {
    view.record.dirty == Dirty::Clean
        && view.unsettled == Unsettled::Nothing
        && match view.role {
            Role::CrashedPrimary => false,
            Role::Secondary | Role::SuspendedPrimary | Role::ServingPrimary => true,
        }
}

/// How much a node still has of the writes under `head`; more is better. Who wrote them had them on its own disk
/// before the reply; another may merely have received them (protocol B), and lost that with its process.
fn retained(view: &NodeView, head: Generation) -> u8 {
    match view.power {
        Power::SameRun => 2,
        Power::SameBoot if head.term.node == view.node => 2,
        Power::SameBoot => 1,
        Power::Lost => 0,
    }
}

/// How the writes under `head` were replied to: what their writer says. If it is neither of the two, only a side
/// that is sure of protocol A counts.
fn replies(mine: &NodeView, theirs: &NodeView, head: Generation) -> Replies {
    if head.term.node == mine.node {
        mine.replies
    } else if head.term.node == theirs.node || mine.replies == theirs.replies {
        theirs.replies
    } else {
        Replies::Together
    }
}

fn primary_under_highest_term(view: &NodeView, other: &NodeView) -> bool {
    view.role.is_primary() && !must_suspend(view, other)
}

fn suspending(mine: &NodeView, theirs: &NodeView) -> Which {
    Which::of(must_suspend(mine, theirs), must_suspend(theirs, mine))
}

fn discarded(mine: &NodeView, theirs: &NodeView) -> Which {
    Which::of(mine.wish == Wish::Discard, theirs.wish == Wish::Discard)
}

fn lower_id(mine: &NodeView, theirs: &NodeView) -> Side {
    if mine.node < theirs.node { Side::Mine } else { Side::Theirs }
}
