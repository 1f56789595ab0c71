//! Three nodes, each joined with each by a cable: every action is carried out at once and in order. A link that a node
//! closes is made anew, as a driver would, while the cable is there.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_core::{
    ids::{BootId, InstanceId, NodeId, PeerIndex, Timestamp},
    meta::geometry::Geometry,
    volume::{
        CreateSpec, DirtyExtent, FileFacts, Origin, Remembered, Volume,
        config::{OnPeerLoss, Protocol, RunInfo, VolumeConfig},
        create,
        io::{
            Action, Area, Channel, ClientId, ClientOperation, CommandId, Event, LinkId, Notice, RequestError,
            RequestId, RequestOutcome,
        },
        operator::{OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::{PeerStatus, Status},
        wire::{BlockContent, Frame},
    },
};

const NODES: usize = 3;
const SIZE: usize = 1 << 20;
const META: usize = 1 << 20;
const NAMES: [&str; NODES] = ["alpha", "beta", "gamma"];

/// A node: its process, if it lives, and its disk.
struct Node {
    volume: Option<Volume>,
    data: Vec<u8>,
    stable: Vec<u8>,
    meta: Vec<u8>,
    wake: Option<Timestamp>,
    /// Counts the boots of its kernel.
    boots: u64,
}

/// See the module's head.
pub(crate) struct Trio {
    nodes: [Node; NODES],
    events: VecDeque<(usize, Event)>,
    now: Timestamp,
    /// The link of each pair, if there is one, and whether there can be one.
    links: BTreeMap<(usize, usize), Option<LinkId>>,
    /// So many more events happen.
    budget: usize,
    /// Writes from the first to the second do not arrive.
    stuck: Vec<(usize, usize)>,
    /// Commits of this node wait in `late`, until a test releases them.
    slow: Option<usize>,
    late: VecDeque<Action>,
    next: u64,
    on_peer_loss: OnPeerLoss,
    replies: BTreeMap<u64, Result<RequestOutcome, RequestError>>,
    answers: BTreeMap<u64, OperatorAnswer>,
    /// Bytes of data that resyncs have moved.
    pub(crate) moved_bytes: u64,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

/// By which index `node` knows `other`.
fn index(node: usize, other: usize) -> PeerIndex {
    PeerIndex::new(if other < node { other } else { other - 1 }).expect("there are two")
}

fn other(node: usize, peer: PeerIndex) -> usize {
    if peer.as_usize() < node { peer.as_usize() } else { peer.as_usize() + 1 }
}

impl Trio {
    /// Three new disks, three processes, all cables.
    pub(crate) fn new() -> Self {
        Self::with(OnPeerLoss::Continue)
    }

    pub(crate) fn with(on_peer_loss: OnPeerLoss) -> Self {
        let nodes = [1, 2, 3].map(|id| {
            let mut meta = vec![0; META];
            let geometry = Geometry::new(SIZE as u64, 4096, 64 << 10, 16).expect("valid");
            let spec = CreateSpec { node: NodeId(id), geometry, peers: NODES - 1, origin: Origin::New };
            for (offset, bytes) in create(&spec).expect("valid").into_iter().flatten() {
                put(&mut meta, offset, &bytes);
            }
            Node { volume: None, data: vec![0; SIZE], stable: vec![0; SIZE], meta, wake: None, boots: 1 }
        });
        let mut trio = Self {
            nodes,
            events: VecDeque::new(),
            now: Timestamp(1_000_000_000),
            links: [(0, 1), (0, 2), (1, 2)].map(|pair| (pair, None)).into(),
            budget: usize::MAX,
            stuck: Vec::new(),
            slow: None,
            late: VecDeque::new(),
            next: 1,
            on_peer_loss,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            moved_bytes: 0,
        };
        for node in 0..NODES {
            trio.restart(node);
        }
        trio.pass_time();
        trio
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Starts the process of a node.
    pub(crate) fn restart(&mut self, node: usize) {
        let peers = (0..NODES).filter(|other| *other != node);
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: NAMES[node].to_owned(),
            peer_names: peers.map(|peer| NAMES[peer].to_owned()).collect(),
            size_bytes_max: 2 * SIZE as u64,
            protocol: Protocol::C,
            on_peer_loss: self.on_peer_loss,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: 64 << 20,
            max_inflight_writes: 1024,
        };
        let number = u128::from(self.number());
        let run = RunInfo {
            boot: BootId(u128::from(self.nodes[node].boots) << 8 | (node as u128 + 1)),
            instance: InstanceId(number),
            boot_clock_nanos: self.now.0,
            entropy: number << 64 | node as u128,
        };
        let files = FileFacts {
            meta_bytes: META as u64,
            data_bytes: self.nodes[node].data.len() as u64,
            reads_media: false,
            remembered: Remembered::default(),
        };
        let mut actions = Vec::new();
        self.nodes[node].wake = None;
        self.nodes[node].volume = Some(Volume::attach(config, run, files, self.now, &mut actions));
        self.carry_out(node, actions);
        self.run();
    }

