//! The transmission phase as a client sees it: every command, flag and error, and the ways a stream is cut.

use evenkeel_nbd::{
    errno::ErrorClass,
    fuzzing::{
        Harness, ReplyPart, export_option, info_option, option, raw, reply_parts, request, structured,
    },
    wire::{
        command, command_flag as flag, option as code,
        transmission::{Cookie, chunk},
    },
};
use proptest::prelude::*;

const SIZE: u64 = 64 << 10;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

/// How a client gets into the transmission phase.
fn enter(export: &str, structured: bool) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    if structured {
        bytes.extend(option(code::STRUCTURED_REPLY, b""));
        let contexts = ["base:allocation", "x-evenkeel:dirty"];
        bytes.extend(export_option(code::SET_META_CONTEXT, export, &contexts));
    }
    bytes.extend(info_option(code::GO, export, &[]));
    bytes
}

fn session(structured: bool) -> Harness {
    let mut harness = Harness::new();
    harness.feed(&enter("r0", structured));
    assert!(harness.entered().is_some());
    harness
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("tests are small");
    [request(0, command::WRITE, cookie, offset, length), data.to_vec()].concat()
}

/// Sends one request, and a READ behind it to see that the stream is in step; returns the error of the first.
fn error_of(harness: &mut Harness, request_bytes: &[u8]) -> u32 {
    harness.feed(request_bytes);
    harness.feed(&request(0, command::READ, 999, 0, 1));
    let parts = harness.check();
    assert!(parts.iter().any(|part| part.cookie() == Cookie(999) && part.error() == 0), "in step: {parts:?}");
    let errors: Vec<_> =
        parts.iter().filter(|part| part.cookie() != Cookie(999)).map(ReplyPart::error).collect();
    errors[0]
}

#[test]
fn what_is_written_is_read() {
    for structured in [false, true] {
        let mut harness = session(structured);
        harness.feed(&write(1, 100, &[7; 5000]));
        harness.feed(&request(0, command::READ, 2, 99, 5002));
        harness.feed(&request(flag::FUA, command::FLUSH, 3, 0, 0));
        let parts = harness.check();
        assert_eq!(parts.len(), 3);
        let expected = [&[0][..], &[7; 5000], &[0]].concat();
        match &parts[1] {
            ReplyPart::Simple { data, .. } => assert_eq!(*data, expected),
            ReplyPart::Chunk { payload, .. } => assert_eq!(payload[8..], expected),
        }
        assert_eq!(harness.device().flushes(), 1);
    }
}

#[test]
fn literal_bytes_of_simple_and_structured_replies() {
    let mut harness = session(false);
    harness.feed(&write(0x0102, 0, b"abcd"));
    harness.feed(&request(0, command::READ, 3, 1, 2));
    assert_eq!(
        harness.replied(),
        b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\x01\x02\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x03bc"
    );
    let mut harness = session(true);
    harness.feed(&request(0, command::READ, 5, 2, 1));
    assert_eq!(
        harness.replied(),
        b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x05\0\0\0\x09\0\0\0\0\0\0\0\x02\0"
    );
}

#[test]
fn ranges_past_the_end() {
    let cases = [
        (command::READ, EINVAL),
        (command::TRIM, EINVAL),
        (command::CACHE, EINVAL),
        (command::BLOCK_STATUS, EINVAL),
        (command::WRITE_ZEROES, ENOSPC),
        (command::WRITE, ENOSPC),
    ];
    let ranges =
        [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 10, 100), (1 << 63, 4096), (SIZE + 1, 1)];
    for (command, expected) in cases {
        for (offset, length) in ranges {
            let mut bytes = request(0, command, 1, offset, length);
            if command == command::WRITE {
                bytes.resize(bytes.len() + length as usize, 0x25);
            }
            assert_eq!(
                error_of(&mut session(true), &bytes),
                expected,
                "command {command} at {offset} + {length}"
            );
        }
    }
    assert_eq!(error_of(&mut session(true), &request(0, command::READ, 1, SIZE - 1, 1)), 0, "the last byte");
}

