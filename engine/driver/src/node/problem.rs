//! What is wrong with a volume, and what mends it: for `status`, one entry for each thing that an operator should
//! look at.

use std::fmt;

use crate::link;

/// What kind of thing is wrong. The code is part of the operator's interface: scripts look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemCode {
    /// The metadata are there, the data are not (design D2).
    DataMissing,
    /// The data are there, the metadata are not (design D2).
    MetaMissing,
    /// Data or metadata are shorter than they must be (design D3).
    Truncated,
    /// Files or disks were exchanged (design D3).
    Swapped,
    /// The metadata are of another cluster, volume or node (design D3).
    Foreign,
    /// The metadata are older than this node remembers (design D6).
    Older,
    /// The metadata cannot be read as such (design D3).
    MetaDamaged,
    /// The size is not the configured one.
    SizeDiffers,
    /// The metadata were made for other peers than the configured ones.
    PeersChanged,
    /// Another program has the file or device (design D4).
    Busy,
    /// The operating system refuses to open it.
    CannotOpen,
    /// The disk failed while it was used (design W4).
    DiskFailed,
    /// The volume is still being opened.
    Opening,
    /// The copies have parted (design G6).
    SplitBrain,
    /// The copies have nothing in common (design G6).
    Unrelated,
    /// A peer is not who it should be, or speaks another version: see the code of the links.
    Link(link::ProblemCode),
    /// A peer does what the protocol forbids, or refuses this node.
    PeerRefused,
    /// The disk of a peer is not the one that belongs there: a copy of another node's (design D4).
    CopiedDisk,
    /// This node or a peer has no disk for the volume.
    NoCopy,
    /// A peer cannot be reached.
    PeerUnreachable,
    /// The operator has disconnected a peer.
    PeerDisconnected,
    /// This copy is not the newest.
    NotUpToDate,
    /// I/O is held.
    Suspended,
}

impl ProblemCode {
    /// The code as `status --json` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DataMissing => "data-missing",
            Self::MetaMissing => "meta-missing",
            Self::Truncated => "truncated",
            Self::Swapped => "swapped",
            Self::Foreign => "foreign",
            Self::Older => "older",
            Self::MetaDamaged => "meta-damaged",
            Self::SizeDiffers => "size-differs",
            Self::PeersChanged => "peers-changed",
            Self::Busy => "busy",
            Self::CannotOpen => "cannot-open",
            Self::DiskFailed => "disk-failed",
            Self::Opening => "opening",
            Self::SplitBrain => "split-brain",
            Self::Unrelated => "unrelated",
            Self::Link(link::ProblemCode::Identity) => "peer-identity",
            Self::Link(link::ProblemCode::Cluster) => "peer-cluster",
            Self::Link(link::ProblemCode::Node) => "peer-node",
            Self::Link(link::ProblemCode::Version) => "peer-version",
            Self::Link(link::ProblemCode::Volume) => "peer-volume",
            Self::Link(link::ProblemCode::Protocol) => "peer-protocol",
            Self::PeerRefused => "peer-refused",
            Self::CopiedDisk => "peer-disk",
            Self::NoCopy => "no-copy",
            Self::PeerUnreachable => "peer-unreachable",
            Self::PeerDisconnected => "peer-disconnected",
            Self::NotUpToDate => "not-up-to-date",
            Self::Suspended => "suspended",
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// The peer that it is about, if it is about one.
    pub peer: Option<String>,
    /// What is wrong, with names and values.
    pub text: String,
    /// What to do about it: a command, or a sentence.
    pub remedy: String,
}
