//! What `status --json` and `events --json` show: the documented, versioned schema (design section 8,
//! `docs/status.md`). Every field is always there; null where something is unknown or does not apply.

use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel_core::{
    ids::GenerationId,
    volume::{
        DiskState, Replication, Role,
        config::Protocol,
        status::{IoCounters, Suspended},
    },
};
use evenkeel_driver::node::{
    BranchStatus, Connection, NodeEvent, NodeStatus, PartedStatus, PeerStatus, Problem, VolumeStatus,
};
use serde::{Deserialize, Serialize};

/// Changes when a field changes its meaning or goes; new fields do not change it.
pub(crate) const SCHEMA: u32 = 1;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusDocument {
    pub(crate) schema: u32,
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) disk_backend: String,
    pub(crate) volumes: Vec<VolumeDocument>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeDocument {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) role: String,
    pub(crate) disk: String,
    pub(crate) generation: Option<String>,
    pub(crate) term: Option<u64>,
    pub(crate) entitled: bool,
    pub(crate) protocol: String,
    pub(crate) suspended: Option<String>,
    pub(crate) resuming: bool,
    pub(crate) io: IoDocument,
    pub(crate) clients: Vec<String>,
    pub(crate) resync_paused: bool,
    pub(crate) last_resync: Option<LastResyncDocument>,
    pub(crate) peers: Vec<PeerDocument>,
    pub(crate) problems: Vec<ProblemDocument>,
}

/// What clients did in this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoDocument {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) held: u64,
}

/// The last resync that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastResyncDocument {
    pub(crate) peer: String,
    pub(crate) reason: String,
    pub(crate) compared_bytes: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) finished: String,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerDocument {
    pub(crate) name: String,
    pub(crate) connection: String,
    pub(crate) role: String,
    pub(crate) disk: String,
    pub(crate) replication: String,
    pub(crate) dirty_bytes: Option<u64>,
    pub(crate) lag_bytes: u64,
    pub(crate) resync: Option<ResyncDocument>,
    pub(crate) verdict: Option<String>,
    pub(crate) parted: Option<PartedDocument>,
}

/// Two copies that have parted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartedDocument {
    pub(crate) common: Option<String>,
    pub(crate) mine: BranchDocument,
    pub(crate) theirs: BranchDocument,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BranchDocument {
    pub(crate) generation: Option<String>,
    pub(crate) term: Option<u64>,
    pub(crate) role: String,
    pub(crate) last_primary: Option<String>,
    pub(crate) dirty_bytes: Option<u64>,
    pub(crate) dirty_blocks: Option<u64>,
}

/// A resync under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResyncDocument {
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) rate: u64,
    pub(crate) eta_seconds: Option<u64>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProblemDocument {
    pub(crate) code: String,
    pub(crate) peer: Option<String>,
    pub(crate) text: String,
    pub(crate) remedy: String,
}

