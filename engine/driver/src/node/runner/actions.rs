//! What a volume wants, and who does it.

use evenkeel_core::volume::io::{Action, Area};

use super::{Inner, Runner};

impl Runner {
    /// Carries out what a call of the volume has left in `actions`, in its order.
    pub(super) fn carry_out(&self, inner: &mut Inner, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Read { tag, area: Area::Data, span } => self.read_data(tag, span),
                Action::Read { tag, area: Area::Meta, span } => self.read_meta(tag, span),
                Action::Write { tag, offset, payload, fua } => self.write_data(tag, offset, payload, fua),
                Action::Zero { tag, span, mode, fua } => self.zero_data(tag, span, mode, fua),
                Action::Flush { tag } => self.flush_data(tag),
                Action::Extend { tag, data, meta } => self.make_room(tag, data, meta),
                Action::Commit { tag, pieces } => self.commit_meta(tag, pieces),
                Action::Send { link, channel, frame, .. } => self.endpoint.send(link, channel, &frame, None),
                Action::CloseLink { link, reason, .. } => self.endpoint.close(link, reason),
                Action::Reply { client, id, result } => self.answer_request(inner, client, id, result),
                Action::WakeAt(time) => self.alarm.set(time),
                Action::Answer { id, answer } => {
                    // Who asked and does not wait any more needs no answer.
                    if let Some(order) = inner.orders.remove(&id) {
                        drop(order.send(answer));
                    }
                }
                Action::Notice(notice) => self.on_notice(inner, notice),
            }
        }
    }
}
