//! Everything about one node that the verdict depends on, as it is exchanged in the handshake.
//!
//! Why: [`decide`](super::decide::decide) is a pure function of two of these. Cluster and volume are not in it:
//! a hello of another cluster or volume is refused before. Neither are flags that only roles depend on
//! (was-up-to-date, entitled, outdated-confirmed: design P1, P2).
//!
//! Invariant: a view is a snapshot. It is made after the activity log was replayed and after the loss of the
//! last session was recorded, and it is made anew if a generation begins before the verdict is carried out.

use super::history::History;
use super::record::PeerRecord;
use crate::ids::{AttachCounter, NodeId, Term};

/// What there is of the volume on a node.
///
/// ```text
///   Fresh ──takes a generation──► Good ◄──resync ends, or promoted by force── Inconsistent
///     │                             └──resync into it begins, invalidate, D6 ──────► ▲
///     └──────────resync into it begins───────────────────────────────────────────────┘
///   any ──disk fails or is not there──► Diskless ──attached again──► what its superblock says
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Copy {
    /// No disk: it failed, or could not be opened.
    Diskless,
    /// Created by Evenkeel, all zeroes, without a generation (design G3).
    Fresh,
    /// Not a cut of any moment. With [`History::toward`] set it is the target of a resync that has not ended: its
    /// clean blocks are those of that generation. Without, nothing in it can be believed (made anew under an old
    /// identity, invalidated, set back).
    Inconsistent,
    /// Consistent, and for all this node knows the data of its head.
    Good,
}

/// What the node is, or was, to the volume.
///
/// ```text
///   Secondary ──promotion──► ServingPrimary ◄──resume──► SuspendedPrimary
///       ▲ ▲                         │ demotion                │
///       │ └─────────────────────────┴─────────────────────────┘
///       │ all stable everywhere, or the next resync has ended
///   CrashedPrimary  (found so at attach: the last run ended as primary without leaving)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Neither primary nor left over from one.
    Secondary,
    /// Was primary when its last run ended, and has not been in sync since.
    CrashedPrimary,
    /// Primary in this run, but it replies to nothing at present.
    SuspendedPrimary,
    /// Primary in this run.
    ServingPrimary,
}

impl Role {
    /// Whether the node is primary in this run.
    #[must_use]
    pub fn is_primary(self) -> bool {
        match self {
            Self::Secondary | Self::CrashedPrimary => false,
            Self::SuspendedPrimary | Self::ServingPrimary => true,
        }
    }
}

/// What the node still has of the writes that it took since it was last in sync. It gets worse at an attach and
/// becomes [`Power::SameRun`] again only when the node is next in sync or begins a generation: the boot id in
/// the superblock must not be replaced before, or a second restart would hide a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Power {
    /// All: the process never ended, or ended by a clean shutdown.
    SameRun,
    /// All that was written: only the process died. What it had merely received is gone.
    SameBoot,
    /// Only what was stable: the kernel was booted anew.
    Lost,
}

/// When writes under the head were replied to. As stored with the head, not as configured now; a change between
/// the two begins a generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Replies {
    /// Before the peers had them: protocol A.
    Ahead,
    /// After: protocols B and C.
    Together,
}

/// Writes of this copy that may not be stable on the other node and are not in a bitmap: activity log extents
/// not yet replayed, and the set that a running primary or secondary holds (design G7, G9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unsettled {
    /// None.
    Nothing,
    /// Some, and they are known.
    Listed,
    /// The activity log cannot be read: everything is compared.
    Unreadable,
}

/// What the operator asked of this node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wish {
    /// Nothing. (`invalidate` needs no wish: it makes the copy Inconsistent.)
    Nothing,
    /// `resolve --discard` named this node: its branch may be overwritten. Counts only where it is needed.
    Discard,
}

/// To which third node a node is bound, if there are more than two (design G9). The receiver of a report is never
/// named in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bond {
    /// To none.
    Free,
    /// It is the target of this node, or about to be: its copy is in sync with nobody, and nobody's source.
    Target(NodeId),
    /// It is in sync with this node, which is primary: its copy is that primary's.
    InSync(NodeId),
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeView {
    /// Who it is.
    pub node: NodeId,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Size of a bitmap block.
    pub block_bytes: u32,
    /// What copy it has.
    pub copy: Copy,
    /// The generations of that copy; of a diskless node those that it knew in this run.
    pub history: History,
    /// Its role.
    pub role: Role,
    /// What it kept of its writes.
    pub power: Power,
    /// How writes under its head were replied to.
    pub replies: Replies,
    /// Writes that no bitmap holds yet.
    pub unsettled: Unsettled,
    /// Its own attach counter (design D6).
    pub attach: AttachCounter,
    /// The highest term that it ever saw, its own included; `None` before the first promotion of all.
    pub highest_term: Option<Term>,
    /// What the operator asked.
    pub wish: Wish,
    /// What it keeps about the other node.
    pub record: PeerRecord,
    /// To which third node it is bound.
    pub bond: Bond,
}
