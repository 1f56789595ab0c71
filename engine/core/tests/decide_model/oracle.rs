//! What must hold in every world: the contract (design section 2), seen by somebody who can read all disks.

use super::steps::{By, Step};
use super::{Link, NODES, Setup, WRITES, World, bit};
use evenkeel_core::generation::verdict::{Clause, Extent, FullBecause, Refusal, Side, Verdict};
use evenkeel_core::generation::view::{Copy, Replies, Wish};
use std::collections::BTreeMap;

/// How often each kind of verdict was seen.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// Checks one world; says what is wrong with it.
pub(crate) fn check(setup: &Setup, world: &World, tally: &mut Tally) -> Result<(), String> {
    for a in 0..setup.nodes {
        for b in a + 1..setup.nodes {
            match world.link(a, b) {
                Link::Synced => in_sync(setup, world, a, b)?,
                Link::Down => pair(setup, world, a, b, tally)?,
                Link::Copying { .. } | Link::Counted { .. } | Link::Taken { .. } => {}
            }
        }
    }
    Ok(())
}

fn differing(world: &World, a: usize, b: usize) -> u8 {
    let (a, b) = (&world.nodes[a].cache, &world.nodes[b].cache);
    (0..a.len()).filter(|block| a[*block] != b[*block]).fold(0, |all, block| all | bit(block))
}

/// Two nodes that call themselves in sync are, but for a write under way (O7), and what is not stable on one of
/// them is known to be so (O10).
fn in_sync(setup: &Setup, world: &World, a: usize, b: usize) -> Result<(), String> {
    let under_way =
        world.pending.map_or(0, |p| bit(usize::from(world.writes[usize::from(p.write) - 1].block)));
    if differing(world, a, b) & !under_way != 0 {
        return Err(format!("nodes {a} and {b} are in sync but differ"));
    }
    for n in [a, b] {
        let node = &world.nodes[n];
        let unstable = (0..setup.blocks).filter(|block| node.cache[*block] != node.stable[*block]);
        let unstable = unstable.fold(0, |all, block| all | bit(block));
        let known = (0..setup.nodes).fold(0, |all, q| all | world.nodes[q].log);
        if unstable & !known != 0 {
            return Err(format!("what is not stable on node {n} is in no activity log"));
        }
    }
    Ok(())
}

/// Whether the contract promises that `write` is not lost.
fn promised(setup: &Setup, world: &World, write: usize) -> bool {
    let write = &world.writes[write];
    let power_took_it = match setup.replies {
        Replies::Together => write.crew & !write.unlucky == 0,
        Replies::Ahead => write.unlucky & bit(usize::from(write.writer)) != 0,
    };
    write.acked && !write.forfeited && (write.durable || !power_took_it)
}

/// Two nodes that could meet now.
fn pair(setup: &Setup, world: &World, a: usize, b: usize, tally: &mut Tally) -> Result<(), String> {
    let verdict = world.verdict(setup, a, b, [Wish::Nothing; 2]);
    let say = |what: &str| Err(format!("nodes {a} and {b}, {verdict:?}: {what}"));
    if world.verdict(setup, b, a, [Wish::Nothing; 2]) != verdict.mirror() {
        return say("not the mirror of what the other side decides");
    }
    *tally.entry(kind(&verdict)).or_default() += 1;
    match verdict {
        Verdict::NoSync => {
            if differing(world, a, b) != 0 {
                return say("but the images differ");
            }
            let unstable = [a, b].iter().any(|n| world.nodes[*n].cache != world.nodes[*n].stable);
            if unstable {
                return say("but something is not stable, and nobody knows what");
            }
            Ok(())
        }
        Verdict::FreshPair { .. } => {
            if [a, b].iter().any(|n| world.nodes[*n].cache.iter().any(|version| *version != 0)) {
                return say("but one is not empty");
            }
            Ok(())
        }
        Verdict::Resync { source, extent, clause } => {
            let (s, t) = if source == Side::Mine { (a, b) } else { (b, a) };
            resync(setup, world, s, t, extent, clause).or_else(|what| say(&what))
        }
        Verdict::SplitBrain { .. } => {
            let solo = world.nodes[a].about[b].solo && world.nodes[b].about[a].solo;
            if setup.nodes == 2 && !setup.snapshots && !solo {
                return say("but one of them never went on alone");
            }
            way_out(setup, world, a, b).or_else(|what| say(&what))
        }
        Verdict::Unrelated { .. } => way_out(setup, world, a, b).or_else(|what| say(&what)),
        Verdict::Refused(Refusal::NoGoodCopy | Refusal::UnfitButAhead(_)) => {
            way_out(setup, world, a, b).or_else(|what| say(&what))
        }
        Verdict::Refused(_) | Verdict::NoCopy(_) => say("cannot come about"),
    }
}

