//! How a volume is divided: blocks for the dirty bitmap, extents for the activity log, pages for both.
//!
//! Invariant: a [`Geometry`] exists only with values in the stated limits, so nothing computed from it can wrap
//! and no table sized by it is larger than the limits allow.

use std::ops::Range;

use super::{activity_log::page::SLOTS_PER_PAGE, dirty_bitmap::page::BLOCKS_PER_PAGE};
use crate::ids::{BlockIndex, ExtentIndex};

/// The size of a volume is a multiple of this.
pub const SECTOR_BYTES: u64 = 512;
/// The largest volume: 1 PiB.
pub const MAX_VOLUME_BYTES: u64 = 1 << 50;
/// The smallest block of a dirty bitmap (design D10).
pub const MIN_BLOCK_BYTES: u32 = 4096;
/// The largest block of a dirty bitmap (design D10).
pub const MAX_BLOCK_BYTES: u32 = 1 << 20;
/// The smallest extent of an activity log.
pub const MIN_EXTENT_BYTES: u32 = 64 << 10;
/// The largest extent of an activity log.
pub const MAX_EXTENT_BYTES: u32 = 1 << 30;
/// The extent of an activity log unless configured otherwise (design D7).
pub const DEFAULT_EXTENT_BYTES: u32 = 4 << 20;
/// The fewest slots of an activity log.
pub const MIN_SLOTS: u32 = 16;
/// The most slots of an activity log.
pub const MAX_SLOTS: u32 = 1 << 20;
/// The slots of an activity log unless configured otherwise (design D7).
pub const DEFAULT_SLOTS: u32 = 65_536;
/// A piece of a request needs at most one in so many slots (design D9).
pub const PIECE_SHARE: u32 = 8;

/// A volume cannot be divided as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Zero, above the limit, or not whole sectors.
    #[error(
        "a volume of {0} bytes: it must have at least one sector, at most {MAX_VOLUME_BYTES} bytes, and be a multiple of {SECTOR_BYTES}"
    )]
    Size(u64),
    /// Not a power of two within the limits.
    #[error("block_size {0}: it must be a power of two from {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}")]
    Block(u32),
    /// Not a power of two within the limits, or smaller than a block.
    #[error(
        "al_extent {0}: it must be a power of two from {MIN_EXTENT_BYTES} to {MAX_EXTENT_BYTES}, and not below block_size"
    )]
    Extent(u32),
    /// Out of the limits.
    #[error("{0} slots in the activity log: from {MIN_SLOTS} to {MAX_SLOTS} are possible")]
    Slots(u32),
    /// More extents than their index can name.
    #[error("a volume of {0} bytes has too many extents: take a larger al_extent")]
    TooManyExtents(u64),
}

/// The extents `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extents {
    /// The first one.
    pub first: ExtentIndex,
    /// The last one; not below the first.
    pub last: ExtentIndex,
}

impl Extents {
    /// Every one of them, in order.
    pub fn iter(self) -> impl Iterator<Item = ExtentIndex> {
        (self.first.0..=self.last.0).map(ExtentIndex)
    }

    /// How many they are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.last.0 - self.first.0 + 1
    }

    /// Whether `extent` is one of them.
    #[must_use]
    pub fn contain(self, extent: ExtentIndex) -> bool {
        self.first <= extent && extent <= self.last
    }
}

/// See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    size_bytes: u64,
    block_bytes: u32,
    extent_bytes: u32,
    slots: u32,
}

