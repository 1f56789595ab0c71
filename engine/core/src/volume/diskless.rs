//! A primary whose own disk failed, served by the peer that was in sync with it: its *host* (W7).
//!
//! ```text
//!   disk fails ──> Recording ──own failure stable──> Asking ──Adopted──> Served
//!                                                      ^                   │ host lost
//!                                                      └── host is back ── Held
//!   In all but Served everything is held (Suspended::NoData), and fails after `hold`.
//! ```
//!
//! From the failure on a write is answered when the host has applied it, on every protocol, and a flush when the
//! host's media have it. Reads go to the host (see `remote_read`).
//!
//! Why it is safe:
//! - this node gives up the right to be promoted, durably, before the host takes it: never both have it, and a restart
//!   of this node finds an Inconsistent copy;
//! - the host takes a generation that this disk never gets, before the first answer under it (G1), so this copy is
//!   older whatever its metadata say;
//! - a host that was lost is taken back only if it still has all that was answered: its head is the one of then, and
//!   it did not lose power. What it had not acknowledged is issued anew, with new sequences.
//!
//! Only with two nodes: with more, a peer that is lost afterwards would need bits that this node cannot keep; then
//! the primary steps down and a peer in sync gets its right.

use super::{
    DiskState, Role,
    io::{Channel, Notice},
    operation::Kind,
    peer::Session,
    status::Suspended,
    volume::Volume,
    wire::Frame,
    write_log::Place,
};
use crate::{
    generation::{
        decide::was_set_back,
        verdict::Verdict,
        view::{Copy, Power},
    },
    ids::{Generation, GenerationId, PeerIndex},
};

/// The state of such a primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diskless {
    host: PeerIndex,
    /// The last generation of the own disk.
    parent: GenerationId,
    /// The one that the host has from then on.
    generation: Generation,
    /// The own failure is on stable media.
    recorded: bool,
}

impl Volume {
    pub(crate) fn is_diskless(&self) -> bool {
        self.diskless.is_some()
    }

    /// The head of the data that this node serves.
    pub(crate) fn served_head(&self) -> Option<Generation> {
        match (&self.diskless, &self.store) {
            (Some(diskless), _) => Some(diskless.generation),
            (None, Some(store)) => store.head(),
            (None, None) => None,
        }
    }

    pub(crate) fn is_hosted_by(&self, peer: PeerIndex) -> bool {
        self.diskless.is_some_and(|diskless| diskless.host == peer)
    }

    /// The peer that can serve in place of the own disk.
    pub(crate) fn would_be_host(&self) -> Option<PeerIndex> {
        let serving = self.role == Role::Primary && self.suspended.is_none() && !self.is_demoting();
        let [peer] = self.peers.as_slice() else { return None };
        (serving && peer.is_counted() && peer.is_in_sync() && peer.offered.is_none()).then_some(peer.index)
    }

    pub(crate) fn begin_diskless(&mut self, host: PeerIndex) {
        let parent = self.store().head().expect("a primary has a generation").id;
        let term = self.store().term().expect("a primary has a term");
        let generation = Generation { id: GenerationId(self.entropy.next_id()), term };
        self.diskless = Some(Diskless { host, parent, generation, recorded: false });
        self.suspended = Some(Suspended::NoData);
        self.log.hand_over(Place::Peer(host), &mut self.answerable);
        for key in self.store_mut().abandon_waiting() {
            self.issue_or_park(key);
        }
        self.notice(Notice::ServedByPeer(host));
    }

    /// Asks the host to serve, once the own failure is recorded and there is a link on which it can be asked.
    pub(crate) fn ask_host(&mut self) {
        let Some(diskless) = &mut self.diskless else { return };
        diskless.recorded = true;
        let Diskless { host, parent, generation, .. } = *diskless;
        match self.session(host) {
            Session::Leading(_) | Session::Apart(_) => {}
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Following(_) => return,
        }
        let after = self.log.issued();
        self.peer_mut(host).offered = Some(generation.id);
        self.send(host, Channel::Control, Frame::Host { generation, parent, after });
    }

    /// The verdict with a peer was that there is no copy here: if it is the host that was lost, it can serve again.
    pub(crate) fn meet_host(&mut self, peer: PeerIndex) {
        let Some(diskless) = self.diskless.filter(|diskless| diskless.host == peer) else { return };
        let Session::Apart(apart) = self.session(peer) else { return };
        let Some((_, theirs)) = &apart.comparing.theirs else { return };
        let head = theirs.history.head().map(|head| head.id);
        let same = head == Some(diskless.parent) || head == Some(diskless.generation.id);
        let kept = match theirs.power {
            Power::SameRun | Power::SameBoot => true,
            Power::Lost => false,
        };
        let sound = theirs.copy == Copy::Good
            && matches!(apart.verdict, Verdict::NoCopy(_))
            && !theirs.role.is_primary()
            && !was_set_back(theirs, &apart.comparing.own_view);
        if !(same && kept && sound) {
            // What was answered is not there any more; nobody can go on from here.
            self.step_down();
            self.close_link(peer, super::disk_failure::OWN_DISK_FAILED);
        } else if diskless.recorded {
            self.ask_host();
        }
    }

    /// Whether the host has what it needs to serve.
    pub(crate) fn is_served(&self) -> bool {
        self.diskless.is_none_or(|diskless| {
            let host = self.peer(diskless.host);
            diskless.recorded && host.is_counted() && host.offered.is_none()
        })
    }

    /// The host is lost: everything is held until it is back. What it has not acknowledged is issued anew then.
    pub(crate) fn withdraw_from_host(&mut self, host: PeerIndex) {
        if !self.peer(host).receives() {
            return;
        }
        let complete = self.log.applied_to(Place::Peer(host)) >= self.flushes.replied;
        let pieces = self.log.withdraw(Place::Peer(host));
        for key in pieces.into_iter().rev() {
            let operation = self.operations.get_mut(key).expect("an unanswered piece is in the lock");
            let Kind::ClientWrite { sequence, .. } = &mut operation.kind else {
                panic!("a primary issues what clients write")
            };
            *sequence = None;
            self.parked.push_front(key);
        }
        self.store_mut().end_session(host);
        self.ask_reads_again(host);
        if !complete {
            // Protocol A: a write was answered from the own disk before it failed, and the host never got it.
            self.step_down();
        } else if self.suspended != Some(Suspended::Deposed) {
            self.suspended = Some(Suspended::NoData);
        }
    }

    /// Whether a link to the peer is of any use although the own disk has failed.
    pub(crate) fn may_link_without_disk(&self, peer: PeerIndex) -> bool {
        self.disk != DiskState::Failed || self.is_hosted_by(peer)
    }
}
