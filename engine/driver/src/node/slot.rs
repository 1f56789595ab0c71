//! The place of one configured volume on the data thread, whether it is open or not.
//!
//! ```text
//!   Opening ──files and metadata are good──> Open
//!      │  ^                                    │ removed from the configuration
//!      v  └───`volume create`, `reload`        v
//!   Closed (with the problem) <────────────────┘
//! ```

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, sync::Arc};

use evenkeel_core::volume::config::VolumeConfig;
use evenkeel_nbd::{
    device::{ExportState, Features, MapContext},
    server::{Directory, Export},
};
use tokio::sync::watch;

use super::{
    alarm::Alarm,
    clock,
    data_thread::DataThread,
    device::VolumeDevice,
    files,
    handle::CreateOrigin,
    memory::MemoryFile,
    problem::{Problem, ProblemCode},
    runner::{Parts, Runner},
    settings::VolumeSettings,
    status::VolumeStatus,
    summary,
};
use crate::{
    disk::{self, byte_disk::ByteDisk},
    link::{Endpoint, LinkEvent, PeerKey, VolumeKey},
};

/// The most that a volume lets be in flight.
const MAX_INFLIGHT_BYTES: u64 = 64 << 20;
/// See [`MAX_INFLIGHT_BYTES`].
const MAX_INFLIGHT_WRITES: usize = 4096;

/// How far a volume is.
#[derive(Clone)]
pub(super) enum Opened {
    /// Its files, or its metadata, are being looked at.
    Opening,
    /// It runs.
    Open(Rc<Runner>, Rc<VolumeDevice>),
    /// It cannot be opened.
    Closed(Problem),
}

/// See the module's head.
pub(super) struct Slot {
    key: VolumeKey,
    settings: RefCell<VolumeSettings>,
    memory_file: MemoryFile,
    export: Rc<watch::Sender<ExportState>>,
    opened: RefCell<Opened>,
    settled: watch::Sender<bool>,
}

impl Slot {
    pub(super) fn new(key: VolumeKey, settings: VolumeSettings, state_dir: &Path) -> Rc<Self> {
        let refusal = format!("{} is being opened: try again", settings.name);
        Rc::new(Self {
            key,
            memory_file: MemoryFile::new(state_dir, &settings.name),
            settings: RefCell::new(settings),
            export: Rc::new(watch::Sender::new(ExportState::Refused(refusal.into()))),
            opened: RefCell::new(Opened::Opening),
            settled: watch::Sender::new(false),
        })
    }

    pub(super) fn key(&self) -> VolumeKey {
        self.key
    }

    pub(super) fn name(&self) -> String {
        self.settings.borrow().name.clone()
    }

    pub(super) fn settings(&self) -> VolumeSettings {
        self.settings.borrow().clone()
    }

    pub(super) fn opened(&self) -> Opened {
        self.opened.borrow().clone()
    }

