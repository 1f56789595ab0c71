//! The dirty bitmap of a volume that grows: it moves to a new region, which has room for more blocks.
//!
//! ```text
//!   pages of the new region, written from memory    superblock that names it
//!   ──────────────────────────────── flushed ─────> ──────── flushed ───────> bits are flushed there
//! ```
//!
//! From the first page written until the superblock names the new region no flush of bits is begun, and what is set or
//! cleared meanwhile stays in the queue. So the old region is whole until then, with all that was ever flushed, and the
//! new one is whole when it is named.
//!
//! Whether the peer lacks the new part is said with the growth, and is on media with the size: a copy that was larger
//! once and was set back has nothing there of what its peers have.

use std::ops::Range;

use super::{BLOCKS_PER_PAGE, DirtyBitmap, Region, capacity, page};
use crate::{
    ids::Sequence,
    meta::{dirty_bitmap::bits::Bits, geometry::Geometry, layout::MetaWrite},
};

/// What a bitmap becomes.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// How the grown volume is divided.
    pub geometry: Geometry,
    /// Where the bitmap lies then.
    pub region: Region,
    /// Whether the peer may lack the new part.
    pub lacks_new_part: bool,
}

impl DirtyBitmap {
    /// A page as it is to be in the region of the grown volume.
    ///
    /// # Panics
    /// If a flush is under way, or the region has no such page.
    pub fn move_page(&mut self, to: &Move, index: u32) -> MetaWrite {
        assert!(self.in_flight.is_empty(), "a bitmap that moves is not flushed");
        let place = index as usize;
        let mut words =
            self.pages.get(place).map_or([0; page::WORDS], |page| page.words(self.capacity(place)));
        if let Some(bytes) = self.new_part(to) {
            let blocks = to.geometry.blocks_touched(&bytes);
            let base = u64::from(index) * BLOCKS_PER_PAGE;
            let bit = |block: u64| block.clamp(base, base + BLOCKS_PER_PAGE) - base;
            for (at, word) in words.iter_mut().enumerate() {
                *word |= page::mask(at, bit(blocks.start)..bit(blocks.end));
            }
        }
        self.write_page(to.region, index, &words)
    }

    /// The bytes that the peer may lack because the volume did not have them.
    fn new_part(&self, to: &Move) -> Option<Range<u64>> {
        to.lacks_new_part.then(|| self.geometry.size_bytes()..to.geometry.size_bytes())
    }

    /// The new region is whole and flushed, and the superblock that is written next names it.
    ///
    /// # Panics
    /// If a flush is under way, or the region does not fit the grown volume.
    pub fn moved(&mut self, to: &Move) {
        let Move { geometry, region, .. } = *to;
        let new_part = self.new_part(to);
        assert!(self.in_flight.is_empty(), "a bitmap that moves is not flushed");
        assert_eq!(region.pages, u64::from(geometry.bitmap_pages()), "the region fits the volume");
        if let Some(last) = self.pages.len().checked_sub(1) {
            self.pages[last].extend(capacity(&self.geometry, last), capacity(&geometry, last));
        }
        self.pages.resize(geometry.bitmap_pages() as usize, Bits::default());
        (self.geometry, self.region) = (geometry, region);
        if let Some(bytes) = new_part {
            // No proof is under way, and those of the next session are of what is read after this.
            self.set(&bytes, Sequence::ZERO);
        }
    }
}
