//! With three nodes or more: what a secondary keeps of the writes that it applies, so that the survivors of a lost
//! primary find in what they differ (G9, D8). With two nodes nothing of this is used.
//!
//! ```text
//!   secondary: received ──> kept here, its extents in the activity log ──primary: "stable up to n on these"──> forgotten,
//!                                │                                                         or bits for those not named
//!                                └──primary lost, or no room left──> bits for every peer
//! ```
//!
//! *The word* of a primary, `Everywhere`, says up to which write everything is stable on it, on the receiver and on
//! each node that is in sync with it. It is sent when that changes, and before a new head is offered. A node that it
//! names has what the receiver has, so bits for it that are not younger are cleared as well: both copies are the
//! primary's (`stable_proof`). A node that it does not name is left: the two are not in sync any more.
//!
//! Invariants:
//! - a write that was applied here is in the list or in the bits of every peer that may lack it; while it is in the
//!   list alone, its extents are in the activity log;
//! - a node applies the stream of one leader at a time (`company`).

use std::collections::VecDeque;

use super::{
    Role,
    io::{Channel, LinkId},
    peer::Session,
    span::ByteSpan,
    volume::Volume,
    wire::Frame,
};
use crate::ids::{GenerationId, MAX_PEERS, NodeId, PeerIndex, Sequence};

/// Writes that are kept in memory one by one; beyond that the oldest become bits.
const KEPT_MAX: usize = 64 << 10;

/// What is kept of a leader's writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// Not known to be stable everywhere, in order.
    writes: VecDeque<(Sequence, ByteSpan)>,
    /// Up to here the activity log need not cover anything: it is stable everywhere or in bits.
    pub(crate) covered: Sequence,
}

/// A set of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PeerSet([bool; MAX_PEERS]);

impl PeerSet {
    fn has(self, peer: PeerIndex) -> bool {
        self.0[peer.as_usize()]
    }

    fn insert(&mut self, peer: PeerIndex) {
        self.0[peer.as_usize()] = true;
    }
}

/// What a peer said last as primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    upto: Sequence,
    head: Option<GenerationId>,
    named: PeerSet,
}

impl Word {
    /// Whether this peer was in sync with the one that said it.
    pub(crate) fn names(&self, peer: PeerIndex) -> bool {
        self.named.has(peer)
    }
}

impl Volume {
    /// Whether there are third nodes, for which something has to be kept.
    pub(crate) fn has_third_nodes(&self) -> bool {
        self.peers.len() > 1
    }

    // --- the primary's side ---

    /// Tells the peers that get our writes up to where everything is stable, if that has changed.
    pub(crate) fn tell_word(&mut self) {
        if !self.has_third_nodes() || self.role != Role::Primary || self.withholds_word() {
            return;
        }
        let word = self.own_word(self.store().head().map(|head| head.id));
        self.send_word(word, |peer| peer.receives());
    }

    /// While a new head is on its way nobody is told anything but before it is offered.
    fn withholds_word(&self) -> bool {
        self.suspended.is_some() || self.store().is_head_unstable()
    }

    /// Before a new head is offered: to whom it is.
    pub(crate) fn tell_word_before_offer(&mut self) {
        if self.has_third_nodes() {
            let word = self.own_word(None);
            self.send_word(word, super::peer::Peer::is_in_sync);
        }
    }

    fn own_word(&self, head: Option<GenerationId>) -> Word {
        let mut named = PeerSet::default();
        for peer in self.peers.iter().filter(|peer| peer.is_in_sync()) {
            named.insert(peer.index);
        }
        Word { upto: self.log.stable_everywhere(), head, named }
    }

    fn send_word(&mut self, word: Word, to: impl Fn(&super::peer::Peer) -> bool) {
        for peer in self.peer_indices() {
            if !to(self.peer(peer)) || self.peer(peer).word_sent == Some(word) {
                continue;
            }
            self.peer_mut(peer).word_sent = Some(word);
            let others = self.peer_indices().filter(|&other| other != peer && word.named.has(other));
            let nodes: Vec<NodeId> = others.filter_map(|other| self.store().peer_node(other)).collect();
            let (upto, head) = (word.upto, word.head);
            self.send(peer, Channel::Control, Frame::Everywhere { upto, head, nodes });
        }
    }

    // --- the secondary's side ---

    /// The leader whose writes are applied here, if there are third nodes.
    pub(crate) fn begin_stream(&mut self, leader: PeerIndex) {
        if !self.has_third_nodes() {
            return;
        }
        self.end_stream();
        let link = self.peer(leader).link.expect("a session has a link");
        self.store_mut().begin_stream(leader, link);
        self.stream = Some((leader, link));
    }

    /// Whether the writes that are kept are those of this peer, on its link of now.
    pub(crate) fn is_stream_of(&self, peer: PeerIndex) -> bool {
        self.peer(peer).link.is_some_and(|link| self.stream == Some((peer, link)))
    }

