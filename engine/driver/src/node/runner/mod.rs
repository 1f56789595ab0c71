//! One volume on the data thread: owns the core's [`Volume`], hands it events, carries out its actions.
//!
//! ```text
//!   NBD batch ─┐                                  ┌─> data disk, metadata   (one submit for each turn)
//!   disk ends ─┼─> turn: Volume::handle, each ───>┼─> links                 (one write for each channel and turn)
//!   frames ────┤         event in its order       ├─> clients, operators    (one wake for each)
//!   timer ─────┘                                  └─> events, log, export state
//! ```
//!
//! A *turn* is synchronous: it borrows the volume once, hands over a burst of events, and ends with one submit for
//! each disk. It runs in the task where the burst came from, so that no hop to another task lies on the write path.
//! Nothing that a turn calls comes back into the volume; what ends at once is queued and handled in the same turn.

mod actions;
mod clients;
mod disks;
mod export;
mod foretell;
mod notices;
mod orders;
mod primaries;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
};

use evenkeel_core::{
    ids::{PeerIndex, Timestamp},
    volume::{
        FileFacts, Remembered, Volume,
        config::{RunInfo, Tunables, VolumeConfig},
        io::{Action, Channel, ClientId, CommandId, Event, RequestError, RequestId, RequestOutcome},
        operator::OperatorAnswer,
        status::Status,
        wire::Frame,
    },
};
use evenkeel_nbd::device::{Client, ExportState, Features};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};

pub(super) use self::{
    clients::outcome_of,
    disks::DataMark,
    notices::{PeerRemarks, Remarks},
};
use super::{
    abort,
    alarm::Alarm,
    clock,
    events::Events,
    memory::{Memory, MemoryFile, MemoryWriter},
    problem::Problem,
    settings::VolumeSettings,
};
use crate::{
    disk::byte_disk::ByteDisk,
    link::{Endpoint, LinkEvent, PeerKey},
};

/// What a runner is made from.
pub(super) struct Parts {
    pub(super) settings: VolumeSettings,
    pub(super) config: VolumeConfig,
    pub(super) run: RunInfo,
    pub(super) data: ByteDisk<DataMark>,
    pub(super) meta: ByteDisk<()>,
    pub(super) memory: Memory,
    pub(super) memory_file: MemoryFile,
    pub(super) endpoint: Rc<Endpoint>,
    /// The peers by their index.
    pub(super) peer_keys: Vec<PeerKey>,
    pub(super) events: Events,
    pub(super) export: Rc<watch::Sender<ExportState>>,
    /// The copy was made just now; what is remembered is of another one.
    pub(super) made: bool,
    pub(super) alarm: Alarm,
}

