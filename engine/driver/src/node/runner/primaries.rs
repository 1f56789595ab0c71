//! Who was primary last, as far as this node knows, and what a refused promotion says of it (P3).
//!
//! Known is what a peer said of itself in this run, and when it was lost; and, over restarts, which node wrote the newest
//! generation here.

use std::time::Duration;

use evenkeel_core::{
    ids::Timestamp,
    volume::{
        Role, Volume,
        operator::OperatorAnswer,
        status::{PeerStatus, Status},
    },
};

use super::Runner;
use crate::node::clock;

/// What was seen of a node's role in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::node) struct Reign {
    /// It is primary, or was when it was lost.
    is_primary: bool,
    /// When it was last seen to be.
    last: Option<Timestamp>,
    is_there: bool,
    /// Since when it is not there any more.
    lost: Option<Timestamp>,
}

impl Reign {
    /// `role` is what is known of it now; `None` when it is not connected.
    fn note(&mut self, role: Option<Role>, now: Timestamp) {
        if self.is_primary && (self.is_there || role.is_some()) {
            self.last = Some(now);
        }
        match role {
            Some(role) => (self.is_primary, self.lost) = (role == Role::Primary, None),
            None if self.is_there => self.lost = Some(now),
            None => {}
        }
        self.is_there = role.is_some();
    }

    /// When it was last seen to be primary.
    pub(in crate::node) fn last(&self) -> Option<Timestamp> {
        if self.is_primary && self.is_there { Some(clock::now()) } else { self.last }
    }
}

impl Runner {
    /// The roles that are known now.
    pub(super) fn note_primaries(&self, volume: &Volume) {
        let status = volume.status();
        let mut remarks = self.remarks.borrow_mut();
        remarks.reign.note(Some(status.role), clock::now());
        for peer in &status.peers {
            let role = peer.role.filter(|_| peer.connected);
            remarks.peers.entry(peer.index).or_default().reign.note(role, clock::now());
        }
    }

    /// A refused promotion also says who is in the way, since when, and what to do about it.
    pub(super) fn with_reasons(&self, answer: OperatorAnswer) -> OperatorAnswer {
        let OperatorAnswer::Refused(why) = answer else { return answer };
        let status = self.core_status();
        let reasons: Vec<String> =
            status.peers.iter().filter_map(|peer| self.reason(&status, peer)).collect();
        let why = match self.peer_names.as_slice() {
            [only] => why.replace("the peer", only),
            _ => why,
        };
        OperatorAnswer::Refused(if reasons.is_empty() {
            why
        } else {
            format!("{}; {why}", reasons.join("; "))
        })
    }

    fn reason(&self, status: &Status, peer: &PeerStatus) -> Option<String> {
        let name = self.peer_name(peer.index);
        if peer.connected {
            let named = self.peer_names.len() == 1;
            return (peer.role == Some(Role::Primary) && !named).then(|| format!("{name} is primary"));
        }
        let remarks = self.remarks.borrow();
        let reign = remarks.peers.get(&peer.index).map(|remarks| remarks.reign).unwrap_or_default();
        let ago = |then: Timestamp| seconds(clock::now().since(then));
        let wrote = status.head.is_some_and(|head| self.is_node(peer, head.term.node));
        let off = "make sure that it is off";
        Some(match reign {
            Reign { is_primary: true, last: Some(last), .. } => {
                format!("{name} was primary {} ago and does not answer: {off}", ago(last))
            }
            Reign { lost: Some(lost), .. } => {
                format!("{name} was there until {} ago and does not answer: {off}", ago(lost))
            }
            Reign { .. } if wrote => {
                format!(
                    "{name} was the last primary and has not been heard of since this daemon started: {off}"
                )
            }
            Reign { .. } => format!("{name} has not been heard of since this daemon started: {off}"),
        })
    }

    /// Whether the peer is this node, by the ids in the metadata.
    fn is_node(&self, peer: &PeerStatus, node: evenkeel_core::ids::NodeId) -> bool {
        let inner = self.inner.borrow();
        let superblock = inner.volume.stable_superblock();
        superblock
            .and_then(|superblock| superblock.peers[peer.index.as_usize()].as_ref())
            .is_some_and(|record| record.node == node)
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}
