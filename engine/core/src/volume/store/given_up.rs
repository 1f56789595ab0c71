//! A copy of which nothing counts any more: invalidated, or found to be an older state (D6, G5).

use super::Store;
use crate::{
    generation::history::History,
    ids::{AttachCounter, PeerIndex, Sequence},
};

impl Store {
    /// Nothing in the own copy can be believed any more: every block may differ on every peer. A crash may leave
    /// the flags without the bits; the next attach sets them again (`mark_unbelievable`).
    pub(crate) fn invalidate(&mut self) {
        let superblock = self.change();
        superblock.flags.consistent = false;
        superblock.flags.was_up_to_date = false;
        superblock.flags.entitled = false;
        superblock.flags.crashed_primary = false;
        let (head, ancestors) = (superblock.history.head(), superblock.history.ancestors().to_vec());
        superblock.history = History::from_parts(head, ancestors, None).expect("it was a history");
        self.mark_unbelievable();
    }

    /// A copy that is Inconsistent, and not by a resync that goes on from its bitmap, is marked whole for every
    /// peer (G5, D6).
    pub(crate) fn mark_unbelievable(&mut self) {
        let flags = self.wanted.flags;
        if !flags.consistent && !flags.fresh && self.wanted.history.toward().is_none() {
            for bitmap in &mut self.bitmaps {
                bitmap.set_all(Sequence::ZERO);
            }
            self.flush_bits = true;
        }
    }

    /// A peer remembers more of this copy than it does itself: an older state was put back (D6). Fresh copies have
    /// nothing to lose.
    pub(crate) fn note_set_back(&mut self, peer: PeerIndex, seen: AttachCounter) {
        let superblock = self.change();
        superblock.attach_counter = superblock.attach_counter.max(seen);
        self.show_counter(peer);
        self.give_up_past();
        if !self.wanted.flags.fresh {
            self.invalidate();
        }
    }

    /// In the same superblock nothing in this copy counts: what peers have seen of it before is no news to them or to it
    /// when it has become good again (found by the simulator: with three nodes, each peer in turn found a copy to be set
    /// back that another one had long made good).
    pub(crate) fn give_up_past(&mut self) {
        let superblock = self.change();
        superblock.given_up_at = superblock.attach_counter;
    }
}
