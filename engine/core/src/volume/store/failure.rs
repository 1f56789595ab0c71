//! What the superblock says of a disk that has failed (W4), and of the peer that keeps the only copy for it (W7).

use super::{Store, Then};
use crate::{
    ids::{Generation, PeerIndex},
    meta::superblock::Superblock,
};

impl Store {
    /// The disk has failed (W4). What is left of it is a copy of its head but for what the activity log covers, so
    /// it is marked as the target of a resync toward that head: by bitmap, and never a source. The last good copy is
    /// only put in doubt, unless what is read from it may differ from what is on the media. Returns what will not
    /// happen any more.
    ///
    /// What was only in memory is given up, a new head above all: nothing was answered under it, and the data may not
    /// be stable that it would name (found by the simulator). Term and attach counter never go back.
    pub(crate) fn condemn(&mut self, last_copy: bool) -> Vec<Then> {
        let dropped = self.waiting.drain(..).map(|(_, then)| then).collect();
        self.condemned = true;
        self.growth = None;
        let stable = self.pair.current().clone();
        let superblock = self.change();
        *superblock = Superblock {
            highest_term: superblock.highest_term,
            attach_counter: superblock.attach_counter,
            counted_at_boot_nanos: superblock.counted_at_boot_nanos,
            instance: superblock.instance,
            // What is there was whole before it was named here.
            layout: superblock.layout.clone(),
            ..stable
        };
        superblock.flags.was_up_to_date = false;
        superblock.flags.crashed_primary = false;
        if !last_copy {
            superblock.flags.consistent = false;
            superblock.flags.entitled = false;
            let head = superblock.history.head().map(|head| head.id);
            if let Some(toward) = superblock.history.toward().or(head) {
                superblock.history.begin_resync(toward);
            }
        }
        self.after_commit(Then::Condemned);
        dropped
    }

    /// The only copy is here from now on (W7): a primary whose disk failed serves through this node, under this
    /// generation, and the right to be promoted is here too.
    pub(crate) fn become_host(&mut self, peer: PeerIndex, generation: Generation) {
        if self.head() != Some(generation) {
            let replies = self.evidence().replies;
            self.adopt_generation(peer, generation, replies);
            let old = self.wanted.history.ancestors().first().map(|parent| parent.id);
            if let (Some(old), Some(record)) = (old, self.record_mut(peer)) {
                record.standing = record.standing.head_changed(old, generation.id, false);
            }
        }
        let flags = &mut self.change().flags;
        flags.entitled = true;
        flags.was_up_to_date = true;
        self.set_unsettled();
    }
}
