//! What a flush waits for (W4), and what waits for a flush or an answer on a replica of protocol A (W5).

mod pair;

use bytes::Bytes;
use evenkeel_core::volume::{
    config::Protocol,
    io::{ClientOperation, Event, RequestError, RequestOutcome, ZeroMode},
    span::ByteSpan,
    wire::Frame,
};
use pair::{Held, Pair, Settings};

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);

fn primary(protocol: Protocol) -> Pair {
    Pair::serving(Settings { protocol, ..Settings::default() })
}

fn write(block: u64, byte: u8, fua: bool) -> ClientOperation {
    ClientOperation::Write { offset: block * 4096, payload: Bytes::from(vec![byte; 4096]), fua }
}

fn zero(block: u64, fua: bool) -> ClientOperation {
    ClientOperation::Zero { span: ByteSpan { offset: block * 4096, len: 4096 }, mode: ZeroMode::Punch, fua }
}

#[test]
fn w4_a_flush_waits_for_the_flush_of_every_node_that_counts() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for (node, part) in [(0, Held::Flush), (1, Held::Flush), (1, Held::Write)] {
            let what = format!("{protocol:?}, node {node}, {part:?}");
            let mut pair = primary(protocol);
            pair.hold(node, part);
            let write = pair.begin_request(0, write(0, 5, false));
            let flush = pair.begin_request(0, ClientOperation::Flush);
            let waits = node == 0 || protocol != Protocol::A;
            // On C nothing is answered before, so the flush covers nothing; but what is under way is flushed anyway.
            assert_eq!(pair.reply(flush).is_none(), waits, "{what}");
            if waits {
                pair.release(node, part);
                assert_eq!(pair.reply(flush), Some(DONE), "{what}");
                assert_eq!(pair.stable_data(1)[0], 5, "{what}");
            }
            assert_eq!(pair.stable_data(0)[0], 5, "{what}");
            assert_eq!(pair.reply(write), Some(DONE), "{what}");
        }
    }
}

#[test]
fn w4_what_is_written_through_is_stable_on_every_node_that_counts() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for node in 0..2 {
            for operation in [write(0, 5, true), zero(0, true)] {
                let mut pair = primary(protocol);
                assert_eq!(pair.request(0, write(0, 4, true)), DONE);
                pair.hold(node, Held::Write);
                let request = pair.begin_request(0, operation.clone());
                let waits = node == 0 || protocol != Protocol::A;
                assert_eq!(pair.reply(request).is_none(), waits, "{protocol:?}, node {node}, {operation:?}");
                pair.release(node, Held::Write);
                let byte = if matches!(operation, ClientOperation::Zero { .. }) { 0 } else { 5 };
                for node in 0..2 {
                    assert_eq!(pair.stable_data(node)[0], byte, "{protocol:?}, node {node}, {operation:?}");
                }
            }
        }
    }
}

#[test]
fn w5_a_replica_begins_nothing_before_the_flush_that_it_followed() {
    for operation in [write(1, 2, false), write(1, 2, true), zero(1, false)] {
        let mut pair = primary(Protocol::A);
        assert_eq!(pair.request(0, write(1, 9, false)), DONE);
        assert_eq!(pair.request(0, ClientOperation::Flush), DONE);
        pair.hold(1, Held::Flush);
        assert_eq!(pair.request(0, write(0, 1, false)), DONE);
        assert_eq!(pair.request(0, ClientOperation::Flush), DONE, "on A the primary's disk counts");
        assert_eq!(pair.request(0, operation.clone()), DONE);
        assert_eq!((pair.data(1)[0], pair.data(1)[4096]), (1, 9), "{operation:?}");
        pair.release(1, Held::Flush);
        assert_eq!(pair.data(0), pair.data(1));
        assert_eq!(pair.stable_data(1)[0], 1);
    }
}

