//! The slots of the activity log in memory: which extent is where, and which was used least recently.
//!
//! Everything is allocated once. The index from extents to slots is dense and begins as zeroes that the kernel
//! does not back with memory: 4 bytes for each 4 MiB of the volume that was ever written.
//!
//! Invariants:
//! - a slot is in the list of the least recently used exactly while it holds an extent that nobody holds on to;
//! - `index[extent]` names the one slot that holds the extent, or none.
//!
//! ```text
//!          fill                  commit                   evict
//!   Free ────────► Filling ──────────────► Hot ──────────────────────► Free
//!                  (always held)           (held: not in the list)
//! ```

use crate::ids::{ExtentIndex, Sequence};

/// The number of a slot.
pub(super) type SlotIndex = u32;

/// No slot: the end of the list.
const NONE: SlotIndex = SlotIndex::MAX;

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlotState {
    /// Nothing.
    Free,
    /// An extent whose transaction is not committed yet.
    Filling,
    /// An extent that may be written to.
    Hot,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) extent: ExtentIndex,
    /// Pieces that need the extent and have no sequence yet.
    pub(super) holds: u32,
    /// The last write into the extent, of this term.
    pub(super) last: Sequence,
    newer: SlotIndex,
    older: SlotIndex,
    pub(super) state: SlotState,
    /// Written to in an earlier term or run, of which it is not known yet that it is stable everywhere.
    pub(super) carried: bool,
    /// Chosen to be evicted for a piece that waits: takes no new holds from pieces that do not wait.
    pub(super) retiring: bool,
}

const _: () = assert!(size_of::<Slot>() == 32);

/// See the module documentation.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// By extent: its slot plus one, or zero.
    index: Vec<u32>,
    newest: SlotIndex,
    oldest: SlotIndex,
    free: Vec<SlotIndex>,
}

impl Slots {
    /// All free.
    pub(super) fn new(slots: u32, extents: u32) -> Self {
        let empty = Slot {
            extent: ExtentIndex(0),
            holds: 0,
            last: Sequence::ZERO,
            newer: NONE,
            older: NONE,
            state: SlotState::Free,
            carried: false,
            retiring: false,
        };
        Self {
            slots: vec![empty; slots as usize],
            index: vec![0; extents as usize],
            newest: NONE,
            oldest: NONE,
            free: (0..slots).rev().collect(),
        }
    }

    /// The volume has more extents from now on.
    pub(super) fn extend(&mut self, extents: u32) {
        assert!(extents as usize >= self.index.len(), "a volume only grows");
        self.index.resize(extents as usize, 0);
    }

    pub(super) fn find(&self, extent: ExtentIndex) -> Option<SlotIndex> {
        self.index[extent.0 as usize].checked_sub(1)
    }

    pub(super) fn get(&self, slot: SlotIndex) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: SlotIndex) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Bytes of all tables.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + (self.index.capacity() + self.free.capacity()) * 4
    }

    /// Takes a hold on the extent of a slot: it stays until [`Self::unhold`].
    pub(super) fn hold(&mut self, slot: SlotIndex) {
        let entry = &mut self.slots[slot as usize];
        assert_ne!(entry.state, SlotState::Free, "a hold on a free slot");
        entry.holds += 1;
        if entry.holds == 1 {
            self.unlink(slot);
        }
    }

    /// Gives a hold back; the last one makes the extent the most recently used.
    pub(super) fn unhold(&mut self, slot: SlotIndex) {
        let entry = &mut self.slots[slot as usize];
        entry.holds = entry.holds.checked_sub(1).expect("a hold was taken");
        if entry.holds == 0 {
            assert_eq!(entry.state, SlotState::Hot, "an uncommitted extent was let go");
            self.link_newest(slot);
        }
    }

    /// Puts an extent that has no slot into a free one, held once.
    pub(super) fn fill(&mut self, extent: ExtentIndex) -> SlotIndex {
        assert_eq!(self.find(extent), None, "{extent:?} has a slot");
        let slot = self.free.pop().expect("a free slot was made");
        let entry = &mut self.slots[slot as usize];
        entry.extent = extent;
        entry.state = SlotState::Filling;
        entry.last = Sequence::ZERO;
        entry.holds = 1;
        self.index[extent.0 as usize] = slot + 1;
        slot
    }

    /// Puts an extent that was found on disk into the slot where it was found.
    pub(super) fn restore(&mut self, slot: SlotIndex, extent: ExtentIndex) {
        let entry = &mut self.slots[slot as usize];
        entry.extent = extent;
        entry.state = SlotState::Hot;
        entry.carried = true;
        self.index[extent.0 as usize] = slot + 1;
        self.link_newest(slot);
    }

    /// After all [`Self::restore`]s: the slots that were not restored are the free ones.
    pub(super) fn collect_free(&mut self) {
        let slots = &self.slots;
        self.free.retain(|slot| slots[*slot as usize].state == SlotState::Free);
    }

    /// Frees a slot whose extent nobody holds.
    pub(super) fn evict(&mut self, slot: SlotIndex) {
        self.unlink(slot);
        let entry = &mut self.slots[slot as usize];
        assert!(entry.holds == 0 && entry.state == SlotState::Hot && !entry.carried, "evicted {entry:?}");
        entry.state = SlotState::Free;
        entry.retiring = false;
        let extent = entry.extent;
        self.index[extent.0 as usize] = 0;
        self.free.push(slot);
    }

    /// The slots that nobody holds, least recently used first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            let found = (at, slot);
            at = slot.newer;
            Some(found)
        })
    }

    fn link_newest(&mut self, slot: SlotIndex) {
        let older = self.newest;
        self.slots[slot as usize].older = older;
        self.slots[slot as usize].newer = NONE;
        match self.slots.get_mut(older as usize) {
            Some(entry) => entry.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: SlotIndex) {
        let Slot { newer, older, .. } = self.slots[slot as usize];
        match self.slots.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}
