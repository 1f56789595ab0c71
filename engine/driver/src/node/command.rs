//! What an operator can tell a node about one of its volumes. Peers have names here.

use evenkeel_core::volume::operator::{Force, OperatorAnswer};
use thiserror::Error;

/// A command for one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeCommand {
    /// Become primary (P3, P4); answered when the export serves.
    Primary(Force),
    /// Become secondary (P5).
    Secondary {
        /// Do not wait for clients.
        force: bool,
    },
    /// Allow the link to a peer, or to all, again.
    Connect {
        /// Whom; all if none is named.
        peer: Option<String>,
    },
    /// Close the link to a peer, or to all, and keep it closed.
    Disconnect {
        /// Whom; all if none is named.
        peer: Option<String>,
    },
    /// Say what the handshake with a peer would conclude now, without moving anything.
    Foretell {
        /// Whom; with one peer it need not be named.
        peer: Option<String>,
    },
    /// Declare the own copy bad, or that of a peer.
    Invalidate {
        /// Whose; the own one if none is named.
        peer: Option<String>,
    },
    /// Hold the resync still, or let it go on.
    PauseResync(bool),
    /// Resyncs compare at most so many bytes a second until the next reload or start; `None` for as fast as they go.
    LimitResync(Option<u64>),
    /// Compare with a peer in sync, block by block (R7).
    Verify {
        /// Whom; with one peer it need not be named.
        peer: Option<String>,
        /// Write what differs to the peer again.
        repair: bool,
    },
    /// Grow to so many bytes, as far as the configuration of every node allows.
    Resize(u64),
    /// End a split brain (G6): what one side wrote since the histories parted is discarded.
    Resolve {
        /// Whose changes are discarded: this node's name or a peer's.
        discard: String,
    },
}

/// How a command ended.
pub type CommandResult = Result<OperatorAnswer, CommandError>;

/// Why a command was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// There is no such volume.
    #[error("no volume is called '{0}' on this node: `evenkeel volume list` shows them")]
    NoSuchVolume(String),
    /// There is no such peer.
    #[error("volume {volume} has no peer called '{peer}'; its peers are: {}", peers.join(", "))]
    NoSuchPeer {
        /// The volume.
        volume: String,
        /// What was asked for.
        peer: String,
        /// What there is.
        peers: Vec<String>,
    },
    /// A peer must be named, because there are several.
    #[error("volume {volume} has several peers, name one: {}", peers.join(", "))]
    WhichPeer {
        /// The volume.
        volume: String,
        /// What there is.
        peers: Vec<String>,
    },
    /// The volume is not open.
    #[error("volume {volume} is not open on this node: {why}")]
    NotOpen {
        /// The volume.
        volume: String,
        /// Why.
        why: String,
    },
    /// The state of things forbids it.
    #[error("{0}")]
    Refused(String),
    /// A peer does not answer.
    #[error("{0}")]
    Unanswered(String),
    /// The node is ending.
    #[error("the node is ending")]
    Ending,
}
