//! The dirty bitmap of one peer: which blocks the peer lacks, or may lack (design D10, D11).
//!
//! Setting rounds outward and needs nothing. Clearing rounds inward and needs a
//! [`StableProof`]: there is no other method that clears.
//!
//! **In memory** there is a record of 24 bytes for each page of 31,744 blocks (124 MiB), and 4 KiB more for each
//! page that is neither clean nor wholly dirty: a clean TiB costs 200 KiB.
//!
//! **On disk** each page has one copy and is written in place. A page that is torn or cannot be read counts as
//! wholly dirty, which is safe and costs a comparison of 124 MiB; a second copy would double the file to save that
//! after a rare crash. A set bit is on disk only after [`flushed`](DirtyBitmap::flushed); until then the activity
//! log holds its extent (design D8), which asks [`is_flushed`](DirtyBitmap::is_flushed). Cleared bits may reach the
//! disk at leisure.
//!
//! ```text
//!            set                 begin_flush              flushed
//!   Stored ───────► Unflushed ───────────────► InFlight ──────────► Stored
//!                       ▲                          │ set
//!                       └──────────────────────────┘  (then it is both, and is written again)
//! ```
//!
//! Invariant: what is on disk, together with the extents in the activity log, is a superset of what the peer lacks
//! (oracle O10).

mod bits;
mod flush;
mod growth;
mod load;
pub mod page;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, ops::Range};

pub use flush::FlushScope;
pub use growth::Move;
pub use load::{LoadReport, Loader};

use self::{bits::Bits, page::BLOCKS_PER_PAGE};
use super::{
    geometry::Geometry,
    layout::Region,
    stable_proof::{SessionId, StableProof},
};
use crate::ids::{BlockIndex, NodeId, PeerIndex, Sequence};

/// Why a proof clears nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofRefused {
    /// It is of another peer.
    #[error("the acknowledgement is of {0:?}, not of the peer of this bitmap")]
    OtherPeer(PeerIndex),
    /// There is no session, or it is another one.
    #[error("the acknowledgement is of {0:?}, which is not the session of this peer")]
    OtherSession(SessionId),
    /// It covers bytes that the volume does not have.
    #[error("the acknowledgement covers bytes that are not on the volume")]
    OutOfRange,
}

/// What a proof did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleared {
    /// Blocks that were dirty and are clean now.
    pub blocks: u64,
    /// Blocks that stay dirty, because a bit near them may have been set after the proof's sequence. The
    /// sequence is kept for each page, not for each block; a later proof clears them.
    pub kept: u64,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct DirtyBitmap {
    geometry: Geometry,
    region: Region,
    owner: NodeId,
    peer: PeerIndex,
    pages: Vec<Bits>,
    dirty: u64,
    session: Option<SessionId>,
    /// The session with the primary whose word counts for this peer too (design G9).
    witness: Option<SessionId>,
    /// Of the last page write.
    sequence: u64,
    /// Pages to be written, each at most once.
    queue: VecDeque<u32>,
    /// Pages that are being written.
    in_flight: Vec<u32>,
}

impl DirtyBitmap {
    /// The bitmap of a new region: clean. The region is made with [`Self::format`].
    #[must_use]
    pub fn clean(geometry: Geometry, region: Region, owner: NodeId, peer: PeerIndex) -> Self {
        assert_eq!(region.pages, u64::from(geometry.bitmap_pages()), "the region fits the volume");
        Self {
            geometry,
            region,
            owner,
            peer,
            pages: vec![Bits::default(); geometry.bitmap_pages() as usize],
            dirty: 0,
            session: None,
            witness: None,
            sequence: flush::FORMATTED,
            queue: VecDeque::new(),
            in_flight: Vec::new(),
        }
    }

    /// Whose blocks these are.
    #[must_use]
    pub fn peer(&self) -> PeerIndex {
        self.peer
    }

    /// How the volume is divided.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How many blocks the peer lacks.
    #[must_use]
    pub fn dirty_blocks(&self) -> u64 {
        self.dirty
    }

