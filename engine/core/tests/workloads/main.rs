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
    explore::{Explorer, Passed, Stage, Visited, orders},
    world::Late,
};

/// Walks through every workload of so many operations in each of these orders, prints how much that was, and fails if
/// it was less than `floor` recoveries.
fn walk(stage: Stage, protocol: Protocol, operations: usize, orders: &[Late], floor: u64) {
    let mut passed = Passed::default();
    for late in orders {
        Explorer::walk(stage, protocol, *late, operations, &mut passed);
    }
    let Visited { workloads, moments, recoveries } = passed.visited;
    println!(
        "{stage:?}, protocol {protocol:?}: {workloads} workloads, {moments} moments, {recoveries} recoveries"
    );
    assert!(recoveries >= floor, "{stage:?}, protocol {protocol:?}: only {recoveries} recoveries");
}

const PROTOCOLS: [Protocol; 3] = [Protocol::A, Protocol::B, Protocol::C];

#[test]
fn in_sync_two_operations_in_every_order() {
    for protocol in PROTOCOLS {
        walk(Stage::InSync, protocol, 2, &orders(), 10_000);
    }
}

#[test]
fn beside_a_resync_one_operation_in_every_order() {
    for protocol in PROTOCOLS {
        walk(Stage::Returning, protocol, 1, &orders(), 1_500);
    }
}

#[test]
fn beside_a_resync_two_operations() {
    walk(Stage::Returning, Protocol::C, 2, &[Late::Nothing], 10_000);
}

#[test]
fn on_one_node_three_operations() {
    walk(Stage::Single, Protocol::C, 3, &[Late::Nothing], 10_000);
}

#[test]
fn on_protocol_a_three_operations() {
    walk(Stage::InSync, Protocol::A, 3, &[Late::Nothing], 100_000);
}

#[test]
fn on_protocol_b_three_operations() {
    walk(Stage::InSync, Protocol::B, 3, &[Late::Nothing], 100_000);
}

#[test]
fn on_protocol_c_three_operations() {
    walk(Stage::InSync, Protocol::C, 3, &[Late::Nothing], 100_000);
}
