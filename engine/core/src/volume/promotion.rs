//! Becoming primary, and taking the role up again after a crash (P3, P4, P7).
//!
//! ```text
//!   Secondary ──ask peers──> Asking ──all answered or 500 ms──> Flushing ──> Primary, suspended ──> Primary
//!                                                               (generation: see `generations`)
//! ```

use std::time::Duration;

use super::{
    DiskState, Role,
    disk_failure::Failure,
    io::{Action, Channel, CommandId, DiskError, Notice},
    operation::Purpose,
    operator::Force,
    status::Suspended,
    store::Then,
    volume::{Broken, Volume},
    wire::{Frame, Refusal},
};
use crate::ids::{PeerIndex, Term, Timestamp};

/// A peer that does not answer the question within this time counts as absent (P3).
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// After a crash of the process, peers get this long to appear before the role is taken up without them (P7).
const RESUME_WAIT: Duration = Duration::from_secs(1);

/// A promotion under way.
#[derive(Clone, Debug)]
pub(crate) struct Promotion {
    /// Who is to be told; `None` when the node takes up its role again by itself.
    id: Option<CommandId>,
    force: Force,
    stage: PromotionStage,
}

#[derive(Clone, Debug)]
enum PromotionStage {
    /// Peers were asked and have not answered.
    Asking { term: Term, silent: Vec<PeerIndex>, until: Timestamp },
    /// The own disk makes stable what it followed.
    Flushing,
}

/// The wish to take the role up again after a crash of the process (P7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumption {
    /// Without peers, not before this.
    alone_from: Timestamp,
    /// After a refusal, not before this.
    again_from: Timestamp,
    /// Whether it may happen without peers at all.
    may_alone: bool,
}

impl Resumption {
    pub(crate) fn new(now: Timestamp, may_alone: bool) -> Self {
        Self { alone_from: now.after(RESUME_WAIT), again_from: now, may_alone }
    }

    /// The next time at which it may be possible, if that is still to come.
    pub(crate) fn wake_after(self, now: Timestamp) -> Option<Timestamp> {
        [self.again_from, self.alone_from].into_iter().filter(|&time| time > now).min()
    }
}

impl Volume {
    pub(crate) fn begin_promotion(&mut self, id: Option<CommandId>, force: Force) {
        if self.role == Role::Primary && self.demotion.is_none() {
            if self.suspended == Some(Suspended::NewGeneration) {
                self.promotion_waiters.extend(id);
            } else {
                self.answer_maybe(id, Ok(()));
            }
            return;
        }
        if self.promotion.is_some() || self.demotion.is_some() {
            self.answer_maybe(id, Err("another change of role is under way"));
            return;
        }
        // What would be refused afterwards is refused before a peer gives anything up for it.
        if let Err(why) = self.may_ask().and_then(|()| self.may_promote(force)) {
            self.answer_maybe(id, Err(why));
            if let Some(resumption) = &mut self.resumption {
                resumption.again_from = self.now.after(RESUME_WAIT);
            }
            return;
        }
        let term = self.next_term();
        let mut silent = Vec::new();
        for peer in self.peer_indices() {
            if self.peer(peer).link.is_some() {
                self.send(peer, Channel::Control, Frame::Ask(term));
                silent.push(peer);
            }
        }
        let until = self.now.after(ASK_TIMEOUT);
        let stage = PromotionStage::Asking { term, silent, until };
        self.promotion = Some(Promotion { id, force, stage });
        self.advance_promotion();
    }

