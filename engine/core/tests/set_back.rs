//! What a node may believe of what it finds on its disk: whether that is an older state that was put back (D6),
//! what a crash left open (G7), who was primary (P7), and who kept what was written (G8).

mod pair;
mod trio;

use std::time::Duration;

use evenkeel_core::{
    ids::AttachCounter,
    meta::{report::inspect, superblock::Superblock},
    volume::{
        DiskState, Replication, Role,
        io::{ClientOperation, RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
    },
};
use pair::{Fail, Held, Pair, SIZE, write};
use trio::Trio;

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);
const MINUTE: Duration = Duration::from_secs(61);

/// What the metadata of a node say on stable media.
fn superblock(pair: &Pair, node: usize) -> Superblock {
    let meta = pair.meta(node);
    let report = inspect(meta.len() as u64, &mut |offset, bytes: &mut [u8]| {
        let start = usize::try_from(offset).expect("small");
        bytes.copy_from_slice(&meta[start..start + bytes.len()]);
        Ok(())
    });
    report.superblock().expect("one is whole").clone()
}

fn is_read(pair: &Pair, node: usize, offset: usize, byte: u8) -> bool {
    pair.data(node)[offset..offset + 4096] == [byte; 4096]
}

/// No session, no generation and no attach is between the snapshot and the writes that it lacks.
#[test]
fn d6_a_snapshot_of_a_running_primary_is_noticed() {
    let mut pair = Pair::mirrored();
    pair.pass(MINUTE);
    let old = pair.snapshot(0);
    let head = pair.status(0).head;
    assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
    pair.pass(MINUTE);
    assert_eq!(pair.status(1).head, head, "the heads do not tell");
    pair.crash(0);
    pair.put_back(0, &old);
    pair.restart(0);
    pair.connect();
    pair.pass_time();
    for node in 0..2 {
        assert!(is_read(&pair, node, 2 << 20, 2), "node {node}");
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
    }
    let last = pair.status(0).last_resync.expect("one ended");
    assert_eq!(last.compared_bytes, SIZE as u64, "nothing of it is believed");
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
    let AttachCounter(left) = superblock(&pair, 0).attach_counter;
    assert!(superblock(&pair, 0).was_shut_down_cleanly());
    pair.crash(0);
    for run in 1..4 {
        pair.restart(0);
        assert_eq!(superblock(&pair, 0).attach_counter, AttachCounter(left + run));
        assert!(!superblock(&pair, 0).was_shut_down_cleanly(), "run {run} has not ended well");
        let expected = if run == 1 { DiskState::UpToDate } else { DiskState::Consistent };
        assert_eq!(pair.status(0).disk, expected, "run {run}");
        pair.lose_power(0);
    }
}

/// A write has come to the disk of the primary alone, and the log that names its extent is damaged.
#[test]
fn g7_a_damaged_activity_log_marks_everything() {
    let mut pair = Pair::mirrored();
    pair.limit_frames(1, 0);
    let answer = pair.begin_request(0, write(2));
    assert_eq!(pair.reply(answer), None);
    let log = superblock(&pair, 0).layout.log().bytes();
    pair.crash(0);
    pair.crash(1);
    pair.unlimit_frames();
    assert!(is_read(&pair, 0, 0, 2) && is_read(&pair, 1, 0, 1), "they differ");
    let (_, mut meta) = pair.snapshot(0);
    let (start, end) = (usize::try_from(log.start).expect("small"), usize::try_from(log.end).expect("small"));
    meta[start..end].fill(0xEE);
    let data = pair.data(0).to_vec();
    pair.put_back(0, &(data, meta));
    pair.restart(0);
    pair.restart(1);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.data(0), pair.data(1));
    assert!(is_read(&pair, 1, 0, 2), "the primary had it");
    assert_eq!(pair.status(1).last_resync.expect("one ended").compared_bytes, SIZE as u64);
}

/// A superblock is torn, so it does not take up its role by itself; as secondary it is the source of its peer.
#[test]
fn p7_who_is_in_sync_as_secondary_is_no_crashed_primary_any_more() {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    let (data, mut meta) = pair.snapshot(0);
    // As a write of the first superblock that was torn.
    meta[200] ^= 1;
    pair.put_back(0, &(data, meta));
    pair.restart(0);
    assert_eq!((pair.status(0).disk, pair.status(0).resuming), (DiskState::Consistent, false));
    pair.connect();
    for node in 0..2 {
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
        assert_eq!(pair.status(node).role, Role::Secondary, "node {node}");
    }
    pair.crash(0);
    pair.restart(0);
    assert!(!pair.status(0).resuming, "it died as secondary");
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(0).role, Role::Secondary);
}

#[test]
fn g8_a_host_that_serves_again_is_not_as_settled_as_it_left() {
    let mut pair = Pair::serving(pair::Settings::default());
    assert_eq!(pair.write(0, 0, &[1; 4096], true), DONE);
    pair.fail_next(0, Fail::Write);
    assert_eq!(pair.write(0, 0, &[2; 4096], false), DONE);
    assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Primary, DiskState::Failed));
    let head = pair.status(1).head;
    assert_eq!(pair.command(1, OperatorCommand::Shutdown), OperatorAnswer::Done);
    pair.crash(1);
    pair.restart(1);
    pair.connect();
    assert_eq!(pair.status(0).suspended, None, "it is taken back");
    assert_eq!(pair.write(0, 0, &[3; 4096], false), DONE, "on the host only, and not stable");
    assert_eq!(pair.status(1).head, head);
    pair.lose_power(1);
    pair.restart(1);
    pair.connect();
    assert!(is_read(&pair, 1, 0, 2), "what was answered is gone");
    let read = ClientOperation::Read(ByteSpan { offset: 0, len: 4096 });
    assert_eq!(pair.request(0, read), Err(RequestError::Shutdown), "and nobody may serve without it");
    assert_eq!(pair.status(0).role, Role::Secondary);
}

/// Alpha wrote, and lost it with its power; gamma has it. Beta takes alpha's head, and meets gamma.
#[test]
fn g8_a_head_of_a_node_that_lost_power_is_no_better_with_another() {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.cut(0, 1);
    trio.cut(1, 2);
    assert_eq!(trio.write(0, 0, &[5; 4096]), Some(DONE));
    let head = trio.status(2).head;
    trio.lose_power(0);
    trio.cut(0, 2);
    trio.restart(0);
    trio.join(0, 1);
    assert_eq!((trio.data(0)[0], trio.data(1)[0], trio.data(2)[0]), (0, 0, 5));
    assert_eq!((trio.status(1).head, trio.status(2).head), (head, head));
    trio.cut(0, 1);
    trio.join(1, 2);
    for node in [1, 2] {
        assert_eq!(trio.data(node)[..4096], [5; 4096], "node {node}: gamma kept what was answered");
    }
}

/// The same of a node that follows: its counter rises while it applies what another one writes.
#[test]
fn d6_a_snapshot_of_a_running_secondary_is_noticed() {
    let mut pair = Pair::mirrored();
    pair.pass(MINUTE);
    let old = pair.snapshot(1);
    assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
    pair.pass(MINUTE);
    pair.pass(MINUTE);
    pair.crash(1);
    pair.put_back(1, &old);
    pair.restart(1);
    pair.connect();
    pair.pass_time();
    for node in 0..2 {
        assert!(is_read(&pair, node, 2 << 20, 2), "node {node}");
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
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
