//! What an operator can tell a volume, and what it answers.

use super::span::ByteSpan;
use crate::ids::{PeerIndex, Timestamp};

/// How far a promotion may go beyond what is known to be safe (design P3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Only what is safe.
    No,
    /// From a disk that is Consistent or Outdated.
    Yes,
    /// Even from an Inconsistent disk.
    Inconsistent,
}

/// A command of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Become primary (P3, P4).
    Primary(Force),
    /// Become secondary (P5); with `force` clients in the way are cut off.
    Secondary {
        /// Do not wait for clients.
        force: bool,
    },
    /// Close the link to a peer and keep it closed.
    Disconnect(PeerIndex),
    /// Allow the link to a peer again.
    Connect(PeerIndex),
    /// Declare the own copy bad: it is compared and copied whole from a peer.
    Invalidate,
    /// Declare the copy of a peer in sync bad: it is compared and copied whole from here.
    InvalidatePeer(PeerIndex),
    /// Say what the handshake with a peer would conclude now, without moving anything (`connect --dry-run`).
    Foretell {
        /// Which peer.
        peer: PeerIndex,
        /// Nobody waits for the answer any more from then on.
        until: Timestamp,
    },
    /// Hold the resync still, or let it go on.
    PauseResync(bool),
    /// Resyncs compare at most so many bytes a second from now on; `None` for as fast as they go (R5).
    LimitResync(Option<u64>),
    /// Compare a peer in sync, block by block (R7).
    Verify {
        /// Which peer.
        peer: PeerIndex,
        /// Write what differs to the peer again.
        repair: bool,
    },
    /// End a split brain by discarding what this node (`Own`) or the peer wrote since the histories parted.
    Resolve {
        /// With which peer.
        peer: PeerIndex,
        /// Whose changes are discarded.
        discard: Discard,
    },
    /// The volume grows to so many bytes, here and on every peer in sync.
    Resize(u64),
    /// Leave cleanly (P6): as `Secondary { force: true }`, then the clean-shutdown record.
    Shutdown,
}

/// Whose changes a split brain's end discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// Those of this node.
    Own,
    /// Those of the peer.
    Peers,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAnswer {
    /// Done, and stable.
    Done,
    /// What a handshake would conclude, in words.
    Foretold(String),
    /// A verify has ended.
    Verified {
        /// How much was compared.
        compared_bytes: u64,
        /// How much of it differed, in whole blocks.
        differing_bytes: u64,
        /// Where; only the first ones are named.
        differing: Vec<ByteSpan>,
        /// Whether what differed was written again.
        repaired: bool,
    },
    /// Not done, nothing changed; the text says why and what would help.
    Refused(String),
}
