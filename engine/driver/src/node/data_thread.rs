//! The data thread of a node: how it starts and ends, and what is asked of it.

use evenkeel_core::{
    ids::Sequence,
    volume::{DiskState, Replication, Role},
};
use evenkeel_nbd::server::Directory;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};

use super::{
    abort::AbortOnPanic,
    command::CommandError,
    events::Events,
    handle::{Control, NodeHandle, ReloadError, ShutdownReport},
    settings::{NodeSettings, VolumeSettings},
    status::{Connection, IoCounters, NodeStatus, PeerStatus, VolumeStatus},
};
use crate::disk::{self, Backend, BackendError};

/// Why a node could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// No way to use disks.
    #[error(transparent)]
    Backend(#[from] BackendError),
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
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        std::thread::Builder::new()
            .name("data".into())
            .spawn(move || {
                let _abort = AbortOnPanic;
                let thread = DataThread { settings, backend };
                LocalSet::new().block_on(&runtime, thread.run(requests, &opened_sender));
                drop(runtime);
                ended_sender.send_replace(true);
            })
            .map_err(StartError::Thread)?;
        Ok(NodeHandle { control, events, directory, opened, ended })
    }
}

/// What the thread owns.
struct DataThread {
    settings: NodeSettings,
    backend: Backend,
}

impl DataThread {
    async fn run(self, mut requests: mpsc::UnboundedReceiver<Control>, opened: &watch::Sender<bool>) {
        opened.send_replace(true);
        while let Some(request) = requests.recv().await {
            match request {
                // Who asked and does not wait any more needs no answer: this holds for all of them.
                Control::Status(reply) => drop(reply.send(self.status())),
                Control::Command { volume, reply, .. } => drop(reply.send(Err(self.not_open(volume)))),
                Control::Create { volume, reply, .. } => drop(reply.send(Err(self.not_open(volume)))),
                Control::Reload { reply, .. } => drop(reply.send(Err(ReloadError::Ending))),
                Control::HandOver(handover) => drop(handover),
                Control::Shutdown { reply, .. } => {
                    drop(reply.send(ShutdownReport::default()));
                    return;
                }
            }
        }
    }

    fn not_open(&self, volume: String) -> CommandError {
        if self.settings.volumes.iter().any(|known| known.name == volume) {
            CommandError::NotOpen { volume, why: "it is being opened".into() }
        } else {
            CommandError::NoSuchVolume(volume)
        }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.settings.node.clone(),
            cluster: self.settings.cluster.clone(),
            backend: self.backend,
            volumes: self.settings.volumes.iter().map(closed).collect(),
        }
    }
}

/// A volume that is not open.
fn closed(settings: &VolumeSettings) -> VolumeStatus {
    let peer = |name: &String| PeerStatus {
        name: name.clone(),
        connection: Connection::Connecting,
        role: None,
        disk: None,
        replication: Replication::Off,
        dirty_bytes: None,
        lag_bytes: 0,
        resync: None,
        verdict: None,
    };
    VolumeStatus {
        name: settings.name.clone(),
        size_bytes: settings.size_bytes,
        role: Role::Secondary,
        disk: DiskState::Diskless,
        generation: None,
        term: None,
        entitled: false,
        protocol: settings.protocol,
        suspended: None,
        sequence: Sequence::ZERO,
        io: IoCounters::default(),
        last_resync: None,
        clients: Vec::new(),
        peers: settings.peers.iter().map(peer).collect(),
        problems: Vec::new(),
    }
}
