//! The data thread of a node: how it starts and ends, and what is asked of it.
//!
//! ```text
//!   starting ──port taken──> serving ──shutdown──> leaving: every volume at once ──all left, or time up──> ended
//! ```

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use evenkeel_core::volume::operator::{OperatorAnswer, OperatorCommand};
use evenkeel_nbd::{
    buffer::BufferPool,
    server::{Directory, Hall, Handover},
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
    time::Instant,
};

use super::{
    abort::{self, AbortOnPanic},
    command::{CommandError, CommandResult, VolumeCommand},
    events::Events,
    handle::{Control, CreateOrigin, NodeHandle, ShutdownReport},
    reload,
    settings::NodeSettings,
    slot::{Opened, Slot},
    status::NodeStatus,
};
use crate::{
    disk::{self, Backend, BackendError},
    link::{BindError, Endpoint, EndpointConfig, LinkEvent, PeerAddress, PeerError, PeerKey, VolumeKey},
};

/// A connection to a peer on which nothing came for this long is given up by the transport: longer than any sensible
/// `peer_timeout`, which is what decides.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// More than a volume lets be in flight, so that flow control is never what holds a write up.
const WINDOW_BYTES: u64 = 96 << 20;
/// Payloads that came from peers and wait for a disk. Apart from what clients read: one who reads its replies slowly
/// must not hold up the replication.
const LINK_BUFFER_BYTES: usize = 256 << 20;
/// A volume whose disk hangs while it is opened is not waited for any longer.
const OPENING: Duration = Duration::from_secs(10);
/// What clients and the log are told when the node ends.
const STOPPING: &str = "the node is stopping";
/// Of the time for the end, this much is kept for closing connections after the volumes have left.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Why a node could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// No way to use disks.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The port for the peers cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Two nodes cannot be told apart.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The thread or its runtime could not be had.
    #[error("the data thread cannot be started ({0}): look at the limits on processes and open files")]
    Thread(std::io::Error),
}

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts the data thread, which opens every volume by itself ([`NodeHandle::opened`]).
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(settings: NodeSettings) -> Result<NodeHandle, StartError> {
        let backend = disk::choose_backend(settings.backend)?;
        let (control, requests) = mpsc::unbounded_channel();
        let (events, directory) = (Events::default(), Directory::default());
        let (opened_sender, opened) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(false);
        let (bound_sender, bound) = oneshot::channel();
        let shared = (events.clone(), directory.clone());
        std::thread::Builder::new()
            .name("data".into())
            .spawn(move || {
                let _abort = AbortOnPanic;
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    // Who does not wait any more needs no answer.
                    Err(error) => return drop(bound_sender.send(Err(StartError::Thread(error)))),
                };
                LocalSet::new().block_on(&runtime, async move {
                    match DataThread::new(settings, backend, shared) {
                        Ok(thread) => {
                            drop(bound_sender.send(Ok(thread.endpoint.local_address())));
                            Rc::new(thread).run(requests, opened_sender).await;
                        }
                        Err(error) => drop(bound_sender.send(Err(error))),
                    }
                });
                // Whatever still waits for a disk that hangs is left behind: the process ends.
                runtime.shutdown_background();
                ended_sender.send_replace(true);
            })
            .map_err(StartError::Thread)?;
        let gone = || StartError::Thread(std::io::Error::other("it ended at once"));
        let address = bound.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(NodeHandle { control, events, directory, address, opened, ended })
    }
}

/// What the thread owns.
pub(super) struct DataThread {
    pub(super) settings: RefCell<NodeSettings>,
    pub(super) backend: Backend,
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) buffers: BufferPool,
    pub(super) events: Events,
    pub(super) directory: Directory,
    pub(super) peer_keys: RefCell<BTreeMap<String, PeerKey>>,
    /// In the order of the configuration.
    pub(super) slots: RefCell<Vec<Rc<Slot>>>,
    next_key: std::cell::Cell<u32>,
    hall: Rc<Hall>,
}

impl DataThread {
    fn new(
        settings: NodeSettings,
        backend: Backend,
        (events, directory): (Events, Directory),
    ) -> Result<Self, StartError> {
        let limits = settings.nbd_limits.clone();
        let buffers = BufferPool::new(limits.read_memory_bytes());
        let endpoint = Endpoint::bind(EndpointConfig {
            cluster: settings.cluster.clone(),
            node: settings.node.clone(),
            identity: Arc::clone(&settings.identity),
            listen: settings.listen,
            idle_timeout: IDLE_TIMEOUT,
            window_bytes: WINDOW_BYTES,
            buffers: BufferPool::new(LINK_BUFFER_BYTES),
        })?;
        let thread = Self {
            settings: RefCell::new(settings),
            backend,
            endpoint: Rc::new(endpoint),
            buffers,
            events,
            directory,
            peer_keys: RefCell::default(),
            slots: RefCell::default(),
            next_key: std::cell::Cell::new(0),
            hall: Hall::new(limits),
        };
        for volume in thread.settings.borrow().volumes.clone() {
            thread.add_volume(volume);
        }
        thread.call_peers()?;
        Ok(thread)
    }

