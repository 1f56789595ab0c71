//! The kinds of frames: their numbers on the wire, and the shape that a frame of each kind must have.
//!
//! A shape is known from the first bytes of a frame, so a length that cannot be right is refused before anything
//! is kept for it.

use std::fmt;

use super::{
    hello::HELLO_BYTES,
    limits::{
        APPLIED_MAX, BLOCKS_MAX, FIELDS_BYTES_MAX, GENERATIONS_MAX, PAYLOAD_BYTES_MAX, RUNS_MAX, SETTLED_MAX,
    },
    report::REPORT_BYTES,
    verdict::VERDICT_BYTES,
};
use crate::{ids::MAX_PEERS, volume::wire::Frame};

/// The kind of a frame; see [`Frame`] for what each means. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the variant of `Frame` with the same name")]
pub enum Kind {
    Hello = 1,
    Report = 2,
    Agree = 3,
    Begin = 4,
    Ready = 5,
    Offer = 6,
    Adopted = 7,
    Ask = 8,
    Answer = 9,
    Mark = 10,
    Outdate = 11,
    Outdated = 12,
    Yield = 13,
    Yielded = 14,
    Leave = 15,
    Ping = 16,
    Pong = 17,
    Discard = 18,
    DiscardAnswer = 19,
    Everywhere = 20,
    Invalidate = 21,
    InvalidateAnswer = 22,
    Host = 24,
    Grow = 25,
    Grown = 26,
    Start = 32,
    Write = 33,
    Zero = 34,
    FlushTo = 35,
    Received = 36,
    Applied = 37,
    StableTo = 38,
    Failed = 39,
    Fetch = 40,
    Fetched = 41,
    Runs = 64,
    RunsEnd = 65,
    Pull = 66,
    Part = 67,
    Settled = 68,
    Finish = 69,
    Counted = 70,
    Finished = 71,
    Compare = 72,
    Compared = 73,
}

/// Flag of `Write` and `Zero`: acknowledge only when stable.
pub(super) const FLAG_FUA: u8 = 1;
/// Flag of `Zero`: give the space back.
pub(super) const FLAG_PUNCH: u8 = 2;

/// What every frame of a kind has in common.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of fields that are always there.
    pub(super) fixed: usize,
    /// Bytes of each element of the list after them; 0 if there is no list.
    pub(super) element: usize,
    /// How many elements there may be.
    pub(super) elements_max: usize,
    /// How many bytes of payload there may be.
    pub(super) payload_max: usize,
    /// The flags that it may have.
    pub(super) flags: u8,
    /// Whether the header's sequence means something.
    pub(super) sequence: bool,
}

impl Shape {
    const fn fixed(fixed: usize) -> Self {
        Self { fixed, element: 0, elements_max: 0, payload_max: 0, flags: 0, sequence: false }
    }

    const fn list(self, element: usize, elements_max: usize) -> Self {
        assert!(
            self.fixed + element * elements_max <= FIELDS_BYTES_MAX,
            "the longest list is within the limit"
        );
        Self { element, elements_max, ..self }
    }

    const fn payload(self) -> Self {
        Self { payload_max: PAYLOAD_BYTES_MAX, ..self }
    }

    const fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    const fn sequence(self) -> Self {
        Self { sequence: true, ..self }
    }

    /// The most bytes of fields.
    pub(super) const fn fields_max(self) -> usize {
        self.fixed + self.element * self.elements_max
    }

