//! Which events met which states, of those that may (`legal`): what a run has covered.
//!
//! A state has two parts: what a node is (its *standing*: role, disk, why it holds I/O), and where it stands with the peer
//! that the event is about (the *session*; of an event that is about no peer: with its first).

use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        DiskState, Replication, Role,
        codec::Kind as FrameKind,
        io::{ClientOperation, Event},
        operator::OperatorCommand,
        status::{PeerStatus, Status, Suspended},
    },
};

use crate::legal::is_legal;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A secondary that opens its disk, or has none.
    Diskless,
    Failed,
    Inconsistent,
    Outdated,
    Consistent,
    UpToDate,
    /// A primary that answers.
    Serving,
    /// A primary that holds I/O: a generation is on its way, a peer is lost, it is deposed.
    Renewing,
    Bereft,
    Deposed,
    /// A primary whose disk failed, served by a peer or not.
    Remote,
    NoData,
    /// A primary that has just learnt that its copy was set back, or that was forced on a half synced one.
    Unfit,
}

impl Standing {
    const ALL: [Self; 13] = [
        Self::Diskless,
        Self::Failed,
        Self::Inconsistent,
        Self::Outdated,
        Self::Consistent,
        Self::UpToDate,
        Self::Serving,
        Self::Renewing,
        Self::Bereft,
        Self::Deposed,
        Self::Remote,
        Self::NoData,
        Self::Unfit,
    ];

    pub(crate) fn of(status: &Status) -> Self {
        match (status.role, status.suspended) {
            (Role::Primary, Some(Suspended::NewGeneration)) => Self::Renewing,
            (Role::Primary, Some(Suspended::PeerLost)) => Self::Bereft,
            (Role::Primary, Some(Suspended::Deposed)) => Self::Deposed,
            (Role::Primary, Some(Suspended::NoData)) => Self::NoData,
            (Role::Primary, None) => match status.disk {
                DiskState::UpToDate => Self::Serving,
                DiskState::Failed | DiskState::Diskless => Self::Remote,
                DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent => Self::Unfit,
            },
            (Role::Secondary, _) => match status.disk {
                DiskState::Diskless => Self::Diskless,
                DiskState::Failed => Self::Failed,
                DiskState::Inconsistent => Self::Inconsistent,
                DiskState::Outdated => Self::Outdated,
                DiskState::Consistent => Self::Consistent,
                DiskState::UpToDate => Self::UpToDate,
            },
        }
    }
}

/// Where a node stands with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// No link, or one on which only hellos were sent.
    Absent,
    Meeting,
    /// Agreed that nothing moves.
    Apart,
    Split,
    Established,
    Source,
    Target,
    Verify,
}

impl Session {
    const ALL: [Self; 8] = [
        Self::Absent,
        Self::Meeting,
        Self::Apart,
        Self::Split,
        Self::Established,
        Self::Source,
        Self::Target,
        Self::Verify,
    ];

    pub(crate) fn of(peer: Option<&PeerStatus>) -> Self {
        let Some(peer) = peer else { return Self::Absent };
        match peer.replication {
            Replication::Off if !peer.connected => Self::Absent,
            Replication::Off if peer.apart.is_none() => Self::Meeting,
            Replication::Off => Self::Apart,
            Replication::SplitBrain => Self::Split,
            Replication::Established => Self::Established,
            Replication::SyncSource => Self::Source,
            Replication::SyncTarget => Self::Target,
            Replication::Verify => Self::Verify,
        }
    }
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Zero,
    Flush,
    ClientGone,
    ReadDone,
    ReadFailed,
    DiskDone,
    DiskFailed,
    LinkUp,
    LinkDown,
    Wake,
    Primary,
    Secondary,
    Disconnect,
    Connect,
    Invalidate,
    SteerResync,
    Resolve,
    Verify,
    Resize,
    Shutdown,
    Frame(FrameKind),
}

/// Those that are no frames.
const PLAIN: [Kind; 22] = [
    Kind::Read,
    Kind::Write,
    Kind::Zero,
    Kind::Flush,
    Kind::ClientGone,
    Kind::ReadDone,
    Kind::ReadFailed,
    Kind::DiskDone,
    Kind::DiskFailed,
    Kind::LinkUp,
    Kind::LinkDown,
    Kind::Wake,
    Kind::Primary,
    Kind::Secondary,
    Kind::Disconnect,
    Kind::Connect,
    Kind::Invalidate,
    Kind::SteerResync,
    Kind::Resolve,
    Kind::Verify,
    Kind::Resize,
    Kind::Shutdown,
];

/// Numbers of frames are below this.
const FRAMES: usize = 75;
/// Places of kinds in a row.
const KINDS: usize = PLAIN.len() + FRAMES;

impl Kind {
    pub(crate) fn of(event: &Event) -> Self {
        match event {
            Event::Request { operation, .. } => match operation {
                ClientOperation::Read(_) => Self::Read,
                ClientOperation::Write { .. } => Self::Write,
                ClientOperation::Zero { .. } => Self::Zero,
                ClientOperation::Flush => Self::Flush,
            },
            Event::ClientGone(_) => Self::ClientGone,
            Event::ReadDone { result: Ok(_), .. } => Self::ReadDone,
            Event::ReadDone { result: Err(_), .. } => Self::ReadFailed,
            Event::DiskDone { result: Ok(()), .. } => Self::DiskDone,
            Event::DiskDone { result: Err(_), .. } => Self::DiskFailed,
            Event::LinkUp { .. } => Self::LinkUp,
            Event::LinkDown { .. } => Self::LinkDown,
            Event::Wake => Self::Wake,
            Event::Command { command, .. } => match command {
                OperatorCommand::Primary(_) => Self::Primary,
                OperatorCommand::Secondary { .. } => Self::Secondary,
                OperatorCommand::Disconnect(_) => Self::Disconnect,
                OperatorCommand::Connect(_) | OperatorCommand::Foretell { .. } => Self::Connect,
                OperatorCommand::Invalidate | OperatorCommand::InvalidatePeer(_) => Self::Invalidate,
                OperatorCommand::PauseResync(_) | OperatorCommand::LimitResync(_) => Self::SteerResync,
                OperatorCommand::Resolve { .. } => Self::Resolve,
                OperatorCommand::Verify { .. } => Self::Verify,
                OperatorCommand::Resize(_) => Self::Resize,
                OperatorCommand::Shutdown => Self::Shutdown,
            },
            Event::Frame { frame, .. } => Self::Frame(FrameKind::of(frame)),
        }
    }