#[test]
fn an_error_at_the_end_names_the_first_wrong_byte() {
    let mut harness = session(true);
    harness.feed(&request(0, command::READ, 1, SIZE - 10, 20));
    harness.feed(&request(0, command::READ, 2, SIZE, 20));
    let parts = harness.check();
    let ReplyPart::Chunk { kind, payload, .. } = &parts[0] else { panic!("structured") };
    assert_eq!(*kind, chunk::ERROR_OFFSET);
    assert_eq!(payload[payload.len() - 8..], SIZE.to_be_bytes());
    let ReplyPart::Chunk { kind, payload, .. } = &parts[1] else { panic!("structured") };
    assert_eq!(*kind, chunk::ERROR, "no byte of the request exists");
    assert!(payload.ends_with(b"past the end of the export"));
}

#[test]
fn flags_are_checked_per_command() {
    let all = [0, 1, 2, 3, 4, 5, 15].map(|bit| 1_u16 << bit);
    let commands = [
        (command::READ, flag::DF),
        (command::WRITE, 0),
        (command::FLUSH, 0),
        (command::TRIM, 0),
        (command::CACHE, 0),
        (command::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO),
        (command::BLOCK_STATUS, flag::REQ_ONE),
    ];
    for (command, allowed) in commands {
        for bit in all {
            let mut bytes = request(bit, command, 1, 0, 512);
            if command == command::WRITE {
                bytes.resize(bytes.len() + 512, 0);
            }
            let expected = if bit & (allowed | flag::FUA) != 0 { 0 } else { EINVAL };
            assert_eq!(error_of(&mut session(true), &bytes), expected, "command {command}, flag {bit:#x}");
        }
    }
    let df = request(flag::DF, command::READ, 1, 0, 512);
    assert_eq!(error_of(&mut session(false), &df), EINVAL, "DF was not advertised");
}

#[test]
fn unknown_commands_and_zero_lengths_are_invalid() {
    for command in [8, 9, 1000, u16::MAX] {
        assert_eq!(error_of(&mut session(false), &request(0, command, 1, 0, 512)), EINVAL);
    }
    for command in [0, 1, 4, 5, 6, 7] {
        assert_eq!(error_of(&mut session(true), &request(0, command, 1, 0, 0)), EINVAL, "command {command}");
    }
    assert_eq!(
        error_of(&mut session(false), &request(0, command::FLUSH, 1, 7, 7)),
        0,
        "reserved fields of FLUSH"
    );
}

#[test]
fn a_read_only_export_refuses_writes_and_drops_their_payload() {
    let enter_ro = || {
        let mut harness = Harness::new();
        harness.feed(&enter("ro", true));
        harness
    };
    assert_eq!(error_of(&mut enter_ro(), &write(1, 0, &[1; 4096])), EPERM);
    assert_eq!(error_of(&mut enter_ro(), &request(0, command::TRIM, 1, 0, 1)), EPERM);
    assert_eq!(error_of(&mut enter_ro(), &request(0, command::WRITE_ZEROES, 1, 0, 1)), EPERM);
    let fast = request(flag::FAST_ZERO, command::WRITE_ZEROES, 1, 0, 1);
    assert_eq!(error_of(&mut enter_ro(), &fast), EINVAL, "FAST_ZERO was not advertised");
    assert_eq!(error_of(&mut enter_ro(), &request(0, command::BLOCK_STATUS, 1, 0, 1)), EINVAL, "no context");
    assert_eq!(error_of(&mut enter_ro(), &request(0, command::FLUSH, 1, 0, 0)), 0);
}

