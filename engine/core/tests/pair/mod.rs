//! Two nodes joined by perfect links: every action is carried out at once and in order, unless a test holds it.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod disks;
mod serving;
mod settings;
mod slow;

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
        config::{OnPeerLoss, RunInfo, VolumeConfig},
        create,
        io::{
            Action, Area, Channel, ClientId, ClientOperation, CommandId, DiskError, DiskTag, Event, LinkId,
            Notice, RequestError, RequestId, RequestOutcome,
        },
        operator::{OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::Status,
        wire::Frame,
    },
};

#[allow(unused_imports, reason = "each test file uses a part of it")]
pub(crate) use serving::write;
pub(crate) use settings::{Fail, Held, Settings};

pub(crate) const SIZE: usize = 4 << 20;
const META: usize = 1 << 20;

/// A node: its process, if it lives, and its disk.
struct Node {
    volume: Option<Volume>,
    data: Vec<u8>,
    stable: Vec<u8>,
    meta: Vec<u8>,
    wake: Option<Timestamp>,
    /// Counts the boots of its kernel, and when the last one was.
    boots: u64,
    booted: Timestamp,
    /// Each lets the next action of its kind fail.
    failing: Vec<Fail>,
}

/// See the module's head.
pub(crate) struct Pair {
    nodes: [Node; 2],
    events: VecDeque<(usize, Event)>,
    now: Timestamp,
    link: Option<LinkId>,
    next: u64,
    replies: BTreeMap<u64, Result<RequestOutcome, RequestError>>,
    answers: BTreeMap<u64, OperatorAnswer>,
    settings: Settings,
    /// A disk was made to fail, or a peer to say what it should not.
    pub(crate) may_fail: bool,
    /// Actions of these parts of a node's disk wait in `late`.
    held: Vec<(usize, Held)>,
    late: Vec<(usize, Held, Action)>,
    /// A node to which only so many frames come yet, and those that wait.
    limited: Option<(usize, usize)>,
    /// What the state directories remember.
    pub(crate) remembered: [Remembered; 2],
    /// Every frame that came to a node on a link that is no more, if a test wants them.
    pub(crate) recorded: Option<Vec<(usize, Event)>>,
    waiting_frames: Vec<(usize, Event)>,
    /// The longest span that a disk was asked to change at once.
    pub(crate) longest_change: u64,
    /// A node that stands still, and what waits for it.
    stopped: Option<(usize, Vec<Event>)>,
    /// Bytes of data that resyncs have moved.
    pub(crate) moved_bytes: u64,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::set_up(Settings::default())
    }

    pub(crate) fn with(on_peer_loss: OnPeerLoss) -> Self {
        Self::set_up(Settings { on_peer_loss, ..Settings::default() })
    }

    pub(crate) fn set_up(settings: Settings) -> Self {
        Self::made(settings, [Origin::New; 2])
    }

    /// Two copies with these origins.
    pub(crate) fn of(origins: [Origin; 2]) -> Self {
        Self::made(Settings::default(), origins)
    }

    fn made(settings: Settings, origins: [Origin; 2]) -> Self {
        let nodes = [1, 2].map(|id| {
            let mut meta = vec![0; META];
            let geometry = Geometry::new(SIZE as u64, 4096, 64 << 10, 16).expect("valid");
            let spec = CreateSpec {
                node: NodeId(id),
                geometry,
                peers: 1,
                origin: origins[if id == 1 { 0 } else { 1 }],
            };
            for (offset, bytes) in create(&spec).expect("valid").into_iter().flatten() {
                put(&mut meta, offset, &bytes);
            }
            Node {
                volume: None,
                data: vec![0; SIZE],
                stable: vec![0; SIZE],
                meta,
                wake: None,
                boots: 1,
                booted: Timestamp(0),
                failing: vec![],
            }
        });
        let mut pair = Self {
            nodes,
            events: VecDeque::new(),
            now: Timestamp(1_000_000_000),
            link: None,
            next: 1,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            settings,
            may_fail: false,
            held: Vec::new(),
            late: Vec::new(),
            limited: None,
            remembered: [Remembered::default(); 2],
            recorded: None,
            waiting_frames: Vec::new(),
            longest_change: 0,
            stopped: None,
            moved_bytes: 0,
        };
        pair.restart(0);
        pair.restart(1);
        pair
    }

    pub(crate) fn peer(&self) -> PeerIndex {
        PeerIndex::FIRST
    }

    /// The link of now.
    pub(crate) fn link(&self) -> Option<LinkId> {
        self.link
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Starts the process of a node.
    pub(crate) fn restart(&mut self, node: usize) {
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: ["alpha", "beta"][node].to_owned(),
            peer_names: vec![["beta", "alpha"][node].to_owned()],
            size_bytes_max: 2 * SIZE as u64,
            protocol: self.settings.protocol,
            on_peer_loss: self.settings.on_peer_loss,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: self.settings.max_inflight_bytes,
            max_inflight_writes: self.settings.max_inflight_writes,
        };
        let number = u128::from(self.number());
        let run = RunInfo {
            boot: BootId(u128::from(self.nodes[node].boots) << 8 | (node as u128 + 1)),
            instance: InstanceId(number),
            boot_clock_nanos: self.now.0 - self.nodes[node].booted.0,
            entropy: number << 64 | node as u128,
        };
        let files = FileFacts {
            meta_bytes: META as u64,
            data_bytes: self.nodes[node].data.len() as u64,
            reads_media: false,
            remembered: self.remembered[node],
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
        self.late.retain(|(other, ..)| *other != node);
        self.disconnect();
    }

    /// The machine of a node loses power: what was not stable is gone.
    pub(crate) fn lose_power(&mut self, node: usize) {
        self.crash(node);
        let this = &mut self.nodes[node];
        this.data.clone_from(&this.stable);
        this.boots += 1;
        this.booted = self.now;
    }

    /// The next action of this kind on a node's disk fails.
    pub(crate) fn fail_next(&mut self, node: usize, fail: Fail) {
        self.may_fail = true;
        self.nodes[node].failing.push(fail);
    }

    fn takes_failure(&mut self, node: usize, fail: Fail) -> bool {
        let failing = &mut self.nodes[node].failing;
        failing.iter().position(|armed| *armed == fail).map(|place| failing.remove(place)).is_some()
    }

    pub(crate) fn connect(&mut self) {
        self.begin_connect();
        self.run();
    }

    /// A new link is there, and neither node has been told yet.
    pub(crate) fn begin_connect(&mut self) {
        self.disconnect();
        let link = LinkId(self.number());
        self.link = Some(link);
        for node in 0..2 {
            self.events.push_back((node, Event::LinkUp { peer: PeerIndex::FIRST, link }));
        }
    }

    /// From now on only so many frames come to a node; those behind them wait.
    pub(crate) fn limit_frames(&mut self, node: usize, frames: usize) {
        self.limited = Some((node, frames));
    }

    /// Every frame comes again, first those that wait.
    pub(crate) fn unlimit_frames(&mut self) {
        self.limited = None;
        self.events.extend(std::mem::take(&mut self.waiting_frames));
        self.run();
    }

    /// Whether a frame has to wait.
    fn waits(&mut self, node: usize, event: &Event) -> bool {
        match (&mut self.limited, event) {
            (Some((limited, left)), Event::Frame { .. }) if *limited == node => {
                let waits = *left == 0;
                *left = left.saturating_sub(1);
                waits
            }
            _ => false,
        }
    }

    pub(crate) fn disconnect(&mut self) {
        if let Some(link) = self.link.take() {
            for node in 0..2 {
                self.events.push_back((node, Event::LinkDown { peer: PeerIndex::FIRST, link }));
            }
        }
        self.run();
    }

    pub(crate) fn status(&self, node: usize) -> Status {
        self.nodes[node].volume.as_ref().expect("the node lives").status()
    }

    /// What the other node lacks between these bytes.
    pub(crate) fn dirty_map(&self, node: usize, span: ByteSpan, limit: usize) -> Vec<DirtyExtent> {
        self.nodes[node].volume.as_ref().expect("the node lives").dirty_map(span, limit)
    }

    /// Changes a disk without the engine (F40).
    pub(crate) fn change_behind(&mut self, node: usize, offset: usize, bytes: &[u8]) {
        self.nodes[node].data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The metadata of a node as they are on its disk.
    pub(crate) fn meta(&self, node: usize) -> &[u8] {
        &self.nodes[node].meta
    }

    pub(crate) fn data(&self, node: usize) -> &[u8] {
        &self.nodes[node].data
    }

    pub(crate) fn stable_data(&self, node: usize) -> &[u8] {
        &self.nodes[node].stable
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

    pub(crate) fn write(
        &mut self,
        node: usize,
        offset: u64,
        data: &[u8],
        fua: bool,
    ) -> Result<RequestOutcome, RequestError> {
        self.request(node, ClientOperation::Write { offset, payload: Bytes::copy_from_slice(data), fua })
    }

    pub(crate) fn request(
        &mut self,
        node: usize,
        operation: ClientOperation,
    ) -> Result<RequestOutcome, RequestError> {
        let id = self.begin_request(node, operation);
        self.reply(id).expect("the request was answered")
    }

    /// Asks for something whose answer may come later.
    pub(crate) fn begin_request(&mut self, node: usize, operation: ClientOperation) -> u64 {
        self.begin_request_of(1, node, operation)
    }

    /// What has come before comes again.
    pub(crate) fn deliver(&mut self, frames: Vec<(usize, Event)>) {
        self.events.extend(frames);
        self.run();
    }

    /// A copy of both files of a node, as they are on media.
    pub(crate) fn snapshot(&self, node: usize) -> (Vec<u8>, Vec<u8>) {
        (self.nodes[node].stable.clone(), self.nodes[node].meta.clone())
    }

    /// Puts a copy back; the process does not live.
    pub(crate) fn put_back(&mut self, node: usize, (data, meta): &(Vec<u8>, Vec<u8>)) {
        let this = &mut self.nodes[node];
        assert!(this.volume.is_none(), "files are put back while nobody uses them");
        (this.data, this.stable, this.meta) = (data.clone(), data.clone(), meta.clone());
    }

    /// A client of this name is gone.
    pub(crate) fn client_gone(&mut self, node: usize, client: u64) {
        self.events.push_back((node, Event::ClientGone(ClientId(client))));
        self.run();
    }

    /// The same for one of several clients.
    pub(crate) fn begin_request_of(&mut self, client: u64, node: usize, operation: ClientOperation) -> u64 {
        let id = self.number();
        let event = Event::Request { client: ClientId(client), id: RequestId(id), operation };
        self.events.push_back((node, event));
        self.run();
        id
    }

    pub(crate) fn reply(&mut self, id: u64) -> Option<Result<RequestOutcome, RequestError>> {
        self.replies.remove(&id)
    }

    /// The process of a node stands still (SIGSTOP).
    pub(crate) fn stop(&mut self, node: usize) {
        self.stopped = Some((node, Vec::new()));
    }

    /// A node is silent from now on, and its link stays open.
    pub(crate) fn freeze(&mut self, node: usize) {
        self.nodes[node].volume = None;
        self.nodes[node].wake = None;
    }

    /// It goes on, with everything that has come for it meanwhile.
    pub(crate) fn go_on(&mut self) {
        let (node, events) = self.stopped.take().expect("a node stands still");
        self.events.extend(events.into_iter().map(|event| (node, event)));
        self.run();
    }

    /// The clock goes on while nobody looks at it: no process lives.
    pub(crate) fn skip_time(&mut self, seconds: u64) {
        assert!(self.nodes.iter().all(|node| node.volume.is_none()), "a process that lives is woken");
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Lets the clock go on until nothing has happened for a while.
    pub(crate) fn pass_time(&mut self) {
        self.pass(Duration::from_secs(3));
    }

    /// Lets the clock go on, by steps of 50 ms.
    pub(crate) fn pass(&mut self, time: Duration) {
        const STEP: Duration = Duration::from_millis(50);
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(STEP);
            for node in 0..2 {
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
            let Some((node, event)) = self.events.pop_front() else { return };
            if let Some((stopped, waiting)) = &mut self.stopped
                && *stopped == node
            {
                waiting.push(event);
                continue;
            }
            if let (Some(recorded), Event::Frame { .. }) = (&mut self.recorded, &event) {
                recorded.push((node, event.clone()));
            }
            if self.waits(node, &event) {
                self.waiting_frames.push((node, event));
                continue;
            }
            let Some(volume) = &mut self.nodes[node].volume else { continue };
            let (woken, now) = (matches!(event, Event::Wake), self.now);
            let mut actions = Vec::new();
            volume.handle(now, event, &mut actions);
            let at_once = |action: &Action| matches!(action, Action::WakeAt(time) if *time <= now);
            assert!(!(woken && actions.iter().any(at_once)), "node {node} is awake, and asks to be woken");
            self.carry_out(node, actions);
        }
        panic!("the two nodes never come to rest");
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            let held = self.held.iter().find(|(of, part)| *of == node && part.takes(&action));
            if let Some((_, part)) = held {
                self.late.push((node, *part, action));
                continue;
            }
            let changed = match &action {
                Action::Write { payload, .. } => payload.len() as u64,
                Action::Zero { span, .. } => span.len,
                _ => 0,
            };
            self.longest_change = self.longest_change.max(changed);
            let failure = match &action {
                Action::Read { tag, area: Area::Data, .. } if self.takes_failure(node, Fail::Read) => {
                    Some(Event::ReadDone { tag: *tag, result: Err(DiskError::Io) })
                }
                Action::Write { tag, .. } if self.takes_failure(node, Fail::Write) => Some(failed(*tag)),
                Action::Flush { tag } if self.takes_failure(node, Fail::Flush) => Some(failed(*tag)),
                Action::Extend { tag, .. } if self.takes_failure(node, Fail::Room) => {
                    Some(Event::DiskDone { tag: *tag, result: Err(DiskError::NoSpace) })
                }
                Action::Extend { tag, .. } if self.takes_failure(node, Fail::Extend) => Some(failed(*tag)),
                Action::Commit { tag, .. } if self.takes_failure(node, Fail::Commit) => Some(failed(*tag)),
                _ => None,
            };
            if let Some(event) = failure {
                self.events.push_back((node, event));
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
                Action::Zero { tag, span, fua, .. } => {
                    let zeroes = vec![0; usize::try_from(span.len).expect("small")];
                    put(&mut disk.data, span.offset, &zeroes);
                    if fua {
                        put(&mut disk.stable, span.offset, &zeroes);
                    }
                    done(tag)
                }
                Action::Flush { tag } => {
                    disk.stable.clone_from(&disk.data);
                    done(tag)
                }
                Action::Extend { tag, data, meta } => {
                    assert!(meta.end() <= META as u64, "the metadata have room");
                    let end = usize::try_from(data.end()).expect("small");
                    for image in [&mut disk.data, &mut disk.stable] {
                        image.resize(image.len().max(end), 0xEE);
                        image[usize::try_from(data.offset).expect("small")..end].fill(0);
                    }
                    done(tag)
                }
                Action::Commit { tag, pieces } => {
                    for (offset, bytes) in pieces {
                        put(&mut disk.meta, offset, &bytes);
                    }
                    done(tag)
                }
                Action::Send { link, channel, frame, .. } => {
                    self.count_moved(channel, &frame);
                    if Some(link) != self.link {
                        continue;
                    }
                    let event = Event::Frame { peer: PeerIndex::FIRST, link, channel, frame };
                    self.events.push_back((1 - node, event));
                    continue;
                }
                Action::CloseLink { link, .. } => {
                    if Some(link) == self.link {
                        self.link = None;
                        self.events.push_back((1 - node, Event::LinkDown { peer: PeerIndex::FIRST, link }));
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
                    let failed = matches!(notice, Notice::ProtocolError(..) | Notice::DiskFailed(..));
                    assert!(
                        !(matches!(notice, Notice::NotOpened(_)) || failed && !self.may_fail),
                        "node {node}: {notice:?}"
                    );
                    continue;
                }
            };
            self.events.push_back((node, event));
        }
    }

    fn count_moved(&mut self, channel: Channel, frame: &Frame) {
        if let (Channel::Resync, Frame::Part { blocks, .. }) = (channel, frame) {
            for block in blocks {
                if let evenkeel_core::volume::wire::BlockContent::Data(data) = block {
                    self.moved_bytes += data.len() as u64;
                }
            }
        }
    }
}

fn failed(tag: DiskTag) -> Event {
    Event::DiskDone { tag, result: Err(DiskError::Io) }
}

fn put(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    image[start..start + bytes.len()].copy_from_slice(bytes);
}
