//! The two copies of the superblock: which one counts when a disk is opened, and which one is written next.
//!
//! Each update has the next sequence and goes to the copy that is not the newest good one, so at every moment one
//! whole superblock is on disk (design D3). An update counts once it is flushed; one at a time.
//!
//! ```text
//!            update(new)                    committed()
//!   Settled ────────────► Writing(other copy) ────────────► Settled: the other copy is the newest
//!      ▲                      │ crash: old or new, whichever copy is whole and has the higher sequence
//!      └──────── open ◄───────┘
//! ```
//!
//! What an interrupted update can leave is opened; everything else is refused with its reason. A copy that no
//! interrupted write explains (wiped, unreadable, overwritten) may have been the newest one: the state that is
//! opened then may be one update old, and [`Opened::may_be_old`] says so.
//!
//! Invariants, asserted: the sequence grows by one; node id, attach counter and highest term never go back.

use bytes::Bytes;

use super::{
    header::{CopyId, Fault},
    layout::{Layout, MetaWrite, SUPERBLOCK_BYTES},
    superblock::{Superblock, decode, encode},
};
use crate::ids::{AttachCounter, ClusterId, InstanceId, NodeId, VolumeId};

/// The sequence of copy A at creation; copy B has the next one.
const FIRST_SEQUENCE: u64 = 1;

/// What is known before a metadata file is opened, from the configuration, the state directory and the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expectations {
    /// The length of the metadata file or device.
    pub metadata_bytes: u64,
    /// The length of the data file or device; `None` if only the metadata are looked at.
    pub data_bytes: Option<u64>,
    /// The cluster, if the state directory knows it.
    pub cluster: Option<ClusterId>,
    /// The volume, if the state directory knows it.
    pub volume: Option<VolumeId>,
    /// The node id, if the state directory knows it.
    pub node: Option<NodeId>,
    /// The attach counter that the state directory remembers (design D6); a lower one is refused.
    pub attach_counter: Option<AttachCounter>,
    /// The run that must have the disk: given when a daemon looks whether it still has its disk (design D4).
    pub instance: Option<InstanceId>,
}

/// Why a metadata file is not opened. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Its creation did not come so far that anything could depend on it.
    #[error("the metadata were never finished: create them again")]
    NotCreated,
    /// Neither copy can be used.
    #[error(
        "both superblocks are unusable (copy A: {a}; copy B: {b}): the metadata cannot be trusted; create the replica anew and let it resync"
    )]
    NoGoodCopy {
        /// What is wrong with copy A.
        a: Fault,
        /// What is wrong with copy B.
        b: Fault,
    },
    /// A copy is whole, but it must not be where it is, whatever the other says.
    #[error("superblock copy {copy}: {fault}; refused, because files or disks may have been swapped")]
    Refused {
        /// Which copy.
        copy: CopyId,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Both copies are good, and they cannot both be.
    #[error("the two superblocks contradict each other: parts of different metadata files were put together")]
    Mixed,
    /// Not the cluster, volume or node that is expected.
    #[error("the metadata are of another {what}: {found:x} instead of {expected:x}; check the paths")]
    Foreign {
        /// Of what.
        what: &'static str,
        /// The id in the metadata.
        found: u128,
        /// The id that is expected.
        expected: u128,
    },
    /// An old copy was put back.
    #[error(
        "the metadata are older than this node remembers (attach counter {found}, remembered {remembered}): an old copy or snapshot was put back; create the replica anew and let it resync"
    )]
    Older {
        /// The counter in the metadata.
        found: u64,
        /// The counter that is remembered.
        remembered: u64,
    },
    /// The metadata file has lost its end.
    #[error("the metadata file has {found} bytes and needs {needed}: it was truncated")]
    MetadataTruncated {
        /// Its length.
        found: u64,
        /// The length that its layout needs.
        needed: u64,
    },
    /// The data file has lost its end.
    #[error("the data file has {found} bytes and the volume {needed}: it was truncated, or is another file")]
    DataTruncated {
        /// Its length.
        found: u64,
        /// The size of the volume.
        needed: u64,
    },
    /// Another run of a daemon has taken the disk.
    #[error("another daemon has taken this disk (instance {found:x?})")]
    TakenOver {
        /// Who has it, if it says so.
        found: Option<u128>,
    },
}