    /// Whether the fields may have so many bytes.
    pub(super) fn admits(self, fields: usize) -> bool {
        match (fields.checked_sub(self.fixed), self.element) {
            (Some(0), _) => true,
            (None, _) | (Some(_), 0) => false,
            (Some(list), element) => list % element == 0 && fields <= self.fields_max(),
        }
    }
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 45] = [
        Self::Hello,
        Self::Report,
        Self::Agree,
        Self::Begin,
        Self::Ready,
        Self::Offer,
        Self::Adopted,
        Self::Ask,
        Self::Answer,
        Self::Mark,
        Self::Outdate,
        Self::Outdated,
        Self::Yield,
        Self::Yielded,
        Self::Leave,
        Self::Ping,
        Self::Pong,
        Self::Discard,
        Self::DiscardAnswer,
        Self::Everywhere,
        Self::Invalidate,
        Self::InvalidateAnswer,
        Self::Host,
        Self::Grow,
        Self::Grown,
        Self::Start,
        Self::Write,
        Self::Zero,
        Self::FlushTo,
        Self::Received,
        Self::Applied,
        Self::StableTo,
        Self::Failed,
        Self::Fetch,
        Self::Fetched,
        Self::Runs,
        Self::RunsEnd,
        Self::Pull,
        Self::Part,
        Self::Settled,
        Self::Finish,
        Self::Counted,
        Self::Finished,
        Self::Compare,
        Self::Compared,
    ];

    const BY_NUMBER: [Option<Self>; 256] = {
        let mut kinds = [None; 256];
        let mut at = 0;
        while at < Self::ALL.len() {
            kinds[Self::ALL[at] as usize] = Some(Self::ALL[at]);
            at += 1;
        }
        kinds
    };

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::BY_NUMBER[usize::from(number)]
    }

    /// The kind of a frame.
    #[must_use]
    pub fn of(frame: &Frame) -> Self {
        match frame {
            Frame::Hello(_) => Self::Hello,
            Frame::Report { .. } => Self::Report,
            Frame::Agree { .. } => Self::Agree,
            Frame::Begin { .. } => Self::Begin,
            Frame::Ready => Self::Ready,
            Frame::Offer { .. } => Self::Offer,
            Frame::Adopted(_) => Self::Adopted,
            Frame::Ask(_) => Self::Ask,
            Frame::Answer { .. } => Self::Answer,
            Frame::Mark { .. } => Self::Mark,
            Frame::Outdate => Self::Outdate,
            Frame::Outdated => Self::Outdated,
            Frame::Yield => Self::Yield,
            Frame::Yielded => Self::Yielded,
            Frame::Leave => Self::Leave,
            Frame::Ping(_) => Self::Ping,
            Frame::Pong(_) => Self::Pong,
            Frame::Host { .. } => Self::Host,
            Frame::Grow { .. } => Self::Grow,
            Frame::Grown { .. } => Self::Grown,
            Frame::Everywhere { .. } => Self::Everywhere,
            Frame::Discard => Self::Discard,
            Frame::DiscardAnswer(_) => Self::DiscardAnswer,
            Frame::Invalidate => Self::Invalidate,
            Frame::InvalidateAnswer(_) => Self::InvalidateAnswer,
            Frame::Start(_) => Self::Start,
            Frame::Write { .. } => Self::Write,
            Frame::Zero { .. } => Self::Zero,
            Frame::FlushTo(_) => Self::FlushTo,
            Frame::Received(_) => Self::Received,
            Frame::Applied { .. } => Self::Applied,
            Frame::StableTo(_) => Self::StableTo,
            Frame::Failed => Self::Failed,
            Frame::Fetch { .. } => Self::Fetch,
            Frame::Fetched { .. } => Self::Fetched,
            Frame::Runs(_) => Self::Runs,
            Frame::RunsEnd => Self::RunsEnd,
            Frame::Pull { .. } => Self::Pull,
            Frame::Part { .. } => Self::Part,
            Frame::Settled(_) => Self::Settled,
            Frame::Finish => Self::Finish,
            Frame::Counted { .. } => Self::Counted,
            Frame::Finished => Self::Finished,
            Frame::Compare { .. } => Self::Compare,
            Frame::Compared { .. } => Self::Compared,
        }
    }

    /// The sizes are those of the byte tables in `docs/peer-protocol.md`.
    pub(super) const fn shape(self) -> Shape {
        match self {
            Self::Hello => Shape::fixed(HELLO_BYTES),
            Self::Report => Shape::fixed(REPORT_BYTES).list(32, GENERATIONS_MAX),
            Self::Agree => Shape::fixed(8 + VERDICT_BYTES),
            Self::Begin | Self::Ping | Self::Pong => Shape::fixed(8),
            Self::Ready
            | Self::Outdate
            | Self::Outdated
            | Self::Yield
            | Self::Yielded
            | Self::Leave
            | Self::Discard
            | Self::Invalidate
            | Self::Failed
            | Self::RunsEnd
            | Self::Finish
            | Self::Finished => Shape::fixed(0),
            Self::DiscardAnswer | Self::InvalidateAnswer => Shape::fixed(8),
            Self::Offer => Shape::fixed(40),
            Self::Host => Shape::fixed(48).sequence(),
            Self::Fetch => Shape::fixed(24).sequence(),
            Self::Fetched => Shape::fixed(8).payload(),
            Self::Adopted | Self::Ask | Self::Grow | Self::Grown => Shape::fixed(16),
            Self::Everywhere => Shape::fixed(16).list(8, MAX_PEERS).sequence(),
            Self::Answer => Shape::fixed(40),
            Self::Mark => Shape::fixed(32),
            Self::Start | Self::FlushTo | Self::Received | Self::StableTo => Shape::fixed(0).sequence(),
            Self::Write => Shape::fixed(16).payload().flags(FLAG_FUA).sequence(),
            Self::Zero => Shape::fixed(24).flags(FLAG_FUA | FLAG_PUNCH).sequence(),
            Self::Applied => Shape::fixed(0).list(8, APPLIED_MAX).sequence(),
            Self::Runs => Shape::fixed(0).list(16, RUNS_MAX),
            Self::Pull | Self::Compare => Shape::fixed(24).list(16, BLOCKS_MAX).sequence(),
            Self::Compared => Shape::fixed(8).list(4, BLOCKS_MAX),
            Self::Part => Shape::fixed(8).list(4, BLOCKS_MAX).payload().sequence(),
            Self::Settled => Shape::fixed(0).list(24, SETTLED_MAX),
            // Without a head there is nothing to take.
            Self::Counted => Shape::fixed(40).list(32, GENERATIONS_MAX - 1).sequence(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_once_in_order() {
        assert!(Kind::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        let known = (0..=255).filter_map(Kind::from_number);
        assert!(known.eq(Kind::ALL));
    }

    #[test]
    fn a_shape_admits_whole_elements_only() {
        let runs = Kind::Runs.shape();
        assert!(runs.admits(0) && runs.admits(16) && runs.admits(FIELDS_BYTES_MAX));
        assert!(!runs.admits(15) && !runs.admits(FIELDS_BYTES_MAX + 16));
        let ping = Kind::Ping.shape();
        assert!(ping.admits(8) && !ping.admits(0) && !ping.admits(16));
    }
}
