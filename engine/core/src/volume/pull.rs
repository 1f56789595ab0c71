//! The target of a resync: which blocks to ask for, and what to do with the answers (R1-R4).
//!
//! ```text
//!   Reading own ──digests──> Asked ──part came──> Parked until applied >= read_at ──> Storing ──> stored
//!   stored ──flush──> settled: own bits cleared, the source told
//! ```
//!
//! Why a part has to wait and may have to be dropped: the writes and the answers come on different streams. A
//! part shows the source's disk after every write up to `read_at`; it must not be stored before those are
//! applied (an older one would come on top), nor over a later one.
//!
//! Invariants:
//! - no range lock is held while waiting for a sequence (R3), so application writes never wait for a stream;
//! - a block is settled only if it was stored as the source read it, after a flush that began afterwards;
//!   a dropped block keeps its bit and is asked for again (R4).

use bytes::Bytes;

use super::{
    codec::limits,
    disk_failure::Failure,
    follow::Phase,
    io::{Action, Area, Channel, DiskError, LinkId, ZeroMode},
    operation::{Kind, Purpose},
    peer::Session,
    range_lock::Access,
    slab::Key,
    span::ByteSpan,
    store::Then,
    supply::digest,
    volume::{Broken, Volume},
    wire::{BlockContent, Frame},
};
use crate::{
    ids::{PeerIndex, Sequence},
    meta::stable_proof::{SessionId, StableProof},
};

/// Pulls under way at once: the credit window (R1).
const PULLS_MAX: usize = 16;
/// Bytes of one pull.
const PULL_BYTES_MAX: u64 = 64 << 10;
/// After this many stored bytes they are made stable and settled.
const SETTLE_BYTES: u64 = 4 << 20;

/// The state of a resync into this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulling {
    /// Whether the source has told all its bits.
    runs_done: bool,
    /// Whether blocks may be copied: this node is durably Inconsistent.
    may_copy: bool,
    /// Whether what can be read here may stand for what is on the media. If not, everything is written.
    compare: bool,
    /// Where to look for the next bit.
    cursor: u64,
    pulls: Vec<Pull>,
    next_id: u64,
    /// Stored, not stable yet.
    stored: Vec<(ByteSpan, Sequence)>,
    /// Under the flush that is on its way.
    flushing: Option<Vec<(ByteSpan, Sequence)>>,
}

#[derive(Clone, Debug)]
struct Pull {
    id: u64,
    span: ByteSpan,
    step: Step,
    /// For each block the last write of the primary that came since the pull began.
    overwritten: Vec<Sequence>,
    /// What each block shows here, if the source is not asked to compare with it, and third nodes matter.
    shown: Vec<u128>,
}

#[derive(Clone, Debug)]
enum Step {
    Reading,
    Asked,
    Parked { read_at: Sequence, blocks: Vec<BlockContent> },
    Storing,
}

impl Pulling {
    pub(crate) fn new(may_copy: bool, compare: bool) -> Self {
        Self { may_copy, compare, ..Self::default() }
    }

    fn pull_mut(&mut self, id: u64) -> Option<&mut Pull> {
        self.pulls.iter_mut().find(|pull| pull.id == id)
    }

    fn is_idle(&self) -> bool {
        self.pulls.is_empty() && self.stored.is_empty() && self.flushing.is_none()
    }
}

impl Volume {
    fn pulling_mut(&mut self, peer: PeerIndex) -> Option<&mut Pulling> {
        match &mut self.peer_mut(peer).session {
            Session::Following(following) => match &mut following.phase {
                Phase::Pulling(pulling) => Some(pulling),
                Phase::Asking | Phase::Taking { .. } | Phase::InSync => None,
            },
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Apart(_) => None,
        }
    }

    fn pulling_on(&mut self, peer: PeerIndex, link: LinkId) -> Option<&mut Pulling> {
        if self.peer(peer).link != Some(link) {
            return None;
        }
        self.pulling_mut(peer)
    }

    /// The source's bits join ours (G7).
    pub(crate) fn on_runs(&mut self, peer: PeerIndex, runs: &[ByteSpan]) -> Result<(), Broken> {
        let Some(pulling) = self.pulling_mut(peer) else {
            return Err(Broken("bits for a resync that is not under way"));
        };
        if !pulling.may_copy && !runs.is_empty() {
            return Err(Broken("bits where none were reported"));
        }
        for &run in runs {
            if !self.is_valid(run) {
                return Err(Broken("bits outside the device"));
            }
            self.store_mut().mark_dirty(peer, run, Sequence::ZERO);
        }
        Ok(())
    }

