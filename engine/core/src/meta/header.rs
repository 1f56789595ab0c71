//! The 32 bytes in front of every structure: what it is, where it belongs, whose it is, and its checksum.
//!
//! ```text
//!  0 magic [4]     4 crc32          8 version (u16)   10 copy (u8)   11 peer (u8)   12 page index (u32)
//! 16 owner (u64)  24 sequence (u64)
//! ```
//! The checksum covers the whole structure but itself. Magic, copy, peer and index name the one place where the
//! structure may be found, the owner is the node id, which is random for every metadata file: a page that was
//! written to a wrong place, or left over by another volume, is therefore recognised (design D3).
//!
//! Invariant: a place is only ever overwritten by structures whose fields at 0..4 and 8..24 are the same. A write
//! that was torn at any byte leaves these fields whole, so a bad checksum behind right fields may be a torn
//! write ([`Fault::Torn`]), and wrong fields never are.

use super::codec::is_zero;
use crate::ids::{COUNTER_END, MAX_PEERS, NodeId, PeerIndex};

/// The version of every structure described in `docs/on-disk-format.md`.
pub const FORMAT_VERSION: u16 = 2;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 32;

/// In the field `peer` of a structure that belongs to no peer.
const NO_PEER: u8 = 0xFF;

/// Which of two copies of a structure, written alternately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum CopyId {
    /// The first.
    A,
    /// The second.
    B,
}

impl CopyId {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1.
    #[must_use]
    pub fn as_u8(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

impl std::fmt::Display for CopyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What a structure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Superblock,
    ActivityLog,
    Bitmap(PeerIndex),
}

impl Kind {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Superblock => *b"EvkS",
            Self::ActivityLog => *b"EvkA",
            Self::Bitmap(_) => *b"EvkB",
        }
    }

    fn peer(self) -> u8 {
        match self {
            Self::Superblock | Self::ActivityLog => NO_PEER,
            Self::Bitmap(peer) => u8::try_from(peer.as_usize()).expect("MAX_PEERS is below 256"),
        }
    }
}

const _: () = assert!(MAX_PEERS < NO_PEER as usize);

/// The one place where a structure may be found. `owner` is `None` while the node id is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) copy: CopyId,
    pub(super) index: u32,
    pub(super) owner: Option<NodeId>,
}

/// Why a structure that was read is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The disk did not return it, or the file ends before it.
    #[error("it cannot be read")]
    Unreadable,
    /// Nothing but zeroes.
    #[error("it holds only zeroes: it was never written, or it was wiped")]
    Empty,
    /// The header is right, the checksum is not: as a write leaves it that power loss interrupted.
    #[error("its checksum is wrong, as after a write that was interrupted")]
    Torn,
    /// Not what belongs here, and no interrupted write leaves this.
    #[error("it was overwritten with something else")]
    Damaged,
    /// A whole structure, but one that belongs elsewhere in this or another metadata file.
    #[error("it holds a structure that belongs to another place")]
    Misplaced,
    /// A whole structure for this place, but of another node or volume.
    #[error("it belongs to the metadata of another node or volume (node id {0:?})")]
    Foreign(NodeId),
    /// A whole structure of a version that this program does not know.
    #[error("its format version is {0}; this program knows {FORMAT_VERSION}")]
    Version(u16),
    /// Everything about it is right but what it says.
    #[error("its checksum is right, but it contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Fault {
    /// Whether an interrupted write can have left this, so that the other copy holds the last finished state.
    #[must_use]
    pub fn is_torn(self) -> bool {
        match self {
            Self::Torn => true,
            Self::Unreadable
            | Self::Empty
            | Self::Damaged
            | Self::Misplaced
            | Self::Foreign(_)
            | Self::Version(_)
            | Self::Contradiction(_) => false,
        }
    }
}

/// Fills in the header of `bytes`, whose body is complete.
pub(super) fn seal(bytes: &mut [u8], place: Place, sequence: u64) {
    let owner = place.owner.expect("what is written has an owner");
    bytes[0..4].copy_from_slice(&place.kind.magic());
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[10] = place.copy.as_u8();
    bytes[11] = place.kind.peer();
    bytes[12..16].copy_from_slice(&place.index.to_le_bytes());
    bytes[16..24].copy_from_slice(&owner.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
    reseal(bytes);
}

/// Makes the checksum right.
pub(super) fn reseal(bytes: &mut [u8]) {
    let crc = checksum(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A header that was found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsealed {
    pub(super) owner: NodeId,
    pub(super) sequence: u64,
}

/// Checks the header of `bytes` against the place where they were read.
pub(super) fn unseal(bytes: &[u8], place: Place) -> Result<Unsealed, Fault> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(Fault::Unreadable);
    };
    if is_zero(bytes) {
        return Err(Fault::Empty);
    }
    let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let version = u16::from_le_bytes([head[8], head[9]]);
    let owner = NodeId(field(16));
    let sequence = field(24);
    let intact = checksum(bytes).to_le_bytes() == head[4..8];

    let fault = if head[0..4] != place.kind.magic() {
        if intact { Fault::Misplaced } else { Fault::Damaged }
    } else if version != FORMAT_VERSION {
        if intact { Fault::Version(version) } else { Fault::Damaged }
    } else if (head[10], head[11]) != (place.copy.as_u8(), place.kind.peer())
        || head[12..16] != place.index.to_le_bytes()
    {
        if intact { Fault::Misplaced } else { Fault::Damaged }
    } else if owner.0 == 0 || place.owner.is_some_and(|expected| expected != owner) {
        if intact { Fault::Foreign(owner) } else { Fault::Damaged }
    } else if !intact {
        Fault::Torn
    } else if sequence >= COUNTER_END {
        Fault::Contradiction("its sequence has ended")
    } else {
        return Ok(Unsealed { owner, sequence });
    };
    Err(fault)
}

/// CRC-32 (IEEE) of everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[0..4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}