    /// The process of a node dies; the kernel keeps its cache.
    pub(crate) fn crash(&mut self, node: usize) {
        self.nodes[node].volume = None;
        self.events.retain(|(other, _)| *other != node);
        for peer in (0..NODES).filter(|peer| *peer != node) {
            self.drop_link(node, peer);
        }
        self.run();
    }

    /// The machine of a node loses power: what was not stable is gone.
    pub(crate) fn lose_power(&mut self, node: usize) {
        self.crash(node);
        let this = &mut self.nodes[node];
        this.data.clone_from(&this.stable);
        this.boots += 1;
    }

    /// The files of a node as they are now.
    pub(crate) fn snapshot(&self, node: usize) -> (Vec<u8>, Vec<u8>) {
        (self.nodes[node].stable.clone(), self.nodes[node].meta.clone())
    }

    /// Puts them back; the process does not live.
    pub(crate) fn put_back(&mut self, node: usize, (data, meta): &(Vec<u8>, Vec<u8>)) {
        let this = &mut self.nodes[node];
        assert!(this.volume.is_none(), "files are put back while nobody uses them");
        (this.data, this.stable, this.meta) = (data.clone(), data.clone(), meta.clone());
    }

    /// Pulls a cable.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        self.drop_link(one, other);
        self.links.remove(&pair(one, other));
        self.run();
    }

    /// Puts it back.
    pub(crate) fn join(&mut self, one: usize, other: usize) {
        self.links.entry(pair(one, other)).or_default();
        self.pass_time();
    }

    /// Only so many more events happen, until [`Trio::go_on`].
    pub(crate) fn stop_after(&mut self, events: usize) {
        self.budget = events;
    }

    /// Everything happens again; returns whether something was waiting.
    pub(crate) fn go_on(&mut self) -> bool {
        self.budget = usize::MAX;
        let waited = !self.events.is_empty();
        self.run();
        waited
    }

    /// From now on, or no longer, writes from one node to another are lost on the way, unnoticed.
    pub(crate) fn stick(&mut self, from: usize, to: usize, stuck: bool) {
        self.stuck.retain(|pair| *pair != (from, to));
        if stuck {
            self.stuck.push((from, to));
        }
    }

    /// From now on commits of a node wait.
    pub(crate) fn hold_commits(&mut self, node: usize) {
        self.slow = Some(node);
    }

    /// The commit that waits is made; returns whether there was one.
    pub(crate) fn release_commit(&mut self) -> bool {
        let node = self.slow.take().expect("a node's commits wait");
        let waited = self.late.pop_front();
        let released = waited.is_some();
        self.carry_out(node, waited.into_iter().collect());
        self.slow = Some(node);
        self.run();
        released
    }

    /// Commits wait no longer.
    pub(crate) fn release_commits(&mut self) {
        while self.release_commit() {}
        self.slow = None;
    }

    fn drop_link(&mut self, one: usize, other: usize) {
        if let Some(link) = self.links.get_mut(&pair(one, other)).and_then(Option::take) {
            self.events.push_back((one, Event::LinkDown { peer: index(one, other), link }));
            self.events.push_back((other, Event::LinkDown { peer: index(other, one), link }));
        }
    }

