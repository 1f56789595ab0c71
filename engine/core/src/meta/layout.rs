//! Where everything lies in a metadata file.
//!
//! ```text
//! 0          64 KiB     128 KiB                                                        end
//! │ copy A   │ copy B   │ log pages, copy A │ log pages, copy B │ bitmap │ bitmap │ …   │
//! ```
//! The superblocks lie at fixed places, so that they can be read before anything is known; each has 64 KiB for
//! itself, which keeps one slip of a partitioning tool or one bad erase block from taking both. Everything after
//! them is found through the superblock, so regions can be added at the end and moved there.
//!
//! Invariant: regions are whole pages, after the superblocks, before the end, and do not overlap.

use std::ops::Range;

use bytes::Bytes;

use super::{
    geometry::{Geometry, GeometryError},
    header::CopyId,
};
use crate::ids::{MAX_PEERS, PeerIndex};

/// The unit of everything after the superblocks.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of one copy of the superblock.
pub const SUPERBLOCK_BYTES: usize = 8192;
/// Where copy B of the superblock begins, and the room kept for each copy.
pub const SUPERBLOCK_STRIDE: u64 = 64 << 10;
/// Where the first region begins.
pub const REGIONS_START: u64 = 2 * SUPERBLOCK_STRIDE;
/// No metadata file is longer than this: 4 TiB (a dirty bitmap of the largest volume takes 33 GiB).
pub const MAX_METADATA_BYTES: u64 = 4 << 40;

const PAGE: u64 = PAGE_BYTES as u64;

/// A position in a metadata file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MetaOffset(pub u64);

/// One write to a metadata file. Its effect is known only after a completed flush (design D3).
#[derive(Clone, PartialEq, Eq)]
pub struct MetaWrite {
    /// Where.
    pub offset: MetaOffset,
    /// What: one page, or one copy of the superblock.
    pub bytes: Bytes,
}

impl std::fmt::Debug for MetaWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetaWrite({} bytes at {})", self.bytes.len(), self.offset.0)
    }
}

/// A layout that was read does not make sense, or one that was asked for is not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// See [`GeometryError`].
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A region that is not whole pages, lies over the superblocks, or passes the end.
    #[error("a region lies outside the metadata file or off its pages")]
    Region,
    /// Two regions share bytes.
    #[error("two regions overlap")]
    Overlap,
    /// Not as many pages as the volume needs.
    #[error("a region has another size than the volume needs")]
    RegionSize,
    /// A volume only grows.
    #[error("a volume of {from} bytes cannot be resized to {to} bytes: a volume only grows")]
    Shrunk {
        /// Its size.
        from: u64,
        /// The size that was asked for.
        to: u64,
    },
    /// Longer than [`MAX_METADATA_BYTES`].
    #[error("the metadata would need more than {MAX_METADATA_BYTES} bytes")]
    TooLong,
}

/// Pages one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first byte.
    pub start: u64,
    /// How many pages.
    pub pages: u64,
}

impl Region {
    /// The bytes of the region.
    #[must_use]
    pub fn bytes(self) -> Range<u64> {
        self.start..self.end()
    }

    fn end(self) -> u64 {
        self.start + self.pages * PAGE
    }

    /// Where a page of the region lies.
    ///
    /// # Panics
    /// If the region has no such page.
    #[must_use]
    pub fn page_at(self, page: u32) -> MetaOffset {
        assert!(u64::from(page) < self.pages, "page {page} of {}", self.pages);
        MetaOffset(self.start + u64::from(page) * PAGE)
    }
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    geometry: Geometry,
    log: Region,
    bitmaps: [Option<Region>; MAX_PEERS],
    end: u64,
}

impl Layout {
    /// The layout of a new metadata file with one dirty bitmap for each of `peers`.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`]: the limit is not reached by any volume that a [`Geometry`] can describe.
    pub fn new(geometry: Geometry, peers: impl IntoIterator<Item = PeerIndex>) -> Result<Self, LayoutError> {
        let log = Region { start: REGIONS_START, pages: 2 * u64::from(geometry.log_pages()) };
        let mut layout = Self { geometry, log, bitmaps: [None; MAX_PEERS], end: log.end() };
        for peer in peers {
            layout = layout.with_peer(peer)?;
        }
        Ok(layout)
    }

