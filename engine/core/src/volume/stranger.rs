//! A peer that is the right one by name and key, and whose disk is not the one that belongs here: what it said in its
//! hello, and what of it does not fit.
//!
//! Cluster and volume are bound by configured name and pinned key. The ids in the metadata come from the first
//! generation of a copy, so two copies that were adopted independently have different ones: they are unrelated (G6).
//! The link to such a peer stays up, silent: both sides have the other's hello, both can say what is wrong, and an
//! operator's `resolve` on either side reaches the other. No report is exchanged before that, and no metadata change.

use super::{
    io::{Channel, Notice},
    operator::Discard,
    peer::{Comparing, Session},
    volume::Volume,
    wire::{Frame, Hello},
};
use crate::{
    generation::{verdict::Names, view::Wish},
    ids::{ClusterId, NodeId, PeerIndex, VolumeId},
};

/// What does not fit. Each variant holds both values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Its copy and this one were never of one volume.
    Unrelated {
        /// Cluster and volume in this node's metadata.
        own: (Option<ClusterId>, Option<VolumeId>),
        /// In the peer's.
        theirs: (Option<ClusterId>, Option<VolumeId>),
    },
    /// It has this node's own id.
    SameNode(NodeId),
    /// It has the id of another peer.
    NodeOf(NodeId, PeerIndex),
    /// It has another id than at the last meeting, and it is not new.
    OtherNode {
        /// The id that this node knows.
        known: NodeId,
        /// The one that was shown.
        shown: NodeId,
    },
}

impl Stranger {
    /// One sentence or two for people.
    #[must_use]
    pub fn explain(&self, names: Names<'_>) -> String {
        let (mine, theirs) = (names.mine, names.theirs);
        match self {
            Self::Unrelated { own, theirs: other } => format!(
                "{mine} and {theirs} have copies that never had anything in common (G6): that of {mine} belongs to \
                 {}, that of {theirs} to {}. No data moves; choose with `evenkeel resolve`.",
                identity(*own),
                identity(*other)
            ),
            Self::SameNode(node) => format!(
                "The metadata of {mine} and of {theirs} both say that they are node {:016x}: one of the disks is a \
                 copy of the other (D4).",
                node.0
            ),
            Self::NodeOf(node, _) => format!(
                "The metadata of {theirs} say that it is node {:016x}, which {mine} knows as another peer: one of the \
                 disks is a copy (D4).",
                node.0
            ),
            Self::OtherNode { known, shown } => format!(
                "{mine} knows {theirs} as node {:016x}, and the metadata that it has now say {:016x}: it is a disk of \
                 another node (D3).",
                known.0, shown.0
            ),
        }
    }
}

fn identity((cluster, volume): (Option<ClusterId>, Option<VolumeId>)) -> String {
    let digits = |id: Option<u128>| id.map_or_else(|| "none".to_owned(), |id| format!("{id:032x}"));
    format!(
        "cluster {}, volume {}",
        digits(cluster.map(|cluster| cluster.0)),
        digits(volume.map(|volume| volume.0))
    )
}

impl Volume {
    /// The peer's disk does not belong here: it is shown, and nothing else happens.
    pub(crate) fn meet_stranger(&mut self, peer: PeerIndex, hello: Hello, stranger: Stranger) {
        let text = stranger.explain(self.names(peer));
        let state = self.peer_mut(peer);
        let known = state.stranger == Some(stranger);
        state.stranger = Some(stranger);
        state.hello = Some(hello);
        if !known {
            self.notice(Notice::Stranger(peer, text.clone()));
        }
        self.foretold(peer, text);
        if self.peer(peer).resolve == Some(Discard::Own) {
            self.compare_with_stranger(peer);
        }
    }

    /// Whether an operator can end it by giving up one of the two copies.
    pub(crate) fn is_unrelated_stranger(&self, peer: PeerIndex) -> bool {
        let state = self.peer(peer);
        state.hello.is_some() && matches!(state.stranger, Some(Stranger::Unrelated { .. }))
    }

    /// One of the two copies is given up: now reports are exchanged, as with any peer. Returns whether there was such
    /// a peer.
    pub(crate) fn compare_with_stranger(&mut self, peer: PeerIndex) -> bool {
        if !self.is_unrelated_stranger(peer) || !matches!(self.session(peer), Session::Greeting) {
            return false;
        }
        let Some(hello) = self.peer_mut(peer).hello.take() else { return false };
        if self.store().peer_node(peer).is_some_and(|known| known != hello.from) {
            // What is known of the disk that was there before is not about this one: by its counter a copy that was
            // adopted would be taken for one that was set back.
            self.store_mut().bind_peer(peer, hello.from);
        }
        self.begin_comparing(peer, &hello);
        true
    }

    /// A report from a peer that was a stranger: it gives up its copy, or answers that we do.
    pub(crate) fn on_strangers_report(&mut self, peer: PeerIndex, wish: Wish) {
        let chosen = wish == Wish::Discard || self.peer(peer).resolve.is_some();
        if chosen {
            self.compare_with_stranger(peer);
        }
    }

    /// Sends the first report.
    pub(crate) fn begin_comparing(&mut self, peer: PeerIndex, hello: &Hello) {
        self.peer_mut(peer).identity = hello.cluster.zip(hello.volume);
        let own_view = self.view_for(peer);
        self.send(peer, Channel::Control, Frame::Report { number: 1, view: Box::new(own_view.clone()) });
        self.peer_mut(peer).session = Session::Comparing(Box::new(Comparing {
            peer_node: hello.from,
            own_number: 1,
            own_view,
            theirs: None,
            concluded: None,
            peer_concluded: None,
        }));
    }

    /// This node begins to take the peer's data: it is of the peer's cluster and volume from now on, whatever it was.
    pub(crate) fn take_identity_of(&mut self, peer: PeerIndex) {
        let Some((cluster, volume)) = self.peer(peer).identity else { return };
        if !self.store_mut().replace_identity(cluster, volume) {
            return;
        }
        self.peer_mut(peer).stranger = None;
        for other in self.peer_indices() {
            if other != peer && self.peer(other).stranger.is_some() {
                self.close_link(other, "this node is of another volume now");
            }
        }
    }
}