    pub(crate) fn on_runs_end(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let Some(pulling) = self.pulling_mut(peer) else {
            return Err(Broken("bits for a resync that is not under way"));
        };
        pulling.runs_done = true;
        let total_bytes = self.store().dirty_bytes(peer);
        if let Some(progress) = &mut self.following_mut(peer)?.progress {
            progress.set_total(total_bytes);
        }
        self.advance_pulling(peer);
        Ok(())
    }

    /// Carries on every resync into this node.
    pub(crate) fn advance_pulls(&mut self) {
        for peer in self.peer_indices() {
            self.advance_pulling(peer);
        }
    }

    pub(crate) fn advance_pulling(&mut self, peer: PeerIndex) {
        let Session::Following(following) = &self.peer(peer).session else { return };
        let Phase::Pulling(pulling) = &following.phase else { return };
        if following.received().is_none() || !pulling.runs_done || self.resync_paused {
            return;
        }
        let applied = following.applied;
        self.store_parked(peer, applied);
        self.begin_pulls(peer);
        self.settle_stored(peer);
        let done = self.store().dirty_blocks(peer) == 0;
        if done && self.pulling_mut(peer).is_some_and(|pulling| pulling.is_idle()) {
            if let Ok(following) = self.following_mut(peer) {
                following.phase = Phase::Asking;
            }
            self.send(peer, Channel::Resync, Frame::Finish);
        }
    }

    /// Begins pulls while there is credit and there are bits ahead.
    fn begin_pulls(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let third_nodes = self.has_third_nodes();
        while let Some(pulling) = self.pulling_mut(peer)
            && pulling.pulls.len() < PULLS_MAX
        {
            let cursor = pulling.cursor;
            let wrap = cursor > 0 && pulling.is_idle();
            let Some(span) = self.store().next_dirty(peer, cursor, PULL_BYTES_MAX) else {
                if !wrap {
                    return;
                }
                // What was dropped is asked for again, once everything else is settled.
                self.pulling_mut(peer).expect("just looked at").cursor = 0;
                continue;
            };
            if !self.may_resync(span.len) {
                return;
            }
            let blocks = usize::try_from(span.len.div_ceil(self.store().block_bytes())).expect("few");
            let pulling = self.pulling_mut(peer).expect("just looked at");
            let id = pulling.next_id;
            pulling.next_id += 1;
            pulling.cursor = span.end();
            let overwritten = vec![Sequence::ZERO; blocks];
            let reads = pulling.compare || third_nodes;
            let step = if reads { Step::Reading } else { Step::Asked };
            pulling.pulls.push(Pull { id, span, step, overwritten, shown: Vec::new() });
            if !reads {
                self.ask(peer, id, span, Vec::new());
                continue;
            }
            let tag = self.tag(Purpose::TargetRead { peer, link, pull: id });
            self.out.push(Action::Read { tag, area: Area::Data, span });
        }
    }

    pub(crate) fn on_target_read(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        id: u64,
        result: Result<Bytes, DiskError>,
    ) {
        let block_bytes = self.store().block_bytes();
        let Some(pulling) = self.pulling_on(peer, link) else { return };
        let compare = pulling.compare;
        let pull = pulling.pull_mut(id).expect("a pull lives until its steps are over");
        // What cannot be read cannot be compared; it is still written over.
        let mut digests = match &result {
            Ok(data) => data.chunks(usize::try_from(block_bytes).expect("a block")).map(digest).collect(),
            Err(_) => Vec::new(),
        };
        pull.step = Step::Asked;
        if !compare {
            pull.shown = std::mem::take(&mut digests);
        }
        let span = pull.span;
        self.ask(peer, id, span, digests);
    }

    fn ask(&mut self, peer: PeerIndex, id: u64, span: ByteSpan, digests: Vec<u128>) {
        let after = self.following_mut(peer).expect("only a follower asks").applied;
        self.send(peer, Channel::Resync, Frame::Pull { id, span, after, digests });
    }

    pub(crate) fn on_part(
        &mut self,
        peer: PeerIndex,
        id: u64,
        read_at: Sequence,
        blocks: Vec<BlockContent>,
    ) -> Result<(), Broken> {
        let block_bytes = self.store().block_bytes();
        let Some(pulling) = self.pulling_mut(peer) else {
            return Err(Broken("an answer to a resync that is not under way"));
        };
        let Some(pull) = pulling.pull_mut(id) else {
            return Err(Broken("an answer to something that was not asked"));
        };
        if !matches!(pull.step, Step::Asked) || blocks.len() != pull.overwritten.len() {
            return Err(Broken("an answer that does not fit the question"));
        }
        let mut offset = pull.span.offset;
        for block in &blocks {
            let len = block_bytes.min(pull.span.end() - offset);
            if matches!(block, BlockContent::Data(data) if data.len() as u64 != len) {
                return Err(Broken("an answer with a block of the wrong size"));
            }
            offset += len;
        }
        let moved = blocks.iter().map(|block| match block {
            BlockContent::Data(data) => data.len() as u64,
            BlockContent::Same | BlockContent::Zero => 0,
        });
        let (compared, moved) = (pull.span.len, moved.sum());
        pull.step = Step::Parked { read_at, blocks };
        if let Some(progress) = &mut self.following_mut(peer)?.progress {
            progress.compared(compared, moved);
        }
        self.advance_pulling(peer);
        Ok(())
    }

