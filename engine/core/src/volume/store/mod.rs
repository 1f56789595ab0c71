//! The metadata of a running volume: what is true in memory, what is stable, and the one commit between them.
//!
//! Memory may be ahead of the disk; an effect that depends on the disk is a [`Then`], carried out when the
//! commit that contains it has ended. Commits follow each other, one at a time; whatever was asked for while
//! one was under way goes together into the next (group commit).
//!
//! Invariant: a [`Then`] is handed out only after everything that was in memory when it was asked for is stable.

mod commit;
mod failure;
mod generations;
mod given_up;
mod growth;
mod third_nodes;

use bytes::Bytes;

use super::{io::CommandId, io::LinkId, slab::Key, span::ByteSpan};
use crate::{
    generation::{
        history::{History, Window},
        record::{Dirty, PeerRecord as ViewRecord, Standing},
        view::Power,
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
        superblock::{Evidence, Flags, PeerRecord, Superblock},
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
    /// The entitlement has ended, and a peer is to take it.
    EntitlementGivenUp { peer: PeerIndex, link: LinkId },
    /// The entitlement has ended, for a peer that asks for the role.
    EntitlementEnded { peer: PeerIndex, link: LinkId, term: Term },
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
    /// That this copy was set back is stable (D6).
    SetBackNoted,
    /// The attach counter has risen, and that it is shown is noted (D6).
    CounterShown,
    /// The volume has the size that it has grown to.
    Grown,
    /// A command's change is stable.
    Answered(CommandId),
    /// This copy counts as bad, durably; the peer ordered it.
    Invalidated { peer: PeerIndex, link: LinkId },
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
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pair: SuperblockPair,
    /// What the superblock is to be.
    wanted: Superblock,
    changed: bool,
    /// The copy of the superblock that is not the newest says something else: it follows, so that the loss of one copy
    /// loses nothing.
    copy_due: bool,
    activity: ActivityLog,
    activity_damaged: bool,
    bitmaps: Vec<DirtyBitmap>,
    waiting: Vec<(Need, Then)>,
    /// Bits are to be written although nobody waits for them.
    flush_bits: bool,
    /// Extents that were not written to since are to leave the activity log.
    idle_since: Option<Sequence>,
    commit: Option<Commit>,
    growth: Option<growth::Growth>,
    /// The disk has failed: only that is still recorded, everything else has ended (W4).
    condemned: bool,
}

/// A commit under way.
#[derive(Clone, Debug)]
struct Commit {
    then: Vec<Then>,
    superblock: bool,
    activity: bool,
    bitmaps: Vec<bool>,
}

/// What a finished commit brings.
#[derive(Clone, Debug, Default)]
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
            copy_due: false,
            activity,
            activity_damaged,
            bitmaps,
            waiting,
            flush_bits: false,
            idle_since: None,
            commit,
            growth: None,
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

    /// The size that is in force: that of the superblock on stable media.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.pair.current().layout.geometry().size_bytes()
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

    /// What this node kept of the writes under its head (G8).
    pub(crate) fn evidence(&self) -> Evidence {
        self.wanted.evidence
    }

    /// The attach counter that this peer may be shown, because it is noted on stable media that it is (D6).
    pub(crate) fn shown_counter(&self, peer: PeerIndex) -> AttachCounter {
        let superblock = self.stable_superblock();
        let record = superblock.peers[peer.as_usize()];
        record.map_or(AttachCounter(0), |record| record.attach_counter_shown).max(superblock.given_up_at)
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

    /// A copy that belonged to another cluster or volume is given up for this one (G6). Whether it was one.
    pub(crate) fn replace_identity(&mut self, cluster: ClusterId, volume: VolumeId) -> bool {
        let differs = self.wanted.cluster.is_some_and(|own| own != cluster)
            || self.wanted.volume.is_some_and(|own| own != volume);
        if differs {
            let superblock = self.change();
            (superblock.cluster, superblock.volume) = (Some(cluster), Some(volume));
        }
        differs
    }

    /// This peer is this node from now on; what was known of another one there is forgotten.
    pub(crate) fn bind_peer(&mut self, peer: PeerIndex, node: NodeId) {
        self.change().peers[peer.as_usize()] = Some(PeerRecord {
            node,
            standing: Standing::Never,
            outdated_confirmed: false,
            attach_counter_seen: AttachCounter(0),
            attach_counter_shown: AttachCounter(0),
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

    /// Whether the peer has itself confirmed that it is durably Outdated, and can have nothing of our head (P1). The
    /// generation that was made without it is part of this: before that is stable, what was answered with the peer may
    /// be in this node's cache alone, and the peer still have it.
    ///
    /// Only the node that is entitled may conclude anything from it: others may have filled the peer without this one.
    pub(crate) fn is_known_to_be_old(&self, peer: PeerIndex) -> bool {
        let Some(head) = self.head() else { return false };
        self.record(peer)
            .is_some_and(|record| record.outdated_confirmed && record.standing.is_before(head.id))
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

    /// A run of the daemon begins on this disk (D4, D6, G8). The counter rises beyond what was reached before, also if
    /// the metadata do not know that any more.
    pub(crate) fn begin_run(&mut self, run: super::config::RunInfo, reached: Option<AttachCounter>) {
        let same_boot = self.wanted.boot == Some(run.boot);
        let superblock = self.change();
        superblock.evidence = superblock.evidence.after_attach(same_boot);
        superblock.instance = Some(run.instance);
        superblock.boot = Some(run.boot);
        let made_anew = superblock.flags.fresh && reached > Some(superblock.attach_counter);
        superblock.attach_counter = superblock.attach_counter.max(reached.unwrap_or_default());
        self.raise_counter(run.boot_clock_nanos);
        if made_anew {
            self.give_up_past();
        }
    }

    /// Whether the kernel's cache may show what the media do not have, for as long as the machine runs (W4).
    pub(crate) fn doubt_cache(&mut self, in_doubt: bool) {
        self.change().cache_in_doubt = in_doubt;
    }

    /// The attach counter rises: the state that a snapshot may hold is left behind (D6).
    pub(crate) fn raise_counter(&mut self, boot_clock_nanos: u64) {
        let superblock = self.change();
        superblock.attach_counter = AttachCounter(superblock.attach_counter.0 + 1);
        superblock.counted_at_boot_nanos = boot_clock_nanos;
    }

    /// The peer is to be shown the attach counter as it is now (D6).
    pub(crate) fn show_counter(&mut self, peer: PeerIndex) {
        let counter = self.wanted.attach_counter;
        if let Some(record) = self.record_mut(peer) {
            record.attach_counter_shown = counter;
        }
    }

    /// P4: the term, the entitlement and the mark of a primary, with the generation that follows.
    pub(crate) fn become_primary(&mut self, term: Term) {
        let superblock = self.change();
        superblock.highest_term = Some(term);
        superblock.flags = Flags {
            fresh: false,
            consistent: true,
            was_up_to_date: true,
            crashed_primary: true,
            entitled: true,
        };
    }

    /// All that this copy has under its head is stable, and nothing comes any more (G8).
    pub(crate) fn set_settled(&mut self) {
        self.change().evidence.settled = true;
    }

    /// Writes come again, under the head that this copy has: a power loss may cost some (found by the simulator: a host
    /// that had left cleanly under this head was taken for one that had lost nothing).
    pub(crate) fn set_unsettled(&mut self) {
        if self.wanted.evidence.settled {
            self.change().evidence.settled = false;
        }
    }

    /// A peer with an equal copy has kept this much of the writes under the head that both have (G8).
    pub(crate) fn share_evidence(&mut self, theirs: Power) {
        let better = match (self.wanted.evidence.power, theirs) {
            (Power::Lost, Power::Lost) => Power::Lost,
            (Power::SameRun | Power::SameBoot, _) | (_, Power::SameRun | Power::SameBoot) => Power::SameRun,
        };
        self.change().evidence.power = better;
    }

    /// P5: everything is stable everywhere.
    pub(crate) fn become_secondary(&mut self) {
        self.change().flags.crashed_primary = false;
        self.flush_bits = true;
    }

    pub(crate) fn set_entitled(&mut self, entitled: bool) {
        self.change().flags.entitled = entitled;
    }

    pub(crate) fn set_up_to_date(&mut self, keep_crashed: bool) {
        let superblock = self.change();
        superblock.flags.was_up_to_date = true;
        superblock.flags.crashed_primary &= keep_crashed;
    }

    /// This node is no primary any more whose process died.
    pub(crate) fn end_crashed_role(&mut self) {
        if self.wanted.flags.crashed_primary {
            self.change().flags.crashed_primary = false;
        }
    }

    pub(crate) fn set_doubtful(&mut self) {
        if self.wanted.flags.was_up_to_date {
            self.change().flags.was_up_to_date = false;
        }
    }

    /// Everything is stable and nothing comes any more (P6).
    pub(crate) fn record_clean_shutdown(&mut self) {
        self.set_settled();
        let superblock = self.change();
        superblock.clean_shutdown = Some(superblock.attach_counter);
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
