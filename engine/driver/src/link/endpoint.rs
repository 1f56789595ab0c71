//! The handle of the data thread on all its links.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use evenkeel_core::volume::{
    codec::PayloadChecksum,
    io::{Channel, LinkId},
    wire::Frame,
};
use evenkeel_nbd::buffer::BufferPool;
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    accept,
    buffers::CHUNK_NEEDS_BYTES,
    closing::{self, Broken, CloseCode},
    event::{Cause, LinkEvent, PeerKey, Problem, VolumeKey},
    inbox::Inbox,
    live::Links,
    message::{NAME_BYTES_MAX, VOLUMES_MAX, Wish},
    peer::{self, Own, Peer},
    shared::Shared,
    socket::Socket,
    task::{self, LocalRuntime, Task},
    tls::Tls,
    transport,
};
use crate::identity::{Fingerprint, Identity};

/// A link on which so many windows wait to be sent is given up.
const QUEUE_WINDOWS: u64 = 4;

/// How long the end waits for peers to take notice.
const LEAVE: Duration = Duration::from_millis(500);

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
    /// The name of the cluster or of this node.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}

/// A name that cannot be told a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{name}' cannot be the name of a {what}: one has 1 to {NAME_BYTES_MAX} bytes and no control characters"
)]
pub struct NameError {
    /// Of what.
    what: &'static str,
    /// The name, or its beginning.
    name: String,
}

/// Why a peer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Its name or that of a volume.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It has this node's own key.
    #[error(
        "the fingerprint of {0} is that of this node: each node has a key of its own (`evenkeel init` prints it)"
    )]
    OwnKey(String),
    /// Two peers have the same key.
    #[error("{name} and {other} have the same fingerprint: each node has a key of its own")]
    SameKey {
        /// The one that is added.
        name: String,
        /// The one that is there.
        other: String,
    },
    /// More than a peer may be told of.
    #[error("{name} shares {count} volumes with this node; {VOLUMES_MAX} are possible")]
    TooMany {
        /// The peer.
        name: String,
        /// Its volumes.
        count: usize,
    },
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
/// a plain one) and a `LocalSet` around it. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Endpoint {
    shared: Rc<Shared>,
    address: SocketAddr,
    /// Keep a connection to each peer.
    supervisors: RefCell<BTreeMap<PeerKey, Task>>,
    /// Takes calls.
    _accepting: Task,
}

fn checked(what: &'static str, name: &str) -> Result<String, NameError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(name.to_owned());
    }
    let name = name.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Err(NameError { what, name })
}

