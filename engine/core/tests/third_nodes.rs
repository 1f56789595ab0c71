//! What the nodes of a volume keep for each other while one of them is away: bits for third nodes, extents of
//! the activity log, and heads that were offered and not confirmed (G1, G9, D8, D10).

mod pair;
mod trio;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_core::{
    ids::{BootId, InstanceId, NodeId, PeerIndex, Timestamp},
    meta::geometry::Geometry,
    volume::{
        CreateSpec, DirtyExtent, FileFacts, Origin, Remembered, Replication, Role, Volume,
        config::{OnPeerLoss, Protocol, RunInfo, VolumeConfig},
        create,
        io::{
            Action, Area, Channel, ClientId, ClientOperation, CommandId, Event, LinkId, RequestError,
            RequestId, RequestOutcome, ZeroMode,
        },
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::Suspended,
    },
};
use pair::{Held, Pair, Settings};
use trio::Trio;

const DONE: Option<Result<RequestOutcome, RequestError>> = Some(Ok(RequestOutcome::Done));

/// Node 0 is primary, all three are in sync.
fn formed() -> Trio {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio
}

/// Node 0 is primary; the first four blocks are sevens on all three, stable; then gamma is cut off, then beta.
fn parted() -> Trio {
    let mut trio = formed();
    assert_eq!(trio.write(0, 0, &[7; 16384]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    for (one, other) in [(0, 2), (1, 2), (0, 1)] {
        trio.cut(one, other);
    }
    trio.pass_time();
    trio
}

/// Beta has caught up with alpha, which is lost before gamma is back.
fn gamma_comes_back_to_beta(trio: &mut Trio) {
    trio.join(0, 1);
    trio.pass_time();
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert!(trio.data(0) == trio.data(1), "beta has caught up");
    assert!(trio.of(1, 2).dirty_bytes > 0, "beta knows what gamma lacks");
    trio.crash(0);
    trio.join(1, 2);
    trio.pass_time();
    assert!(trio.data(1) == trio.data(2), "gamma has it from beta");
    let compared = trio.status(2).last_resync.expect("it had to be copied").compared_bytes;
    assert!(compared <= 128 << 10, "{compared} bytes: not by bitmap");
}

#[test]
fn g9_what_a_resync_changes_is_marked_for_a_node_that_is_away() {
    let mut trio = parted();
    assert_eq!(trio.write(0, 4096, &[9; 4096]), DONE);
    gamma_comes_back_to_beta(&mut trio);
    assert_eq!(trio.data(2)[4096..8192], [9; 4096]);
}

#[test]
fn g9_what_a_resync_zeroes_is_marked_for_a_node_that_is_away() {
    let mut trio = parted();
    let zero = ClientOperation::Zero {
        span: ByteSpan { offset: 4096, len: 4096 },
        mode: ZeroMode::Punch,
        fua: false,
    };
    assert_eq!(trio.request(0, zero), DONE);
    gamma_comes_back_to_beta(&mut trio);
    assert_eq!(trio.data(2)[4096..8192], [0; 4096]);
}

/// Beta's process dies at each event of its resync. The next one finds the block as it should be: no change.
#[test]
fn g9_bits_for_third_nodes_are_stable_before_a_resync_changes_blocks() {
    for events in 0.. {
        let mut trio = parted();
        assert_eq!(trio.write(0, 1 << 17, &[9; 4096]), DONE, "in an extent that beta has never used");
        trio.stop_after(events);
        trio.join(0, 1);
        let went_through =
            trio.data(1)[1 << 17] == 9 && trio.of(0, 1).replication == Replication::Established;
        trio.crash(1);
        trio.go_on();
        trio.restart(1);
        trio.pass_time();
        gamma_comes_back_to_beta(&mut trio);
        if went_through {
            break;
        }
        assert!(events < 300, "the resync never ends");
    }
}

/// Once a minute idle extents leave a follower's activity log; beta and alpha die in some seconds of it.
#[test]
fn g9_a_followers_extents_stay_until_their_writes_are_stable_everywhere() {
    for earlier in 0..=20 {
        let mut trio = formed();
        for _ in 0..earlier {
            trio.pass_time();
        }
        trio.stick(0, 2, true);
        assert_eq!(trio.write(0, 0, &[1; 4096]), None, "gamma has not got it");
        trio.pass_time();
        trio.stop_after(0);
        trio.crash(1);
        trio.crash(0);
        trio.go_on();
        assert!(trio.data(1) != trio.data(2));
        trio.restart(1);
        trio.pass_time();
        assert!(trio.data(1) == trio.data(2), "beta's activity log named the block, {earlier}");
    }
}

#[test]
fn g9_a_word_of_the_primary_settles_only_the_writes_that_it_names() {
    let mut trio = formed();
    assert_eq!(trio.write(0, 0, &[1; 4096]), DONE);
    trio.stop_after(1);
    assert_eq!(trio.request(0, ClientOperation::Flush), None);
    trio.stick(0, 2, true);
    assert_eq!(trio.write(0, 4096, &[2; 4096]), None);
    assert!(trio.go_on());
    assert_eq!(trio.data(1)[4096..8192], [2; 4096], "beta has got it before the word about the first one");
    assert_eq!(trio.data(2)[4096..8192], [0; 4096], "gamma has not");
    trio.crash(0);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert!(trio.data(1) == trio.data(2), "the survivors have compared it");
}

/// Gamma is linked with beta alone when alpha becomes primary: it is not offered alpha's head.
#[test]
fn g9_a_secondary_leaves_who_is_not_offered_the_head_that_it_takes() {
    let mut trio = Trio::new();
    trio.cut(0, 2);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_ne!(trio.of(1, 2).replication, Replication::Established, "beta has left gamma");
    trio.pass_time();
    assert_eq!(trio.write(0, 0, &[5; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    assert_ne!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done);
    trio.crash(0);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert!(trio.data(1) == trio.data(2), "gamma has caught up with beta");
    assert_eq!(trio.data(2)[..4096], [5; 4096]);
}

/// Beta is promoted, and its link is lost while alpha takes its head. Alpha is not counted yet: it led before.
#[test]
fn g1_a_head_is_given_up_when_the_peer_that_may_have_it_is_lost() {
    let mut pair = Pair::new();
    pair.connect();
    pair.hold(0, Held::Meta);
    let promotion = pair.begin_command(1, OperatorCommand::Primary(Force::No));
    assert_eq!(pair.held_actions(0, Held::Meta), 1, "alpha gives up its right");
    pair.release_one(0, Held::Meta);
    assert_eq!(pair.status(1).role, Role::Primary);
    assert_eq!(pair.held_actions(0, Held::Meta), 1, "alpha takes the head");
    let offered = pair.status(1).head;
    pair.disconnect();
    pair.release(0, Held::Meta);
    assert_eq!(pair.status(0).head, offered, "it has it, and beta does not know");
    assert_eq!(pair.answer(promotion), Some(OperatorAnswer::Done));
    assert_ne!(pair.status(1).head, offered, "beta goes on under another one");
    assert_eq!(pair.write(1, 0, &[1; 4096], true), Ok(RequestOutcome::Done));
    pair.crash(1);
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 4096, &[2; 4096], true), Ok(RequestOutcome::Done));
    pair.restart(1);
    pair.connect();
    assert_eq!(pair.status(0).peers[0].replication, Replication::SplitBrain, "both have gone on");
    assert_eq!(pair.data(1)[..4096], [1; 4096], "nothing is overwritten");
}

/// Beta has a write in its cache only, and the extents of others push that of this one.
#[test]
fn d8_an_extent_stays_until_its_writes_are_stable_on_the_peer_too() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(1, Held::Flush);
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    let flush = pair.begin_request(0, ClientOperation::Flush);
    assert_eq!(pair.reply(flush), None);
    assert_eq!(pair.stable_data(0)[..4096], [1; 4096]);
    for extent in 1..=16 {
        let payload = Bytes::from(vec![2; 4096]);
        pair.begin_request(0, ClientOperation::Write { offset: extent << 16, payload, fua: false });
    }
    assert_eq!(pair.stable_data(1)[..4096], [0; 4096], "it was in the cache alone");
    pair.lose_power(0);
    pair.lose_power(1);
    pair.release(1, Held::Flush);
    for node in [0, 1] {
        pair.restart(node);
    }
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(0).peers[0].replication, Replication::Established);
    assert!(pair.data(0) == pair.data(1), "alpha's activity log named the block");
}

