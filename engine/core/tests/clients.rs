//! Requests of clients: first come first served, and nothing of a client that is gone (W1); pieces of a large request
//! (D9); reads that cannot be served from the own disk.

mod pair;

use std::time::Duration;

use evenkeel_core::volume::{
    Replication, Role,
    config::{OnPeerLoss, Protocol},
    io::{ClientOperation, RequestError, RequestOutcome, ZeroMode},
    operator::{Force, OperatorAnswer, OperatorCommand},
    span::ByteSpan,
};
use pair::{Fail, Held, Pair, Settings, write};

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);
const BLOCK: ByteSpan = ByteSpan { offset: 0, len: 4096 };
const SIZE: u64 = 4 << 20;

fn at(offset: u64, byte: u8) -> ClientOperation {
    ClientOperation::Write { offset, payload: vec![byte; 4096].into(), fua: false }
}

/// Both ways to wait for admission: answers are withheld, or the limit of writes in flight is reached.
#[test]
fn w1_what_waits_is_dropped_with_its_client_and_only_that() {
    for by_limit in [false, true] {
        let on_peer_loss = OnPeerLoss::Suspend;
        let mut pair =
            Pair::serving(Settings { on_peer_loss, max_inflight_writes: 1, ..Settings::default() });
        assert_eq!(pair.request(0, write(9)), DONE);
        if by_limit {
            pair.hold(0, Held::Data);
        } else {
            pair.disconnect();
        }
        let first = pair.begin_request_of(1, 0, write(1));
        let gone = pair.begin_request_of(2, 0, write(2));
        let stays = pair.begin_request_of(1, 0, ClientOperation::Flush);
        pair.client_gone(0, 2);
        if by_limit {
            pair.release(0, Held::Data);
        } else {
            pair.connect();
        }
        assert_eq!(pair.reply(first), Some(DONE), "by limit: {by_limit}");
        assert_eq!(pair.reply(stays), Some(DONE), "by limit: {by_limit}");
        assert_eq!(pair.reply(gone), None, "by limit: {by_limit}");
        for node in 0..2 {
            assert_eq!(pair.data(node)[0], 1, "by limit: {by_limit}, node {node}");
        }
    }
}

#[test]
fn w1_what_is_admitted_when_its_client_goes_is_carried_out() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(1, Held::Data);
    pair.begin_request_of(2, 0, write(5));
    pair.client_gone(0, 2);
    pair.release(1, Held::Data);
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (5, 5));
}

#[test]
fn w1_requests_that_wait_keep_their_order() {
    for by_limit in [false, true] {
        let on_peer_loss = OnPeerLoss::Suspend;
        let mut pair =
            Pair::serving(Settings { on_peer_loss, max_inflight_writes: 2, ..Settings::default() });
        if by_limit {
            pair.hold(0, Held::Data);
        } else {
            pair.disconnect();
        }
        let mut asked = Vec::new();
        for byte in 1..=6 {
            asked.push((pair.begin_request_of(u64::from(byte), 0, write(byte)), None));
            asked.push((pair.begin_request_of(7, 0, ClientOperation::Read(BLOCK)), Some(byte)));
        }
        if by_limit {
            pair.release(0, Held::Data);
        } else {
            pair.connect();
        }
        for (request, shows) in asked {
            let expected = match shows {
                None => DONE,
                Some(byte) => Ok(RequestOutcome::Data(vec![byte; 4096].into())),
            };
            assert_eq!(pair.reply(request), Some(expected), "by limit: {by_limit}");
        }
        assert_eq!((pair.data(0)[0], pair.data(1)[0]), (6, 6));
    }
}

/// 16 slots of 64 KiB: an eighth is two extents.
#[test]
fn d9_a_large_request_is_split_and_ends() {
    let mut pair = Pair::serving(Settings::default());
    assert_eq!(pair.request(0, write(1)), DONE);
    let whole = ByteSpan { offset: 512, len: SIZE - 1024 };
    let zero = |mode| ClientOperation::Zero { span: whole, mode, fua: false };
    let large = ClientOperation::Write { offset: 0, payload: vec![3; 1 << 20].into(), fua: false };
    let asked = [zero(ZeroMode::Punch), large.clone(), zero(ZeroMode::Allocate), large];
    let asked = asked.map(|operation| pair.begin_request(0, operation));
    for request in asked {
        assert_eq!(pair.reply(request), Some(DONE));
    }
    assert_eq!(
        pair.longest_change,
        2 * (64 << 10),
        "D9: no piece needs more than an eighth of the activity log"
    );
    assert_eq!(pair.data(0), pair.data(1));
    assert!(pair.data(0)[..1 << 20].iter().all(|&byte| byte == 3));
    assert!(pair.data(0)[1 << 20..].iter().all(|&byte| byte == 0));
}

