//! Round trips, cuts, changes and truncations of whole frames.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{
    Encoder, FrameError, HEADER_BYTES, HeapBuffers, Kind, Parser, PayloadBuffers, PayloadChecksum,
    SessionNumber,
    fuzzing::{self, SESSION, encode, parse},
    golden,
    header::seal,
    limits::{
        APPLIED_MAX, BLOCKS_MAX, FIELDS_BYTES_MAX, GENERATIONS_MAX, PAYLOAD_BYTES_MAX, RUNS_MAX, SETTLED_MAX,
    },
};
use crate::{
    generation::view::{Power, Replies},
    ids::{AttachCounter, Generation, GenerationId, NodeId, Sequence, Term, WIRE_COUNTER_END},
    volume::{
        DiskState, Role,
        span::ByteSpan,
        wire::{BlockContent, Frame, PROTOCOL_VERSION, Retained},
    },
};

fn write(payload: Bytes) -> Frame {
    Frame::Write { sequence: Sequence(1), after: Sequence::ZERO, offset: 4096, payload, fua: false }
}

fn payload(len: usize) -> Bytes {
    (0..=250).cycle().take(len).collect()
}

/// As a header has it.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

fn span(offset: u64, len: u64) -> ByteSpan {
    ByteSpan { offset, len }
}

fn generation(number: u64) -> Generation {
    let term = Term { number, node: NodeId(1) };
    Generation { id: GenerationId(u128::from(number)), term }
}

/// The golden frames, one after the other.
fn stream() -> (Vec<Frame>, Bytes) {
    let mut bytes = BytesMut::new();
    let frames: Vec<Frame> = golden::frames().into_iter().map(|(frame, _)| frame).collect();
    frames.iter().for_each(|frame| bytes.put(encode(frame)));
    (frames, bytes.freeze())
}

/// A frame whose bytes were changed by `change`, with checksums that are right.
fn forged(frame: &Frame, change: impl FnOnce(&mut [u8])) -> Result<(), FrameError> {
    let mut bytes = encode(frame).to_vec();
    let head = HEADER_BYTES + u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    change(&mut bytes);
    seal(&mut bytes[..head]);
    parse([Bytes::from(bytes)]).1
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let (frames, bytes) = stream();
    for size in 1..200 {
        let mut rest = bytes.clone();
        let chunks = std::iter::from_fn(|| {
            let len = size.min(rest.len());
            (len > 0).then(|| rest.split_to(len))
        });
        assert_eq!(parse(chunks), (frames.clone(), Ok(())), "cut every {size} bytes");
    }
    for at in 0..=bytes.len() {
        let (one, other) = (bytes.slice(..at), bytes.slice(at..));
        assert_eq!(parse([one, other]), (frames.clone(), Ok(())), "cut at byte {at}");
    }
}

#[test]
fn a_truncated_frame_is_no_frame() {
    for (frame, _) in golden::frames() {
        let bytes = encode(&frame);
        for have in 1..bytes.len() {
            let (frames, end) = parse([bytes.slice(..have)]);
            assert_eq!((frames, end), (vec![], Err(FrameError::Truncated { have })), "{frame:?}");
        }
    }
}

#[test]
fn no_changed_byte_gets_through() {
    for (frame, _) in golden::frames() {
        let bytes = encode(&frame);
        for at in 0..bytes.len() {
            for flip in 1..=255 {
                let mut changed = BytesMut::from(&bytes[..]);
                changed[at] ^= flip;
                // So that a length of the fields that became greater is reached; a greater one of the payload is
                // found before anything of the payload is looked at.
                if (4..8).contains(&at) {
                    changed.put_bytes(0, FIELDS_BYTES_MAX);
                }
                let (frames, end) = parse([changed.freeze()]);
                assert!(frames.is_empty(), "{frame:?} with byte {at} changed by {flip:#x}");
                let error = end.expect_err("what is no frame was refused");
                assert!(!matches!(error, FrameError::Truncated { .. }), "{frame:?}, byte {at}: {error}");
            }
        }
    }
}

