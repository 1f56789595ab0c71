//! The only thing that clears a dirty bit (design D11).
//!
//! A bit that is cleared too early is silent divergence: the peer lacks the block and nobody knows. So clearing
//! takes a value that cannot be made without what a *stable* acknowledgement carries:
//!
//! - **the peer**: an acknowledgement of one peer says nothing about another. With three nodes there is one more way:
//!   a primary says of a peer that is in sync with it what is stable there, to a node that is in sync with it too;
//!   both copies are the primary's then, so nothing of the one is missing on the other;
//! - **the session**: one connection within one term. After a reconnect the peer may have lost its cache, or may
//!   have been set back, and sequences of another term cannot be compared. The bitmap names the session that it
//!   takes proofs of, and takes none while there is no session;
//! - **the range** that is stable there: a block is cleared only if the range covers the whole of it;
//! - **the sequence** up to which the content was the newest: for a write its own, for a resync block the
//!   sequence at which the source read it. A bit that was set later stays.
//!
//! Outside this crate there is no way to make one:
//!
//! ```compile_fail,E0624
//! use evenkeel_core::{ids::{PeerIndex, Sequence}, meta::stable_proof::{SessionId, StableProof}};
//! let peer = PeerIndex::new(0).unwrap();
//! let _ = StableProof::from_acknowledgement(peer, SessionId(1), 0..4096, Sequence(1));
//! ```
//!
//! "Written" is not stable: an acknowledgement of a write that the peer's cache may still lose must not become a
//! proof. The constructor is visible in this crate only, and takes every part by name; fields are private; there
//! is no `Default`, no setter, and the type is not built from bytes.

use std::ops::Range;

use crate::ids::{PeerIndex, Sequence};

/// One connection to a peer within one term; never used twice in the life of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId(pub u64);

/// That a peer has a range of the device on media that survive power loss, up to some write.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct StableProof {
    peer: PeerIndex,
    session: SessionId,
    bytes: Range<u64>,
    upto: Sequence,
}

impl StableProof {
    /// From an acknowledgement that says: `peer` has flushed, in `session`, what `bytes` held after the write
    /// `upto`.
    pub(crate) fn from_acknowledgement(
        peer: PeerIndex,
        session: SessionId,
        bytes: Range<u64>,
        upto: Sequence,
    ) -> Self {
        Self { peer, session, bytes, upto }
    }

    /// From the word of the primary with which this node shares `session`: `peer`, which is in sync with it as this
    /// node is, has flushed every write up to `upto` (design G9).
    pub(crate) fn from_primary(
        peer: PeerIndex,
        session: SessionId,
        bytes: Range<u64>,
        upto: Sequence,
    ) -> Self {
        Self { peer, session, bytes, upto }
    }

    /// Whose acknowledgement it was.
    #[must_use]
    pub fn peer(&self) -> PeerIndex {
        self.peer
    }

    /// In which session it came.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The bytes of the device that it covers.
    #[must_use]
    pub fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    /// Up to which write the peer has them.
    #[must_use]
    pub fn upto(&self) -> Sequence {
        self.upto
    }
}

/// For benchmarks only, behind a feature that nothing else turns on: what clearing costs.
#[cfg(feature = "measure")]
pub mod measure {
    use super::{PeerIndex, Range, Sequence, SessionId, StableProof};

    /// A proof of nothing.
    pub fn proof(peer: PeerIndex, session: SessionId, bytes: Range<u64>, upto: Sequence) -> StableProof {
        StableProof::from_acknowledgement(peer, session, bytes, upto)
    }
}
