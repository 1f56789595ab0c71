//! The generations of this copy and the windows of its peers, as they change (G1, G2, G5, R6).
//!
//! Each function is one change of the superblock: what belongs together becomes stable together.

use super::Store;
use crate::{
    generation::{
        history::{History, HistoryError, Window},
        record::Standing,
        view::{Power, Replies},
    },
    ids::{ClusterId, Generation, GenerationId, PeerIndex, Term, VolumeId},
    meta::superblock::Evidence,
    volume::wire::Retained,
};

impl Store {
    /// G1: a new head; peers in sync are offered it, all others keep the window that they have or get one.
    pub(crate) fn begin_generation(&mut self, new: Generation, in_sync: &[PeerIndex], replies: Replies) {
        let old = self.head().map(|head| head.id);
        let superblock = self.change();
        for peer in PeerIndex::all() {
            if let Some(record) = &mut superblock.peers[peer.as_usize()]
                && let Some(old) = old
            {
                record.standing = record.standing.head_changed(old, new.id, in_sync.contains(&peer));
            }
        }
        let windows = self.windows();
        let superblock = self.change();
        superblock.history.push(new, &windows);
        superblock.evidence = Evidence::of_this_run(replies);
    }

    /// G2: the head that a primary offers.
    pub(crate) fn adopt_generation(&mut self, from: PeerIndex, new: Generation, replies: Replies) {
        self.begin_generation(new, &[], replies);
        if let Some(record) = self.record_mut(from) {
            record.standing = record.standing.caught_up();
        }
        let node = self.node();
        let superblock = self.change();
        superblock.highest_term = superblock.highest_term.max(Some(new.term));
        if new.term.node != node {
            superblock.flags.entitled = false;
            superblock.flags.crashed_primary = false;
        }
    }

    /// G3: the first generation of all, proposed by this node. No primary writes under it: its term is the first.
    pub(crate) fn make_first_generation(&mut self, id: u128, replies: Replies) {
        let node = self.node();
        let term = Term { number: Term::FIRST, node };
        let superblock = self.change();
        superblock.highest_term = superblock.highest_term.max(Some(term));
        superblock.flags.fresh = false;
        superblock.flags.consistent = true;
        superblock.flags.entitled = true;
        superblock.history.push(Generation { id: GenerationId(id), term }, &[]);
        superblock.evidence = Evidence::of_this_run(replies);
        self.set_identity(ClusterId(id), VolumeId(id));
    }

    /// The peer has the head, durably.
    pub(crate) fn close_window(&mut self, peer: PeerIndex) {
        if let Some(record) = self.record_mut(peer) {
            record.standing = record.standing.caught_up();
        }
    }

    /// A resync into the peer begins: from now on it may be at the head.
    pub(crate) fn begin_supply(&mut self, peer: PeerIndex, key: Option<GenerationId>) {
        let history = self.wanted.history.clone();
        if let Some(record) = self.record_mut(peer) {
            record.standing = record.standing.begin_as_source(&history, key);
        }
    }

    /// The window allows the peer to have the head of now.
    pub(crate) fn offer_head(&mut self, peer: PeerIndex) {
        let Some(head) = self.head() else { return };
        if let Some(record) = self.record_mut(peer)
            && let Standing::Behind(window) = record.standing
        {
            record.standing = Standing::Behind(Window { offered: head.id, ..window });
        }
    }

    /// A resync from the peer, whose head is `source`, begins; if blocks are copied the copy is a mixture until
    /// it ends (R1).
    pub(crate) fn begin_follow(&mut self, peer: PeerIndex, source: GenerationId, copy: bool) {
        let history = self.wanted.history.clone();
        if let Some(record) = self.record_mut(peer) {
            record.standing = record.standing.begin_as_target(&history, source);
        }
        if copy {
            let superblock = self.change();
            superblock.history.begin_resync(source);
            superblock.flags.fresh = false;
            superblock.flags.consistent = false;
            superblock.flags.was_up_to_date = false;
            superblock.flags.entitled = false;
        }
        self.set_unsettled();
    }

    /// R6: the source's head becomes ours, with what the source kept under it (G8).
    pub(crate) fn take_head(
        &mut self,
        from: PeerIndex,
        head: Generation,
        ancestors: Vec<Generation>,
        kept: Retained,
    ) -> Result<(), HistoryError> {
        let source = History::from_parts(Some(head), ancestors, None)?;
        let old = self.head().map(|head| head.id);
        let superblock = self.change();
        for peer in PeerIndex::all() {
            if let Some(record) = &mut superblock.peers[peer.as_usize()] {
                record.standing = if peer == from {
                    record.standing.caught_up()
                } else {
                    old.filter(|&old| old != head.id)
                        .map_or(record.standing, |old| record.standing.head_changed(old, head.id, false))
                };
            }
        }
        let windows = self.windows();
        let node = self.node();
        let superblock = self.change();
        superblock.history.adopt(&source, &windows);
        superblock.evidence = Evidence::of_this_run(kept.replies);
        if kept.power == Power::Lost {
            superblock.evidence.power = Power::Lost;
        }
        superblock.highest_term = superblock.highest_term.max(Some(head.term));
        superblock.flags.fresh = false;
        superblock.flags.consistent = true;
        superblock.flags.crashed_primary = false;
        // Under the same head nobody was promoted since: a right that was handed over stays (P2).
        superblock.flags.entitled &= head.term.node == node || old == Some(head.id);
        Ok(())
    }
}
