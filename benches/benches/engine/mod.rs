//! Volumes in memory whose disks and links answer at once: what is left is the cost of the engine itself.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use evenkeel_core::{
    ids::{BootId, InstanceId, NodeId, PeerIndex, Timestamp},
    meta::geometry::Geometry,
    volume::{
        CreateSpec, FileFacts, Origin, Remembered, Replication, Role, Volume,
        config::{OnPeerLoss, Protocol, RunInfo, VolumeConfig},
        create,
        io::{Action, Area, ClientId, ClientOperation, CommandId, DiskTag, Event, LinkId, RequestId},
        operator::{Force, OperatorCommand},
    },
};

/// Size of the volume: 256 activity log extents.
pub(crate) const SIZE: u64 = 1 << 30;
/// Size of a write.
pub(crate) const BLOCK: u64 = 4096;
const LINK: LinkId = LinkId(1);

struct Node {
    volume: Volume,
    meta: Vec<u8>,
}

/// One or two nodes, the first one primary, the second one in sync with it.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    now: Timestamp,
    pending: VecDeque<(usize, Event)>,
    actions: Vec<Action>,
    replies: u64,
}

impl Cluster {
    /// Opens new volumes and makes the first node primary.
    pub(crate) fn new(nodes: usize, protocol: Protocol) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            now: Timestamp(1),
            pending: VecDeque::new(),
            actions: Vec::new(),
            replies: 0,
        };
        for node in 0..nodes {
            cluster.open(node, nodes, protocol);
        }
        if nodes == 2 {
            for node in 0..2 {
                cluster.pending.push_back((node, Event::LinkUp { peer: PeerIndex::FIRST, link: LINK }));
            }
            cluster.settle();
        }
        let command = OperatorCommand::Primary(Force::No);
        cluster.pending.push_back((0, Event::Command { id: CommandId(1), command }));
        cluster.settle();
        let status = cluster.nodes[0].volume.status();
        assert_eq!(status.role, Role::Primary);
        assert!(status.peers.iter().all(|peer| peer.replication == Replication::Established));
        cluster
    }

    fn open(&mut self, node: usize, nodes: usize, protocol: Protocol) {
        let geometry = Geometry::new(SIZE, 4096, 4 << 20, 4096).expect("valid");
        let id = NodeId(node as u64 + 1);
        let spec = CreateSpec { node: id, geometry, peers: nodes - 1, origin: Origin::New };
        let mut meta = Vec::new();
        for (offset, bytes) in create(&spec).expect("valid").into_iter().flatten() {
            put(&mut meta, offset, &bytes);
        }
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: format!("node{node}"),
            peer_names: vec!["peer".to_owned(); nodes - 1],
            size_bytes_max: SIZE,
            protocol,
            on_peer_loss: OnPeerLoss::Continue,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: 64 << 20,
            max_inflight_writes: 2048,
        };
        let run = RunInfo {
            boot: BootId(1),
            instance: InstanceId(node as u128 + 1),
            boot_clock_nanos: 0,
            entropy: node as u128 + 7,
        };
        let files = FileFacts {
            meta_bytes: meta.len() as u64,
            data_bytes: SIZE,
            reads_media: false,
            remembered: Remembered::default(),
        };
        let volume = Volume::attach(config, run, files, self.now, &mut self.actions);
        self.nodes.push(Node { volume, meta });
        self.carry_out(node);
        self.settle();
    }

    /// Asks for so many writes at once, flushes if wanted, and lets everything end. Returns the replies.
    pub(crate) fn burst(&mut self, first: u64, depth: u64, payload: &Bytes, flush: bool) -> u64 {
        let before = self.replies;
        for at in first..first + depth {
            let operation =
                ClientOperation::Write { offset: at * BLOCK % SIZE, payload: payload.clone(), fua: false };
            self.request(at, operation);
        }
        self.settle();
        if flush {
            self.request(first, ClientOperation::Flush);
            self.settle();
        }
        self.replies - before
    }

    fn request(&mut self, id: u64, operation: ClientOperation) {
        let event = Event::Request { client: ClientId(1), id: RequestId(id), operation };
        self.handle(0, event);
    }

    fn handle(&mut self, node: usize, event: Event) {
        self.nodes[node].volume.handle(self.now, event, &mut self.actions);
        self.carry_out(node);
    }

    fn settle(&mut self) {
        while let Some((node, event)) = self.pending.pop_front() {
            self.handle(node, event);
        }
    }

    fn carry_out(&mut self, node: usize) {
        let done = |tag: DiskTag| Event::DiskDone { tag, result: Ok(()) };
        for action in self.actions.drain(..) {
            let event = match action {
                Action::Read { tag, area, span } => {
                    assert_eq!(area, Area::Meta, "nothing reads data here");
                    let at = usize::try_from(span.offset).expect("small");
                    let end = usize::try_from(span.end()).expect("small");
                    let bytes = Bytes::copy_from_slice(&self.nodes[node].meta[at..end]);
                    (node, Event::ReadDone { tag, result: Ok(bytes) })
                }
                Action::Write { tag, .. }
                | Action::Zero { tag, .. }
                | Action::Flush { tag }
                | Action::Extend { tag, .. } => (node, done(tag)),
                Action::Commit { tag, pieces } => {
                    for (offset, bytes) in pieces {
                        put(&mut self.nodes[node].meta, offset, &bytes);
                    }
                    (node, done(tag))
                }
                Action::Send { link, channel, frame, .. } => {
                    (1 - node, Event::Frame { peer: PeerIndex::FIRST, link, channel, frame })
                }
                Action::Reply { result, .. } => {
                    result.expect("nothing fails here");
                    self.replies += 1;
                    continue;
                }
                Action::WakeAt(_) | Action::Notice(_) | Action::Answer { .. } => continue,
                Action::CloseLink { reason, .. } => panic!("the link is closed: {reason}"),
            };
            self.pending.push_back(event);
        }
    }
}

fn put(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    image.resize(image.len().max(start + bytes.len()), 0);
    image[start..start + bytes.len()].copy_from_slice(bytes);
}
