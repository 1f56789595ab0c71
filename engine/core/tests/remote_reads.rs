//! A primary without a disk and its host while answers are late or the link breaks (W7): what it reads from there, and
//! what it may answer.

mod pair;

use evenkeel_core::volume::{
    DiskState, Role,
    config::Protocol,
    io::{ClientOperation, RequestError, RequestOutcome},
    span::ByteSpan,
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
