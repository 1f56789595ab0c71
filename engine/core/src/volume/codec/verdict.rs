//! The fields of a verdict, of one length whatever it says.
//!
//! ```text
//!   0  u8   what           8  u128  id of the common generation
//!   1  3 x u8 details     24  u64   its term's number; or a size, ours
//!   4  u32  zero          32  u64   its term's node; a node; or a size, the other's
//! ```
//!
//! What a verdict does not use is zero.

use super::{
    error::FrameError,
    fields::{Numbered, Reader, Writer, numbered},
};
use crate::{
    generation::verdict::{Clause, Extent, FullBecause, Refusal, Side, Verdict, Which},
    ids::{Generation, GenerationId, NodeId, Term},
};

/// Bytes of a verdict.
pub(super) const VERDICT_BYTES: usize = 40;

/// [`Verdict`] without its details.
#[derive(Clone, Copy)]
enum What {
    NoSync,
    FreshPair,
    NoCopy,
    Resync,
    SplitBrain,
    Unrelated,
    Refused,
}

/// [`Refusal`] without its details.
#[derive(Clone, Copy)]
enum Why {
    SameNode,
    Size,
    BlockSize,
    Contradiction,
    NoGoodCopy,
    UnfitButAhead,
    TwoPrimaries,
    PrimaryAsTarget,
    BothDiscarded,
}

numbered!(What:
    [Self::NoSync] = 1, [Self::FreshPair] = 2, [Self::NoCopy] = 3, [Self::Resync] = 4, [Self::SplitBrain] = 5,
    [Self::Unrelated] = 6, [Self::Refused] = 7);
numbered!(Why:
    [Self::SameNode] = 1, [Self::Size] = 2, [Self::BlockSize] = 3, [Self::Contradiction] = 4,
    [Self::NoGoodCopy] = 5, [Self::UnfitButAhead] = 6, [Self::TwoPrimaries] = 7, [Self::PrimaryAsTarget] = 8,
    [Self::BothDiscarded] = 9);
numbered!(Side: [Self::Mine] = 1, [Self::Theirs] = 2);
numbered!(Which:
    [Self::Neither] = 1, [Self::One(Side::Mine)] = 2, [Self::One(Side::Theirs)] = 3, [Self::Both] = 4);
numbered!(Extent:
    [Self::Bitmap] = 1, [Self::Full(FullBecause::NoData)] = 2, [Self::Full(FullBecause::Unknown)] = 3,
    [Self::Full(FullBecause::NoBase)] = 4, [Self::Full(FullBecause::Unreadable)] = 5);
numbered!(Clause:
    [Self::Fresh] = 1, [Self::Recreated] = 2, [Self::Inconsistent] = 3, [Self::SetBack] = 4, [Self::Older] = 5,
    [Self::Discarded] = 6, [Self::NeverStopped] = 7, [Self::KeptPower] = 8, [Self::Writer] = 9,
    [Self::LowerId] = 10);

/// A verdict as numbers, before or after it is bytes.
#[derive(PartialEq, Eq, Default)]
struct Raw {
    details: [u8; 3],
    id: u128,
    first: u64,
    second: u64,
}

impl Raw {
    fn details(details: [u8; 3]) -> Self {
        Self { details, ..Self::default() }
    }
}

pub(super) fn write(verdict: Verdict, out: &mut Writer<'_>) {
    let (what, raw) = raw(verdict);
    let [a, b, c] = raw.details;
    out.u32(u32::from_le_bytes([what.number(), a, b, c]));
    out.zeroes(4);
    out.u128(raw.id);
    out.u64(raw.first);
    out.u64(raw.second);
}

pub(super) fn read(fields: &mut Reader<'_>) -> Result<Verdict, FrameError> {
    let [what, a, b, c] = fields.u32().to_le_bytes();
    fields.zeroes::<4>("what follows the details of a verdict")?;
    let found = Raw { details: [a, b, c], id: fields.u128(), first: fields.u64(), second: fields.u64() };
    let what = What::from_number(what).ok_or(fields.value_error("verdict", what.into()))?;
    let verdict = cook(what, &found, fields)?;
    // Whatever was not used to make the verdict must be zero: it has one form.
    if raw(verdict).1 == found {
        Ok(verdict)
    } else {
        Err(fields.unused_error("what a verdict does not use"))
    }
}