const SIZE: usize = 1 << 20;

/// Three volumes that a test asks what [`Trio`] does not pass on, with a setting that it does not have. Disks
/// and links are perfect, but for writes from alpha to beta that may be lost on the way.
struct Three {
    volumes: Vec<Volume>,
    data: Vec<Vec<u8>>,
    meta: Vec<Vec<u8>>,
    events: VecDeque<(usize, Event)>,
    wakes: [Option<Timestamp>; 3],
    now: Timestamp,
    /// The cables, each with its link if there is one.
    links: BTreeMap<(usize, usize), Option<LinkId>>,
    next: u64,
    answers: Vec<OperatorAnswer>,
    replies: usize,
    loses_writes: bool,
}

fn index(node: usize, other: usize) -> PeerIndex {
    PeerIndex::new(if other < node { other } else { other - 1 }).expect("there are two")
}

impl Three {
    /// Node 0 is primary, all three are in sync.
    fn formed(on_peer_loss: OnPeerLoss) -> Self {
        let mut three = Self {
            volumes: Vec::new(),
            data: vec![vec![0; SIZE]; 3],
            meta: vec![vec![0; SIZE]; 3],
            events: VecDeque::new(),
            wakes: [None; 3],
            now: Timestamp(1_000_000_000),
            links: [(0, 1), (0, 2), (1, 2)].map(|cable| (cable, None)).into(),
            next: 0,
            answers: Vec::new(),
            replies: 0,
            loses_writes: false,
        };
        for node in 0..3 {
            three.start(node, on_peer_loss);
        }
        three.pass_time();
        three.command(OperatorCommand::Primary(Force::No));
        three
    }

