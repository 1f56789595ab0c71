//! Disks that fail, on the two nodes of `pair`: serving through the peer (W7), what is recorded of a failure (W4),
//! and how the failed copy comes back.

mod pair;

use bytes::Bytes;
use evenkeel_core::volume::{
    DiskState, Replication, Role,
    config::Protocol,
    io::{ClientOperation, RequestError, RequestOutcome},
    operator::{Force, OperatorAnswer, OperatorCommand},
    span::ByteSpan,
    status::Suspended,
};
use pair::{Fail, Held, Pair, Settings, write};

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);

fn in_sync_pair() -> Pair {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    pair
}

/// A pair whose primary, node 0, has just lost its disk.
fn diskless_pair() -> Pair {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536], false), DONE);
    pair.fail_next(0, Fail::Write);
    assert_eq!(pair.write(0, 8192, &[2; 4096], false), DONE);
    assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Primary, DiskState::Failed));
    pair
}

fn read(offset: u64, len: u64) -> ClientOperation {
    ClientOperation::Read(ByteSpan { offset, len })
}

#[test]
fn w7_a_failed_disk_does_not_fail_the_volume() {
    for fail in [Fail::Write, Fail::Flush, Fail::Commit] {
        let mut pair = in_sync_pair();
        let before = pair.status(0).head;
        assert_eq!(pair.write(0, 1 << 20, &[1; 4096], false), DONE);
        pair.fail_next(0, fail);
        // A new extent needs a commit, a flush needs a flush.
        assert_eq!(pair.write(0, 2 << 20, &[2; 4096], false), DONE, "{fail:?}");
        assert_eq!(pair.request(0, ClientOperation::Flush), DONE, "{fail:?}");
        assert_eq!(
            (pair.status(0).role, pair.status(0).disk),
            (Role::Primary, DiskState::Failed),
            "{fail:?}"
        );
        assert_eq!(pair.status(0).suspended, None);
        assert_eq!(pair.status(0).head, pair.status(1).head);
        assert_ne!(pair.status(0).head, before, "G1");
        assert_eq!((pair.status(0).entitled, pair.status(1).entitled), (false, true), "P2");
        assert_eq!(pair.stable_data(1)[2 << 20..(2 << 20) + 4096], [2; 4096]);
        let all = pair.request(0, read(0, 4 << 20));
        assert_eq!(all, Ok(RequestOutcome::Data(pair.data(1).to_vec().into())), "in several parts");
    }
}

#[test]
fn w7_the_failed_disk_comes_back_by_bitmap() {
    let mut pair = diskless_pair();
    assert_eq!(pair.write(0, 3 << 20, &[3; 4096], false), DONE);
    pair.crash(0);
    assert_eq!(pair.status(1).disk, DiskState::UpToDate, "everything that was answered is there");
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(pair.write(1, 4096, &[4; 4096], false), DONE);
    pair.restart(0);
    assert_eq!(pair.status(0).disk, DiskState::Inconsistent);
    pair.connect();
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.stable_data(0), pair.data(0));
    let last = pair.status(0).last_resync.expect("one ended");
    assert!(last.compared_bytes <= 3 * 65536, "extents in use and the bits of the host: {last:?}");
}

