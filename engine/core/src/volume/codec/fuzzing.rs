//! Entry points for fuzzing: every function takes any bytes and must neither panic nor allocate beyond its bound.
//!
//! A checksum keeps a fuzzer out, so beside raw bytes there are two ways past it: a frame that was *built* from
//! the bytes must come back as it was however its chunks are cut, and a good frame that was *patched* and sealed
//! again must be refused or be exactly what would be sent for what was accepted.
//! `fuzz/fuzz_targets/frame_*.rs` run them; `tests/frame_corpus_replay.rs` replays what is in `fuzz/corpus`.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Encoder, FrameError, HEADER_BYTES, HeapBuffers, Kind, Parser, PayloadChecksum, SessionNumber,
    fields::Numbered,
    header::seal,
    limits::{BLOCKS_MAX, FIELDS_BYTES_MAX, GENERATIONS_MAX, PAYLOAD_BYTES_MAX},
};
use crate::{
    generation::{
        history::{History, Window},
        record::{Dirty, PeerRecord, Standing},
        verdict::{self, Verdict},
        view::{Bond, NodeView},
    },
    ids::{
        AttachCounter, ClusterId, Generation, GenerationId, MAX_PEERS, NodeId, Sequence, Term, Timestamp,
        VolumeId, WIRE_COUNTER_END,
    },
    volume::{
        io::ZeroMode,
        span::ByteSpan,
        wire::{
            BlockContent, DiscardRefusal, Frame, GrowthStep, Hello, InvalidateRefusal, PROTOCOL_VERSION,
            Refusal, Retained,
        },
    },
};

