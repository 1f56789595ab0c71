//! The metadata of a volume that grows.
//!
//! ```text
//!   begin_growth ──> pages of every bitmap, in a new place, chunk by chunk ──> superblock ──> Then::Grown
//!                    (no bits are flushed meanwhile; the rest is committed beside them)
//! ```
//!
//! A crash before the superblock leaves the volume as it was: nothing that its superblock names was touched. The
//! superblock is an ordinary commit, and may bring other changes with it. Until it is stable the volume has its old size
//! for everybody.

use bytes::Bytes;

use super::{Store, Then, piece};
use crate::{
    ids::PeerIndex,
    meta::{
        dirty_bitmap::Move,
        layout::{Layout, LayoutError},
    },
};

/// Pages of a bitmap that one commit moves.
const PAGES_PER_COMMIT: u32 = 1024;

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    layout: Layout,
    /// The peers that may lack the new part.
    lacking: Vec<PeerIndex>,
    /// The bitmap whose pages come next, and the next of them; `None` when all are written.
    next: Option<(PeerIndex, u32)>,
}

impl Growth {
    fn of_bitmap(&self, peer: PeerIndex) -> Move {
        Move {
            geometry: *self.layout.geometry(),
            region: self.layout.bitmap(peer).expect("every peer has a bitmap"),
            lacks_new_part: self.lacking.contains(&peer),
        }
    }
}

impl Store {
    /// The layout of the metadata once the volume has grown.
    ///
    /// # Errors
    /// If it cannot have that size.
    pub(crate) fn layout_for(&self, size_bytes: u64) -> Result<Layout, LayoutError> {
        self.wanted.layout.grown_to(size_bytes)
    }

    /// Where the part of the metadata file ends that the volume uses now.
    pub(crate) fn layout_end(&self) -> u64 {
        self.wanted.layout.end()
    }

    /// The volume is to have this layout, and these peers may lack what is new.
    pub(crate) fn begin_growth(&mut self, layout: Layout, lacking: Vec<PeerIndex>) {
        assert!(self.growth.is_none(), "one growth at a time");
        let next = (!self.bitmaps.is_empty()).then_some((PeerIndex::FIRST, 0));
        self.growth = Some(Growth { layout, lacking, next });
    }

    /// The next pages of the growth under way, for the commit that begins. When all are stable the superblock of the
    /// next commit names them. An extent that leaves the activity log meanwhile has its bits on media already, where
    /// they were, and in memory, from where they are moved.
    pub(super) fn move_bitmaps(&mut self) -> Option<Vec<(u64, Bytes)>> {
        let growth = self.growth.as_mut()?;
        let Some((peer, first)) = growth.next else {
            let growth = self.growth.take().expect("just looked at");
            self.take_layout(growth);
            return None;
        };
        let to = growth.of_bitmap(peer);
        let pages = growth.layout.geometry().bitmap_pages();
        let end = pages.min(first.saturating_add(PAGES_PER_COMMIT));
        growth.next = if end < pages {
            Some((peer, end))
        } else {
            PeerIndex::new(peer.as_usize() + 1)
                .filter(|next| next.as_usize() < self.bitmaps.len())
                .map(|next| (next, 0))
        };
        let bitmap = &mut self.bitmaps[peer.as_usize()];
        Some((first..end).map(|page| piece(bitmap.move_page(&to, page))).collect())
    }

    fn take_layout(&mut self, growth: Growth) {
        for bitmap in &mut self.bitmaps {
            bitmap.moved(&growth.of_bitmap(bitmap.peer()));
        }
        let Growth { layout, .. } = growth;
        self.activity.grow(&layout);
        self.change().layout = layout;
        self.after_commit(Then::Grown);
    }
}
