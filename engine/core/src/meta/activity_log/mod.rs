//! The activity log: extents that may differ between the replicas if this node dies now (design D7, D8, D9).
//!
//! A write may be submitted or sent only while all its extents are *hot*, that is in a slot on stable media. Most
//! writes find them hot and cost two look-ups. A cold one waits for a *transaction*, which puts the extents of
//! all waiting pieces into slots and is flushed once for all of them.
//!
//! **On disk** the slots lie in pages, each in two copies, and a transaction writes the older copy of every page
//! that it changes. A copy that was torn leaves the other one with the state before the transaction; whatever the
//! transaction would have covered was never submitted, and what it evicted was allowed to go. So each page may
//! fall on either side, independently of the others, and no page is needed to read another.
//!
//! **Eviction** (D8). An extent may go when its last write is stable on this node and on every peer that counts,
//! and the dirty bits of all other peers for it lie in flushed bitmap pages. The caller passes both: a sequence
//! and a question. Writes of an earlier term or run have no sequence that could be compared; their extents are
//! *carried* until the caller says that all of them are stable or in flushed bitmaps.
//!
//! **No deadlock, no starvation** (D9). A piece needs at most 1/8 of the slots, takes them all at once and holds
//! none while it waits. Waiting pieces are served strictly first come, first served. If the first one cannot be
//! served, as many extents as it lacks begin to *retire*: they take no new holds, so their writes come to an end,
//! and after the next flush of all sides they can be evicted. Everything else goes on meanwhile. There are always
//! enough to retire, because 7/8 of the slots are not the piece's own.
//!
//! ```text
//!            hold(): all hot                    assigned(sequence) / cancelled()
//!   piece ───────────────────────────► holding ─────────────────────────────────► over
//!     │ hold(): one is cold or retiring   ▲
//!     └──────► waiting ── advance() ──────┤ all hot by now
//!                 ▲           │           │
//!                 │           └─► in a transaction ── committed()
//!                 └ NeedsFlush
//! ```

#[cfg(test)]
mod model;
pub mod page;
mod replay;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use replay::Replay;

use self::slots::{Slot, SlotIndex, SlotState, Slots};
use super::{
    geometry::{Extents, Geometry},
    header::CopyId,
    layout::{Layout, MetaWrite},
};
use crate::ids::{ExtentIndex, NodeId, Sequence};

/// Names a piece of a request; chosen by the caller, only carried here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PieceId(pub u64);

/// What became of a piece that needs extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Hold {
    /// It holds them all: it may go on.
    Hot,
    /// It waits in the queue; [`ActivityLog::advance`] or [`ActivityLog::committed`] will name it.
    Waiting,
}

/// What is to be done so that waiting pieces can go on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// Nothing.
    Idle,
    /// Nothing yet: a transaction is under way, see [`ActivityLog::committed`].
    InFlight,
    /// Make these writes and one flush, then call [`ActivityLog::committed`].
    Write(Vec<MetaWrite>),
    /// Nothing can be evicted. Flush this node and every peer that counts, and the bitmap pages of the others
    /// (design D8), then call [`ActivityLog::advance`] again.
    NeedsFlush,
}

/// A page as it is on disk.
#[derive(Clone, Copy, Debug)]
struct PageState {
    /// Of the newest copy.
    sequence: u64,
    newest: CopyId,
    /// In the list of pages that the next transaction writes.
    changed: bool,
    /// Transactions that must still write this page, because what is on disk is damaged or out of date.
    rewrites: u8,
}

#[derive(Clone, Debug)]
struct Piece {
    id: PieceId,
    extents: Extents,
}

/// A transaction that is being written.
#[derive(Clone, Debug, Default)]
struct Transaction {
    pages: Vec<u32>,
    filled: Vec<SlotIndex>,
    admitted: Vec<PieceId>,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct ActivityLog {
    layout: Layout,
    owner: NodeId,
    slots: Slots,
    pages: Vec<PageState>,
    waiting: VecDeque<Piece>,
    retiring: Vec<SlotIndex>,
    /// The next transaction while it is put together, and the one that is being written.
    next: Transaction,
    in_flight: Option<Transaction>,
    /// The first waiting piece could not be served.
    starved: bool,
    /// It was opened with damaged pages, and [`ActivityLog::carried_settled`] was not called yet.
    damaged: bool,
}

impl ActivityLog {
    /// The writes that make the activity log of a new metadata file, all slots free.
    pub fn format(layout: &Layout, owner: NodeId) -> impl Iterator<Item = MetaWrite> + '_ {
        (0..layout.geometry().log_pages()).flat_map(move |index| {
            [CopyId::A, CopyId::B].map(|copy| MetaWrite {
                offset: layout.log_page_at(index, copy),
                bytes: page::encode(std::iter::empty(), index, copy, owner, 1 + u64::from(copy.as_u8())),
            })
        })
    }