/// Bytes as a source of choices; after the last one everything is 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Small numbers, large ones and the ends are all likely.
    fn u64(&mut self) -> u64 {
        let mut wide = || u64::from_le_bytes(std::array::from_fn(|_| self.byte()));
        match wide() {
            value if value.is_multiple_of(4) => value & 0xFFFF,
            value if value % 4 == 1 => u64::MAX - (value >> 56),
            value => value,
        }
    }

    fn u32(&mut self) -> u32 {
        let value = self.u64();
        u32::try_from(value).unwrap_or((value >> 32) as u32)
    }

    fn u128(&mut self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
    }

    fn up_to(&mut self, most: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % (most + 1)
    }

    fn count(&mut self) -> usize {
        match self.byte() {
            0 => self.up_to(BLOCKS_MAX),
            small => usize::from(small) % 4,
        }
    }

    fn numbered<T: Numbered>(&mut self) -> T {
        let numbers: Vec<T> = (0..=255).filter_map(T::from_number).collect();
        numbers[usize::from(self.byte()) % numbers.len()]
    }

    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| element(self)).collect()
    }

    fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| value(self))
    }

    fn growth_step(&mut self) -> GrowthStep {
        if self.bool() { GrowthStep::Room } else { GrowthStep::Size }
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.u64().max(1))
    }

    fn counter(&mut self) -> u64 {
        self.u64() % WIRE_COUNTER_END
    }

    fn sequence(&mut self) -> Sequence {
        Sequence(self.counter())
    }

    fn term(&mut self) -> Term {
        Term { number: self.counter(), node: self.node() }
    }

    fn generation_id(&mut self) -> GenerationId {
        GenerationId(self.u128().max(1))
    }

    fn generation(&mut self) -> Generation {
        Generation { id: self.generation_id(), term: self.term() }
    }

    fn span(&mut self) -> ByteSpan {
        let offset = self.u64().min(u64::MAX - 1);
        ByteSpan { offset, len: self.u64().clamp(1, u64::MAX - offset) }
    }

    fn data(&mut self, least: usize) -> Bytes {
        let len = match self.byte() {
            0 => self.up_to(PAYLOAD_BYTES_MAX / BLOCKS_MAX),
            small => usize::from(small),
        };
        let seed = self.byte();
        (0..=255_u8).cycle().take(len.max(least)).map(|at| seed.wrapping_add(at)).collect()
    }

    /// Different generations, newest first.
    fn generations(&mut self) -> Vec<Generation> {
        let mut generations = self.list(Self::generation);
        generations.truncate(GENERATIONS_MAX);
        let mut seen = std::collections::BTreeSet::new();
        generations.retain(|generation| seen.insert(generation.id));
        generations
    }

    fn view(&mut self) -> NodeView {
        let generations = self.generations();
        let toward = self.option(Self::generation_id);
        let history = History::from_parts(
            generations.first().copied(),
            generations.into_iter().skip(1).collect(),
            toward,
        )
        .expect("all differ");
        let standing = match self.byte() % 3 {
            0 => Standing::Never,
            1 => Standing::InSync,
            _ => Standing::Behind(Window { base: self.generation_id(), offered: self.generation_id() }),
        };
        let dirty = match self.byte() % 3 {
            0 => Dirty::Clean,
            1 => Dirty::Unreadable,
            _ => Dirty::Blocks(self.u64().max(1)),
        };
        NodeView {
            node: self.node(),
            size_bytes: self.u64(),
            block_bytes: self.u32(),
            copy: self.numbered(),
            history,
            role: self.numbered(),
            power: self.numbered(),
            replies: self.numbered(),
            unsettled: self.numbered(),
            attach: AttachCounter(self.counter()),
            highest_term: self.option(Self::term),
            wish: self.numbered(),
            record: PeerRecord { standing, dirty, seen: AttachCounter(self.counter()) },
            bond: match self.byte() % 3 {
                0 => Bond::Free,
                1 => Bond::Target(self.node()),
                _ => Bond::InSync(self.node()),
            },
        }
    }

    fn verdict(&mut self) -> Verdict {
        use verdict::Refusal as R;
        match self.byte() % 15 {
            0 => Verdict::NoSync,
            1 => Verdict::FreshPair { proposer: self.numbered() },
            2 => Verdict::NoCopy(self.numbered()),
            3 => {
                Verdict::Resync { source: self.numbered(), extent: self.numbered(), clause: self.numbered() }
            }
            4 => Verdict::SplitBrain { common: self.generation(), suspends: self.numbered() },
            5 => Verdict::Unrelated { suspends: self.numbered() },
            6 => Verdict::Refused(R::SameNode(self.node())),
            7 => Verdict::Refused(R::Size { mine: self.u64(), theirs: self.u64() }),
            8 => Verdict::Refused(R::BlockSize { mine: self.u32(), theirs: self.u32() }),
            9 => Verdict::Refused(R::Contradiction(self.numbered())),
            10 => Verdict::Refused(R::NoGoodCopy),
            11 => Verdict::Refused(R::UnfitButAhead(self.numbered())),
            12 => Verdict::Refused(R::TwoPrimaries),
            13 => Verdict::Refused(R::PrimaryAsTarget(self.numbered())),
            _ => Verdict::Refused(R::BothDiscarded),
        }
    }

    fn frame(&mut self) -> Frame {
        let kind = Kind::ALL[usize::from(self.byte()) % Kind::ALL.len()];
        match kind {
            Kind::Hello => Frame::Hello(Hello {
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                cluster: self.option(|choices| ClusterId(choices.u128().max(1))),
                volume: self.option(|choices| VolumeId(choices.u128().max(1))),
                from: self.node(),
                to: self.option(Self::node),
                size_bytes: self.u64(),
            }),
            Kind::Report => Frame::Report { number: self.u32().max(1), view: Box::new(self.view()) },
            Kind::Agree => {
                Frame::Agree { own: self.u32().max(1), theirs: self.u32().max(1), verdict: self.verdict() }
            }
            Kind::Begin => Frame::Begin { own: self.u32().max(1), theirs: self.u32().max(1) },
            Kind::Ready => Frame::Ready,
            Kind::Offer => Frame::Offer { generation: self.generation(), replies: self.numbered() },
            Kind::Adopted => Frame::Adopted(self.generation_id()),
            Kind::Ask => Frame::Ask(self.term()),
            Kind::Answer => {
                let term = self.term();
                let refusal = match self.byte() % 6 {
                    0 => None,
                    1 => Some(Refusal::IAmPrimary),
                    2 => Some(Refusal::SplitBrain),
                    3 => Some(Refusal::HasPrimary),
                    4 => Some(Refusal::NotYet),
                    _ => Some(Refusal::TermTaken(self.term())),
                };
                Frame::Answer { term, refusal }
            }
            Kind::Mark => Frame::Mark {
                role: self.numbered(),
                disk: self.numbered(),
                term: self.term(),
                attach: AttachCounter(self.counter()),
            },
            Kind::Outdate => Frame::Outdate,
            Kind::Outdated => Frame::Outdated,
            Kind::Yield => Frame::Yield,
            Kind::Yielded => Frame::Yielded,
            Kind::Leave => Frame::Leave,
            Kind::Ping => Frame::Ping(Timestamp(self.u64())),
            Kind::Pong => Frame::Pong(Timestamp(self.u64())),
            Kind::Discard => Frame::Discard,
            Kind::DiscardAnswer => Frame::DiscardAnswer(match self.byte() % 3 {
                0 => None,
                1 => Some(DiscardRefusal::IAmPrimary),
                _ => Some(DiscardRefusal::NothingToResolve),
            }),
            Kind::Grow => Frame::Grow { step: self.growth_step(), size_bytes: self.u64() },
            Kind::Grown => {
                Frame::Grown { step: self.growth_step(), size_bytes: self.u64(), done: self.bool() }
            }
            Kind::Invalidate => Frame::Invalidate,
            Kind::InvalidateAnswer => Frame::InvalidateAnswer(match self.byte() % 3 {
                0 => None,
                1 => Some(InvalidateRefusal::IAmPrimary),
                _ => Some(InvalidateRefusal::NotInSync),
            }),
            Kind::Everywhere => Frame::Everywhere {
                upto: self.sequence(),
                head: self.option(Self::generation_id),
                nodes: (0..self.up_to(MAX_PEERS)).map(|_| self.node()).collect(),
            },
            Kind::Start => Frame::Start(self.sequence()),
            Kind::Write => {
                let payload = self.data(1);
                Frame::Write {
                    sequence: self.sequence(),
                    after: self.sequence(),
                    offset: self.u64().min(u64::MAX - payload.len() as u64),
                    payload,
                    fua: self.bool(),
                }
            }
            Kind::Zero => Frame::Zero {
                sequence: self.sequence(),
                after: self.sequence(),
                span: self.span(),
                mode: if self.bool() { ZeroMode::Punch } else { ZeroMode::Allocate },
                fua: self.bool(),
            },
            Kind::FlushTo => Frame::FlushTo(self.sequence()),
            Kind::Received => Frame::Received(self.sequence()),
            Kind::Applied => {
                let upto = Sequence(self.counter().min(WIRE_COUNTER_END - 2));
                let also = self.list(|choices| choices.sequence().max(upto.next()));
                Frame::Applied { upto, also }
            }
            Kind::StableTo => Frame::StableTo(self.sequence()),
            Kind::Failed => Frame::Failed,
            Kind::Host => Frame::Host {
                generation: self.generation(),
                parent: self.generation_id(),
                after: self.sequence(),
            },
            Kind::Fetch => Frame::Fetch { id: self.u64(), span: self.span(), after: self.sequence() },
            Kind::Fetched => {
                let payload = self.data(0);
                Frame::Fetched { id: self.u64(), payload: (!payload.is_empty()).then_some(payload) }
            }
            Kind::Runs => Frame::Runs(self.list(Self::span)),
            Kind::RunsEnd => Frame::RunsEnd,
            Kind::Pull => Frame::Pull {
                id: self.u64(),
                span: self.span(),
                after: self.sequence(),
                digests: self.list(Self::u128),
            },
            Kind::Part => {
                let blocks = self.list(|choices| match choices.byte() % 3 {
                    0 => BlockContent::Same,
                    1 => BlockContent::Zero,
                    _ => BlockContent::Data(choices.data(1)),
                });
                Frame::Part { id: self.u64(), read_at: self.sequence(), blocks }
            }
            Kind::Settled => Frame::Settled(self.list(|choices| (choices.span(), choices.sequence()))),
            Kind::Finish => Frame::Finish,
            Kind::Counted => {
                let mut generations = self.generations();
                if generations.is_empty() {
                    generations.push(self.generation());
                }
                let head = generations.remove(0);
                let kept = Retained { power: self.numbered(), replies: self.numbered() };
                Frame::Counted { after: self.sequence(), head, ancestors: generations, kept }
            }
            Kind::Finished => Frame::Finished,
            Kind::Compare => Frame::Compare {
                id: self.u64(),
                span: self.span(),
                at: self.sequence(),
                digests: self.list(Self::u128),
            },
            Kind::Compared => {
                let mut differing = self.list(|choices| u32::from(choices.byte()));
                differing.sort_unstable();
                differing.dedup();
                Frame::Compared { id: self.u64(), differing }
            }
        }
    }
}

