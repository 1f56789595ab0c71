//! With three nodes or more: to whom a node is bound, and what that does to its other sessions (G9, R6).
//!
//! - The target of a resync is in sync with nobody and nobody's source: it leaves all others, and decides anew
//!   with them when it has ended.
//! - A secondary that is in sync with a primary has that primary's copy. Two such secondaries are *fellows*: in
//!   sync without a comparison. Nobody else makes one of them its target, and none of them is source of a resync:
//!   it could not end behind the primary's back.
//! - A secondary that loses its primary is in sync with nobody until they have compared.
//!
//! The rules by which a verdict waits are in `generation::course`; both sides come to the same from their reports,
//! which name the bond. A report whose bond is not true any more is replaced.

use super::{
    Role,
    peer::{Peer, Session, Starting},
    volume::Volume,
};
use crate::{
    generation::{course::Course, verdict::Verdict, view::Bond},
    ids::PeerIndex,
};

impl Volume {
    /// To which node but `peer` this one is bound.
    pub(crate) fn bond_beside(&self, peer: PeerIndex) -> Bond {
        self.peer_indices()
            .filter(|&other| other != peer)
            .map(|other| self.bond_to(other))
            .find(|bond| *bond != Bond::Free)
            .unwrap_or(Bond::Free)
    }

    fn bond_to(&self, peer: PeerIndex) -> Bond {
        let Some(node) = self.store().peer_node(peer) else { return Bond::Free };
        let primary = self.is_primary_peer(peer);
        let flags = self.store().flags();
        match self.session(peer) {
            Session::Following(following) if following.in_sync() && primary => Bond::InSync(node),
            Session::Following(following) if following.in_sync() => Bond::Free,
            Session::Following(_) if primary || !flags.consistent => Bond::Target(node),
            Session::Starting(starting) if starting.begun && !starting.leader && !starting.fellows => {
                let fresh = matches!(starting.verdict, Verdict::FreshPair { .. });
                if starting.copy || fresh || primary { Bond::Target(node) } else { Bond::Free }
            }
            Session::Following(_)
            | Session::Starting(_)
            | Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Leading(_)
            | Session::Apart(_) => Bond::Free,
        }
    }

    /// Whether a peer has said that it is primary.
    pub(crate) fn is_primary_peer(&self, peer: PeerIndex) -> bool {
        self.peer(peer).told.is_some_and(|told| told.role == Role::Primary)
    }

    /// Whether this node is in sync with a primary.
    pub(crate) fn has_primary(&self) -> bool {
        self.peer_indices().any(|peer| {
            self.is_primary_peer(peer)
                && matches!(self.session(peer), Session::Following(following) if following.in_sync())
        })
    }

    /// Whether this node gets somebody's writes.
    pub(crate) fn follows_somebody(&self) -> bool {
        self.peers.iter().any(|peer| matches!(peer.session, Session::Following(_)))
    }

    /// Whether a resync into this node is under way, or about to be.
    pub(crate) fn is_target(&self) -> bool {
        self.peers.iter().any(Peer::is_source)
    }

    /// Leaves sessions that the own bond forbids, and replaces reports that name another one.
    pub(crate) fn keep_company(&mut self) {
        if !self.has_third_nodes() {
            return;
        }
        for peer in self.peer_indices() {
            let bond = self.bond_beside(peer);
            let reported = match self.session(peer) {
                Session::Comparing(comparing) => Some(&**comparing),
                Session::Starting(starting) | Session::Apart(starting) => Some(&starting.comparing),
                Session::Down | Session::Greeting | Session::Leading(_) | Session::Following(_) => None,
            };
            if let Some(comparing) = reported {
                let head = self.store().head();
                let moved = comparing.own_view.bond != bond
                    || (bond != Bond::Free && comparing.own_view.history.head() != head);
                if moved {
                    self.report_again(peer);
                }
                continue;
            }
            let in_sync = self.peer(peer).is_in_sync();
            let busy = matches!(self.session(peer), Session::Leading(_) | Session::Following(_));
            match bond {
                Bond::Target(_) if busy => self.close_link(peer, "this node becomes the target of another"),
                Bond::InSync(_) if busy && !in_sync => {
                    self.close_link(peer, "this node is in sync with a primary");
                }
                Bond::Free | Bond::Target(_) | Bond::InSync(_) => {}
            }
        }
    }

    /// The primary that this node followed is gone: it is in sync with nobody until they have compared (G9).
    pub(crate) fn leave_everybody(&mut self) {
        for peer in self.peer_indices() {
            if matches!(self.session(peer), Session::Leading(_) | Session::Following(_)) {
                self.close_link(peer, "the primary that this node followed is lost");
            }
        }
    }

    /// Acts on what was agreed with a peer, or waits until one of the two reports something else.
    pub(crate) fn take_course(&mut self, peer: PeerIndex, starting: Starting, course: Course) {
        let leads = starting.leader;
        let session = match course {
            Course::Act | Course::Fellows => Session::Starting,
            Course::Wait => Session::Apart,
        };
        self.peer_mut(peer).session = session(Box::new(starting));
        match course {
            Course::Act if leads => self.prepare_to_lead(peer),
            Course::Fellows if leads => self.send_begin(peer),
            Course::Act | Course::Fellows | Course::Wait => {}
        }
    }

    /// Whether a session is about to begin between two new copies.
    pub(crate) fn is_fresh_pair(&self, peer: PeerIndex) -> bool {
        matches!(self.session(peer), Session::Starting(starting)
            if matches!(starting.verdict, Verdict::FreshPair { .. }))
    }

    /// G3: the first generation of all, now that the other node waits for it and takes none from a third: else three
    /// new nodes could make two of them. Whether there is one.
    pub(crate) fn propose(&mut self, peer: PeerIndex) -> bool {
        if self.store().head().is_none() {
            if self.is_target() {
                return false;
            }
            let (id, replies) = (self.entropy.next_id(), self.replies());
            self.store_mut().make_first_generation(id, replies);
            // Who has agreed to take ours can still do that; who wants to give us another cannot.
            for other in self.peer_indices() {
                let offers = |starting: &Starting| starting.leader && starting.begun;
                if !matches!(self.session(other), Session::Starting(starting) if offers(starting)) {
                    self.report_again(other);
                }
            }
        }
        self.store_mut().begin_supply(peer, None);
        true
    }
}
