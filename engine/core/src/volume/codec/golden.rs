//! One frame of each kind, byte by byte: the protocol cannot change unnoticed. The bytes were made from the tables
//! in `docs/peer-protocol.md` by another program, not by this encoder.

use bytes::Bytes;

use super::{
    Kind,
    fuzzing::{encode, parse},
};
use crate::{
    generation::{
        history::{History, Window},
        record::{Dirty, PeerRecord, Standing},
        verdict::{self, Clause, Extent, FullBecause, Side, Verdict, Which},
        view::{self, Bond, Copy, NodeView, Power, Replies, Unsettled, Wish},
    },
    ids::{AttachCounter, ClusterId, Generation, GenerationId, NodeId, Sequence, Term, Timestamp},
    volume::{
        DiskState, Role,
        io::ZeroMode,
        span::ByteSpan,
        wire::{
            BlockContent, DiscardRefusal, Frame, GrowthStep, Hello, InvalidateRefusal, Refusal, Retained,
        },
    },
};

fn term(number: u64) -> Term {
    Term { number, node: NodeId(0xA1) }
}

fn generation(id: u128, number: u64) -> Generation {
    Generation { id: GenerationId(id), term: term(number) }
}

fn span(offset: u64, len: u64) -> ByteSpan {
    ByteSpan { offset, len }
}

