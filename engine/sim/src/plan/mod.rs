//! What one seed means: the shape of the cluster, the load, and the schedule of faults.
//!
//! Everything here is decided before the run begins (swarm testing: each seed is given a random subset of the
//! kinds of faults with random weights, so that rare combinations get runs of their own). A run changes nothing
//! of its plan, and a plan with entries left out is again a plan: that is how a failing seed is shrunk.

mod fault;

use std::time::Duration;

use evenkeel_core::volume::config::{OnPeerLoss, Protocol};

pub use self::fault::{FaultKind, Planned};
use crate::decision::{Concern, Stream, mix};

/// A millisecond of virtual time.
pub(crate) const MILLISECOND: u64 = 1_000_000;
/// A second of virtual time.
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;

/// Which faults a caller allows.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The kinds that may be planned at all.
    pub kinds: Vec<FaultKind>,
    /// Protocols that may be chosen.
    pub protocols: Vec<Protocol>,
    /// At most this many nodes (2 or 3).
    pub max_nodes: usize,
    /// That many nodes in every seed.
    pub all_nodes: bool,
    /// Whether a tenth of the seeds may go beyond the budget of one good copy.
    pub beyond_budget: bool,
    /// Switch every allowed kind on in every seed, instead of a random subset.
    pub eager: bool,
}

impl Default for Allowed {
    /// Everything that an engine without checksums at rest can be asked to survive.
    fn default() -> Self {
        Self {
            kinds: FaultKind::ALL.into_iter().filter(|kind| !kind.silent()).collect(),
            protocols: vec![Protocol::A, Protocol::B, Protocol::C],
            max_nodes: 3,
            all_nodes: false,
            beyond_budget: true,
            eager: false,
        }
    }
}

/// The load that clients make.
#[derive(Clone, Debug)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Requests under way per connection.
    pub depth: usize,
    /// Requests in all; after that the clients are idle.
    pub requests: u32,
    /// Mean pause between two requests of a connection, in nanoseconds.
    pub think: u64,
    /// Parts of a hundred that are flushes.
    pub flush_percent: u64,
    /// Parts of a hundred that are reads.
    pub read_percent: u64,
    /// Parts of a hundred that are trims and zeroings.
    pub zero_percent: u64,
    /// Parts of a hundred of the writes that carry FUA.
    pub fua_percent: u64,
    /// Longest write in sectors.
    pub max_sectors: u64,
}

/// One seed, spelled out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed itself.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Size of the device in bytes.
    pub size_bytes: u64,
    /// It may grow to this size.
    pub size_bytes_max: u64,
    /// When writes are answered.
    pub protocol: Protocol,
    /// What a primary does that lost a peer.
    pub on_peer_loss: OnPeerLoss,
    /// A silent peer is dropped after this.
    pub peer_timeout: Duration,
    /// I/O is held for this long.
    pub hold: Duration,
    /// Protocol A: the most that a peer may lag.
    pub max_lag_bytes: u64,
    /// Most bytes of writes under way in the engine.
    pub max_inflight_bytes: u64,
    /// Most writes under way in the engine.
    pub max_inflight_writes: usize,
    /// The load.
    pub load: Load,
    /// When faults end and healing begins, in nanoseconds.
    pub heal_at: u64,
    /// Whether faults may take the last good copy.
    pub beyond_budget: bool,
    /// Typical latency of a disk, in nanoseconds.
    pub disk_latency: u64,
    /// Typical delay of a frame, in nanoseconds.
    pub net_latency: u64,
    /// Largest error of a node's clock, in parts per million.
    pub skew_ppm: u64,
    /// Whether frames cross the links as bytes, through the codec; in the other seeds they travel as values.
    pub frames_as_bytes: bool,
    /// What happens when.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, allowed: &Allowed) -> Self {
        let mut swarm = Stream::new(seed, Concern::Swarm);
        let nodes = if allowed.max_nodes >= 3 && (swarm.chance(1, 4) || allowed.all_nodes) { 3 } else { 2 };
        let size_bytes = 4096 * swarm.skewed(16, 1024);
        let protocol = allowed.protocols[match swarm.below(6) {
            0 => 0,
            1 => 1,
            _ => 2,
        }
        .min(allowed.protocols.len() - 1)];
        let heal_at = swarm.between(40, 120) * SECOND;
        let connections = usize::try_from(swarm.between(1, 4)).expect("small");
        let requests = u32::try_from(swarm.between(3_600, 6_600)).expect("small");
        let load = Load {
            connections,
            depth: usize::try_from(swarm.skewed(1, 16)).expect("small"),
            requests,
            think: heal_at * connections as u64 / u64::from(requests),
            flush_percent: swarm.skewed(1, 20),
            read_percent: swarm.between(5, 30),
            zero_percent: if swarm.chance(1, 2) { swarm.between(1, 8) } else { 0 },
            fua_percent: swarm.skewed(1, 40) - 1,
            max_sectors: swarm.skewed(1, 64),
        };
        let mut plan = Self {
            seed,
            nodes,
            size_bytes,
            size_bytes_max: size_bytes + 512 * (1 + mix(seed ^ 0x5249_5345) % 1024),
            protocol,
            on_peer_loss: if swarm.chance(1, 6) { OnPeerLoss::Suspend } else { OnPeerLoss::Continue },
            peer_timeout: Duration::from_millis(swarm.between(1_000, 6_000)),
            hold: Duration::from_secs(swarm.between(20, 120)),
            max_lag_bytes: 4096 * swarm.skewed(4, 1024),
            max_inflight_bytes: 4096 * swarm.skewed(16, 4096),
            max_inflight_writes: usize::try_from(swarm.skewed(2, 512)).expect("small"),
            load,
            heal_at,
            beyond_budget: allowed.beyond_budget && swarm.chance(1, 10),
            disk_latency: swarm.skewed(20_000, 2 * MILLISECOND),
            net_latency: swarm.skewed(20_000, 5 * MILLISECOND),
            skew_ppm: swarm.below(1_000),
            frames_as_bytes: swarm.chance(1, 8),
            faults: Vec::new(),
        };
        plan.faults = schedule(&plan, allowed);
        plan
    }
}

