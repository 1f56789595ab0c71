//! The side of a link that gets the other's writes: applying them in the primary's order, acknowledging, and
//! the end of a resync into this node (R6).
//!
//! ```text
//!              no bits left, all settled      Counted            applied, flushed, head taken
//!   Pulling ─────────────────────────> Asking ───────> Taking ──────────────────────────────> InSync
//! ```
//!
//! Invariants:
//! - writes arrive without gaps; overlapping ones are applied in the order of arrival (the range lock);
//! - `StableTo(n)` is sent only after a flush that began when everything up to `n` was applied.
//!
//! With two data nodes a follower needs no activity log of its own: whatever it may have applied beyond the
//! primary is in an extent that the primary's log keeps hot until the follower reported it stable. With three it
//! keeps what it applied until that is stable everywhere (`survivors`).

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    DiskState, Role,
    config::Protocol,
    disk_failure::Failure,
    host::Hosting,
    io::{Action, Channel, DiskError, LinkId, Notice, ZeroMode},
    operation::{Content, Kind, Purpose},
    peer::Session,
    progress::Progress,
    pull::Pulling,
    range_lock::Access,
    remote_read::Fetch,
    span::ByteSpan,
    store::Then,
    survivors::Kept,
    verify::Question,
    volume::{Broken, Volume},
    wire::{Frame, Retained},
};
use crate::ids::{ClusterId, Generation, PeerIndex, Sequence, VolumeId};

/// The state of a link that we follow.
#[derive(Clone, Debug)]
pub(crate) struct Following {
    pub(crate) phase: Phase,
    /// The last write received; `None` before `Start`.
    received: Option<Sequence>,
    /// Everything up to here is applied.
    pub(crate) applied: Sequence,
    /// What was applied when this node's attach counter rose last (D6).
    pub(crate) counted: Sequence,
    /// Whether the writes after `applied` are applied, in order.
    beyond: VecDeque<bool>,
    stable: Sequence,
    /// Up to where the primary wants flushes, in order. On protocol A a later write may wait for an earlier flush,
    /// so each counts by itself.
    flush_points: VecDeque<Sequence>,
    flush_under_way: bool,
    /// Writes that may not begin yet (protocol A), in order.
    parked: VecDeque<Parked>,
    /// Writes from here on may not begin before this is stable (protocol A).
    barrier: Sequence,
    /// Comparisons that the leader asked for.
    pub(crate) questions: Vec<Question>,
    /// Whether this node serves for a leader without a disk (W7).
    pub(crate) hosting: Hosting,
    /// What the leader wants to read.
    pub(crate) fetches: Vec<Fetch>,
    /// How far the resync is, if blocks are copied.
    pub(crate) progress: Option<Progress>,
    /// With three nodes: what survivors of the leader may have to compare.
    pub(crate) kept: Kept,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Copying what differs.
    Pulling(Pulling),
    /// `Finish` is sent.
    Asking,
    /// The source counts us; its head is to be taken once everything up to `after` is stable.
    Taking { after: Sequence, head: Generation, ancestors: Vec<Generation>, kept: Retained, committing: bool },
    /// In sync.
    InSync,
}

#[derive(Clone, Debug)]
struct Parked {
    sequence: Sequence,
    /// Everything up to here must be applied before.
    applied: Sequence,
    /// Everything up to here must be stable before.
    stable: Sequence,
    span: ByteSpan,
    content: Content,
    fua: bool,
}

impl Following {
    pub(crate) fn new(phase: Phase, progress: Option<Progress>) -> Self {
        Self {
            phase,
            received: None,
            applied: Sequence::ZERO,
            counted: Sequence::ZERO,
            beyond: VecDeque::new(),
            stable: Sequence::ZERO,
            flush_points: VecDeque::new(),
            flush_under_way: false,
            parked: VecDeque::new(),
            barrier: Sequence::ZERO,
            questions: Vec::new(),
            hosting: Hosting::No,
            fetches: Vec::new(),
            progress,
            kept: Kept::default(),
        }
    }

    pub(crate) fn in_sync(&self) -> bool {
        matches!(self.phase, Phase::InSync)
    }

    /// Whether the only copy is here.
    pub(crate) fn is_host(&self) -> bool {
        self.hosting == Hosting::Serving
    }

    /// The last write that came in.
    pub(crate) fn received(&self) -> Option<Sequence> {
        self.received
    }

    /// A flush is wanted when everything up to `upto` is applied.
    fn want_flush(&mut self, upto: Sequence) {
        if upto > self.stable && self.flush_points.back().is_none_or(|&last| last < upto) {
            self.flush_points.push_back(upto);
        }
    }

    fn note_applied(&mut self, sequence: Sequence) {
        assert!(sequence > self.applied, "a write is applied once");
        let at = usize::try_from(sequence.0 - self.applied.0 - 1).expect("what is in flight is in memory");
        if at >= self.beyond.len() {
            self.beyond.resize(at + 1, false);
        }
        self.beyond[at] = true;
        while self.beyond.front() == Some(&true) {
            self.beyond.pop_front();
            self.applied = self.applied.next();
        }
    }
}