fn resync(
    setup: &Setup,
    world: &World,
    s: usize,
    t: usize,
    extent: Extent,
    clause: Clause,
) -> Result<(), String> {
    if world.nodes[s].torn || world.nodes[s].copy != Copy::Good {
        return Err("the source is not a cut of any moment".to_owned());
    }
    let lost = |write: &usize| {
        promised(setup, world, *write)
            && !world.nodes[t].torn
            && world.has(t, *write)
            && !world.held_elsewhere(setup, t, *write)
    };
    if let Some(write) = (0..WRITES).find(lost) {
        return Err(format!("write {} is promised, and only the target has it", write + 1));
    }
    let compared =
        world.nodes[s].about[t].bits | world.nodes[t].about[s].bits | world.nodes[s].log | world.nodes[t].log;
    let missed = differing(world, s, t) & !compared;
    if extent == Extent::Bitmap && missed != 0 {
        return Err(format!("blocks {missed:b} differ and are not compared"));
    }
    let disks_are_safe = !setup.blanking && !setup.snapshots;
    if setup.nodes == 2 && disks_are_safe && extent == Extent::Full(FullBecause::NoBase) {
        return Err("everything is compared, although bitmaps were kept all along (O5)".to_owned());
    }
    if clause == Clause::Discarded {
        return Err("nobody discarded anything".to_owned());
    }
    Ok(())
}

/// Whether an operator can bring the two together: by `resolve`, or by force and then perhaps `resolve`.
fn way_out(setup: &Setup, world: &World, a: usize, b: usize) -> Result<(), String> {
    if resolvable(setup, world, a, b) {
        return Ok(());
    }
    // `disconnect` first, so that nobody is in the way; and having met, a node knows that it was set back.
    let mut world = *world;
    world.links = [Link::Down; NODES];
    let verdict = world.verdict(setup, a, b, [Wish::Nothing; 2]);
    world.carry_out(setup, a, b, verdict);
    let roomy = Setup { generations: super::GENERATIONS as u8, ..*setup };
    let forced = [a, b]
        .into_iter()
        .filter_map(|n| world.after(&roomy, Step::Promote(n as u8, By::Force)))
        .any(|world| resolvable(setup, &world, a, b));
    if forced { Ok(()) } else { Err("there is no way out".to_owned()) }
}

fn resolvable(setup: &Setup, world: &World, a: usize, b: usize) -> bool {
    [[Wish::Nothing; 2], [Wish::Discard, Wish::Nothing], [Wish::Nothing, Wish::Discard]]
        .into_iter()
        .any(|wishes| matches!(world.verdict(setup, a, b, wishes), Verdict::Resync { .. }))
}

/// For the tally.
fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::NoSync => "no sync",
        Verdict::FreshPair { .. } => "fresh pair",
        Verdict::NoCopy(_) => "no copy",
        Verdict::SplitBrain { .. } => "split brain",
        Verdict::Unrelated { .. } => "unrelated",
        Verdict::Refused(_) => "refused",
        Verdict::Resync { extent: Extent::Full(_), .. } => "resync, full",
        Verdict::Resync { clause, extent: Extent::Bitmap, .. } => match clause {
            Clause::Fresh => "resync G3 fresh",
            Clause::Recreated => "resync G3 recreated",
            Clause::Inconsistent => "resync G8 inconsistent",
            Clause::SetBack => "resync D6 set back",
            Clause::Older => "resync G5 older",
            Clause::Discarded => "resync G6 discarded",
            Clause::NeverStopped => "resync G8 never stopped",
            Clause::KeptPower => "resync G8 kept power",
            Clause::Writer => "resync G8 writer",
            Clause::LowerId => "resync G8 lower id",
        },
    }
}
