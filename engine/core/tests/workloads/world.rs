//! Nodes, their disks and the channels between them. What may happen next is a choice of the explorer: each disk
//! action that is under way may end, and the first frame of each channel may arrive.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_core::{
    ids::{BootId, InstanceId, NodeId, PeerIndex, Timestamp},
    meta::geometry::Geometry,
    volume::{
        CreateSpec, FileFacts, Origin, Remembered, Replication, Role, Volume,
        config::{OnPeerLoss, Protocol, RunInfo, VolumeConfig},
        create,
        io::{
            Action, Channel, ClientId, ClientOperation, CommandId, Event, LinkId, Notice, RequestError,
            RequestId, RequestOutcome,
        },
        operator::{OperatorAnswer, OperatorCommand},
        status::Status,
        wire::Frame,
    },
};

use crate::disk::{Crash, Disk, META, SIZE, Sort};

/// What a request got.
pub(crate) type Reply = Result<RequestOutcome, RequestError>;

const NAMES: [&str; 2] = ["alpha", "beta"];
const CHANNELS: [Channel; 3] = [Channel::Control, Channel::Data, Channel::Resync];

/// After this time a link is tried again.
const REDIAL: Duration = Duration::from_millis(400);

/// Which of the things that can happen comes last of all, for as long as anything else can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Everything in the order in which it was begun.
    Nothing,
    /// What was begun last comes first.
    Older,
    /// The ends of these actions of a node's disk; the newest of them first.
    Disk(usize, Sort),
    /// The frames that come to a node on a channel.
    Frames(usize, Channel),
}

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Clients, operators and links come first.
    Input,
    Disk {
        node: usize,
        at: usize,
    },
    Frame {
        to: usize,
        channel: usize,
    },
}

/// A node: its process, if it lives, and its disk.
#[derive(Clone)]
struct Node {
    volume: Option<Volume>,
    disk: Disk,
    wake: Option<Timestamp>,
    boots: u64,
    booted: Timestamp,
}

/// See the module's head.
#[derive(Clone)]
pub(crate) struct World {
    nodes: Vec<Node>,
    protocol: Protocol,
    inputs: VecDeque<(usize, Event)>,
    /// By receiver and channel: when it was sent, on which link, and what.
    frames: [[VecDeque<(u64, LinkId, Frame)>; 3]; 2],
    link: Option<LinkId>,
    /// Whether links are made when there is none.
    pub(crate) wants_link: bool,
    now: Timestamp,
    stamp: u64,
    next: u64,
    pub(crate) replies: BTreeMap<u64, Reply>,
    answers: BTreeMap<u64, OperatorAnswer>,
    /// What must never happen and did.
    pub(crate) broken: Option<String>,
}

impl World {
    /// New nodes, started and not connected.
    pub(crate) fn new(nodes: usize, protocol: Protocol) -> Self {
        let geometry = Geometry::new(SIZE, 4096, 64 << 10, 16).expect("valid");
        let fresh = |node: usize| {
            let spec =
                CreateSpec { node: NodeId(node as u64 + 1), geometry, peers: nodes - 1, origin: Origin::New };
            let disk = Disk::new(create(&spec).expect("valid").into_iter().flatten());
            Node { volume: None, disk, wake: None, boots: 1, booted: Timestamp(0) }
        };
        let mut world = Self {
            nodes: (0..nodes).map(fresh).collect(),
            protocol,
            inputs: VecDeque::new(),
            frames: Default::default(),
            link: None,
            wants_link: false,
            now: Timestamp(1_000_000_000),
            stamp: 0,
            next: 1000,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            broken: None,
        };
        for node in 0..nodes {
            world.start(node);
        }
        world.run(Late::Nothing);
        world
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Starts the process of a node.
    pub(crate) fn start(&mut self, node: usize) {
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: NAMES[node].to_owned(),
            peer_names: (0..self.nodes.len())
                .filter(|&peer| peer != node)
                .map(|peer| NAMES[peer].to_owned())
                .collect(),
            size_bytes_max: SIZE,
            protocol: self.protocol,
            on_peer_loss: OnPeerLoss::Continue,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: 64 << 20,
            max_inflight_writes: 1024,
        };
        let number = u128::from(self.number());
        let boots = self.nodes[node].boots;
        let run = RunInfo {
            boot: BootId(u128::from(boots) << 8 | (node as u128 + 1)),
            instance: InstanceId(number),
            boot_clock_nanos: self.now.0 - self.nodes[node].booted.0,
            entropy: number << 64 | node as u128,
        };
        let remembered = Remembered::default();
        let files = FileFacts { meta_bytes: META, data_bytes: SIZE, reads_media: false, remembered };
        let mut actions = Vec::new();
        self.nodes[node].wake = None;
        self.nodes[node].volume = Some(Volume::attach(config, run, files, self.now, &mut actions));
        self.carry_out(node, actions);
    }