#[test]
fn w7_a_crash_of_the_host_costs_the_failed_disk_no_block() {
    let mut pair = diskless_pair();
    assert_eq!(pair.write(0, 3 << 20, &[3; 4096], true), DONE);
    pair.lose_power(1);
    pair.crash(0);
    pair.restart(0);
    pair.restart(1);
    pair.connect();
    for node in 0..2 {
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
        assert_eq!(pair.data(node)[3 << 20..(3 << 20) + 4096], [3; 4096], "node {node}");
    }
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn w7_everything_is_held_while_the_host_is_away() {
    let mut pair = diskless_pair();
    pair.disconnect();
    assert_eq!(pair.status(0).suspended, Some(Suspended::NoData));
    let write = ClientOperation::Write { offset: 0, payload: vec![9; 4096].into(), fua: false };
    let write = pair.begin_request(0, write);
    let asked = pair.begin_request(0, read(0, 4096));
    assert_eq!((pair.reply(write), pair.reply(asked)), (None, None));
    pair.connect();
    assert_eq!(pair.reply(write), Some(DONE));
    assert_eq!(pair.reply(asked), Some(Ok(RequestOutcome::Data(vec![9; 4096].into()))));
    assert_eq!(pair.status(0).suspended, None);
    assert_eq!(pair.data(1)[..4096], [9; 4096]);
    let host = &pair.status(0).peers[0];
    assert_eq!(
        (host.replication, host.disk),
        (Replication::Established, Some(DiskState::UpToDate)),
        "it tells on the new link what it is"
    );

    pair.disconnect();
    let late = pair.begin_request(0, read(0, 4096));
    for _ in 0..41 {
        pair.pass_time();
    }
    assert_eq!(pair.reply(late), Some(Err(RequestError::Io)), "held for 120 s");
}

#[test]
fn w7_a_host_that_lost_power_is_not_taken_back() {
    let mut pair = diskless_pair();
    assert_eq!(pair.write(0, 0, &[5; 4096], false), DONE, "on the host only, and not stable");
    pair.lose_power(1);
    pair.restart(1);
    pair.connect();
    assert_eq!(pair.status(0).role, Role::Secondary, "what was answered is not there any more");
    assert_eq!(pair.request(0, read(0, 4096)), Err(RequestError::Shutdown));
}

#[test]
fn w7_the_host_gives_nothing_away() {
    let mut pair = diskless_pair();
    let invalidate = pair.command(1, OperatorCommand::Invalidate);
    assert!(matches!(invalidate, OperatorAnswer::Refused(_)), "the only copy");
    let disconnect = OperatorCommand::Disconnect(pair.peer());
    assert!(matches!(pair.command(0, disconnect), OperatorAnswer::Refused(_)));
    assert!(matches!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Refused(_)));
    assert_eq!(pair.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(pair.data(1)[8192..12288], [2; 4096]);
}

#[test]
fn w7_nothing_is_answered_before_the_own_failure_is_recorded() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), DONE, "from here on its extent needs no commit");
    pair.fail_next(0, Fail::Write);
    pair.fail_next(0, Fail::Commit);
    let write = ClientOperation::Write { offset: 0, payload: vec![2; 4096].into(), fua: false };
    let write = pair.begin_request(0, write);
    assert_eq!(pair.reply(write), None);
    assert!(!pair.status(1).entitled, "both would have the right");
    pair.pass_time();
    assert_eq!(pair.reply(write), Some(DONE));
    assert!(pair.status(1).entitled);
}

#[test]
fn an_unreadable_sector_is_read_from_the_peer_and_condemns_nothing() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[7; 4096], false), DONE);
    pair.fail_next(0, Fail::Read);
    assert_eq!(pair.request(0, read(0, 4096)), Ok(RequestOutcome::Data(vec![7; 4096].into())));
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
    pair.disconnect();
    pair.fail_next(0, Fail::Read);
    assert_eq!(pair.request(0, read(0, 4096)), Err(RequestError::Io), "nobody else has it");
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
}

#[test]
fn an_unreadable_source_is_not_given_up() {
    let mut pair = in_sync_pair();
    pair.disconnect();
    assert_eq!(pair.write(0, 0, &[7; 4096], false), DONE);
    pair.fail_next(0, Fail::Read);
    pair.connect();
    assert_eq!(pair.status(0).disk, DiskState::UpToDate, "the only good copy");
    assert_eq!(pair.status(1).disk, DiskState::Inconsistent);
    pair.connect();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn w4_after_a_failed_flush_nothing_is_compared() {
    for ends_well in [false, true] {
        nothing_is_compared_after_a_failed_flush(ends_well);
    }
}

/// `ends_well`: the run after the failed one, which does not know what the kernel's cache hides from it either.
fn nothing_is_compared_after_a_failed_flush(ends_well: bool) {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[7; 4096], false), DONE);
    pair.fail_next(1, Fail::Flush);
    assert_eq!(pair.request(0, ClientOperation::Flush), DONE, "alone");
    assert_eq!(pair.status(1).disk, DiskState::Failed);
    assert_eq!(pair.data(1)[..4096], [7; 4096], "the cache shows what the media do not have");
    assert_eq!(pair.stable_data(1)[..4096], [0; 4096]);
    pair.crash(1);
    pair.restart(1);
    if ends_well {
        assert_eq!(pair.command(1, OperatorCommand::Shutdown), OperatorAnswer::Done);
        pair.crash(1);
        pair.restart(1);
    }
    pair.connect();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.moved_bytes, 4096, "written although it looked the same, and by bitmap");
    assert_eq!(pair.status(1).peers[0].replication, Replication::Established);
}

