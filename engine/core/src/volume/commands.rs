//! What an operator orders, and the parts of it that need no file of their own.

use super::{
    DiskState, Role,
    io::{Action, Channel, CommandId},
    operator::{Discard, OperatorAnswer, OperatorCommand},
    peer::Session,
    store::Then,
    volume::{Broken, Stage, Volume},
    wire::{DiscardRefusal, Frame},
};
use crate::{
    generation::{
        decide::decide,
        verdict::{Clause, Refusal, Side, Verdict},
    },
    ids::PeerIndex,
};

impl Volume {
    pub(crate) fn on_command(&mut self, id: CommandId, command: OperatorCommand) {
        if !matches!(self.stage, Stage::Running) {
            self.answer(id, Err("the volume is not open"));
            return;
        }
        match command {
            OperatorCommand::Primary(force) => self.begin_promotion(Some(id), force),
            OperatorCommand::Secondary { .. } => self.begin_demotion(Some(id), false),
            OperatorCommand::Shutdown => self.begin_demotion(Some(id), true),
            OperatorCommand::Disconnect(peer) if self.is_hosted_by(peer) => {
                let why =
                    "this node's disk failed and the peer serves for it; make this node secondary first";
                self.answer(id, Err(why));
            }
            OperatorCommand::Disconnect(peer) => {
                self.peer_mut(peer).allowed = false;
                self.part_from(peer);
                self.answer(id, Ok(()));
            }
            OperatorCommand::Connect(peer) => {
                self.peer_mut(peer).allowed = true;
                self.answer(id, Ok(()));
            }
            OperatorCommand::Invalidate => self.invalidate(id),
            OperatorCommand::InvalidatePeer(peer) => self.invalidate_peer(id, peer),
            OperatorCommand::Foretell { peer, until } => self.foretell(id, peer, until),
            OperatorCommand::PauseResync(paused) => {
                self.resync_paused = paused;
                self.answer(id, Ok(()));
            }
            OperatorCommand::LimitResync(limit) => {
                self.pace.set_limit(limit);
                self.answer(id, Ok(()));
            }
            OperatorCommand::Resize(size_bytes) => self.resize(id, size_bytes),
            OperatorCommand::Verify { peer, repair } => self.begin_verify(id, peer, repair),
            OperatorCommand::Resolve { peer, discard } => self.resolve(id, peer, discard),
        }
    }

    pub(crate) fn answer(&mut self, id: CommandId, result: Result<(), &str>) {
        let answer = match result {
            Ok(()) => OperatorAnswer::Done,
            Err(why) => OperatorAnswer::Refused(why.to_owned()),
        };
        self.out.push(Action::Answer { id, answer });
    }

    pub(crate) fn answer_maybe(&mut self, id: Option<CommandId>, result: Result<(), &str>) {
        if let Some(id) = id {
            self.answer(id, result);
        }
    }

    /// Drops a peer that can be reached: a primary that goes on makes it durably Outdated first (P1).
    fn part_from(&mut self, peer: PeerIndex) {
        if self.role == Role::Primary && self.peer(peer).is_counted() {
            self.send(peer, Channel::Control, Frame::Outdate);
        } else {
            self.send(peer, Channel::Control, Frame::Leave);
            self.close_link(peer, "disconnected by the operator");
        }
    }

    /// The primary goes on without this node: this copy will be old (P1).
    pub(crate) fn on_outdate(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        if !matches!(self.session(peer), Session::Following(_)) {
            return Err(Broken("outdated by a node that is not followed"));
        }
        let link = self.peer(peer).link.expect("a frame came on it");
        self.peer_mut(peer).leaving = true;
        self.store_mut().set_doubtful();
        self.store_mut().set_entitled(false);
        if self.disk == DiskState::UpToDate {
            self.set_disk(DiskState::Outdated);
        }
        self.store_mut().after_commit(Then::Outdated { peer, link });
        Ok(())
    }

