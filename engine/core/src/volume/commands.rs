//! What an operator orders, and the parts of it that need no file of their own.

use super::{
    DiskState, Role,
    io::{Action, Channel, CommandId},
    operator::{Discard, OperatorAnswer, OperatorCommand},
    peer::Session,
    store::Then,
    volume::{Broken, Stage, Volume},
    wire::Frame,
};
use crate::ids::PeerIndex;

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
            OperatorCommand::PauseResync(paused) => {
                self.resync_paused = paused;
                self.answer(id, Ok(()));
            }
            OperatorCommand::LimitResync(limit) => {
                self.pace.set_limit(limit);
                self.answer(id, Ok(()));
            }
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
        self.peer_mut(peer).resolve = Some(discard);
        self.report_again(peer);
        self.answer(id, Ok(()));
    }

    fn invalidate(&mut self, id: CommandId) {
        if self.role == Role::Primary {
            self.answer(id, Err("this node is primary; its copy cannot be declared bad"));
            return;
        }
        if !self.peer_indices().any(|peer| self.has_copy(peer)) {
            let why =
                "no peer is in sync with this node: its copy may be the only good one; connect a peer first";
            self.answer(id, Err(why));
            return;
        }
        self.store_mut().invalidate();
        self.set_disk(DiskState::Inconsistent);
        self.store_mut().after_commit(Then::Answered(id));
        for peer in self.peer_indices() {
            self.close_link(peer, "the own copy was declared bad");
        }
    }
}
