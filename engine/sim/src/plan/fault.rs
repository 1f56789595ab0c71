//! The kinds of faults and commands that a run can be given, and one of them on the schedule.

/// Everything that the schedule can do to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A node's process dies (SIGKILL); its kernel keeps the caches.
    ProcessCrash,
    /// A machine loses power.
    PowerLoss,
    /// All machines lose power at once.
    PowerLossEverywhere,
    /// A process stands still (SIGSTOP, VM pause) and then goes on.
    Pause,
    /// A node is shut down cleanly and started again.
    CleanRestart,
    /// A connection breaks; both ends learn it, at different times.
    LinkCut,
    /// A connection is replaced by a newer one without a word.
    LinkReplaced,
    /// Nothing arrives in one direction for a while.
    OneWayCut,
    /// Nothing arrives in either direction for a while.
    Partition,
    /// The link breaks and comes back again and again.
    Flap,
    /// One channel stands still for a while.
    Clog,
    /// One frame never arrives, nor does anything behind it, until the connection is cut.
    DropFrame,
    /// Frames of an older connection arrive again.
    Replay,
    /// A frame is damaged; the parser finds it and the connection is closed.
    CorruptFrame,
    /// A disk answers nothing for a while.
    DiskStall,
    /// A read of data fails.
    DataReadError,
    /// A read of metadata fails.
    MetaReadError,
    /// A write of data fails.
    WriteError,
    /// A flush fails, and its pages are marked clean.
    FlushError,
    /// A commit of metadata fails.
    CommitError,
    /// No room for data.
    DataNoSpace,
    /// No room for metadata.
    MetaNoSpace,
    /// A write of data is answered and never done.
    LostWrite,
    /// A write of data goes elsewhere in the data.
    MisdirectedWrite,
    /// A write of data goes into the metadata.
    MisdirectedToMeta,
    /// A bit of the data flips.
    DataBitFlip,
    /// A bit of the metadata flips while the node is down.
    MetaBitFlip,
    /// An older copy of data and metadata is put back while the node is down.
    SnapshotBoth,
    /// An older copy of the data alone is put back.
    SnapshotData,
    /// An older copy of the metadata alone is put back.
    SnapshotMeta,
    /// A blank disk is put in under the old identity.
    BlankDisk,
    /// A node starts without its disk mounted.
    NotMounted,
    /// A node starts with a data file that is too short.
    Truncated,
    /// A client's connection breaks with requests under way.
    ClientDisconnect,
    /// The operator moves the primary role to another node, cleanly.
    Handover,
    /// The operator makes the primary secondary, and later primary again.
    Demote,
    /// The operator asks a second node to become primary, without force.
    PromoteBlindly,
    /// Two nodes are cut apart and the operator forces the second to become primary, although the first may live.
    ForceBlindly,
    /// The operator takes a link down by hand, and later up again.
    Disconnect,
    /// The operator declares a secondary's copy bad.
    Invalidate,
    /// The operator holds resyncs still for a while.
    PauseResync,
    /// The operator compares the replicas, with or without repair.
    Verify,
    /// The operator makes the volume larger.
    Resize,
    /// A machine sleeps for long and then goes on where it was.
    Sleep,
    /// A machine starts without its disk mounted, the daemon makes new files under the old identity, and later the
    /// disk is back.
    BareMountPoint,
    /// The primary stands still for so long that an impatient operator may force a peer that follows it.
    ForceBesidePause,
    /// A process dies, or a machine loses power, just after it was told something of a certain kind.
    Ambush,
}

impl FaultKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 47] = [
        Self::ProcessCrash,
        Self::PowerLoss,
        Self::PowerLossEverywhere,
        Self::Pause,
        Self::CleanRestart,
        Self::LinkCut,
        Self::LinkReplaced,
        Self::OneWayCut,
        Self::Partition,
        Self::Flap,
        Self::Clog,
        Self::DropFrame,
        Self::Replay,
        Self::CorruptFrame,
        Self::DiskStall,
        Self::DataReadError,
        Self::MetaReadError,
        Self::WriteError,
        Self::FlushError,
        Self::CommitError,
        Self::DataNoSpace,
        Self::MetaNoSpace,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::MisdirectedToMeta,
        Self::DataBitFlip,
        Self::MetaBitFlip,
        Self::SnapshotBoth,
        Self::SnapshotData,
        Self::SnapshotMeta,
        Self::BlankDisk,
        Self::NotMounted,
        Self::Truncated,
        Self::ClientDisconnect,
        Self::Handover,
        Self::Demote,
        Self::PromoteBlindly,
        Self::ForceBlindly,
        Self::Disconnect,
        Self::Invalidate,
        Self::PauseResync,
        Self::Verify,
        Self::Resize,
        Self::Sleep,
        Self::BareMountPoint,
        Self::ForceBesidePause,
        Self::Ambush,
    ];

    /// Its place in [`FaultKind::ALL`].
    #[must_use]
    pub fn number(self) -> usize {
        self as usize
    }

    /// Whether it takes a whole node's copy, or makes it doubtful: such a fault needs another good copy.
    #[must_use]
    pub fn damages_copy(self) -> bool {
        match self {
            Self::WriteError
            | Self::FlushError
            | Self::CommitError
            | Self::DataNoSpace
            | Self::MetaNoSpace
            | Self::DataReadError
            | Self::MetaReadError
            | Self::LostWrite
            | Self::MisdirectedWrite
            | Self::MisdirectedToMeta
            | Self::DataBitFlip
            | Self::MetaBitFlip
            | Self::SnapshotBoth
            | Self::SnapshotData
            | Self::SnapshotMeta
            | Self::BlankDisk
            | Self::BareMountPoint
            | Self::Invalidate => true,
            Self::ProcessCrash
            | Self::PowerLoss
            | Self::PowerLossEverywhere
            | Self::Pause
            | Self::CleanRestart
            | Self::LinkCut
            | Self::LinkReplaced
            | Self::OneWayCut
            | Self::Partition
            | Self::Flap
            | Self::Clog
            | Self::DropFrame
            | Self::Replay
            | Self::CorruptFrame
            | Self::DiskStall
            | Self::NotMounted
            | Self::Truncated
            | Self::ClientDisconnect
            | Self::Handover
            | Self::Demote
            | Self::PromoteBlindly
            | Self::ForceBlindly
            | Self::Disconnect
            | Self::PauseResync
            | Self::Sleep
            | Self::Resize
            | Self::ForceBesidePause
            | Self::Ambush
            | Self::Verify => false,
        }
    }

    /// Whether only checksums at rest could find it: damage to data that the disk itself does not report.
    #[must_use]
    pub fn silent(self) -> bool {
        matches!(
            self,
            Self::LostWrite
                | Self::MisdirectedWrite
                | Self::MisdirectedToMeta
                | Self::DataBitFlip
                | Self::SnapshotData
        )
    }

    /// The kind with this name, as `Debug` prints it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
    }
}

/// One entry of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, in nanoseconds of global virtual time.
    pub at: u64,
    /// What.
    pub kind: FaultKind,
    /// The node concerned; for links, its end.
    pub node: usize,
    /// For links and commands about a peer: the other node.
    pub peer: usize,
    /// How long it lasts, in nanoseconds, where it lasts.
    pub lasts: u64,
    /// Its own source of draws, so that leaving another entry out does not change this one.
    pub key: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_places_in_the_list() {
        for (place, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number(), place);
            assert_eq!(FaultKind::named(&format!("{kind:?}")), Some(kind));
        }
    }
}
