//! What the links tell the node, and the names that both use.

use std::fmt;

use evenkeel_core::volume::{
    io::{Channel, LinkId},
    wire::Frame,
};

/// Names another node; chosen by whoever runs the endpoint, one for each configured peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u32);

/// Names a volume; chosen by whoever runs the endpoint, one for each configured volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeKey(pub u32);

/// One thing that happened. Of one link first [`LinkEvent::Up`], then frames, then [`LinkEvent::Down`], and
/// nothing after it.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// All three channels to a peer are there for this volume, authenticated and empty. An earlier link of the
    /// same two is down, and was said to be.
    Up {
        /// To whom.
        peer: PeerKey,
        /// Of which volume.
        volume: VolumeKey,
        /// Its name; never used twice in the life of a process.
        link: LinkId,
    },
    /// A frame came in; in order within its channel.
    Frame {
        /// From whom.
        peer: PeerKey,
        /// Of which volume.
        volume: VolumeKey,
        /// On which link.
        link: LinkId,
        /// On which channel.
        channel: Channel,
        /// The frame, its checksums verified; a payload lies at a multiple of
        /// [`evenkeel_nbd::buffer::ALIGNMENT`].
        frame: Frame,
    },
    /// The link is gone, whole. Comes once for each [`LinkEvent::Up`], also after [`Endpoint::close`].
    ///
    /// [`Endpoint::close`]: super::Endpoint::close
    Down {
        /// To whom.
        peer: PeerKey,
        /// Of which volume.
        volume: VolumeKey,
        /// Which.
        link: LinkId,
        /// Why.
        reason: Ending,
    },
    /// Something that an operator has to mend stands between this node and a peer, or no longer does. Said when
    /// it changes, not at every attempt.
    Problem {
        /// Which peer.
        peer: PeerKey,
        /// Which volume; `None`: all that are shared with this peer.
        volume: Option<VolumeKey>,
        /// What; `None`: mended.
        problem: Option<Problem>,
    },
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What kind of end.
    pub cause: Cause,
    /// For people.
    pub text: String,
}

/// The kinds of ends that need telling apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This node closed it.
    Closed,
    /// The peer closed it, and says why.
    ClosedByPeer,
    /// The peer's process ended or was started again.
    PeerGone,
    /// Nothing came from the peer for the idle time.
    Silent,
    /// A newer link took its place.
    Replaced,
    /// What came was not the protocol.
    Protocol,
    /// The peer did not read what was sent to it.
    Overflow,
}

/// What stands between two nodes until somebody mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// What is so and what should be, with both values; and what helps.
    pub text: String,
}

/// The kinds of problems; the text of each is its stable name in `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemCode {
    /// The other end has another key than the configured one, or not the key that belongs to its certificate.
    Identity,
    /// The other end belongs to another cluster.
    Cluster,
    /// The other end calls itself, or this node, by another name.
    Node,
    /// No version of the protocol that both speak.
    Version,
    /// The peer does not have the volume.
    Volume,
    /// What the peer sent is not the protocol.
    Protocol,
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "peer-identity",
            Self::Cluster => "peer-cluster",
            Self::Node => "peer-node",
            Self::Version => "peer-version",
            Self::Volume => "peer-volume",
            Self::Protocol => "peer-protocol",
        })
    }
}
