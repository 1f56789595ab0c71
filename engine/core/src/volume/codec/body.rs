//! What follows the header, by kind: fields out of a frame, and a frame out of fields.
//!
//! The byte tables are in `docs/peer-protocol.md`; the long ones also at the head of the file that they are in.

use bytes::Bytes;

use super::{
    error::FrameError,
    fields::{Reader, Writer, checked_span, numbered},
    header::Header,
    hello,
    kind::{FLAG_FUA, FLAG_PUNCH, Kind},
    limits::{BLOCKS_MAX, PAYLOAD_BYTES_MAX},
    report, verdict,
};
use crate::{
    generation::history::History,
    ids::{GenerationId, Sequence, Term, Timestamp},
    volume::{
        DiskState, Role,
        io::ZeroMode,
        wire::{BlockContent, DiscardRefusal, Frame, GrowthStep, InvalidateRefusal, Refusal, Retained},
    },
};

/// A block of a part that is all zeroes; above every length of data. A block that was right is 0.
const BLOCK_ZERO: u32 = u32::MAX;

/// The answer to an ask, without the term that stands against it.
#[derive(Clone, Copy)]
enum Answer {
    Granted,
    IAmPrimary,
    TermTaken,
    SplitBrain,
    HasPrimary,
    NotYet,
}

numbered!(Answer:
    [Self::Granted] = 1, [Self::IAmPrimary] = 2, [Self::TermTaken] = 3, [Self::SplitBrain] = 4,
    [Self::HasPrimary] = 5, [Self::NotYet] = 6);
/// The answer to a discard.
#[derive(Clone, Copy)]
enum DiscardAnswer {
    Agreed,
    IAmPrimary,
    NothingToResolve,
}

numbered!(DiscardAnswer: [Self::Agreed] = 1, [Self::IAmPrimary] = 2, [Self::NothingToResolve] = 3);

/// The answer to an invalidate.
#[derive(Clone, Copy)]
enum InvalidateAnswer {
    Done,
    IAmPrimary,
    NotInSync,
}

numbered!(InvalidateAnswer: [Self::Done] = 1, [Self::IAmPrimary] = 2, [Self::NotInSync] = 3);
/// Whether a step of a growth is taken.
#[derive(Clone, Copy)]
enum StepAnswer {
    Done,
    Refused,
}

numbered!(StepAnswer: [Self::Done] = 1, [Self::Refused] = 2);
numbered!(GrowthStep: [Self::Room] = 1, [Self::Size] = 2);
numbered!(Role: [Self::Primary] = 1, [Self::Secondary] = 2);
numbered!(DiskState:
    [Self::Diskless] = 1, [Self::Failed] = 2, [Self::Inconsistent] = 3, [Self::Outdated] = 4,
    [Self::Consistent] = 5, [Self::UpToDate] = 6);

/// What of a frame is not in its fields.
pub(super) struct Beside<'a> {
    pub(super) sequence: Sequence,
    pub(super) flags: u8,
    pub(super) payload: Payload<'a>,
}

/// The payload of a frame, where it lies.
pub(super) enum Payload<'a> {
    /// It has none.
    None,
    /// That of a write.
    Whole(&'a Bytes),
    /// The data among these blocks.
    Blocks(&'a [BlockContent]),
}

impl<'a> Payload<'a> {
    /// Its pieces, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &'a Bytes> {
        let (whole, blocks) = match *self {
            Self::None => (None, [].as_slice()),
            Self::Whole(payload) => (Some(payload), [].as_slice()),
            Self::Blocks(blocks) => (None, blocks),
        };
        let data = blocks.iter().filter_map(|block| match block {
            BlockContent::Data(data) => Some(data),
            BlockContent::Same | BlockContent::Zero => None,
        });
        whole.into_iter().chain(data)
    }
}

fn fua_flag(fua: bool) -> u8 {
    if fua { FLAG_FUA } else { 0 }
}

