//! FLUSH: one answer for all that was answered before, group-committed here and on the peers (W4).
//!
//! A flush names the last write issued when it was admitted. It is answered when everything up to that write
//! is stable on the own disk and on every peer that counts. Several flushes share one action of the disk and
//! one frame to each peer.
//!
//! Invariant: at most one flush of the own disk is under way; it covers what was applied when it began.

use std::collections::VecDeque;

use super::{
    DiskState,
    config::Protocol,
    disk_failure::Failure,
    io::{Action, Channel, ClientId, DiskError, RequestError, RequestId, RequestOutcome},
    operation::Purpose,
    peer::Session,
    volume::Volume,
    wire::Frame,
    write_log::Place,
};
use crate::ids::{PeerIndex, Sequence, Timestamp};

/// What is known of flushes on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flushes {
    /// Flushes of clients, in order; each waits for everything up to its sequence.
    waiting: VecDeque<FlushWaiting>,
    /// What somebody wants to be stable on the own disk.
    wanted: Sequence,
    /// Whether the own disk is flushing.
    own_under_way: bool,
    /// The highest sequence that was answered.
    pub(crate) replied: Sequence,
}

#[derive(Clone, Debug)]
struct FlushWaiting {
    client: ClientId,
    id: RequestId,
    upto: Sequence,
    since: Timestamp,
}

impl Flushes {
    /// Flushes that clients wait for.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no client waits for a flush and the own disk is at rest.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.own_under_way
    }
}

impl Volume {
    /// A client's flush is admitted.
    pub(crate) fn admit_flush(&mut self, client: ClientId, id: RequestId) {
        let upto = self.log.issued();
        let since = self.now;
        self.flushes.waiting.push_back(FlushWaiting { client, id, upto, since });
        self.want_stable(upto);
    }

    /// Makes everything up to `upto` stable here and on every peer that gets our writes.
    pub(crate) fn want_stable(&mut self, upto: Sequence) {
        self.flushes.wanted = self.flushes.wanted.max(upto);
        for peer in self.peer_indices() {
            if self.peer_mut(peer).wants_flush_to(upto) {
                self.send(peer, Channel::Data, Frame::FlushTo(upto));
            }
        }
    }

    /// Begins and ends what can be begun and ended.
    pub(crate) fn advance_flushes(&mut self) {
        // One at a time, for all that was issued so far: on protocol A a replica begins nothing that follows a flush
        // before its end (W5), and one for each write would take it down to one write at a time.
        let asked_for_all = self.log.stable_everywhere() < self.flushes.wanted;
        if !asked_for_all && (self.store().is_short_of_slots() || self.log.wants_flush()) {
            self.want_stable(self.log.issued());
        }
        let applied = self.log.applied_to(Place::Own);
        let wanted = self.flushes.wanted;
        let works = self.disk != DiskState::Failed;
        if works
            && !self.flushes.own_under_way
            && self.log.stable_to(Place::Own) < wanted
            && applied >= wanted
        {
            self.flushes.own_under_way = true;
            let tag = self.tag(Purpose::OwnFlush(applied));
            self.out.push(Action::Flush { tag });
        }
        if self.withholds_answers() {
            return;
        }
        while let Some(first) = self.flushes.waiting.front() {
            if !self.is_stable_where_it_counts(first.upto) {
                break;
            }
            let first = self.flushes.waiting.pop_front().expect("there is a front");
            self.io.flushes += 1;
            self.reply(first.client, first.id, Ok(RequestOutcome::Done));
        }
    }

    /// Whether a peer has been asked for a flush that it has not reported. Not only clients wait for one: also the
    /// activity log when it is full, and whoever leaves the role.
    pub(crate) fn owes_flush(&self, peer: PeerIndex) -> bool {
        let Session::Leading(leading) = self.session(peer) else { return false };
        self.log.stable_to(Place::Peer(peer)) < leading.flush_asked
    }

    fn is_stable_where_it_counts(&self, upto: Sequence) -> bool {
        let peers_count = self.config.protocol != Protocol::A || self.is_diskless();
        (self.is_diskless() || self.log.stable_to(Place::Own) >= upto)
            && (!peers_count
                || self
                    .peers
                    .iter()
                    .all(|peer| !peer.is_counted() || self.log.stable_to(Place::Peer(peer.index)) >= upto))
    }

    /// The own disk has flushed.
    pub(crate) fn on_own_flush_done(&mut self, upto: Sequence, result: Result<(), DiskError>) {
        self.flushes.own_under_way = false;
        match result {
            // What a failed disk flushes is of no use.
            Ok(()) if self.disk == DiskState::Failed => {}
            Ok(()) => {
                self.log.stable(Place::Own, upto).expect("the flush covered what was applied");
                self.on_log_shrunk();
            }
            Err(error) => self.fail_disk(Failure::Flush(error)),
        }
    }

    /// Fails the flushes that were held longer than `hold`; returns when the next one will have been.
    pub(crate) fn fail_overdue_flushes(&mut self) -> Option<Timestamp> {
        if !self.withholds_answers() {
            return None;
        }
        while let Some(first) = self.flushes.waiting.front() {
            let until = first.since.after(self.config.hold);
            if until > self.now {
                return Some(until);
            }
            let first = self.flushes.waiting.pop_front().expect("there is a front");
            self.reply(first.client, first.id, Err(RequestError::Io));
        }
        None
    }

    /// Fails the flushes that wait: the role ends before they could be kept.
    pub(crate) fn fail_flushes(&mut self, error: RequestError) {
        while let Some(first) = self.flushes.waiting.pop_front() {
            self.reply(first.client, first.id, Err(error));
        }
    }
}
