//! A node that has only links, and pairs of them.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use evenkeel_core::volume::{
    io::{Channel, LinkId},
    wire::Frame,
};
use evenkeel_driver::{
    identity::{Fingerprint, Identity},
    link::{
        Cause, Connection, Ending, Endpoint, EndpointConfig, LinkEvent, PeerAddress, PeerKey, Problem,
        VolumeKey,
    },
};
use evenkeel_nbd::buffer::BufferPool;
use tokio::sync::mpsc as tokio_mpsc;

/// Longer than anything here takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The one peer of each node here.
pub(crate) const PEER: PeerKey = PeerKey(1);

/// The first volume.
pub(crate) const VOLUME: VolumeKey = VolumeKey(0);

/// What carries the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// tokio-uring's.
    Uring,
    /// A plain one.
    Plain,
}

/// How to make a node; what matters to a test is changed before [`Setup::start`].
pub(crate) struct Setup {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) listen: SocketAddr,
    pub(crate) runtime: Runtime,
    pub(crate) idle: Duration,
    pub(crate) window_bytes: u64,
}

impl Setup {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            cluster: "demo".into(),
            name: name.into(),
            identity: Identity::ephemeral().expect("an identity"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            runtime: Runtime::Plain,
            idle: Duration::from_secs(30),
            window_bytes: 64 << 20,
        }
    }

    pub(crate) fn start(self) -> Node {
        let (commands, mut asked) = tokio_mpsc::unbounded_channel::<Command>();
        let (sender, events) = mpsc::channel();
        let (address_sender, address) = mpsc::channel();
        let (name, fingerprint, runtime) = (self.name.clone(), self.identity.fingerprint(), self.runtime);
        let run = move || async move {
            let endpoint = Endpoint::bind(EndpointConfig {
                cluster: self.cluster,
                node: self.name,
                identity: Arc::new(self.identity),
                listen: self.listen,
                idle_timeout: self.idle,
                window_bytes: self.window_bytes,
                buffers: BufferPool::new(256 << 20),
            })
            .expect("bound");
            address_sender.send(endpoint.local_address()).expect("awaited");
            let mut burst = Vec::new();
            loop {
                tokio::select! {
                    () = endpoint.events(&mut burst) => {
                        // Who does not look any more does not need them.
                        burst.drain(..).for_each(|event| drop(sender.send(event)));
                    }
                    command = asked.recv() => match command {
                        Some(Command::Call(call)) => call(&endpoint),
                        Some(Command::Shutdown(reason)) => return endpoint.shutdown(&reason).await,
                        // Killed: nothing runs any more that could say good-bye.
                        None => return,
                    },
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || match runtime {
                Runtime::Uring => tokio_uring::start(run()),
                Runtime::Plain => {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    tokio::task::LocalSet::new().block_on(&runtime, run());
                }
            })
            .expect("a thread");
        let address = address.recv_timeout(PATIENCE).expect("bound");
        Node {
            name,
            fingerprint,
            address,
            commands: Some(commands),
            events,
            thread: Some(thread),
            seen: Vec::new(),
        }
    }
}

enum Command {
    Call(Box<dyn FnOnce(&Endpoint) + Send>),
    Shutdown(String),
}

/// A running node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) address: SocketAddr,
    commands: Option<tokio_mpsc::UnboundedSender<Command>>,
    events: mpsc::Receiver<LinkEvent>,
    thread: Option<JoinHandle<()>>,
    /// Events that were passed over, oldest first, for messages.
    seen: Vec<String>,
}

