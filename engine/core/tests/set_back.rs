//! An older state of a node is put back, with or without its data (D6): it is noticed wherever that happens, and nothing
//! else is taken for it.

mod pair;
mod trio;

use std::time::Duration;

use evenkeel_core::{
    ids::AttachCounter,
    volume::{
        DiskState, Remembered, Replication,
        io::{RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer, OperatorCommand},
    },
};
use pair::{Held, Pair, SIZE};
use trio::Trio;

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);
const MINUTE: Duration = Duration::from_secs(61);

fn is_read(pair: &Pair, node: usize, offset: usize, byte: u8) -> bool {
    pair.data(node)[offset..offset + 4096] == [byte; 4096]
}

/// The target of a resync dies after any of its commits, the next one not made.
#[test]
fn d6_a_crash_between_two_commits_is_no_set_back() {
    for commits in 0..8 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
        pair.hold(1, Held::Meta);
        pair.connect();
        for _ in 0..commits {
            pair.release_one(1, Held::Meta);
        }
        pair.crash(1);
        pair.release(1, Held::Meta);
        pair.restart(1);
        pair.connect();
        for node in 0..2 {
            assert!(is_read(&pair, node, 2 << 20, 2), "{commits} commits, node {node}");
        }
        let last = pair.status(0).last_resync.expect("one ended");
        assert!(last.compared_bytes < SIZE as u64, "{commits} commits: {last:?}");
    }
}

#[test]
fn d6_the_attach_counter_rises_at_every_attach() {
    let mut pair = Pair::mirrored();
    pair.crash(1);
    assert_eq!(pair.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done);
    let AttachCounter(left) = pair.superblock(0).attach_counter;
    assert!(pair.superblock(0).was_shut_down_cleanly());
    pair.crash(0);
    for run in 1..4 {
        pair.restart(0);
        assert_eq!(pair.superblock(0).attach_counter, AttachCounter(left + run));
        assert!(!pair.superblock(0).was_shut_down_cleanly(), "run {run} has not ended well");
        let expected = if run == 1 { DiskState::UpToDate } else { DiskState::Consistent };
        assert_eq!(pair.status(0).disk, expected, "run {run}");
        pair.lose_power(0);
    }
}

/// Beta has seen a later state of gamma, alpha has not.
#[test]
fn d6_a_copy_that_was_set_back_leaves_every_session() {
    let mut trio = Trio::new();
    let old = trio.snapshot(2);
    trio.crash(0);
    trio.cut(1, 2);
    trio.join(1, 2);
    trio.cut(1, 2);
    trio.crash(2);
    trio.put_back(2, &old);
    trio.restart(0);
    trio.restart(2);
    trio.pass_time();
    for (node, other) in [(0, 2), (2, 0)] {
        assert_eq!(trio.of(node, other).replication, Replication::Established, "alpha knows nothing");
    }
    trio.hold_commits(2);
    trio.join(1, 2);
    assert_eq!(trio.status(2).disk, DiskState::Inconsistent, "beta does");
    for (node, other) in [(0, 2), (2, 0)] {
        assert_ne!(trio.of(node, other).replication, Replication::Established, "node {node} and {other}");
    }
    trio.release_commits();
    trio.pass_time();
    for node in 0..3 {
        assert_eq!(trio.status(node).disk, DiskState::UpToDate, "node {node}");
    }
}

/// A state of a node that was running is put back: no session, no generation and no attach is between it and the writes
/// that it lacks. The counter has risen meanwhile, of who leads and of who follows, and the other one has been shown that.
#[test]
fn d6_the_counter_rises_while_data_change_and_a_snapshot_of_a_running_node_is_noticed() {
    for node in 0..2 {
        let mut pair = Pair::mirrored();
        pair.pass(MINUTE);
        let AttachCounter(before) = pair.superblock(node).attach_counter;
        let old = pair.snapshot(node);
        let head = pair.status(0).head;
        assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
        pair.pass(MINUTE);
        assert_eq!(pair.superblock(node).attach_counter, AttachCounter(before + 1), "data have changed");
        pair.pass(MINUTE);
        assert_eq!(pair.superblock(node).attach_counter, AttachCounter(before + 1), "no data have changed");
        assert_eq!([pair.status(0).head, pair.status(1).head], [head; 2], "the heads do not tell");
        pair.crash(node);
        pair.put_back(node, &old);
        pair.restart(node);
        pair.connect();
        pair.pass_time();
        for copy in 0..2 {
            assert!(is_read(&pair, copy, 2 << 20, 2), "node {copy} lacks what was answered");
            assert_eq!(pair.status(copy).disk, DiskState::UpToDate, "node {copy}");
        }
        let last = pair.status(node).last_resync.expect("one ended");
        assert_eq!(last.compared_bytes, SIZE as u64, "nothing of it is believed");
    }
}

/// Both files are those of the first term, no peer is there, and the state directory knows of a later term.
#[test]
fn p4_a_copy_that_was_set_back_takes_no_term_that_was_used() {
    let mut pair = Pair::mirrored();
    let old = pair.snapshot(0);
    let first = pair.status(0).term.expect("it is primary").number;
    for _ in 0..3 {
        assert_eq!(pair.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
        assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    }
    let used = pair.status(0).term.expect("it is primary");
    assert!(used.number > first + 1, "one more than the old copy knows would not do");
    let AttachCounter(counter) = pair.superblock(0).attach_counter;
    pair.crash(1);
    pair.crash(0);
    pair.put_back(0, &old);
    pair.remembered[0] = Remembered {
        attach_counter: Some(AttachCounter(counter)),
        highest_term: Some(used),
        ..Remembered::default()
    };
    pair.restart(0);
    let answer = pair.command(0, OperatorCommand::Primary(Force::Inconsistent));
    assert!(
        matches!(&answer, OperatorAnswer::Refused(why) if why.contains("restart the machine")),
        "{answer:?}"
    );
    pair.lose_power(0);
    pair.restart(0);
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::Inconsistent)), OperatorAnswer::Done);
    let taken = pair.status(0).term.expect("it is primary");
    assert!(taken > used, "{taken:?} was used up to {used:?}");
}
