//! Every workload of at most three operations (write, write through, zero, read, flush) on at most three blocks, on
//! the engine itself, with every crash at every event: of the primary, of its peer, of both, by the death of the
//! process and by loss of power with every subset of what was not flushed; and with the cable pulled, the role handed
//! over and a verify begun at every event. What is there afterwards is compared with the contract.
//!
//! Bounds: operations follow each other at once or when the one before is answered; things happen in the order in
//! which they were begun (three operations), or one sort of them last (two operations, see `explore::orders`); a crash
//! during a recovery is not looked at; torn blocks are not (`meta` has its own tests for torn metadata).

mod contract;
mod disk;
mod explore;
mod recovery;
mod workload;
mod world;

use evenkeel_core::volume::config::Protocol;

use crate::{
    explore::{Explorer, Stage, Visited, orders},
    world::Late,
};

/// Walks through the trees, prints how much that was, and fails if it was less than `floor` recoveries.
fn walk(name: &str, walks: impl IntoIterator<Item = Explorer>, floor: u64) {
    let mut all = Visited::default();
    for explorer in walks {
        let Visited { workloads, moments, recoveries } = explorer.explore();
        all.workloads += workloads;
        all.moments += moments;
        all.recoveries += recoveries;
    }
    println!("{name}: {} workloads, {} moments of them, {} recoveries", all.workloads, all.moments, all.recoveries);
    assert!(all.recoveries >= floor, "{name}: only {} recoveries", all.recoveries);
}

#[test]
fn one_node() {
    walk("one node", [Explorer::new(Stage::Single, Protocol::C, Late::Nothing, 3)], 1);
}

#[test]
fn in_sync_on_protocol_a() {
    walk("in sync, A", [Explorer::new(Stage::InSync, Protocol::A, Late::Nothing, 3)], 1);
}

#[test]
fn in_sync_on_protocol_b() {
    walk("in sync, B", [Explorer::new(Stage::InSync, Protocol::B, Late::Nothing, 3)], 1);
}

#[test]
fn in_sync_on_protocol_c() {
    walk("in sync, C", [Explorer::new(Stage::InSync, Protocol::C, Late::Nothing, 3)], 1);
}

#[test]
fn in_other_orders() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let walks = orders().into_iter().map(|late| Explorer::new(Stage::InSync, protocol, late, 2));
        walk(&format!("in other orders, {protocol:?}"), walks, 1);
    }
}

#[test]
fn beside_a_resync() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let walks = orders().into_iter().map(|late| Explorer::new(Stage::Returning, protocol, late, 2));
        walk(&format!("beside a resync, {protocol:?}"), walks, 1);
    }
}