    /// How many bytes the peer lacks, in whole blocks but for the end of the volume.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        let last = self.geometry.blocks() - 1;
        let block = u64::from(self.geometry.block_bytes());
        let missing_tail = self.geometry.blocks() * block - self.geometry.size_bytes();
        self.dirty * block - if self.is_dirty(BlockIndex(last)) { missing_tail } else { 0 }
    }

    /// Whether the peer lacks a block.
    #[must_use]
    pub fn is_dirty(&self, block: BlockIndex) -> bool {
        assert!(block.0 < self.geometry.blocks(), "{block:?} is not on the volume");
        let (page, bit) = split(block.0);
        self.pages[page].dirty_in(bit..bit + 1) > 0
    }

    /// The peer lacks what `bytes` touch, by the write `at`; returns how many blocks it did not lack before.
    /// Something that is no write (a verify, a lost extent) passes the last sequence that was issued.
    ///
    /// # Panics
    /// If `bytes` is empty or not on the volume.
    pub fn set(&mut self, bytes: &Range<u64>, at: Sequence) -> u64 {
        let blocks = self.geometry.blocks_touched(bytes);
        self.set_blocks(blocks, at)
    }

    /// The peer lacks everything.
    pub fn set_all(&mut self, at: Sequence) {
        self.set_blocks(0..self.geometry.blocks(), at);
    }

    /// Proofs are taken from this session on, until another begins (design D11).
    pub fn begin_session(&mut self, session: SessionId) {
        self.session = Some(session);
    }

    /// The peer is gone: no proof is taken.
    pub fn end_session(&mut self) {
        self.session = None;
    }

    /// The primary with which this node shares `session` may say of this peer what is stable there (design G9);
    /// `None`: nobody may any more.
    pub fn set_witness(&mut self, session: Option<SessionId>) {
        self.witness = session;
    }

    /// Another numbering of writes begins: a new term, or the log of another primary that this node follows from
    /// now on. Every write of it comes after everything that has set a bit so far, and no write of the old one is
    /// under way any more. Ends the session, because its proofs have the old numbers.
    pub fn begin_term(&mut self) {
        self.session = None;
        self.renumber();
    }

    /// The same for a peer with which no proof is under way: its session goes on.
    pub fn renumber(&mut self) {
        for page in &mut self.pages {
            page.last_set = Sequence::ZERO;
        }
    }

    /// Clears the blocks that `proof` covers whole, unless they were set later (design D11).
    ///
    /// # Errors
    /// [`ProofRefused`]; then nothing was cleared.
    pub fn clear(&mut self, proof: &StableProof) -> Result<Cleared, ProofRefused> {
        if proof.peer() != self.peer {
            return Err(ProofRefused::OtherPeer(proof.peer()));
        }
        if ![self.session, self.witness].contains(&Some(proof.session())) {
            return Err(ProofRefused::OtherSession(proof.session()));
        }
        let bytes = proof.bytes();
        if bytes.is_empty() || bytes.end > self.geometry.size_bytes() {
            return Err(ProofRefused::OutOfRange);
        }
        let mut cleared = Cleared::default();
        for (page, bits) in by_page(self.geometry.blocks_covered(&bytes)) {
            let capacity = self.capacity(page);
            let entry = &mut self.pages[page];
            if proof.upto() < entry.last_set {
                cleared.kept += entry.dirty_in(bits);
                continue;
            }
            let gone = entry.clear(bits, capacity);
            if gone > 0 {
                entry.unflushed.clears = true;
                cleared.blocks += gone;
                self.enqueue(page);
            }
        }
        self.dirty -= cleared.blocks;
        Ok(cleared)
    }

    /// The next blocks that the peer lacks, at or after `from`: a run without a gap, of at most `most` blocks.
    /// Clean pages are passed at 31,744 blocks a step.
    #[must_use]
    pub fn next_dirty(&self, from: BlockIndex, most: u64) -> Option<Range<BlockIndex>> {
        let all = self.geometry.blocks();
        if from.0 >= all || most == 0 || self.dirty == 0 {
            return None;
        }
        let start = by_page(from.0..all).find_map(|(page, bits)| {
            self.pages[page].first_set(bits).map(|bit| page as u64 * BLOCKS_PER_PAGE + bit)
        })?;
        let limit = start.saturating_add(most).min(all);
        let end = by_page(start..limit)
            .find_map(|(page, bits)| {
                self.pages[page].first_clear(bits).map(|bit| page as u64 * BLOCKS_PER_PAGE + bit)
            })
            .unwrap_or(limit);
        Some(BlockIndex(start)..BlockIndex(end))
    }

    /// Bytes of the table of pages.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Bits>()
    }

    fn set_blocks(&mut self, blocks: Range<u64>, at: Sequence) -> u64 {
        let mut new = 0;
        for (page, bits) in by_page(blocks) {
            let capacity = self.capacity(page);
            let entry = &mut self.pages[page];
            entry.last_set = entry.last_set.max(at);
            let added = entry.set(bits, capacity);
            if added > 0 {
                entry.unflushed.sets = true;
                new += added;
                self.enqueue(page);
            }
        }
        self.dirty += new;
        new
    }

    /// How many blocks a page has: all but the last one have [`BLOCKS_PER_PAGE`].
    fn capacity(&self, page: usize) -> u64 {
        capacity(&self.geometry, page)
    }
}

/// How many blocks a page has.
fn capacity(geometry: &Geometry, page: usize) -> u64 {
    (geometry.blocks() - page as u64 * BLOCKS_PER_PAGE).min(BLOCKS_PER_PAGE)
}

/// The page of a block, and its bit there.
fn split(block: u64) -> (usize, u64) {
    (usize::try_from(block / BLOCKS_PER_PAGE).expect("1 PiB has fewer pages"), block % BLOCKS_PER_PAGE)
}

/// A range of blocks, page by page: the page and the bits in it.
fn by_page(blocks: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (page, first) = split(rest.start);
        let end = rest.end.min((page as u64 + 1) * BLOCKS_PER_PAGE);
        let bits = first..first + (end - rest.start);
        rest.start = end;
        Some((page, bits))
    })
}
