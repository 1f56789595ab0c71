//! The own disk has failed (W4, W7): nothing more can be promised from it in this run.
//!
//! Writes, flushes and commits condemn a disk; a read that fails does not: it is answered from elsewhere or with an
//! error, because the copy around an unreadable sector may be the last good one (found by the simulator).
//!
//! ```text
//!   primary, peer in sync ──> Failed, the peer serves (see `diskless`)
//!   primary, alone        ──> Failed, secondary: requests end with errors
//!   secondary             ──> Failed, links closed; an entitlement goes to a peer in sync first
//! ```
//!
//! What is recorded, if it still can be: the copy is that of its head but for what the activity log covers. So it
//! comes back Inconsistent, as the target of a resync toward its own head, which goes by bitmap. The last good copy
//! is only put in doubt, so that `primary --force` still takes it; unless a flush failed: then the kernel's cache may
//! show what the media do not have, and nobody may read from it what others are to rely on.

use std::time::Duration;

use super::{
    DiskState, Role,
    io::{Area, Channel, DiskError, Notice, RequestError},
    peer::Session,
    store::Then,
    volume::{Stage, Volume},
    wire::Frame,
    write_log::Place,
};
use crate::ids::{PeerIndex, Timestamp};

/// Why no request, command or promotion can go on.
pub(crate) const OWN_DISK_FAILED: &str = "the own disk failed";

/// Between two attempts to record the failure.
const CONDEMN_AGAIN: Duration = Duration::from_millis(100);

/// What a disk could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A write or zeroing of data.
    Write(DiskError),
    /// A flush of data, or a write that was to be stable.
    Flush(DiskError),
    /// A commit of metadata.
    Commit(DiskError),
}

impl Failure {
    fn parts(self) -> (Area, DiskError) {
        match self {
            Self::Write(error) | Self::Flush(error) => (Area::Data, error),
            Self::Commit(error) => (Area::Meta, error),
        }
    }
}

impl Volume {
    /// The own disk failed: final for this run. Nothing is answered from it any more.
    pub(crate) fn fail_disk(&mut self, failure: Failure) {
        if self.disk == DiskState::Failed {
            return;
        }
        let (area, error) = failure.parts();
        self.notice(Notice::DiskFailed(area, error));
        let before = self.disk;
        self.set_disk(DiskState::Failed);
        self.cancel_promotion(OWN_DISK_FAILED);
        // No generation is made on this disk any more.
        self.generation_due = false;
        self.resumption = None;
        self.end_verify(Err(OWN_DISK_FAILED));
        self.abandon_growth(OWN_DISK_FAILED);
        if self.store.is_none() {
            return;
        }
        if !matches!(self.stage, Stage::Running) {
            self.condemn(false);
            self.advance_commit();
            return;
        }
        let host = self.would_be_host();
        self.cancel_demotion(OWN_DISK_FAILED);
        let other = self.peer_indices().find(|&peer| self.has_copy(peer));
        let good = matches!(before, DiskState::Consistent | DiskState::Outdated | DiskState::UpToDate);
        let flushed = !matches!(failure, Failure::Flush(_));
        if host.is_none() && self.store().is_entitled() {
            self.heir = other;
        }
        self.condemn(good && flushed && other.is_none());
        match (self.role, host) {
            (Role::Primary, Some(host)) => self.begin_diskless(host),
            (Role::Primary, None) => self.step_down(),
            (Role::Secondary, _) => self.fail_waiting(RequestError::Io),
        }
        for peer in self.peer_indices() {
            if host != Some(peer) && self.heir != Some(peer) {
                self.part_for_failure(peer);
            }
        }
    }

    /// Whether the peer has what this node has, on a disk of its own.
    pub(crate) fn has_copy(&self, peer: PeerIndex) -> bool {
        let works = self.peer(peer).told.is_none_or(|told| told.disk != DiskState::Failed);
        match self.session(peer) {
            Session::Leading(leading) => works && leading.in_sync(),
            Session::Following(following) => works && following.in_sync() && !following.is_host(),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Apart(_) => false,
        }
    }

    fn condemn(&mut self, last_copy: bool) {
        for then in self.store_mut().condemn(last_copy) {
            self.not_done(then);
        }
    }

    /// What was to follow from a commit will not.
    pub(crate) fn not_done(&mut self, then: Then) {
        if let Then::Answered(id) = then {
            self.answer(id, Err(OWN_DISK_FAILED));
        }
    }

    /// Nobody can serve in place of the own disk: what clients have asked for ends with an error.
    pub(crate) fn step_down(&mut self) {
        self.diskless = None;
        self.fail_waiting(RequestError::Io);
        self.fail_flushes(RequestError::Io);
        self.fail_unissued_pieces();
        self.fail_requests();
        self.role = Role::Secondary;
        self.suspended = None;
        self.cancel_confirmations();
        self.notice(Notice::Role(Role::Secondary));
        if self.log.takes_part(Place::Own) {
            self.log.leave(Place::Own, |_| {}, &mut self.answerable);
        }
        self.release_withheld();
        for id in std::mem::take(&mut self.promotion_waiters) {
            self.answer(id, Err(OWN_DISK_FAILED));
        }
        // With three nodes the heir is bound to this node until its link closes: what it has kept of these writes is in
        // no bitmap before, so it may lead nobody (G9; found by the simulator).
        if !self.has_third_nodes() || self.heir.is_none() {
            self.tell_mark();
        }
    }

    fn part_for_failure(&mut self, peer: PeerIndex) {
        if matches!(self.session(peer), Session::Following(_)) {
            self.send(peer, Channel::Data, Frame::Failed);
        }
        self.close_link(peer, OWN_DISK_FAILED);
    }

    /// The failure is recorded, and the right to be promoted given up with it: it can be handed on.
    pub(crate) fn on_condemned(&mut self) {
        self.ask_host();
        if let Some(peer) = self.heir {
            self.send(peer, Channel::Control, Frame::Yield);
        }
    }

    /// Not even the failure could be recorded. What was not given up durably cannot be handed on: after a restart
    /// this node would not know that somebody else has it (found by the simulator). It is tried again.
    pub(crate) fn on_not_condemned(&mut self) {
        self.condemn_at = Some(self.now.after(CONDEMN_AGAIN));
    }

    /// Tries again to record the failure; returns when the next attempt is due.
    pub(crate) fn condemn_again(&mut self) -> Option<Timestamp> {
        let at = self.condemn_at?;
        if at > self.now {
            return Some(at);
        }
        self.condemn_at = None;
        self.store_mut().after_commit(Then::Condemned);
        self.advance_commit();
        None
    }
}
