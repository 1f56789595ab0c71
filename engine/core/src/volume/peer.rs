//! What a node knows of one peer, and where the two stand on their link.
//!
//! ```text
//!             link up                both said hello            both agree
//!   Down ───────────────> Greeting ─────────────────> Comparing ───────────> Starting
//!    ^                                                 ^  │ verdict forbids      │ Ready
//!    │ link down, protocol broken, silent too long     │  v                      v
//!    └──────────────── from every state ───────────────┴ Apart          Leading / Following
//! ```
//!
//! The *leader* of a link is the primary if one of the two is, else the source of the resync that was agreed,
//! else the lower node id. The leader's writes go to the follower. A promotion on a link in sync turns the two
//! round without a new handshake (see `generations`).

use super::{
    DiskState, Replication, Role,
    follow::Following,
    foretell::Foretelling,
    io::{CommandId, LinkId},
    lead::Leading,
    operator::Discard,
    progress::Progress,
    stranger::Stranger,
    survivors::Word,
    wire::Hello,
};
use crate::{
    generation::{
        verdict::{Extent, Verdict},
        view::{NodeView, Replies},
    },
    ids::{ClusterId, Generation, GenerationId, NodeId, PeerIndex, Timestamp, VolumeId},
};

/// One configured peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) index: PeerIndex,
    /// False after `disconnect`: links are closed as they come.
    pub(crate) allowed: bool,
    pub(crate) link: Option<LinkId>,
    pub(crate) session: Session,
    /// When anything last came from it on this link.
    pub(crate) heard_at: Timestamp,
    /// When it is pinged next.
    pub(crate) ping_at: Timestamp,
    /// What it said of itself on this link.
    pub(crate) told: Option<Told>,
    /// The generation that was offered and is not confirmed yet (G1).
    pub(crate) offered: Option<GenerationId>,
    /// The generations that it has offered and that are not taken yet, in their order (G2).
    pub(crate) taking: Vec<(Generation, Replies)>,
    /// It has said that it leaves on purpose, or goes on without us.
    pub(crate) leaving: bool,
    /// Since when it owes an acknowledgement without any progress.
    pub(crate) owing_since: Option<Timestamp>,
    /// The sum of its watermarks when that was last looked at.
    pub(crate) progress: u64,
    /// The cluster and the volume that its hello named on this link.
    pub(crate) identity: Option<(ClusterId, VolumeId)>,
    /// The operator's decision about a split brain with it.
    pub(crate) resolve: Option<Discard>,
    /// With three nodes: what it said last as primary, and what we told it last (see `survivors`).
    pub(crate) word: Option<Word>,
    /// Whom it named, also those that were not known as peers then.
    pub(crate) word_names: Vec<NodeId>,
    pub(crate) word_sent: Option<Word>,
    /// Who is to be told whether it discards its copy.
    pub(crate) discarding: Option<CommandId>,
    /// Who is to be told whether its copy counts as bad now.
    pub(crate) invalidating: Option<CommandId>,
    /// Who is to be told what the handshake would conclude (`connect --dry-run`).
    pub(crate) foretelling: Option<Foretelling>,
    /// Its disk is not the one that belongs here; until its next hello that is in order.
    pub(crate) stranger: Option<Stranger>,
    /// What it said on this link, while it is a stranger's.
    pub(crate) hello: Option<Hello>,
}

/// What a peer said of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) role: Role,
    pub(crate) disk: DiskState,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) enum Session {
    /// No link.
    Down,
    /// Our hello is sent, theirs is not there.
    Greeting,
    /// Reports are exchanged until both conclude the same from the same two.
    Comparing(Box<Comparing>),
    /// Agreed; what has to be stable first is on its way.
    Starting(Box<Starting>),
    /// The peer gets our writes.
    Leading(Box<Leading>),
    /// We get the peer's writes.
    Following(Box<Following>),
    /// The verdict lets nothing move.
    Apart(Box<Starting>),
}

/// The state of the comparison.
#[derive(Clone, Debug)]
pub(crate) struct Comparing {
    pub(crate) peer_node: NodeId,
    pub(crate) own_number: u32,
    pub(crate) own_view: NodeView,
    pub(crate) theirs: Option<(u32, NodeView)>,
    /// What we concluded from (own, theirs).
    pub(crate) concluded: Option<(u32, u32, Verdict)>,
    /// What the peer concluded, in our order of numbers.
    pub(crate) peer_concluded: Option<(u32, u32, Verdict)>,
}

/// Agreed, not yet running (or never, if the verdict lets nothing move).
#[derive(Clone, Debug)]
pub(crate) struct Starting {
    pub(crate) verdict: Verdict,
    pub(crate) comparing: Comparing,
    /// Whether this node leads.
    pub(crate) leader: bool,
    /// Whether blocks have to be copied; if not, nothing is marked Inconsistent.
    pub(crate) copy: bool,
    /// `Begin` was sent or has come.
    pub(crate) begun: bool,
    /// Both are in sync with the same primary: nothing is compared (see `company`).
    pub(crate) fellows: bool,
}

