//! The handle of the data thread on all its links.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use evenkeel_core::volume::{
    codec::PayloadChecksum,
    io::{Channel, LinkId},
    wire::Frame,
};
use evenkeel_nbd::buffer::BufferPool;
use thiserror::Error;

use super::event::{LinkEvent, PeerKey, Problem, VolumeKey};
use crate::identity::{Fingerprint, Identity};

/// What an endpoint is made from.
#[derive(Debug)]
pub struct EndpointConfig {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// What this node proves itself with.
    pub identity: Arc<Identity>,
    /// The one UDP port.
    pub listen: SocketAddr,
    /// A connection on which nothing arrived for this long is given up: longer than every volume's
    /// `peer_timeout`, which is the one that decides.
    pub idle_timeout: Duration,
    /// How much of one channel may be under way, and unread at the receiver, in bytes: more than a volume lets
    /// be in flight, so that this is never what holds a write up.
    pub window_bytes: u64,
    /// Payloads that arrive are put into buffers of this pool.
    pub buffers: BufferPool,
}

/// A node to connect with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name in the configuration.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its key.
    pub fingerprint: Fingerprint,
}

/// Why there is no endpoint.
#[derive(Debug, Error)]
pub enum BindError {
    /// The port cannot be had.
    #[error("cannot listen on UDP {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// TLS cannot use the identity.
    #[error("the identity cannot be used: {0}")]
    Identity(rustls::Error),
}

/// How things stand with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The connection for control and liveness.
    pub connection: Connection,
    /// What has to be mended, if anything.
    pub problem: Option<Problem>,
    /// The round trip, while connected.
    pub round_trip: Option<Duration>,
}

/// The state of the connection for control and liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Attempts are made.
    Connecting,
    /// Authenticated both ways, greeted both ways.
    Connected,
    /// The other end was reached and one of the two refused; attempts go on, slowly.
    Refused,
}

/// All links of a node. Lives on the data thread; needs a current-thread tokio runtime (that of tokio-uring or
/// a plain one) and a `LocalSet` around it.
#[derive(Debug)]
pub struct Endpoint {
    shared: Rc<Shared>,
}

/// What the tasks of the endpoint share with its handle.
#[derive(Debug)]
struct Shared {
    listen: SocketAddr,
    inbox: RefCell<Inbox>,
    peers: RefCell<BTreeMap<PeerKey, PeerAddress>>,
    volumes: RefCell<BTreeMap<(PeerKey, VolumeKey), String>>,
}

#[derive(Debug, Default)]
struct Inbox {
    events: Vec<LinkEvent>,
    waker: Option<Waker>,
}

impl Endpoint {
    /// Takes the port. To be called on the runtime that will carry the links.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let shared = Shared {
            listen: config.listen,
            inbox: RefCell::default(),
            peers: RefCell::default(),
            volumes: RefCell::default(),
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// The address that was taken (the port is the real one if 0 was asked for).
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.shared.listen
    }

    /// From now on this peer is called, and let in. One that is already there under this key is replaced, and its
    /// links end, if its key or name changed; a new address is used for the next call.
    pub fn add_peer(&self, peer: PeerKey, address: PeerAddress) {
        self.shared.peers.borrow_mut().insert(peer, address);
    }

    /// Ends everything with this peer at once; its key is refused from now on.
    pub fn remove_peer(&self, peer: PeerKey) {
        self.shared.peers.borrow_mut().remove(&peer);
    }

    /// From now on there is to be a link for this volume, known to both by its name in the configuration; it is
    /// made as soon as the peer wants it too, and made anew whenever it breaks.
    ///
    /// # Panics
    /// If the peer was not added.
    pub fn enable(&self, peer: PeerKey, volume: VolumeKey, name: &str) {
        assert!(self.shared.peers.borrow().contains_key(&peer), "{peer:?} was not added");
        self.shared.volumes.borrow_mut().insert((peer, volume), name.to_owned());
    }

    /// No link for this volume any more: one that is there is closed, and the peer is told that it is this node's
    /// will.
    pub fn disable(&self, peer: PeerKey, volume: VolumeKey, _reason: &str) {
        self.shared.volumes.borrow_mut().remove(&(peer, volume));
    }

    /// Queues a frame. All that is sent before the task gives way leaves together, in one write for each channel.
    /// On a link that is gone nothing happens: its [`LinkEvent::Down`] is there or on its way.
    ///
    /// `checksum` is that of the payload, if it is known; else it is taken here.
    pub fn send(&self, _link: LinkId, _channel: Channel, _frame: &Frame, _checksum: Option<PayloadChecksum>) {
    }

    /// Bytes of a channel that were sent and have not been taken over by the transport: it takes no more than
    /// [`EndpointConfig::window_bytes`] beyond what the peer has read.
    #[must_use]
    pub fn queued_bytes(&self, _link: LinkId, _channel: Channel) -> usize {
        0
    }

    /// Ends a link; the peer is told the reason. Another is made, after a pause that grows while links do not
    /// last.
    pub fn close(&self, _link: LinkId, _reason: &str) {}

    /// How things stand with a peer; `None` if it was not added.
    #[must_use]
    pub fn status(&self, peer: PeerKey) -> Option<PeerStatus> {
        self.shared.peers.borrow().contains_key(&peer).then_some(PeerStatus {
            connection: Connection::Connecting,
            problem: None,
            round_trip: None,
        })
    }

    /// Everything that has happened, in order, once there is anything. `events` must be empty; its memory is
    /// used for what comes next, so that a caller that hands in the same one never allocates.
    ///
    /// # Panics
    /// If `events` is not empty.
    pub fn poll_events(&self, context: &mut Context<'_>, events: &mut Vec<LinkEvent>) -> Poll<()> {
        assert!(events.is_empty(), "events that nobody has looked at");
        let mut inbox = self.shared.inbox.borrow_mut();
        if inbox.events.is_empty() {
            inbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut inbox.events, events);
        Poll::Ready(())
    }

    /// Waits for [`Endpoint::poll_events`].
    pub async fn events(&self, events: &mut Vec<LinkEvent>) {
        std::future::poll_fn(|context| self.poll_events(context, events)).await;
    }

    /// Closes everything, tells every peer that this node leaves on purpose, and waits until that has gone out,
    /// at most one second.
    pub async fn shutdown(&self, _reason: &str) {}
}
