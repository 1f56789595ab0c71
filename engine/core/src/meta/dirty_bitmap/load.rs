//! Opening a dirty bitmap: page by page, as a clean TiB has 33 MiB of them.

use super::{DirtyBitmap, bits::Bits, capacity, page};
use crate::{
    ids::{NodeId, PeerIndex, Sequence},
    meta::{geometry::Geometry, header::Fault, layout::Region},
};

/// At most so many damaged pages are named; all are counted.
const NAMED: usize = 16;

/// What was found when a bitmap was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadReport {
    /// Pages that an interrupted write left. All their blocks are dirty now.
    pub torn_pages: u64,
    /// Pages that no interrupted write explains. All their blocks are dirty now.
    pub damaged_pages: u64,
    /// The first of both.
    pub first: Vec<(u32, Fault)>,
}

impl LoadReport {
    /// Pages of which every block is taken as dirty.
    #[must_use]
    pub fn bad_pages(&self) -> u64 {
        self.torn_pages + self.damaged_pages
    }
}

/// Takes the pages of a bitmap in order. What is not given, or cannot be used, is wholly dirty.
#[derive(Debug)]
pub struct Loader {
    bitmap: DirtyBitmap,
    next: u32,
    report: LoadReport,
}

impl Loader {
    /// Before the first page.
    #[must_use]
    pub fn new(geometry: Geometry, region: Region, owner: NodeId, peer: PeerIndex) -> Self {
        let bitmap = DirtyBitmap::clean(geometry, region, owner, peer);
        Self { bitmap, next: 0, report: LoadReport::default() }
    }

    /// The next page as it was read; `None` if the disk did not return it. Pages beyond the last are ignored.
    pub fn page(&mut self, bytes: Option<&[u8]>) {
        let place = self.next as usize;
        if place >= self.bitmap.pages.len() {
            return;
        }
        let bitmap = &mut self.bitmap;
        let blocks = capacity(&bitmap.geometry, place);
        let read = match bytes {
            Some(bytes) => page::decode(bytes, blocks, bitmap.peer, self.next, bitmap.owner),
            None => Err(Fault::Unreadable),
        };
        match read {
            Ok((words, sequence)) => {
                bitmap.sequence = bitmap.sequence.max(sequence);
                if words != [0; page::WORDS] {
                    bitmap.pages[place] = Bits::load(&words, blocks);
                    bitmap.dirty += bitmap.pages[place].dirty();
                }
            }
            Err(fault) => {
                let start = place as u64 * page::BLOCKS_PER_PAGE;
                bitmap.set_blocks(start..start + blocks, Sequence::ZERO);
                if fault.is_torn() {
                    self.report.torn_pages += 1;
                } else {
                    self.report.damaged_pages += 1;
                }
                if self.report.first.len() < NAMED {
                    self.report.first.push((self.next, fault));
                }
            }
        }
        self.next += 1;
    }

    /// After the last page; those that were not given count as unreadable.
    #[must_use]
    pub fn finish(mut self) -> (DirtyBitmap, LoadReport) {
        while (self.next as usize) < self.bitmap.pages.len() {
            self.page(None);
        }
        (self.bitmap, self.report)
    }
}