    fn start(&mut self, node: usize, on_peer_loss: OnPeerLoss) {
        let geometry = Geometry::new(SIZE as u64, 4096, 64 << 10, 16).expect("valid");
        let spec = CreateSpec { node: NodeId(node as u64 + 1), geometry, peers: 2, origin: Origin::New };
        for (offset, bytes) in create(&spec).expect("valid").into_iter().flatten() {
            put(&mut self.meta[node], offset, &bytes);
        }
        let names = ["alpha", "beta", "gamma"];
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: names[node].to_owned(),
            peer_names: names.into_iter().filter(|name| *name != names[node]).map(str::to_owned).collect(),
            size_bytes_max: SIZE as u64,
            protocol: Protocol::C,
            on_peer_loss,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: 64 << 20,
            max_inflight_writes: 1024,
        };
        let number = node as u128 + 1;
        let run = RunInfo {
            boot: BootId(number),
            instance: InstanceId(number),
            boot_clock_nanos: self.now.0,
            entropy: number << 64,
        };
        let files = FileFacts {
            meta_bytes: SIZE as u64,
            data_bytes: SIZE as u64,
            reads_media: false,
            remembered: Remembered::default(),
        };
        let mut actions = Vec::new();
        self.volumes.push(Volume::attach(config, run, files, self.now, &mut actions));
        self.carry_out(node, actions);
        self.run();
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Pulls a cable.
    fn cut(&mut self, one: usize, other: usize) {
        self.close(one, other);
        self.links.remove(&(one, other));
        self.run();
    }

    fn close(&mut self, one: usize, other: usize) {
        let cable = (one.min(other), one.max(other));
        if let Some(link) = self.links.get_mut(&cable).and_then(Option::take) {
            for (node, peer) in [(one, other), (other, one)] {
                self.events.push_back((node, Event::LinkDown { peer: index(node, peer), link }));
            }
        }
    }

    /// Three seconds, in which links are made where there are cables.
    fn pass_time(&mut self) {
        for _ in 0..30 {
            self.now = self.now.after(Duration::from_millis(100));
            for cable in [(0, 1), (0, 2), (1, 2)] {
                if self.links.get(&cable) == Some(&None) {
                    let link = LinkId(self.number());
                    self.links.insert(cable, Some(link));
                    for (node, peer) in [cable, (cable.1, cable.0)] {
                        self.events.push_back((node, Event::LinkUp { peer: index(node, peer), link }));
                    }
                }
            }
            for node in 0..3 {
                if self.wakes[node].is_some_and(|wake| wake <= self.now) {
                    self.wakes[node] = None;
                    self.events.push_back((node, Event::Wake));
                }
            }
            self.run();
        }
    }

    /// Alpha is told something, and does it.
    fn command(&mut self, command: OperatorCommand) {
        let id = CommandId(self.number());
        self.events.push_back((0, Event::Command { id, command }));
        self.run();
        assert_eq!(self.answers.pop(), Some(OperatorAnswer::Done));
    }

