//! What the endpoint's handle and all its tasks share. Everything is on one thread.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, rc::Rc, sync::Arc};

use evenkeel_core::volume::wire::PROTOCOL_VERSION;
use evenkeel_nbd::buffer::BufferPool;
use quinn::TransportConfig;

use super::{
    closing::{Broken, CloseCode},
    event::{PeerKey, ProblemCode},
    inbox::Inbox,
    live::Links,
    message::Greeting,
    peer::Peer,
    tls::Tls,
};
use crate::identity::Fingerprint;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) fingerprint: Fingerprint,
    /// This process; told in greetings, so that a peer notices a restart.
    pub(super) run: u64,
    pub(super) local: IpAddr,
    pub(super) window_bytes: u64,
    pub(super) transport: Arc<TransportConfig>,
    pub(super) quinn: quinn::Endpoint,
    pub(super) tls: Tls,
    pub(super) buffers: BufferPool,
    pub(super) inbox: Inbox,
    pub(super) links: Links,
    pub(super) peers: RefCell<BTreeMap<PeerKey, Rc<Peer>>>,
}

impl Shared {
    /// The peer with this key.
    pub(super) fn peer_of(&self, fingerprint: Fingerprint) -> Option<Rc<Peer>> {
        self.peers.borrow().values().find(|peer| peer.fingerprint == fingerprint).cloned()
    }

    /// What this node says first to a peer.
    pub(super) fn greeting(&self, peer: &Peer) -> Greeting {
        Greeting {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            run: self.run,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            to: peer.name.clone(),
        }
    }

    /// Whether a peer is who its key says, in the same cluster, and means this node.
    pub(super) fn check(&self, peer: &Peer, greeting: &Greeting) -> Result<(), Broken> {
        let refused = |problem, code, text| Err(Broken::refused(problem, code, text));
        if greeting.cluster != self.cluster {
            let text = format!(
                "{} belongs to cluster '{}', {} to cluster '{}': `cluster` must be the same in both configurations",
                peer.name, greeting.cluster, self.node, self.cluster
            );
            return refused(ProblemCode::Cluster, CloseCode::Cluster, text);
        }
        if greeting.node != peer.name {
            let text = format!(
                "the node with key {} calls itself '{}', in the configuration of {} it is '{}'",
                peer.fingerprint, greeting.node, self.node, peer.name
            );
            return refused(ProblemCode::Node, CloseCode::Node, text);
        }
        if greeting.to != self.node {
            let text = format!(
                "{} takes the node with key {} for '{}', it calls itself '{}'",
                peer.name, self.fingerprint, greeting.to, self.node
            );
            return refused(ProblemCode::Node, CloseCode::Node, text);
        }
        Ok(())
    }
}
