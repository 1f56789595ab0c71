//! Ceasing to be primary: by command, by a clean shutdown that hands the entitlement over, or because a higher
//! term was met (P2, P5, P6, G10).
//!
//! ```text
//!   Draining ──all stable everywhere──> Recording ──> Secondary
//!                                           └─shutdown─> Yielding ──> Closing ──> closed
//!   (a secondary that shuts down: Draining ──> Flushing ──> Recording)
//! ```

use super::{
    DiskState, Role,
    disk_failure::Failure,
    io::{Action, Channel, CommandId, DiskError, LinkId, Notice, RequestError},
    operation::Purpose,
    status::Suspended,
    store::Then,
    volume::{Broken, Stage, Volume},
    wire::Frame,
};
use crate::ids::PeerIndex;

/// A demotion under way.
#[derive(Clone, Debug)]
pub(crate) struct Demotion {
    id: Option<CommandId>,
    /// Leave cleanly afterwards (P6).
    shutdown: bool,
    stage: DemotionStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DemotionStage {
    /// What is in flight is answered and made stable.
    Draining,
    /// The record is on its way to stable media.
    Recording,
    /// The entitlement is handed over to a peer.
    Yielding(PeerIndex),
    /// The clean-shutdown record is on its way.
    Closing,
}

impl Volume {
    pub(crate) fn begin_demotion(&mut self, id: Option<CommandId>, shutdown: bool) {
        if self.demotion.is_some() {
            self.answer_maybe(id, Err("another change of role is under way"));
            return;
        }
        self.cancel_promotion("the node becomes secondary");
        self.resumption = None;
        if self.role == Role::Secondary && !shutdown {
            self.answer_maybe(id, Ok(()));
            return;
        }
        self.demotion = Some(Demotion { id, shutdown, stage: DemotionStage::Draining });
        self.fail_waiting(RequestError::Shutdown);
        self.advance_demotion();
    }

    pub(crate) fn is_demoting(&self) -> bool {
        self.demotion.is_some()
    }

    /// P5: everything is answered, and stable here and on every connected peer.
    pub(crate) fn advance_demotion(&mut self) {
        let Some(Demotion { stage: DemotionStage::Draining, .. }) = &self.demotion else { return };
        match (self.role, self.suspended) {
            (Role::Primary, Some(Suspended::NewGeneration)) => return,
            (Role::Primary, None) => {
                if self.requests.len() > 0 || !self.log.is_settled() {
                    return;
                }
                let issued = self.log.issued();
                self.want_stable(issued);
                if self.log.stable_everywhere() < issued || !self.flushes.is_idle() {
                    return;
                }
            }
            // What is held cannot be kept any more; it ends with an error.
            (Role::Primary, Some(Suspended::PeerLost | Suspended::Deposed | Suspended::NoData)) => {
                self.fail_flushes(RequestError::Shutdown);
                self.fail_unissued_pieces();
                self.fail_requests();
            }
            (Role::Secondary, _) => {
                // What was issued as a primary that was deposed keeps its extents in the activity log until it is
                // stable.
                let issued = self.log.issued();
                self.want_stable(issued);
                if self.log.stable_everywhere() < issued {
                    return;
                }
                self.record_demotion();
                return;
            }
        }
        if self.disk == DiskState::Failed {
            // Nothing is recorded on a failed disk; its right was given up when it failed (W7).
            self.demotion.as_mut().expect("a demotion is under way").stage = DemotionStage::Recording;
            self.on_demoted();
            return;
        }
        self.store_mut().become_secondary();
        self.record_demotion();
    }

    /// A demotion under way ends here: the reason is another end of the role, or of the disk.
    pub(crate) fn cancel_demotion(&mut self, why: &'static str) {
        if let Some(demotion) = self.demotion.take() {
            self.answer_maybe(demotion.id, Err(why));
        }
    }

    fn record_demotion(&mut self) {
        self.store_mut().after_commit(Then::Demoted);
        self.demotion.as_mut().expect("a demotion is under way").stage = DemotionStage::Recording;
    }