#[test]
fn payloads_above_the_maximum() {
    let max = 32 << 10;
    assert_eq!(error_of(&mut session(true), &request(0, command::READ, 1, 0, max)), 0);
    assert_eq!(error_of(&mut session(true), &request(flag::DF, command::READ, 1, 0, max)), 0);
    assert_eq!(error_of(&mut session(true), &request(0, command::READ, 1, 0, max + 1)), EOVERFLOW);
    assert_eq!(error_of(&mut session(false), &request(0, command::READ, 1, 0, max + 1)), EINVAL);
    assert_eq!(error_of(&mut session(false), &write(1, 0, &vec![1; max as usize])), 0);
    assert_eq!(error_of(&mut session(false), &write(1, 0, &vec![1; max as usize + 1])), EINVAL, "skipped");
    for long in [command::TRIM, command::WRITE_ZEROES, command::CACHE, command::BLOCK_STATUS] {
        let whole = u32::try_from(SIZE).expect("small");
        assert_eq!(error_of(&mut session(true), &request(0, long, 1, 0, whole)), 0, "no payload, no limit");
    }
    let mut harness = session(false);
    harness.feed(&request(0, command::WRITE, 1, 0, (64 << 10) + 1));
    assert!(harness.is_violated(), "a payload too long to be skipped closes");
}

#[test]
fn a_refused_write_is_answered_after_its_payload() {
    let mut harness = session(true);
    let bytes = write(1, SIZE, &[1; 5000]);
    harness.feed(&bytes[..bytes.len() - 1]);
    assert!(harness.replied().is_empty(), "clients look only for replies to requests that they have sent");
    harness.feed(&bytes[bytes.len() - 1..]);
    assert_eq!(harness.check()[0].error(), ENOSPC);
}

#[test]
fn wrong_magics_close() {
    for magic in [0x1256_0953_u32, 0x2560_9514, 0x21e4_1c71, 0] {
        let mut harness = session(true);
        let mut bytes = request(0, command::READ, 1, 0, 1);
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        harness.feed(&bytes);
        assert!(harness.is_violated() && harness.replied().is_empty());
    }
}

#[test]
fn device_errors_reach_the_client() {
    let classes = [
        (ErrorClass::Io, EIO),
        (ErrorClass::NoSpace, ENOSPC),
        (ErrorClass::NotSupported, ENOTSUP),
        (ErrorClass::NotPermitted, EPERM),
    ];
    for (class, number) in classes {
        for structured in [false, true] {
            for command in
                [command::READ, command::FLUSH, command::TRIM, command::WRITE_ZEROES, command::CACHE]
            {
                let mut harness = session(structured);
                harness.device().fail_with(Some(class));
                harness.feed(&request(0, command, 1, 0, 512));
                assert_eq!(harness.check()[0].error(), number);
            }
        }
        let mut harness = session(true);
        harness.device().fail_with(Some(class));
        harness.feed(&request(0, command::BLOCK_STATUS, 1, 0, 512));
        let parts = harness.check();
        assert_eq!((parts.len(), parts[0].error()), (1, number));
    }
}

/// (type, offset, length) of each chunk of a READ.
fn chunks(flags: u16, offset: u64, length: u32, written: &[(u64, usize)]) -> Vec<(u16, u64, usize)> {
    let mut harness = session(true);
    for (cookie, (offset, len)) in written.iter().enumerate() {
        harness.feed(&write(cookie as u64 + 1, *offset, &vec![9; *len]));
    }
    harness.feed(&request(flags, command::READ, 99, offset, length));
    let parts = harness.check();
    let read = parts.iter().filter(|part| part.cookie() == Cookie(99));
    read.map(|part| {
        let ReplyPart::Chunk { kind, payload, .. } = part else { panic!("structured") };
        let offset = u64::from_be_bytes(*payload.first_chunk().expect("checked"));
        let len = match *kind {
            chunk::OFFSET_HOLE => u32::from_be_bytes(*payload.last_chunk().expect("checked")) as usize,
            _ => payload.len() - 8,
        };
        (*kind, offset, len)
    })
    .collect()
}

