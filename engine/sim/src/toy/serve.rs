//! The primary's side of the toy: one request at a time, promotion, demotion, going on alone.

use evenkeel_core::{
    generation::view::Replies,
    ids::{GenerationId, Sequence},
    volume::{
        DiskState, Role,
        io::{Action, Area, Channel, ClientOperation, CommandId, RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer},
        wire::Frame,
    },
};

use super::{After, Bug, Current, Purpose, Record, Session, Toy};

impl Toy {
    /// Goes on with the request under way, then begins the next.
    pub(super) fn serve(&mut self, actions: &mut Vec<Action>) {
        if let Some(current) = &self.current
            && current.local
            && (current.remote || self.has(Bug::AckBeforePeer) && self.session == Session::InSync)
        {
            self.answer(actions);
        }
        if self.role != Role::Primary {
            for (client, id, _) in self.queue.drain(..) {
                actions.push(Action::Reply { client, id, result: Err(RequestError::Shutdown) });
            }
            return;
        }
        // A copy is made of a disk that stands still; a new generation comes before any new request.
        if self.current.is_some() || self.committing.is_some() {
            return;
        }
        if let Some(id) = self.demotion.take() {
            self.begin_demotion(id, actions);
        } else if !matches!(self.session, Session::Source | Session::Split)
            && let Some((client, id, operation)) = self.queue.pop_front()
        {
            let (local, remote) = (false, self.session != Session::InSync);
            self.current = Some(Current { client, id, operation, local, remote, data: None, failed: false });
            self.begin(actions);
        }
    }

    fn changes_role(&self) -> bool {
        self.promotion.is_some() || self.demotion.is_some() || self.leaving.is_some()
    }

    fn begin(&mut self, actions: &mut Vec<Action>) {
        let tag = self.tag(Purpose::Local);
        let current = self.current.as_mut().expect("just made");
        let peer = !current.remote;
        match current.operation.clone() {
            ClientOperation::Read(span) => {
                current.remote = true;
                actions.push(Action::Read { tag, area: Area::Data, span });
            }
            ClientOperation::Write { offset, payload, fua } => {
                self.sequence += 1;
                let sequence = Sequence(self.sequence);
                actions.push(Action::Write { tag, offset, payload: payload.clone(), fua });
                if peer {
                    let frame = Frame::Write { sequence, after: Sequence::ZERO, offset, payload, fua };
                    self.send(Channel::Data, frame, actions);
                }
            }
            ClientOperation::Zero { span, mode, fua } => {
                self.sequence += 1;
                let sequence = Sequence(self.sequence);
                actions.push(Action::Zero { tag, span, mode, fua });
                if peer {
                    let frame = Frame::Zero { sequence, after: Sequence::ZERO, span, mode, fua };
                    self.send(Channel::Data, frame, actions);
                }
            }
            ClientOperation::Flush => {
                if self.has(Bug::FlushIgnored) {
                    let current = self.current.as_mut().expect("under way");
                    (current.local, current.remote) = (true, true);
                    self.answer(actions);
                    return;
                }
                self.sequence += 1;
                actions.push(Action::Flush { tag });
                if peer {
                    self.send(Channel::Data, Frame::FlushTo(Sequence(self.sequence)), actions);
                }
            }
        }
    }

    fn answer(&mut self, actions: &mut Vec<Action>) {
        let Some(Current { client, id, operation, data, failed, .. }) = self.current.take() else { return };
        let result = match (operation, data) {
            _ if failed => Err(RequestError::Io),
            (ClientOperation::Read(_), Some(data)) => Ok(RequestOutcome::Data(data)),
            (ClientOperation::Read(_), None) => Err(RequestError::Io),
            _ => Ok(RequestOutcome::Done),
        };
        actions.push(Action::Reply { client, id, result });
    }

    /// The peer has applied, or made stable, everything up to here.
    pub(super) fn peer_has(&mut self, upto: Sequence) {
        if let Some(current) = &mut self.current {
            current.remote |= upto.0 >= self.sequence;
        }
    }

    /// The peer is gone: a new generation first, then on without it.
    pub(super) fn go_alone(&mut self, actions: &mut Vec<Action>) {
        if self.has(Bug::GenerationAfterAnswer) {
            if let Some(current) = &mut self.current {
                current.remote = true;
            }
            return;
        }
        let id = u128::from(self.draws.next() | 2);
        let record = self.record.clone().with_head(id, self.record.term);
        self.commit(record, After::WentAlone, actions);
    }