    pub(crate) fn on_demoted(&mut self) {
        let Some(demotion) = &self.demotion else { return };
        if demotion.stage != DemotionStage::Recording {
            return;
        }
        let (id, shutdown) = (demotion.id, demotion.shutdown);
        // Third nodes learn that everything is stable before they learn that nobody is primary.
        self.tell_word();
        if self.has_third_nodes() && self.log.stable_everywhere() < self.log.issued() {
            // What was held under a suspension is not stable everywhere, and in no bitmap of those that have it: they
            // decide anew (G9; found by the simulator).
            self.leave_everybody();
        }
        if self.role == Role::Primary {
            self.role = Role::Secondary;
            self.suspended = None;
            self.cancel_confirmations();
            // Pieces that were let through while the record was on its way must not wait for a role that is gone.
            self.fail_unissued_pieces();
            self.release_withheld();
            self.out.push(Action::Notice(Notice::Role(Role::Secondary)));
            self.report_everywhere_again();
        }
        if self.has_third_nodes() || !shutdown {
            self.tell_mark();
        }
        if self.disk == DiskState::Failed {
            self.diskless = None;
            if shutdown {
                self.on_closed_cleanly();
                return;
            }
            for peer in self.peer_indices() {
                self.send(peer, Channel::Control, Frame::Leave);
                self.close_link(peer, super::disk_failure::OWN_DISK_FAILED);
            }
        }
        if !shutdown {
            self.demotion = None;
            self.answer_maybe(id, Ok(()));
            return;
        }
        let heir = self.peer_indices().find(|&peer| self.has_copy(peer));
        match heir.filter(|_| self.store().is_entitled()) {
            Some(peer) => {
                self.demotion.as_mut().expect("just looked at").stage = DemotionStage::Yielding(peer);
                // It has ended here, durably, before the peer can have it: else this node, back from a crash at the end of
                // its shutdown, would take itself for the newest beside what the peer has written (found by the simulator).
                let link = self.peer(peer).link.expect("a peer with a copy is linked");
                self.store_mut().set_entitled(false);
                self.store_mut().after_commit(Then::EntitlementGivenUp { peer, link });
            }
            None => self.close_cleanly(),
        }
    }

    pub(crate) fn on_entitlement_given_up(&mut self, peer: PeerIndex, link: LinkId) {
        if self.yields_to(peer) && self.peer(peer).link == Some(link) {
            self.send(peer, Channel::Control, Frame::Yield);
        }
    }

    /// Whether this node leaves, and the peer is to have its right.
    fn yields_to(&self, peer: PeerIndex) -> bool {
        matches!(&self.demotion, Some(demotion) if demotion.stage == DemotionStage::Yielding(peer))
    }

    /// Leaves every peer, so that nothing comes any more, and makes stable what came.
    fn close_cleanly(&mut self) {
        // What was held when the role ended is in the activity log until it is stable.
        let issued = self.log.issued();
        self.want_stable(issued);
        self.demotion.as_mut().expect("a shutdown is under way").stage = DemotionStage::Closing;
        for peer in self.peer_indices() {
            self.send(peer, Channel::Control, Frame::Leave);
            self.close_link(peer, "the node leaves");
        }
        self.flush_followed(Purpose::ClosingFlush);
    }

    /// Whether this node takes leave of its peers: no link is of use any more.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(&self.demotion, Some(demotion) if demotion.stage == DemotionStage::Closing)
    }

    pub(crate) fn on_closing_flush_done(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.store_mut().after_quiet(Then::Quiet),
            Err(error) => self.fail_disk(Failure::Flush(error)),
        }
    }

    /// Nothing is open any more, on stable media: now the record may say so.
    pub(crate) fn on_quiet(&mut self) {
        self.store_mut().record_clean_shutdown();
        self.store_mut().after_commit(Then::ClosedCleanly);
    }

    pub(crate) fn on_closed_cleanly(&mut self) {
        self.stage = Stage::Closed;
        self.abandon_growth("the volume was closed");
        let id = self.demotion.take().and_then(|demotion| demotion.id);
        self.answer_maybe(id, Ok(()));
    }

    /// The peer leaves cleanly and hands the entitlement over (P2): take it durably, then say so.
    pub(crate) fn on_yield(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        if !self.peer(peer).is_in_sync() || self.role == Role::Primary {
            return Err(Broken("an entitlement handed to a node that is not in sync"));
        }
        let link = self.peer(peer).link.expect("a frame came on it");
        self.store_mut().set_entitled(true);
        self.store_mut().after_commit(Then::EntitlementTaken { peer, link });
        Ok(())
    }

    pub(crate) fn on_yielded(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        if self.heir == Some(peer) {
            self.heir = None;
            self.send(peer, Channel::Control, Frame::Leave);
            self.close_link(peer, "the own disk failed");
            return Ok(());
        }
        if !self.yields_to(peer) {
            return Err(Broken("an entitlement taken that was not handed over"));
        }
        assert!(!self.store().is_entitled(), "one has the right (P2)");
        self.close_cleanly();
        Ok(())
    }

    pub(crate) fn on_yield_peer_gone(&mut self, peer: PeerIndex) {
        if self.yields_to(peer) {
            // Whether it has taken the right is not known.
            self.close_cleanly();
        }
    }

    /// This primary may not go on (G10): nothing is answered any more but with an error.
    pub(crate) fn depose(&mut self) {
        if self.role != Role::Primary || self.suspended == Some(Suspended::Deposed) {
            return;
        }
        self.suspended = Some(Suspended::Deposed);
        self.generation_due = false;
        self.cancel_confirmations();
        self.fail_waiting(RequestError::Shutdown);
        self.fail_flushes(RequestError::Shutdown);
        self.fail_unissued_pieces();
        self.fail_requests();
        if self.has_third_nodes() {
            // Nobody is in sync with a primary that was deposed: its followers decide anew among themselves (G9).
            self.leave_everybody();
        }
        self.begin_demotion(None, false);
    }
}
