//! What an operator is told of a volume: the core's state, what the links say, what was noted, and from all of it
//! what is wrong and which command mends it.

use std::{collections::BTreeMap, time::SystemTime};

use evenkeel_core::{
    generation::verdict::{Names, Verdict},
    ids::{PeerIndex, Timestamp},
    volume::{
        DiskState, Replication, Role, Stranger,
        status::{Branch, IoCounters, Parted, PeerStatus as CorePeer, ResyncProgress, Status, Suspended},
    },
};

use super::{
    clock,
    problem::{Problem, ProblemCode},
    runner::{PeerRemarks, Runner},
    settings::VolumeSettings,
    slot::Opened,
    status::{BranchStatus, Connection, LastResync, PartedStatus, PeerStatus, ResyncStatus, VolumeStatus},
};
use crate::link::{self, Endpoint, PeerKey};

/// See the module's head.
pub(super) fn volume_status(
    settings: &VolumeSettings,
    opened: &Opened,
    endpoint: &Endpoint,
    peer_keys: &BTreeMap<String, PeerKey>,
) -> VolumeStatus {
    match opened {
        Opened::Open(runner, _) => {
            let core = runner.core_status();
            let mut peers = Vec::new();
            for name in &settings.peers {
                let place = runner.peer_names().iter().position(|peer| peer == name);
                let core = core.peers.iter().find(|peer| Some(peer.index.as_usize()) == place);
                let link = peer_keys.get(name).and_then(|&key| endpoint.status(key));
                let none = PeerRemarks::default();
                let remarks = runner.remarks();
                let remarks =
                    place.and_then(PeerIndex::new).and_then(|peer| remarks.peers.get(&peer)).unwrap_or(&none);
                peers.push(peer_view(runner, name, core, link.as_ref(), remarks));
            }
            let (peers, troubles): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
            open_status(settings, runner, core, peers, troubles.into_iter().flatten().collect())
        }
        Opened::Opening => {
            let problem = Problem {
                code: ProblemCode::Opening,
                peer: None,
                text: "the volume is being opened".into(),
                remedy: "wait; if this lasts, look at the disk and the kernel's log (dmesg)".into(),
            };
            closed_status(settings, problem)
        }
        Opened::Closed(problem) => closed_status(settings, problem.clone()),
    }
}

fn closed_status(settings: &VolumeSettings, problem: Problem) -> VolumeStatus {
    let peer = |name: &String| PeerStatus {
        name: name.clone(),
        connection: Connection::Disconnected,
        role: None,
        disk: None,
        replication: Replication::Off,
        dirty_bytes: None,
        lag_bytes: 0,
        resync: None,
        verdict: None,
        parted: None,
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
        resuming: false,
        suspended: None,
        io: IoCounters::default(),
        resync_paused: false,
        last_resync: None,
        clients: Vec::new(),
        peers: settings.peers.iter().map(peer).collect(),
        problems: vec![problem],
    }
}