impl Volume {
    pub(crate) fn following_mut(&mut self, peer: PeerIndex) -> Result<&mut Following, Broken> {
        match &mut self.peer_mut(peer).session {
            Session::Following(following) => Ok(following),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Apart(_) => Err(Broken("a write from a peer that we do not follow")),
        }
    }

    /// The state of the link if it is still the one that something was begun on.
    fn following_on(&mut self, peer: PeerIndex, link: LinkId) -> Option<&mut Following> {
        if self.peer(peer).link != Some(link) {
            return None;
        }
        self.following_mut(peer).ok()
    }

    pub(crate) fn begin_following(&mut self, peer: PeerIndex, phase: Phase, progress: Option<Progress>) {
        assert_eq!(self.role, Role::Secondary, "a primary follows nobody (G1)");
        let link = self.peer(peer).link.expect("a session has a link");
        self.store_mut().begin_session_of_leader(peer, link);
        self.peer_mut(peer).session = Session::Following(Box::new(Following::new(phase, progress)));
        self.begin_stream(peer);
        self.announce_following(peer);
    }

    /// The session alone: of two fellows neither writes.
    pub(crate) fn follow_fellow(&mut self, peer: PeerIndex) {
        self.peer_mut(peer).session = Session::Following(Box::new(Following::new(Phase::InSync, None)));
        self.announce_following(peer);
    }

    fn announce_following(&mut self, peer: PeerIndex) {
        let replication = self.peer(peer).replication();
        self.notice(Notice::Peer(peer, replication));
    }

    pub(crate) fn on_start(&mut self, peer: PeerIndex, after: Sequence) -> Result<(), Broken> {
        // The data channel may be ahead of the control channel: the session is told by `Ready` or `Offer`,
        // both of which this node has sent or answered before `Start` can be sent.
        let following = self.following_mut(peer)?;
        if following.received.is_some() {
            return Err(Broken("a second start of the same stream"));
        }
        following.received = Some(after);
        following.applied = after;
        following.stable = after;
        self.take_word(peer);
        self.advance_follower_flush(peer);
        self.advance_pulling(peer);
        Ok(())
    }

    pub(crate) fn on_replica_write(
        &mut self,
        peer: PeerIndex,
        sequence: Sequence,
        after: Sequence,
        offset: u64,
        payload: Bytes,
        fua: bool,
    ) -> Result<(), Broken> {
        let span = ByteSpan { offset, len: payload.len() as u64 };
        self.on_replica(peer, sequence, after, span, Content::Data(payload), fua)
    }

    pub(crate) fn on_replica_zero(
        &mut self,
        peer: PeerIndex,
        sequence: Sequence,
        after: Sequence,
        span: ByteSpan,
        mode: ZeroMode,
        fua: bool,
    ) -> Result<(), Broken> {
        self.on_replica(peer, sequence, after, span, Content::Zero(mode), fua)
    }

    fn on_replica(
        &mut self,
        peer: PeerIndex,
        sequence: Sequence,
        after: Sequence,
        span: ByteSpan,
        content: Content,
        fua: bool,
    ) -> Result<(), Broken> {
        if !self.is_valid(span) {
            return Err(Broken("a write outside the device"));
        }
        if self.disk == DiskState::Failed {
            return Ok(());
        }
        if self.has_third_nodes() && !self.is_stream_of(peer) {
            // It would be kept for no third node (G9).
            return Err(Broken("a write of a node that does not lead"));
        }
        let receipt = self.config.protocol == Protocol::B;
        let fits = self.store().fits_piece(span);
        let following = self.following_mut(peer)?;
        if following.received.map(Sequence::next) != Some(sequence) {
            return Err(Broken("a write out of order"));
        }
        if after >= sequence {
            return Err(Broken("a write that waits for itself"));
        }
        if following.is_host() && !fits {
            return Err(Broken("a write that needs too much of the activity log"));
        }
        following.received = Some(sequence);
        let stable = following.barrier;
        following.parked.push_back(Parked { sequence, applied: after, stable, span, content, fua });
        if receipt {
            self.send(peer, Channel::Data, Frame::Received(sequence));
        }
        self.keep(peer, sequence, span);
        self.note_overwritten(peer, sequence, span);
        self.unpark(peer);
        Ok(())
    }

    /// Begins the writes that may begin, in order.
    fn unpark(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        while let Ok(following) = self.following_mut(peer)
            && let Some(first) = following.parked.front()
            && first.applied <= following.applied
            && first.stable <= following.stable
        {
            let Parked { sequence, span, content, fua, .. } =
                following.parked.pop_front().expect("there is a front");
            let hosted = following.is_host().then_some(Sequence::ZERO);
            let kind = Kind::Replica { peer, link, sequence, content, fua, hosted };
            self.enter(span, Access::Change, kind);
        }
    }