    /// Calls every configured peer from now on, under the address and key that it has now, for the volumes that are
    /// shared with it.
    pub(super) fn call_peers(&self) -> Result<(), PeerError> {
        for peer in &self.settings.borrow().peers {
            let known = self.peer_keys.borrow().get(&peer.name).copied();
            let key = known.unwrap_or_else(|| PeerKey(self.next_key()));
            self.peer_keys.borrow_mut().insert(peer.name.clone(), key);
            let address =
                PeerAddress { name: peer.name.clone(), address: peer.address, fingerprint: peer.fingerprint };
            let slots = self.slots.borrow();
            let shared = slots.iter().filter(|slot| slot.settings().peers.contains(&peer.name));
            let named: Vec<_> = shared.map(|slot| (slot.key(), slot.name())).collect();
            let named: Vec<_> = named.iter().map(|(key, name)| (*key, name.as_str())).collect();
            self.endpoint.add_peer(key, address, &named)?;
        }
        Ok(())
    }

    fn next_key(&self) -> u32 {
        let key = self.next_key.get() + 1;
        self.next_key.set(key);
        key
    }

    /// Makes a place for a volume.
    pub(super) fn add_volume(&self, settings: super::VolumeSettings) -> Rc<Slot> {
        let slot = Slot::new(VolumeKey(self.next_key()), settings, &self.settings.borrow().state_dir);
        slot.publish_closed(&self.directory);
        self.slots.borrow_mut().push(Rc::clone(&slot));
        slot
    }

    /// Begins to open a volume.
    pub(super) fn begin_to_open(self: &Rc<Self>, slot: &Rc<Slot>) {
        let (thread, slot) = (Rc::clone(self), Rc::clone(slot));
        abort::spawn(async move { thread.open(&slot, None).await });
    }

    /// Opens a volume; why it could not be opened is in its slot afterwards.
    pub(super) async fn open(self: &Rc<Self>, slot: &Rc<Slot>, wish: Option<CreateOrigin>) {
        slot.open(self, wish).await;
        let name = slot.name();
        match slot.opened() {
            Opened::Open(..) => {}
            Opened::Opening => {}
            Opened::Closed(problem) => {
                tracing::error!(volume = name, code = %problem.code, "not opened: {}", problem.text);
                self.events.push(Some(&name), None, "not-opened", problem.text);
            }
        }
    }

    pub(super) fn slot(&self, name: &str) -> Option<Rc<Slot>> {
        self.slots.borrow().iter().find(|slot| slot.name() == name).cloned()
    }

    async fn run(
        self: Rc<Self>,
        mut requests: mpsc::UnboundedReceiver<Control>,
        opened: watch::Sender<bool>,
    ) {
        let links = abort::spawn(Rc::clone(&self).pump_links());
        let slots = self.slots.borrow().clone();
        slots.iter().for_each(|slot| self.begin_to_open(slot));
        abort::spawn(async move {
            let until = Instant::now() + OPENING;
            for slot in slots {
                // One that hangs is seen in its status.
                let _ = tokio::time::timeout_at(until, slot.settled()).await;
            }
            opened.send_replace(true);
        });
        while let Some(request) = requests.recv().await {
            let thread = Rc::clone(&self);
            match request {
                // Who asked and does not wait any more needs no answer: this holds for all of them.
                Control::Status(reply) => drop(reply.send(self.status())),
                Control::Command { volume, command, reply } => {
                    abort::spawn(async move { drop(reply.send(thread.command(&volume, command).await)) });
                }
                Control::Create { volume, origin, reply } => {
                    abort::spawn(async move { drop(reply.send(thread.create(&volume, origin).await)) });
                }
                Control::Reload { settings, reply } => {
                    abort::spawn(async move { drop(reply.send(reload::reload(&thread, *settings).await)) });
                }
                Control::HandOver(handover) => self.hand_over(handover),
                Control::Abandon => break,
                Control::Shutdown { within, reply } => {
                    let report = self.leave(within).await;
                    drop(reply.send(report));
                    break;
                }
            }
        }
        links.abort();
        for slot in self.slots.take() {
            slot.close();
        }
    }

