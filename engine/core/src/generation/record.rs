//! What a node keeps, durably, about one peer.
//!
//! Why: after a loss only this says which of our changes the peer may lack, and from which generation on the
//! bitmap for it can be believed (design G5, D5).
//!
//! Invariants:
//! - while a peer is not [`Standing::Never`], every change of our copy that it may lack is in the bitmap for it
//!   or in the activity log;
//! - the newer end of a window (`offered`) only ever moves on; the older end moves only to a generation that the
//!   peer has itself shown; it closes only when a resync has ended or an offer was answered;
//! - every change of standing is in the same superblock write as the change of head that causes it.

use super::history::{History, Window};
use crate::ids::{AttachCounter, GenerationId};

/// How much is known about what a peer has.
///
/// ```text
///             begin_as_*                head_changed (a new generation, or one taken over), begin_as_*
///   Never ──────────────────► Behind ◄──────────────────────────────────────────────────────────── InSync
///                              │ ▲ │                                                                 ▲
///  begin_as_*, head_changed:   └─┘ └──────────── caught_up (offer answered, resync ended) ───────────┘
///  the window moves
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// No bitmap is kept for this peer: only a full comparison can bring the two together.
    Never,
    /// The peer has our head; what it may lack of it is in bitmap and activity log.
    InSync,
    /// The peer is at some generation of this window.
    Behind(Window),
}

impl Standing {
    /// Our head becomes a new one (design G1, G2, R6); `old` is the one before. `offered` says whether the peer
    /// gets the chance to take the new one: it is connected and in sync.
    #[must_use]
    pub fn head_changed(self, old: GenerationId, new: GenerationId, offered: bool) -> Self {
        match self {
            Self::Never => Self::Never,
            Self::InSync => Self::Behind(Window { base: old, offered: if offered { new } else { old } }),
            Self::Behind(window) if offered => Self::Behind(Window { offered: new, ..window }),
            Self::Behind(window) => Self::Behind(window),
        }
    }

    /// A resync from this node into the peer begins, or goes on. `ours` is the history of this node, `key` what
    /// the peer showed as [`History::key`]. From now on the peer may be at our head: as key at once, as head at
    /// the end. A `key` in the window is where it was, so the window need not reach further back: that keeps
    /// windows short however often a link flaps. Stable, after the bits, before the target is told to begin.
    ///
    /// # Panics
    /// If we have no head: such a node can never be a source.
    #[must_use]
    pub fn begin_as_source(self, ours: &History, key: Option<GenerationId>) -> Self {
        let head = ours.head().expect("a source has a generation").id;
        let base = match self {
            Self::Never | Self::InSync => head,
            Self::Behind(window) => match key.filter(|key| ours.window_holds(window, *key)) {
                Some(key) => key,
                None if ours.contains(window.base) => window.base,
                // Of a branch that is gone: every block is compared, which makes any base right.
                None => head,
            },
        };
        Self::Behind(Window { base, offered: head })
    }

    /// A resync from the peer, whose head is `source`, into this node begins, or goes on; `ours` is our history
    /// before that. Stable together with [`History::begin_resync`], after the bits.
    #[must_use]
    pub fn begin_as_target(self, ours: &History, source: GenerationId) -> Self {
        let at = ours.head().map_or(source, |head| head.id);
        match self {
            Self::Never | Self::InSync => Self::Behind(Window { base: at, offered: at }),
            Self::Behind(window) => Self::Behind(window),
        }
    }

    /// The peer has, stably, our head: it answered an offer (G1), or ended a resync in either direction (R6).
    #[must_use]
    pub fn caught_up(self) -> Self {
        Self::InSync
    }

    /// Whether our bitmap for the peer holds every change that we made since the peer was at `key` (design G5).
    #[must_use]
    pub fn covers(self, ours: &History, key: GenerationId) -> bool {
        match self {
            Self::Never => false,
            Self::InSync => ours.head().is_some_and(|head| head.id == key),
            Self::Behind(window) => ours.window_holds(window, key),
        }
    }

    /// Whether the peer is at a generation before our head: it was not in sync any more when that began, and no resync
    /// into it has begun since.
    #[must_use]
    pub fn is_before(self, head: GenerationId) -> bool {
        match self {
            Self::Never | Self::InSync => false,
            Self::Behind(window) => window.offered != head,
        }
    }

    /// The window that [`History::push`] must keep, if any.
    #[must_use]
    pub fn window(self) -> Option<Window> {
        match self {
            Self::Behind(window) => Some(window),
            Self::Never | Self::InSync => None,
        }
    }
}

/// What the dirty bitmap for a peer says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dirty {
    /// No block.
    Clean,
    /// So many blocks, at least one.
    Blocks(u64),
    /// Pages of it cannot be read: everything is compared (design G7).
    Unreadable,
}

/// A node's record about one peer, as far as it matters to the verdict. (That the peer confirmed to be Outdated,
/// also stored there, matters only to P1.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerRecord {
    /// What the peer has.
    pub standing: Standing,
    /// What it lacks.
    pub dirty: Dirty,
    /// The highest attach counter that the peer showed; zero if none (design D6).
    pub seen: AttachCounter,
}

impl PeerRecord {
    /// About a peer that was never met.
    pub const NEVER: Self = Self { standing: Standing::Never, dirty: Dirty::Clean, seen: AttachCounter(0) };
}