#[test]
fn w4_the_last_copy_is_put_in_doubt_by_a_write_and_condemned_by_a_flush() {
    for (fail, disk) in [(Fail::Write, DiskState::Outdated), (Fail::Flush, DiskState::Inconsistent)] {
        let mut pair = in_sync_pair();
        pair.disconnect();
        assert_eq!(pair.write(0, 0, &[7; 4096], true), DONE);
        pair.fail_next(0, fail);
        let failing = match fail {
            Fail::Flush => pair.request(0, ClientOperation::Flush),
            Fail::Write | Fail::Read | Fail::Room | Fail::Extend | Fail::Commit => {
                pair.write(0, 0, &[8; 4096], false)
            }
        };
        assert!(failing.is_err(), "{fail:?}");
        assert_eq!(pair.status(0).role, Role::Secondary, "{fail:?}");
        pair.crash(0);
        pair.restart(0);
        assert_eq!(pair.status(0).disk, disk, "{fail:?}");
        let forced = pair.command(0, OperatorCommand::Primary(Force::Yes));
        assert_eq!(forced == OperatorAnswer::Done, fail == Fail::Write, "{fail:?}");
    }
}

/// Of an opening only the flush of the data is still under way when the metadata fail: its end opens nothing.
#[test]
fn w4_a_disk_that_fails_while_it_is_opened_does_not_come_back_to_life() {
    let mut pair = in_sync_pair();
    pair.crash(1);
    pair.hold(1, Held::Flush);
    pair.hold(1, Held::Meta);
    pair.restart(1);
    while pair.held_actions(1, Held::Flush) == 0 {
        pair.release_one(1, Held::Meta);
    }
    pair.fail_next(1, Fail::Commit);
    pair.release(1, Held::Meta);
    assert_eq!(pair.status(1).disk, DiskState::Failed);
    pair.release(1, Held::Flush);
    pair.connect();
    pair.pass_time();
    assert_eq!((pair.status(1).disk, pair.status(0).peers[0].connected), (DiskState::Failed, false));
    assert!(matches!(
        pair.command(1, OperatorCommand::Primary(Force::Inconsistent)),
        OperatorAnswer::Refused(_)
    ));
    pair.restart(1);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.status(0).peers[0].replication, Replication::Established);
}

/// A head that was only on its way to the media when the disk failed is given up: nothing was answered under it.
#[test]
fn w4_a_failed_disk_is_recorded_under_the_head_that_was_stable() {
    let mut pair = in_sync_pair();
    let head = pair.status(0).head;
    pair.hold(0, Held::Write);
    let request = pair
        .begin_request(0, ClientOperation::Write { offset: 0, payload: vec![7; 4096].into(), fua: false });
    pair.hold(0, Held::Meta);
    pair.disconnect();
    assert_ne!(pair.status(0).head, head, "begun, and not stable");
    pair.fail_next(0, Fail::Write);
    pair.release(0, Held::Write);
    pair.release(0, Held::Meta);
    assert!(matches!(pair.reply(request), Some(Err(_))));
    pair.crash(0);
    pair.restart(0);
    assert_eq!(pair.status(0).head, head);
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
    assert_eq!(
        pair.request(0, read(0, 4096)),
        Err(RequestError::Shutdown),
        "an answered write would be missing"
    );
}

#[test]
fn w4_a_write_through_that_fails_condemns_the_last_copy_as_a_flush_does() {
    let payload = Bytes::from(vec![8; 4096]);
    for (fua, disk) in [(false, DiskState::Outdated), (true, DiskState::Inconsistent)] {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.request(0, write(7)), DONE, "the other copy is old now");
        pair.fail_next(0, Fail::Write);
        let request = ClientOperation::Write { offset: 0, payload: payload.clone(), fua };
        assert!(pair.request(0, request).is_err(), "fua {fua}");
        pair.crash(0);
        pair.restart(0);
        assert_eq!(pair.status(0).disk, disk, "fua {fua}");
        let forced = pair.command(0, OperatorCommand::Primary(Force::Yes));
        assert_eq!(forced == OperatorAnswer::Done, !fua, "fua {fua}: {forced:?}");
    }
}

#[test]
fn g8_a_host_that_serves_again_is_not_as_settled_as_it_left() {
    let mut pair = Pair::serving(Settings::default());
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
    assert!(pair.data(1)[..4096] == [2; 4096], "what was answered is gone");
    assert_eq!(
        pair.request(0, read(0, 4096)),
        Err(RequestError::Shutdown),
        "and nobody may serve without it"
    );
    assert_eq!(pair.status(0).role, Role::Secondary);
}