    pub(crate) fn on_outdated(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        if self.peer(peer).allowed {
            return Err(Broken("outdated without having been told to"));
        }
        self.store_mut().set_outdated_confirmed(peer, true);
        self.send(peer, Channel::Control, Frame::Leave);
        self.close_link(peer, "disconnected by the operator");
        Ok(())
    }

    fn resolve(&mut self, id: CommandId, peer: PeerIndex, discard: Discard) {
        if self.role == Role::Primary && discard == Discard::Own {
            self.answer(id, Err("this node is primary; make it secondary before its changes are discarded"));
            return;
        }
        if !self.can_resolve(peer, discard) {
            let why =
                "there is nothing to resolve with this peer: no split brain was found on this connection";
            self.answer(id, Err(why));
            return;
        }
        if discard == Discard::Peers && self.peer(peer).discarding.is_some() {
            self.answer(id, Err("the peer has been asked already and has not answered"));
            return;
        }
        self.peer_mut(peer).resolve = Some(discard);
        if discard == Discard::Peers || !self.compare_with_stranger(peer) {
            self.report_again(peer);
        }
        match discard {
            Discard::Own => self.answer(id, Ok(())),
            Discard::Peers => {
                self.peer_mut(peer).discarding = Some(id);
                self.send(peer, Channel::Control, Frame::Discard);
            }
        }
    }

    /// Whether the verdict with this peer is one that an operator ends by giving up that copy (G6).
    fn can_resolve(&self, peer: PeerIndex, discard: Discard) -> bool {
        if self.is_unrelated_stranger(peer) {
            return true;
        }
        let Some(comparing) = self.peer(peer).comparing() else { return false };
        let Some((_, theirs)) = &comparing.theirs else { return false };
        let unfit = match discard {
            Discard::Own => Side::Mine,
            Discard::Peers => Side::Theirs,
        };
        match decide(&comparing.own_view, theirs) {
            Verdict::SplitBrain { .. } | Verdict::Unrelated { .. } => true,
            Verdict::Refused(Refusal::UnfitButAhead(side)) => side == unfit,
            Verdict::Refused(Refusal::BothDiscarded) | Verdict::Resync { clause: Clause::Discarded, .. } => {
                true
            }
            Verdict::NoSync
            | Verdict::FreshPair { .. }
            | Verdict::NoCopy(_)
            | Verdict::Resync { .. }
            | Verdict::Refused(_) => false,
        }
    }

    /// The operator has chosen the peer's copy there; the checks are those of the same order given here.
    pub(crate) fn on_discard(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let refusal = if self.role == Role::Primary {
            Some(DiscardRefusal::IAmPrimary)
        } else if !self.can_resolve(peer, Discard::Own) {
            Some(DiscardRefusal::NothingToResolve)
        } else {
            self.peer_mut(peer).resolve = Some(Discard::Own);
            if !self.compare_with_stranger(peer) {
                self.report_again(peer);
            }
            None
        };
        self.send(peer, Channel::Control, Frame::DiscardAnswer(refusal));
        Ok(())
    }

    pub(crate) fn on_discard_answer(
        &mut self,
        peer: PeerIndex,
        refusal: Option<DiscardRefusal>,
    ) -> Result<(), Broken> {
        let Some(id) = self.peer_mut(peer).discarding.take() else {
            return Err(Broken("an answer to a discard that was not asked for"));
        };
        let result = match refusal {
            None => Ok(()),
            Some(DiscardRefusal::IAmPrimary) => {
                Err("the peer is primary; make it secondary before its changes are discarded")
            }
            Some(DiscardRefusal::NothingToResolve) => Err("the peer has nothing to resolve with this node"),
        };
        if result.is_err() {
            self.peer_mut(peer).resolve = None;
        }
        self.answer(id, result);
        Ok(())
    }

    pub(crate) fn on_discard_peer_gone(&mut self, peer: PeerIndex) {
        if let Some(id) = self.peer_mut(peer).discarding.take() {
            self.answer(id, Err("the connection was lost before the peer had answered; try again"));
        }
        self.on_invalidate_peer_gone(peer);
    }
}