    /// Parts whose sequence is reached take the range lock (R3).
    fn store_parked(&mut self, peer: PeerIndex, applied: Sequence) {
        let Some(link) = self.peer(peer).link else { return };
        let Some(pulling) = self.pulling_mut(peer) else { return };
        let ready: Vec<(u64, ByteSpan)> = pulling
            .pulls
            .iter()
            .filter(|pull| matches!(pull.step, Step::Parked { read_at, .. } if read_at <= applied))
            .map(|pull| (pull.id, pull.span))
            .collect();
        for (id, span) in ready {
            let pulling = self.pulling_mut(peer).expect("just looked at");
            let pull = pulling.pull_mut(id).expect("just looked at");
            let Step::Parked { read_at, blocks } = std::mem::replace(&mut pull.step, Step::Asked) else {
                panic!("just looked at")
            };
            pull.step = Step::Storing;
            let kind =
                Kind::TargetStore { peer, link, pull: id, read_at, blocks, writes_left: 0, kept: Vec::new() };
            self.enter(span, Access::Change, kind);
        }
    }

    /// The interval is locked. With three nodes every other peer may lack what changes now: that is stable first
    /// (G9). Where the digests agree nothing is marked: else two targets would never be done with each other, nor a
    /// copy that is not compared with both of its sources (found by the simulator).
    pub(crate) fn begin_target_store(&mut self, key: Key) {
        if !self.has_third_nodes() || !self.mark_for_third_nodes(key) {
            self.store_blocks(key);
        }
    }

    /// Marks what a resync is about to change for every peer but its source; whether that is on its way.
    fn mark_for_third_nodes(&mut self, key: Key) -> bool {
        let block_bytes = self.store().block_bytes();
        let operation = self.operations.get_mut(key).expect("an operation in the lock exists");
        let Kind::TargetStore { peer, link, pull, read_at, .. } = operation.kind else {
            panic!("only a resync stores")
        };
        let (source, span) = (peer, operation.span);
        let pull = self.pulling_on(source, link).and_then(|pulling| pulling.pull_mut(pull));
        let shown = pull.map(|pull| std::mem::take(&mut pull.shown)).unwrap_or_default();
        let Kind::TargetStore { blocks, .. } = &self.operations.get_mut(key).expect("just looked at").kind
        else {
            panic!("only a resync stores")
        };
        let block_len = usize::try_from(block_bytes).expect("a block");
        let changed: Vec<ByteSpan> = (span.offset..span.end())
            .step_by(block_len)
            .map(|offset| ByteSpan { offset, len: block_bytes.min(span.end() - offset) })
            .zip(blocks)
            .enumerate()
            .filter(|&(place, (block, content))| match (content, shown.get(place)) {
                (BlockContent::Same, _) => false,
                (BlockContent::Data(data), Some(shown)) => digest(data) != *shown,
                (BlockContent::Zero, Some(shown)) => {
                    digest(&vec![0; usize::try_from(block.len).expect("a block")]) != *shown
                }
                (BlockContent::Data(_) | BlockContent::Zero, None) => true,
            })
            .map(|(_, (block, _))| block)
            .collect();
        let mut waits = false;
        for peer in self.peer_indices().filter(|&peer| peer != source) {
            if !self.store().keeps_bits_for(peer) {
                continue;
            }
            for &block in &changed {
                let stable = self.store().is_marked(peer, block);
                self.store_mut().mark_dirty(peer, block, read_at);
                waits |= !stable;
            }
        }
        if waits {
            self.store_mut().after_bitmaps(Then::TargetMarked { operation: key });
        }
        waits
    }

    pub(crate) fn on_target_marked(&mut self, key: Key) {
        self.store_blocks(key);
    }