impl Starting {
    /// The measure of the resync that is to begin, if blocks are to be copied; `dirty_bytes` by the own bitmap.
    pub(crate) fn progress(&self, dirty_bytes: u64, now: Timestamp) -> Option<Progress> {
        let total_bytes = match self.verdict {
            Verdict::Resync { extent: Extent::Full(_), .. } => self.comparing.own_view.size_bytes,
            Verdict::Resync { extent: Extent::Bitmap, .. }
            | Verdict::NoSync
            | Verdict::FreshPair { .. }
            | Verdict::NoCopy(_)
            | Verdict::SplitBrain { .. }
            | Verdict::Unrelated { .. }
            | Verdict::Refused(_) => dirty_bytes,
        };
        self.copy.then(|| Progress::new(self.verdict, total_bytes, now))
    }
}

impl Peer {
    pub(crate) fn new(index: PeerIndex) -> Self {
        Self {
            index,
            allowed: true,
            link: None,
            session: Session::Down,
            heard_at: Timestamp(0),
            ping_at: Timestamp(0),
            told: None,
            offered: None,
            taking: Vec::new(),
            leaving: false,
            owing_since: None,
            progress: 0,
            identity: None,
            resolve: None,
            word: None,
            word_names: Vec::new(),
            word_sent: None,
            discarding: None,
            invalidating: None,
            foretelling: None,
            stranger: None,
            hello: None,
        }
    }

    /// Why its disk does not belong here. What keeps the link up is over with it.
    pub(crate) fn shown_stranger(&self) -> Option<Stranger> {
        self.stranger.filter(|stranger| match stranger {
            Stranger::Unrelated { .. } | Stranger::SameNode(_) => self.hello.is_some() && self.link.is_some(),
            Stranger::NodeOf(..) | Stranger::OtherNode { .. } => true,
        })
    }

    /// The two reports, as long as nothing has begun that they do not tell of.
    pub(crate) fn comparing(&self) -> Option<&Comparing> {
        match &self.session {
            Session::Comparing(comparing) => Some(comparing),
            Session::Apart(starting) => Some(&starting.comparing),
            Session::Down
            | Session::Greeting
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Following(_) => None,
        }
    }

    /// Whether it gets our writes and is in sync, so that answers wait for it.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(&self.session, Session::Leading(leading) if leading.counted())
    }

    /// Whether it gets our writes.
    pub(crate) fn receives(&self) -> bool {
        matches!(&self.session, Session::Leading(_))
    }

    /// Whether both are in sync, whoever leads.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.replication() == Replication::Established
    }

    /// The verdict that lets nothing move.
    pub(crate) fn apart(&self) -> Option<Verdict> {
        match &self.session {
            Session::Apart(apart) => Some(apart.verdict),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Following(_) => None,
        }
    }

    /// Whether the histories have parted.
    pub(crate) fn is_split(&self) -> bool {
        self.replication() == Replication::SplitBrain
    }

    /// The resync on the link, if blocks are being copied.
    pub(crate) fn progress_of_resync(&self) -> Option<&Progress> {
        match &self.session {
            Session::Leading(leading) => leading.progress.as_ref(),
            Session::Following(following) => following.progress.as_ref(),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Apart(_) => None,
        }
    }

    /// Whether a session has begun in which this node copies from the peer, and has not ended.
    pub(crate) fn is_source(&self) -> bool {
        match &self.session {
            Session::Following(following) => !following.in_sync(),
            Session::Starting(starting) => starting.begun && !starting.leader,
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Leading(_)
            | Session::Apart(_) => false,
        }
    }

    /// Whether blocks are to be copied from the peer in a session that has begun, and this copy is still what it was.
    pub(crate) fn is_about_to_overwrite(&self) -> bool {
        matches!(&self.session, Session::Starting(starting) if starting.begun && !starting.leader && starting.copy)
    }

    pub(crate) fn replication(&self) -> Replication {
        match &self.session {
            Session::Down | Session::Greeting | Session::Comparing(_) | Session::Starting(_) => {
                Replication::Off
            }
            Session::Leading(leading) if leading.in_sync() => Replication::Established,
            Session::Leading(_) => Replication::SyncSource,
            Session::Following(following) if following.in_sync() => Replication::Established,
            Session::Following(_) => Replication::SyncTarget,
            Session::Apart(apart) if matches!(apart.verdict, Verdict::SplitBrain { .. }) => {
                Replication::SplitBrain
            }
            Session::Apart(_) => Replication::Off,
        }
    }
}
