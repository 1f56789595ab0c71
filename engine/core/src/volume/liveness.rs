//! Links that come and go, silence, and the one timer of a volume.
//!
//! About once a second one of the two sends a ping on the control channel, apart from bulk data, and the other answers:
//! so both have heard of each other. A peer from which nothing at all came for `peer_timeout` is dropped, and so is one
//! that owes an acknowledgement for that long.

use std::time::Duration;

use super::{
    DiskState, Role,
    io::{Action, Channel, LinkId},
    peer::Session,
    store::Then,
    volume::{Broken, Stage, Volume},
    wire::Frame,
    write_log::Place,
};
use crate::ids::{PeerIndex, Timestamp};

/// Between two pings: two ticks of a primary (P8), so that it is not woken for pings alone.
const PING_INTERVAL: Duration = Duration::from_millis(900);
/// Whoever was pinged waits this long for the next ping before it sends one itself: the two do not ping both.
const PINGED_INTERVAL: Duration = Duration::from_secs(1);
/// Between two rises of the attach counter while data change (D6).
const MINUTE: Duration = Duration::from_secs(60);

impl Volume {
    pub(crate) fn on_link_up(&mut self, peer: PeerIndex, link: LinkId) {
        if peer.as_usize() >= self.peers.len() {
            self.out.push(Action::CloseLink { peer, link, reason: "not a peer of this volume" });
            return;
        }
        let running = matches!(self.stage, Stage::Running);
        let closing = self.is_closing();
        let wanted = self.peer(peer).allowed || running && self.admits_probe(peer, link);
        if !running || closing || !wanted || !self.may_link_without_disk(peer) {
            let reason = match (running, self.disk) {
                (false, _) => "the volume is not open",
                (true, _) if closing => "the node leaves",
                (true, DiskState::Failed) => super::disk_failure::OWN_DISK_FAILED,
                (true, _) => "disconnected by the operator",
            };
            self.out.push(Action::CloseLink { peer, link, reason });
            return;
        }
        if self.peer(peer).link.is_some() {
            // A newly authenticated connection replaces its predecessor at once (design section 8).
            self.close_link(peer, "replaced by a newer connection");
        }
        let now = self.now;
        let state = self.peer_mut(peer);
        state.link = Some(link);
        state.session = Session::Greeting;
        state.heard_at = now;
        state.ping_at = now.after(PING_INTERVAL);
        state.owing_since = None;
        state.hello = None;
        self.send_hello(peer);
    }

    pub(crate) fn on_link_down(&mut self, peer: PeerIndex, link: LinkId) {
        if peer.as_usize() < self.peers.len() && self.peer(peer).link == Some(link) {
            self.lose_peer(peer);
        }
    }

    /// Closes the peer's link, if there is one, and acts on the loss.
    pub(crate) fn close_link(&mut self, peer: PeerIndex, reason: &'static str) {
        if let Some(link) = self.peer(peer).link {
            self.out.push(Action::CloseLink { peer, link, reason });
            self.lose_peer(peer);
        }
    }

    /// The peer leaves on purpose: its going is not a failure (P1).
    pub(crate) fn on_leave(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        self.peer_mut(peer).leaving = true;
        Ok(())
    }

    /// Tells every peer the own role, disk and term.
    pub(crate) fn tell_mark(&mut self) {
        if !matches!(self.stage, Stage::Running) {
            return;
        }
        for peer in self.peer_indices() {
            self.send_mark(peer);
        }
    }

    /// Tells one peer the same, and the attach counter (D6).
    pub(crate) fn send_mark(&mut self, peer: PeerIndex) {
        let Some(term) = self.store().term() else { return };
        if !matches!(self.session(peer), Session::Down | Session::Greeting) {
            let (role, disk, attach) = (self.role, self.disk, self.store().shown_counter(peer));
            self.send(peer, Channel::Control, Frame::Mark { role, disk, term, attach });
        }
    }

    pub(crate) fn on_wake(&mut self) {
        self.wake_at = None;
        if !matches!(self.stage, Stage::Running) {
            return;
        }
        self.expire_confirmations();
        self.count_minute();
        if self.follows_for_minutes() && self.now >= self.minute_at() {
            self.count_followed_minute();
            self.let_followed_idle_go();
            self.minute.0 = self.now;
        }
        for peer in self.peer_indices() {
            if self.peer(peer).link.is_none() {
                continue;
            }
            let silent = self.now.since(self.peer(peer).heard_at) >= self.config.peer_timeout;
            let owing = self
                .peer(peer)
                .owing_since
                .is_some_and(|since| self.now.since(since) >= self.config.peer_timeout);
            if silent {
                self.close_link(peer, "nothing came for longer than peer_timeout");
            } else if owing {
                self.close_link(peer, "an acknowledgement is due for longer than peer_timeout");
            } else if self.now >= self.peer(peer).ping_at {
                let now = self.now;
                self.peer_mut(peer).ping_at = now.after(PING_INTERVAL);
                self.send(peer, Channel::Control, Frame::Ping(now));
            }
        }
    }