    pub(super) fn promote(&mut self, id: CommandId, force: Force, actions: &mut Vec<Action>) {
        let in_sync = self.session == Session::InSync;
        let only_died = self.record.active && !self.record.lost_power && self.session == Session::Down;
        let allowed = match force {
            Force::No => in_sync || only_died,
            Force::Yes | Force::Inconsistent => !matches!(self.session, Session::Source | Session::Split),
        };
        let sound = matches!(self.disk, DiskState::Consistent | DiskState::UpToDate);
        let peer_primary = self.theirs.as_ref().is_some_and(|theirs| theirs.primary);
        if self.role == Role::Primary || !allowed || !sound || peer_primary || self.changes_role() {
            let answer = OperatorAnswer::Refused("not in this state".to_owned());
            actions.push(Action::Answer { id, answer });
            return;
        }
        self.promotion = Some(id);
        let head = u128::from(self.draws.next() | 2);
        let term = self.theirs.as_ref().map_or(0, |theirs| theirs.term).max(self.record.term) + 1;
        let mut record = self.record.clone().with_head(head, term);
        record.active = true;
        record.lost_power = false;
        self.commit(record, After::Promoted, actions);
    }

    /// The new generation is stable here: now on the peer, if there is one.
    pub(super) fn promoted(&mut self, actions: &mut Vec<Action>) {
        if self.session == Session::InSync {
            self.send(
                Channel::Control,
                Frame::Offer { generation: self.record.head(), replies: Replies::Together },
                actions,
            );
        } else {
            self.serve_now(actions);
        }
    }

    pub(super) fn adopted(&mut self, id: GenerationId, actions: &mut Vec<Action>) {
        if self.promotion.is_some() && id == self.record.head_id() {
            self.serve_now(actions);
        }
    }

    fn serve_now(&mut self, actions: &mut Vec<Action>) {
        let Some(id) = self.promotion.take() else { return };
        self.set_disk(DiskState::UpToDate, actions);
        self.set_role(Role::Primary, actions);
        actions.push(Action::Answer { id, answer: OperatorAnswer::Done });
    }

    pub(super) fn demote(&mut self, id: CommandId, actions: &mut Vec<Action>) {
        if self.role == Role::Secondary {
            actions.push(Action::Answer { id, answer: OperatorAnswer::Done });
        } else if let Some(before) = self.demotion.replace(id) {
            actions.push(Action::Answer { id: before, answer: OperatorAnswer::Refused("again".to_owned()) });
        }
    }

    /// Nothing is under way any more: flush both sides, then leave.
    fn begin_demotion(&mut self, id: CommandId, actions: &mut Vec<Action>) {
        self.sequence += 1;
        let tag = self.tag(Purpose::Leave);
        actions.push(Action::Flush { tag });
        if self.session == Session::InSync {
            self.send(Channel::Data, Frame::FlushTo(Sequence(self.sequence)), actions);
        }
        self.leaving = Some((id, false, self.session != Session::InSync));
        self.set_role(Role::Secondary, actions);
    }

    /// One side of the flush before leaving is done.
    pub(super) fn left(&mut self, local: bool, actions: &mut Vec<Action>) {
        let Some((id, own, peer)) = self.leaving else { return };
        let (own, peer) = (own || local, peer || !local);
        self.leaving = Some((id, own, peer));
        if own && peer {
            // The right to go first stays here unless the peer holds the same.
            let active = self.session != Session::InSync;
            let record = Record { active, ..self.record.clone() }.next();
            self.commit(record, After::Demoted, actions);
        }
    }

    pub(super) fn demoted(&mut self, actions: &mut Vec<Action>) {
        if let Some((id, ..)) = self.leaving.take() {
            actions.push(Action::Answer { id, answer: OperatorAnswer::Done });
        }
    }

    /// A newer primary is there: this one stops at once.
    pub(super) fn depose(&mut self, actions: &mut Vec<Action>) {
        self.record.active = false;
        self.current = None;
        self.set_role(Role::Secondary, actions);
        if let Some(id) = self.demotion.take() {
            actions.push(Action::Answer { id, answer: OperatorAnswer::Done });
        }
    }
}