/// See the module's head.
pub(super) struct Runner {
    /// For tasks that outlive a turn.
    own: Weak<Self>,
    settings: RefCell<VolumeSettings>,
    own_node: String,
    peer_names: Vec<String>,
    peer_keys: Vec<PeerKey>,
    inner: RefCell<Inner>,
    data: ByteDisk<DataMark>,
    meta: ByteDisk<()>,
    /// Writes of parts of blocks take turns (see [`ByteDisk::needs_turn`]).
    block_turn: tokio::sync::Mutex<()>,
    endpoint: Rc<Endpoint>,
    alarm: Alarm,
    export: Rc<watch::Sender<ExportState>>,
    /// The copy was made at this start.
    made: bool,
    features: Arc<Features>,
    /// Said by the operator or by the end of the node: clients are refused whatever the volume says.
    closing: RefCell<Option<Arc<str>>>,
    clients: RefCell<BTreeMap<ClientId, Rc<Client>>>,
    client_left: Notify,
    events: Events,
    memory_writer: Rc<MemoryWriter>,
    remarks: RefCell<Remarks>,
    /// Changes when the volume has been opened, or could not be.
    settled: watch::Sender<bool>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// What a turn works on.
struct Inner {
    volume: Volume,
    /// Here only to keep the memory.
    actions: Vec<Action>,
    /// What has happened within the turn.
    pending: VecDeque<Event>,
    orders: BTreeMap<CommandId, oneshot::Sender<OperatorAnswer>>,
    /// Requests of the node's own tasks.
    own_requests: BTreeMap<RequestId, oneshot::Sender<Result<RequestOutcome, RequestError>>>,
    next_order: u64,
    memory: Memory,
    /// Role, disk or peers may have changed: the export's state is to be looked at.
    export_may_change: bool,
}

impl Runner {
    /// Begins to open the volume.
    pub(super) fn start(parts: Parts) -> Rc<Self> {
        let Parts {
            settings,
            config,
            run,
            data,
            meta,
            memory,
            memory_file,
            endpoint,
            peer_keys,
            events,
            export,
            made,
            alarm,
        } = parts;
        let remembered = Remembered {
            cluster: memory.cluster,
            volume: memory.volume,
            node: Some(memory.node),
            attach_counter: Some(memory.attach),
            highest_term: memory.term,
        };
        let files = FileFacts {
            meta_bytes: meta.size_bytes(),
            data_bytes: data.size_bytes(),
            reads_media: data.shape().direct,
            remembered,
        };
        let features = Arc::new(export::features(&settings.name, data.shape()));
        let (own_node, peer_names) = (config.node_name.clone(), config.peer_names.clone());
        let mut actions = Vec::new();
        let mut volume = Volume::attach(config, run, files, clock::now(), &mut actions);
        volume.tune(tunables(&settings));
        let inner = Inner {
            volume,
            actions: Vec::new(),
            pending: VecDeque::new(),
            orders: BTreeMap::new(),
            own_requests: BTreeMap::new(),
            next_order: 1,
            memory,
            export_may_change: true,
        };
        let runner = Rc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            settings: RefCell::new(settings),
            own_node,
            peer_names,
            peer_keys,
            inner: RefCell::new(inner),
            data,
            meta,
            block_turn: tokio::sync::Mutex::new(()),
            endpoint,
            alarm,
            export,
            made,
            features,
            closing: RefCell::default(),
            clients: RefCell::default(),
            client_left: Notify::new(),
            events,
            memory_writer: MemoryWriter::new(memory_file),
            remarks: RefCell::default(),
            settled: watch::Sender::new(false),
            tasks: RefCell::default(),
        });
        let tasks = vec![
            abort::spawn(pump_data(Rc::clone(&runner))),
            abort::spawn(pump_meta(Rc::clone(&runner))),
            abort::spawn(keep_time(Rc::clone(&runner))),
        ];
        *runner.tasks.borrow_mut() = tasks;
        let mut inner = runner.inner.borrow_mut();
        runner.carry_out(&mut inner, &mut actions);
        runner.end_turn(&mut inner);
        drop(inner);
        runner
    }

    /// Lets go of the disks, once nothing of them is under way any more. Nothing happens here afterwards.
    pub(super) fn stop(&self) {
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }

    /// Hands over a burst of events and carries out what comes of them.
    pub(super) fn turn(&self, events: impl IntoIterator<Item = Event>) {
        let mut inner = self.inner.borrow_mut();
        let now = clock::now();
        for event in events {
            self.handle(&mut inner, now, event);
        }
        self.end_turn(&mut inner);
    }

    fn handle(&self, inner: &mut Inner, now: Timestamp, event: Event) {
        inner.export_may_change |= tells_of_a_peer(&event);
        let mut actions = std::mem::take(&mut inner.actions);
        inner.volume.handle(now, event, &mut actions);
        self.carry_out(inner, &mut actions);
        inner.actions = actions;
    }

    fn end_turn(&self, inner: &mut Inner) {
        while let Some(event) = inner.pending.pop_front() {
            self.handle(inner, clock::now(), event);
        }
        self.data.submit();
        self.remember(inner);
        if std::mem::take(&mut inner.export_may_change) {
            self.note_primaries(&inner.volume);
            self.update_export(&inner.volume);
        }
    }

    /// What came from a peer's link.
    pub(super) fn on_link_events(&self, events: impl Iterator<Item = LinkEvent>) {
        self.turn(events.filter_map(|event| self.event_of(event)));
    }

    fn event_of(&self, event: LinkEvent) -> Option<Event> {
        let index = |peer: PeerKey| {
            let place = self.peer_keys.iter().position(|&key| key == peer)?;
            PeerIndex::new(place)
        };
        match event {
            LinkEvent::Up { peer, link, .. } => Some(Event::LinkUp { peer: index(peer)?, link }),
            LinkEvent::Frame { peer, link, channel, frame, .. } => {
                Some(Event::Frame { peer: index(peer)?, link, channel, frame })
            }
            LinkEvent::Down { peer, link, reason, .. } => {
                let peer = index(peer)?;
                self.note_link_end(peer, &reason);
                Some(Event::LinkDown { peer, link })
            }
            LinkEvent::Problem { peer, problem, .. } => {
                self.note_link_problem(index(peer)?, problem);
                None
            }
        }
    }

    /// The name in the configuration.
    pub(super) fn name(&self) -> String {
        self.settings.borrow().name.clone()
    }

    pub(super) fn settings(&self) -> VolumeSettings {
        self.settings.borrow().clone()
    }

    pub(super) fn core_status(&self) -> Status {
        self.inner.borrow().volume.status()
    }

    /// Waits until the volume has been opened, or could not be.
    pub(super) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Why it could not be opened, if so.
    pub(super) fn refusal(&self) -> Option<Problem> {
        self.remarks.borrow().not_opened.clone()
    }

    /// What was noted for `status`.
    pub(super) fn remarks(&self) -> std::cell::Ref<'_, Remarks> {
        self.remarks.borrow()
    }

    /// This node's name.
    pub(super) fn own_node(&self) -> &str {
        &self.own_node
    }

    /// The peers' names by their index.
    pub(super) fn peer_names(&self) -> &[String] {
        &self.peer_names
    }

    /// Takes over settings that do not need the volume to be closed.
    pub(super) fn change(&self, settings: VolumeSettings) {
        self.inner.borrow_mut().volume.tune(tunables(&settings));
        *self.settings.borrow_mut() = settings;
        self.turn([Event::Wake]);
    }

    /// The name of a peer.
    pub(super) fn peer_name(&self, peer: PeerIndex) -> &str {
        self.peer_names.get(peer.as_usize()).map_or("a peer that is not configured", String::as_str)
    }
}

