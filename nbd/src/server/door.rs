//! The control side: accepts connections, negotiates, and hands over.
//!
//! Invariants: a connection in the handshake costs a few KiB and a bounded time, whatever it does; it never
//! keeps others out ([`Limits::handshakes`]); a connection is handed over only with a place among
//! [`Limits::connections`], which it keeps until it ends.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    directory::{Directory, Export},
    listener::Listener,
    lobby::{Lobby, Rank, Stay},
    socket::Socket,
};
use crate::{
    device::{ClientId, ClientIdentity, ExportState},
    limits::Limits,
    session::{Answer, Ask, Handshake, Negotiated, Purpose, Step},
};

/// Bytes of one read in the handshake.
const READ_BYTES: usize = 4096;
/// How long a client that was told goodbye may take to close its side.
const FAREWELL: Duration = Duration::from_secs(1);
/// The pause after the system refused to accept, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection past its handshake, on its way to the thread that owns the device.
#[derive(Debug)]
pub struct Handover {
    pub(super) id: ClientId,
    pub(super) identity: ClientIdentity,
    pub(super) socket: OwnedFd,
    pub(super) negotiated: Negotiated,
    /// What the client has sent behind its last option.
    pub(super) input: Vec<u8>,
    /// Given back when the connection ends.
    pub(super) place: OwnedSemaphorePermit,
}

impl Handover {
    /// The name of the export that the client chose.
    #[must_use]
    pub fn export(&self) -> &str {
        &self.negotiated.export
    }

    /// Who the client is.
    #[must_use]
    pub fn identity(&self) -> &ClientIdentity {
        &self.identity
    }
}

/// Accepts and negotiates, on any number of listeners.
#[derive(Debug)]
pub struct Door {
    directory: Directory,
    limits: Limits,
    lobby: Lobby,
    places: Arc<Semaphore>,
    handovers: mpsc::UnboundedSender<Handover>,
    stopping: watch::Sender<bool>,
    next_client: AtomicU64,
}

impl Door {
    /// A door to the exports of `directory`, and where the connections come out. What is in the channel is
    /// bounded by [`Limits::connections`].
    #[must_use]
    pub fn new(directory: Directory, limits: Limits) -> (Arc<Self>, mpsc::UnboundedReceiver<Handover>) {
        let (handovers, receiver) = mpsc::unbounded_channel();
        let door = Self {
            directory,
            lobby: Lobby::new(limits.handshakes),
            places: Arc::new(Semaphore::new(limits.connections)),
            limits,
            handovers,
            stopping: watch::Sender::new(false),
            next_client: AtomicU64::new(1),
        };
        (Arc::new(door), receiver)
    }