/// Writes the fields of a frame; returns the rest of it.
pub(super) fn write<'a>(frame: &'a Frame, out: &mut Writer<'_>) -> Beside<'a> {
    let mut beside = Beside { sequence: Sequence::ZERO, flags: 0, payload: Payload::None };
    match frame {
        Frame::Hello(hello) => hello::write(hello, out),
        Frame::Report { number, view } => report::write(*number, view, out),
        Frame::Agree { own, theirs, verdict } => {
            out.count_from_one(*own);
            out.count_from_one(*theirs);
            verdict::write(*verdict, out);
        }
        Frame::Begin { own, theirs } => {
            out.count_from_one(*own);
            out.count_from_one(*theirs);
        }
        Frame::Offer { generation, replies } => {
            out.generation(*generation);
            out.numbered(*replies);
            out.zeroes(7);
        }
        Frame::Host { generation, parent, after } => {
            out.generation(*generation);
            out.id(parent.0);
            beside.sequence = *after;
        }
        Frame::Fetch { id, span, after } => {
            out.u64(*id);
            out.span(*span);
            beside.sequence = *after;
        }
        Frame::Fetched { id, payload } => {
            out.u64(*id);
            if let Some(payload) = payload {
                assert!(!payload.is_empty(), "what was read is not empty");
                beside.payload = Payload::Whole(payload);
            }
        }
        Frame::Adopted(id) => out.id(id.0),
        Frame::Ask(term) => out.term(*term),
        Frame::Answer { term, refusal } => write_answer(*term, *refusal, out),
        Frame::Mark { role, disk, term, attach } => {
            out.numbered(*role);
            out.numbered(*disk);
            out.zeroes(6);
            out.term(*term);
            out.u64(attach.0);
        }
        Frame::DiscardAnswer(refusal) => {
            out.numbered(match refusal {
                None => DiscardAnswer::Agreed,
                Some(DiscardRefusal::IAmPrimary) => DiscardAnswer::IAmPrimary,
                Some(DiscardRefusal::NothingToResolve) => DiscardAnswer::NothingToResolve,
            });
            out.zeroes(7);
        }
        Frame::InvalidateAnswer(refusal) => {
            out.numbered(match refusal {
                None => InvalidateAnswer::Done,
                Some(InvalidateRefusal::IAmPrimary) => InvalidateAnswer::IAmPrimary,
                Some(InvalidateRefusal::NotInSync) => InvalidateAnswer::NotInSync,
            });
            out.zeroes(7);
        }
        Frame::Grow { step, size_bytes } => {
            out.u64(*size_bytes);
            out.numbered(*step);
            out.zeroes(7);
        }
        Frame::Grown { step, size_bytes, done } => {
            out.u64(*size_bytes);
            out.numbered(*step);
            out.numbered(if *done { StepAnswer::Done } else { StepAnswer::Refused });
            out.zeroes(6);
        }
        Frame::Ping(time) | Frame::Pong(time) => out.u64(time.0),
        Frame::Everywhere { upto, head, nodes } => {
            out.optional_id(head.map(|head| head.0));
            nodes.iter().for_each(|node| out.node(*node));
            beside.sequence = *upto;
        }
        Frame::Ready
        | Frame::Outdate
        | Frame::Outdated
        | Frame::Yield
        | Frame::Yielded
        | Frame::Leave
        | Frame::Discard
        | Frame::Invalidate
        | Frame::Failed
        | Frame::RunsEnd
        | Frame::Finish
        | Frame::Finished => {}
        Frame::Start(sequence)
        | Frame::FlushTo(sequence)
        | Frame::Received(sequence)
        | Frame::StableTo(sequence) => beside.sequence = *sequence,
        Frame::Write { sequence, after, offset, payload, fua } => {
            out.u64(*offset);
            out.u64(after.0);
            beside.flags = fua_flag(*fua);
            beside.payload = Payload::Whole(payload);
            beside.sequence = *sequence;
        }
        Frame::Zero { sequence, after, span, mode, fua } => {
            out.span(*span);
            out.u64(after.0);
            let punch = match mode {
                ZeroMode::Punch => FLAG_PUNCH,
                ZeroMode::Allocate => 0,
            };
            beside.flags = fua_flag(*fua) | punch;
            beside.sequence = *sequence;
        }
        Frame::Applied { upto, also } => {
            for sequence in also {
                assert!(sequence > upto, "{sequence:?} is among those up to {upto:?}");
                out.u64(sequence.0);
            }
            beside.sequence = *upto;
        }
        Frame::Runs(runs) => runs.iter().for_each(|run| out.span(*run)),
        Frame::Pull { id, span, after, digests } => {
            out.u64(*id);
            out.span(*span);
            digests.iter().for_each(|digest| out.u128(*digest));
            beside.sequence = *after;
        }
        Frame::Part { id, read_at, blocks } => {
            out.u64(*id);
            for block in blocks {
                out.u32(match block {
                    BlockContent::Same => 0,
                    BlockContent::Zero => BLOCK_ZERO,
                    BlockContent::Data(data) => {
                        assert!(!data.is_empty(), "a block has data");
                        u32::try_from(data.len()).expect("the limit of the payload is below")
                    }
                });
            }
            beside.sequence = *read_at;
            beside.payload = Payload::Blocks(blocks);
        }
        Frame::Settled(spans) => {
            for (span, read_at) in spans {
                out.span(*span);
                out.u64(read_at.0);
            }
        }
        Frame::Compare { id, span, at, digests } => {
            out.u64(*id);
            out.span(*span);
            digests.iter().for_each(|digest| out.u128(*digest));
            beside.sequence = *at;
        }
        Frame::Compared { id, differing } => {
            out.u64(*id);
            let mut least = 0;
            for &block in differing {
                assert!(block >= least && (block as usize) < BLOCKS_MAX, "block {block} after {least}");
                least = block + 1;
                out.u32(block);
            }
        }
        Frame::Counted { after, head, ancestors, kept } => {
            out.generation(*head);
            out.numbered(kept.power);
            out.numbered(kept.replies);
            out.zeroes(6);
            ancestors.iter().for_each(|ancestor| out.generation(*ancestor));
            beside.sequence = *after;
        }
    }
    beside
}