/// How many of a kind a seed gets when the kind is switched on.
fn rate(kind: FaultKind, draws: &mut Stream) -> u64 {
    match kind {
        FaultKind::ProcessCrash => draws.between(2, 9),
        FaultKind::PowerLoss => draws.between(1, 6),
        FaultKind::Handover => draws.between(1, 5),
        FaultKind::Ambush => draws.between(2, 8),
        FaultKind::LinkCut | FaultKind::ClientDisconnect => draws.between(1, 6),
        FaultKind::ForceBlindly | FaultKind::Sleep | FaultKind::BareMountPoint => 1,
        FaultKind::ForceBesidePause => draws.between(1, 2),
        FaultKind::Replay | FaultKind::LinkReplaced | FaultKind::DropFrame | FaultKind::CorruptFrame => {
            draws.between(1, 4)
        }
        FaultKind::PowerLossEverywhere
        | FaultKind::Pause
        | FaultKind::CleanRestart
        | FaultKind::OneWayCut
        | FaultKind::Partition
        | FaultKind::Flap
        | FaultKind::Clog
        | FaultKind::DiskStall
        | FaultKind::DataReadError
        | FaultKind::MetaReadError
        | FaultKind::WriteError
        | FaultKind::FlushError
        | FaultKind::CommitError
        | FaultKind::DataNoSpace
        | FaultKind::MetaNoSpace
        | FaultKind::LostWrite
        | FaultKind::MisdirectedWrite
        | FaultKind::MisdirectedToMeta
        | FaultKind::DataBitFlip
        | FaultKind::MetaBitFlip
        | FaultKind::SnapshotBoth
        | FaultKind::SnapshotData
        | FaultKind::SnapshotMeta
        | FaultKind::BlankDisk
        | FaultKind::NotMounted
        | FaultKind::Truncated
        | FaultKind::Demote
        | FaultKind::PromoteBlindly
        | FaultKind::Disconnect
        | FaultKind::Invalidate
        | FaultKind::Verify
        | FaultKind::Resize
        | FaultKind::PauseResync => draws.between(1, 2),
    }
}