    /// Connections that are in the handshake now.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.lobby.len()
    }

    /// No new connection is accepted; those in the handshake are told that the server is stopping, and closed
    /// within a second. [`Door::run`] returns.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Serves one listener until [`Door::stop`].
    pub async fn run(self: Arc<Self>, listener: Listener) {
        let mut stopping = self.stopping.subscribe();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, identity)) => {
                    failing = false;
                    let door = Arc::clone(&self);
                    self.lobby.enter(|stay| tokio::spawn(door.admit(socket, identity, stay)).abort_handle());
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept NBD connections; trying again");
                    }
                    self.lobby.drop_one();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(self: Arc<Self>, socket: OwnedFd, identity: ClientIdentity, stay: Stay) {
        let shown = identity.clone();
        match self.negotiate(socket, identity, &stay).await {
            Ok(Some(handover)) => {
                if self.handovers.send(handover).is_err() {
                    tracing::debug!(client = %shown, "nobody serves connections any more");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(client = %shown, %error, "NBD handshake failed"),
        }
    }

    async fn negotiate(
        &self,
        socket: OwnedFd,
        identity: ClientIdentity,
        stay: &Stay,
    ) -> io::Result<Option<Handover>> {
        let socket = Socket::new(socket)?;
        let mut stopping = self.stopping.subscribe();
        let mut handshake = Handshake::new(&self.limits);
        let mut deadline = Instant::now() + self.limits.handshake_time;
        let mut told_to_stop = false;
        let mut waited = Duration::ZERO;
        loop {
            let step = handshake.step(&self.directory);
            if handshake.has_spoken() {
                stay.set_rank(Rank::Speaking);
            }
            timeout_at(deadline, socket.write_all(&handshake.take_output())).await??;
            match step {
                Step::Receive => {
                    let mut buffer = [0; READ_BYTES];
                    tokio::select! {
                        len = timeout_at(deadline, socket.read(&mut buffer)) => match len?? {
                            0 => return Ok(None),
                            len => handshake.receive(&buffer[..len]),
                        },
                        _ = stopping.wait_for(|stopping| *stopping), if !told_to_stop => {
                            told_to_stop = true;
                            handshake.stop();
                            deadline = deadline.min(Instant::now() + FAREWELL);
                        }
                    }
                }
                Step::Ask(ask) => {
                    let asked_at = Instant::now();
                    let (answer, place) = self.consider(&ask, &socket, stay, &mut waited).await?;
                    deadline += asked_at.elapsed();
                    let negotiated = handshake.answer(answer);
                    let Some(negotiated) = negotiated else { continue };
                    timeout_at(deadline, socket.write_all(&handshake.take_output())).await??;
                    let place = place.expect("a client that enters has a place");
                    let id = ClientId(self.next_client.fetch_add(1, Ordering::Relaxed));
                    let (socket, input) = (socket.into_fd(), handshake.take_input());
                    return Ok(Some(Handover { id, identity, socket, negotiated, input, place }));
                }
                Step::Close(reason) => {
                    tracing::debug!(client = %identity, reason, "NBD handshake ended");
                    // Whether the client closes in time makes no difference.
                    let _ = timeout(FAREWELL, socket.linger()).await;
                    return Ok(None);
                }
            }
        }
    }

    /// Decides about a client that wants to see or to enter an export; waits while the export is held.
    async fn consider(
        &self,
        ask: &Ask,
        socket: &Socket,
        stay: &Stay,
        waited: &mut Duration,
    ) -> io::Result<(Answer, Option<OwnedSemaphorePermit>)> {
        let Some(export) = self.directory.find(&ask.export) else { return Ok((Answer::Unknown, None)) };
        let place = match ask.purpose {
            Purpose::Describe => None,
            Purpose::Enter => match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return Ok((Answer::Refuse(self.full()), None)),
            },
        };
        if place.is_some() {
            stay.set_rank(Rank::Seated);
        }
        let started = Instant::now();
        let answer = self.wait_while_held(&export, socket, export.hold.saturating_sub(*waited)).await?;
        *waited += started.elapsed();
        Ok((answer, place))
    }

    fn full(&self) -> String {
        let limit = self.limits.connections;
        format!("all {limit} places for NBD connections are taken; disconnect a client first")
    }

    async fn wait_while_held(&self, export: &Export, socket: &Socket, hold: Duration) -> io::Result<Answer> {
        let mut state = export.state.clone();
        let mut stopping = self.stopping.subscribe();
        let until = Instant::now() + hold;
        loop {
            match &*state.borrow_and_update() {
                ExportState::Serving { size } => {
                    return Ok(Answer::Serve { size: *size, features: Arc::clone(&export.features) });
                }
                ExportState::Refused(text) => return Ok(Answer::Refuse(text.to_string())),
                ExportState::Held => {}
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() {
                    return Ok(Answer::Unknown);
                },
                () = sleep_until(until) => {
                    let text = format!("the export is held, and {} s did not change that; try again", hold.as_secs());
                    return Ok(Answer::Refuse(text));
                }
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(Answer::Shutdown),
                closed = socket.closed_by_peer() => {
                    closed?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}
