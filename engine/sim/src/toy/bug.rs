//! The mistakes that can be put into the toy.

/// A well-known mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A write is answered before the peer has it.
    AckBeforePeer,
    /// A flush is answered and not done.
    FlushIgnored,
    /// A secondary says that a write is applied before its disk has it.
    AppliedBeforeWritten,
    /// A node that lost its cache is taken for as good as one that kept it.
    PowerLossForgotten,
    /// A copy ends before everything was copied: the dirty bits of the rest are cleared too early.
    CopyEndsEarly,
    /// Two that have both written are made equal without a word.
    SplitBrainNotFound,
    /// The primary goes on alone before the new generation is stable.
    GenerationAfterAnswer,
    /// A primary that crashed is taken for in sync with its peer, because their generations are equal.
    EqualGenerationsTrusted,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AckBeforePeer,
        Self::FlushIgnored,
        Self::AppliedBeforeWritten,
        Self::PowerLossForgotten,
        Self::CopyEndsEarly,
        Self::SplitBrainNotFound,
        Self::GenerationAfterAnswer,
        Self::EqualGenerationsTrusted,
    ];

    /// The bug with this name, as `Debug` prints it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
    }
}