fn write_answer(term: Term, refusal: Option<Refusal>, out: &mut Writer<'_>) {
    let (answer, against) = match refusal {
        None => (Answer::Granted, None),
        Some(Refusal::IAmPrimary) => (Answer::IAmPrimary, None),
        Some(Refusal::TermTaken(against)) => (Answer::TermTaken, Some(against)),
        Some(Refusal::SplitBrain) => (Answer::SplitBrain, None),
        Some(Refusal::HasPrimary) => (Answer::HasPrimary, None),
        Some(Refusal::NotYet) => (Answer::NotYet, None),
    };
    out.term(term);
    out.numbered(answer);
    out.zeroes(7);
    out.optional_term(against);
}

/// A frame of which everything but the payload is known.
pub(super) enum Opened {
    /// It has none.
    Whole(Frame),
    /// A write.
    Write { sequence: Sequence, after: Sequence, offset: u64, fua: bool },
    /// What was read for a primary without a disk.
    Fetched { id: u64 },
    /// Blocks, each with the value of the table.
    Part { id: u64, read_at: Sequence, blocks: Vec<u32> },
}

/// The frame with this header and these fields, which have the shape of their kind and the right checksum.
pub(super) fn open(header: &Header, bytes: &[u8]) -> Result<Opened, FrameError> {
    let kind = header.kind;
    let mut fields = Reader::new(kind, bytes);
    let sequence = Sequence(fields.checked_counter("a sequence", header.sequence)?);
    let fua = header.flags & FLAG_FUA != 0;
    Ok(Opened::Whole(match kind {
        Kind::Hello => Frame::Hello(hello::read(&mut fields)?),
        Kind::Report => {
            let (number, view) = report::read(fields)?;
            Frame::Report { number, view }
        }
        Kind::Agree => Frame::Agree {
            own: fields.count_from_one("the number of the own report")?,
            theirs: fields.count_from_one("the number of the other report")?,
            verdict: verdict::read(&mut fields)?,
        },
        Kind::Begin => Frame::Begin {
            own: fields.count_from_one("the number of the own report")?,
            theirs: fields.count_from_one("the number of the other report")?,
        },
        Kind::Ready => Frame::Ready,
        Kind::Offer => {
            let (generation, replies) = (fields.generation()?, fields.numbered("replies")?);
            fields.zeroes::<7>("what follows the replies")?;
            Frame::Offer { generation, replies }
        }
        Kind::Host => Frame::Host {
            generation: fields.generation()?,
            parent: GenerationId(fields.id("a generation")?),
            after: sequence,
        },
        Kind::Fetch => Frame::Fetch { id: fields.u64(), span: fields.span()?, after: sequence },
        Kind::Fetched => {
            let id = fields.u64();
            if header.payload > 0 {
                return Ok(Opened::Fetched { id });
            }
            Frame::Fetched { id, payload: None }
        }
        Kind::Adopted => Frame::Adopted(GenerationId(fields.id("a generation")?)),
        Kind::Ask => Frame::Ask(fields.term()?),
        Kind::Answer => read_answer(&mut fields)?,
        Kind::Mark => {
            let (role, disk) = (fields.numbered("role")?, fields.numbered("disk")?);
            fields.zeroes::<6>("what follows the disk")?;
            Frame::Mark { role, disk, term: fields.term()?, attach: fields.attach_counter()? }
        }
        Kind::Outdate => Frame::Outdate,
        Kind::Outdated => Frame::Outdated,
        Kind::Yield => Frame::Yield,
        Kind::Yielded => Frame::Yielded,
        Kind::Leave => Frame::Leave,
        Kind::Discard => Frame::Discard,
        Kind::DiscardAnswer => {
            let refusal = match fields.numbered("the answer")? {
                DiscardAnswer::Agreed => None,
                DiscardAnswer::IAmPrimary => Some(DiscardRefusal::IAmPrimary),
                DiscardAnswer::NothingToResolve => Some(DiscardRefusal::NothingToResolve),
            };
            fields.zeroes::<7>("what follows the answer")?;
            Frame::DiscardAnswer(refusal)
        }
        Kind::Invalidate => Frame::Invalidate,
        Kind::InvalidateAnswer => {
            let refusal = match fields.numbered("the answer")? {
                InvalidateAnswer::Done => None,
                InvalidateAnswer::IAmPrimary => Some(InvalidateRefusal::IAmPrimary),
                InvalidateAnswer::NotInSync => Some(InvalidateRefusal::NotInSync),
            };
            fields.zeroes::<7>("what follows the answer")?;
            Frame::InvalidateAnswer(refusal)
        }
        Kind::Grow => {
            let size_bytes = fields.u64();
            let step = fields.numbered("the step")?;
            fields.zeroes::<7>("what follows the step")?;
            Frame::Grow { step, size_bytes }
        }
        Kind::Grown => {
            let size_bytes = fields.u64();
            let step = fields.numbered("the step")?;
            let done = matches!(fields.numbered("the answer")?, StepAnswer::Done);
            fields.zeroes::<6>("what follows the answer")?;
            Frame::Grown { step, size_bytes, done }
        }
        Kind::Ping => Frame::Ping(Timestamp(fields.u64())),
        Kind::Pong => Frame::Pong(Timestamp(fields.u64())),
        Kind::Everywhere => {
            let head = fields.optional_id().map(GenerationId);
            let nodes = fields.list(8, |fields| fields.node("a node in sync"))?;
            Frame::Everywhere { upto: sequence, head, nodes }
        }
        Kind::Start => Frame::Start(sequence),
        Kind::Write => {
            let (offset, after) = (fields.u64(), fields.sequence()?);
            checked_span(kind, offset, header.payload as u64)?;
            return Ok(Opened::Write { sequence, after, offset, fua });
        }
        Kind::Zero => {
            let mode = if header.flags & FLAG_PUNCH != 0 { ZeroMode::Punch } else { ZeroMode::Allocate };
            Frame::Zero { sequence, span: fields.span()?, after: fields.sequence()?, mode, fua }
        }
        Kind::FlushTo => Frame::FlushTo(sequence),
        Kind::Received => Frame::Received(sequence),
        Kind::Applied => {
            let also = fields.list(8, |fields| match fields.sequence()? {
                one if one > sequence => Ok(one),
                one => Err(fields.value_error("a write beyond the ones up to it", one.0)),
            })?;
            Frame::Applied { upto: sequence, also }
        }
        Kind::StableTo => Frame::StableTo(sequence),
        Kind::Failed => Frame::Failed,
        Kind::Runs => Frame::Runs(fields.list(16, Reader::span)?),
        Kind::RunsEnd => Frame::RunsEnd,
        Kind::Pull => {
            let (id, span) = (fields.u64(), fields.span()?);
            let digests = fields.list(16, |fields| Ok(fields.u128()))?;
            Frame::Pull { id, span, after: sequence, digests }
        }
        Kind::Part => return open_part(header, sequence, fields),
        Kind::Settled => Frame::Settled(fields.list(24, |fields| Ok((fields.span()?, fields.sequence()?)))?),
        Kind::Compare => {
            let (id, span) = (fields.u64(), fields.span()?);
            let digests = fields.list(16, |fields| Ok(fields.u128()))?;
            Frame::Compare { id, span, at: sequence, digests }
        }
        Kind::Compared => {
            let id = fields.u64();
            let mut least = 0;
            let differing = fields.list(4, |fields| match fields.u32() {
                block if block >= least && (block as usize) < BLOCKS_MAX => {
                    least = block + 1;
                    Ok(block)
                }
                block => Err(fields.value_error("a block that differs, in rising order", block.into())),
            })?;
            Frame::Compared { id, differing }
        }
        Kind::Finish => Frame::Finish,
        Kind::Counted => {
            let head = fields.generation()?;
            let kept = Retained { power: fields.numbered("power")?, replies: fields.numbered("replies")? };
            fields.zeroes::<6>("what follows the replies")?;
            let ancestors = fields.list(32, Reader::generation)?;
            let history = History::from_parts(Some(head), ancestors, None)
                .map_err(|error| FrameError::History { kind, error })?;
            Frame::Counted { after: sequence, head, ancestors: history.ancestors().to_vec(), kept }
        }
        Kind::Finished => Frame::Finished,
    }))
}