/// A metadata file that was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// What it says, and where it goes on.
    pub pair: SuperblockPair,
    /// What is wrong with the copy that was not taken, if anything is.
    pub other: Option<Fault>,
}

impl Opened {
    /// Whether the other copy may have been the newer one. Then nothing that this one claims may be relied on
    /// without a peer: the disk is as one that was set back (design D6).
    #[must_use]
    pub fn may_be_old(&self) -> bool {
        self.other.is_some_and(|fault| {
            let creation = self.pair.sequence == FIRST_SEQUENCE;
            !fault.is_torn() && !creation
        })
    }
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SuperblockPair {
    current: Superblock,
    sequence: u64,
    /// Where `current` is.
    newest: CopyId,
    writing: Option<Superblock>,
}

impl SuperblockPair {
    /// The writes that begin a creation, to be flushed before anything else is written: what was on the device
    /// before must not be taken for a copy of the new superblock.
    #[must_use]
    pub fn blank() -> [MetaWrite; 2] {
        [CopyId::A, CopyId::B].map(|copy| MetaWrite {
            offset: Layout::superblock_at(copy),
            bytes: Bytes::from_static(&[0; SUPERBLOCK_BYTES]),
        })
    }

    /// The writes that end a creation: the first must be flushed before the second is made, and everything else
    /// in the layout before the first.
    #[must_use]
    pub fn create(superblock: Superblock) -> (Self, [MetaWrite; 2]) {
        let first = write(&superblock, CopyId::A, FIRST_SEQUENCE);
        let second = write(&superblock, CopyId::B, FIRST_SEQUENCE + 1);
        let pair =
            Self { current: superblock, sequence: FIRST_SEQUENCE + 1, newest: CopyId::B, writing: None };
        (pair, [first, second])
    }

    /// Takes what was read at the places of both copies; `None` is a copy that the disk did not return.
    ///
    /// What was read may still lie in a volatile cache, if only a process died. **Flush the metadata once before
    /// the first write after opening**: otherwise a power loss can tear the copy that was read together with the
    /// one that is written next. The same flush serves the activity log and the bitmaps.
    ///
    /// # Errors
    /// [`OpenError`] with the reason in plain words.
    pub fn open(
        a: Option<&[u8]>,
        b: Option<&[u8]>,
        expectations: &Expectations,
    ) -> Result<Opened, OpenError> {
        let read = |bytes: Option<&[u8]>, copy| match bytes {
            Some(bytes) => decode(bytes, copy, None),
            None => Err(Fault::Unreadable),
        };
        let a = read(a, CopyId::A);
        let b = read(b, CopyId::B);
        refuse_displaced(CopyId::A, &a)?;
        refuse_displaced(CopyId::B, &b)?;
        let opened = match (a, b) {
            (Ok(a), Ok(b)) => newer(a, b)?,
            (Ok(a), Err(fault)) => only(a, CopyId::A, fault),
            (Err(fault), Ok(b)) => only(b, CopyId::B, fault),
            (Err(_), Err(Fault::Empty)) => return Err(OpenError::NotCreated),
            (Err(a), Err(b)) => return Err(OpenError::NoGoodCopy { a, b }),
        };
        check(&opened.pair.current, expectations)?;
        Ok(opened)
    }

    /// What counts: the last state whose update was committed.
    #[must_use]
    pub fn current(&self) -> &Superblock {
        &self.current
    }

    /// How many updates there were.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether an update waits for [`Self::committed`].
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Begins an update. The write must be made and flushed; then [`Self::committed`] is called, or
    /// [`Self::failed`] if it did not end well.
    ///
    /// # Panics
    /// If an update is under way, or `new` goes back in anything that never goes back.
    pub fn update(&mut self, new: Superblock) -> MetaWrite {
        assert!(self.writing.is_none(), "one update of the superblock at a time");
        assert_eq!(new.node, self.current.node, "the node id is fixed at creation");
        assert!(new.attach_counter >= self.current.attach_counter, "the attach counter never falls (D6)");
        assert!(new.highest_term >= self.current.highest_term, "the highest term never falls (P4)");
        let write = write(&new, self.newest.other(), self.next_sequence());
        self.writing = Some(new);
        write
    }