    /// Stores the blocks that no later write has replaced.
    fn store_blocks(&mut self, key: Key) {
        let operation = self.operations.get_mut(key).expect("an operation in the lock exists");
        let Kind::TargetStore { peer, link, pull, read_at, blocks, .. } = &mut operation.kind else {
            panic!("only a resync stores")
        };
        let (peer, link, id, read_at, blocks) = (*peer, *link, *pull, *read_at, std::mem::take(blocks));
        let block_bytes = self.store().block_bytes();
        let Some(pulling) = self.pulling_on(peer, link) else {
            self.leave(key);
            return;
        };
        let pull = pulling.pull_mut(id).expect("a pull lives until its steps are over");
        let span = pull.span;
        let mut kept = Vec::new();
        let mut writes = Vec::new();
        let mut offset = span.offset;
        for (block, &overwritten) in blocks.into_iter().zip(&pull.overwritten) {
            let len = block_bytes.min(span.end() - offset);
            if overwritten <= read_at {
                kept.push(ByteSpan { offset, len });
                writes.push((ByteSpan { offset, len }, block));
            }
            offset += len;
        }
        let mut writes_left = 0;
        for (span, block) in writes {
            let tag = match block {
                BlockContent::Same => continue,
                BlockContent::Zero | BlockContent::Data(_) => {
                    self.tag(Purpose::TargetWrite { operation: key })
                }
            };
            writes_left += 1;
            self.out.push(match block {
                BlockContent::Data(payload) => {
                    Action::Write { tag, offset: span.offset, payload, fua: false }
                }
                BlockContent::Zero | BlockContent::Same => {
                    Action::Zero { tag, span, mode: ZeroMode::Punch, fua: false }
                }
            });
        }
        let operation = self.operations.get_mut(key).expect("still in the lock");
        let Kind::TargetStore { writes_left: left, kept: keeps, .. } = &mut operation.kind else {
            panic!("only a resync stores")
        };
        (*left, *keeps) = (writes_left, kept);
        if writes_left == 0 {
            self.end_target_store(key);
        }
    }

    pub(crate) fn on_target_write_done(&mut self, key: Key, result: Result<(), DiskError>) {
        if let Err(error) = result {
            self.fail_disk(Failure::Write(error));
        }
        let operation = self.operations.get_mut(key).expect("an operation outlives its disk actions");
        let Kind::TargetStore { writes_left, .. } = &mut operation.kind else {
            panic!("only a resync stores")
        };
        *writes_left -= 1;
        if *writes_left == 0 {
            self.end_target_store(key);
        }
    }

    fn end_target_store(&mut self, key: Key) {
        let operation = self.leave(key);
        let Kind::TargetStore { peer, link, pull: id, read_at, kept, .. } = operation.kind else {
            panic!("only a resync stores")
        };
        self.advance_promotion();
        if self.disk == super::DiskState::Failed {
            return;
        }
        let Some(pulling) = self.pulling_on(peer, link) else { return };
        let at = pulling.pulls.iter().position(|pull| pull.id == id).expect("a storing pull is listed");
        pulling.pulls.swap_remove(at);
        pulling.stored.extend(kept.into_iter().map(|span| (span, read_at)));
    }

    /// Makes stable what is stored, when it is enough or nothing else is left to do.
    fn settle_stored(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let Some(pulling) = self.pulling_mut(peer) else { return };
        let bytes: u64 = pulling.stored.iter().map(|(span, _)| span.len).sum();
        let enough = bytes >= SETTLE_BYTES || pulling.pulls.is_empty();
        if bytes == 0 || !enough || pulling.flushing.is_some() {
            return;
        }
        pulling.flushing = Some(std::mem::take(&mut pulling.stored));
        let tag = self.tag(Purpose::TargetFlush { peer, link });
        self.out.push(Action::Flush { tag });
    }

    pub(crate) fn on_target_flush_done(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        result: Result<(), DiskError>,
    ) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            return;
        }
        let Some(pulling) = self.pulling_on(peer, link) else { return };
        let spans = pulling.flushing.take().expect("one flush of a resync at a time");
        for &(span, read_at) in &spans {
            let session = SessionId(link.0);
            let proof = StableProof::from_acknowledgement(peer, session, span.offset..span.end(), read_at);
            let cleared = self.store_mut().clear_dirty(peer, &proof);
            assert!(cleared, "the own store of this session is a proof");
        }
        let now = self.now;
        if let Ok(following) = self.following_mut(peer)
            && let Some(progress) = &mut following.progress
        {
            progress.settled(spans.iter().map(|(span, _)| span.len).sum(), now);
        }
        for spans in spans.chunks(limits::SETTLED_MAX) {
            self.send(peer, Channel::Resync, Frame::Settled(spans.to_vec()));
        }
    }

    /// Takes note of what a write of the primary replaces in the pulls under way (R4).
    pub(crate) fn note_overwritten(&mut self, peer: PeerIndex, sequence: Sequence, span: ByteSpan) {
        let block_bytes = self.store().block_bytes();
        let Some(pulling) = self.pulling_mut(peer) else { return };
        for pull in &mut pulling.pulls {
            if !pull.span.overlaps(span) {
                continue;
            }
            let mut offset = pull.span.offset;
            for overwritten in &mut pull.overwritten {
                let len = block_bytes.min(pull.span.end() - offset);
                if span.overlaps(ByteSpan { offset, len }) {
                    *overwritten = sequence;
                }
                offset += len;
            }
        }
    }
}