/// The session of all frames here.
pub(super) const SESSION: SessionNumber = match SessionNumber::new(0x5E55_1011) {
    Some(session) => session,
    None => panic!("not zero"),
};

/// The frame that these bytes choose; every frame that may be sent can be chosen, but for the very long ones.
pub fn frame(choices: &[u8]) -> Frame {
    Choices(choices).frame()
}

/// A frame as it goes over the wire.
pub fn encode(frame: &Frame) -> Bytes {
    let mut encoder = Encoder::new(SESSION);
    encoder.push(frame, None);
    let mut bytes = BytesMut::new();
    encoder.chunks().drain(..).for_each(|chunk| bytes.extend_from_slice(&chunk));
    bytes.freeze()
}

/// All frames in these chunks, and how it ended.
pub(super) fn parse(chunks: impl IntoIterator<Item = Bytes>) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut parser = Parser::new(SESSION, HeapBuffers);
    let mut frames = Vec::new();
    for mut chunk in chunks {
        while !chunk.is_empty() {
            match parser.next_frame(&mut chunk) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => assert!(chunk.is_empty(), "a parser that waits has used everything"),
                Err(error) => {
                    let mut more = Bytes::from_static(&[0]);
                    assert_eq!(parser.next_frame(&mut more), Err(error), "an error stays");
                    return (frames, Err(error));
                }
            }
        }
    }
    (frames, parser.finish())
}

