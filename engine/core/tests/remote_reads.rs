//! A primary without a disk and its host while answers are late or the link breaks (W7), and rules nearby: a
//! write through that fails (W4), the order of answers on A (W5), the limit of a resync (R5), and verify (R7).

mod pair;

use bytes::Bytes;
use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        DiskState, Role,
        config::Protocol,
        io::{ClientOperation, RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
    },
};
use pair::{Fail, Held, Pair, Settings, write};

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);

fn primary(protocol: Protocol) -> Pair {
    Pair::serving(Settings { protocol, ..Settings::default() })
}

/// A pair whose primary, node 0, has lost its disk; each MiB of its host is filled with a byte of its own.
fn diskless(protocol: Protocol) -> Pair {
    let mut pair = primary(protocol);
    for part in 0..4_u8 {
        assert_eq!(pair.write(0, u64::from(part) << 20, &vec![part + 1; 1 << 20], false), DONE);
    }
    pair.fail_next(0, Fail::Write);
    assert_eq!(pair.write(0, 0, &[1; 4096], false), DONE);
    assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Primary, DiskState::Failed));
    assert_eq!(pair.status(0).suspended, None);
    pair
}

fn read(offset: u64, len: u64) -> ClientOperation {
    ClientOperation::Read(ByteSpan { offset, len })
}

fn write_block(block: u64, byte: u8) -> ClientOperation {
    ClientOperation::Write { offset: block * 4096, payload: Bytes::from(vec![byte; 4096]), fua: false }
}

fn verify(repair: bool) -> OperatorCommand {
    OperatorCommand::Verify { peer: PeerIndex::FIRST, repair }
}

#[test]
fn w7_parts_of_a_read_are_put_together_by_their_place() {
    let mut pair = diskless(Protocol::C);
    pair.hold(1, Held::Data);
    let asked = pair.begin_request(0, read(0, 4 << 20));
    assert_eq!(pair.held_actions(1, Held::Data), 4, "one question for each MiB");
    pair.release_one(1, Held::Data);
    pair.release_last_first(1, Held::Data);
    let Some(Ok(RequestOutcome::Data(data))) = pair.reply(asked) else { panic!("the read is answered") };
    assert_eq!(data.len(), 4 << 20);
    assert!(data == pair.data(1), "the host's bytes, in order");
}

#[test]
fn w7_a_read_that_the_host_was_asked_for_outlives_the_link() {
    let mut pair = diskless(Protocol::C);
    pair.hold(1, Held::Data);
    let asked = pair.begin_request(0, read(2 << 20, 4096));
    assert_eq!(pair.held_actions(1, Held::Data), 1);
    pair.disconnect();
    pair.pass_time();
    assert_eq!(pair.reply(asked), None, "held while the host is away");
    pair.release(1, Held::Data);
    assert_eq!(pair.reply(asked), None, "what was read for a link that is gone");
    pair.connect();
    assert_eq!(pair.reply(asked), Some(Ok(RequestOutcome::Data(vec![3; 4096].into()))), "asked for again");
}

/// The write is on its way when the own disk fails. That the host has got it is heard after that, and then the
/// host dies before its disk has it.
#[test]
fn w7_what_the_host_has_merely_received_is_issued_anew() {
    let mut pair = primary(Protocol::B);
    assert_eq!(pair.request(0, write(1)), DONE, "from here on its extent needs no commit");
    pair.limit_frames(0, 0);
    pair.hold(1, Held::Write);
    pair.fail_next(0, Fail::Write);
    let request = pair.begin_request(0, write(2));
    assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Primary, DiskState::Failed));
    pair.unlimit_frames();
    assert_eq!(pair.reply(request), None, "on no disk yet");
    pair.crash(1);
    pair.release(1, Held::Write);
    pair.restart(1);
    assert_eq!(pair.data(1)[..4096], [1; 4096]);
    pair.connect();
    assert_eq!(pair.reply(request), Some(DONE));
    assert_eq!(pair.data(1)[..4096], [2; 4096], "answered, so it is there");
}