    /// Every world in which this node has crashed now; what it had sent and did not arrive is gone.
    pub(crate) fn crash(&self, node: usize, crash: Crash) -> Vec<Self> {
        let mut dead = self.clone();
        dead.kill(node);
        let disks = self.nodes[node].disk.crashed(crash);
        if crash == Crash::Power {
            dead.nodes[node].boots += 1;
            dead.nodes[node].booted = self.now;
        }
        disks
            .into_iter()
            .map(|disk| {
                let mut world = dead.clone();
                world.nodes[node].disk = disk;
                world
            })
            .collect()
    }

    /// The process of a node is no more; its disk is as it was.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].volume = None;
        self.nodes[node].disk.under_way.clear();
        self.inputs.retain(|(other, _)| *other != node);
        self.cut();
    }

    /// The cable is pulled: what is on the way is gone.
    pub(crate) fn cut(&mut self) {
        self.frames = Default::default();
        self.inputs.retain(|(_, event)| !matches!(event, Event::LinkDown { .. }));
        if let Some(link) = self.link.take() {
            for node in 0..self.nodes.len() {
                self.inputs.push_back((node, Event::LinkDown { peer: PeerIndex::FIRST, link }));
            }
        }
    }

    /// A link, if there is none and both nodes live.
    pub(crate) fn connect(&mut self) {
        if self.link.is_none() && self.nodes.len() == 2 && self.nodes.iter().all(|node| node.volume.is_some())
        {
            let link = LinkId(self.number());
            self.link = Some(link);
            for node in 0..2 {
                self.inputs.push_back((node, Event::LinkUp { peer: PeerIndex::FIRST, link }));
            }
        }
    }

    pub(crate) fn status(&self, node: usize) -> Status {
        self.nodes[node].volume.as_ref().expect("the node lives").status()
    }

    pub(crate) fn disk(&self, node: usize) -> &Disk {
        &self.nodes[node].disk
    }

    /// The disk of a node becomes that of the same node in another world.
    pub(crate) fn take_disk(&mut self, node: usize, from: &Self) {
        self.nodes[node].disk = from.nodes[node].disk.clone();
        self.nodes[node].boots = from.nodes[node].boots;
        self.nodes[node].booted = from.nodes[node].booted;
    }

    /// Changes a block of a disk behind the engine.
    pub(crate) fn spoil(&mut self, node: usize, block: usize) {
        self.nodes[node].disk.cache[block] = 77;
    }

    /// A client asks; the answer is in `replies`.
    pub(crate) fn ask(&mut self, node: usize, id: u64, operation: ClientOperation) {
        let event = Event::Request { client: ClientId(1), id: RequestId(id), operation };
        self.inputs.push_back((node, event));
    }

    /// Begins a command of the operator; see [`World::answer`].
    pub(crate) fn begin(&mut self, node: usize, command: OperatorCommand) -> u64 {
        let id = self.number();
        self.inputs.push_back((node, Event::Command { id: CommandId(id), command }));
        id
    }

    pub(crate) fn answer(&self, id: u64) -> Option<&OperatorAnswer> {
        self.answers.get(&id)
    }

    /// A command whose answer may take a while.
    pub(crate) fn command(&mut self, node: usize, command: OperatorCommand) -> Option<OperatorAnswer> {
        let id = self.begin(node, command);
        self.run(Late::Nothing);
        if !self.answers.contains_key(&id) {
            self.pass(1);
        }
        self.answers.remove(&id)
    }

    /// What comes next in this order; `None` at rest.
    pub(crate) fn next(&self, late: Late) -> Option<Move> {
        if !self.inputs.is_empty() {
            return Some(Move::Input);
        }
        let mut best: Option<((bool, u64), Move)> = None;
        let mut consider = |is_late: bool, stamp: u64, newest_first: bool, it: Move| {
            let rank = (is_late, if newest_first { u64::MAX - stamp } else { stamp });
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, it));
            }
        };
        for (node, state) in self.nodes.iter().enumerate() {
            for (at, action) in state.disk.under_way.iter().enumerate() {
                let is_late = late == Late::Disk(node, action.sort());
                let newest_first = is_late || late == Late::Older;
                consider(is_late, action.stamp, newest_first, Move::Disk { node, at });
            }
            for (channel, name) in CHANNELS.into_iter().enumerate() {
                if let Some((stamp, ..)) = self.frames[node][channel].front() {
                    let is_late = late == Late::Frames(node, name);
                    consider(is_late, *stamp, late == Late::Older, Move::Frame { to: node, channel });
                }
            }
        }
        best.map(|(_, it)| it)
    }

    /// Lets it happen; returns the node that it happened to.
    pub(crate) fn step(&mut self, next: Move) -> usize {
        let (node, event) = match next {
            Move::Input => self.inputs.pop_front().expect("there is one"),
            Move::Disk { node, at } => (node, self.nodes[node].disk.finish(at)),
            Move::Frame { to, channel } => {
                let (_, link, frame) = self.frames[to][channel].pop_front().expect("there is one");
                (to, Event::Frame { peer: PeerIndex::FIRST, link, channel: CHANNELS[channel], frame })
            }
        };
        if let Some(volume) = &mut self.nodes[node].volume {
            let mut actions = Vec::new();
            volume.handle(self.now, event, &mut actions);
            self.carry_out(node, actions);
        }
        node
    }

    /// Until nothing is on the way any more.
    pub(crate) fn run(&mut self, late: Late) {
        for _ in 0..20_000 {
            let Some(next) = self.next(late) else { return };
            self.step(next);
        }
        self.broken.get_or_insert("the nodes never come to rest".to_owned());
    }

    /// So many seconds, with every timer, and links made anew while both nodes live.
    pub(crate) fn pass(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        loop {
            self.run(Late::Nothing);
            if self.wants_link {
                self.connect();
                self.run(Late::Nothing);
            }
            let again = (self.wants_link && self.link.is_none()).then(|| self.now.after(REDIAL));
            let wakes = self.nodes.iter().filter_map(|node| node.volume.as_ref().and(node.wake));
            let Some(due) = wakes.chain(again).min().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for node in 0..self.nodes.len() {
                if self.nodes[node].wake.is_some_and(|wake| wake <= self.now) {
                    self.nodes[node].wake = None;
                    self.inputs.push_back((node, Event::Wake));
                }
            }
        }
        self.now = end;
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            self.stamp += 1;
            let Some(action) = self.nodes[node].disk.begin(self.stamp, action) else { continue };
            match action {
                Action::Send { link, channel, frame, .. } => {
                    if Some(link) == self.link {
                        let channel =
                            CHANNELS.iter().position(|&name| name == channel).expect("all are named");
                        self.frames[1 - node][channel].push_back((self.stamp, link, frame));
                    }
                }
                Action::CloseLink { link, .. } => self.close(node, link),
                Action::Reply { id, result, .. } => {
                    if self.replies.insert(id.0, result).is_some() {
                        self.broken.get_or_insert(format!("request {} was answered twice", id.0));
                    }
                }
                Action::WakeAt(time) => self.nodes[node].wake = Some(time),
                Action::Answer { id, answer } => {
                    self.answers.insert(id.0, answer);
                }
                Action::Notice(notice) => {
                    let bad = matches!(
                        notice,
                        Notice::NotOpened(_)
                            | Notice::DiskFailed(..)
                            | Notice::ProtocolError(..)
                            | Notice::SetBack { .. }
                    );
                    if bad {
                        self.broken.get_or_insert(format!("{}: {notice:?}", NAMES[node]));
                    }
                }
                Action::Read { .. }
                | Action::Extend { .. }
                | Action::Write { .. }
                | Action::Zero { .. }
                | Action::Flush { .. }
                | Action::Commit { .. } => panic!("the disk takes these"),
            }
        }
    }

    /// A node closes a link: what it has sent still arrives, then the other one learns it.
    fn close(&mut self, node: usize, link: LinkId) {
        if Some(link) != self.link {
            return;
        }
        self.link = None;
        let other = 1 - node;
        for channel in &mut self.frames[node] {
            channel.clear();
        }
        for (channel, name) in CHANNELS.into_iter().enumerate() {
            for (_, link, frame) in std::mem::take(&mut self.frames[other][channel]) {
                self.inputs
                    .push_back((other, Event::Frame { peer: PeerIndex::FIRST, link, channel: name, frame }));
            }
        }
        self.inputs.push_back((other, Event::LinkDown { peer: PeerIndex::FIRST, link }));
    }

    /// Whether everything is as it should be: one primary that serves, all copies UpToDate, nothing left to copy.
    pub(crate) fn is_well(&self) -> bool {
        let states: Vec<Status> = (0..self.nodes.len()).map(|node| self.status(node)).collect();
        let serves =
            states.iter().filter(|state| state.role == Role::Primary && state.suspended.is_none()).count();
        serves == 1
            && states.iter().all(|state| {
                state.disk == evenkeel_core::volume::DiskState::UpToDate
                    && state
                        .peers
                        .iter()
                        .all(|peer| peer.replication == Replication::Established && peer.dirty_bytes == 0)
            })
    }

    /// What the nodes say of themselves, for the report of a failure.
    pub(crate) fn told(&self) -> String {
        let mut text = String::new();
        for (node, state) in self.nodes.iter().enumerate() {
            let (disk, name) = (&state.disk, NAMES[node]);
            match &state.volume {
                Some(volume) => {
                    let Status { role, disk: copy, head, suspended, entitled, peers, .. } = volume.status();
                    let peer = peers.first().map(|peer| (peer.replication, peer.dirty_bytes));
                    text += &format!(
                        "\n  {name}: {role:?} {copy:?} suspended {suspended:?} entitled {entitled} peer {peer:?} \
                         head {head:?}"
                    );
                }
                None => text += &format!("\n  {name}: dead"),
            }
            text += &format!("\n    cache {:?} stable {:?}", disk.cache, disk.stable);
        }
        text
    }

    /// The bytes of one block.
    pub(crate) fn payload(name: u8) -> Bytes {
        static BLOCKS: std::sync::OnceLock<Vec<Bytes>> = std::sync::OnceLock::new();
        let blocks = BLOCKS.get_or_init(|| (0..=u8::MAX).map(|name| vec![name; 4096].into()).collect());
        blocks[usize::from(name)].clone()
    }
}