    /// The update has been written and flushed.
    ///
    /// # Panics
    /// If there was none.
    pub fn committed(&mut self) {
        self.sequence = self.next_sequence();
        self.current = self.writing.take().expect("an update was begun");
        self.newest = self.newest.other();
    }

    /// The update could not be written, or not be made stable: any part of it may be there. The next one goes to the
    /// same copy, so that the other stays whole.
    pub fn failed(&mut self) {
        self.writing = None;
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.checked_add(1).expect("2^64 updates cannot be reached")
    }
}

fn write(superblock: &Superblock, copy: CopyId, sequence: u64) -> MetaWrite {
    let bytes: [u8; SUPERBLOCK_BYTES] = encode(superblock, copy, sequence);
    MetaWrite { offset: Layout::superblock_at(copy), bytes: Bytes::copy_from_slice(&bytes) }
}

/// A whole structure in a wrong place, or of a later version, is never the work of an interrupted write. The
/// other copy may look good and yet be the older one: refuse both.
fn refuse_displaced(copy: CopyId, read: &Result<(Superblock, u64), Fault>) -> Result<(), OpenError> {
    match read {
        Err(fault @ (Fault::Misplaced | Fault::Foreign(_) | Fault::Version(_) | Fault::Contradiction(_))) => {
            Err(OpenError::Refused { copy, fault: *fault })
        }
        Ok(_) | Err(Fault::Unreadable | Fault::Empty | Fault::Torn | Fault::Damaged) => Ok(()),
    }
}

/// Of two good copies.
fn newer(a: (Superblock, u64), b: (Superblock, u64)) -> Result<Opened, OpenError> {
    if a.0.node != b.0.node || a.1 == b.1 {
        return Err(OpenError::Mixed);
    }
    let (older, (current, sequence), newest) =
        if a.1 < b.1 { (a.0, b, CopyId::B) } else { (b.0, a, CopyId::A) };
    if older.attach_counter > current.attach_counter || older.highest_term > current.highest_term {
        return Err(OpenError::Mixed);
    }
    Ok(Opened { pair: SuperblockPair { current, sequence, newest, writing: None }, other: None })
}

fn only((current, sequence): (Superblock, u64), newest: CopyId, fault: Fault) -> Opened {
    Opened { pair: SuperblockPair { current, sequence, newest, writing: None }, other: Some(fault) }
}

/// Compares what was found with what is known from elsewhere.
fn check(found: &Superblock, expected: &Expectations) -> Result<(), OpenError> {
    let ids = [
        ("cluster", found.cluster.map(|id| id.0), expected.cluster.map(|id| id.0)),
        ("volume", found.volume.map(|id| id.0), expected.volume.map(|id| id.0)),
        ("node", Some(u128::from(found.node.0)), expected.node.map(|id| u128::from(id.0))),
    ];
    for (what, found, expected) in ids {
        if let (Some(found), Some(expected)) = (found, expected)
            && found != expected
        {
            return Err(OpenError::Foreign { what, found, expected });
        }
    }
    if let Some(remembered) = expected.attach_counter
        && found.attach_counter < remembered
    {
        return Err(OpenError::Older { found: found.attach_counter.0, remembered: remembered.0 });
    }
    let needed = found.layout.end();
    if expected.metadata_bytes < needed {
        return Err(OpenError::MetadataTruncated { found: expected.metadata_bytes, needed });
    }
    let needed = found.layout.geometry().size_bytes();
    if let Some(data_bytes) = expected.data_bytes
        && data_bytes < needed
    {
        return Err(OpenError::DataTruncated { found: data_bytes, needed });
    }
    if let Some(instance) = expected.instance
        && found.instance != Some(instance)
    {
        return Err(OpenError::TakenOver { found: found.instance.map(|id| id.0) });
    }
    Ok(())
}
