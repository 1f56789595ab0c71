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

use super::{DirtyBitmap, Region, capacity};
use crate::meta::{dirty_bitmap::bits::Bits, geometry::Geometry, layout::MetaWrite};

impl DirtyBitmap {
    /// A page as it is to be in the region of the grown volume; pages behind the end of the volume of now are clean.
    ///
    /// # Panics
    /// If a flush is under way, or the region has no such page.
    pub fn move_page(&mut self, region: Region, index: u32) -> MetaWrite {
        assert!(self.in_flight.is_empty(), "a bitmap that moves is not flushed");
        self.write_page(region, index)
    }

    /// The new region is whole and flushed, and the superblock that is written next names it. The new blocks are clean.
    ///
    /// # Panics
    /// If a flush is under way, or the region does not fit the grown volume.
    pub fn moved(&mut self, geometry: Geometry, region: Region) {
        assert!(self.in_flight.is_empty(), "a bitmap that moves is not flushed");
        assert_eq!(region.pages, u64::from(geometry.bitmap_pages()), "the region fits the volume");
        if let Some(last) = self.pages.len().checked_sub(1) {
            self.pages[last].extend(capacity(&self.geometry, last), capacity(&geometry, last));
        }
        self.pages.resize(geometry.bitmap_pages() as usize, Bits::default());
        (self.geometry, self.region) = (geometry, region);
    }
}