/// Frames and their bytes, as hexadecimal digits.
pub(super) fn frames() -> Vec<(Frame, &'static str)> {
    vec![
        (
            Frame::Hello(Hello {
                version_min: 1,
                version_max: 1,
                cluster: Some(ClusterId(0xC1)),
                volume: None,
                from: NodeId(0xA1),
                to: Some(NodeId(0xB2)),
                size_bytes: 1 << 30,
            }),
            "45 4b 01 00 40 00 00 00 00 00 00 00 d6 a5 88 cc \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             01 00 01 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             b2 00 00 00 00 00 00 00 00 00 00 40 00 00 00 00 \
             c1 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Report {
                number: 2,
                view: Box::new(NodeView {
                    node: NodeId(0xA1),
                    size_bytes: 1 << 30,
                    block_bytes: 4096,
                    copy: Copy::Good,
                    history: History::from_parts(
                        Some(generation(0x33, 3)),
                        vec![generation(0x22, 2)],
                        Some(GenerationId(0x44)),
                    )
                    .unwrap(),
                    role: view::Role::ServingPrimary,
                    power: Power::SameBoot,
                    replies: Replies::Ahead,
                    unsettled: Unsettled::Listed,
                    attach: AttachCounter(7),
                    highest_term: Some(term(9)),
                    wish: Wish::Discard,
                    record: PeerRecord {
                        standing: Standing::Behind(Window {
                            base: GenerationId(0x22),
                            offered: GenerationId(0x33),
                        }),
                        dirty: Dirty::Blocks(5),
                        seen: AttachCounter(6),
                    },
                    bond: Bond::Target(NodeId(0xB2)),
                }),
            },
            "45 4b 02 00 c8 00 00 00 00 00 00 00 a8 8e f9 cc \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             02 00 00 00 00 10 00 00 a1 00 00 00 00 00 00 00 \
             00 00 00 40 00 00 00 00 04 04 02 01 02 02 03 02 \
             07 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 \
             06 00 00 00 00 00 00 00 44 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 22 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 33 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 b2 00 00 00 00 00 00 00 \
             02 00 00 00 00 00 00 00 33 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00 22 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00",
        ),
        (
            Frame::Agree {
                own: 1,
                theirs: 2,
                verdict: Verdict::Resync {
                    source: Side::Theirs,
                    extent: Extent::Full(FullBecause::NoBase),
                    clause: Clause::Older,
                },
            },
            "45 4b 03 00 30 00 00 00 00 00 00 00 c8 f5 c7 4e \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 00 00 00 02 00 00 00 04 02 04 05 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Agree {
                own: 1,
                theirs: 1,
                verdict: Verdict::SplitBrain {
                    common: generation(0x22, 2),
                    suspends: Which::One(Side::Mine),
                },
            },
            "45 4b 03 00 30 00 00 00 00 00 00 00 74 81 d8 c9 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 00 00 00 01 00 00 00 05 02 00 00 00 00 00 00 \
             22 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             02 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00",
        ),
        (
            Frame::Agree {
                own: 3,
                theirs: 1,
                verdict: Verdict::Refused(verdict::Refusal::Size { mine: 4096, theirs: 8192 }),
            },
            "45 4b 03 00 30 00 00 00 00 00 00 00 66 ce ac 5f \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             03 00 00 00 01 00 00 00 07 02 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 10 00 00 00 00 00 00 00 20 00 00 00 00 00 00",
        ),
        (
            Frame::Begin { own: 1, theirs: 2 },
            "45 4b 04 00 08 00 00 00 00 00 00 00 e2 7e 7a 57 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 00 00 00 02 00 00 00",
        ),
        (
            Frame::Ready,
            "45 4b 05 00 00 00 00 00 00 00 00 00 28 6b 35 96 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Offer { generation: generation(0x33, 3), replies: Replies::Ahead },
            "45 4b 06 00 28 00 00 00 00 00 00 00 7e 69 41 98 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             33 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             01 00 00 00 00 00 00 00",
        ),
        (
            Frame::Adopted(GenerationId(0x33)),
            "45 4b 07 00 10 00 00 00 00 00 00 00 67 70 f3 67 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             33 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Ask(term(9)),
            "45 4b 08 00 10 00 00 00 00 00 00 00 18 7c 1c e8 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             09 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00",
        ),
        (
            Frame::Answer { term: term(9), refusal: None },
            "45 4b 09 00 28 00 00 00 00 00 00 00 7f ca eb 83 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             09 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Answer { term: term(9), refusal: Some(Refusal::TermTaken(term(12))) },
            "45 4b 09 00 28 00 00 00 00 00 00 00 aa 32 15 9b \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             09 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00 0c 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00",
        ),
        (
            Frame::Answer { term: term(9), refusal: Some(Refusal::HasPrimary) },
            "45 4b 09 00 28 00 00 00 00 00 00 00 20 54 ed ea \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             09 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             05 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Mark {
                role: Role::Primary,
                disk: DiskState::UpToDate,
                term: term(9),
                attach: AttachCounter(7),
            },
            "45 4b 0a 00 20 00 00 00 00 00 00 00 58 d1 90 53 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 06 00 00 00 00 00 00 09 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00",
        ),
        (
            Frame::Outdate,
            "45 4b 0b 00 00 00 00 00 00 00 00 00 19 3f 01 27 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Outdated,
            "45 4b 0c 00 00 00 00 00 00 00 00 00 21 96 23 92 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Yield,
            "45 4b 0d 00 00 00 00 00 00 00 00 00 29 75 43 ae \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Yielded,
            "45 4b 0e 00 00 00 00 00 00 00 00 00 31 50 e2 ea \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Leave,
            "45 4b 0f 00 00 00 00 00 00 00 00 00 39 b3 82 d6 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Ping(Timestamp(1_000_000)),
            "45 4b 10 00 08 00 00 00 00 00 00 00 b9 ac 84 d4 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             40 42 0f 00 00 00 00 00",
        ),
        (
            Frame::Pong(Timestamp(1_000_000)),
            "45 4b 11 00 08 00 00 00 00 00 00 00 5b 51 0c 59 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             40 42 0f 00 00 00 00 00",
        ),
        (
            Frame::Discard,
            "45 4b 12 00 00 00 00 00 00 00 00 00 12 fe fb 53 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::DiscardAnswer(None),
            "45 4b 13 00 08 00 00 00 00 00 00 00 28 b8 99 5e \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 00 00 00 00 00 00 00",
        ),
        (
            Frame::DiscardAnswer(Some(DiscardRefusal::NothingToResolve)),
            "45 4b 13 00 08 00 00 00 00 00 00 00 55 bf bc 1c \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00",
        ),
        (
            Frame::Invalidate,
            "45 4b 15 00 00 00 00 00 00 00 00 00 2a 57 d9 e6 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::InvalidateAnswer(None),
            "45 4b 16 00 08 00 00 00 00 00 00 00 81 b8 a1 88 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             01 00 00 00 00 00 00 00",
        ),
        (
            Frame::InvalidateAnswer(Some(InvalidateRefusal::NotInSync)),
            "45 4b 16 00 08 00 00 00 00 00 00 00 fc bf 84 ca \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00",
        ),
        (
            Frame::Grow { step: GrowthStep::Size, size_bytes: 2 << 30 },
            "45 4b 19 00 10 00 00 00 00 00 00 00 19 8c 5b 5f \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             00 00 00 80 00 00 00 00 02 00 00 00 00 00 00 00",
        ),
        (
            Frame::Grown { step: GrowthStep::Room, size_bytes: 2 << 30, done: false },
            "45 4b 1a 00 10 00 00 00 00 00 00 00 66 36 11 c6 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             00 00 00 80 00 00 00 00 01 02 00 00 00 00 00 00",
        ),
        (
            Frame::Everywhere {
                upto: Sequence(40),
                head: Some(GenerationId(0x33)),
                nodes: vec![NodeId(0xB2), NodeId(0xC3)],
            },
            "45 4b 14 00 20 00 00 00 00 00 00 00 c0 7c 5a 48 \
             00 00 00 00 11 10 55 5e 28 00 00 00 00 00 00 00 \
             33 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             b2 00 00 00 00 00 00 00 c3 00 00 00 00 00 00 00",
        ),
        (
            Frame::Everywhere { upto: Sequence(40), head: None, nodes: Vec::new() },
            "45 4b 14 00 10 00 00 00 00 00 00 00 33 4f ff 82 \
             00 00 00 00 11 10 55 5e 28 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Start(Sequence(40)),
            "45 4b 20 00 00 00 00 00 00 00 00 00 e7 05 9d 90 \
             00 00 00 00 11 10 55 5e 28 00 00 00 00 00 00 00",
        ),
        (
            Frame::Write {
                sequence: Sequence(41),
                after: Sequence(39),
                offset: 0x10_0000,
                payload: Bytes::from_static(b"evenkeel"),
                fua: true,
            },
            "45 4b 21 01 10 00 00 00 08 00 00 00 b1 e6 7e 07 \
             3a 08 1f f2 11 10 55 5e 29 00 00 00 00 00 00 00 \
             00 00 10 00 00 00 00 00 27 00 00 00 00 00 00 00 \
             65 76 65 6e 6b 65 65 6c",
        ),
        (
            Frame::Zero {
                sequence: Sequence(42),
                after: Sequence(0),
                span: span(0x20_0000, 4096),
                mode: ZeroMode::Punch,
                fua: true,
            },
            "45 4b 22 03 18 00 00 00 00 00 00 00 fd a2 27 57 \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00 \
             00 00 20 00 00 00 00 00 00 10 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00",
        ),
        (
            Frame::FlushTo(Sequence(42)),
            "45 4b 23 00 00 00 00 00 00 00 00 00 82 27 19 96 \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00",
        ),
        (
            Frame::Received(Sequence(42)),
            "45 4b 24 00 00 00 00 00 00 00 00 00 ba 8e 3b 23 \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00",
        ),
        (
            Frame::Applied { upto: Sequence(40), also: vec![Sequence(42), Sequence(45)] },
            "45 4b 25 00 10 00 00 00 00 00 00 00 6b 84 5e 14 \
             00 00 00 00 11 10 55 5e 28 00 00 00 00 00 00 00 \
             2a 00 00 00 00 00 00 00 2d 00 00 00 00 00 00 00",
        ),
        (
            Frame::StableTo(Sequence(42)),
            "45 4b 26 00 00 00 00 00 00 00 00 00 aa 48 fa 5b \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00",
        ),
        (
            Frame::Failed,
            "45 4b 27 00 00 00 00 00 00 00 00 00 3c d5 2c 0f \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Host { generation: generation(0x33, 3), parent: GenerationId(0x22), after: Sequence(42) },
            "45 4b 18 00 30 00 00 00 00 00 00 00 ed c2 f9 10 \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00 \
             33 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             22 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Fetch { id: 7, span: span(0x8000, 4096), after: Sequence(42) },
            "45 4b 28 00 18 00 00 00 00 00 00 00 6c 3a 94 0e \
             00 00 00 00 11 10 55 5e 2a 00 00 00 00 00 00 00 \
             07 00 00 00 00 00 00 00 00 80 00 00 00 00 00 00 \
             00 10 00 00 00 00 00 00",
        ),
        (
            Frame::Fetched { id: 7, payload: Some(Bytes::from_static(b"abc")) },
            "45 4b 29 00 08 00 00 00 03 00 00 00 13 2c 98 8a \
             c2 41 24 35 11 10 55 5e 00 00 00 00 00 00 00 00 \
             07 00 00 00 00 00 00 00 61 62 63",
        ),
        (
            Frame::Fetched { id: 8, payload: None },
            "45 4b 29 00 08 00 00 00 00 00 00 00 e6 b7 71 33 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             08 00 00 00 00 00 00 00",
        ),
        (
            Frame::Runs(vec![span(0, 4096), span(0x8000, 8192)]),
            "45 4b 40 00 20 00 00 00 00 00 00 00 fe f9 cc 3b \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00 \
             00 80 00 00 00 00 00 00 00 20 00 00 00 00 00 00",
        ),
        (
            Frame::RunsEnd,
            "45 4b 41 00 00 00 00 00 00 00 00 00 41 11 77 7f \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Pull {
                id: 5,
                span: span(0x8000, 8192),
                after: Sequence(40),
                digests: vec![0xD1, 0xD2 << 64],
            },
            "45 4b 42 00 38 00 00 00 00 00 00 00 c0 fe f8 60 \
             00 00 00 00 11 10 55 5e 28 00 00 00 00 00 00 00 \
             05 00 00 00 00 00 00 00 00 80 00 00 00 00 00 00 \
             00 20 00 00 00 00 00 00 d1 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             d2 00 00 00 00 00 00 00",
        ),
        (
            Frame::Part {
                id: 5,
                read_at: Sequence(44),
                blocks: vec![
                    BlockContent::Data(Bytes::from_static(b"even")),
                    BlockContent::Same,
                    BlockContent::Zero,
                    BlockContent::Data(Bytes::from_static(b"keel")),
                ],
            },
            "45 4b 43 00 18 00 00 00 08 00 00 00 ac a8 03 ae \
             3a 08 1f f2 11 10 55 5e 2c 00 00 00 00 00 00 00 \
             05 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 \
             ff ff ff ff 04 00 00 00 65 76 65 6e 6b 65 65 6c",
        ),
        (
            Frame::Settled(vec![(span(0x8000, 8192), Sequence(44))]),
            "45 4b 44 00 18 00 00 00 00 00 00 00 32 4e 5a 8c \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             00 80 00 00 00 00 00 00 00 20 00 00 00 00 00 00 \
             2c 00 00 00 00 00 00 00",
        ),
        (
            Frame::Finish,
            "45 4b 45 00 00 00 00 00 00 00 00 00 61 9d f4 8e \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Counted {
                after: Sequence(50),
                head: generation(0x33, 3),
                ancestors: vec![generation(0x22, 2)],
                kept: Retained { power: Power::SameBoot, replies: Replies::Together },
            },
            "45 4b 46 00 48 00 00 00 00 00 00 00 d9 e4 cb 36 \
             00 00 00 00 11 10 55 5e 32 00 00 00 00 00 00 00 \
             33 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             03 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 \
             02 02 00 00 00 00 00 00 22 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 \
             a1 00 00 00 00 00 00 00",
        ),
        (
            Frame::Finished,
            "45 4b 47 00 00 00 00 00 00 00 00 00 71 5b 35 f6 \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Compare { id: 6, span: span(0, 8192), at: Sequence(51), digests: vec![0xD1, 0xD2] },
            "45 4b 48 00 38 00 00 00 00 00 00 00 4c ec 77 55 \
             00 00 00 00 11 10 55 5e 33 00 00 00 00 00 00 00 \
             06 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \
             00 20 00 00 00 00 00 00 d1 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00 d2 00 00 00 00 00 00 00 \
             00 00 00 00 00 00 00 00",
        ),
        (
            Frame::Compared { id: 6, differing: vec![0, 1] },
            "45 4b 49 00 10 00 00 00 00 00 00 00 d5 8a 81 ef \
             00 00 00 00 11 10 55 5e 00 00 00 00 00 00 00 00 \
             06 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00",
        ),
    ]
}

fn bytes(digits: &str) -> Bytes {
    let digit = |text: &str| u8::from_str_radix(text, 16).expect("two hexadecimal digits");
    digits.split_whitespace().map(digit).collect()
}

#[test]
fn every_kind_has_its_bytes() {
    for (frame, digits) in frames() {
        assert_eq!(encode(&frame), bytes(digits), "{frame:?}");
        assert_eq!(parse([bytes(digits)]), (vec![frame], Ok(())));
    }
}

#[test]
fn every_kind_is_here() {
    for kind in Kind::ALL {
        assert!(frames().iter().any(|(frame, _)| Kind::of(frame) == kind), "{kind}");
    }
}