    /// Waits until the volume is open, or could not be opened, for the first time.
    pub(super) async fn settled(&self) {
        // The sender lives as long as `self`.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Takes over settings that do not need the volume to be closed.
    pub(super) fn change(&self, settings: &VolumeSettings, directory: &Directory) {
        *self.settings.borrow_mut() = settings.clone();
        match self.opened() {
            Opened::Open(runner, _) => {
                runner.change(settings.clone());
                self.publish(directory, runner.features());
            }
            Opened::Opening | Opened::Closed(_) => self.publish_closed(directory),
        }
    }

    /// Lists the export of a volume that is not open.
    pub(super) fn publish_closed(&self, directory: &Directory) {
        let features = Features {
            description: format!("replicated volume {}", self.name()),
            read_only: false,
            rotational: false,
            fast_zero: false,
            contexts: MapContext::ALL.to_vec(),
        };
        self.publish(directory, Arc::new(features));
    }

    fn publish(&self, directory: &Directory, features: Arc<Features>) {
        let (state, hold) = (self.export.subscribe(), self.settings.borrow().hold);
        directory.publish(&self.name(), Export { features, state, hold });
    }

    /// Opens the volume, after making it if it was told to.
    pub(super) async fn open(self: &Rc<Self>, thread: &Rc<DataThread>, wish: Option<CreateOrigin>) {
        self.opened.replace(Opened::Opening);
        let opened = match self.try_open(thread, wish).await {
            Ok((runner, device)) => {
                self.publish(&thread.directory, runner.features());
                Opened::Open(runner, device)
            }
            Err(problem) => {
                let name = self.name();
                let text = format!("{name} is not open on this node: {}", problem.text);
                self.export.send_replace(ExportState::Refused(text.into()));
                Opened::Closed(problem)
            }
        };
        self.opened.replace(opened);
        if let Opened::Open(runner, _) = self.opened()
            && runner.settings() != self.settings()
        {
            // A reload came while it was being opened.
            self.change(&self.settings(), &thread.directory);
        }
        self.settled.send_replace(true);
    }

    async fn try_open(
        &self,
        thread: &Rc<DataThread>,
        wish: Option<CreateOrigin>,
    ) -> Result<(Rc<Runner>, Rc<VolumeDevice>), Problem> {
        let settings = self.settings();
        let cannot = |text: String| Problem {
            code: ProblemCode::CannotOpen,
            peer: None,
            text,
            remedy: "mend that, then `evenkeel reload`".into(),
        };
        let files = {
            let (settings, memory_file) = (settings.clone(), self.memory_file.clone());
            let opening = move || files::open(&settings, &memory_file, wish);
            tokio::task::spawn_blocking(opening).await.expect("opening files does not panic")?
        };
        if let Some(how) = files.made {
            thread.events.push(Some(&settings.name), None, "created", format!("the own copy was {how}"));
        }
        let open = |file| {
            let disk = disk::open(file, thread.backend).map_err(|error| cannot(error.to_string()))?;
            Ok(disk)
        };
        let config = VolumeConfig {
            name: settings.name.clone(),
            node_name: thread.settings.borrow().node.clone(),
            peer_names: files.memory.peers.clone(),
            size_bytes_max: settings.size_bytes,
            protocol: settings.protocol,
            on_peer_loss: settings.on_peer_loss,
            peer_timeout: settings.peer_timeout,
            hold: settings.hold,
            max_lag_bytes: settings.max_lag_bytes,
            max_inflight_bytes: MAX_INFLIGHT_BYTES,
            max_inflight_writes: MAX_INFLIGHT_WRITES,
        };
        let key_of = |peer: &String| {
            let key = thread.peer_keys.borrow().get(peer).copied();
            key.ok_or_else(|| cannot(format!("{peer} is a peer of the volume, but no node has this name")))
        };
        let peer_keys: Vec<PeerKey> = files.memory.peers.iter().map(key_of).collect::<Result<_, _>>()?;
        let runner = Runner::start(Parts {
            config,
            run: clock::run_info().map_err(|error| cannot(error.to_string()))?,
            data: ByteDisk::new(open(files.data)?, thread.buffers.clone()),
            meta: ByteDisk::new(open(files.meta)?, thread.buffers.clone()),
            memory: files.memory,
            memory_file: self.memory_file.clone(),
            endpoint: Rc::clone(&thread.endpoint),
            peer_keys: peer_keys.clone(),
            events: thread.events.clone(),
            export: Rc::clone(&self.export),
            made: files.made.is_some(),
            alarm: Alarm::new().map_err(|error| cannot(error.to_string()))?,
            settings,
        });
        // The sender lives as long as the runner.
        let _ = runner.settled().wait_for(|settled| *settled).await;
        if let Some(problem) = runner.refusal() {
            runner.stop();
            return Err(problem);
        }
        for peer in peer_keys {
            thread.endpoint.enable(peer, self.key);
        }
        let device = VolumeDevice::new(Rc::clone(&runner));
        Ok((runner, device))
    }

    pub(super) fn on_link_events(&self, events: impl Iterator<Item = LinkEvent>) {
        match &*self.opened.borrow() {
            Opened::Open(runner, _) => runner.on_link_events(events),
            // No link is wanted yet.
            Opened::Opening | Opened::Closed(_) => events.for_each(drop),
        }
    }

    pub(super) fn status(&self, endpoint: &Endpoint, peer_keys: &BTreeMap<String, PeerKey>) -> VolumeStatus {
        summary::volume_status(&self.settings.borrow(), &self.opened.borrow(), endpoint, peer_keys)
    }

    /// Lets go of the disks.
    pub(super) fn close(&self) {
        let closed = Problem {
            code: ProblemCode::Opening,
            peer: None,
            text: "the volume was closed".into(),
            remedy: "start the daemon".into(),
        };
        if let Opened::Open(runner, _) = self.opened.replace(Opened::Closed(closed)) {
            runner.stop();
        }
    }
}