    /// Hands what comes from the links to the volumes, in bursts.
    async fn pump_links(self: Rc<Self>) {
        let volume_of = |event: &LinkEvent| match event {
            LinkEvent::Up { volume, .. }
            | LinkEvent::Frame { volume, .. }
            | LinkEvent::Down { volume, .. } => Some(*volume),
            LinkEvent::Problem { volume, .. } => *volume,
        };
        let mut events = Vec::new();
        loop {
            self.endpoint.events(&mut events).await;
            let mut rest = events.drain(..).peekable();
            while let Some(first) = rest.next() {
                let Some(volume) = volume_of(&first) else {
                    for slot in self.slots.borrow().iter() {
                        slot.on_link_events(std::iter::once(first.clone()));
                    }
                    continue;
                };
                let more = std::iter::from_fn(|| rest.next_if(|event| volume_of(event) == Some(volume)));
                let burst = std::iter::once(first).chain(more);
                match self.slots.borrow().iter().find(|slot| slot.key() == volume) {
                    Some(slot) => slot.on_link_events(burst),
                    // Closed meanwhile: its links are going.
                    None => burst.for_each(drop),
                }
            }
        }
    }

    fn status(&self) -> NodeStatus {
        let settings = self.settings.borrow();
        let slots = self.slots.borrow();
        NodeStatus {
            node: settings.node.clone(),
            cluster: settings.cluster.clone(),
            backend: self.backend,
            volumes: slots.iter().map(|slot| slot.status(&self.endpoint, &self.peer_keys.borrow())).collect(),
        }
    }

    async fn command(&self, volume: &str, command: VolumeCommand) -> CommandResult {
        let Some(slot) = self.slot(volume) else { return Err(CommandError::NoSuchVolume(volume.to_owned())) };
        match slot.opened() {
            Opened::Open(runner, _) => runner.command(command).await,
            Opened::Opening => {
                Err(CommandError::NotOpen { volume: volume.to_owned(), why: "it is being opened".into() })
            }
            Opened::Closed(problem) => {
                Err(CommandError::NotOpen { volume: volume.to_owned(), why: problem.text })
            }
        }
    }

    async fn create(self: &Rc<Self>, volume: &str, origin: CreateOrigin) -> Result<(), CommandError> {
        let Some(slot) = self.slot(volume) else { return Err(CommandError::NoSuchVolume(volume.to_owned())) };
        match slot.opened() {
            Opened::Open(..) => Err(CommandError::Refused(format!(
                "volume {volume} is open on this node already: `evenkeel status {volume}`"
            ))),
            Opened::Opening => Err(CommandError::Refused(format!("volume {volume} is being opened: wait"))),
            Opened::Closed(_) => {
                self.open(&slot, Some(origin)).await;
                match slot.opened() {
                    Opened::Open(..) => Ok(()),
                    Opened::Opening => panic!("opening has ended"),
                    Opened::Closed(problem) => {
                        Err(CommandError::Refused(format!("{}; {}", problem.text, problem.remedy)))
                    }
                }
            }
        }
    }

    fn hand_over(&self, handover: Handover) {
        let Some(slot) = self.slot(handover.export()) else { return };
        if let Opened::Open(_, device) = slot.opened() {
            abort::spawn(Rc::clone(&self.hall).serve(handover, device));
        }
    }

    /// P6: all volumes at once, each as far as it gets in the time.
    async fn leave(&self, within: Duration) -> ShutdownReport {
        let until = Instant::now() + within.saturating_sub(FAREWELL);
        let slots = self.slots.borrow().clone();
        let mut leaving = Vec::new();
        for slot in slots {
            let Opened::Open(runner, _) = slot.opened() else { continue };
            runner.close_to_clients(Some(STOPPING));
            let (sender, end) = oneshot::channel();
            let name = slot.name();
            abort::spawn(async move {
                let answer = tokio::time::timeout_at(until, runner.order(OperatorCommand::Shutdown)).await;
                drop(sender.send(match answer {
                    Ok(
                        OperatorAnswer::Done | OperatorAnswer::Verified { .. } | OperatorAnswer::Foretold(_),
                    ) => None,
                    Ok(OperatorAnswer::Refused(why)) => Some((name, why)),
                    Err(_) => {
                        let why =
                            "it did not become stable in time; look at the disk and the kernel's log (dmesg)";
                        Some((name, why.to_owned()))
                    }
                }));
            });
            leaving.push(end);
        }
        self.hall.close(STOPPING);
        let mut report = ShutdownReport::default();
        for end in leaving {
            report.unclean.extend(end.await.expect("the task tells its end"));
        }
        // Those that do not go are cut off with the process.
        let _ = tokio::time::timeout(FAREWELL / 2, self.hall.emptied()).await;
        let _ = tokio::time::timeout(FAREWELL / 2, self.endpoint.shutdown(STOPPING)).await;
        report
    }
}
