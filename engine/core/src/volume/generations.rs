//! New generations (G1, G2), and what happens when a peer is lost (W6).
//!
//! ```text
//!   counted peer lost: answers withheld ─> own data stable ─┐
//!   promotion: own data stable already ─────────────────────┴> new head stable here ─> offered to every peer in sync
//!     ─> stable there, data first ─> adopted by all ─> answers go on
//! ```
//!
//! A peer that is lost on the way begins the same again, with another generation. That a generation is due is
//! remembered until it is made, also when the peer is back by then: it may have our head. A generation never names
//! data that a power loss can take back, so the data are flushed first, on either side.
//!
//! A target that was counted and has not finished may be about to take the head of before; its resync is given up
//! rather than that the head changes between the two (R6).
//!
//! Windows (G5): a peer in sync has none. When a generation begins, each peer without one gets a window from
//! the old head; one that is in sync is offered the new head, which from then on it may have taken or not, and
//! loses its window again when it says that it has.

use super::{
    Role,
    config::{OnPeerLoss, Protocol},
    disk_failure::Failure,
    io::{Action, Channel, DiskError, LinkId, Notice},
    lead::Phase as LeadPhase,
    operation::Purpose,
    peer::{Session, Told},
    status::Suspended,
    store::Then,
    volume::{Broken, Volume},
    wire::Frame,
};
use crate::{
    generation::view::Replies,
    ids::{Generation, GenerationId, PeerIndex, Term},
};

/// Offers of one primary that may wait for this node's disk at once; each is made after the loss of a peer.
const OFFERS_MAX: usize = 64;

impl Volume {
    /// How writes are replied to under the generations that this node makes.
    pub(crate) fn replies(&self) -> Replies {
        match self.config.protocol {
            Protocol::A => Replies::Ahead,
            Protocol::B | Protocol::C => Replies::Together,
        }
    }

    /// A peer that may have our head is lost: no answer before a new generation is stable (G1, W6).
    fn require_generation(&mut self) {
        if self.suspended == Some(Suspended::Deposed) || self.generation_due {
            return;
        }
        self.generation_due = true;
        self.suspended = Some(Suspended::NewGeneration);
        self.flush_for_generation();
    }

    /// A generation that is due is made once the own data are stable; not while a peer may come back that has gone on
    /// without this node (P8).
    pub(crate) fn flush_for_generation(&mut self) {
        if self.generation_due && self.confirming.is_empty() {
            let tag = self.tag(Purpose::GenerationFlush);
            self.out.push(Action::Flush { tag });
        }
    }