#[test]
fn w5_a_replica_begins_nothing_before_the_answered_is_applied() {
    for (operation, together) in [
        (write(1, 2, false), false),
        (write(1, 2, true), false),
        (zero(1, false), false),
        (write(1, 2, false), true),
    ] {
        let mut pair = primary(Protocol::A);
        pair.hold(1, Held::Write);
        if together {
            pair.hold(0, Held::Write);
        }
        let first = pair.begin_request(0, write(0, 1, false));
        let second = pair.begin_request(0, operation.clone());
        // What is asked for together may be applied in any order.
        assert_eq!(pair.held_actions(1, Held::Write), if together { 2 } else { 1 }, "{operation:?}");
        if together {
            pair.release(0, Held::Write);
        }
        pair.release(1, Held::Write);
        for request in [first, second] {
            assert_eq!(pair.reply(request), Some(DONE));
        }
        assert_eq!(pair.data(0), pair.data(1));
    }
}

/// A replica of protocol A begins nothing that follows a flush before its end: one for each write would take it down to
/// one write at a time.
#[test]
fn w5_a_log_that_fills_asks_for_one_flush_at_a_time() {
    let mut pair = primary(Protocol::A);
    pair.hold(1, Held::Flush);
    pair.recorded = Some(Vec::new());
    let flushes = |pair: &Pair| {
        let frames = pair.recorded.as_ref().expect("recorded").iter();
        frames.filter(|(_, event)| matches!(event, Event::Frame { frame: Frame::FlushTo(_), .. })).count()
    };
    let mut writes = 0;
    while flushes(&pair) == 0 {
        assert_eq!(pair.request(0, write(writes % 16, 1, false)), DONE);
        writes += 1;
        assert!(writes < 20_000, "the log is never half full");
    }
    for _ in 0..100 {
        assert_eq!(pair.request(0, write(0, 2, false)), DONE);
    }
    assert_eq!(flushes(&pair), 1, "the first has not ended");
    pair.release(1, Held::Flush);
    assert_eq!(pair.request(0, write(0, 3, false)), DONE);
    assert_eq!(flushes(&pair), 1, "it was for nearly all");
}

/// Writes that were let in one for each that the replica has applied would each follow the answers to all before.
#[test]
fn w5_a_replica_that_is_too_far_behind_comes_nearer_by_a_piece() {
    // Two extents of the small activity log, again and again; 512 of them are `max_lag`.
    const BYTES: usize = 128 << 10;
    let mut pair = primary(Protocol::A);
    pair.hold(1, Held::Write);
    let operation = || ClientOperation::Write { offset: 0, payload: Bytes::from(vec![1; BYTES]), fua: false };
    for _ in 0..512 {
        assert_eq!(pair.request(0, operation()), DONE, "within max_lag");
    }
    let late = pair.begin_request(0, operation());
    for applied in 0..33 {
        assert_eq!(pair.reply(late), None, "{applied} writes nearer");
        pair.release_one(1, Held::Write);
    }
    assert_eq!(pair.reply(late), Some(DONE), "a sixteenth of max_lag nearer");
}

/// The replica may have a write only with all that was answered before it.
#[test]
fn w5_a_write_follows_the_last_one_answered_whatever_was_answered_after_it() {
    let mut pair = primary(Protocol::A);
    assert_eq!(pair.request(0, write(0, 9, false)), DONE, "from here on its extent needs no commit");
    pair.hold(0, Held::Write);
    pair.limit_frames(1, 0);
    let [first, second] = [1, 2].map(|block| pair.begin_request(0, write(block, 1, false)));
    pair.release_last_first(0, Held::Write);
    assert_eq!((pair.reply(first), pair.reply(second)), (Some(DONE), Some(DONE)), "in the other order");
    pair.hold(1, Held::Write);
    pair.unlimit_frames();
    assert_eq!(pair.request(0, write(3, 1, false)), DONE);
    assert_eq!(pair.held_actions(1, Held::Write), 2, "the third waits");
    pair.release_one(1, Held::Write);
    assert_eq!(pair.held_actions(1, Held::Write), 1, "the third waits for the second too");
    pair.release_one(1, Held::Write);
    assert_eq!(pair.held_actions(1, Held::Write), 1, "and begins now");
    pair.release(1, Held::Write);
    assert_eq!(pair.data(1), pair.data(0));
}