    /// The stream has ended: what is not known to be stable everywhere may be missing on anybody. Returns whether
    /// there was anything.
    pub(crate) fn end_stream(&mut self) -> bool {
        let Some((leader, _)) = self.stream else { return false };
        let left = self.spill(leader);
        self.stream = None;
        self.store_mut().renumber();
        left
    }

    /// This node becomes primary: its own numbering counts from now on.
    pub(crate) fn begin_own_stream(&mut self) {
        if self.has_third_nodes() {
            self.end_stream();
            self.store_mut().renumber();
        }
    }

    /// A write of the leader has come in.
    pub(crate) fn keep(&mut self, leader: PeerIndex, sequence: Sequence, span: ByteSpan) {
        if !self.has_third_nodes() {
            return;
        }
        let Ok(following) = self.following_mut(leader) else { return };
        following.kept.writes.push_back((sequence, span));
        if following.kept.writes.len() > KEPT_MAX {
            self.spill(leader);
        }
    }

    /// What is kept becomes bits for every peer: the leader is lost, or there is no room. Returns whether there was
    /// anything.
    fn spill(&mut self, leader: PeerIndex) -> bool {
        let Ok(following) = self.following_mut(leader) else { return false };
        let writes = std::mem::take(&mut following.kept.writes);
        if let Some(&(last, _)) = writes.back() {
            following.kept.covered = following.kept.covered.max(last);
        }
        for &(sequence, span) in &writes {
            for peer in self.peer_indices() {
                self.store_mut().mark_dirty(peer, span, sequence);
            }
        }
        !writes.is_empty()
    }

    /// The activity log is full and nothing can leave it (D8).
    pub(crate) fn make_room_in_log(&mut self) {
        if let Some((leader, _)) = self.stream
            && self.store().is_short_of_slots()
        {
            self.spill(leader);
        }
    }

    /// Up to where the activity log need not cover the writes that are applied here (D8).
    pub(crate) fn covered_everywhere(&mut self) -> Sequence {
        let own = self.log.stable_everywhere();
        match self.stream {
            Some((leader, _)) => self.following_mut(leader).map_or(own, |following| following.kept.covered),
            None => own,
        }
    }

    pub(crate) fn on_everywhere(
        &mut self,
        peer: PeerIndex,
        upto: Sequence,
        head: Option<GenerationId>,
        nodes: &[NodeId],
    ) {
        let mut named = PeerSet::default();
        for other in self.peer_indices() {
            if other != peer && self.store().peer_node(other).is_some_and(|node| nodes.contains(&node)) {
                named.insert(other);
            }
        }
        self.peer_mut(peer).word = Some(Word { upto, head, named });
        self.peer_mut(peer).word_names = nodes.to_vec();
        self.take_word(peer);
    }

    /// Which node a peer is became known: a word that came before may have named it (found by the simulator: a new copy
    /// kept every bit for a node that it met after the primary's last word).
    pub(crate) fn hear_words_again(&mut self) {
        for peer in self.peer_indices() {
            if let Some(Word { upto, head, .. }) = self.peer(peer).word {
                let names = std::mem::take(&mut self.peer_mut(peer).word_names);
                self.on_everywhere(peer, upto, head, &names);
            }
        }
    }

    /// Acts on the last word of the leader, as far as what it speaks of has come in.
    pub(crate) fn take_word(&mut self, peer: PeerIndex) {
        let Some((leader, link)) = self.stream else { return };
        let (Some(word), Session::Following(following)) =
            (self.peer(peer).word, &mut self.peer_mut(peer).session)
        else {
            return;
        };
        if leader != peer || following.received() < Some(word.upto) {
            return;
        }
        let mut settled = Vec::new();
        while let Some(&(sequence, span)) = following.kept.writes.front()
            && sequence <= word.upto
        {
            following.kept.writes.pop_front();
            settled.push((sequence, span));
        }
        following.kept.covered = following.kept.covered.max(word.upto);
        let in_sync = following.in_sync();
        for other in self.peer_indices().filter(|&other| other != peer && !word.named.has(other)) {
            for &(sequence, span) in &settled {
                self.store_mut().mark_dirty(other, span, sequence);
            }
        }
        if in_sync {
            self.take_word_in_sync(peer, link, word);
        }
    }

    /// This node is in sync with the leader, so what the word says of others holds against the own copy too.
    fn take_word_in_sync(&mut self, leader: PeerIndex, link: LinkId, word: Word) {
        let head = self.store().head().map(|head| head.id);
        let equal_heads = word.head.is_some() && word.head == head && !self.store().is_head_unstable();
        for peer in self.peer_indices() {
            if peer == leader || word.named.has(peer) {
                self.store_mut().take_word(peer, link, word.upto, equal_heads);
            } else if self.peer(peer).is_in_sync() {
                self.close_link(peer, "the primary goes on without that node");
            }
        }
    }

    /// When the activity log of a secondary lets idle extents go (D8).
    pub(crate) fn let_followed_idle_go(&mut self) {
        if self.stream.is_some() {
            let covered = self.covered_everywhere();
            let idle_since = std::mem::replace(&mut self.minute.1, covered);
            self.store_mut().let_idle_go(idle_since.min(covered));
        }
    }
}
