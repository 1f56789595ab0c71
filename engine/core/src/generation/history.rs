//! The chain of generations that one copy of the data has gone through.
//!
//! Why: two nodes that meet compare their chains, and nothing else tells which of them is older (design
//! section 5). The chain is part of the superblock (design D5).
//!
//! Invariants, kept by construction:
//! - no generation appears twice; without a head there are no ancestors;
//! - at most [`HISTORY_CAPACITY`] ancestors; what a peer's [`Window`] needs is dropped last (design G5);
//! - `toward` is set exactly while a resync *into* this copy has begun and not ended (design R1, R6). The head
//!   stays what it was until the end (design G2); `toward` says to which generation the clean blocks belong.
//!
//! ```text
//!                push(g)                    begin_resync(s)                adopt(source's history)
//!   empty ───────────────► head g ───────────────────────► head g, toward s ───────────────────► head s
//!     │                      ▲  push(new): forced promotion gives the resync up  │
//!     │                      └───────────────────────────────────────────────────┘
//!     └──────── begin_resync(s): a fresh copy ────────► no head, toward s ──── adopt ──► head s
//! ```

use crate::ids::{Generation, GenerationId};

/// How many ancestors are kept beside the head (design D5: at least 64).
pub const HISTORY_CAPACITY: usize = 64;

/// The generations that the copy of a peer may be at: `base` is the one at which it stopped being in sync,
/// `offered` the last one that it was offered since, or the same as `base` if there was none (design G5).
///
/// The bitmap kept for that peer holds every change since `base`, so it serves for any head in the window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    /// The generation at which the peer stopped being in sync.
    pub base: GenerationId,
    /// The last generation that the peer may have taken since.
    pub offered: GenerationId,
}

/// A chain does not hold what it must (it was read from a disk or came from a peer).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HistoryError {
    /// More ancestors than [`HISTORY_CAPACITY`].
    #[error("a history of {0} ancestors; {HISTORY_CAPACITY} is the limit")]
    TooLong(usize),
    /// Ancestors, but no head.
    #[error("a history with ancestors but without a head")]
    Headless,
    /// The same generation twice.
    #[error("generation {0:?} appears twice in a history")]
    Twice(GenerationId),
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct History {
    head: Option<Generation>,
    ancestors: Vec<Generation>,
    toward: Option<GenerationId>,
}

impl History {
    /// The history of a copy that has no generation yet (design G3, fresh).
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A history as it was stored or sent: the head, its ancestors (newest first), and the generation toward
    /// which a resync had begun.
    ///
    /// # Errors
    /// [`HistoryError`] if the parts do not make a history.
    pub fn from_parts(
        head: Option<Generation>,
        ancestors: Vec<Generation>,
        toward: Option<GenerationId>,
    ) -> Result<Self, HistoryError> {
        if ancestors.len() > HISTORY_CAPACITY {
            return Err(HistoryError::TooLong(ancestors.len()));
        }
        if head.is_none() && !ancestors.is_empty() {
            return Err(HistoryError::Headless);
        }
        let history = Self { head, ancestors, toward };
        let mut ids: Vec<GenerationId> = history.generations().map(|generation| generation.id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(HistoryError::Twice(pair[0])),
            None => Ok(history),
        }
    }

    /// The newest generation of this copy.
    #[must_use]
    pub fn head(&self) -> Option<Generation> {
        self.head
    }