impl Geometry {
    /// Checks the values.
    ///
    /// # Errors
    /// [`GeometryError`] names the value that is out of its limits.
    pub fn new(
        size_bytes: u64,
        block_bytes: u32,
        extent_bytes: u32,
        slots: u32,
    ) -> Result<Self, GeometryError> {
        if size_bytes == 0 || size_bytes > MAX_VOLUME_BYTES || !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(GeometryError::Size(size_bytes));
        }
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
            return Err(GeometryError::Block(block_bytes));
        }
        if !extent_bytes.is_power_of_two()
            || !(MIN_EXTENT_BYTES..=MAX_EXTENT_BYTES).contains(&extent_bytes)
            || extent_bytes < block_bytes
        {
            return Err(GeometryError::Extent(extent_bytes));
        }
        if !(MIN_SLOTS..=MAX_SLOTS).contains(&slots) {
            return Err(GeometryError::Slots(slots));
        }
        if size_bytes.div_ceil(u64::from(extent_bytes)) > u64::from(u32::MAX - 1) {
            return Err(GeometryError::TooManyExtents(size_bytes));
        }
        Ok(Self { size_bytes, block_bytes, extent_bytes, slots })
    }

    /// The same division of a volume of another size.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_size(&self, size_bytes: u64) -> Result<Self, GeometryError> {
        Self::new(size_bytes, self.block_bytes, self.extent_bytes, self.slots)
    }

    /// Bytes of the volume.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes of a block of the dirty bitmap.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Bytes of an extent of the activity log.
    #[must_use]
    pub fn extent_bytes(&self) -> u32 {
        self.extent_bytes
    }

    /// Slots of the activity log.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Blocks of the volume; the last one may be shorter.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(u64::from(self.block_bytes))
    }

    /// Extents of the volume; the last one may be shorter.
    #[must_use]
    pub fn extents(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(u64::from(self.extent_bytes))).expect("checked in new")
    }

    /// Pages of one dirty bitmap.
    #[must_use]
    pub fn bitmap_pages(&self) -> u32 {
        u32::try_from(self.blocks().div_ceil(BLOCKS_PER_PAGE)).expect("1 PiB has fewer than 2^24 pages")
    }

    /// Pages of one copy of the activity log.
    #[must_use]
    pub fn log_pages(&self) -> u32 {
        self.slots.div_ceil(SLOTS_PER_PAGE)
    }

    /// The extents that `bytes` touch.
    ///
    /// # Panics
    /// If `bytes` is empty or not on the volume; requests are checked where they enter.
    #[must_use]
    pub fn extents_of(&self, bytes: &Range<u64>) -> Extents {
        self.assert_on_volume(bytes);
        let extent = |byte: u64| {
            ExtentIndex(u32::try_from(byte / u64::from(self.extent_bytes)).expect("checked in new"))
        };
        Extents { first: extent(bytes.start), last: extent(bytes.end - 1) }
    }

    /// The bytes of an extent, up to the end of the volume.
    #[must_use]
    pub fn extent_range(&self, extent: ExtentIndex) -> Range<u64> {
        assert!(extent.0 < self.extents(), "{extent:?} is not on the volume");
        let start = u64::from(extent.0) * u64::from(self.extent_bytes);
        start..(start + u64::from(self.extent_bytes)).min(self.size_bytes)
    }

    /// Every block that `bytes` touch: the range rounded outward, for setting (design D11).
    ///
    /// # Panics
    /// As [`Self::extents_of`].
    #[must_use]
    pub fn blocks_touched(&self, bytes: &Range<u64>) -> Range<u64> {
        self.assert_on_volume(bytes);
        let block = u64::from(self.block_bytes);
        bytes.start / block..bytes.end.div_ceil(block)
    }

    /// Every block that `bytes` cover whole: the range rounded inward, for clearing (design D11). The last block
    /// of the volume is whole when it is covered up to the end of the volume.
    ///
    /// # Panics
    /// As [`Self::extents_of`].
    #[must_use]
    pub fn blocks_covered(&self, bytes: &Range<u64>) -> Range<u64> {
        self.assert_on_volume(bytes);
        let block = u64::from(self.block_bytes);
        let first = bytes.start.div_ceil(block);
        let end = if bytes.end == self.size_bytes { self.blocks() } else { bytes.end / block };
        first..end.max(first)
    }

    /// The bytes of a range of blocks, up to the end of the volume.
    #[must_use]
    pub fn block_range(&self, blocks: Range<BlockIndex>) -> Range<u64> {
        assert!(blocks.start < blocks.end && blocks.end.0 <= self.blocks(), "{blocks:?} not on the volume");
        let block = u64::from(self.block_bytes);
        blocks.start.0 * block..(blocks.end.0 * block).min(self.size_bytes)
    }

    /// The most extents that a piece of a request may touch (design D9).
    #[must_use]
    pub fn extents_per_piece(&self) -> u32 {
        self.slots / PIECE_SHARE
    }

    fn assert_on_volume(&self, bytes: &Range<u64>) {
        assert!(
            bytes.start < bytes.end && bytes.end <= self.size_bytes,
            "bytes {bytes:?} on a volume of {} bytes",
            self.size_bytes
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn limits_are_kept() {
        let new = Geometry::new;
        assert_eq!(new(0, 4096, 4 << 20, 16), Err(GeometryError::Size(0)));
        assert_eq!(new(513, 4096, 4 << 20, 16), Err(GeometryError::Size(513)));
        assert!(matches!(new(MAX_VOLUME_BYTES + 512, 4096, 4 << 20, 16), Err(GeometryError::Size(_))));
        for block in [0, 512, 4097, 2 << 20] {
            assert_eq!(new(MIB, block, 4 << 20, 16), Err(GeometryError::Block(block)));
        }
        for extent in [0, 4096, 3 << 20, 1 << 31] {
            assert_eq!(new(MIB, 4096, extent, 16), Err(GeometryError::Extent(extent)));
        }
        assert_eq!(new(MIB, 1 << 20, 1 << 19, 16), Err(GeometryError::Extent(1 << 19)));
        assert_eq!(new(MIB, 4096, 4 << 20, 15), Err(GeometryError::Slots(15)));
        assert_eq!(new(MIB, 4096, 4 << 20, MAX_SLOTS + 1), Err(GeometryError::Slots(MAX_SLOTS + 1)));
        assert_eq!(new(1 << 50, 4096, 1 << 16, 16), Err(GeometryError::TooManyExtents(1 << 50)));
    }

    #[test]
    fn the_largest_volume_has_tables_of_a_known_size() {
        let geometry = Geometry::new(MAX_VOLUME_BYTES, 4096, 4 << 20, DEFAULT_SLOTS).unwrap();
        assert_eq!(geometry.extents(), 1 << 28);
        assert_eq!(geometry.bitmap_pages(), 8_659_209);
        assert_eq!(geometry.log_pages(), 66);
    }

    #[test]
    fn d11_the_last_short_block_is_covered_by_the_end_of_the_volume() {
        let geometry = Geometry::new(3 * 4096 + 512, 4096, 1 << 16, 16).unwrap();
        assert_eq!(geometry.blocks(), 4);
        assert_eq!(geometry.blocks_covered(&(8192..3 * 4096 + 512)), 2..4);
        assert_eq!(geometry.blocks_covered(&(8193..3 * 4096)), 3..3);
        assert_eq!(geometry.blocks_touched(&(8193..8194)), 2..3);
        assert_eq!(geometry.block_range(BlockIndex(2)..BlockIndex(4)), 8192..3 * 4096 + 512);
    }

    proptest! {
        /// D11: outward for setting, inward for clearing, from the definition.
        #[test]
        fn d11_rounding(start in 0u64..100_000, len in 1u64..100_000, tail in 0u64..8) {
            let size = 200_000u64.next_multiple_of(512) + tail * 512;
            let geometry = Geometry::new(size, 4096, 1 << 16, 16).unwrap();
            let bytes = start..start + len;
            let (touched, covered) = (geometry.blocks_touched(&bytes), geometry.blocks_covered(&bytes));
            for block in 0..geometry.blocks() {
                let own = geometry.block_range(BlockIndex(block)..BlockIndex(block + 1));
                let overlaps = own.start < bytes.end && bytes.start < own.end;
                let inside = bytes.start <= own.start && own.end <= bytes.end;
                prop_assert_eq!(touched.contains(&block), overlaps);
                prop_assert_eq!(covered.contains(&block), inside);
            }
        }
    }
}