    pub(crate) fn on_generation_flush_done(&mut self, result: Result<(), DiskError>) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            return;
        }
        if !self.confirming.is_empty() {
            return;
        }
        // The role may have ended meanwhile, or the disk have failed since: then nobody is answered under this head.
        let due = std::mem::take(&mut self.generation_due);
        if due && self.role == Role::Primary && self.suspended == Some(Suspended::NewGeneration) {
            self.begin_generation();
        }
    }

    /// Begins a new generation in the current term; the own data are stable, and answers are withheld until every
    /// peer in sync has it.
    pub(crate) fn begin_generation(&mut self) {
        assert_eq!(self.role, Role::Primary, "only a primary makes generations (G1)");
        self.suspended = Some(Suspended::NewGeneration);
        // So that the loss of those that are given up now asks for no other one.
        self.generation_due = true;
        self.give_up_counting();
        self.generation_due = false;
        let term = self.store().term().expect("a primary has a term");
        let new = Generation { id: GenerationId(self.entropy.next_id()), term };
        let in_sync: Vec<PeerIndex> =
            self.peer_indices().filter(|&peer| self.peer(peer).is_in_sync()).collect();
        let replies = self.replies();
        self.store_mut().begin_generation(new, &in_sync, replies);
        for peer in self.peer_indices() {
            self.peer_mut(peer).offered = None;
        }
        self.store_mut().after_commit(Then::GenerationStable(new.id));
        // Reports that are out name the head of before. A session that has begun is told at its end, by its leader; as
        // follower a primary may not go on with it (found by the simulator: promoted on its way into a session, it
        // took a secondary for its leader, and sent it nothing).
        for peer in self.peer_indices() {
            if !matches!(self.session(peer), Session::Starting(starting) if starting.begun && starting.leader)
            {
                self.report_again(peer);
            }
        }
    }

    /// Ends every resync whose target is counted and has not taken the head yet: the head is about to change.
    fn give_up_counting(&mut self) {
        for peer in self.peer_indices() {
            if matches!(self.session(peer), Session::Leading(leading) if leading.phase == LeadPhase::Counting)
            {
                self.close_link(peer, "a new generation begins at the end of its resync");
            }
        }
    }

    /// The new head is stable here: offer it.
    pub(crate) fn on_generation_stable(&mut self, id: GenerationId) {
        let Some(generation) = self.store().head() else { return };
        if generation.id != id || self.role != Role::Primary {
            return;
        }
        self.tell_word_before_offer();
        let replies = self.store().evidence().replies;
        for peer in self.peer_indices() {
            if self.peer(peer).is_in_sync() {
                self.peer_mut(peer).offered = Some(id);
                self.send(peer, Channel::Control, Frame::Offer { generation, replies });
            }
        }
        self.resume_answers();
    }

    /// Goes on with answers if nothing stands in the way any more.
    pub(crate) fn resume_answers(&mut self) {
        let may_end = match self.suspended {
            Some(Suspended::NewGeneration | Suspended::PeerLost) => true,
            Some(Suspended::NoData) => self.is_diskless(),
            Some(Suspended::Deposed) | None => false,
        };
        if !may_end
            || !self.is_served()
            || self.generation_due
            || self.store().is_head_unstable()
            || self.peers.iter().any(|peer| peer.offered.is_some())
        {
            return;
        }
        if self.config.on_peer_loss == OnPeerLoss::Suspend && self.peers.iter().any(|peer| !peer.is_in_sync())
        {
            self.suspended = Some(Suspended::PeerLost);
            return;
        }
        self.suspended = None;
        self.release_withheld();
        self.unpark_pieces();
        self.on_serving();
    }

    /// A primary offers its new head to this node, which must be in sync with it (G2).
    pub(crate) fn on_offer(
        &mut self,
        peer: PeerIndex,
        generation: Generation,
        replies: Replies,
    ) -> Result<(), Broken> {
        let seen = self.store().term();
        if seen.is_some_and(|seen| seen > generation.term) {
            return Err(Broken("a generation of a term that has passed"));
        }
        if self.role == Role::Primary {
            return Err(Broken("a generation offered to a primary"));
        }
        if !self.peer(peer).is_in_sync() {
            return Err(Broken("a generation offered to a node that is not in sync"));
        }
        if self.store().has_generation(generation.id) {
            return Err(Broken("a generation that is known already"));
        }
        if self.peer(peer).receives() {
            // The peer was promoted: from now on it leads.
            self.end_leading(peer);
            self.begin_following(peer, super::follow::Phase::InSync, None);
        }
        let taking = &self.peer(peer).taking;
        if taking.len() >= OFFERS_MAX || taking.iter().any(|(offered, _)| offered.id == generation.id) {
            return Err(Broken("a generation offered again, or too many at once"));
        }
        self.cancel_promotion("the peer became primary");
        self.obey(peer);
        let link = self.peer(peer).link.expect("a frame came on it");
        self.peer_mut(peer).taking.push((generation, replies));
        self.flush_followed(Purpose::OfferFlush { peer, link, id: generation.id });
        Ok(())
    }

    /// The peer is primary, as its offer shows: its writes come from now on. Who is not offered the head that this
    /// node takes is not in sync with it any more (G9).
    fn obey(&mut self, peer: PeerIndex) {
        if !self.has_third_nodes() {
            return;
        }
        let promoted = !self.is_primary_peer(peer);
        if promoted {
            let disk = self.peer(peer).told.map_or(super::DiskState::UpToDate, |told| told.disk);
            self.peer_mut(peer).told = Some(Told { role: Role::Primary, disk });
        }
        // It may have told its role before, and the last session may have begun with another node (found by the simulator:
        // nothing was kept of its writes for a third one).
        if promoted || !self.is_stream_of(peer) {
            self.begin_stream(peer);
        }
        for other in self.peer_indices() {
            let offered = self.peer(peer).word.is_some_and(|word| word.names(other));
            if other != peer && !offered && self.peer(other).is_in_sync() {
                self.close_link(other, "a new generation begins without that node");
            }
        }
    }

    /// What this node has is stable: now it may take the offered head, and every one that was offered before it: another
    /// node may have one of those as its newest, and has to find it among the ancestors (found by the simulator).
    pub(crate) fn on_offer_flush_done(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        id: GenerationId,
        result: Result<(), DiskError>,
    ) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            return;
        }
        if self.peer(peer).link != Some(link) {
            return;
        }
        let taking = &mut self.peer_mut(peer).taking;
        // Its flush may end after that of a later offer, with which it was taken.
        let Some(place) = taking.iter().position(|(offered, _)| offered.id == id) else { return };
        let taken: Vec<(Generation, Replies)> = taking.drain(..=place).collect();
        self.give_up_counting();
        for (generation, replies) in taken {
            self.store_mut().adopt_generation(peer, generation, replies);
        }
        self.store_mut().after_commit(Then::OfferAdopted { peer, link, id });
    }

    /// The peer has the new head, durably.
    pub(crate) fn on_adopted(&mut self, peer: PeerIndex, id: GenerationId) -> Result<(), Broken> {
        if self.peer(peer).offered != Some(id) && self.store().has_generation(id) {
            // Another one began meanwhile; its offer is on the way.
            return Ok(());
        }
        if self.peer(peer).offered != Some(id) {
            return Err(Broken("a generation adopted that was not offered"));
        }
        self.peer_mut(peer).offered = None;
        self.store_mut().close_window(peer);
        if matches!(self.session(peer), Session::Following(_) | Session::Apart(_)) {
            // A host is met again (W7), or it is our own promotion: now we lead. What came on the old stream was applied before we asked.
            self.begin_leading(peer, LeadPhase::InSync, None);
        }
        self.resume_answers();
        Ok(())
    }

    /// A link is gone: forget what was under way on it, and act on the loss.
    pub(crate) fn lose_peer(&mut self, peer: PeerIndex) {
        let was_counted = self.peer(peer).is_counted();
        let was_offered = self.peer(peer).offered.is_some();
        let was_following = matches!(self.session(peer), Session::Following(_));
        let was_primary = self.is_primary_peer(peer);
        let left_open = self.stream.is_some_and(|(leader, _)| leader == peer) && self.end_stream();
        let leaving = self.peer(peer).leaving;
        // Everything that was answered is here, and nobody else can have gone on (W7).
        let was_host = matches!(self.session(peer), Session::Following(following) if following.is_host());
        if self.is_hosted_by(peer) {
            self.withdraw_from_host(peer);
        } else if self.peer(peer).receives() {
            self.end_leading(peer);
        }
        let state = self.peer_mut(peer);
        state.link = None;
        state.session = Session::Down;
        state.offered = None;
        state.taking.clear();
        state.told = None;
        state.word = None;
        state.word_names.clear();
        state.word_sent = None;
        state.leaving = false;
        self.notice(Notice::Peer(peer, super::Replication::Off));
        self.on_confirmation_peer_gone(peer);
        self.on_promotion_peer_gone(peer);
        self.on_yield_peer_gone(peer);
        self.on_discard_peer_gone(peer);
        self.on_growing_peer_gone(peer);
        self.ask_reads_again(peer);
        if self.is_diskless() {
            return;
        }
        if self.role == Role::Primary {
            if was_counted || was_offered {
                self.require_generation();
            } else {
                self.resume_answers();
            }
        } else if was_following {
            if !leaving && !was_host && !self.has_primary() {
                // P1: the primary vanished; others may have gone on with it.
                self.doubt_disk();
            }
            if self.has_third_nodes() && (was_primary || left_open) {
                self.leave_everybody();
            }
        }
    }

    /// A higher term was met: this primary stops answering at once (G10), and never marks its peer bad.
    pub(crate) fn note_term(&mut self, term: Term) {
        let own = self.store().term();
        if own.is_some_and(|own| own >= term) {
            return;
        }
        self.store_mut().raise_term(term);
        if self.has_third_nodes() {
            self.tell_mark();
        }
        if self.role == Role::Primary && own.is_some() {
            self.depose();
        }
    }
}
