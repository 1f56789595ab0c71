//! What a node finds when it opens its disk (D3, D6, P4), and whom it stays attached to: peers that are slow,
//! that count as bad, that are lost as hosts, or that have parted (G6, R1, W6, W7), and third nodes (G9).

mod pair;
mod trio;

use std::time::Duration;

use bytes::Bytes;
use evenkeel_core::{
    ids::AttachCounter,
    meta::{report::inspect, superblock::Superblock},
    volume::{
        DiskState, Remembered, Replication, Role,
        config::Protocol,
        io::{ClientOperation, RequestError, RequestOutcome},
        operator::{Discard, Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::Suspended,
    },
};
use pair::{Fail, Held, Pair, SIZE, Settings, write};
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

fn refused(answer: &OperatorAnswer, part: &str) {
    let OperatorAnswer::Refused(why) = answer else { panic!("{answer:?}") };
    assert!(why.contains(part), "{why}");
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
    let AttachCounter(counter) = superblock(&pair, 0).attach_counter;
    pair.crash(1);
    pair.crash(0);
    pair.put_back(0, &old);
    pair.remembered[0] = Remembered {
        attach_counter: Some(AttachCounter(counter)),
        highest_term: Some(used),
        ..Remembered::default()
    };
    pair.restart(0);
    refused(&pair.command(0, OperatorCommand::Primary(Force::Inconsistent)), "restart the machine");
    pair.lose_power(0);
    pair.restart(0);
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::Inconsistent)), OperatorAnswer::Done);
    let taken = pair.status(0).term.expect("it is primary");
    assert!(taken > used, "{taken:?} was used up to {used:?}");
}

#[test]
fn d3_nothing_of_the_metadata_is_read_before_it_is_stable() {
    let mut pair = Pair::mirrored();
    pair.crash(1);
    pair.fail_next(1, Fail::Commit);
    pair.restart(1);
    let status = pair.status(1);
    assert_eq!(status.disk, DiskState::Failed);
    assert_eq!((status.node, status.size_bytes), (None, 0), "the flush failed, and it has read on");
    pair.restart(1);
    assert_eq!(pair.status(1).size_bytes, SIZE as u64, "a flush that works opens it");
}

#[test]
fn r1_a_peer_answers_that_its_copy_is_bad_when_that_is_stable() {
    for loses_power in [false, true] {
        let mut pair = Pair::mirrored();
        pair.hold(1, Held::Meta);
        let peer = pair.peer();
        let order = pair.begin_command(0, OperatorCommand::InvalidatePeer(peer));
        assert!(pair.held_actions(1, Held::Meta) > 0);
        assert_eq!(pair.answer(order), None, "nothing of it is stable");
        if loses_power {
            pair.lose_power(1);
            refused(&pair.answer(order).expect("the link is lost"), "before the peer had answered");
        } else {
            pair.release(1, Held::Meta);
            assert_eq!(pair.answer(order), Some(OperatorAnswer::Done));
            pair.crash(1);
            pair.restart(1);
            assert_eq!(pair.status(1).disk, DiskState::Inconsistent);
        }
    }
}

/// Protocol A: a write is answered that never comes to the peer; that is to serve in place of the own disk.
#[test]
fn w7_a_host_that_never_had_every_answered_write_is_not_taken_back() {
    let mut pair = Pair::serving(Settings { protocol: Protocol::A, ..Settings::default() });
    assert_eq!(pair.write(0, 0, &[1; 4096], true), DONE);
    pair.limit_frames(1, 0);
    assert_eq!(pair.write(0, 0, &[2; 4096], false), DONE, "from the own disk");
    pair.fail_next(0, Fail::Write);
    let last = pair.begin_request(0, write(3));
    assert_eq!(pair.reply(last), None);
    let status = pair.status(0);
    assert_eq!((status.role, status.disk), (Role::Primary, DiskState::Failed));
    assert_eq!(status.suspended, Some(Suspended::NoData), "the peer has not taken it up yet");
    pair.disconnect();
    pair.unlimit_frames();
    assert_eq!(pair.data(1)[0], 1, "the answered write is nowhere but on the failed disk");
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(0).role, Role::Secondary, "nobody can go on from here");
    assert!(matches!(pair.reply(last), Some(Err(_))));
    let read = ClientOperation::Read(ByteSpan { offset: 0, len: 4096 });
    assert_eq!(pair.request(0, read), Err(RequestError::Shutdown), "an answered write would be missing");
}