/// What comes from a peer as it is; the first byte says how it is cut.
///
/// # Panics
/// If what was accepted is not what would be sent for it, or if it depends on where the bytes are cut.
pub fn raw(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(data);
    let whole = parse([bytes.clone()]);
    let cut = usize::from(*cut).max(1);
    let pieces = parse(data.chunks(cut).map(Bytes::copy_from_slice));
    assert_eq!(whole, pieces, "cut every {cut} bytes");
    let mut rest = bytes;
    for frame in whole.0 {
        let sent = encode(&frame);
        if !is_newer_hello(&rest) {
            assert_eq!(rest[..sent.len()], sent, "one frame has one form");
            rest.advance(sent.len());
        } else {
            let fields = u32::from_le_bytes(rest[4..8].try_into().expect("4 bytes"));
            rest.advance(HEADER_BYTES + fields as usize);
        }
    }
}

/// A hello of a peer that speaks more versions may say more than this one.
fn is_newer_hello(bytes: &[u8]) -> bool {
    bytes[2] == Kind::Hello.number() && bytes[34..36] != PROTOCOL_VERSION.to_le_bytes()
}

/// Frames that the data chooses, sent together and cut where it says.
///
/// # Panics
/// If they do not come back as they were.
pub fn built(data: &[u8]) {
    let mut choices = Choices(data);
    let mut encoder = Encoder::new(SESSION);
    let frames: Vec<Frame> = (0..=choices.up_to(3)).map(|_| choices.frame()).collect();
    for frame in &frames {
        let checksum = match frame {
            Frame::Write { payload, .. } if choices.bool() => Some(PayloadChecksum::of(payload)),
            _ => None,
        };
        encoder.push(frame, checksum);
    }
    let mut chunks: Vec<Bytes> = encoder.chunks().drain(..).collect();
    if choices.bool() {
        let cut = choices.up_to(5000).max(1);
        let all = chunks.concat();
        chunks = all.chunks(cut).map(Bytes::copy_from_slice).collect();
    }
    assert_eq!(parse(chunks), (frames, Ok(())));
}

/// A good frame that is patched behind its lengths, sealed again, and sent.
///
/// # Panics
/// If what was accepted is not what would be sent for it.
pub fn patched(data: &[u8]) {
    let mut choices = Choices(data);
    let patches: Vec<(usize, u8)> = choices.list(|choices| (choices.up_to(200), choices.byte()));
    let mut bytes = encode(&choices.frame()).to_vec();
    for (at, value) in patches {
        let at = at % bytes.len();
        // The lengths stay, so that the fields are where they are; raw bytes try those.
        if !(4..12).contains(&at) {
            bytes[at] = value;
        }
    }
    let fields = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
    assert!(fields <= FIELDS_BYTES_MAX);
    let (head, payload) = bytes.split_at_mut(HEADER_BYTES + fields);
    head[16..20].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    seal(head);
    let mut seeds = vec![1];
    seeds.extend_from_slice(&bytes);
    raw(&seeds);
}

/// [`built`] or [`patched`], as the first byte says.
///
/// # Panics
/// As those do.
pub fn structured(data: &[u8]) {
    match data.split_first() {
        Some((choice, rest)) if choice.is_multiple_of(2) => built(rest),
        Some((_, rest)) => patched(rest),
        None => {}
    }
}