    /// The generations before the head, newest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Generation] {
        &self.ancestors
    }

    /// The source's head when the resync into this copy began, if one has begun and not ended.
    #[must_use]
    pub fn toward(&self) -> Option<GenerationId> {
        self.toward
    }

    /// The generation to which the clean blocks of this copy belong: `toward` during a resync, else the head.
    #[must_use]
    pub fn key(&self) -> Option<GenerationId> {
        self.toward.or(self.head.map(|head| head.id))
    }

    /// The head and its ancestors, newest first.
    pub fn generations(&self) -> impl Iterator<Item = Generation> + '_ {
        self.head.into_iter().chain(self.ancestors.iter().copied())
    }

    /// Whether `id` is the head or one of its ancestors.
    #[must_use]
    pub fn contains(&self, id: GenerationId) -> bool {
        self.age(id).is_some()
    }

    /// The newest generation that both chains have.
    #[must_use]
    pub fn newest_common(&self, other: &Self) -> Option<Generation> {
        self.generations().find(|generation| other.contains(generation.id))
    }

    /// Whether `id` is a generation of this chain that lies in `window` (design G5). A window whose ends are
    /// not both in this chain, or are the wrong way round, holds nothing.
    #[must_use]
    pub fn window_holds(&self, window: Window, id: GenerationId) -> bool {
        match (self.age(window.base), self.age(id), self.age(window.offered)) {
            (Some(base), Some(age), Some(offered)) => offered <= age && age <= base,
            (None, _, _) | (_, None, _) | (_, _, None) => false,
        }
    }

    /// Begins a new generation (design G1, G2). A resync that had not ended is given up (forced promotion).
    ///
    /// `keep` holds the windows of all peers. When the chain is full the oldest ancestor goes that lies in no
    /// window, or, if windows hold them all, the oldest that is not an end of one. At most 7 peers have at most
    /// 14 ends between them, so that always finds one.
    ///
    /// # Panics
    /// If the generation is already in the chain, or if `keep` has more ends than the chain has places.
    pub fn push(&mut self, new: Generation, keep: &[Window]) {
        assert!(!self.contains(new.id), "{new:?} begins twice");
        if let Some(old) = self.head.replace(new) {
            self.ancestors.insert(0, old);
        }
        self.toward = None;
        self.shorten(keep);
    }

    /// Begins, or goes on with, a resync into this copy from one whose head is `source` (design R1). To be made
    /// stable together with the flag Inconsistent, after the bits of all blocks to be compared.
    pub fn begin_resync(&mut self, source: GenerationId) {
        self.toward = Some(source);
    }

    /// Takes the source's history at the end of a resync (design R6). Where it goes on from our own head our
    /// own ancestors stay below it, as our windows need them; else (fresh, discarded, unrelated) ours is gone.
    ///
    /// # Panics
    /// If the source has no head: such a node can never be a source.
    pub fn adopt(&mut self, source: &Self, keep: &[Window]) {
        assert!(source.head.is_some(), "a source without a generation");
        let own_head = self.head.map(|head| head.id);
        let mut own_ancestors = std::mem::take(&mut self.ancestors);
        let position = |id| source.generations().position(|generation| generation.id == id);
        self.ancestors = match own_head.and_then(position) {
            Some(age) => {
                let newer = source.ancestors.get(..age).unwrap_or_default();
                own_ancestors.retain(|own| Some(own.id) != source.head.map(|head| head.id));
                own_ancestors.retain(|own| newer.iter().all(|generation| generation.id != own.id));
                newer.iter().copied().chain(own_ancestors).collect()
            }
            None => source.ancestors.clone(),
        };
        self.head = source.head;
        self.toward = None;
        while self.ancestors.len() > HISTORY_CAPACITY {
            self.shorten(keep);
        }
    }

    /// How many generations after `id` began; 0 for the head.
    fn age(&self, id: GenerationId) -> Option<usize> {
        self.generations().position(|generation| generation.id == id)
    }

    /// Drops one ancestor if there are too many; see [`Self::push`] for which.
    fn shorten(&mut self, keep: &[Window]) {
        if self.ancestors.len() <= HISTORY_CAPACITY {
            return;
        }
        let in_a_window = |id| keep.iter().any(|window| self.window_holds(*window, id));
        let an_end = |id| keep.iter().any(|window| window.base == id || window.offered == id);
        let oldest_without =
            |needed: &dyn Fn(GenerationId) -> bool| self.ancestors.iter().rposition(|g| !needed(g.id));
        let place = oldest_without(&|id| in_a_window(id) || an_end(id))
            .or_else(|| oldest_without(&an_end))
            .expect("7 peers have at most 14 window ends");
        self.ancestors.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Term};

    fn generation(number: u64) -> Generation {
        let term = Term { number, node: NodeId(1) };
        Generation { id: GenerationId(u128::from(number)), term }
    }

    fn id(number: u128) -> GenerationId {
        GenerationId(number)
    }

    fn chain(numbers: impl IntoIterator<Item = u64>) -> History {
        let mut history = History::empty();
        for number in numbers {
            history.push(generation(number), &[]);
        }
        history
    }

    #[test]
    fn newest_comes_first_and_the_oldest_goes() {
        let history = chain(1..=100);
        assert_eq!(history.head(), Some(generation(100)));
        assert_eq!(history.ancestors().len(), HISTORY_CAPACITY);
        assert_eq!(history.ancestors()[0], generation(99));
        assert!(history.contains(id(36)) && !history.contains(id(35)));
    }

    #[test]
    fn a_window_outlives_any_number_of_generations() {
        let window = Window { base: id(2), offered: id(4) };
        let mut history = chain(1..=5);
        for number in 6..=500 {
            history.push(generation(number), &[window]);
        }
        let inside: Vec<bool> = (1..=5).map(|n| history.window_holds(window, id(n))).collect();
        assert_eq!(inside, [false, true, true, true, false]);
    }

    #[test]
    fn windows_that_hold_the_whole_chain_lose_their_middle_only() {
        let window = Window { base: id(1), offered: id(65) };
        let mut history = chain(1..=65);
        for number in 66..=70 {
            history.push(generation(number), &[window]);
        }
        assert!(history.window_holds(window, id(1)) && history.window_holds(window, id(65)));
        assert_eq!(history.ancestors().len(), HISTORY_CAPACITY);
        let kept = |number: &u128| history.window_holds(window, id(*number));
        assert_eq!((1..=65).filter(kept).count(), HISTORY_CAPACITY, "66 to 69 lie in no window");
        assert!(!history.contains(id(2)), "the oldest that is not an end went");
    }

    #[test]
    fn the_end_of_a_resync_that_went_forward_keeps_our_ancestors() {
        let mut own = chain([1, 2, 3]);
        own.begin_resync(id(5));
        assert_eq!(own.key(), Some(id(5)));
        assert_eq!(own.head(), Some(generation(3)));
        let source =
            History::from_parts(Some(generation(5)), vec![generation(4), generation(3)], None).unwrap();
        own.adopt(&source, &[]);
        assert_eq!(own, chain([1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_discarded_branch_is_gone_after_the_resync() {
        let mut own = chain([1, 2, 3]);
        own.adopt(&chain([1, 7, 8]), &[]);
        assert_eq!(own, chain([1, 7, 8]));
        assert_eq!(own.newest_common(&chain([1, 7, 9])), Some(generation(7)));
    }

    #[test]
    fn the_same_head_changes_nothing_but_ends_the_resync() {
        let mut own = chain([1, 2, 3]);
        own.begin_resync(id(3));
        own.adopt(&chain([2, 3]), &[]);
        assert_eq!(own, chain([1, 2, 3]));
    }

    #[test]
    fn a_window_of_another_branch_holds_nothing() {
        let history = chain([1, 2, 3]);
        for (base, offered) in [(9, 2), (1, 9), (3, 1)] {
            let window = Window { base: id(base), offered: id(offered) };
            assert!((1..=3).all(|n| !history.window_holds(window, id(n))), "{window:?}");
        }
    }

    #[test]
    fn malformed_parts_are_refused() {
        let twice = History::from_parts(Some(generation(1)), vec![generation(2), generation(1)], None);
        assert_eq!(twice, Err(HistoryError::Twice(id(1))));
        assert_eq!(History::from_parts(None, vec![generation(1)], None), Err(HistoryError::Headless));
        let long = (2..=70).map(generation).collect();
        assert_eq!(History::from_parts(Some(generation(1)), long, None), Err(HistoryError::TooLong(69)));
    }
}