/// Some events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsDocument {
    pub(crate) lost: u64,
    pub(crate) events: Vec<EventDocument>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventDocument {
    pub(crate) number: u64,
    pub(crate) time: String,
    pub(crate) volume: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl From<&NodeStatus> for StatusDocument {
    fn from(status: &NodeStatus) -> Self {
        Self {
            schema: SCHEMA,
            node: status.node.clone(),
            cluster: status.cluster.clone(),
            disk_backend: status.backend.to_string(),
            volumes: status.volumes.iter().map(VolumeDocument::from).collect(),
        }
    }
}

impl From<&VolumeStatus> for VolumeDocument {
    fn from(volume: &VolumeStatus) -> Self {
        Self {
            name: volume.name.clone(),
            size: volume.size_bytes,
            role: role(volume.role).to_owned(),
            disk: disk(volume.disk).to_owned(),
            generation: volume.generation.map(generation),
            term: volume.term,
            entitled: volume.entitled,
            protocol: protocol(volume.protocol).to_owned(),
            suspended: volume.suspended.map(|why| suspended(why).to_owned()),
            resuming: volume.resuming,
            io: IoDocument::from(&volume.io),
            clients: volume.clients.clone(),
            resync_paused: volume.resync_paused,
            last_resync: volume.last_resync.as_ref().map(|last| LastResyncDocument {
                peer: last.peer.clone(),
                reason: last.reason.clone(),
                compared_bytes: last.compared_bytes,
                moved_bytes: last.moved_bytes,
                finished: utc(last.finished_unix_seconds),
            }),
            peers: volume.peers.iter().map(PeerDocument::from).collect(),
            problems: volume.problems.iter().map(ProblemDocument::from).collect(),
        }
    }
}

impl From<&IoCounters> for IoDocument {
    fn from(io: &IoCounters) -> Self {
        Self {
            reads: io.reads,
            writes: io.writes,
            flushes: io.flushes,
            read_bytes: io.read_bytes,
            written_bytes: io.written_bytes,
            held: io.held,
        }
    }
}

impl From<&PeerStatus> for PeerDocument {
    fn from(peer: &PeerStatus) -> Self {
        Self {
            name: peer.name.clone(),
            connection: connection(peer.connection).to_owned(),
            role: peer.role.map_or("unknown", role).to_owned(),
            disk: peer.disk.map_or("unknown", disk).to_owned(),
            replication: replication(peer.replication).to_owned(),
            dirty_bytes: peer.dirty_bytes,
            lag_bytes: peer.lag_bytes,
            resync: peer.resync.map(|resync| ResyncDocument {
                done_bytes: resync.done_bytes,
                total_bytes: resync.total_bytes,
                moved_bytes: resync.moved_bytes,
                rate: resync.bytes_per_second,
                eta_seconds: resync.eta_seconds,
            }),
            verdict: peer.verdict.clone(),
            parted: peer.parted.as_ref().map(PartedDocument::from),
        }
    }
}

impl From<&PartedStatus> for PartedDocument {
    fn from(parted: &PartedStatus) -> Self {
        let branch = |branch: &BranchStatus| BranchDocument {
            generation: branch.generation.map(generation),
            term: branch.term,
            role: role(if branch.primary { Role::Primary } else { Role::Secondary }).to_owned(),
            last_primary: branch.last_primary_unix_seconds.map(utc),
            dirty_bytes: branch.dirty_bytes,
            dirty_blocks: branch.dirty_blocks,
        };
        Self {
            common: parted.common.map(generation),
            mine: branch(&parted.mine),
            theirs: branch(&parted.theirs),
        }
    }
}

fn generation(id: GenerationId) -> String {
    format!("{:032x}", id.0)
}

impl From<&Problem> for ProblemDocument {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code.as_str().to_owned(),
            peer: problem.peer.clone(),
            text: problem.text.clone(),
            remedy: problem.remedy.clone(),
        }
    }
}

impl From<&NodeEvent> for EventDocument {
    fn from(event: &NodeEvent) -> Self {
        Self {
            number: event.number,
            time: utc(unix_seconds(event.at)),
            volume: event.volume.clone(),
            peer: event.peer.clone(),
            kind: event.kind.to_owned(),
            text: event.text.clone(),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
}

fn disk(disk: DiskState) -> &'static str {
    match disk {
        DiskState::Diskless => "Diskless",
        DiskState::Inconsistent => "Inconsistent",
        DiskState::Outdated => "Outdated",
        DiskState::Consistent => "Consistent",
        DiskState::UpToDate => "UpToDate",
        DiskState::Failed => "Failed",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::A => "A",
        Protocol::B => "B",
        Protocol::C => "C",
    }
}

fn suspended(why: Suspended) -> &'static str {
    match why {
        Suspended::NewGeneration => "new-generation",
        Suspended::PeerLost => "peer-lost",
        Suspended::Deposed => "deposed",
        Suspended::NoData => "no-data",
    }
}

fn connection(connection: Connection) -> &'static str {
    match connection {
        Connection::Connected => "connected",
        Connection::Connecting => "connecting",
        Connection::Disconnected => "disconnected",
        Connection::Refused => "refused",
    }
}

fn replication(replication: Replication) -> &'static str {
    match replication {
        Replication::Established => "established",
        Replication::SyncSource => "sync-source",
        Replication::SyncTarget => "sync-target",
        Replication::Verify => "verify",
        Replication::SplitBrain => "split-brain",
        Replication::Off => "off",
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time as `2026-11-24T05:06:07Z`.
fn utc(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day since 1970 in the Gregorian calendar. Years begin in March here, so that the leap day is the
/// last one; 146,097 days are 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_494_600, "2026-11-24T04:30:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), shown);
        }
    }
}