fn read_answer(fields: &mut Reader<'_>) -> Result<Frame, FrameError> {
    let term = fields.term()?;
    let answer = fields.numbered("the answer")?;
    fields.zeroes::<7>("what follows the answer")?;
    let refusal = match (answer, fields.optional_term()?) {
        (Answer::TermTaken, Some(against)) => Some(Refusal::TermTaken(against)),
        (Answer::TermTaken, None) => return Err(fields.value_error("the term that was taken", 0)),
        (Answer::Granted, None) => None,
        (Answer::IAmPrimary, None) => Some(Refusal::IAmPrimary),
        (Answer::SplitBrain, None) => Some(Refusal::SplitBrain),
        (Answer::HasPrimary, None) => Some(Refusal::HasPrimary),
        (Answer::NotYet, None) => Some(Refusal::NotYet),
        (
            Answer::Granted | Answer::IAmPrimary | Answer::SplitBrain | Answer::HasPrimary | Answer::NotYet,
            Some(_),
        ) => return Err(fields.unused_error("the term that was taken")),
    };
    Ok(Frame::Answer { term, refusal })
}

fn open_part(header: &Header, read_at: Sequence, mut fields: Reader<'_>) -> Result<Opened, FrameError> {
    let id = fields.u64();
    let blocks = fields.list(4, |fields| match fields.u32() {
        block if block == BLOCK_ZERO || block as usize <= PAYLOAD_BYTES_MAX => Ok(block),
        block => Err(fields.value_error("a block", block.into())),
    })?;
    // At most 256 blocks of at most 1 MiB: no overflow.
    let data: usize = blocks.iter().filter(|block| **block != BLOCK_ZERO).map(|block| *block as usize).sum();
    if data != header.payload {
        let found = u32::try_from(header.payload).expect("it was a u32 in the header");
        return Err(FrameError::PayloadLength { kind: header.kind, found, min: data, max: data });
    }
    let part = Opened::Part { id, read_at, blocks };
    Ok(if data == 0 { Opened::Whole(part.close(Bytes::new())) } else { part })
}

impl Opened {
    /// The frame, now that its payload is there.
    pub(super) fn close(self, mut payload: Bytes) -> Frame {
        match self {
            Self::Whole(frame) => frame,
            Self::Write { sequence, after, offset, fua } => {
                Frame::Write { sequence, after, offset, payload, fua }
            }
            Self::Fetched { id } => Frame::Fetched { id, payload: Some(payload) },
            Self::Part { id, read_at, blocks } => {
                let block = |block: u32| match block {
                    0 => BlockContent::Same,
                    BLOCK_ZERO => BlockContent::Zero,
                    len => BlockContent::Data(payload.split_to(len as usize)),
                };
                Frame::Part { id, read_at, blocks: blocks.into_iter().map(block).collect() }
            }
        }
    }
}
