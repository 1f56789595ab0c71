//! The metadata of a running volume: what is true in memory, what is stable, and the one commit between them.
//!
//! Memory may be ahead of the disk; an effect that depends on the disk is a [`Then`], carried out when the
//! commit that contains it has ended. Commits follow each other, one at a time; whatever was asked for while
//! one was under way goes together into the next (group commit).
//!
//! Invariant: a [`Then`] is handed out only after everything that was in memory when it was asked for is stable.

mod commit;
mod third_nodes;

use bytes::Bytes;

use super::{io::CommandId, io::LinkId, slab::Key, span::ByteSpan};
use crate::{
    generation::{
        history::{History, HistoryError, Window},
        record::{Dirty, PeerRecord as ViewRecord, Standing},
    },
    ids::{
        AttachCounter, BlockIndex, ClusterId, Generation, GenerationId, NodeId, PeerIndex, Sequence, Term,
        VolumeId,
    },
    meta::{
        activity_log::{ActivityLog, Hold, PieceId},
        dirty_bitmap::DirtyBitmap,
        geometry::Extents,
        layout::MetaWrite,
        stable_proof::{SessionId, StableProof},
        superblock::{Flags, PeerRecord, Superblock},
        superblock_pair::SuperblockPair,
    },
};

/// What is to happen when something is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Opening goes on.
    Attached,
    /// A new head is stable here.
    GenerationStable(GenerationId),
    /// The head that a primary offered is stable here.
    OfferAdopted { peer: PeerIndex, link: LinkId, id: GenerationId },
    /// The leader may begin.
    LeaderReady { peer: PeerIndex, link: LinkId },
    /// The follower's bits are stable.
    FollowerMarked { peer: PeerIndex, link: LinkId },
    /// The follower is marked as a target.
    FollowerReady { peer: PeerIndex, link: LinkId },
    /// The window allows the peer to have the head.
    CountPeer { peer: PeerIndex, link: LinkId },
    /// The source's head is taken.
    HeadTaken { peer: PeerIndex, link: LinkId },
    /// The role is given up.
    Demoted,
    /// This copy is durably Outdated.
    Outdated { peer: PeerIndex, link: LinkId },
    /// The entitlement that a peer hands over is stable here.
    EntitlementTaken { peer: PeerIndex, link: LinkId },
    /// Nothing is open any more on stable media.
    Quiet,
    /// The clean-shutdown record is stable.
    ClosedCleanly,
    /// That the disk has failed is recorded, and the right to be promoted given up with it.
    Condemned,
    /// This node keeps the only copy, for a primary whose disk failed (W7).
    HostReady { peer: PeerIndex, link: LinkId },
    /// Everything that the activity log carries from another numbering is in flushed bits for every peer.
    Carried,
    /// The blocks that a resync is about to change are marked for every other peer (G9).
    TargetMarked { operation: Key },
    /// A command's change is stable.
    Answered(CommandId),
}

/// What a commit must contain before a [`Then`] may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Superblock,
    Bitmaps,
    /// The activity log is empty, bitmaps and superblock are written.
    Quiet,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Store {
    pair: SuperblockPair,
    /// What the superblock is to be.
    wanted: Superblock,
    changed: bool,
    activity: ActivityLog,
    activity_damaged: bool,
    bitmaps: Vec<DirtyBitmap>,
    waiting: Vec<(Need, Then)>,
    /// Bits are to be written although nobody waits for them.
    flush_bits: bool,
    /// Extents that were not written to since are to leave the activity log.
    idle_since: Option<Sequence>,
    commit: Option<Commit>,
    /// The disk has failed: only that is still recorded, everything else has ended (W4).
    condemned: bool,
}

/// A commit under way.
#[derive(Debug)]
struct Commit {
    then: Vec<Then>,
    superblock: bool,
    activity: bool,
    bitmaps: Vec<bool>,
}