fn raw(verdict: Verdict) -> (What, Raw) {
    match verdict {
        Verdict::NoSync => (What::NoSync, Raw::default()),
        Verdict::FreshPair { proposer } => (What::FreshPair, Raw::details([proposer.number(), 0, 0])),
        Verdict::NoCopy(which) => (What::NoCopy, Raw::details([which.number(), 0, 0])),
        Verdict::Resync { source, extent, clause } => {
            (What::Resync, Raw::details([source.number(), extent.number(), clause.number()]))
        }
        Verdict::SplitBrain { common, suspends } => (
            What::SplitBrain,
            Raw {
                details: [suspends.number(), 0, 0],
                id: common.id.0,
                first: common.term.number,
                second: common.term.node.0,
            },
        ),
        Verdict::Unrelated { suspends } => (What::Unrelated, Raw::details([suspends.number(), 0, 0])),
        Verdict::Refused(refusal) => (What::Refused, raw_refusal(refusal)),
    }
}

fn raw_refusal(refusal: Refusal) -> Raw {
    let only = |why: Why| Raw::details([why.number(), 0, 0]);
    match refusal {
        Refusal::SameNode(node) => Raw { second: node.0, ..only(Why::SameNode) },
        Refusal::Size { mine, theirs } => Raw { first: mine, second: theirs, ..only(Why::Size) },
        Refusal::BlockSize { mine, theirs } => {
            Raw { first: mine.into(), second: theirs.into(), ..only(Why::BlockSize) }
        }
        Refusal::Contradiction(which) => Raw::details([Why::Contradiction.number(), which.number(), 0]),
        Refusal::NoGoodCopy => only(Why::NoGoodCopy),
        Refusal::UnfitButAhead(side) => Raw::details([Why::UnfitButAhead.number(), side.number(), 0]),
        Refusal::TwoPrimaries => only(Why::TwoPrimaries),
        Refusal::PrimaryAsTarget(side) => Raw::details([Why::PrimaryAsTarget.number(), side.number(), 0]),
        Refusal::BothDiscarded => only(Why::BothDiscarded),
    }
}

fn cook(what: What, raw: &Raw, fields: &Reader<'_>) -> Result<Verdict, FrameError> {
    fn part<T: Numbered>(number: u8, field: &'static str, fields: &Reader<'_>) -> Result<T, FrameError> {
        T::from_number(number).ok_or(fields.value_error(field, number.into()))
    }
    let [a, b, c] = raw.details;
    Ok(match what {
        What::NoSync => Verdict::NoSync,
        What::FreshPair => Verdict::FreshPair { proposer: part(a, "the proposer", fields)? },
        What::NoCopy => Verdict::NoCopy(part(a, "the side without a copy", fields)?),
        What::Resync => Verdict::Resync {
            source: part(a, "the source", fields)?,
            extent: part(b, "the extent", fields)?,
            clause: part(c, "the clause", fields)?,
        },
        What::SplitBrain => Verdict::SplitBrain {
            common: Generation {
                id: GenerationId(fields.not_zero(raw.id, "the common generation")?),
                term: Term {
                    number: raw.first,
                    node: NodeId(fields.not_zero(raw.second, "the node of a term")?),
                },
            },
            suspends: part(a, "who suspends", fields)?,
        },
        What::Unrelated => Verdict::Unrelated { suspends: part(a, "who suspends", fields)? },
        What::Refused => Verdict::Refused(match part(a, "the refusal", fields)? {
            Why::SameNode => Refusal::SameNode(NodeId(fields.not_zero(raw.second, "the node")?)),
            Why::Size => Refusal::Size { mine: raw.first, theirs: raw.second },
            Why::BlockSize => {
                let block = |size: u64| {
                    u32::try_from(size).map_err(|_| fields.value_error("the size of a block", size))
                };
                Refusal::BlockSize { mine: block(raw.first)?, theirs: block(raw.second)? }
            }
            Why::Contradiction => Refusal::Contradiction(part(b, "who contradicts itself", fields)?),
            Why::NoGoodCopy => Refusal::NoGoodCopy,
            Why::UnfitButAhead => Refusal::UnfitButAhead(part(b, "the unfit side", fields)?),
            Why::TwoPrimaries => Refusal::TwoPrimaries,
            Why::PrimaryAsTarget => Refusal::PrimaryAsTarget(part(b, "the target", fields)?),
            Why::BothDiscarded => Refusal::BothDiscarded,
        }),
    })
}