    /// What refuses a promotion before anybody is asked, even a forced one. That a peer has said that it is primary
    /// does not: it may be dead by now, and what is not answered says so (P3).
    fn may_ask(&self) -> Result<(), &'static str> {
        if self.peers.iter().any(super::peer::Peer::is_split) {
            return Err("the histories have parted (split brain); use `resolve` first");
        }
        if self.has_third_nodes() && self.is_target() {
            return Err("a resync into this node is under way; wait for its end, or disconnect its source");
        }
        match self.disk {
            DiskState::Diskless | DiskState::Failed => Err("this node has no working disk"),
            DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent | DiskState::UpToDate => {
                Ok(())
            }
        }
    }

    fn next_term(&self) -> Term {
        let seen = self.store().term().map_or(Term::FIRST, |term| term.number);
        Term { number: seen + 1, node: self.store().node() }
    }

    /// A peer wants to be primary. Who is entitled is that no more before the peer can go on: else this node, back from a
    /// crash beside the peer's first generation, would take itself for the newest (P2, found by the simulator).
    pub(crate) fn on_ask(&mut self, peer: PeerIndex, term: Term) {
        let refusal = if self.role == Role::Primary {
            Some(Refusal::IAmPrimary)
        } else if self.has_primary() && !self.is_primary_peer(peer) {
            // As that primary would (P3).
            Some(Refusal::HasPrimary)
        } else if let Some(seen) = self.store().term().filter(|&seen| seen >= term) {
            Some(Refusal::TermTaken(seen))
        } else if let Some(own) = self.asking_term().filter(|&own| own > term) {
            Some(Refusal::TermTaken(own))
        } else if self.peer(peer).is_split() {
            Some(Refusal::SplitBrain)
        } else {
            self.cancel_promotion("the peer becomes primary");
            let gives_up = self.store().is_entitled() && self.peer(peer).stranger.is_none();
            let link = self.peer(peer).link.filter(|_| gives_up);
            link.map(|link| {
                self.store_mut().set_entitled(false);
                self.store_mut().after_commit(Then::EntitlementEnded { peer, link, term });
                Refusal::NotYet
            })
        };
        self.send(peer, Channel::Control, Frame::Answer { term, refusal });
    }

    fn asking_term(&self) -> Option<Term> {
        match &self.promotion {
            Some(Promotion { stage: PromotionStage::Asking { term, .. }, .. }) => Some(*term),
            Some(Promotion { stage: PromotionStage::Flushing, .. }) => Some(self.next_term()),
            None => None,
        }
    }

    pub(crate) fn on_answer(
        &mut self,
        peer: PeerIndex,
        term: Term,
        refusal: Option<Refusal>,
    ) -> Result<(), Broken> {
        let Some(promotion) = &mut self.promotion else { return Ok(()) };
        let PromotionStage::Asking { term: asked, silent, until } = &mut promotion.stage else {
            return Ok(());
        };
        if *asked != term {
            return Ok(());
        }
        if refusal == Some(Refusal::NotYet) {
            // It is there, and its disk may be slow.
            *until = self.now.after(self.config.peer_timeout);
            return Ok(());
        }
        silent.retain(|&other| other != peer);
        match refusal {
            None | Some(Refusal::NotYet) => self.advance_promotion(),
            Some(Refusal::IAmPrimary) => {
                self.refuse_promotion("the peer is primary; make it secondary first")
            }
            Some(Refusal::HasPrimary) => {
                self.refuse_promotion(
                    "a peer is in sync with another primary; make that one secondary first",
                );
            }
            Some(Refusal::SplitBrain) => {
                self.refuse_promotion("the histories have parted (split brain); use `resolve` first");
            }
            Some(Refusal::TermTaken(seen)) => {
                self.store_mut().raise_term(seen);
                let Some(promotion) = self.promotion.take() else { return Ok(()) };
                self.begin_promotion(promotion.id, promotion.force);
            }
        }
        Ok(())
    }

    pub(crate) fn on_promotion_peer_gone(&mut self, peer: PeerIndex) {
        if let Some(Promotion { stage: PromotionStage::Asking { silent, .. }, .. }) = &mut self.promotion {
            silent.retain(|&other| other != peer);
            self.advance_promotion();
        }
    }

    /// Peers that did not answer in time count as absent; their links are dropped.
    pub(crate) fn expire_promotion(&mut self) -> Option<Timestamp> {
        let Some(Promotion { stage: PromotionStage::Asking { silent, until, .. }, .. }) = &self.promotion
        else {
            return None;
        };
        if *until > self.now {
            return Some(*until);
        }
        for peer in silent.clone() {
            self.close_link(peer, "silent when asked about a promotion");
        }
        None
    }

    pub(crate) fn advance_promotion(&mut self) {
        let Some(promotion) = &self.promotion else { return };
        let PromotionStage::Asking { silent, .. } = &promotion.stage else { return };
        // What a lost primary's client was told is stable must be here before its place is taken.
        if !silent.is_empty() || self.is_applying() {
            return;
        }
        if let Err(why) = self.may_promote(promotion.force) {
            self.refuse_promotion(why);
            return;
        }
        let tag = self.tag(Purpose::PromotionFlush);
        self.out.push(Action::Flush { tag });
        self.promotion.as_mut().expect("just looked at").stage = PromotionStage::Flushing;
    }

    /// P3, after the peers were asked.
    fn may_promote(&self, force: Force) -> Result<(), &'static str> {
        let absent = self.peers.iter().any(|peer| !peer.is_in_sync());
        match (self.disk, force) {
            (DiskState::Diskless | DiskState::Failed, _) => Err("this node has no working disk"),
            (DiskState::Inconsistent, Force::Inconsistent) if self.reads_media => Ok(()),
            // What clients would read could be gone after a power loss, although a flush of theirs went well.
            (DiskState::Inconsistent, Force::Inconsistent) => Err(
                "a flush may have failed before, and what this disk shows may not be on its media; restart the \
                 machine, so that nothing is read from its cache, and then again",
            ),
            (DiskState::Inconsistent, Force::No | Force::Yes) => {
                Err("this copy is half synced (Inconsistent); wait for the resync, or --force=inconsistent")
            }
            (_, Force::Yes | Force::Inconsistent) => Ok(()),
            (DiskState::UpToDate, Force::No) if absent && !self.store().is_entitled() => {
                Err("a peer is absent that may be primary; make sure that it is off, then --force")
            }
            (DiskState::UpToDate, Force::No) => Ok(()),
            (DiskState::Consistent, Force::No) => {
                Err("this copy may not be the newest (Consistent); connect the peer, or --force")
            }
            (DiskState::Outdated, Force::No) => {
                Err("this copy is old (Outdated); connect the peer, or --force")
            }
        }
    }

    /// What this node followed is stable: become primary, suspended until the generation is stable (P4).
    pub(crate) fn on_promotion_flush_done(&mut self, result: Result<(), DiskError>) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            self.refuse_promotion("the own disk failed");
            return;
        }
        let Some(Promotion { stage: PromotionStage::Flushing, .. }) = &self.promotion else { return };
        let promotion = self.promotion.take().expect("just looked at");
        let sees_primary =
            self.peers.iter().any(|peer| peer.told.is_some_and(|told| told.role == Role::Primary));
        let may = if sees_primary { Err("a peer became primary meanwhile") } else { self.may_ask() };
        if let Err(why) = may.and_then(|()| self.may_promote(promotion.force)) {
            self.answer_maybe(promotion.id, Err(why));
            return;
        }
        // A link may have come up, and a session begun, since the peers were asked. One that copies nothing is left.
        if promotion.force == Force::No && self.peers.iter().any(super::peer::Peer::is_about_to_overwrite) {
            self.answer_maybe(promotion.id, Err("a resync into this node is under way; wait for its end"));
            return;
        }
        self.leave_sources();
        self.promotion_waiters.extend(promotion.id);
        self.resumption = None;
        let term = self.next_term();
        self.store_mut().become_primary(term);
        self.begin_own_stream();
        self.raise_counter();
        self.role = Role::Primary;
        self.notice(Notice::Role(Role::Primary));
        self.set_disk(DiskState::UpToDate);
        for peer in self.peer_indices() {
            // What was chosen was chosen about the state of before.
            self.peer_mut(peer).resolve = None;
        }
        self.begin_generation();
    }

    /// A primary follows nobody: whoever this node is about to copy from is met anew, by its new role.
    fn leave_sources(&mut self) {
        for peer in self.peer_indices() {
            if self.peer(peer).is_source() {
                self.close_link(peer, "this node becomes primary instead of its target");
            }
        }
    }

    fn refuse_promotion(&mut self, why: &'static str) {
        if let Some(promotion) = self.promotion.take() {
            self.answer_maybe(promotion.id, Err(why));
        }
        if let Some(resumption) = &mut self.resumption {
            resumption.again_from = self.now.after(RESUME_WAIT);
        }
    }

    /// The role is not to be had, or ends: those who asked for it and wait for the node to serve are told.
    pub(crate) fn cancel_promotion(&mut self, why: &'static str) {
        self.refuse_promotion(why);
        for id in std::mem::take(&mut self.promotion_waiters) {
            self.answer(id, Err(why));
        }
    }

    /// The primary serves: those who asked for it are told (P4).
    pub(crate) fn on_serving(&mut self) {
        for id in std::mem::take(&mut self.promotion_waiters) {
            self.answer(id, Ok(()));
        }
        self.tell_mark();
    }

    pub(crate) fn is_retaking_role(&self) -> bool {
        self.resumption.is_some()
    }

    pub(crate) fn advance_resumption(&mut self) {
        let Some(resumption) = self.resumption else { return };
        if self.role == Role::Primary || self.promotion.is_some() || self.demotion.is_some() {
            return;
        }
        if self.peers.iter().any(|peer| peer.told.is_some_and(|told| told.role == Role::Primary)) {
            self.resumption = None;
            return;
        }
        if self.disk != DiskState::UpToDate || self.now < resumption.again_from {
            return;
        }
        // One that gets its blocks from this node is met: only a target waits for the end of the resync (P7).
        let all_met = self.peers.iter().all(|peer| peer.is_in_sync() || peer.receives());
        let none_there = self.peers.iter().all(|peer| peer.link.is_none());
        let alone = none_there && resumption.may_alone && self.now >= resumption.alone_from;
        if all_met || alone {
            self.begin_promotion(None, Force::No);
        }
    }
}