/// What a finished commit brings.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) then: Vec<Then>,
    /// Pieces whose extents are hot now.
    pub(crate) admitted: Vec<Key>,
}

impl Store {
    pub(crate) fn new(
        pair: SuperblockPair,
        activity: ActivityLog,
        activity_damaged: bool,
        bitmaps: Vec<DirtyBitmap>,
    ) -> Self {
        let wanted = pair.current().clone();
        let (waiting, commit) = (Vec::new(), None);
        Self {
            pair,
            wanted,
            changed: false,
            activity,
            activity_damaged,
            bitmaps,
            waiting,
            flush_bits: false,
            idle_since: None,
            commit,
            condemned: false,
        }
    }

    // --- what is known ---

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.wanted
    }

    pub(crate) fn stable_superblock(&self) -> &Superblock {
        self.pair.current()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.wanted.node
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.wanted.cluster
    }

    pub(crate) fn volume(&self) -> Option<VolumeId> {
        self.wanted.volume
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.wanted.layout.geometry().size_bytes()
    }

    pub(crate) fn block_bytes(&self) -> u64 {
        u64::from(self.wanted.layout.geometry().block_bytes())
    }

    /// The longest piece of a write: it needs few slots (D9).
    pub(crate) fn piece_bytes_max(&self) -> u64 {
        let geometry = self.wanted.layout.geometry();
        u64::from(geometry.extents_per_piece()) * u64::from(geometry.extent_bytes())
    }

    pub(crate) fn flags(&self) -> Flags {
        self.wanted.flags
    }

    pub(crate) fn is_entitled(&self) -> bool {
        self.wanted.flags.entitled
    }

    pub(crate) fn term(&self) -> Option<Term> {
        self.wanted.highest_term
    }

    pub(crate) fn attach_counter(&self) -> AttachCounter {
        self.wanted.attach_counter
    }

    pub(crate) fn history(&self) -> &History {
        &self.wanted.history
    }

    pub(crate) fn head(&self) -> Option<Generation> {
        self.wanted.history.head()
    }

    pub(crate) fn has_generation(&self, id: GenerationId) -> bool {
        self.wanted.history.contains(id)
    }

    /// Whether the head in memory is not yet the one on stable media.
    pub(crate) fn is_head_unstable(&self) -> bool {
        self.head() != self.pair.current().history.head()
    }

    pub(crate) fn peer_node(&self, peer: PeerIndex) -> Option<NodeId> {
        self.record(peer).map(|record| record.node)
    }

    fn record(&self, peer: PeerIndex) -> Option<&PeerRecord> {
        self.wanted.peers[peer.as_usize()].as_ref()
    }

    fn record_mut(&mut self, peer: PeerIndex) -> Option<&mut PeerRecord> {
        self.changed = true;
        self.wanted.peers[peer.as_usize()].as_mut()
    }

    /// What is kept of a peer, as the verdict needs it.
    pub(crate) fn record_for_view(&self, peer: PeerIndex) -> ViewRecord {
        let Some(record) = self.record(peer) else { return ViewRecord::NEVER };
        let dirty = match self.dirty_blocks(peer) {
            0 => Dirty::Clean,
            blocks => Dirty::Blocks(blocks),
        };
        ViewRecord { standing: record.standing, dirty, seen: record.attach_counter_seen }
    }

    pub(crate) fn window_offers_head(&self, peer: PeerIndex) -> bool {
        let head = self.head().map(|head| head.id);
        self.record(peer).is_some_and(|record| match record.standing {
            Standing::Behind(window) => Some(window.offered) == head,
            Standing::InSync => true,
            Standing::Never => false,
        })
    }

    // --- the superblock ---

    fn change(&mut self) -> &mut Superblock {
        self.changed = true;
        &mut self.wanted
    }

    fn windows(&self) -> Vec<Window> {
        self.wanted.peers.iter().flatten().filter_map(|record| record.standing.window()).collect()
    }

    /// Cluster and volume get their names, if they have none yet.
    pub(crate) fn set_identity(&mut self, cluster: ClusterId, volume: VolumeId) {
        if self.wanted.cluster.is_none() || self.wanted.volume.is_none() {
            let superblock = self.change();
            superblock.cluster.get_or_insert(cluster);
            superblock.volume.get_or_insert(volume);
        }
    }

    /// This peer is this node from now on; what was known of another one there is forgotten.
    pub(crate) fn bind_peer(&mut self, peer: PeerIndex, node: NodeId) {
        self.change().peers[peer.as_usize()] = Some(PeerRecord {
            node,
            standing: Standing::Never,
            outdated_confirmed: false,
            attach_counter_seen: AttachCounter(0),
        });
    }

    /// The peer says that it is durably Outdated, or is in sync again (P1).
    pub(crate) fn set_outdated_confirmed(&mut self, peer: PeerIndex, confirmed: bool) {
        if self.record(peer).is_some_and(|record| record.outdated_confirmed != confirmed)
            && let Some(record) = self.record_mut(peer)
        {
            record.outdated_confirmed = confirmed;
        }
    }

    pub(crate) fn note_attach_counter(&mut self, peer: PeerIndex, counter: AttachCounter) {
        if self.record(peer).is_some_and(|record| record.attach_counter_seen < counter)
            && let Some(record) = self.record_mut(peer)
        {
            record.attach_counter_seen = counter;
        }
    }

    pub(crate) fn raise_term(&mut self, term: Term) {
        if self.wanted.highest_term < Some(term) {
            self.change().highest_term = Some(term);
        }
    }

    /// A run of the daemon begins on this disk (D4, D6).
    pub(crate) fn begin_run(&mut self, run: super::config::RunInfo) {
        let superblock = self.change();
        superblock.instance = Some(run.instance);
        superblock.attach_counter = AttachCounter(superblock.attach_counter.0 + 1);
        superblock.counted_at_boot_nanos = run.boot_clock_nanos;
    }

    /// Data are changing (D6).
    pub(crate) fn count_minute(&mut self, boot_clock_nanos: u64) {
        let superblock = self.change();
        superblock.attach_counter = AttachCounter(superblock.attach_counter.0 + 1);
        superblock.counted_at_boot_nanos = boot_clock_nanos;
    }

    /// P4: the term, the entitlement and the mark of a primary, with the generation that follows.
    pub(crate) fn become_primary(&mut self, term: Term, boot: crate::ids::BootId) {
        let superblock = self.change();
        superblock.highest_term = Some(term);
        superblock.boot = Some(boot);
        superblock.flags = Flags {
            fresh: false,
            consistent: true,
            was_up_to_date: true,
            crashed_primary: true,
            entitled: true,
        };
    }

    /// P5: everything is stable everywhere.
    pub(crate) fn become_secondary(&mut self) {
        self.change().flags.crashed_primary = false;
        self.flush_bits = true;
    }

    pub(crate) fn set_entitled(&mut self, entitled: bool) {
        self.change().flags.entitled = entitled;
    }

    pub(crate) fn set_up_to_date(&mut self, boot: crate::ids::BootId, keep_crashed: bool) {
        let superblock = self.change();
        superblock.flags.was_up_to_date = true;
        superblock.boot = Some(boot);
        superblock.flags.crashed_primary &= keep_crashed;
    }

    pub(crate) fn set_doubtful(&mut self) {
        if self.wanted.flags.was_up_to_date {
            self.change().flags.was_up_to_date = false;
        }
    }

    pub(crate) fn record_clean_shutdown(&mut self) {
        let superblock = self.change();
        superblock.clean_shutdown = Some(superblock.attach_counter);
    }

    /// Nothing in the own copy can be believed any more.
    pub(crate) fn invalidate(&mut self) {
        let superblock = self.change();
        superblock.flags.consistent = false;
        superblock.flags.was_up_to_date = false;
        superblock.flags.entitled = false;
        superblock.flags.crashed_primary = false;
        let (head, ancestors) = (superblock.history.head(), superblock.history.ancestors().to_vec());
        superblock.history = History::from_parts(head, ancestors, None).expect("it was a history");
    }

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
        let stable = self.pair.current().clone();
        let superblock = self.change();
        *superblock = Superblock {
            highest_term: superblock.highest_term,
            attach_counter: superblock.attach_counter,
            counted_at_boot_nanos: superblock.counted_at_boot_nanos,
            instance: superblock.instance,
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
            self.adopt_generation(peer, generation);
            let old = self.wanted.history.ancestors().first().map(|parent| parent.id);
            if let (Some(old), Some(record)) = (old, self.record_mut(peer)) {
                record.standing = record.standing.head_changed(old, generation.id, false);
            }
        }
        let flags = &mut self.change().flags;
        flags.entitled = true;
        flags.was_up_to_date = true;
    }

    // --- generations ---

    /// G1: a new head; peers in sync are offered it, all others keep the window that they have or get one.
    pub(crate) fn begin_generation(&mut self, new: Generation, in_sync: &[PeerIndex]) {
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
        self.change().history.push(new, &windows);
    }

    /// G2: the head that a primary offers.
    pub(crate) fn adopt_generation(&mut self, from: PeerIndex, new: Generation) {
        self.begin_generation(new, &[]);
        if let Some(record) = self.record_mut(from) {
            record.standing = record.standing.caught_up();
        }
        let node = self.node();
        let superblock = self.change();
        superblock.highest_term = superblock.highest_term.max(Some(new.term));
        if new.term.node != node {
            superblock.flags.entitled = false;
        }
    }

    /// G3: the first generation of all, proposed by this node. No primary writes under it: its term is the first.
    pub(crate) fn make_first_generation(&mut self, id: u128) {
        let node = self.node();
        let term = Term { number: Term::FIRST, node };
        let superblock = self.change();
        superblock.highest_term = superblock.highest_term.max(Some(term));
        superblock.flags.fresh = false;
        superblock.flags.consistent = true;
        superblock.flags.entitled = true;
        superblock.history.push(Generation { id: GenerationId(id), term }, &[]);
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
    }

    /// R6: the source's head becomes ours.
    pub(crate) fn take_head(
        &mut self,
        from: PeerIndex,
        head: Generation,
        ancestors: Vec<Generation>,
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
        superblock.highest_term = superblock.highest_term.max(Some(head.term));
        superblock.flags.fresh = false;
        superblock.flags.consistent = true;
        superblock.flags.crashed_primary = false;
        superblock.flags.entitled &= head.term.node == node;
        Ok(())
    }

    // --- the activity log ---

    /// Whether the piece holds its extents; if not it will be among those admitted later.
    pub(crate) fn hold(&mut self, span: ByteSpan, piece: Key) -> bool {
        if self.condemned {
            return true;
        }
        let extents = self.extents(span);
        match self.activity.hold(PieceId(piece.as_u64()), extents) {
            Hold::Hot => true,
            Hold::Waiting => false,
        }
    }

    /// The write of a piece that holds its extents has this sequence.
    pub(crate) fn assigned(&mut self, span: ByteSpan, sequence: Sequence) {
        if self.condemned {
            return;
        }
        let extents = self.extents(span);
        self.activity.assigned(extents, sequence);
    }

    /// A piece that holds its extents will not write.
    pub(crate) fn cancelled(&mut self, span: ByteSpan) {
        if self.condemned {
            return;
        }
        let extents = self.extents(span);
        self.activity.cancelled(extents);
    }

    /// Pieces that wait for slots and will not get them.
    pub(crate) fn abandon_waiting(&mut self) -> Vec<Key> {
        self.activity.abandon_waiting().map(|piece| Key::from_u64(piece.0)).collect()
    }

    /// Extents that were not written to after `since` need not stay hot: the resync after a crash stays small
    /// (D8).
    pub(crate) fn let_idle_go(&mut self, since: Sequence) {
        self.flush_bits = true;
        self.idle_since = Some(since);
    }

    /// Whether a write of this span needs no more of the log than a piece may (D9).
    pub(crate) fn fits_piece(&self, span: ByteSpan) -> bool {
        self.extents(span).count() <= self.wanted.layout.geometry().extents_per_piece()
    }

    /// Whether slots are missing until everything is flushed (D8).
    pub(crate) fn is_short_of_slots(&self) -> bool {
        self.activity.needs_flush()
    }

    fn extents(&self, span: ByteSpan) -> Extents {
        self.wanted.layout.geometry().extents_of(&(span.offset..span.end()))
    }

    /// G7: what the last run left open may differ on every peer.
    pub(crate) fn replay_log(&mut self) {
        let geometry = *self.wanted.layout.geometry();
        for bitmap in &mut self.bitmaps {
            if self.activity_damaged {
                bitmap.set_all(Sequence::ZERO);
            } else {
                for extent in self.activity.extents() {
                    bitmap.set(&geometry.extent_range(extent), Sequence::ZERO);
                }
            }
        }
    }

    // --- bitmaps ---

    fn bitmap(&self, peer: PeerIndex) -> &DirtyBitmap {
        &self.bitmaps[peer.as_usize()]
    }

    fn bitmap_mut(&mut self, peer: PeerIndex) -> &mut DirtyBitmap {
        &mut self.bitmaps[peer.as_usize()]
    }

    pub(crate) fn dirty_blocks(&self, peer: PeerIndex) -> u64 {
        self.bitmap(peer).dirty_blocks()
    }

    pub(crate) fn dirty_bytes(&self, peer: PeerIndex) -> u64 {
        self.bitmap(peer).dirty_bytes()
    }

    pub(crate) fn mark_dirty(&mut self, peer: PeerIndex, span: ByteSpan, at: Sequence) {
        self.bitmap_mut(peer).set(&(span.offset..span.end()), at);
    }

    pub(crate) fn mark_all_dirty(&mut self, peer: PeerIndex, at: Sequence) {
        self.bitmap_mut(peer).set_all(at);
    }

    /// Proofs of this link count from now on, with the sequences of the own write log.
    pub(crate) fn begin_session(&mut self, peer: PeerIndex, link: LinkId) {
        self.bitmap_mut(peer).begin_session(SessionId(link.0));
    }

    /// The same, with the sequences of the peer: what set a bit before was before all of them (found by the
    /// simulator: bits set in the own numbering would outlive every proof).
    pub(crate) fn begin_session_of_leader(&mut self, peer: PeerIndex, link: LinkId) {
        self.bitmap_mut(peer).begin_term();
        self.begin_session(peer, link);
    }

    pub(crate) fn end_session(&mut self, peer: PeerIndex) {
        self.bitmap_mut(peer).end_session();
    }

    /// Clears what the proof covers; false if it is not a proof for this bitmap.
    pub(crate) fn clear_dirty(&mut self, peer: PeerIndex, proof: &StableProof) -> bool {
        self.bitmap_mut(peer).clear(proof).is_ok()
    }

    /// The next bytes that the peer lacks, at or after `from`.
    pub(crate) fn next_dirty(&self, peer: PeerIndex, from: u64, bytes_max: u64) -> Option<ByteSpan> {
        let block = self.block_bytes();
        let first = BlockIndex(from.div_ceil(block));
        let blocks = self.bitmap(peer).next_dirty(first, (bytes_max / block).max(1))?;
        let bytes = self.wanted.layout.geometry().block_range(blocks);
        Some(ByteSpan { offset: bytes.start, len: bytes.end - bytes.start })
    }
}

fn piece(write: MetaWrite) -> (u64, Bytes) {
    (write.offset.0, write.bytes)
}
