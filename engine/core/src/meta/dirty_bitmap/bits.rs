//! The bits of one page in memory. A page that is clean or wholly dirty takes no memory beyond this record.
//!
//! Invariant: `words` is there exactly while some, but not all, bits are set; `dirty` is their number.

use std::ops::Range;

use super::page::{WORDS, Words, mask};
use crate::ids::Sequence;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    words: Option<Box<Words>>,
    /// The highest sequence that has set a bit here in this term (design D11).
    pub(super) last_set: Sequence,
    dirty: u16,
    /// What the page on disk lacks.
    pub(super) unflushed: Unflushed,
}

const _: () = assert!(size_of::<Bits>() == 24);

/// What the page on disk does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unflushed {
    /// Bits were set since the page was last handed out for writing.
    pub(super) sets: bool,
    /// Bits were cleared since then. Harmless if lost.
    pub(super) clears: bool,
    /// Handed out with newly set bits, and not flushed yet.
    pub(super) sets_in_flight: bool,
    /// In the queue of pages to be written.
    pub(super) queued: bool,
}

impl Bits {
    /// How many bits are set.
    pub(super) fn dirty(&self) -> u64 {
        u64::from(self.dirty)
    }

    /// Sets `bits` of a page that has `capacity` of them; returns how many were clear.
    pub(super) fn set(&mut self, bits: Range<u64>, capacity: u64) -> u64 {
        let before = self.dirty();
        if before == capacity {
            return 0;
        }
        if bits == (0..capacity) {
            self.replace(None, capacity);
            return capacity - before;
        }
        let words = self.words.get_or_insert_with(|| Box::new([0; WORDS]));
        let mut new = 0;
        for at in touched(&bits) {
            let mask = mask(at, bits.clone());
            new += u64::from((mask & !words[at]).count_ones());
            words[at] |= mask;
        }
        self.count(before + new, capacity);
        new
    }

    /// Clears `bits` of a page that has `capacity` of them; returns how many were set.
    pub(super) fn clear(&mut self, bits: Range<u64>, capacity: u64) -> u64 {
        let before = self.dirty();
        if before == 0 {
            return 0;
        }
        if bits == (0..capacity) {
            self.replace(None, 0);
            return before;
        }
        let words = self.words.get_or_insert_with(|| Box::new(full(capacity)));
        let mut gone = 0;
        for at in touched(&bits) {
            let mask = mask(at, bits.clone());
            gone += u64::from((mask & words[at]).count_ones());
            words[at] &= !mask;
        }
        self.count(before - gone, capacity);
        gone
    }

    /// Whether the page takes memory beyond this record.
    #[cfg(test)]
    pub(super) fn has_words(&self) -> bool {
        self.words.is_some()
    }

    /// How many of `bits` are set.
    pub(super) fn dirty_in(&self, bits: Range<u64>) -> u64 {
        match &self.words {
            Some(words) => {
                touched(&bits).map(|at| u64::from((words[at] & mask(at, bits.clone())).count_ones())).sum()
            }
            None if self.dirty == 0 => 0,
            None => bits.end - bits.start,
        }
    }

    /// The first set bit of `bits`.
    pub(super) fn first_set(&self, bits: Range<u64>) -> Option<u64> {
        self.first(bits, |word| word, self.dirty > 0)
    }

    /// The first clear bit of `bits`.
    pub(super) fn first_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.first(bits, |word| !word, self.dirty == 0)
    }

    /// The page has `to` bits from now on, not `from`; the new ones are clear.
    pub(super) fn extend(&mut self, from: u64, to: u64) {
        if from < to && self.words.is_none() && self.dirty > 0 {
            self.words = Some(Box::new(full(from)));
        }
    }

    /// All words, as they are stored.
    pub(super) fn words(&self, capacity: u64) -> Words {
        match &self.words {
            Some(words) => **words,
            None if self.dirty == 0 => [0; WORDS],
            None => full(capacity),
        }
    }

    /// Takes what was stored; bits beyond `capacity` are clear.
    pub(super) fn load(words: &Words, capacity: u64) -> Self {
        let dirty = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let mut bits = Self { words: Some(Box::new(*words)), ..Self::default() };
        bits.count(dirty, capacity);
        bits
    }

    /// The first bit of `bits` that is set in what `of` makes of its word; `uniform` is the answer for every bit
    /// of a page without words.
    fn first(&self, bits: Range<u64>, of: impl Fn(u64) -> u64, uniform: bool) -> Option<u64> {
        if bits.is_empty() {
            return None;
        }
        let Some(words) = &self.words else {
            return uniform.then_some(bits.start);
        };
        touched(&bits).find_map(|at| {
            let found = of(words[at]) & mask(at, bits.clone());
            (found != 0).then(|| at as u64 * 64 + u64::from(found.trailing_zeros()))
        })
    }

    /// Keeps the number of set bits, and gives the words back when it says everything.
    fn count(&mut self, dirty: u64, capacity: u64) {
        if dirty == 0 || dirty == capacity {
            self.words = None;
        }
        self.dirty = u16::try_from(dirty).expect("at most BLOCKS_PER_PAGE");
    }

    fn replace(&mut self, words: Option<Box<Words>>, dirty: u64) {
        self.words = words;
        self.dirty = u16::try_from(dirty).expect("at most BLOCKS_PER_PAGE");
    }
}

/// The words that hold `bits`, which are not empty.
fn touched(bits: &Range<u64>) -> Range<usize> {
    let word = |bit: u64| usize::try_from(bit / 64).expect("at most WORDS");
    word(bits.start)..word(bits.end + 63)
}

fn full(capacity: u64) -> Words {
    std::array::from_fn(|at| mask(at, 0..capacity))
}