/// On A an answered write may still be on its way to the peer that a read has to be served from.
#[test]
fn w7_a_read_from_the_peer_shows_the_writes_before_it() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut pair = Pair::serving(Settings { protocol, ..Settings::default() });
        pair.hold(1, Held::Write);
        let write = pair.begin_request(0, write(4));
        assert_eq!(pair.reply(write).is_some(), protocol != Protocol::C, "{protocol:?}");
        pair.fail_next(0, Fail::Read);
        let read = pair.begin_request(0, ClientOperation::Read(BLOCK));
        assert_eq!(pair.reply(read), None, "{protocol:?}: the peer does not have it yet");
        pair.release(1, Held::Write);
        let shown = Ok(RequestOutcome::Data(vec![4; 4096].into()));
        assert_eq!(pair.reply(read), Some(shown), "{protocol:?}");
    }
}

/// A read behind a write whose answer is withheld may not show it (W3), and waits no longer than that.
#[test]
fn a_read_behind_a_write_that_is_withheld_is_held_no_longer_than_hold() {
    let mut pair = Pair::serving(Settings { on_peer_loss: OnPeerLoss::Suspend, ..Settings::default() });
    pair.hold(1, Held::Write);
    let write = pair.begin_request(0, write(4));
    let read = pair.begin_request(0, ClientOperation::Read(BLOCK));
    pair.disconnect();
    pair.pass(Duration::from_secs(115));
    assert_eq!((pair.reply(write), pair.reply(read)), (None, None));
    pair.pass(Duration::from_secs(10));
    assert_eq!(pair.reply(write), Some(Err(RequestError::Io)));
    assert_eq!(pair.reply(read), Some(Err(RequestError::Io)));
    pair.release(1, Held::Write);
    pair.connect();
    let shown = Ok(RequestOutcome::Data(vec![4; 4096].into()));
    assert_eq!(pair.request(0, ClientOperation::Read(BLOCK)), shown, "it was written, and served again");
}

/// It has the role until that its end is recorded, and nothing to say any more.
#[test]
fn g10_a_primary_that_is_deposed_answers_no_read_with_data() {
    let mut pair = Pair::serving(Settings::default());
    assert_eq!(pair.request(0, write(1)), DONE);
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.request(1, write(2)), DONE);
    pair.hold(0, Held::Data);
    pair.hold(0, Held::Meta);
    let read = pair.begin_request(0, ClientOperation::Read(BLOCK));
    pair.connect();
    assert_eq!(pair.status(0).role, Role::Primary, "its end is not recorded");
    pair.release(0, Held::Data);
    assert_eq!(pair.reply(read), Some(Err(RequestError::Shutdown)));
}

/// Questions that nobody waits for any more still wait at the peer: it is not asked for more than it takes.
#[test]
fn w7_reads_that_were_given_up_do_not_cost_the_link() {
    let mut pair = Pair::serving(Settings::default());
    assert_eq!(pair.request(0, write(4)), DONE);
    pair.fail_next(0, Fail::Write);
    assert_eq!(pair.request(0, write(5)), DONE, "the peer serves");
    pair.hold(1, Held::Data);
    let link = pair.link();
    let ask = |pair: &mut Pair| -> Vec<u64> {
        (0..64).map(|_| pair.begin_request(0, ClientOperation::Read(BLOCK))).collect()
    };
    let given_up = ask(&mut pair);
    pair.pass(Duration::from_secs(125));
    for read in given_up {
        assert_eq!(pair.reply(read), Some(Err(RequestError::Io)), "held too long");
    }
    let asked = ask(&mut pair);
    pair.release(1, Held::Data);
    for read in asked {
        assert_eq!(pair.reply(read), Some(Ok(RequestOutcome::Data(vec![5; 4096].into()))));
    }
    assert_eq!(pair.link(), link);
}

