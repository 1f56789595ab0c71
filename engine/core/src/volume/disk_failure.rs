//! The own disk has failed (W4): nothing more can be promised from it.
//!
//! A primary steps down and hands its right to a peer in sync, which has everything that was answered. Serving
//! through that peer without a disk of one's own (W7) is not built yet.

use super::{
    DiskState, Role,
    io::{Area, Channel, DiskError, Notice, RequestError},
    peer::Session,
    store::Then,
    volume::{Stage, Volume},
    wire::Frame,
};

impl Volume {
    /// The own disk failed: final for this run. Nothing is answered from it any more.
    pub(crate) fn fail_disk(&mut self, area: Area, error: DiskError) {
        if self.disk == DiskState::Failed {
            return;
        }
        self.notice(Notice::DiskFailed(area, error));
        self.set_disk(DiskState::Failed);
        self.on_own_disk_failed(area);
    }

    /// The own disk has failed (W4): nothing more can be promised from here.
    fn on_own_disk_failed(&mut self, area: Area) {
        self.cancel_promotion("the own disk failed");
        self.resumption = None;
        self.demotion = None;
        self.fail_waiting(RequestError::Io);
        if !matches!(self.stage, Stage::Running) {
            return;
        }
        self.fail_flushes(RequestError::Io);
        self.fail_unissued_pieces();
        self.fail_requests();
        if self.role == Role::Primary {
            // A peer in sync has everything that was answered: it gets the right to go on, so that nobody has
            // to force it. This copy comes back Inconsistent. Only a right that was durably given up can be
            // handed on, and without metadata nothing can be given up.
            if area == Area::Data {
                self.heir = self.peer_indices().find(|&peer| self.peer(peer).is_in_sync());
            }
            self.role = Role::Secondary;
            self.suspended = None;
            self.confirming.clear();
            self.notice(Notice::Role(Role::Secondary));
            self.release_withheld();
        }
        self.store_mut().invalidate();
        for peer in self.peer_indices() {
            if self.heir == Some(peer) {
                self.store_mut().after_commit(Then::RightGivenUp);
                continue;
            }
            if matches!(self.session(peer), Session::Following(_)) {
                self.send(peer, Channel::Data, Frame::Failed);
            }
            self.close_link(peer, "the own disk failed");
        }
    }

    /// This node may not be promoted any more, durably: the heir may.
    pub(crate) fn on_right_given_up(&mut self) {
        if let Some(peer) = self.heir {
            self.send(peer, Channel::Control, Frame::Yield);
        }
    }
}
