//! The secondary's side of the toy, and the copy of a whole disk from one node to the other.

use bytes::Bytes;
use evenkeel_core::{
    ids::Sequence,
    volume::{
        io::{Action, Area, Channel, LinkId},
        span::ByteSpan,
        wire::Frame,
    },
};

use super::{After, Bug, COPY_BYTES, Purpose, Record, Session, Toy};

impl Toy {
    /// Applies what the peer sent, one thing at a time.
    pub(super) fn follow(&mut self, actions: &mut Vec<Action>) {
        if self.applying.is_some() || self.committing.is_some() || !self.disk_known() {
            return;
        }
        if !matches!(self.session, Session::InSync | Session::Target) {
            return;
        }
        let Some(frame) = self.inbox.pop_front() else { return };
        let tag = self.tag(Purpose::Apply);
        if self.has(Bug::AppliedBeforeWritten)
            && let Frame::Write { sequence, .. } | Frame::Zero { sequence, .. } = &frame
        {
            let upto = *sequence;
            self.send(Channel::Data, Frame::Applied { upto, also: Vec::new() }, actions);
        }
        actions.push(match &frame {
            Frame::Write { offset, payload, fua, .. } => {
                Action::Write { tag, offset: *offset, payload: payload.clone(), fua: *fua }
            }
            Frame::Zero { span, mode, fua, .. } => Action::Zero { tag, span: *span, mode: *mode, fua: *fua },
            _ => Action::Flush { tag },
        });
        self.applying = self.link.map(|link| (link, frame));
    }

    pub(super) fn applied(&mut self, actions: &mut Vec<Action>) {
        // What came on an older link is on the disk, and no longer anybody's business.
        let frame = self.applying.take().filter(|(link, _)| self.link == Some(*link));
        match frame.map(|(_, frame)| frame) {
            Some(Frame::Write { sequence, .. } | Frame::Zero { sequence, .. }) => {
                let frame = Frame::Applied { upto: sequence, also: Vec::new() };
                self.send(Channel::Data, frame, actions);
            }
            Some(Frame::FlushTo(sequence)) => self.send(Channel::Data, Frame::StableTo(sequence), actions),
            Some(Frame::Finish) if self.session == Session::Target => {
                let theirs = self.theirs.clone().expect("a target has met its source");
                let mut record = Record { inconsistent: false, active: false, ..self.record.clone() };
                record.lost_power = false;
                record.heads = theirs.heads;
                record.term = record.term.max(theirs.term);
                self.discards_own = false;
                self.commit(record.next(), After::CopyEnded, actions);
            }
            _ => {}
        }
    }

    /// The target is durably Inconsistent: send it everything.
    pub(super) fn start_copy(&mut self, actions: &mut Vec<Action>) {
        self.copy_wanted = false;
        self.copied = 0;
        self.copy_next(actions);
    }

    fn copy_next(&mut self, actions: &mut Vec<Action>) {
        let end = if self.has(Bug::CopyEndsEarly) { self.size_bytes / 2 } else { self.size_bytes };
        if self.copied >= end {
            self.send(Channel::Data, Frame::Finish, actions);
            return;
        }
        let span = ByteSpan { offset: self.copied, len: COPY_BYTES.min(self.size_bytes - self.copied) };
        let Some(link) = self.link else { return };
        let tag = self.tag(Purpose::CopyRead { link, offset: self.copied });
        actions.push(Action::Read { tag, area: Area::Data, span });
    }

    pub(super) fn copy_piece(&mut self, link: LinkId, offset: u64, data: Bytes, actions: &mut Vec<Action>) {
        if self.session != Session::Source || self.link != Some(link) || self.copied != offset {
            return;
        }
        let sequence = Sequence::ZERO;
        self.copied += data.len() as u64;
        let frame = Frame::Write { sequence, after: Sequence::ZERO, offset, payload: data, fua: false };
        self.send(Channel::Data, frame, actions);
        self.copy_next(actions);
    }
}
