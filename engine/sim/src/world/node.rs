//! A node: a machine with a disk and a clock, and the daemon on it that runs or does not.

use std::{borrow::Cow, collections::VecDeque};

use evenkeel_core::{
    ids::{BootId, InstanceId, PeerIndex},
    volume::{
        Role,
        config::{RunInfo, VolumeConfig},
        io::{CommandId, Event},
        operator::OperatorCommand,
        status::Status,
    },
};

use super::absence::Absence;
use crate::{
    clock::Clock,
    decision::{Concern, Stream, mix},
    disk::Disk,
    engine::Memory,
    oracle::notices::Notices,
    plan::Plan,
};

/// Everything of one node.
///
/// ```text
///   down --Boot--> running --crash, power loss, clean end--> down
///                   |   ^
///                 pause resume
/// ```
#[derive(Debug)]
pub(crate) struct Node<E> {
    pub(crate) engine: Option<E>,
    pub(crate) disk: Disk,
    /// Its own disk, while another is in its place.
    pub(crate) unmounted: Option<Disk>,
    /// Latencies and tears.
    pub(crate) draws: Stream,
    pub(crate) identity: Stream,
    pub(crate) clock: Clock,
    pub(crate) boot: BootId,
    pub(crate) config: VolumeConfig,
    /// Counts the runs of the daemon; what belongs to an older one is void.
    pub(crate) epoch: u32,
    /// Counts the times at which the engine wants to be woken; only the last counts.
    pub(crate) wake: u64,
    /// Stands still; what comes in waits in `backlog`.
    pub(crate) paused: bool,
    pub(crate) backlog: VecDeque<Event>,
    /// What is asked of it because it stood still.
    pub(crate) absence: Option<Absence>,
    /// What it has told since its start.
    pub(crate) notices: Notices,
    /// What the engine said of itself last.
    pub(crate) status: Option<Status>,
    /// When the daemon was started.
    pub(crate) started: u64,
    /// It will be started by something on the agenda.
    pub(crate) boot_due: bool,
    /// Starts in vain until this time: no disk, or too short a file.
    pub(crate) unfit_until: u64,
    /// The data file looks shorter than it is at the next start.
    pub(crate) truncated: bool,
    /// What its state directory, on another disk, remembers.
    pub(crate) memory: Memory,
    /// A blank disk was put in: made anew at the next start.
    pub(crate) blank: bool,
    /// Commands without an answer.
    pub(crate) commands: Vec<(CommandId, OperatorCommand)>,
    /// A promotion by force is under way.
    pub(crate) forced: bool,
    /// In this millisecond it was woken so often.
    pub(crate) wakes: (u64, u32),
    /// It was primary when its daemon ended.
    pub(crate) died_primary: bool,
}

/// The place of `peer` among the peers of `node`.
pub(crate) fn peer_index(node: usize, peer: usize) -> PeerIndex {
    PeerIndex::new(if peer < node { peer } else { peer - 1 }).expect("few nodes")
}

/// The node behind an index among the peers of `node`.
pub(crate) fn peer_node(node: usize, index: PeerIndex) -> usize {
    let place = index.as_usize();
    if place < node { place } else { place + 1 }
}

impl<E> Node<E> {
    pub(crate) fn new(plan: &Plan, node: usize, meta_len: u64) -> Self {
        let key = mix(plan.seed) ^ mix(node as u64 + 77);
        let mut identity = Stream::of_key(key ^ mix(Concern::Identity as u64));
        let boot = BootId(identity.wide());
        let mut this = Self {
            engine: None,
            disk: Disk::empty(plan.size_bytes_max, meta_len),
            unmounted: None,
            draws: Stream::of_key(key ^ mix(Concern::Disk as u64)),
            identity,
            clock: Clock::new(0, 0, 0),
            boot,
            config: config(plan, node),
            epoch: 0,
            wake: 0,
            paused: false,
            backlog: VecDeque::new(),
            absence: None,
            notices: Notices::new(plan.nodes - 1),
            status: None,
            started: 0,
            boot_due: false,
            unfit_until: 0,
            truncated: false,
            memory: Memory::default(),
            blank: false,
            commands: Vec::new(),
            forced: false,
            wakes: (0, 0),
            died_primary: false,
        };
        this.boot_machine(plan, 0);
        this
    }

    /// The machine starts: new kernel, new clock.
    pub(crate) fn boot_machine(&mut self, plan: &Plan, now: u64) {
        self.boot = BootId(self.identity.wide());
        let start = 1 + self.identity.below(1 << 40);
        let skew = i64::try_from(self.identity.below(2 * plan.skew_ppm + 1)).expect("small")
            - i64::try_from(plan.skew_ppm).expect("small");
        self.clock = Clock::new(now, start, skew);
    }

    /// What is true of a new run of the daemon.
    pub(crate) fn run_info(&mut self, now: u64) -> RunInfo {
        RunInfo {
            boot: self.boot,
            instance: InstanceId(self.identity.wide()),
            boot_clock_nanos: self.clock.uptime(now),
            entropy: self.identity.wide(),
        }
    }

    /// What its clients would read: nothing that lies in the file behind the end of the volume (older metadata, put back,
    /// may name a smaller size).
    pub(crate) fn image(&self) -> Cow<'_, [u8]> {
        let data = self.disk.data();
        let size_bytes = self.status.as_ref().map_or(data.len() as u64, |status| status.size_bytes);
        let end = data.len().min(usize::try_from(size_bytes).expect("a small device"));
        if data[end..].iter().all(|&byte| byte == 0) {
            return Cow::Borrowed(data);
        }
        let mut image = data.to_vec();
        image[end..].fill(0);
        Cow::Owned(image)
    }

    /// Whether its daemon runs.
    pub(crate) fn runs(&self) -> bool {
        self.engine.is_some()
    }

    /// Whether it says that it is primary.
    pub(crate) fn is_primary(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.role == Role::Primary)
    }

    /// The number of the highest term that it says it has seen.
    pub(crate) fn term(&self) -> u64 {
        self.status.as_ref().and_then(|status| status.term).map_or(0, |term| term.number)
    }
}

fn config(plan: &Plan, node: usize) -> VolumeConfig {
    const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
    let peers = (0..plan.nodes).filter(|peer| *peer != node).map(|peer| NAMES[peer].to_owned());
    VolumeConfig {
        name: "r0".to_owned(),
        node_name: NAMES[node].to_owned(),
        peer_names: peers.collect(),
        size_bytes_max: plan.size_bytes_max,
        protocol: plan.protocol,
        on_peer_loss: plan.on_peer_loss,
        peer_timeout: plan.peer_timeout,
        hold: plan.hold,
        max_lag_bytes: plan.max_lag_bytes,
        max_inflight_bytes: plan.max_inflight_bytes,
        max_inflight_writes: plan.max_inflight_writes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_their_indices() {
        for node in 0..3 {
            for peer in (0..3).filter(|peer| *peer != node) {
                assert_eq!(peer_node(node, peer_index(node, peer)), peer);
            }
        }
        assert_eq!(peer_index(1, 2).as_usize(), 1);
    }
}
