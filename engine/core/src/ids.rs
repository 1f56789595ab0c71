//! Newtypes for every integer that means something. Mixing two of them up does not compile.
//!
//! Invariant: no arithmetic that can wrap. A counter that could pass its maximum panics instead (the process
//! dies, the peer takes over); none of them can get there in the life of a machine.

use std::fmt;

/// Names a node within a volume: random, made with its metadata, never zero, never changed. The order of two
/// ids carries no meaning; it only breaks ties the same way on both sides (design G3, G8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// Names a cluster: random, agreed at first contact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u128);

/// Names a volume: random, agreed at first contact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub u128);

/// Names one history of the data: random, never a constant (design G3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationId(pub u128);

/// The kernel's id of the running system; a new one means that caches were lost (design P1, G8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub u128);

/// Names one run of the daemon on one disk (design D4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub u128);

/// The place of a peer in the superblock and in every per-peer structure, below [`MAX_PEERS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(u8);

/// A volume has at most this many peers, that is eight nodes.
pub const MAX_PEERS: usize = 7;

impl PeerIndex {
    /// The lowest.
    pub const FIRST: Self = Self(0);

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_PEERS).filter_map(Self::new)
    }

    /// The index as such, or `None` when there is no such peer.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        (index < MAX_PEERS).then(|| Self(u8::try_from(index).expect("MAX_PEERS is below 256")))
    }

    /// For indexing.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

impl Term {
    /// The number of the term of a generation that new nodes make together: no primary ever writes under it, so a copy
    /// that has it as head is as empty as it was made. Every other term has a higher one.
    pub const FIRST: u64 = 1;
}

/// The right to be primary, granted to one node; only ever grows (design P4). Ordered by number, then node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// Grows by at least one at every promotion.
    pub number: u64,
    /// To whom it was granted.
    pub node: NodeId,
}

/// A history of the data together with the term in which it began.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Its random name.
    pub id: GenerationId,
    /// The term of the primary that made it.
    pub term: Term,
}

/// The place of a write in the order that its primary chose; the first write of a term has 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// What counts (writes, pages, attaches, terms) never comes so far; where such a number is read it is refused. So one can
/// go on counting from everything that was read (found by fuzzing: a page of 2^64 - 2 could be loaded, and not written
/// twice).
pub const COUNTER_END: u64 = 1 << 63;

/// The same for what a peer says: what follows from it can still be written down, and be read again.
pub const WIRE_COUNTER_END: u64 = 1 << 62;

impl Sequence {
    /// Before every write.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 writes cannot be reached"))
    }
}

/// A position on the device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteOffset(pub u64);

/// A bitmap block: the unit in which it is known what a peer lacks (design D10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u64);

/// An activity log extent (design D7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtentIndex(pub u32);

/// Counts the attaches of a disk, and minutes of changing data (design D6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AttachCounter(pub u64);

/// A point in monotonic time, in nanoseconds since some start. Only the driver knows a clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This point plus `duration`.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).expect("a duration of centuries");
        Self(self.0.checked_add(nanos).expect("a clock of centuries"))
    }

    /// The time from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Writes a `Debug` that shows name and value on one line: traces of the simulator are read by people.
macro_rules! short_debug {
    ($($name:ident $format:literal),+ $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    )+};
}

short_debug!(
    NodeId "{:x}",
    ClusterId "{:x}",
    VolumeId "{:x}",
    GenerationId "{:x}",
    BootId "{:x}",
    InstanceId "{:x}",
    PeerIndex "{}",
    Sequence "{}",
    ByteOffset "{}",
    BlockIndex "{}",
    ExtentIndex "{}",
    AttachCounter "{}",
    Timestamp "{}",
);

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Term({} of {:x})", self.number, self.node.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({:x} in {:?})", self.id.0, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn terms_order_by_number_then_node() {
        let term = |number, node| Term { number, node: NodeId(node) };
        assert!(term(1, 9) < term(2, 1));
        assert!(term(2, 1) < term(2, 9));
    }

    #[test]
    fn peer_indices_stop_at_the_limit() {
        assert_eq!(PeerIndex::all().count(), MAX_PEERS);
        assert_eq!(PeerIndex::new(MAX_PEERS), None);
        assert_eq!(PeerIndex::new(2).map(PeerIndex::as_usize), Some(2));
    }

    #[test]
    fn time_never_runs_backwards() {
        let start = Timestamp(5);
        let later = start.after(Duration::from_micros(1));
        assert_eq!(later.since(start), Duration::from_micros(1));
        assert_eq!(start.since(later), Duration::ZERO);
    }
}
