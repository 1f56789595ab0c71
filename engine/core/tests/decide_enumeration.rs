//! Every way in which two or three nodes can come to meet, against a model of block versions.
//!
//! With two nodes every state that can be reached is visited, however long it takes to get there, with three every
//! state up to a number of steps. How many generations and writes are made is not limited, only how many matter at
//! the same time. Without optimisation the searches stop early; `EVENKEEL_DEEP=1` makes them go further.

#![allow(clippy::cast_possible_truncation, reason = "there are at most three blocks")]

mod decide_model;

use decide_model::search::{Seen, search};
use decide_model::steps::{By, Step};
use decide_model::{Setup, World};
use evenkeel_core::generation::view::Replies;

/// Two nodes, nothing but writes, crashes, links and roles.
const PAIR: Setup = Setup {
    nodes: 2,
    blocks: 1,
    generations: 3,
    writes: 1,
    replies: Replies::Together,
    blanking: false,
    snapshots: false,
    depth: None,
};

fn deep() -> bool {
    std::env::var_os("EVENKEEL_DEEP").is_some()
}

/// Searches, and checks that each of `kinds` of verdicts came about.
fn run(name: &str, setup: Setup, starts: &[World], kinds: &[&str]) -> Seen {
    let depth = match (setup.depth, deep()) {
        (depth, true) => depth.map(|depth| depth + 2),
        (depth, false) if cfg!(debug_assertions) => Some(depth.map_or(9, |depth| depth.min(9) - 2)),
        (depth, false) => depth,
    };
    let begun = std::time::Instant::now();
    let seen = search(&Setup { depth, ..setup }, starts);
    let pairs: u64 = seen.tally.values().sum();
    println!(
        "{name}: {} states, {} steps, {pairs} pairs, all reached: {}, {:.1} s, {:?}",
        seen.states,
        seen.steps,
        seen.closed,
        begun.elapsed().as_secs_f64(),
        seen.tally
    );
    assert_eq!(seen.closed, depth.is_none());
    if !cfg!(debug_assertions) {
        for kind in kinds {
            assert!(seen.tally.contains_key(kind), "{name}: never came to {kind:?}");
        }
    }
    seen
}

fn starts(all: bool) -> Vec<World> {
    let mut starts = vec![World::start(&[]), World::start(&[0]), World::start(&[1])];
    if all {
        starts.push(World::start(&[0, 1]));
    }
    starts
}

const USUAL: [&str; 8] = [
    "fresh pair",
    "no sync",
    "resync G5 older",
    "resync G8 inconsistent",
    "resync G8 never stopped",
    "resync G8 writer",
    "resync, full",
    "split brain",
];

#[test]
fn two_nodes_that_reply_together() {
    let setup = Setup { blocks: 2, ..PAIR };
    run("protocols B and C, two blocks", setup, &[World::start(&[])], &USUAL);
    if deep() {
        let setup = Setup { generations: 4, writes: 2, ..PAIR };
        run("protocols B and C, two writes", setup, &[World::start(&[])], &USUAL);
    }
}

#[test]
fn two_nodes_of_which_one_replies_ahead() {
    let setup = Setup { replies: Replies::Ahead, blocks: if deep() { 2 } else { 1 }, ..PAIR };
    run("protocol A", setup, &starts(false), &USUAL);
}

#[test]
fn two_nodes_whose_disks_are_blanked_or_invalidated() {
    let setup = Setup { blanking: true, depth: Some(10), ..PAIR };
    let setup = if deep() { Setup { depth: None, ..setup } } else { setup };
    run("blank disks", setup, &starts(true), &[&USUAL[..], &["refused", "unrelated"]].concat());
}

#[test]
fn two_nodes_of_which_one_is_set_back() {
    let setup = Setup { snapshots: true, depth: Some(10), ..PAIR };
    run("snapshots", setup, &starts(false), &USUAL);
}

/// Three nodes in sync, the first of them primary.
fn formed(setup: &Setup) -> World {
    let mut world = World::start(&[]);
    let mut take = |step: Step| {
        world = world.after(setup, step).unwrap_or_else(|| panic!("{step:?} is not possible in {world:?}"));
    };
    let end = |s: u8, t: u8| [Step::TakeHead(s, t), Step::CloseBase(s, t)];
    take(Step::Connect(0, 1));
    end(0, 1).into_iter().for_each(&mut take);
    take(Step::Connect(0, 2));
    for block in 0..setup.blocks as u8 {
        take(Step::CopyBlock { from: 0, to: 2, block, stable: true });
    }
    take(Step::CountTarget(0, 2));
    end(0, 2).into_iter().for_each(&mut take);
    // No primary ever wrote.
    take(Step::Connect(1, 2));
    take(Step::Promote(0, By::Plan));
    for peer in [1, 2] {
        take(Step::TakeOffer(0, peer));
        take(Step::AnswerOffer(0, peer));
    }
    world
}

#[test]
fn three_nodes() {
    let setup = Setup { nodes: 3, generations: 4, depth: Some(7), ..PAIR };
    let kinds = ["no sync", "resync G5 older", "resync G8 kept power", "resync G8 lower id", "split brain"];
    run("three nodes", setup, &[formed(&setup)], &kinds);
}