fn tunables(settings: &VolumeSettings) -> Tunables {
    Tunables {
        size_bytes_max: settings.size_bytes,
        on_peer_loss: settings.on_peer_loss,
        peer_timeout: settings.peer_timeout,
        hold: settings.hold,
        max_lag_bytes: settings.max_lag_bytes,
        resync_limit: settings.resync_limit,
    }
}

/// Whether the event may change what this node knows of a peer's role, which refused clients are told.
fn tells_of_a_peer(event: &Event) -> bool {
    match event {
        Event::Frame { channel: Channel::Control, frame, .. } => {
            !matches!(frame, Frame::Ping(_) | Frame::Pong(_))
        }
        Event::LinkUp { .. } | Event::LinkDown { .. } => true,
        Event::Frame { .. }
        | Event::Request { .. }
        | Event::ClientGone(_)
        | Event::ReadDone { .. }
        | Event::DiskDone { .. }
        | Event::Wake
        | Event::Command { .. } => false,
    }
}

/// Hands the ends of data operations to the volume.
async fn pump_data(runner: Rc<Runner>) {
    let mut ends = Vec::new();
    loop {
        poll_fn(|cx| runner.data.poll_ends(cx, &mut ends)).await;
        runner.turn(ends.drain(..).map(|(mark, result)| mark.into_event(&runner, result)));
    }
}

/// Tells tasks the ends of metadata operations.
async fn pump_meta(runner: Rc<Runner>) {
    let mut marked = Vec::new();
    poll_fn(|cx| runner.meta.poll_ends(cx, &mut marked)).await;
    panic!("metadata are read and written by tasks only");
}

/// Wakes the volume when it wants to be.
async fn keep_time(runner: Rc<Runner>) {
    loop {
        runner.alarm.rings().await;
        runner.turn([Event::Wake]);
    }
}