/// Every second a write comes, and the peer has done the one before: it always owes one.
#[test]
fn w6_a_peer_that_goes_on_is_not_dropped_though_it_always_owes_something() {
    let mut pair = Pair::mirrored();
    let link = pair.link();
    pair.hold(1, Held::Write);
    let mut owed = pair.begin_request(0, write(0));
    for byte in 1..20 {
        let offset = u64::from(byte) * 4096;
        let payload = Bytes::from(vec![byte; 4096]);
        let next = pair.begin_request(0, ClientOperation::Write { offset, payload, fua: false });
        pair.release_one(1, Held::Write);
        assert_eq!(pair.reply(owed), Some(DONE), "write {byte}: the peer has done the one before");
        assert_eq!(pair.held_actions(1, Held::Write), 1, "write {byte} is owed");
        pair.pass(Duration::from_secs(1));
        assert_eq!(pair.link(), link, "write {byte}: it has gone on all the time");
        owed = next;
    }
    pair.pass(Duration::from_secs(10));
    assert_eq!(pair.link(), None, "now it does not go on");
    assert_eq!(pair.reply(owed), Some(DONE), "without it");
}

/// The session, the generation and the attach are the same in the snapshot and in what it lacks.
#[test]
fn d6_the_counter_rises_while_data_change_and_peers_are_shown_that() {
    let mut pair = Pair::mirrored();
    pair.pass(MINUTE);
    let AttachCounter(before) = superblock(&pair, 0).attach_counter;
    let old = pair.snapshot(0);
    assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
    pair.pass(MINUTE);
    assert_eq!(superblock(&pair, 0).attach_counter, AttachCounter(before + 1), "data have changed");
    pair.pass(MINUTE);
    assert_eq!(superblock(&pair, 0).attach_counter, AttachCounter(before + 1), "no data have changed");
    pair.crash(0);
    pair.put_back(0, &old);
    pair.restart(0);
    pair.connect();
    pair.pass_time();
    for node in 0..2 {
        assert!(
            pair.data(node)[2 << 20..(2 << 20) + 4096] == [2; 4096],
            "node {node} lacks what was answered"
        );
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
    }
    let last = pair.status(0).last_resync.expect("one ended");
    assert_eq!(last.compared_bytes, SIZE as u64, "nothing of it is believed");
}

#[test]
fn g6_a_primary_does_not_let_its_changes_be_discarded_from_the_other_node() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 0, &[2; 4096], true), DONE);
    assert_eq!(pair.write(1, 0, &[3; 4096], true), DONE);
    pair.connect();
    assert_eq!((pair.status(0).role, pair.status(1).role), (Role::Secondary, Role::Primary), "G10");
    let peer = pair.peer();
    let order = OperatorCommand::Resolve { peer, discard: Discard::Peers };
    refused(&pair.command(0, order.clone()), "the peer is primary");
    pair.pass_time();
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (2, 3), "nothing has moved");
    assert_eq!(pair.command(1, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    assert_eq!(pair.command(0, order), OperatorAnswer::Done);
    pair.pass_time();
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (2, 2), "now it has");
}

/// Alpha wrote alone. Beta, in sync with gamma, meets it, and holds the resync still.
#[test]
fn g9_the_target_of_a_resync_is_in_sync_with_nobody() {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.cut(0, 1);
    trio.cut(0, 2);
    for _ in 0..2 {
        trio.pass_time();
    }
    assert_eq!(trio.write(0, 0, &[5; 4096]), Some(DONE));
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.of(2, 1).replication, Replication::Established);
    assert_eq!(trio.command(1, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    trio.join(0, 1);
    assert_eq!(trio.status(1).disk, DiskState::Inconsistent, "it is a target");
    assert_ne!(trio.of(1, 2).replication, Replication::Established);
    assert_ne!(trio.of(2, 1).replication, Replication::Established, "a half-copied node");
    assert_eq!(trio.command(1, OperatorCommand::PauseResync(false)), OperatorAnswer::Done);
    trio.join(0, 2);
    trio.pass_time();
    for node in [1, 2] {
        assert!(trio.data(node)[..4096] == [5; 4096], "node {node}");
        assert_eq!(trio.status(node).disk, DiskState::UpToDate, "node {node}");
    }
    assert_eq!(trio.of(2, 1).replication, Replication::Established);
}