    /// Links where there is a cable, two processes, and none yet.
    fn dial(&mut self) {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let alive = self.nodes[one].volume.is_some() && self.nodes[other].volume.is_some();
            if alive && self.links.get(&(one, other)) == Some(&None) {
                let link = LinkId(self.number());
                self.links.insert((one, other), Some(link));
                self.events.push_back((one, Event::LinkUp { peer: index(one, other), link }));
                self.events.push_back((other, Event::LinkUp { peer: index(other, one), link }));
            }
        }
    }

    pub(crate) fn status(&self, node: usize) -> Status {
        self.nodes[node].volume.as_ref().expect("the node lives").status()
    }

    /// What `node` says of another.
    pub(crate) fn of(&self, node: usize, other: usize) -> PeerStatus {
        self.status(node).peers[index(node, other).as_usize()].clone()
    }

    /// What others lack between these bytes, as `node` knows.
    pub(crate) fn dirty_map(&self, node: usize, span: ByteSpan, limit: usize) -> Vec<DirtyExtent> {
        self.nodes[node].volume.as_ref().expect("the node lives").dirty_map(span, limit)
    }

    pub(crate) fn data(&self, node: usize) -> &[u8] {
        &self.nodes[node].data
    }

    pub(crate) fn command(&mut self, node: usize, command: OperatorCommand) -> OperatorAnswer {
        let id = self.begin_command(node, command);
        self.answer(id).expect("the command was answered")
    }

    /// Gives a command whose answer may come later.
    pub(crate) fn begin_command(&mut self, node: usize, command: OperatorCommand) -> u64 {
        let id = self.number();
        self.events.push_back((node, Event::Command { id: CommandId(id), command }));
        self.run();
        id
    }

    pub(crate) fn answer(&mut self, id: u64) -> Option<OperatorAnswer> {
        self.answers.remove(&id)
    }

    /// Writes; nothing when there is no answer yet.
    pub(crate) fn write(
        &mut self,
        node: usize,
        offset: u64,
        data: &[u8],
    ) -> Option<Result<RequestOutcome, RequestError>> {
        let payload = Bytes::copy_from_slice(data);
        self.request(node, ClientOperation::Write { offset, payload, fua: false })
    }

    pub(crate) fn request(
        &mut self,
        node: usize,
        operation: ClientOperation,
    ) -> Option<Result<RequestOutcome, RequestError>> {
        let id = self.number();
        let event = Event::Request { client: ClientId(1), id: RequestId(id), operation };
        self.events.push_back((node, event));
        self.run();
        self.replies.remove(&id)
    }

    /// Three seconds, in which links are made.
    pub(crate) fn pass_time(&mut self) {
        for _ in 0..30 {
            self.now = self.now.after(Duration::from_millis(100));
            self.dial();
            for node in 0..NODES {
                if self.nodes[node].wake.is_some_and(|wake| wake <= self.now) {
                    self.nodes[node].wake = None;
                    self.events.push_back((node, Event::Wake));
                }
            }
            self.run();
        }
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            if self.budget == 0 {
                return;
            }
            let Some((node, event)) = self.events.pop_front() else { return };
            self.budget -= 1;
            let Some(volume) = &mut self.nodes[node].volume else { continue };
            let mut actions = Vec::new();
            volume.handle(self.now, event, &mut actions);
            self.carry_out(node, actions);
        }
        panic!("the three nodes never come to rest");
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            if self.slow == Some(node) && matches!(action, Action::Commit { .. }) {
                self.late.push_back(action);
                continue;
            }
            let disk = &mut self.nodes[node];
            let done = |tag| Event::DiskDone { tag, result: Ok(()) };
            let event = match action {
                Action::Read { tag, area, span } => {
                    let from = match area {
                        Area::Data => &disk.data,
                        Area::Meta => &disk.meta,
                    };
                    let start = usize::try_from(span.offset).expect("small");
                    let end = usize::try_from(span.end()).expect("small");
                    Event::ReadDone { tag, result: Ok(Bytes::copy_from_slice(&from[start..end])) }
                }
                Action::Write { tag, offset, payload, fua } => {
                    put(&mut disk.data, offset, &payload);
                    if fua {
                        put(&mut disk.stable, offset, &payload);
                    }
                    done(tag)
                }
                Action::Zero { tag, span, .. } => {
                    let zeroes = vec![0; usize::try_from(span.len).expect("small")];
                    put(&mut disk.data, span.offset, &zeroes);
                    done(tag)
                }
                Action::Extend { tag, data, .. } => {
                    let end = usize::try_from(data.end()).expect("small");
                    for image in [&mut disk.data, &mut disk.stable] {
                        image.resize(image.len().max(end), 0);
                    }
                    done(tag)
                }
                Action::Flush { tag } => {
                    disk.stable.clone_from(&disk.data);
                    done(tag)
                }
                Action::Commit { tag, pieces } => {
                    for (offset, bytes) in pieces {
                        put(&mut disk.meta, offset, &bytes);
                    }
                    done(tag)
                }
                Action::Send { peer, link, channel, frame } => {
                    self.send(node, other(node, peer), link, channel, frame);
                    continue;
                }
                Action::CloseLink { peer, link, .. } => {
                    let to = other(node, peer);
                    if self.links.get(&pair(node, to)) == Some(&Some(link)) {
                        self.links.insert(pair(node, to), None);
                        self.events.push_back((to, Event::LinkDown { peer: index(to, node), link }));
                    }
                    continue;
                }
                Action::Reply { id, result, .. } => {
                    assert!(self.replies.insert(id.0, result).is_none(), "one answer to a request");
                    continue;
                }
                Action::WakeAt(time) => {
                    disk.wake = Some(time);
                    continue;
                }
                Action::Answer { id, answer } => {
                    assert!(self.answers.insert(id.0, answer).is_none(), "one answer to a command");
                    continue;
                }
                Action::Notice(notice) => {
                    let bad = matches!(notice, Notice::NotOpened(_) | Notice::DiskFailed(..));
                    assert!(!bad, "node {node}: {notice:?}");
                    continue;
                }
            };
            self.events.push_back((node, event));
        }
    }

    fn send(&mut self, from: usize, to: usize, link: LinkId, channel: Channel, frame: Frame) {
        if let (Channel::Resync, Frame::Part { blocks, .. }) = (channel, &frame) {
            let data = blocks.iter().map(|block| match block {
                BlockContent::Data(data) => data.len() as u64,
                BlockContent::Same | BlockContent::Zero => 0,
            });
            self.moved_bytes += data.sum::<u64>();
        }
        let arrives = self.links.get(&pair(from, to)) == Some(&Some(link));
        if arrives && !(channel == Channel::Data && self.stuck.contains(&(from, to))) {
            self.events.push_back((to, Event::Frame { peer: index(to, from), link, channel, frame }));
        }
    }
}

fn put(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    image[start..start + bytes.len()].copy_from_slice(bytes);
}
