//! Which events met which states: the pairs that a run has seen.

use evenkeel_core::volume::{
    DiskState, Replication, Role,
    io::{ClientOperation, Event},
    operator::OperatorCommand,
    status::{Status, Suspended},
    wire::Frame,
};

/// Number of states that are told apart.
pub(crate) const STATES: usize = 2 * 6 * 6 * 5;
/// Number of kinds of events that are told apart.
pub(crate) const KINDS: usize = 64;

/// The state of a node as coverage sees it: role, disk, replication with its first peer, why it holds I/O.
pub(crate) fn state(status: &Status) -> usize {
    let role = match status.role {
        Role::Primary => 0,
        Role::Secondary => 1,
    };
    let disk = match status.disk {
        DiskState::Diskless => 0,
        DiskState::Failed => 1,
        DiskState::Inconsistent => 2,
        DiskState::Outdated => 3,
        DiskState::Consistent => 4,
        DiskState::UpToDate => 5,
    };
    let replication = match status.peers.first().map(|peer| peer.replication) {
        None | Some(Replication::Off) => 0,
        Some(Replication::Established) => 1,
        Some(Replication::SyncSource) => 2,
        Some(Replication::SyncTarget) => 3,
        Some(Replication::SplitBrain) => 4,
        Some(Replication::Verify) => 5,
    };
    let suspended = match status.suspended {
        None => 0,
        Some(Suspended::NewGeneration) => 1,
        Some(Suspended::PeerLost) => 2,
        Some(Suspended::Deposed) => 3,
        Some(Suspended::NoData) => 4,
    };
    ((role * 6 + disk) * 6 + replication) * 5 + suspended
}

/// The kind of an event, below [`KINDS`].
pub(crate) fn kind(event: &Event) -> usize {
    match event {
        Event::Request { operation, .. } => match operation {
            ClientOperation::Read(_) => 0,
            ClientOperation::Write { .. } => 1,
            ClientOperation::Zero { .. } => 2,
            ClientOperation::Flush => 3,
        },
        Event::ClientGone(_) => 4,
        Event::ReadDone { result, .. } => 5 + usize::from(result.is_err()),
        Event::DiskDone { result, .. } => 7 + usize::from(result.is_err()),
        Event::LinkUp { .. } => 9,
        Event::LinkDown { .. } => 10,
        Event::Wake => 11,
        Event::Command { command, .. } => match command {
            OperatorCommand::Primary(_) => 12,
            OperatorCommand::Secondary { .. } => 13,
            OperatorCommand::Disconnect(_) => 14,
            OperatorCommand::Connect(_) => 15,
            OperatorCommand::Invalidate => 16,
            OperatorCommand::PauseResync(_) | OperatorCommand::LimitResync(_) => 17,
            OperatorCommand::Resolve { .. } => 18,
            OperatorCommand::Shutdown => 19,
            OperatorCommand::Verify { .. } => 20,
        },
        Event::Frame { frame, .. } => 21 + frame_kind(frame),
    }
}

/// The kind of a frame, below `KINDS - 21`.
pub(crate) fn frame_kind(frame: &Frame) -> usize {
    match frame {
        Frame::Hello(_) => 0,
        Frame::Report { .. } => 1,
        Frame::Agree { .. } => 2,
        Frame::Begin { .. } => 3,
        Frame::Ready => 4,
        Frame::Offer { .. } => 5,
        Frame::Adopted(_) => 6,
        Frame::Ask(_) => 7,
        Frame::Answer { .. } => 8,
        Frame::Mark { .. } => 9,
        Frame::Outdate => 10,
        Frame::Outdated => 11,
        Frame::Yield => 12,
        Frame::Yielded => 13,
        Frame::Leave => 14,
        Frame::Ping(_) => 15,
        Frame::Pong(_) => 16,
        Frame::Write { .. } => 17,
        Frame::Zero { .. } => 18,
        Frame::FlushTo(_) => 19,
        Frame::Received(_) => 20,
        Frame::Applied { .. } => 21,
        Frame::StableTo(_) => 22,
        Frame::Failed => 23,
        Frame::Runs(_) => 24,
        Frame::RunsEnd => 25,
        Frame::Pull { .. } => 26,
        Frame::Part { .. } => 27,
        Frame::Settled { .. } => 28,
        Frame::Finish => 29,
        Frame::Counted { .. } => 30,
        Frame::Finished => 31,
        Frame::Start(_) => 32,
        Frame::Compare { .. } => 33,
        Frame::Compared { .. } => 34,
        Frame::Host { .. } => 35,
        Frame::Fetch { .. } => 36,
        Frame::Fetched { .. } => 37,
        Frame::Everywhere { .. } => 38,
        Frame::Discard => 39,
        Frame::DiscardAnswer(_) => 40,
    }
}

/// How often each pair was seen.
#[derive(Clone, Debug)]
pub struct Coverage {
    pairs: Vec<u32>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { pairs: vec![0; STATES * KINDS] }
    }
}

impl Coverage {
    pub(crate) fn saw(&mut self, state: usize, kind: usize) {
        let count = &mut self.pairs[state * KINDS + kind];
        *count = count.saturating_add(1);
    }

    /// Adds what another run has seen.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.pairs.iter_mut().zip(&other.pairs) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Number of different pairs seen.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.pairs.iter().filter(|count| **count > 0).count()
    }

    /// Number of different states seen.
    #[must_use]
    pub fn states(&self) -> usize {
        self.pairs.chunks(KINDS).filter(|row| row.iter().any(|count| *count > 0)).count()
    }

    /// Number of different kinds of events seen.
    #[must_use]
    pub fn kinds(&self) -> usize {
        (0..KINDS).filter(|kind| self.pairs.iter().skip(*kind).step_by(KINDS).any(|count| *count > 0)).count()
    }
}