/// In how many of a hundred seeds a kind is switched on. Crashes and role changes are the bread of a run.
fn share(kind: FaultKind) -> u64 {
    match kind {
        FaultKind::ProcessCrash => 85,
        FaultKind::PowerLoss | FaultKind::Handover | FaultKind::Ambush => 60,
        FaultKind::LinkCut => 50,
        FaultKind::ForceBlindly => 4,
        FaultKind::ForceBesidePause => 6,
        FaultKind::PowerLossEverywhere | FaultKind::SnapshotBoth | FaultKind::SnapshotMeta => 15,
        FaultKind::BlankDisk | FaultKind::Truncated | FaultKind::NotMounted => 15,
        FaultKind::MetaBitFlip | FaultKind::CommitError | FaultKind::MetaNoSpace => 10,
        FaultKind::Sleep | FaultKind::BareMountPoint => 10,
        FaultKind::DataReadError | FaultKind::MetaReadError | FaultKind::WriteError => 15,
        FaultKind::FlushError | FaultKind::DataNoSpace => 15,
        FaultKind::Pause
        | FaultKind::CleanRestart
        | FaultKind::LinkReplaced
        | FaultKind::OneWayCut
        | FaultKind::Partition
        | FaultKind::Flap
        | FaultKind::Clog
        | FaultKind::DropFrame
        | FaultKind::Replay
        | FaultKind::CorruptFrame
        | FaultKind::DiskStall
        | FaultKind::LostWrite
        | FaultKind::MisdirectedWrite
        | FaultKind::MisdirectedToMeta
        | FaultKind::DataBitFlip
        | FaultKind::SnapshotData
        | FaultKind::ClientDisconnect
        | FaultKind::Demote
        | FaultKind::PromoteBlindly
        | FaultKind::Disconnect
        | FaultKind::Invalidate
        | FaultKind::Verify
        | FaultKind::Resize
        | FaultKind::PauseResync => 30,
    }
}

/// How long a fault lasts.
fn duration(kind: FaultKind, draws: &mut Stream) -> u64 {
    match kind {
        FaultKind::DiskStall => draws.skewed(1, 60_000) * MILLISECOND,
        FaultKind::Pause => draws.skewed(1, 20_000) * MILLISECOND,
        FaultKind::ForceBesidePause => draws.between(300, 2_000) * MILLISECOND,
        FaultKind::Sleep => draws.between(10_000, 200_000) * MILLISECOND,
        FaultKind::OneWayCut | FaultKind::Partition | FaultKind::Clog => {
            draws.skewed(10, 20_000) * MILLISECOND
        }
        FaultKind::Flap => draws.between(2_000, 10_000) * MILLISECOND,
        FaultKind::PauseResync | FaultKind::Disconnect | FaultKind::Demote => {
            draws.between(100, 10_000) * MILLISECOND
        }
        _ => draws.skewed(20, 15_000) * MILLISECOND,
    }
}

fn schedule(plan: &Plan, allowed: &Allowed) -> Vec<Planned> {
    let mut faults = Vec::new();
    for kind in &allowed.kinds {
        let mut draws =
            Stream::of_key(mix(plan.seed ^ 0x5043_4841) ^ mix(kind.number() as u64) ^ Concern::Plan as u64);
        if !draws.chance(share(*kind), 100) && !allowed.eager {
            continue;
        }
        for _ in 0..rate(*kind, &mut draws) {
            let node = draws.index(plan.nodes);
            let peer = (node + 1 + draws.index(plan.nodes - 1)) % plan.nodes;
            faults.push(Planned {
                at: SECOND + draws.below(plan.heal_at - SECOND),
                kind: *kind,
                node,
                peer,
                lasts: duration(*kind, &mut draws),
                key: draws.next(),
            });
        }
    }
    faults.sort_by_key(|fault| (fault.at, fault.kind, fault.key));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_a_kind_out_moves_no_other() {
        let all = Plan::new(11, &Allowed::default());
        let mut less = Allowed::default();
        less.kinds.retain(|kind| *kind != FaultKind::ProcessCrash);
        let fewer = Plan::new(11, &less);
        let mut expected = all.faults.clone();
        expected.retain(|fault| fault.kind != FaultKind::ProcessCrash);
        assert_eq!(expected, fewer.faults);
    }

    #[test]
    fn plans_name_nodes_that_exist() {
        for seed in 0..500 {
            let plan = Plan::new(seed, &Allowed::default());
            assert!(plan.size_bytes.is_multiple_of(4096));
            for fault in &plan.faults {
                assert!(fault.node < plan.nodes && fault.peer < plan.nodes && fault.node != fault.peer);
                assert!(fault.at < plan.heal_at);
            }
        }
    }
}
