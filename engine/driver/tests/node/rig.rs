//! Nodes in temporary folders, each with its door for NBD clients, and ways to wait for what they become.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_core::volume::{
    config::{OnPeerLoss, Protocol},
    operator::{Force, OperatorAnswer},
};
use evenkeel_driver::{
    disk::BackendChoice,
    identity::Identity,
    node::{Node, NodeHandle, NodeSettings, PeerSettings, VolumeCommand, VolumeSettings, VolumeStatus},
};
use evenkeel_nbd::{
    limits::Limits,
    server::{Door, Listener},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::client::{Client, Failure};

/// Nothing that a test waits for takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The volume that every test uses.
pub(crate) const VOLUME: &str = "r0";
/// Bytes of it.
pub(crate) const SIZE: u64 = 16 << 20;

/// The folders and addresses of a cluster, whether its nodes run or not.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    nodes: Vec<Place>,
    pub(crate) backend: BackendChoice,
    pub(crate) protocol: Protocol,
}

struct Place {
    name: String,
    address: SocketAddr,
    identity: Arc<Identity>,
}

/// A running node.
pub(crate) struct Running {
    pub(crate) handle: NodeHandle,
    door: Arc<Door>,
    tasks: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

impl Cluster {
    /// Places for these nodes; nothing runs, and no volume has been made.
    pub(crate) fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &&str| {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
            Place {
                name: (*name).to_owned(),
                address: free_port(),
                identity: Arc::new(Identity::ephemeral().expect("randomness")),
            }
        };
        let nodes = names.iter().map(place).collect();
        Self { folder, nodes, backend: BackendChoice::Auto, protocol: Protocol::C }
    }

    fn place(&self, name: &str) -> &Place {
        self.nodes.iter().find(|place| place.name == name).expect("one of the nodes")
    }

    /// A file of a node.
    pub(crate) fn path(&self, node: &str, file: &str) -> PathBuf {
        self.folder.path().join(node).join(file)
    }

    pub(crate) fn image(&self, node: &str) -> Vec<u8> {
        std::fs::read(self.path(node, "r0.img")).expect("the image")
    }

    pub(crate) fn settings(&self, node: &str) -> NodeSettings {
        let place = self.place(node);
        let others = || self.nodes.iter().filter(|other| other.name != node);
        NodeSettings {
            cluster: "test".into(),
            node: node.into(),
            identity: Arc::clone(&place.identity),
            listen: place.address,
            peers: others()
                .map(|other| PeerSettings {
                    name: other.name.clone(),
                    address: other.address,
                    fingerprint: other.identity.fingerprint(),
                })
                .collect(),
            volumes: vec![self.volume(node, VOLUME)],
            backend: self.backend,
            nbd_limits: Limits::default(),
            state_dir: self.path(node, "state"),
        }
    }

    pub(crate) fn volume(&self, node: &str, name: &str) -> VolumeSettings {
        VolumeSettings {
            name: name.into(),
            size_bytes: SIZE,
            protocol: self.protocol,
            on_peer_loss: OnPeerLoss::Continue,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(20),
            max_lag_bytes: 64 << 20,
            al_extent_bytes: 64 << 10,
            block_bytes: 4096,
            resync_limit: None,
            data: self.path(node, &format!("{name}.img")),
            meta: self.path(node, &format!("{name}.meta")),
            peers: self.nodes.iter().map(|other| other.name.clone()).filter(|other| other != node).collect(),
        }
    }

    pub(crate) async fn start(&self, node: &str) -> Running {
        self.start_with(self.settings(node)).await
    }

    pub(crate) async fn start_with(&self, settings: NodeSettings) -> Running {
        let socket = self.path(&settings.node, "nbd.sock");
        let limits = settings.nbd_limits.clone();
        let handle = Node::start(settings).await.expect("the node starts");
        let (door, mut handovers) = Door::new(handle.directory().clone(), limits);
        let listener = Listener::unix(&socket).expect("a socket");
        let carrier = handle.clone();
        let tasks = vec![
            tokio::spawn(Arc::clone(&door).run(listener)),
            tokio::spawn(async move {
                while let Some(handover) = handovers.recv().await {
                    carrier.hand_over(handover);
                }
            }),
        ];
        handle.opened().await;
        Running { handle, door, tasks, socket }
    }
}

impl Running {
    pub(crate) async fn status(&self) -> VolumeStatus {
        self.status_of(VOLUME).await
    }

    pub(crate) async fn status_of(&self, volume: &str) -> VolumeStatus {
        let status = self.handle.status().await.expect("the node lives");
        status.volumes.into_iter().find(|found| found.name == volume).expect("the volume is configured")
    }

    /// Waits until the volume is as it should be.
    pub(crate) async fn wait(&self, what: &str, is_so: impl Fn(&VolumeStatus) -> bool) -> VolumeStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            assert!(
                Instant::now() < until,
                "never {what}: {status:#?}\n{:#?}",
                self.handle.events().since(0)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn command(&self, command: VolumeCommand) -> OperatorAnswer {
        self.handle.command(VOLUME, command).await.expect("carried out")
    }

    pub(crate) async fn promote(&self, force: Force) {
        let answer = self.command(VolumeCommand::Primary(force)).await;
        assert_eq!(answer, OperatorAnswer::Done, "{:#?}", self.status().await);
    }

    /// Runs a blocking client.
    pub(crate) async fn client<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let socket = self.socket.clone();
        tokio::task::spawn_blocking(move || work(&mut Client::enter(&socket, VOLUME)?))
            .await
            .expect("the client does not panic")
    }

    /// A clean end.
    pub(crate) async fn stop(self) {
        self.door.stop();
        let report = self.handle.shutdown(Duration::from_secs(10)).await.expect("the node lives");
        assert_eq!(report.unclean, [], "every volume leaves cleanly");
        self.handle.ended().await;
        for task in self.tasks {
            task.abort();
            // Cancelled, or ended by itself.
            let _ = task.await;
        }
    }

    /// The end of the process, as far as a test in one process can have it: nothing is said to anybody, nothing
    /// is recorded.
    pub(crate) async fn crash(self) {
        self.handle.abandon().await;
        self.door.stop();
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

/// A port that nobody has right now.
fn free_port() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    socket.local_addr().expect("bound")
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}