impl Endpoint {
    /// Takes the port. To be called on the runtime that will carry the links.
    ///
    /// # Errors
    /// See [`BindError`].
    ///
    /// # Panics
    /// If the budget of the buffers is below 2 MiB, so that nothing could ever be received.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        assert!(config.buffers.budget_bytes() >= CHUNK_NEEDS_BYTES, "a pool too small for one frame");
        let mut run = [0; 8];
        SystemRandom::new().fill(&mut run).map_err(|_| BindError::Randomness)?;
        let (tls, server) = Tls::new(&config.identity).map_err(BindError::Identity)?;
        let transport = transport::transport(config.idle_timeout, config.window_bytes);
        let listen = |error| BindError::Listen { address: config.listen, error };
        let socket = Socket::bind(config.listen, usize::from(transport::RECEIVE_BYTES)).map_err(listen)?;
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            transport::endpoint(&config.identity),
            Some(transport::server(server, transport.clone())),
            socket,
            Arc::new(LocalRuntime),
        )
        .map_err(listen)?;
        let address = quinn.local_addr().map_err(listen)?;
        let shared = Rc::new(Shared {
            cluster: checked("cluster", &config.cluster)?,
            node: checked("node", &config.node)?,
            fingerprint: config.identity.fingerprint(),
            run: u64::from_le_bytes(run),
            local: address.ip(),
            window_bytes: config.window_bytes,
            transport,
            quinn,
            tls,
            buffers: config.buffers,
            inbox: Inbox::default(),
            links: Links::default(),
            peers: RefCell::default(),
        });
        let accepting = task::spawn(accept::run(shared.clone()));
        Ok(Self { shared, address, supervisors: RefCell::default(), _accepting: accepting })
    }

    /// The address that was taken (the port is the real one if 0 was asked for).
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this peer is called, and let in. All volumes that it shares with this node are named, whether
    /// they are open or not: what is missing is a mistake in one of the two configurations. They are held back
    /// until [`Endpoint::enable`].
    ///
    /// A peer that is already there under this key is changed: links of volumes that are no longer named end, and
    /// all end if its name or key changed; a new address is used for the next call.
    ///
    /// # Errors
    /// See [`PeerError`]; nothing is changed then.
    pub fn add_peer(
        &self,
        key: PeerKey,
        address: PeerAddress,
        volumes: &[(VolumeKey, &str)],
    ) -> Result<(), PeerError> {
        let name = checked("node", &address.name)?;
        if volumes.len() > VOLUMES_MAX {
            return Err(PeerError::TooMany { name, count: volumes.len() });
        }
        if address.fingerprint == self.shared.fingerprint {
            return Err(PeerError::OwnKey(name));
        }
        let mut named = BTreeMap::new();
        for (volume, name) in volumes {
            named.insert(*volume, checked("volume", name)?);
        }
        let same_key = self.shared.peer_of(address.fingerprint).filter(|other| other.key != key);
        if let Some(other) = same_key {
            return Err(PeerError::SameKey { name, other: other.name.clone() });
        }
        let known = self.shared.peers.borrow().get(&key).cloned();
        let same = known.filter(|peer| (&peer.name, peer.fingerprint) == (&name, address.fingerprint));
        let peer = match same {
            Some(peer) => {
                peer.address.set(address.address);
                peer
            }
            None => {
                self.remove_peer(key);
                self.begin(key, address)
            }
        };
        let mut own = std::mem::take(&mut *peer.volumes.borrow_mut());
        for (volume, name) in named {
            let wish = own.remove(&volume).filter(|own| own.name == name).map(|own| own.wish);
            let wish = wish.unwrap_or_else(|| Wish::HeldBack("it is not open".to_owned()));
            peer.volumes.borrow_mut().insert(volume, Own { name, wish });
        }
        for volume in own.into_keys() {
            let reason = "the volume is no longer in the configuration";
            Links::close_all(&self.shared, key, Some(volume), reason).into_iter().for_each(Task::detach);
        }
        peer.changed.notify_one();
        Ok(())
    }

    /// Starts what belongs to a new peer.
    fn begin(&self, key: PeerKey, address: PeerAddress) -> Rc<Peer> {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let peer = Rc::new(Peer::new(key, address, sender));
        self.shared.peers.borrow_mut().insert(key, peer.clone());
        self.allow();
        let supervisor = task::spawn(peer::supervise(self.shared.clone(), peer.clone(), arrivals));
        self.supervisors.borrow_mut().insert(key, supervisor);
        peer
    }

    /// Ends everything with this peer at once; its key is refused from now on.
    pub fn remove_peer(&self, peer: PeerKey) {
        let Some(removed) = self.shared.peers.borrow_mut().remove(&peer) else { return };
        self.allow();
        self.supervisors.borrow_mut().remove(&peer);
        let broken = Broken::closed("this node is no longer in the configuration");
        Links::end_all(&self.shared, peer, None, &broken);
        removed.hang_up(&broken);
    }

    /// Lets in the keys of all peers, and no others.
    fn allow(&self) {
        self.shared.tls.allow(self.shared.peers.borrow().values().map(|peer| peer.fingerprint).collect());
    }

    /// From now on there is to be a link for this volume; it is made as soon as the peer wants it too, and made
    /// anew whenever it breaks.
    ///
    /// # Panics
    /// If the volume was not named for this peer by [`Endpoint::add_peer`].
    pub fn enable(&self, peer: PeerKey, volume: VolumeKey) {
        self.wish(peer, volume, Wish::Wanted);
    }

    /// No link for this volume for now: one that is there is closed, after what was sent has gone out, and the
    /// peer is told the reason.
    ///
    /// # Panics
    /// As [`Endpoint::enable`].
    pub fn disable(&self, peer: PeerKey, volume: VolumeKey, reason: &str) {
        let mut end = reason.len().min(NAME_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let shown = reason[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.wish(peer, volume, Wish::HeldBack(shown));
        Links::close_all(&self.shared, peer, Some(volume), reason).into_iter().for_each(Task::detach);
    }

    fn wish(&self, peer: PeerKey, volume: VolumeKey, wish: Wish) {
        let peer = self.shared.peers.borrow().get(&peer).cloned().expect("the peer was added");
        peer.volumes.borrow_mut().get_mut(&volume).expect("the volume was named").wish = wish;
        peer.changed.notify_one();
    }

    /// Queues a frame. All that is sent before the task gives way leaves together, in one write for each channel.
    /// On a link that is gone nothing happens: its [`LinkEvent::Down`] is there or on its way.
    ///
    /// `checksum` is that of the payload, if it is known; else it is taken here.
    pub fn send(&self, link: LinkId, channel: Channel, frame: &Frame, checksum: Option<PayloadChecksum>) {
        let queued = self.shared.links.send(link, channel, frame, checksum).unwrap_or(0);
        if queued as u64 > self.shared.window_bytes.saturating_mul(QUEUE_WINDOWS) {
            let text = format!("{queued} bytes wait for a peer that does not read them");
            Links::end(&self.shared, link, &Broken { cause: Cause::Overflow, ..Broken::silent(&text) });
        }
    }

    /// Bytes of a channel that were sent and have not been taken over by the transport: it takes twice
    /// [`EndpointConfig::window_bytes`] beyond what the peer has acknowledged. A link on which four times as many
    /// wait is given up.
    #[must_use]
    pub fn queued_bytes(&self, link: LinkId, channel: Channel) -> usize {
        self.shared.links.queued_bytes(link, channel)
    }

    /// Ends a link, after what was sent has gone out; the peer is told the reason. Another is made while it is
    /// enabled, after a pause that grows while links do not last.
    pub fn close(&self, link: LinkId, reason: &str) {
        if let Some(farewell) = Links::close(&self.shared, link, reason) {
            farewell.detach();
        }
    }

    /// How things stand with a peer; `None` if it was not added.
    #[must_use]
    pub fn status(&self, peer: PeerKey) -> Option<PeerStatus> {
        self.shared.peers.borrow().get(&peer).map(|peer| peer.status())
    }

    /// Everything that has happened, in order, once there is anything. `events` must be empty; its memory is
    /// used for what comes next, so that a caller that hands in the same one never allocates.
    ///
    /// # Panics
    /// If `events` is not empty.
    pub fn poll_events(&self, context: &mut Context<'_>, events: &mut Vec<LinkEvent>) -> Poll<()> {
        self.shared.inbox.poll_events(context, events)
    }

    /// Waits for [`Endpoint::poll_events`].
    pub async fn events(&self, events: &mut Vec<LinkEvent>) {
        std::future::poll_fn(|context| self.poll_events(context, events)).await;
    }

    /// Closes everything after what was sent has gone out, tells every peer that this node leaves on purpose, and
    /// waits until that is done, at most one second. Nothing can be done with it afterwards.
    pub async fn shutdown(&self, reason: &str) {
        let peers: Vec<PeerKey> = self.shared.peers.borrow().keys().copied().collect();
        let close = |peer| Links::close_all(&self.shared, peer, None, reason);
        for mut farewell in peers.into_iter().flat_map(close).collect::<Vec<_>>() {
            farewell.ended().await;
        }
        self.supervisors.borrow_mut().clear();
        closing::close_all(&self.shared.quinn, CloseCode::Leaving, reason);
        // Who has not acknowledged by then learns it from a timeout.
        let _ = tokio::time::timeout(LEAVE, self.shared.quinn.wait_idle()).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        closing::close_all(&self.shared.quinn, CloseCode::Leaving, "the node ends");
    }
}