impl Node {
    /// Runs something on the node's thread.
    pub(crate) fn call<T: Send + 'static>(&self, call: impl FnOnce(&Endpoint) -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        let command = Command::Call(Box::new(move |endpoint| drop(sender.send(call(endpoint)))));
        self.commands.as_ref().expect("running").send(command).expect("running");
        result.recv_timeout(PATIENCE).expect("answered")
    }

    /// Makes another node known, reachable at this address, and wants a link for [`VOLUME`], `r0`.
    pub(crate) fn meet(&self, name: &str, fingerprint: Fingerprint, address: SocketAddr) {
        let peer = PeerAddress { name: name.into(), address, fingerprint };
        self.call(move |endpoint| {
            endpoint.add_peer(PEER, peer, &[(VOLUME, "r0")]).expect("a good peer");
            endpoint.enable(PEER, VOLUME);
        });
    }

    /// The next event that is one of these; others are passed over.
    pub(crate) fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&LinkEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self
                .events
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{} waited for {what}; what came: {:#?}", self.name, self.seen));
            if let Some(found) = wanted(&event) {
                return found;
            }
            if self.seen.len() < 50 {
                self.seen.push(format!("{event:?}").chars().take(200).collect());
            }
        }
    }

    /// Waits for a link of [`VOLUME`].
    pub(crate) fn up(&mut self) -> LinkId {
        self.wait("a link", |event| match event {
            LinkEvent::Up { link, volume: VOLUME, .. } => Some(*link),
            LinkEvent::Up { .. }
            | LinkEvent::Frame { .. }
            | LinkEvent::Down { .. }
            | LinkEvent::Problem { .. } => None,
        })
    }

    /// Waits for the end of this link; nothing of it may come afterwards.
    pub(crate) fn down(&mut self, of: LinkId) -> Ending {
        self.wait("the end of a link", |event| match event {
            LinkEvent::Down { link, reason, .. } if *link == of => Some(reason.clone()),
            LinkEvent::Up { .. }
            | LinkEvent::Frame { .. }
            | LinkEvent::Down { .. }
            | LinkEvent::Problem { .. } => None,
        })
    }

    /// Waits for a problem with the peer or a volume.
    pub(crate) fn problem(&mut self) -> Problem {
        self.wait("a problem", |event| match event {
            LinkEvent::Problem { problem, .. } => problem.clone(),
            LinkEvent::Up { .. } | LinkEvent::Frame { .. } | LinkEvent::Down { .. } => None,
        })
    }

    /// Waits for a frame.
    pub(crate) fn frame(&mut self) -> (LinkId, Channel, Frame) {
        self.wait("a frame", |event| match event {
            LinkEvent::Frame { link, channel, frame, .. } => Some((*link, *channel, frame.clone())),
            LinkEvent::Up { .. } | LinkEvent::Down { .. } | LinkEvent::Problem { .. } => None,
        })
    }

    /// Everything that comes within a time.
    pub(crate) fn within(&self, time: Duration) -> Vec<LinkEvent> {
        let deadline = Instant::now() + time;
        let mut events = Vec::new();
        while let Ok(event) = self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            events.push(event);
        }
        events
    }

    pub(crate) fn send(&self, link: LinkId, channel: Channel, frame: Frame) {
        self.call(move |endpoint| endpoint.send(link, channel, &frame, None));
    }

    pub(crate) fn connection(&self) -> Connection {
        self.call(|endpoint| endpoint.status(PEER).expect("added").connection)
    }

    /// Ends it as a kill does: its sockets close, and nobody is told.
    pub(crate) fn kill(mut self) {
        self.stop(None);
    }

    /// Ends it in an orderly way.
    pub(crate) fn shut_down(mut self, reason: &str) {
        self.stop(Some(reason));
    }

    fn stop(&mut self, reason: Option<&str>) {
        if let (Some(commands), Some(reason)) = (self.commands.take(), reason) {
            drop(commands.send(Command::Shutdown(reason.into())));
        }
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic on the node's thread");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop(None);
        }
    }
}

/// Two nodes that know each other, and the link between them.
pub(crate) struct Pair {
    pub(crate) alpha: Node,
    pub(crate) beta: Node,
    pub(crate) at_alpha: LinkId,
    pub(crate) at_beta: LinkId,
}

impl Pair {
    pub(crate) fn new(runtimes: [Runtime; 2]) -> Self {
        let [one, other] = runtimes;
        let alpha = Setup { runtime: one, ..Setup::new("alpha") }.start();
        let beta = Setup { runtime: other, ..Setup::new("beta") }.start();
        alpha.meet("beta", beta.fingerprint, beta.address);
        beta.meet("alpha", alpha.fingerprint, alpha.address);
        Self::linked(alpha, beta)
    }

    /// Of two that know each other.
    pub(crate) fn linked(mut alpha: Node, mut beta: Node) -> Self {
        let (at_alpha, at_beta) = (alpha.up(), beta.up());
        Self { alpha, beta, at_alpha, at_beta }
    }

    /// A ping gets through in both directions.
    pub(crate) fn works(&mut self) {
        use evenkeel_core::ids::Timestamp;
        let ping = Frame::Ping(Timestamp(7));
        self.alpha.send(self.at_alpha, Channel::Control, ping.clone());
        assert_eq!(self.beta.frame(), (self.at_beta, Channel::Control, ping.clone()));
        self.beta.send(self.at_beta, Channel::Control, ping.clone());
        assert_eq!(self.alpha.frame(), (self.at_alpha, Channel::Control, ping));
    }
}

/// That an end has this cause and its text says this.
pub(crate) fn assert_ended(ending: &Ending, cause: Cause, says: &str) {
    assert_eq!(ending.cause, cause, "{ending:?}");
    assert!(ending.text.contains(says), "{ending:?}");
}