    /// How the volume is divided.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.layout.geometry()
    }

    /// The volume has grown: it has more extents. The log itself stays where it is.
    pub fn grow(&mut self, layout: &Layout) {
        assert_eq!(layout.log(), self.layout.log(), "a log does not move");
        self.layout = layout.clone();
        self.slots.extend(layout.geometry().extents());
    }

    /// A piece needs `extents`. Either it holds them all at once, or it waits. Nothing is allocated unless it
    /// waits and the queue grows.
    ///
    /// # Panics
    /// If the piece needs more than [`Geometry::extents_per_piece`] (design D9): requests are split first.
    #[inline]
    pub fn hold(&mut self, piece: PieceId, extents: Extents) -> Hold {
        assert!(extents.count() <= self.geometry().extents_per_piece(), "a piece that was not split (D9)");
        if extents.iter().all(|extent| self.is_open(extent)) {
            self.take_holds(extents);
            return Hold::Hot;
        }
        self.waiting.push_back(Piece { id: piece, extents });
        Hold::Waiting
    }

    /// The write of a piece that holds `extents` has this sequence. From here on the sequence keeps them.
    ///
    /// # Panics
    /// If the piece does not hold them.
    #[inline]
    pub fn assigned(&mut self, extents: Extents, sequence: Sequence) {
        self.give_holds(extents, |last| *last = (*last).max(sequence));
    }

    /// A piece that holds `extents` will not write.
    ///
    /// # Panics
    /// If the piece does not hold them.
    pub fn cancelled(&mut self, extents: Extents) {
        self.give_holds(extents, |_| {});
    }

    /// Drops every piece that waits in the queue and names it (a demotion by force, a failed disk). Pieces of a
    /// transaction under way are not among them.
    pub fn abandon_waiting(&mut self) -> impl Iterator<Item = PieceId> + '_ {
        self.starved = false;
        self.stop_retiring();
        self.waiting.drain(..).map(|piece| piece.id)
    }

    /// The transaction under way could not be written: names its pieces, and those of the next one. Nothing more is
    /// asked of this log: the disk has failed.
    pub fn failed(&mut self) -> Vec<PieceId> {
        let mut pieces = self.in_flight.take().map(|transaction| transaction.admitted).unwrap_or_default();
        pieces.append(&mut self.next.admitted);
        pieces
    }

    /// Serves waiting pieces. Call it after [`Hold::Waiting`], after [`Self::committed`], and when a flush or a
    /// flush of bitmap pages has ended.
    ///
    /// `stable` is the sequence up to which every write of this term is stable on this node and on every peer
    /// that counts; `bits_flushed` tells whether the dirty bits of all other peers for an extent lie in flushed
    /// bitmap pages (design D8). Pieces that hold their extents now are appended to `admitted`.
    pub fn advance(
        &mut self,
        stable: Sequence,
        bits_flushed: impl Fn(ExtentIndex) -> bool,
        admitted: &mut Vec<PieceId>,
    ) -> Step {
        if self.in_flight.is_some() {
            return Step::InFlight;
        }
        self.starved = false;
        while let Some(piece) = self.waiting.front().cloned() {
            if !self.serve(piece.extents, stable, &bits_flushed) {
                self.starved = true;
                break;
            }
            self.waiting.pop_front();
            self.stop_retiring();
            if piece.extents.iter().all(|extent| self.is_hot(extent)) {
                admitted.push(piece.id);
            } else {
                self.next.admitted.push(piece.id);
            }
        }
        match self.begin_transaction() {
            Step::Idle if self.starved => Step::NeedsFlush,
            step => step,
        }
    }

    /// The transaction has been written and flushed. Its pieces are appended to `admitted`; call
    /// [`Self::advance`] then.
    ///
    /// # Panics
    /// If there was none.
    pub fn committed(&mut self, admitted: &mut Vec<PieceId>) {
        let transaction = self.in_flight.take().expect("a transaction was begun");
        for page in &transaction.pages {
            let page = &mut self.pages[*page as usize];
            page.sequence += 1;
            page.newest = page.newest.other();
        }
        for slot in &transaction.filled {
            self.slots.get_mut(*slot).state = SlotState::Hot;
        }
        admitted.extend(transaction.admitted);
    }

    /// Evicts at most `most` extents whose last write is not after `idle_since`, so that the resync after a
    /// crash stays small (design D8); also rewrites damaged pages once nothing is carried. Only when no piece
    /// waits; the rest as for [`Self::advance`].
    pub fn clean(
        &mut self,
        idle_since: Sequence,
        stable: Sequence,
        bits_flushed: impl Fn(ExtentIndex) -> bool,
        most: usize,
    ) -> Step {
        if self.in_flight.is_some() {
            return Step::InFlight;
        }
        if !self.waiting.is_empty() {
            return Step::Idle;
        }
        let idle: Vec<SlotIndex> = self
            .slots
            .by_age()
            .take_while(|(_, slot)| slot.last <= idle_since)
            .filter(|(_, slot)| may_go(slot, stable, &bits_flushed))
            .take(most)
            .map(|(index, _)| index)
            .collect();
        for slot in idle {
            self.evict(slot);
        }
        self.begin_transaction()
    }

    /// Another numbering of writes begins: a new term, or the log of another primary that this node follows from
    /// now on. Its sequences cannot be compared with the last ones. Every extent that was written to is carried
    /// from now on.
    pub fn begin_term(&mut self) {
        for slot in 0..self.slots.len() {
            let slot = self.slots.get_mut(slot_index(slot));
            slot.carried |= slot.state != SlotState::Free && slot.last != Sequence::ZERO;
            slot.last = Sequence::ZERO;
        }
    }

    /// Every write of earlier terms and runs is now stable on this node and, for each peer, stable there or in
    /// flushed bitmap pages (design D8). For a log with damaged pages: every bit of every peer is, see
    /// [`Replay::everything_may_differ`].
    pub fn carried_settled(&mut self) {
        self.damaged = false;
        for slot in 0..self.slots.len() {
            self.slots.get_mut(slot_index(slot)).carried = false;
        }
        for index in 0..self.pages.len() {
            if self.pages[index].rewrites > 0 {
                self.note_changed(slot_index(index));
            }
        }
    }

    /// The extents that may differ, in the order of their slots. After [`Self::open`] these are the ones to be
    /// put into the bitmaps (design G7).
    pub fn extents(&self) -> impl Iterator<Item = ExtentIndex> + '_ {
        self.slots.iter().filter(|slot| slot.state != SlotState::Free).map(|slot| slot.extent)
    }

    /// Whether an extent is covered: on stable media, so that writes into it may be submitted (design D7).
    #[must_use]
    pub fn is_hot(&self, extent: ExtentIndex) -> bool {
        self.slots.find(extent).is_some_and(|slot| self.slots.get(slot).state == SlotState::Hot)
    }

    /// How many slots hold an extent.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slots.len() - self.slots.free()
    }

    /// How many pieces wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the first waiting piece needs a flush of all sides (design D8). The engine may begin it while a
    /// transaction is still being written.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.starved
    }

    /// Whether nothing is hot, carried or to be rewritten, on disk as in memory: what a clean shutdown needs
    /// (design D8, G4).
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.used() == 0
            && self.in_flight.is_none()
            && self.next.pages.is_empty()
            && self.pages.iter().all(|page| page.rewrites == 0)
    }

    /// Hot, and free to be used by a piece that does not wait.
    #[inline]
    fn is_open(&self, extent: ExtentIndex) -> bool {
        self.slots.find(extent).is_some_and(|slot| {
            let slot = self.slots.get(slot);
            slot.state == SlotState::Hot && !slot.retiring
        })
    }

    #[inline]
    fn take_holds(&mut self, extents: Extents) {
        for extent in extents.iter() {
            if let Some(slot) = self.slots.find(extent) {
                self.slots.hold(slot);
            }
        }
    }

    #[inline]
    fn give_holds(&mut self, extents: Extents, mut change: impl FnMut(&mut Sequence)) {
        for extent in extents.iter() {
            let slot = self.slots.find(extent).expect("an extent that is held has a slot");
            change(&mut self.slots.get_mut(slot).last);
            self.slots.unhold(slot);
        }
    }

    /// Gives a piece all its extents, or none.
    fn serve(
        &mut self,
        extents: Extents,
        stable: Sequence,
        bits_flushed: &impl Fn(ExtentIndex) -> bool,
    ) -> bool {
        let missing = extents.iter().filter(|extent| self.slots.find(*extent).is_none()).count();
        let lacking = missing.saturating_sub(self.slots.free());
        if lacking > 0 {
            let victims = self.victims(extents, lacking, stable, bits_flushed);
            if victims.len() < lacking {
                self.retire(extents, lacking);
                return false;
            }
            for slot in victims {
                self.evict(slot);
            }
        }
        for extent in extents.iter() {
            match self.slots.find(extent) {
                Some(slot) => self.slots.hold(slot),
                None => {
                    let slot = self.slots.fill(extent);
                    self.next.filled.push(slot);
                    self.note_changed(page_of(slot));
                }
            }
        }
        true
    }

    /// Slots that can be evicted for a piece: those that retire first, then the least recently used.
    fn victims(
        &self,
        own: Extents,
        lacking: usize,
        stable: Sequence,
        bits_flushed: &impl Fn(ExtentIndex) -> bool,
    ) -> Vec<SlotIndex> {
        let retired = self.retiring.iter().map(|index| (*index, self.slots.get(*index)));
        // The list is in the order of last use, so behind a write that is not stable none is, but for carried
        // ones and pieces that were cancelled; a flush serves those too.
        let unused = self
            .slots
            .by_age()
            .take_while(|(_, slot)| slot.last <= stable)
            .filter(|(_, slot)| !slot.retiring);
        retired
            .chain(unused)
            .filter(|(_, slot)| !own.contain(slot.extent) && may_go(slot, stable, bits_flushed))
            .take(lacking)
            .map(|(index, _)| index)
            .collect()
    }

    /// Makes `lacking` extents that are not the piece's own retire: unused ones first, then those in use.
    fn retire(&mut self, own: Extents, lacking: usize) {
        for slot in std::mem::take(&mut self.retiring) {
            if own.contain(self.slots.get(slot).extent) {
                self.slots.get_mut(slot).retiring = false;
            } else {
                self.retiring.push(slot);
            }
        }
        let wanted = lacking.saturating_sub(self.retiring.len());
        let chosen =
            |slot: &Slot| slot.state != SlotState::Free && !slot.retiring && !own.contain(slot.extent);
        let unused = self.slots.by_age().filter(|(_, slot)| chosen(slot));
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.holds > 0 && chosen(slot))
            .map(|(index, slot)| (slot_index(index), slot));
        let new: Vec<SlotIndex> = unused.chain(used).take(wanted).map(|(index, _)| index).collect();
        assert_eq!(new.len(), wanted, "7/8 of the slots are not the piece's own (D9)");
        for slot in new {
            self.slots.get_mut(slot).retiring = true;
            self.retiring.push(slot);
        }
    }

    fn stop_retiring(&mut self) {
        for slot in self.retiring.drain(..) {
            self.slots.get_mut(slot).retiring = false;
        }
    }

    fn evict(&mut self, slot: SlotIndex) {
        self.retiring.retain(|other| *other != slot);
        self.slots.evict(slot);
        self.note_changed(page_of(slot));
    }

    fn note_changed(&mut self, page: u32) {
        let state = &mut self.pages[page as usize];
        if !state.changed {
            state.changed = true;
            self.next.pages.push(page);
        }
    }

    /// Writes the pages that have changed, each over its older copy.
    fn begin_transaction(&mut self) -> Step {
        if self.next.pages.is_empty() {
            return Step::Idle;
        }
        assert!(!self.damaged, "a damaged log is overwritten before every bit was set (D8)");
        let transaction = std::mem::take(&mut self.next);
        let mut writes = Vec::with_capacity(transaction.pages.len());
        for index in &transaction.pages {
            let state = &mut self.pages[*index as usize];
            state.changed = false;
            state.rewrites = state.rewrites.saturating_sub(1);
            let (copy, sequence, rewrites) = (state.newest.other(), state.sequence + 1, state.rewrites);
            let slots = page::slots_of_page(self.layout.geometry(), *index).map(|slot| {
                let slot = self.slots.get(slot_index(slot));
                (slot.state != SlotState::Free).then_some(slot.extent)
            });
            writes.push(MetaWrite {
                offset: self.layout.log_page_at(*index, copy),
                bytes: page::encode(slots, *index, copy, self.owner, sequence),
            });
            if rewrites > 0 {
                self.note_changed(*index);
            }
        }
        self.in_flight = Some(transaction);
        Step::Write(writes)
    }
}

/// Whether an extent may be evicted (design D8).
fn may_go(slot: &Slot, stable: Sequence, bits_flushed: &impl Fn(ExtentIndex) -> bool) -> bool {
    slot.state == SlotState::Hot
        && slot.holds == 0
        && !slot.carried
        && slot.last <= stable
        && bits_flushed(slot.extent)
}

fn page_of(slot: SlotIndex) -> u32 {
    slot / page::SLOTS_PER_PAGE
}

/// Slots and pages are counted in `usize` where they are walked, and stay below `MAX_SLOTS`.
fn slot_index(index: usize) -> SlotIndex {
    u32::try_from(index).expect("at most MAX_SLOTS")
}