    /// A write of the primary is on the own disk.
    pub(crate) fn on_replica_applied(&mut self, peer: PeerIndex, link: LinkId, sequence: Sequence) {
        let Some(following) = self.following_on(peer, link) else { return };
        following.note_applied(sequence);
        let upto = following.applied;
        let also = if sequence > upto { vec![sequence] } else { Vec::new() };
        self.send(peer, Channel::Data, Frame::Applied { upto, also });
        self.unpark(peer);
        self.advance_follower_flush(peer);
        self.advance_pulling(peer);
        self.advance_questions(peer);
        self.advance_fetches(peer);
        self.advance_hosting(peer);
    }

    pub(crate) fn on_flush_to(&mut self, peer: PeerIndex, upto: Sequence) -> Result<(), Broken> {
        let ordered = self.config.protocol == Protocol::A;
        let following = self.following_mut(peer)?;
        if following.received < Some(upto) {
            return Err(Broken("a flush of writes that were not sent"));
        }
        following.want_flush(upto);
        if ordered {
            following.barrier = following.barrier.max(upto);
        }
        self.advance_follower_flush(peer);
        Ok(())
    }

    /// Flushes for the primary when everything that it wants stable is applied.
    pub(crate) fn advance_follower_flush(&mut self, peer: PeerIndex) {
        if self.disk == DiskState::Failed {
            return;
        }
        let Some(link) = self.peer(peer).link else { return };
        let Ok(following) = self.following_mut(peer) else { return };
        if let Phase::Taking { after, .. } = following.phase {
            following.want_flush(after);
        }
        let (upto, stable) = (following.applied, following.stable);
        while following.flush_points.front().is_some_and(|&point| point <= stable) {
            following.flush_points.pop_front();
        }
        let due = following.flush_points.front().is_some_and(|&point| point <= upto);
        if following.flush_under_way || !due {
            self.advance_taking(peer);
            return;
        }
        following.flush_under_way = true;
        let tag = self.tag(Purpose::FollowerFlush { peer, link, upto });
        self.out.push(Action::Flush { tag });
    }

    pub(crate) fn on_follower_flush_done(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        upto: Sequence,
        result: Result<(), DiskError>,
    ) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            return;
        }
        let Some(following) = self.following_on(peer, link) else { return };
        following.flush_under_way = false;
        following.stable = upto;
        self.send(peer, Channel::Data, Frame::StableTo(upto));
        self.unpark(peer);
        self.advance_follower_flush(peer);
    }

    /// The source counts us for every write after `after`: its head may be taken (R6).
    pub(crate) fn on_counted(
        &mut self,
        peer: PeerIndex,
        after: Sequence,
        head: Generation,
        ancestors: Vec<Generation>,
        kept: Retained,
    ) -> Result<(), Broken> {
        let following = self.following_mut(peer)?;
        if !matches!(following.phase, Phase::Asking) {
            return Err(Broken("counted without having asked"));
        }
        following.phase = Phase::Taking { after, head, ancestors, kept, committing: false };
        self.advance_follower_flush(peer);
        Ok(())
    }

    /// Takes the head once everything up to the agreed write is stable.
    fn advance_taking(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let Ok(following) = self.following_mut(peer) else { return };
        let stable = following.stable;
        let Phase::Taking { after, head, ancestors, kept, committing } = &mut following.phase else { return };
        if *committing || stable < *after {
            return;
        }
        *committing = true;
        let (head, ancestors, kept) = (*head, std::mem::take(ancestors), *kept);
        // Of a fresh pair the proposer had no ids yet when it said hello; they follow from its generation.
        let oldest = ancestors.last().unwrap_or(&head).id;
        let (cluster, volume) = self.peer(peer).identity.unwrap_or((ClusterId(oldest.0), VolumeId(oldest.0)));
        self.store_mut().set_identity(cluster, volume);
        if self.store_mut().take_head(peer, head, ancestors, kept).is_err() {
            self.close_link(peer, "a malformed history");
            return;
        }
        self.store_mut().after_commit(Then::HeadTaken { peer, link });
    }

    /// The head is taken, durably: this copy is what the source's is.
    pub(crate) fn on_head_taken(&mut self, peer: PeerIndex, link: LinkId) {
        if let Some(following) = self.following_on(peer, link) {
            following.phase = Phase::InSync;
            let progress = following.progress.take();
            self.note_resync_done(peer, progress);
            self.send(peer, Channel::Control, Frame::Finished);
            self.store_mut().set_outdated_confirmed(peer, false);
            self.notice(Notice::Peer(peer, super::Replication::Established));
            self.take_word(peer);
        }
        self.reconsider_disk();
        // Also when the disk's state has not changed by it: the source knows of it only what the handshake said.
        self.send_mark(peer);
    }
}