fn open_status(
    settings: &VolumeSettings,
    runner: &Runner,
    core: Status,
    peers: Vec<PeerStatus>,
    troubles: Vec<Problem>,
) -> VolumeStatus {
    let mut problems = own_problems(&settings.name, runner, &core, &peers);
    problems.extend(troubles);
    VolumeStatus {
        name: settings.name.clone(),
        size_bytes: core.size_bytes,
        role: core.role,
        disk: core.disk,
        generation: core.head.map(|head| head.id),
        term: core.term.map(|term| term.number),
        entitled: core.entitled,
        protocol: settings.protocol,
        resuming: core.resuming,
        suspended: core.suspended,
        io: core.io,
        resync_paused: core.resync_paused,
        last_resync: core.last_resync.map(|last| LastResync {
            peer: runner.peer_name(last.peer).to_owned(),
            reason: explain(runner, last.peer, &last.why),
            compared_bytes: last.compared_bytes,
            moved_bytes: last.moved_bytes,
            finished_unix_seconds: unix_seconds(SystemTime::now() - clock::now().since(last.finished)),
        }),
        clients: runner.client_names(),
        peers,
        problems,
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

fn explain(runner: &Runner, peer: PeerIndex, verdict: &Verdict) -> String {
    verdict.explain(Names { mine: runner.own_node(), theirs: runner.peer_name(peer) })
}

fn peer_view(
    runner: &Runner,
    name: &str,
    core: Option<&CorePeer>,
    link: Option<&link::PeerStatus>,
    remarks: &PeerRemarks,
) -> (PeerStatus, Vec<Problem>) {
    let Some(core) = core else { panic!("every configured peer has an index while the volume is open") };
    let problem = remarks.link.clone().or_else(|| link.and_then(|link| link.problem.clone()));
    let refused = core.stranger.is_some()
        || core
            .apart
            .is_some_and(|verdict| matches!(verdict, Verdict::Unrelated { .. } | Verdict::Refused(_)));
    let connection = if !core.allowed {
        Connection::Disconnected
    } else if core.connected && !refused {
        Connection::Connected
    } else if core.connected || refused || problem.is_some() || remarks.broken.is_some() {
        Connection::Refused
    } else {
        Connection::Connecting
    };
    let status = PeerStatus {
        name: name.to_owned(),
        connection,
        role: core.role.filter(|_| core.connected),
        disk: core.disk.filter(|_| core.connected),
        replication: core.replication,
        dirty_bytes: Some(core.dirty_bytes),
        lag_bytes: core.lag_bytes,
        resync: core.resync.as_ref().map(resync_status),
        verdict: remarks.verdict.clone(),
        parted: core.parted.as_ref().map(|parted| parted_status(runner, parted, remarks)),
    };
    (status, peer_problems(runner, name, core, problem, remarks, connection))
}

fn parted_status(runner: &Runner, parted: &Parted, remarks: &PeerRemarks) -> PartedStatus {
    let own = runner.remarks().reign.last();
    let theirs = remarks.reign.last();
    let branch = |branch: &Branch, last: Option<Timestamp>| BranchStatus {
        generation: branch.head.map(|head| head.id),
        term: branch.term.map(|term| term.number),
        primary: branch.primary,
        last_primary_unix_seconds: last
            .map(|last| unix_seconds(SystemTime::now() - clock::now().since(last))),
        dirty_bytes: branch.dirty_bytes,
        dirty_blocks: branch.dirty_blocks,
    };
    PartedStatus {
        common: parted.common.map(|common| common.id),
        mine: branch(&parted.mine, own),
        theirs: branch(&parted.theirs, theirs),
    }
}

fn resync_status(progress: &ResyncProgress) -> ResyncStatus {
    ResyncStatus {
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        moved_bytes: progress.moved_bytes,
        bytes_per_second: progress.rate,
        eta_seconds: progress.eta_seconds,
    }
}

fn peer_problems(
    runner: &Runner,
    name: &str,
    core: &CorePeer,
    link: Option<link::Problem>,
    remarks: &PeerRemarks,
    connection: Connection,
) -> Vec<Problem> {
    let volume = runner.name();
    let about =
        |code, text: String, remedy: String| Problem { code, peer: Some(name.to_owned()), text, remedy };
    let mut problems = Vec::new();
    if let Some(link) = link {
        let remedy =
            "correct what the two nodes say of each other in the configuration, then `evenkeel reload`";
        problems.push(about(ProblemCode::Link(link.code), link.text, remedy.to_owned()));
    }
    if let Some(stranger) = core.stranger {
        let names = Names { mine: runner.own_node(), theirs: name };
        let (code, remedy) = stranger_problem(&volume, name, &stranger);
        problems.push(about(code, stranger.explain(names), remedy));
    } else if let Some(verdict) = &core.apart {
        let resolve = format!(
            "`evenkeel resolve {volume} --discard NODE --dry-run` shows what would be lost; without --dry-run it is done"
        );
        let (code, remedy) = match verdict {
            Verdict::SplitBrain { .. } => (ProblemCode::SplitBrain, resolve),
            Verdict::Unrelated { .. } => (ProblemCode::Unrelated, resolve),
            Verdict::NoCopy(_) => (ProblemCode::NoCopy, "mend the disk of the node that has none".to_owned()),
            Verdict::NoSync | Verdict::FreshPair { .. } | Verdict::Resync { .. } | Verdict::Refused(_) => {
                (ProblemCode::PeerRefused, "do what the text says".to_owned())
            }
        };
        problems.push(about(code, explain(runner, core.index, verdict), remedy));
    } else if let Some(broken) = &remarks.broken
        && !core.connected
    {
        let text = format!("the connection to {name} was closed: {broken}");
        problems.push(about(ProblemCode::PeerRefused, text, format!("look at the logs of {name}")));
    }
    match connection {
        Connection::Disconnected => {
            let remedy = format!("`evenkeel connect {volume} {name}`");
            problems.push(about(
                ProblemCode::PeerDisconnected,
                format!("{name} was disconnected by the operator"),
                remedy,
            ));
        }
        Connection::Connecting if problems.is_empty() => {
            let why =
                remarks.ended.as_ref().map_or(String::new(), |end| format!(" (the last connection: {end})"));
            let remedy = format!(
                "look whether {name} runs and whether UDP reaches it; it is tried again all the time"
            );
            problems.push(about(
                ProblemCode::PeerUnreachable,
                format!("{name} is not connected{why}"),
                remedy,
            ));
        }
        Connection::Connecting | Connection::Connected | Connection::Refused => {}
    }
    problems
}

/// What kind of problem a disk is that does not belong here, and what mends it.
fn stranger_problem(volume: &str, name: &str, stranger: &Stranger) -> (ProblemCode, String) {
    let copied = |node: &str| {
        format!(
            "give the node with the copied disk one of its own: stop it, move its data and metadata away, and start \
             it; it is filled by {node}"
        )
    };
    match stranger {
        Stranger::Unrelated { .. } => (
            ProblemCode::Unrelated,
            format!(
                "`evenkeel resolve {volume} --discard NODE --dry-run` shows what would be lost; without --dry-run it is \
                 done; if the wrong disk is attached, stop the daemon and attach the right one"
            ),
        ),
        Stranger::SameNode(_) | Stranger::NodeOf(..) => (ProblemCode::CopiedDisk, copied("the other")),
        Stranger::OtherNode { .. } => (
            ProblemCode::CopiedDisk,
            format!(
                "attach the disk that belongs to {name}; if it is lost, stop {name}, move its data and metadata away, and \
                 start it: it is filled from here"
            ),
        ),
    }
}

fn own_problems(volume: &str, runner: &Runner, core: &Status, peers: &[PeerStatus]) -> Vec<Problem> {
    let about = |code, text: String, remedy: String| Problem { code, peer: None, text, remedy };
    let mut problems = Vec::new();
    if let Some(text) = &runner.remarks().disk_failed {
        let remedy = format!(
            "replace the disk and restart the daemon; a copy that is lost is made anew with `evenkeel volume create \
             {volume} --blank --yes {volume}` and filled by a peer"
        );
        problems.push(about(ProblemCode::DiskFailed, text.clone(), remedy));
    }
    if let Some(text) = &runner.remarks().older
        && core.disk != DiskState::UpToDate
    {
        let remedy = "connect a node with a good copy: this one is compared with it whole".to_owned();
        problems.push(about(ProblemCode::Older, text.clone(), remedy));
    }
    for damage in &runner.remarks().damage {
        let remedy =
            "nothing: what could not be read was taken for the worst, and the resync covers it".to_owned();
        problems.push(about(
            ProblemCode::MetaDamaged,
            format!("damage was found in the metadata: {damage}"),
            remedy,
        ));
    }
    if let Some(suspended) = core.suspended {
        let (text, remedy) = match suspended {
            Suspended::NewGeneration => ("I/O is held until a new generation is stable", "wait".to_owned()),
            Suspended::PeerLost => (
                "I/O is held because a peer is lost and `on_peer_loss` is \"suspend\"",
                "bring the peer back, or set `on_peer_loss` to \"continue\"".to_owned(),
            ),
            Suspended::Deposed => (
                "I/O has ended here: another node became primary, or the histories have parted",
                format!("`evenkeel secondary {volume} --force --yes {volume}`"),
            ),
            Suspended::NoData => {
                ("the own disk failed and no peer serves", "bring a peer with a good copy back".to_owned())
            }
        };
        problems.push(about(ProblemCode::Suspended, text.to_owned(), remedy));
    }
    let (text, remedy) = match core.disk {
        DiskState::UpToDate | DiskState::Failed => return problems,
        DiskState::Diskless => return problems,
        DiskState::Inconsistent if peers.iter().any(|peer| peer.replication == Replication::SyncTarget) => {
            ("this copy is half synced: a resync is under way", "wait for its end".to_owned())
        }
        DiskState::Inconsistent => {
            ("this copy is half synced, or not yet filled", "connect a node with a good copy".to_owned())
        }
        DiskState::Outdated => ("this copy is old", "connect the node with the newer one".to_owned()),
        DiskState::Consistent => (
            "this copy is good, but it is not known whether it is the newest",
            format!(
                "connect the other nodes; if none comes back and none is primary any more, `evenkeel primary {volume} \
                 --force --yes {volume}`"
            ),
        ),
    };
    problems.push(about(ProblemCode::NotUpToDate, text.to_owned(), remedy));
    problems
}