    /// The peer asks whether this node lives; that it does so itself shows that it lives, so it need not be asked.
    pub(crate) fn on_ping(&mut self, peer: PeerIndex, time: Timestamp) {
        self.peer_mut(peer).ping_at = self.now.after(PINGED_INTERVAL);
        self.send(peer, Channel::Control, Frame::Pong(time));
    }

    /// When the attach counter is next to rise, if data have changed by then (D6).
    fn minute_at(&self) -> Timestamp {
        self.minute.0.after(MINUTE)
    }

    /// Whether data change by this node's doing, on a disk that works.
    fn counts_minutes(&self) -> bool {
        (self.role == Role::Primary && self.disk != DiskState::Failed) || self.is_host()
    }

    /// D6: the counter rises once a minute while data change; also lets idle extents go (D8).
    fn count_minute(&mut self) {
        if !self.counts_minutes() || self.now < self.minute_at() {
            return;
        }
        let issued = self.log.issued();
        if self.minute.1 != issued {
            self.raise_counter();
            self.store_mut().after_commit(Then::CounterShown);
            self.want_stable(issued);
        }
        let idle_since = self.minute.1;
        self.store_mut().let_idle_go(idle_since);
        self.minute = (self.now, issued);
    }

    /// Whether data may change by another node's doing, on a disk that works.
    fn follows_for_minutes(&self) -> bool {
        let follows = self.follows_somebody() || self.stream.is_some();
        self.role == Role::Secondary && self.disk != DiskState::Failed && follows
    }

    /// D6 for a node that follows: an older state of it that is put back must be found too.
    fn count_followed_minute(&mut self) {
        let mut changed = false;
        for peer in &mut self.peers {
            if let Session::Following(following) = &mut peer.session {
                changed |= following.counted != following.applied;
                following.counted = following.applied;
            }
        }
        if changed {
            self.raise_counter();
            self.store_mut().after_commit(Then::CounterShown);
        }
    }

    /// Notes since when a peer owes something, and asks to be woken at the next time that matters.
    pub(crate) fn set_wake(&mut self) {
        let mut next: Option<Timestamp> = None;
        let mut at = |time: Timestamp| next = Some(next.map_or(time, |next| next.min(time)));
        if let Some(time) = self.fail_overdue() {
            at(time);
        }
        if let Some(time) = self.condemn_again() {
            at(time);
        }
        if let Some(time) = self.expire_promotion() {
            at(time);
        }
        if let Some(time) = self.confirmations_end() {
            at(time);
        }
        if let Some(time) = self.next_tick() {
            at(time);
        }
        if self.role == Role::Secondary
            && let Some(time) = self.resumption.and_then(|resumption| resumption.wake_after(self.now))
        {
            at(time);
        }
        if let Some(time) = self.pace.wake_at() {
            at(time);
        }
        if self.counts_minutes() || self.follows_for_minutes() {
            at(self.minute_at());
        }
        for peer in self.peer_indices() {
            if self.peer(peer).link.is_none() {
                continue;
            }
            let place = Place::Peer(peer);
            let counted = self.peer(peer).is_counted();
            let progress = self.log.applied_to(place).0 + self.log.stable_to(place).0;
            // One that is to be dropped owes its word that it is durably old (P1).
            let parting = !self.peer(peer).allowed;
            let owes = counted
                && (parting || self.log.applied_to(place) < self.log.issued() || self.owes_flush(peer));
            let now = self.now;
            let state = self.peer_mut(peer);
            if !owes {
                state.owing_since = None;
            } else if state.owing_since.is_none() || state.progress != progress {
                state.owing_since = Some(now);
            }
            state.progress = progress;
            let (heard, ping_at, owing) = (state.heard_at, state.ping_at, state.owing_since);
            at(heard.after(self.config.peer_timeout));
            at(ping_at);
            if let Some(since) = owing {
                at(since.after(self.config.peer_timeout));
            }
        }
        if let Some(next) = next
            && self.wake_at.is_none_or(|set| next < set || set <= self.now)
        {
            self.wake_at = Some(next);
            self.out.push(Action::WakeAt(next));
        }
    }
}