    /// Its place in a row.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Frame(kind) => PLAIN.len() + usize::from(kind.number()),
            plain => PLAIN.iter().position(|kind| *kind == plain).expect("every other kind is listed"),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        PLAIN.into_iter().chain(FrameKind::ALL.into_iter().map(Self::Frame))
    }
}

/// The peer that an event is about.
fn peer_of(event: &Event) -> Option<PeerIndex> {
    match event {
        Event::LinkUp { peer, .. } | Event::LinkDown { peer, .. } | Event::Frame { peer, .. } => Some(*peer),
        Event::Command { command, .. } => match command {
            OperatorCommand::Disconnect(peer)
            | OperatorCommand::Connect(peer)
            | OperatorCommand::InvalidatePeer(peer)
            | OperatorCommand::Foretell { peer, .. }
            | OperatorCommand::Resolve { peer, .. }
            | OperatorCommand::Verify { peer, .. } => Some(*peer),
            OperatorCommand::Primary(_)
            | OperatorCommand::Secondary { .. }
            | OperatorCommand::Invalidate
            | OperatorCommand::PauseResync(_)
            | OperatorCommand::LimitResync(_)
            | OperatorCommand::Resize(_)
            | OperatorCommand::Shutdown => None,
        },
        Event::Request { .. }
        | Event::ClientGone(_)
        | Event::ReadDone { .. }
        | Event::DiskDone { .. }
        | Event::Wake => None,
    }
}

/// How often each pair was seen.
#[derive(Clone, Debug)]
pub struct Coverage {
    pairs: Vec<u32>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { pairs: vec![0; Standing::ALL.len() * Session::ALL.len() * KINDS] }
    }
}

fn place(standing: Standing, session: Session, kind: Kind) -> usize {
    (standing as usize * Session::ALL.len() + session as usize) * KINDS + kind.number()
}

fn all_pairs() -> impl Iterator<Item = (Standing, Session, Kind)> {
    Standing::ALL.into_iter().flat_map(|standing| {
        Session::ALL
            .into_iter()
            .flat_map(move |session| Kind::all().map(move |kind| (standing, session, kind)))
    })
}

impl Coverage {
    /// An event meets a node.
    pub(crate) fn saw(&mut self, status: &Status, event: &Event) {
        let peer = peer_of(event).map_or(0, PeerIndex::as_usize);
        let session = Session::of(status.peers.get(peer));
        let count = &mut self.pairs[place(Standing::of(status), session, Kind::of(event))];
        *count = count.saturating_add(1);
    }

    /// Adds what another run has seen.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.pairs.iter_mut().zip(&other.pairs) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    fn has(&self, (standing, session, kind): (Standing, Session, Kind)) -> bool {
        self.pairs[place(standing, session, kind)] > 0
    }

    /// A pair that was seen and is not legal.
    pub(crate) fn illegal(&self) -> Option<String> {
        all_pairs()
            .find(|&pair| self.has(pair) && !is_legal(pair.0, pair.1, pair.2))
            .map(|(standing, session, kind)| format!("{kind:?} met a node that is {standing:?}, {session:?}"))
    }

    /// How many legal pairs there are, and how many of them were seen.
    #[must_use]
    pub fn seen_of_legal(&self) -> (usize, usize) {
        let legal = || all_pairs().filter(|&(standing, session, kind)| is_legal(standing, session, kind));
        (legal().filter(|&pair| self.has(pair)).count(), legal().count())
    }

    /// The legal pairs that were not seen, a line for each kind of event.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        let of_kind = |kind: Kind| {
            let missing: Vec<String> = all_pairs()
                .filter(|&pair| pair.2 == kind && is_legal(pair.0, pair.1, kind) && !self.has(pair))
                .map(|(standing, session, _)| format!("{standing:?}/{session:?}"))
                .collect();
            let name = match kind {
                Kind::Frame(frame) => format!("frame {frame:?}"),
                plain => format!("{plain:?}"),
            };
            (!missing.is_empty()).then(|| format!("{name}: {}", missing.join(" ")))
        };
        Kind::all().filter_map(of_kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_own_place() {
        let mut places: Vec<usize> = all_pairs().map(|(one, two, kind)| place(one, two, kind)).collect();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count);
        assert!(places.into_iter().all(|place| place < Coverage::default().pairs.len()));
    }

    #[test]
    fn what_is_not_legal_is_told() {
        let mut coverage = Coverage::default();
        coverage.pairs[place(Standing::UpToDate, Session::Established, Kind::Wake)] = 1;
        assert_eq!(coverage.illegal(), None);
        assert_eq!(coverage.seen_of_legal().0, 1);
        coverage.pairs[place(Standing::Serving, Session::Split, Kind::Frame(FrameKind::Part))] = 1;
        assert!(coverage.illegal().is_some_and(|text| text.contains("Part") && text.contains("Split")));
    }
}
