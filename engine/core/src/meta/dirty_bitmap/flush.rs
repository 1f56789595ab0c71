//! Which pages of a dirty bitmap must be written, and what they hold.

use super::{DirtyBitmap, Region, page};
use crate::{
    ids::{NodeId, PeerIndex},
    meta::layout::MetaWrite,
};
use std::ops::Range;

/// The sequence of pages that were never written since the region was made.
pub(super) const FORMATTED: u64 = 1;

/// What a flush is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// Only pages with newly set bits: what the activity log waits for (design D8).
    Sets,
    /// Also pages where bits were only cleared: at the end of a resync, now and then, at a clean shutdown.
    All,
}

impl DirtyBitmap {
    /// The writes that make the region of a new bitmap, clean. To be flushed before a superblock names it.
    pub fn format(region: Region, owner: NodeId, peer: PeerIndex) -> impl Iterator<Item = MetaWrite> {
        let pages = u32::try_from(region.pages).expect("1 PiB has fewer pages");
        (0..pages).map(move |index| MetaWrite {
            offset: region.page_at(index),
            bytes: page::encode(&[0; page::WORDS], peer, index, owner, FORMATTED),
        })
    }

    /// Begins to write at most `most` pages, longest waiting first. When they have been written and flushed,
    /// [`Self::flushed`] is called; if that fails the disk has failed. Nothing to write: an empty list, and no
    /// flush begins.
    ///
    /// # Panics
    /// If a flush is under way: see [`Self::is_flushing`].
    pub fn begin_flush(&mut self, scope: FlushScope, most: usize) -> Vec<MetaWrite> {
        assert!(self.in_flight.is_empty(), "one flush of a bitmap at a time");
        let mut writes = Vec::new();
        for _ in 0..self.queue.len() {
            if writes.len() == most {
                break;
            }
            let index = self.queue.pop_front().expect("the queue is not empty");
            let place = index as usize;
            let unflushed = &mut self.pages[place].unflushed;
            if scope == FlushScope::Sets && !unflushed.sets {
                self.queue.push_back(index);
                continue;
            }
            unflushed.queued = false;
            unflushed.sets_in_flight = unflushed.sets;
            unflushed.sets = false;
            unflushed.clears = false;
            self.in_flight.push(index);
            let words = self.pages[place].words(self.capacity(place));
            writes.push(self.write_page(self.region, index, &words));
        }
        writes
    }

    /// The pages of [`Self::begin_flush`] are on stable media. What changed in them since stays to be written.
    ///
    /// # Panics
    /// If no flush was begun.
    pub fn flushed(&mut self) {
        assert!(!self.in_flight.is_empty(), "a flush was begun");
        for index in self.in_flight.drain(..) {
            self.pages[index as usize].unflushed.sets_in_flight = false;
        }
    }

    /// Whether a flush waits for [`Self::flushed`].
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn needs_flush(&self, scope: FlushScope) -> bool {
        match scope {
            FlushScope::All => !self.queue.is_empty(),
            FlushScope::Sets => self.queue.iter().any(|index| self.pages[*index as usize].unflushed.sets),
        }
    }

    /// Whether every bit that is set for `bytes` is on stable media (design D8).
    ///
    /// # Panics
    /// If `bytes` is empty or not on the volume.
    #[must_use]
    pub fn is_flushed(&self, bytes: &Range<u64>) -> bool {
        super::by_page(self.geometry.blocks_touched(bytes)).all(|(page, _)| {
            let unflushed = self.pages[page].unflushed;
            !unflushed.sets && !unflushed.sets_in_flight
        })
    }

    /// A page with these bits, for its place in a region.
    pub(super) fn write_page(&mut self, region: Region, index: u32, words: &page::Words) -> MetaWrite {
        self.sequence = self.sequence.checked_add(1).expect("2^64 page writes cannot be reached");
        MetaWrite {
            offset: region.page_at(index),
            bytes: page::encode(words, self.peer, index, self.owner, self.sequence),
        }
    }

    /// Puts a page into the queue of those to be written, if it is not there.
    pub(super) fn enqueue(&mut self, page: usize) {
        let unflushed = &mut self.pages[page].unflushed;
        if !unflushed.queued {
            unflushed.queued = true;
            self.queue.push_back(u32::try_from(page).expect("1 PiB has fewer pages"));
        }
    }
}