#[test]
fn w1_the_bytes_in_flight_are_limited() {
    let mut pair = Pair::serving(Settings { max_inflight_bytes: 8192, ..Settings::default() });
    assert_eq!(pair.request(0, write(9)), DONE, "its extent is hot");
    pair.hold(0, Held::Write);
    let asked = [1, 2, 3].map(|byte| pair.begin_request(0, at(4096 * u64::from(byte), byte)));
    assert_eq!(pair.held_actions(0, Held::Write), 2);
    pair.release_one(0, Held::Write);
    assert_eq!(pair.held_actions(0, Held::Write), 2, "one for one");
    pair.release(0, Held::Write);
    for request in asked {
        assert_eq!(pair.reply(request), Some(DONE));
    }
}

/// Of the 16 extents none may be let go for the 17th: what was written there is not stable.
#[test]
fn d8_a_write_waits_for_an_extent_that_is_not_stable() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(0, Held::Flush);
    for extent in 0..16 {
        assert_eq!(pair.request(0, at(extent << 16, 1)), DONE);
    }
    let more = pair.begin_request(0, at(16 << 16, 1));
    assert_eq!(pair.reply(more), None);
    pair.release(0, Held::Flush);
    assert_eq!(pair.reply(more), Some(DONE));
}

/// Its extent becomes hot while answers are held for a new generation: it is not issued under the head of before.
#[test]
fn w6_a_write_that_gets_its_extent_while_everything_is_held_waits_too() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(0, Held::Meta);
    pair.hold(0, Held::Write);
    let request = pair.begin_request(0, write(4));
    pair.disconnect();
    pair.release_one(0, Held::Meta);
    assert!(pair.status(0).suspended.is_some());
    assert_eq!(pair.held_actions(0, Held::Write), 0);
    pair.release(0, Held::Meta);
    assert_eq!(pair.held_actions(0, Held::Write), 1);
    pair.release(0, Held::Write);
    assert_eq!(pair.reply(request), Some(DONE));
}

/// With its own disk gone a primary answers what the host has written, also on B.
#[test]
fn w7_a_host_has_to_write_what_is_answered() {
    for failed_before in [true, false] {
        let mut pair = Pair::serving(Settings { protocol: Protocol::B, ..Settings::default() });
        assert_eq!(pair.request(0, write(1)), DONE);
        pair.fail_next(0, Fail::Write);
        if failed_before {
            assert_eq!(pair.request(0, write(2)), DONE, "the peer serves");
        }
        pair.hold(0, Held::Write);
        pair.hold(1, Held::Write);
        let request = pair.begin_request(0, write(3));
        pair.release(0, Held::Write);
        assert_eq!(pair.reply(request), None, "received and not written; failed before: {failed_before}");
        pair.release(1, Held::Write);
        assert_eq!(pair.reply(request), Some(DONE));
        assert_eq!(pair.data(1)[0], 3);
    }
}

/// Every second a write comes, and the peer has done the one before: it always owes one.
#[test]
fn w6_a_peer_that_goes_on_is_not_dropped_though_it_always_owes_something() {
    let mut pair = Pair::mirrored();
    let link = pair.link();
    pair.hold(1, Held::Write);
    let mut owed = pair.begin_request(0, write(0));
    for byte in 1..20 {
        let next = pair.begin_request(0, at(u64::from(byte) * 4096, byte));
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

/// Beta has a write in its cache only, and the extents of others push that of this one.
#[test]
fn d8_an_extent_stays_until_its_writes_are_stable_on_the_peer_too() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(1, Held::Flush);
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    let flush = pair.begin_request(0, ClientOperation::Flush);
    assert_eq!(pair.reply(flush), None);
    assert_eq!(pair.stable_data(0)[..4096], [1; 4096]);
    for extent in 1..=16 {
        pair.begin_request(0, at(extent << 16, 2));
    }
    assert_eq!(pair.stable_data(1)[..4096], [0; 4096], "it was in the cache alone");
    pair.lose_power(0);
    pair.lose_power(1);
    pair.release(1, Held::Flush);
    for node in [0, 1] {
        pair.restart(node);
    }
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(0).peers[0].replication, Replication::Established);
    assert!(pair.data(0) == pair.data(1), "alpha's activity log named the block");
}