    /// This layout with a dirty bitmap for one peer more, at the end (design D5). The new region must be written
    /// ([`DirtyBitmap::format`](super::dirty_bitmap::DirtyBitmap::format)) and flushed before a superblock names it.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`].
    pub fn with_peer(&self, peer: PeerIndex) -> Result<Self, LayoutError> {
        let mut layout = self.clone();
        if layout.bitmaps[peer.as_usize()].is_none() {
            let region = Region { start: self.end, pages: u64::from(self.geometry.bitmap_pages()) };
            layout.bitmaps[peer.as_usize()] = Some(region);
            layout.end = region.end();
        }
        if layout.end > MAX_METADATA_BYTES { Err(LayoutError::TooLong) } else { Ok(layout) }
    }

    /// The layout of the same volume once it has grown: every bitmap in a new place, clear of all regions of now, so
    /// that both layouts are whole until a superblock names the new one. Places that an earlier growth has left are used
    /// again.
    ///
    /// # Errors
    /// [`LayoutError::Shrunk`], [`LayoutError::TooLong`], or [`LayoutError::Geometry`] for a size that is not possible.
    pub fn grown_to(&self, size_bytes: u64) -> Result<Self, LayoutError> {
        let from = self.geometry.size_bytes();
        if size_bytes <= from {
            return Err(LayoutError::Shrunk { from, to: size_bytes });
        }
        let geometry = self.geometry.with_size(size_bytes)?;
        let mut taken: Vec<Region> =
            std::iter::once(self.log).chain(self.bitmaps.into_iter().flatten()).collect();
        let mut bitmaps = self.bitmaps;
        for bitmap in bitmaps.iter_mut().flatten() {
            taken.sort_unstable_by_key(|region| region.start);
            let pages = u64::from(geometry.bitmap_pages());
            let mut start = REGIONS_START;
            for region in &taken {
                if start + pages * PAGE <= region.start {
                    break;
                }
                start = region.end();
            }
            *bitmap = Region { start, pages };
            taken.push(*bitmap);
        }
        let end = bitmaps.iter().flatten().map(|region| region.end()).fold(self.log.end(), u64::max);
        if end > MAX_METADATA_BYTES {
            return Err(LayoutError::TooLong);
        }
        Ok(Self { geometry, log: self.log, bitmaps, end })
    }