#[test]
fn the_largest_frames_go_through_and_larger_ones_are_refused() {
    let list = |count: usize| (1..=count as u64).map(|at| span(at << 20, 4096));
    let largest = [
        write(payload(PAYLOAD_BYTES_MAX)),
        Frame::Runs(list(RUNS_MAX).collect()),
        Frame::Applied { upto: Sequence::ZERO, also: (1..=APPLIED_MAX as u64).map(Sequence).collect() },
        Frame::Pull {
            id: 1,
            span: span(0, 1 << 20),
            after: Sequence::ZERO,
            digests: vec![u128::MAX; BLOCKS_MAX],
        },
        Frame::Part {
            id: 1,
            read_at: Sequence::ZERO,
            blocks: vec![BlockContent::Data(payload(PAYLOAD_BYTES_MAX / BLOCKS_MAX)); BLOCKS_MAX],
        },
        Frame::Compared { id: 1, differing: (0..length(BLOCKS_MAX)).collect() },
        Frame::Settled(list(SETTLED_MAX).map(|span| (span, Sequence(1))).collect()),
        Frame::Counted {
            after: Sequence::ZERO,
            head: generation(100),
            ancestors: (1..GENERATIONS_MAX as u64).rev().map(generation).collect(),
            kept: Retained { power: Power::Lost, replies: Replies::Ahead },
        },
    ];
    for frame in largest {
        let bytes = encode(&frame);
        assert_eq!(parse([bytes.clone()]), (vec![frame.clone()], Ok(())));
        let kind = Kind::of(&frame);
        let mut longer = bytes.to_vec();
        // The header alone is enough to refuse it: nothing is kept for what it announces.
        if bytes.len() > PAYLOAD_BYTES_MAX {
            let found = length(PAYLOAD_BYTES_MAX) + 1;
            longer[8..12].copy_from_slice(&found.to_le_bytes());
            let (min, max) = (usize::from(kind == Kind::Write), PAYLOAD_BYTES_MAX);
            let error = FrameError::PayloadLength { kind, found, min, max };
            assert_eq!(parse([Bytes::copy_from_slice(&longer[..HEADER_BYTES])]), (vec![], Err(error)));
        } else {
            let shape = kind.shape();
            let found = length(shape.fields_max() + shape.element);
            longer[4..8].copy_from_slice(&found.to_le_bytes());
            let end = parse([Bytes::copy_from_slice(&longer[..HEADER_BYTES])]).1;
            assert!(
                matches!(end, Err(FrameError::FieldsLength { found: said, .. }) if said == found),
                "{end:?}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "Runs with 65552 bytes of fields")]
fn too_many_runs_are_a_bug_of_the_sender() {
    let _ = encode(&Frame::Runs(vec![span(0, 4096); RUNS_MAX + 1]));
}

#[test]
#[should_panic(expected = "Write with 1048577 bytes of payload")]
fn a_write_too_long_is_a_bug_of_the_sender() {
    let _ = encode(&write(payload(PAYLOAD_BYTES_MAX + 1)));
}

#[test]
fn a_frame_of_another_session_is_refused() {
    let other = SessionNumber::new(7).unwrap();
    for (frame, _) in golden::frames() {
        let mut encoder = Encoder::new(other);
        encoder.push(&frame, None);
        let chunks: Vec<Bytes> = encoder.chunks().drain(..).collect();
        let kind = Kind::of(&frame);
        let end = parse(chunks).1;
        if kind == Kind::Hello {
            assert_eq!(end, Ok(()), "a hello comes before the session");
        } else {
            let expected = SESSION.get();
            assert_eq!(end, Err(FrameError::Session { kind, found: 7, expected }));
        }
    }
    assert_eq!(SessionNumber::new(0), None);
    let hello = &golden::frames()[0].0;
    let end = forged(hello, |bytes| bytes[20] = 7);
    assert_eq!(end, Err(FrameError::Session { kind: Kind::Hello, found: 7, expected: 0 }));
}

#[test]
fn a_hello_of_another_version_is_refused_by_its_version_alone() {
    let hello = encode(&golden::frames()[0].0);
    let with_versions = |min: u16, max: u16| {
        let mut bytes = hello.to_vec();
        bytes[32..34].copy_from_slice(&min.to_le_bytes());
        bytes[34..36].copy_from_slice(&max.to_le_bytes());
        bytes
    };
    let (min, max) = (PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 9);
    let mut strange = with_versions(min, max);
    // Whatever a later version puts into the header and behind the versions, and however long it is.
    strange[3] = 0xFF;
    strange[4..8].copy_from_slice(&4_u32.to_le_bytes());
    strange[8..32].fill(0xEE);
    let error = FrameError::Version { theirs_min: min, theirs_max: max };
    assert_eq!(parse([Bytes::copy_from_slice(&strange[..36])]).1, Err(error));
    assert!(error.to_string().contains("speaks versions 2 to 10") && error.to_string().contains("update"));
    for (min, max) in [(0, 1), (2, 1)] {
        let end = parse([Bytes::from(with_versions(min, max))]).1;
        assert_eq!(end, Err(FrameError::VersionRange { min, max }));
    }
    for found in [3, length(FIELDS_BYTES_MAX) + 1] {
        let mut bytes = hello.to_vec();
        bytes[4..8].copy_from_slice(&found.to_le_bytes());
        assert_eq!(parse([Bytes::from(bytes)]).1, Err(FrameError::HelloLength { found }));
    }
}

#[test]
fn a_newer_peer_may_say_more_in_its_hello() {
    let (golden, _) = golden::frames().swap_remove(0);
    let longer = |max: u16| {
        let mut bytes = encode(&golden).to_vec();
        bytes.extend_from_slice(&[0xAB; 24]);
        bytes[4..8].copy_from_slice(&88_u32.to_le_bytes());
        bytes[34..36].copy_from_slice(&max.to_le_bytes());
        seal(&mut bytes);
        for size in [1, 35, 36, 1000] {
            let chunks = bytes.chunks(size).map(Bytes::copy_from_slice);
            assert_eq!(parse(chunks), parse([Bytes::copy_from_slice(&bytes)]), "cut every {size} bytes");
        }
        parse([Bytes::from(bytes)])
    };
    let Frame::Hello(mut hello) = golden.clone() else { panic!("the first is a hello") };
    hello.version_max = PROTOCOL_VERSION + 1;
    assert_eq!(longer(PROTOCOL_VERSION + 1), (vec![Frame::Hello(hello)], Ok(())));
    assert!(matches!(longer(PROTOCOL_VERSION).1, Err(FrameError::FieldsLength { found: 88, .. })));
}

#[test]
fn forged_frames_are_refused_by_name() {
    let frame = |kind: Kind| {
        let found = golden::frames().into_iter().find(|(frame, _)| Kind::of(frame) == kind);
        found.expect("there is one of each").0
    };
    let cases: &[(Kind, usize, u8, &str)] = &[
        (Kind::Ping, 0, 0, "instead of 0x4b45"),
        (Kind::Ping, 2, 31, "unknown kind 31"),
        (Kind::Ping, 3, 1, "Ping: flags 0x01, of which only 0x00"),
        (Kind::Write, 3, 2, "Write: flags 0x02, of which only 0x01"),
        (Kind::Ping, 4, 16, "Ping: 16 bytes of fields; 8 and 0 for each of at most 0"),
        (Kind::Ping, 8, 1, "Ping: 1 bytes of payload; 0 to 0"),
        (Kind::Write, 8, 0, "Write: 0 bytes of payload; 1 to 1048576"),
        (Kind::Ping, 16, 1, "Ping: the checksum of no payload must be zero"),
        (Kind::Ping, 24, 1, "Ping: the sequence must be zero"),
        (Kind::Write, 16, 1, "Write: the checksum of the payload"),
        (Kind::Write, 48, 0, "Write: the checksum of the payload"),
        (Kind::Hello, 36, 1, "Hello: what follows the versions must be zero"),
        (Kind::Hello, 40, 0, "Hello: the sender is zero"),
        (Kind::Report, 32, 0, "Report: the number of the report is 0"),
        (Kind::Report, 40, 0, "Report: the node is zero"),
        (Kind::Report, 56, 9, "Report: copy is 9"),
        (Kind::Report, 63, 1, "Report: the number of dirty blocks must be zero"),
        (Kind::Report, 88, 0, "Report: the number of dirty blocks is 0"),
        (Kind::Report, 62, 1, "Report: the window of a peer that is not behind must be zero"),
        (Kind::Report, 120, 0, "Report: the base of the window is zero"),
        (Kind::Report, 80, 0, "Report: the node of a term is zero"),
        (Kind::Report, 152, 0, "Report: the node of a bond is 0"),
        (Kind::Report, 160, 4, "Report: the bond is 4"),
        (Kind::Report, 161, 1, "Report: what follows the bond must be zero"),
        (Kind::Report, 168, 0x22, "Report: generation GenerationId(22) appears twice"),
        (Kind::Report, 168, 0, "Report: a generation is zero"),
        (Kind::Agree, 32, 0, "Agree: the number of the own report is 0"),
        (Kind::Agree, 40, 8, "Agree: verdict is 8"),
        (Kind::Agree, 41, 3, "Agree: the source is 3"),
        (Kind::Agree, 44, 3, "Agree: what follows the details of a verdict must be zero"),
        (Kind::Agree, 64, 1, "Agree: what a verdict does not use must be zero"),
        (Kind::Offer, 32, 0, "Offer: a generation is zero"),
        (Kind::Answer, 48, 0, "Answer: the answer is 0"),
        (Kind::Answer, 48, 3, "Answer: the term that was taken is 0"),
        (Kind::Answer, 49, 1, "Answer: what follows the answer must be zero"),
        (Kind::Answer, 64, 1, "Answer: the term that was taken must be zero"),
        (Kind::Mark, 32, 3, "Mark: role is 3"),
        (Kind::Mark, 33, 0, "Mark: disk is 0"),
        (Kind::Mark, 34, 1, "Mark: what follows the disk must be zero"),
        (Kind::Zero, 41, 0, "Zero: 0 bytes from byte 2097152 are no range"),
        (Kind::Applied, 32, 40, "Applied: a write beyond the ones up to it is 40"),
        (Kind::Part, 43, 1, "Part: a block is 16777220"),
        (Kind::Part, 40, 5, "Part: 8 bytes of payload; 9 to 9"),
        (Kind::Offer, 64, 3, "Offer: replies is 3"),
        (Kind::DiscardAnswer, 32, 4, "DiscardAnswer: the answer is 4"),
        (Kind::InvalidateAnswer, 32, 4, "InvalidateAnswer: the answer is 4"),
        (Kind::Grow, 40, 3, "Grow: the step is 3"),
        (Kind::Grow, 41, 1, "Grow: what follows the step must be zero"),
        (Kind::Grown, 41, 0, "Grown: the answer is 0"),
        (Kind::Grown, 42, 1, "Grown: what follows the answer must be zero"),
        (Kind::Counted, 64, 0, "Counted: power is 0"),
        (Kind::Counted, 66, 1, "Counted: what follows the replies must be zero"),
        (Kind::Counted, 72, 0x33, "Counted: generation GenerationId(33) appears twice"),
        (Kind::Compared, 40, 1, "Compared: a block that differs, in rising order is 1"),
    ];
    for &(kind, at, value, text) in cases {
        let end = forged(&frame(kind), |bytes| bytes[at] = value);
        let error = end.expect_err(text).to_string();
        assert!(error.contains(text), "{kind}, byte {at}: {error}");
    }
}

#[test]
fn a_span_that_wraps_is_refused() {
    let wrapping = |bytes: &mut [u8]| bytes[32..40].fill(0xFF);
    for kind in [Kind::Write, Kind::Zero, Kind::Runs, Kind::Settled] {
        let (frame, _) = golden::frames().into_iter().find(|(frame, _)| Kind::of(frame) == kind).unwrap();
        let end = forged(&frame, wrapping);
        assert!(matches!(end, Err(FrameError::Span { offset: u64::MAX, .. })), "{kind}: {end:?}");
    }
}

#[test]
fn a_payload_is_never_copied_on_its_way_out() {
    let data = payload(4096);
    let blocks =
        [BlockContent::Zero, BlockContent::Data(data.slice(..512)), BlockContent::Data(data.slice(512..))];
    let mut encoder = Encoder::new(SESSION);
    encoder.push(&Frame::StableTo(Sequence(1)), None);
    encoder.push(&Frame::Received(Sequence(1)), None);
    encoder.push(&write(data.clone()), Some(PayloadChecksum::of(&data)));
    encoder.push(&Frame::Part { id: 1, read_at: Sequence(1), blocks: blocks.to_vec() }, None);
    encoder.push(&Frame::Finish, None);
    let places: Vec<*const u8> = encoder.chunks().iter().map(|chunk| chunk.as_ptr()).collect();
    let lengths: Vec<usize> = encoder.chunks().iter().map(Bytes::len).collect();
    assert_eq!(lengths, [32 + 32 + 48, 4096, 32 + 8 + 12, 512, 4096 - 512, 32]);
    assert_eq!(places[1], data.as_ptr());
    assert_eq!(places[3..5], [data.as_ptr(), data[512..].as_ptr()]);
}

#[test]
fn a_checksum_that_was_wrong_at_the_sender_is_found() {
    let mut encoder = Encoder::new(SESSION);
    encoder.push(&write(payload(512)), Some(PayloadChecksum(1)));
    let chunks: Vec<Bytes> = encoder.chunks().drain(..).collect();
    assert!(matches!(
        parse(chunks).1,
        Err(FrameError::PayloadChecksum { kind: Kind::Write, expected: 1, .. })
    ));
}

/// Counts what is taken, and keeps nothing where it arrived.
#[derive(Debug, Default)]
struct Counting(std::rc::Rc<std::cell::RefCell<Vec<usize>>>);

impl PayloadBuffers for Counting {
    type Buffer = Vec<u8>;

    fn take(&mut self, len: usize) -> Vec<u8> {
        self.0.borrow_mut().push(len);
        HeapBuffers.take(len)
    }

    fn may_stay(&mut self, _whole: &Bytes) -> bool {
        false
    }
}

#[test]
fn one_buffer_is_taken_for_a_payload_and_only_when_its_head_was_right() {
    let bytes = encode(&write(payload(4096)));
    let taken = Counting::default();
    let counts = std::rc::Rc::clone(&taken.0);
    let mut parser = Parser::new(SESSION, taken);
    let mut parse = |mut chunk: Bytes| parser.next_frame(&mut chunk);
    assert_eq!(parse(bytes.slice(..48)), Ok(None));
    assert!(counts.borrow().is_empty());
    assert_eq!(parse(bytes.slice(48..1000)), Ok(None));
    assert_eq!(parse(bytes.slice(1000..)), Ok(Some(write(payload(4096)))));
    assert_eq!(parse(bytes.clone()), Ok(Some(write(payload(4096)))));
    assert_eq!(*counts.borrow(), [4096, 4096]);
    let mut wrong = bytes.to_vec();
    wrong[40] ^= 1;
    assert!(matches!(parse(Bytes::from(wrong)), Err(FrameError::HeadChecksum { .. })));
    assert_eq!(counts.borrow().len(), 2);
}

#[test]
fn a_payload_that_arrives_whole_stays_where_it_is() {
    let bytes = encode(&write(payload(4096)));
    let mut parser = Parser::new(SESSION, HeapBuffers);
    let mut chunk = bytes.clone();
    let Ok(Some(Frame::Write { payload, .. })) = parser.next_frame(&mut chunk) else { panic!("a write") };
    assert_eq!(payload.as_ptr(), bytes[48..].as_ptr());
}

/// One can go on counting from whatever was read.
#[test]
fn what_counts_does_not_come_near_its_end() {
    let parse = |frame: &Frame| parse([encode(frame)]);
    let term = |number| Term { number, node: NodeId(1) };
    for (good, bad) in [
        (Frame::Start(Sequence(WIRE_COUNTER_END - 1)), Frame::Start(Sequence(WIRE_COUNTER_END))),
        (Frame::Ask(term(WIRE_COUNTER_END - 1)), Frame::Ask(term(WIRE_COUNTER_END))),
        (mark(WIRE_COUNTER_END - 1), mark(WIRE_COUNTER_END)),
    ] {
        assert_eq!(parse(&good), (vec![good], Ok(())));
        let (frames, refused) = parse(&bad);
        assert!(frames.is_empty() && matches!(refused, Err(FrameError::Value { .. })), "{bad:?}");
    }
}

fn mark(attach: u64) -> Frame {
    let (role, disk, term) = (Role::Secondary, DiskState::UpToDate, Term { number: 1, node: NodeId(1) });
    Frame::Mark { role, disk, term, attach: AttachCounter(attach) }
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0_u8), 1_u8..4, any::<u8>()];
    proptest::collection::vec(byte, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn frames_come_back_as_they_were(data in choices()) { fuzzing::built(&data); }
    #[test]
    fn patched_frames_are_refused_or_canonical(data in choices()) { fuzzing::patched(&data); }
    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) { fuzzing::raw(&data); }
    #[test]
    fn any_bytes_after_a_frame(cut: u8, start in choices(), rest in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut data = vec![cut];
        data.extend_from_slice(&encode(&fuzzing::frame(&start)));
        data.extend(rest);
        fuzzing::raw(&data);
    }
}
