//! O11: an operator learns of everything that concerns him, and when it is over.
//!
//! What a node has told by notices since its start must be what it says of itself when asked: role, disk, and for
//! each peer whether it is there, in sync, a split brain or refused. The two may differ for a moment, as what is told
//! follows what is; not for longer.

use evenkeel_core::volume::{
    DiskState, Replication, Role,
    io::Notice,
    status::{PeerStatus, Status},
};

/// What a node may keep to itself for this long, in nanoseconds.
const MOMENT: u64 = 5_000_000_000;

/// What one node has told.
#[derive(Debug)]
pub(crate) struct Notices {
    role: Role,
    disk: DiskState,
    /// The size that it has grown to in this run.
    size_bytes: Option<u64>,
    /// For each peer.
    peers: Vec<Told>,
    /// Its disk was reported as failed.
    failed: bool,
    /// What is not as it was told, and since when.
    differs: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    replication: Replication,
    verdict: bool,
}

impl Notices {
    /// The node starts; nothing has been told.
    pub(crate) fn new(peers: usize) -> Self {
        let told = Told { replication: Replication::Off, verdict: false };
        Self {
            role: Role::Secondary,
            disk: DiskState::Diskless,
            size_bytes: None,
            peers: vec![told; peers],
            failed: false,
            differs: None,
        }
    }

    /// The node tells something.
    pub(crate) fn tell(&mut self, notice: &Notice) {
        match notice {
            Notice::Role(role) => self.role = *role,
            Notice::Disk(disk) => self.disk = *disk,
            Notice::Peer(peer, replication) => {
                let told = &mut self.peers[peer.as_usize()];
                told.replication = *replication;
                // A refusal is a verdict and then nothing; with anything else the verdict is used up.
                told.verdict &= matches!(replication, Replication::Off | Replication::SplitBrain);
            }
            Notice::Verdict(peer, _) => {
                let told = &mut self.peers[peer.as_usize()];
                told.verdict = true;
                // A split brain is told again with its verdict; any other verdict says that there is none any more.
                if told.replication == Replication::SplitBrain {
                    told.replication = Replication::Off;
                }
            }
            Notice::DiskFailed(..) => self.failed = true,
            Notice::Grown(size_bytes) => self.size_bytes = Some(*size_bytes),
            Notice::ResyncDone { .. }
            | Notice::ProtocolError(..)
            | Notice::SetBack { .. }
            | Notice::Stranger(..)
            | Notice::Older(_)
            | Notice::MetadataDamaged(_)
            | Notice::NotOpened(_)
            | Notice::ServedByPeer(_)
            | Notice::NotGrown(_)
            | Notice::Unreadable(_) => {}
        }
    }

    /// Compares with what the node says of itself now; what has differed for too long.
    pub(crate) fn compare(&mut self, status: &Status, now: u64) -> Option<String> {
        let Some(difference) = self.difference(status) else {
            self.differs = None;
            return None;
        };
        match &self.differs {
            Some((known, since)) if *known == difference => {
                (now > since + MOMENT).then(|| format!("{difference}, and nobody was told"))
            }
            Some(_) | None => {
                self.differs = Some((difference, now));
                None
            }
        }
    }

    fn difference(&self, status: &Status) -> Option<String> {
        if status.role != self.role {
            return Some(format!("its role is {:?}", status.role));
        }
        if status.disk != self.disk {
            return Some(format!("its disk is {:?}", status.disk));
        }
        if self.size_bytes.is_some_and(|told| told != status.size_bytes) {
            return Some(format!("it has {} bytes", status.size_bytes));
        }
        if status.disk == DiskState::Failed && !self.failed {
            return Some("its disk has failed".to_owned());
        }
        let peers = status.peers.iter().zip(&self.peers);
        peers.into_iter().find_map(|(peer, told)| peer_difference(peer, *told))
    }
}

fn peer_difference(peer: &PeerStatus, told: Told) -> Option<String> {
    // Whoever asked for a verify is answered; nobody else has to know.
    let shown = |replication| match replication {
        Replication::Verify => Replication::Established,
        Replication::Off
        | Replication::Established
        | Replication::SyncSource
        | Replication::SyncTarget
        | Replication::SplitBrain => replication,
    };
    if shown(peer.replication) != told.replication {
        return Some(format!("{:?} is {:?}, told as {:?}", peer.index, peer.replication, told.replication));
    }
    match peer.apart {
        Some(verdict) if !told.verdict => Some(format!("{:?} is refused: {verdict:?}", peer.index)),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::{ids::PeerIndex, volume::status::IoCounters};

    fn status(replication: Replication) -> Status {
        let peer = PeerStatus {
            index: PeerIndex::FIRST,
            connected: true,
            allowed: true,
            stranger: None,
            parted: None,
            apart: None,
            replication,
            role: None,
            disk: None,
            dirty_bytes: 0,
            lag_bytes: 0,
            resync: None,
        };
        Status {
            size_bytes: 0,
            node: None,
            role: Role::Secondary,
            disk: DiskState::Diskless,
            head: None,
            term: None,
            entitled: false,
            resuming: false,
            suspended: None,
            io: IoCounters::default(),
            resync_paused: false,
            last_resync: None,
            peers: vec![peer],
        }
    }

    #[test]
    fn a_peer_that_is_lost_or_back_without_a_word_is_found() {
        let mut notices = Notices::new(1);
        assert_eq!(notices.compare(&status(Replication::Established), 0), None);
        assert!(notices.compare(&status(Replication::Established), MOMENT + 1).is_some());
        notices.tell(&Notice::Peer(PeerIndex::FIRST, Replication::Established));
        assert_eq!(notices.compare(&status(Replication::Established), 2 * MOMENT), None);
        assert_eq!(notices.compare(&status(Replication::Off), 3 * MOMENT), None);
        assert!(notices.compare(&status(Replication::Off), 5 * MOMENT).is_some());
    }
}