    /// A layout as it was read from a superblock, checked in every part.
    ///
    /// # Errors
    /// [`LayoutError`] says what is wrong.
    pub fn from_parts(
        geometry: Geometry,
        log: Region,
        bitmaps: [Option<Region>; MAX_PEERS],
        end: u64,
    ) -> Result<Self, LayoutError> {
        if end > MAX_METADATA_BYTES {
            return Err(LayoutError::TooLong);
        }
        let mut spans = Vec::with_capacity(1 + MAX_PEERS);
        for (region, pages) in std::iter::once((log, 2 * u64::from(geometry.log_pages())))
            .chain(bitmaps.into_iter().flatten().map(|region| (region, u64::from(geometry.bitmap_pages()))))
        {
            if region.pages != pages {
                return Err(LayoutError::RegionSize);
            }
            let fits = region.start >= REGIONS_START
                && region.start.is_multiple_of(PAGE)
                && region.start <= end
                && region.pages <= (end - region.start) / PAGE;
            if !fits {
                return Err(LayoutError::Region);
            }
            spans.push(region.bytes());
        }
        spans.sort_unstable_by_key(|span| span.start);
        if spans.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(LayoutError::Overlap);
        }
        Ok(Self { geometry, log, bitmaps, end })
    }

    /// How the volume is divided.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes that the metadata file has at least.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The activity log: all pages of copy A, then all pages of copy B.
    #[must_use]
    pub fn log(&self) -> Region {
        self.log
    }

    /// The dirty bitmap of a peer, if it has one.
    #[must_use]
    pub fn bitmap(&self, peer: PeerIndex) -> Option<Region> {
        self.bitmaps[peer.as_usize()]
    }

    /// Where a copy of the superblock lies, in every layout.
    #[must_use]
    pub fn superblock_at(copy: CopyId) -> MetaOffset {
        MetaOffset(u64::from(copy.as_u8()) * SUPERBLOCK_STRIDE)
    }

    /// Where a copy of a page of the activity log lies.
    #[must_use]
    pub fn log_page_at(&self, page: u32, copy: CopyId) -> MetaOffset {
        let pages = self.geometry.log_pages();
        assert!(page < pages, "page {page} of {pages}");
        self.log.page_at(page + u32::from(copy.as_u8()) * pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(index: usize) -> PeerIndex {
        PeerIndex::new(index).unwrap()
    }

    fn geometry() -> Geometry {
        Geometry::new(1 << 40, 4096, 4 << 20, 65_536).unwrap()
    }

    /// The parts of a layout, to be spoilt one by one.
    fn parts(layout: &Layout) -> (Geometry, Region, [Option<Region>; MAX_PEERS], u64) {
        (layout.geometry, layout.log, layout.bitmaps, layout.end)
    }

    #[test]
    fn regions_of_one_tebibyte() {
        let layout = Layout::new(geometry(), [peer(0)]).unwrap();
        assert_eq!(Layout::superblock_at(CopyId::B), MetaOffset(65_536));
        assert_eq!(layout.log(), Region { start: 131_072, pages: 132 });
        assert_eq!(layout.log_page_at(0, CopyId::B), MetaOffset(131_072 + 66 * 4096));
        assert_eq!(layout.bitmap(peer(0)), Some(Region { start: 671_744, pages: 8457 }));
        assert_eq!(layout.bitmap(peer(1)), None);
        assert_eq!(layout.end(), 671_744 + 8457 * 4096);
    }

    #[test]
    fn d5_a_peer_is_added_at_the_end() {
        let one = Layout::new(geometry(), [peer(0)]).unwrap();
        let two = one.with_peer(peer(3)).unwrap();
        assert_eq!(two.bitmap(peer(0)), one.bitmap(peer(0)));
        assert_eq!(two.bitmap(peer(3)).unwrap().start, one.end());
        assert_eq!(two.with_peer(peer(3)).unwrap(), two);
        let (geometry, log, bitmaps, end) = parts(&two);
        assert_eq!(Layout::from_parts(geometry, log, bitmaps, end), Ok(two));
    }

    #[test]
    fn a_grown_layout_overlaps_nothing_of_the_old_one_and_old_places_are_used_again() {
        let mut layout = Layout::new(geometry(), [peer(0), peer(1)]).unwrap();
        let mut ends = Vec::new();
        for gibibytes in 1025..1055 {
            let grown = layout.grown_to(gibibytes << 30).unwrap();
            let (geometry, log, bitmaps, end) = parts(&grown);
            assert_eq!(Layout::from_parts(geometry, log, bitmaps, end), Ok(grown.clone()));
            assert_eq!((grown.log(), grown.geometry().size_bytes()), (layout.log(), gibibytes << 30));
            for new in grown.bitmaps.into_iter().flatten() {
                for old in layout.bitmaps.into_iter().flatten() {
                    assert!(new.bytes().end <= old.bytes().start || old.bytes().end <= new.bytes().start);
                }
            }
            ends.push(end);
            layout = grown;
        }
        let bitmaps = 2 * u64::from(layout.geometry().bitmap_pages()) * PAGE;
        assert!(ends.iter().all(|end| *end <= layout.log().end() + 3 * bitmaps), "{ends:?}");
        let same = layout.geometry().size_bytes();
        assert!(matches!(layout.grown_to(same), Err(LayoutError::Shrunk { .. })));
    }

    #[test]
    fn d3_layouts_that_make_no_sense_are_refused() {
        let layout = Layout::new(geometry(), [peer(0), peer(1)]).unwrap();
        let (geometry, log, bitmaps, end) = parts(&layout);
        let with_start = |start| {
            let mut spoilt = bitmaps;
            spoilt[0].as_mut().unwrap().start = start;
            Layout::from_parts(geometry, log, spoilt, end)
        };
        for start in
            [0, 4096, REGIONS_START - 4096, log.start + 1, end, end - 4096, u64::MAX, u64::MAX - 4095]
        {
            assert_eq!(with_start(start), Err(LayoutError::Region), "{start}");
        }
        assert_eq!(with_start(log.start), Err(LayoutError::Overlap));
        assert_eq!(with_start(bitmaps[1].unwrap().start), Err(LayoutError::Overlap));
        let mut spoilt = bitmaps;
        spoilt[1].as_mut().unwrap().pages = u64::MAX;
        assert_eq!(Layout::from_parts(geometry, log, spoilt, end), Err(LayoutError::RegionSize));
        assert_eq!(Layout::from_parts(geometry, log, bitmaps, u64::MAX), Err(LayoutError::TooLong));
        assert_eq!(Layout::from_parts(geometry, log, bitmaps, end - 1), Err(LayoutError::Region));
    }
}