#[test]
fn w7_a_flush_without_an_own_disk_waits_for_the_host_on_every_protocol() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut pair = diskless(protocol);
        pair.hold(1, Held::Flush);
        assert_eq!(pair.request(0, write(7)), DONE, "{protocol:?}");
        let flush = pair.begin_request(0, ClientOperation::Flush);
        assert_eq!(pair.reply(flush), None, "{protocol:?}: the only copy is in a cache");
        assert_ne!(pair.stable_data(1)[..4096], [7; 4096], "{protocol:?}");
        pair.release(1, Held::Flush);
        assert_eq!(pair.reply(flush), Some(DONE), "{protocol:?}");
        assert_eq!(pair.stable_data(1)[..4096], [7; 4096], "{protocol:?}");
    }
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

/// The replica may have a write only with all that was answered before it.
#[test]
fn w5_a_write_follows_the_last_one_answered_whatever_was_answered_after_it() {
    let mut pair = primary(Protocol::A);
    assert_eq!(pair.request(0, write(9)), DONE, "from here on its extent needs no commit");
    pair.hold(0, Held::Write);
    pair.limit_frames(1, 0);
    let [first, second] = [1, 2].map(|block| pair.begin_request(0, write_block(block, 1)));
    pair.release_last_first(0, Held::Write);
    assert_eq!((pair.reply(first), pair.reply(second)), (Some(DONE), Some(DONE)), "in the other order");
    pair.hold(1, Held::Write);
    pair.unlimit_frames();
    assert_eq!(pair.request(0, write_block(3, 1)), DONE);
    assert_eq!(pair.held_actions(1, Held::Write), 2, "the third waits");
    pair.release_one(1, Held::Write);
    assert_eq!(pair.held_actions(1, Held::Write), 1, "the third waits for the second too");
    pair.release_one(1, Held::Write);
    assert_eq!(pair.held_actions(1, Held::Write), 1, "and begins now");
    pair.release(1, Held::Write);
    assert_eq!(pair.data(1), pair.data(0));
}

#[test]
fn r5_a_limit_that_is_raised_counts_at_once() {
    for node in 0..2 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.write(0, 0, &vec![5; 1 << 20], false), DONE);
        assert_eq!(pair.command(node, OperatorCommand::LimitResync(Some(1))), OperatorAnswer::Done);
        pair.connect();
        pair.pass_time();
        assert_eq!(pair.status(1).disk, DiskState::Inconsistent, "node {node}: a byte a second");
        assert!(pair.moved_bytes > 0, "node {node}: the first pull is to be paid for");
        assert_eq!(pair.command(node, OperatorCommand::LimitResync(Some(50 << 20))), OperatorAnswer::Done);
        pair.pass_time();
        assert_eq!(pair.status(1).disk, DiskState::UpToDate, "node {node}");
        assert!(pair.data(1) == pair.data(0), "node {node}");
    }
}

#[test]
fn r7_what_the_follower_cannot_read_differs_and_is_written_anew() {
    for repair in [false, true] {
        let mut pair = Pair::mirrored();
        pair.change_behind(1, 4096, &[9]);
        pair.fail_next(1, Fail::Read);
        let blocks = 0..16_u64;
        let found = OperatorAnswer::Verified {
            compared_bytes: 4 << 20,
            differing_bytes: 64 << 10,
            differing: blocks.map(|block| ByteSpan { offset: block * 4096, len: 4096 }).collect(),
            repaired: repair,
        };
        assert_eq!(pair.command(0, verify(repair)), found, "a comparison has 64 KiB");
        assert_eq!(pair.data(1) == pair.data(0), repair);
    }
}

#[test]
fn r7_of_two_secondaries_none_repairs() {
    for differing in [0, 4096] {
        let mut pair = Pair::mirrored();
        assert_eq!(pair.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
        if differing > 0 {
            pair.change_behind(1, 4096, &[9]);
        }
        let OperatorAnswer::Verified { differing_bytes, .. } = pair.command(0, verify(false)) else {
            panic!("they may be compared")
        };
        assert_eq!(differing_bytes, differing);
        let answer = pair.command(0, verify(true));
        assert!(matches!(answer, OperatorAnswer::Refused(_)), "{differing} bytes differ: {answer:?}");
        assert_eq!(pair.data(1) == pair.data(0), differing == 0);
    }
}