#[test]
fn zeroes_are_holes_unless_df() {
    let data = chunk::OFFSET_DATA;
    let hole = chunk::OFFSET_HOLE;
    assert_eq!(chunks(0, 0, 16384, &[]), [(hole, 0, 16384)]);
    assert_eq!(chunks(flag::DF, 0, 16384, &[]), [(data, 0, 16384)]);
    assert_eq!(chunks(0, 0, 512, &[]), [(data, 0, 512)], "less than a block");
    let expected = [(hole, 0, 4096), (data, 4096, 4096), (hole, 8192, 8192)];
    assert_eq!(chunks(0, 0, 16384, &[(5000, 1)]), expected);
    assert_eq!(chunks(flag::DF, 0, 16384, &[(5000, 1)]), [(data, 0, 16384)]);
    let expected = [(data, 100, 3996), (hole, 4096, 4096), (data, 8192, 8)];
    assert_eq!(chunks(0, 100, 8100, &[]), expected);
}

#[test]
fn block_status_answers_each_context() {
    let mut harness = session(true);
    harness.feed(&write(1, 4096, &[1; 4096]));
    harness.feed(&request(0, command::BLOCK_STATUS, 2, 0, 16384));
    harness.feed(&request(flag::REQ_ONE, command::BLOCK_STATUS, 3, 8192, 100));
    let parts = harness.check();
    let payloads = |cookie| {
        let parts = parts.iter().filter(move |part| part.cookie() == Cookie(cookie));
        parts.map(|part| match part {
            ReplyPart::Chunk { payload, .. } => payload.clone(),
            ReplyPart::Simple { .. } => panic!("structured"),
        })
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let expected = [words(&[1, 4096, 3, 4096, 0, 8192, 3]), words(&[2, 16384, 0])];
    assert_eq!(payloads(2).collect::<Vec<_>>(), expected);
    assert_eq!(payloads(3).collect::<Vec<_>>(), [words(&[1, 100, 3]), words(&[2, 100, 0])]);
}

#[test]
fn replies_come_in_any_order() {
    let mut harness = session(false);
    harness.set_deferring(true);
    for cookie in 1..=3 {
        harness.feed(&write(cookie, cookie * 10, &[1; 10]));
    }
    assert!(harness.replied().is_empty());
    harness.complete_one(1);
    harness.set_deferring(false);
    let cookies: Vec<_> = harness.check().iter().map(|part| part.cookie().0).collect();
    assert_eq!(cookies, [2, 3, 1]);
}

#[test]
fn requests_in_flight_are_bounded_and_go_on() {
    let mut harness = session(false);
    harness.set_reading(false);
    for cookie in 1..=100 {
        harness.feed(&request(0, command::FLUSH, cookie, 0, 0));
    }
    assert_eq!(harness.device().flushes(), 16, "the limit of the harness");
    harness.set_reading(true);
    assert_eq!(harness.device().flushes(), 100);
    assert_eq!(harness.check().len(), 100);
}

#[test]
fn bytes_in_flight_are_bounded_and_go_on() {
    let mut harness = session(true);
    harness.set_reading(false);
    harness.feed(&write(1, 0, &[3; 32 << 10]));
    for cookie in 2..=20 {
        harness.feed(&request(0, command::READ, cookie, 0, 32 << 10));
    }
    harness.set_reading(true);
    assert_eq!(harness.check().len(), 20);
}

#[test]
fn disconnect_answers_what_is_in_flight_and_nothing_behind_it() {
    let mut harness = session(false);
    harness.set_deferring(true);
    harness
        .feed(&[write(1, 0, &[1; 10]), request(0, command::DISC, 9, 0, 0), write(2, 0, &[2; 10])].concat());
    assert!(!harness.is_closed());
    harness.set_deferring(false);
    assert!(harness.is_closed());
    assert_eq!(harness.reply_parts().iter().map(|part| part.cookie().0).collect::<Vec<_>>(), [1]);
    assert_eq!(harness.device().content()[..10], [1; 10]);
}

#[test]
fn a_drain_answers_every_request_that_was_received_whole() {
    for structured in [false, true] {
        let mut harness = session(structured);
        harness.set_deferring(true);
        let flushes = (2..=20).flat_map(|cookie| request(0, command::FLUSH, cookie, 0, 0)).collect();
        harness.feed(&[write(1, 0, &[1; 10]), flushes, write(21, 0, &[2; 100])[..90].to_vec()].concat());
        harness.drain();
        harness.feed(&write(22, 0, &[3; 10]));
        assert!(!harness.is_closed(), "requests are in flight");
        harness.set_deferring(false);
        assert!(harness.is_closed());
        let mut answers: Vec<_> =
            harness.reply_parts().iter().map(|part| (part.cookie().0, part.error())).collect();
        answers.sort_unstable();
        let done = (1..=16).map(|cookie| (cookie, 0));
        let refused = (17..=20).map(|cookie| (cookie, ESHUTDOWN));
        assert_eq!(
            answers,
            done.chain(refused).collect::<Vec<_>>(),
            "none for what came in part or too late"
        );
    }
}

/// A session that uses most of the protocol.
fn busy_stream(structured: bool) -> Vec<u8> {
    let mut bytes = enter("r0", structured);
    bytes.extend(write(1, 0, &[1; 3000]));
    bytes.extend(request(0, command::READ, 2, 1000, 9000));
    bytes.extend(write(3, SIZE - 1, &[1; 10]));
    bytes.extend(request(flag::FUA, command::WRITE_ZEROES, 4, 10, 100));
    bytes.extend(request(0, command::BLOCK_STATUS, 5, 0, 20000));
    bytes.extend(request(0, 77, 6, 0, 20000));
    bytes.extend(request(0, command::TRIM, 7, 0, 20000));
    bytes.extend(request(0, command::FLUSH, 8, 0, 0));
    bytes.extend(write(9, 500, &[9; 5]));
    bytes.extend(request(flag::DF | flag::FUA, command::READ, 10, 400, 200));
    bytes
}

#[test]
fn a_disconnect_at_every_byte_is_harmless() {
    for structured in [false, true] {
        let stream = busy_stream(structured);
        for end in 0..stream.len() {
            let mut harness = Harness::new();
            harness.feed(&stream[..end]);
            harness.check();
        }
    }
}

/// The replies of a whole session, by cookie: the order between requests depends on how the stream is cut.
fn by_cookie(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<u8>, Vec<ReplyPart>) {
    let mut harness = Harness::new();
    let mut at = 0;
    for cut in cuts {
        let next = stream.len().min(at + cut);
        harness.feed(&stream[at..next]);
        at = next;
    }
    harness.feed(&stream[at..]);
    let mut parts = harness.check();
    parts.sort_by_key(|part| part.cookie().0);
    (harness.device().content(), parts)
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_replies(
        structured in any::<bool>(),
        cuts in prop::collection::vec(1_usize..400, 0..100),
    ) {
        let stream = busy_stream(structured);
        prop_assert_eq!(by_cookie(&stream, cuts), by_cookie(&stream, []));
    }

    #[test]
    fn random_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        raw(&bytes);
        structured(&bytes);
    }
}

#[test]
fn byte_by_byte_is_the_same_as_whole() {
    for structured in [false, true] {
        let stream = busy_stream(structured);
        let ones = std::iter::repeat_n(1, stream.len());
        let (content, parts) = by_cookie(&stream, ones);
        assert_eq!((content, parts.clone()), by_cookie(&stream, []));
        assert_eq!(parts.iter().filter(|part| part.is_last()).count(), 10);
    }
}

#[test]
fn replies_are_read_strictly() {
    let broken =
        std::panic::catch_unwind(|| reply_parts(b"\x67\x44\x66\x99\0\0\0\0\0\0\0\0\0\0\0\x01", &[].into()));
    assert!(broken.is_err(), "the checking client notices a wrong magic");
}