    /// Alpha gets a write; whether it has replied.
    fn write(&mut self, offset: u64, byte: u8) -> bool {
        let id = RequestId(self.number());
        let payload = Bytes::from(vec![byte; 4096]);
        let operation = ClientOperation::Write { offset, payload, fua: false };
        self.events.push_back((0, Event::Request { client: ClientId(1), id, operation }));
        let before = self.replies;
        self.run();
        self.replies > before
    }

    fn replication(&self, node: usize, other: usize) -> Replication {
        self.volumes[node].status().peers[index(node, other).as_usize()].replication
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            let Some((node, event)) = self.events.pop_front() else { return };
            let mut actions = Vec::new();
            self.volumes[node].handle(self.now, event, &mut actions);
            self.carry_out(node, actions);
        }
        panic!("the three nodes never come to rest");
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            let done = |tag| Event::DiskDone { tag, result: Ok(()) };
            let event = match action {
                Action::Read { tag, area, span } => {
                    let image = if area == Area::Data { &self.data[node] } else { &self.meta[node] };
                    let start = usize::try_from(span.offset).expect("small");
                    let end = usize::try_from(span.end()).expect("small");
                    Event::ReadDone { tag, result: Ok(Bytes::copy_from_slice(&image[start..end])) }
                }
                Action::Write { tag, offset, payload, .. } => {
                    put(&mut self.data[node], offset, &payload);
                    done(tag)
                }
                Action::Flush { tag } => done(tag),
                Action::Commit { tag, pieces } => {
                    for (offset, bytes) in pieces {
                        put(&mut self.meta[node], offset, &bytes);
                    }
                    done(tag)
                }
                Action::Send { peer, link, channel, frame } => {
                    let to = (0..3).find(|&to| to != node && index(node, to) == peer).expect("a peer");
                    let lost = self.loses_writes && channel == Channel::Data && (node, to) == (0, 1);
                    if self.links.get(&(node.min(to), node.max(to))) == Some(&Some(link)) && !lost {
                        let peer = index(to, node);
                        self.events.push_back((to, Event::Frame { peer, link, channel, frame }));
                    }
                    continue;
                }
                Action::CloseLink { peer, .. } => {
                    let to = (0..3).find(|&to| to != node && index(node, to) == peer).expect("a peer");
                    self.close(node, to);
                    continue;
                }
                Action::Reply { .. } => {
                    self.replies += 1;
                    continue;
                }
                Action::WakeAt(time) => {
                    self.wakes[node] = Some(time);
                    continue;
                }
                Action::Answer { answer, .. } => {
                    self.answers.push(answer);
                    continue;
                }
                Action::Notice(_) => continue,
                Action::Zero { .. } | Action::Extend { .. } => panic!("no test does that"),
            };
            self.events.push_back((node, event));
        }
    }
}

fn put(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("small");
    image[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Gamma is away, the second peer of alpha and of beta; its first one lacks nothing.
#[test]
fn d10_the_map_of_dirty_blocks_shows_what_any_peer_lacks() {
    let mut three = Three::formed(OnPeerLoss::Continue);
    three.cut(0, 2);
    assert!(three.write(4096, 9));
    let span = ByteSpan { offset: 0, len: 16384 };
    let clean = |len| DirtyExtent { len, dirty: false };
    let expected = [clean(4096), DirtyExtent { len: 4096, dirty: true }, clean(8192)];
    assert_eq!(three.volumes[0].dirty_map(span, 8), expected);
}

/// Beta has not got a write when gamma is lost and alpha holds everything; then alpha's role ends.
#[test]
fn g9_who_followed_a_primary_that_ends_suspended_decides_anew() {
    let mut three = Three::formed(OnPeerLoss::Suspend);
    three.loses_writes = true;
    assert!(!three.write(4096, 9), "beta has not got it");
    three.cut(0, 2);
    three.cut(1, 2);
    assert_eq!(three.volumes[0].status().suspended, Some(Suspended::PeerLost));
    assert_eq!(three.replication(0, 1), Replication::Established);
    three.command(OperatorCommand::Secondary { force: true });
    assert_eq!(three.volumes[0].status().role, Role::Secondary);
    assert!(three.data[0] != three.data[1]);
    assert_ne!(three.replication(0, 1), Replication::Established, "they are not equal");
    three.loses_writes = false;
    three.pass_time();
    assert_eq!(three.replication(0, 1), Replication::Established);
    assert!(three.data[0] == three.data[1], "they have compared");
}
