//! What two nodes that meet do: the result of [`decide`](super::decide::decide), and its sentence for people.
//!
//! Invariant: a verdict says everything from one node's point of view; [`Verdict::mirror`] is the same verdict
//! from the other's. Its sentence is the same on both, given the names the right way round.

use crate::ids::{Generation, NodeId};

/// One of the two nodes, seen from one of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// This node.
    Mine,
    /// The other.
    Theirs,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Mine => Self::Theirs,
            Self::Theirs => Self::Mine,
        }
    }
}

/// None, one or both of the two nodes, seen from one of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// None of them.
    Neither,
    /// One.
    One(Side),
    /// Both.
    Both,
}

impl Which {
    /// From a flag for each.
    #[must_use]
    pub fn of(mine: bool, theirs: bool) -> Self {
        match (mine, theirs) {
            (false, false) => Self::Neither,
            (true, false) => Self::One(Side::Mine),
            (false, true) => Self::One(Side::Theirs),
            (true, true) => Self::Both,
        }
    }

    /// Whether `side` is among them.
    #[must_use]
    pub fn has(self, side: Side) -> bool {
        match self {
            Self::Neither => false,
            Self::One(one) => one == side,
            Self::Both => true,
        }
    }

    fn mirror(self) -> Self {
        match self {
            Self::One(side) => Self::One(side.other()),
            Self::Neither | Self::Both => self,
        }
    }
}

/// What a resync compares. In both cases checksums travel first, and data only where they differ (design R1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extent {
    /// The union of both bitmaps, both activity logs and the source's unstable writes (design G7).
    Bitmap,
    /// Every block.
    Full(FullBecause),
}

/// Why bitmaps do not do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FullBecause {
    /// The target has no data of this volume yet.
    NoData,
    /// Nothing in the target can be believed.
    Unknown,
    /// No bitmap goes back to a generation that both had.
    NoBase,
    /// A bitmap or an activity log cannot be read (design G7).
    Unreadable,
}

/// Which rule chose the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Clause {
    /// G3: the target is fresh.
    Fresh,
    /// G3: the target was made anew under an old identity.
    Recreated,
    /// G8: the target is Inconsistent.
    Inconsistent,
    /// D6: the target was set back.
    SetBack,
    /// G5: the target's head is in the source's history.
    Older,
    /// G6: `resolve` discarded the target's branch.
    Discarded,
    /// G8: the source is a primary that never stopped.
    NeverStopped,
    /// G8: the source kept more of what it wrote.
    KeptPower,
    /// G8: the source wrote this generation.
    Writer,
    /// G8: the source has the lower node id.
    LowerId,
}

/// Why nothing is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Both say that they are the same node (a copied disk).
    SameNode(NodeId),
    /// Different sizes, in bytes.
    Size {
        /// Ours.
        mine: u64,
        /// The other's.
        theirs: u64,
    },
    /// Different sizes of a bitmap block, in bytes.
    BlockSize {
        /// Ours.
        mine: u32,
        /// The other's.
        theirs: u32,
    },
    /// What a node says of itself cannot be true.
    Contradiction(Which),
    /// Neither copy can be a source: each is fresh, Inconsistent or set back.
    NoGoodCopy,
    /// This side cannot be a source, but its generation is not one that the other has had.
    UnfitButAhead(Side),
    /// Both are primary in the same generation.
    TwoPrimaries,
    /// This side would be overwritten while it is primary and has met no higher term.
    PrimaryAsTarget(Side),
    /// `resolve` discarded both.
    BothDiscarded,
}

/// See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The copies are equal (design G4).
    NoSync,
    /// Two fresh copies: one side proposes a random generation, both take it (design G3).
    FreshPair {
        /// Who makes it.
        proposer: Side,
    },
    /// There is no copy on this side, so nothing to compare; the link stays up (design W7).
    NoCopy(Which),
    /// One copy is brought up to the other.
    Resync {
        /// Who has the data.
        source: Side,
        /// What is compared.
        extent: Extent,
        /// Which rule says so.
        clause: Clause,
    },
    /// Both went on alone after `common` (design G6). No data moves.
    SplitBrain {
        /// The last generation that both have had.
        common: Generation,
        /// Which of them, being primary, stops serving (design G10).
        suspends: Which,
    },
    /// The copies share no generation (design G6). No data moves.
    Unrelated {
        /// Which of them, being primary, stops serving (design G10).
        suspends: Which,
    },
    /// The two cannot work together as they are. No data moves.
    Refused(Refusal),
}

/// The names of the two nodes, for [`Verdict::explain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names<'a> {
    /// This node's.
    pub mine: &'a str,
    /// The other's.
    pub theirs: &'a str,
}

impl<'a> Names<'a> {
    fn of(self, side: Side) -> &'a str {
        match side {
            Side::Mine => self.mine,
            Side::Theirs => self.theirs,
        }
    }

    /// Both names, in an order that does not depend on the side.
    #[must_use]
    pub fn both(self) -> String {
        format!("{} and {}", self.mine.min(self.theirs), self.mine.max(self.theirs))
    }

    fn which(self, which: Which) -> String {
        match which {
            Which::Neither => "neither node".to_owned(),
            Which::One(side) => self.of(side).to_owned(),
            Which::Both => self.both(),
        }
    }
}

impl Verdict {
    /// The same verdict as the other node sees it.
    #[must_use]
    pub fn mirror(self) -> Self {
        match self {
            Self::NoSync => Self::NoSync,
            Self::FreshPair { proposer } => Self::FreshPair { proposer: proposer.other() },
            Self::NoCopy(which) => Self::NoCopy(which.mirror()),
            Self::Resync { source, extent, clause } => {
                Self::Resync { source: source.other(), extent, clause }
            }
            Self::SplitBrain { common, suspends } => Self::SplitBrain { common, suspends: suspends.mirror() },
            Self::Unrelated { suspends } => Self::Unrelated { suspends: suspends.mirror() },
            Self::Refused(refusal) => Self::Refused(refusal.mirror()),
        }
    }

    /// One sentence or two for people: what happens, by which rule, and what can be done about it.
    #[must_use]
    pub fn explain(&self, names: Names<'_>) -> String {
        let both = names.both();
        match *self {
            Self::NoSync => format!("{both} have the same data: nothing to copy (G4)."),
            Self::FreshPair { proposer } => {
                format!("{both} are both new: {} makes the first generation (G3).", names.of(proposer))
            }
            Self::NoCopy(which) => {
                format!("{}: no disk, so there is nothing to compare (W7).", names.which(which))
            }
            Self::Resync { source, extent, clause } => {
                let (from, to) = (names.of(source), names.of(source.other()));
                format!("{to} is resynced from {from}: {}; {}.", clause.reason(from, to), extent.reason())
            }
            Self::SplitBrain { suspends, .. } => format!(
                "Split brain: {both} both went on alone, each with writes the other lacks (G6).{} No data moves; \
                 choose with `evenkeel resolve`.",
                suspension(names, suspends)
            ),
            Self::Unrelated { suspends } => format!(
                "{both} have data that never had anything in common (G6).{} No data moves; choose with `evenkeel \
                 resolve`.",
                suspension(names, suspends)
            ),
            Self::Refused(refusal) => refusal.explain(names),
        }
    }
}

fn suspension(names: Names<'_>, suspends: Which) -> String {
    match suspends {
        Which::Neither => String::new(),
        Which::One(_) => format!(" {} stops serving (G10: lower term).", names.which(suspends)),
        Which::Both => format!(" {} stop serving (G10: equal terms).", names.which(suspends)),
    }
}

impl Clause {
    /// Why the one named `from` is the source and the one named `to` the target.
    fn reason(self, from: &str, to: &str) -> String {
        match self {
            Self::Fresh => format!("{to} is new (G3)"),
            Self::Recreated => format!("the disk of {to} was made anew (G3)"),
            Self::Inconsistent => format!("{to} is Inconsistent (G8)"),
            Self::SetBack => format!("{to} was set back to an older state (D6)"),
            Self::Older => format!("{to} has an older generation (G5)"),
            Self::Discarded => format!("the operator discarded what {to} has (G6)"),
            Self::NeverStopped => format!("{from} is primary and never stopped (G8)"),
            Self::KeptPower => format!("{from} kept more of what it wrote than {to} (G8)"),
            Self::Writer => format!("{from} wrote this generation (G8)"),
            Self::LowerId => format!("nothing else tells them apart and {from} has the lower node id (G8)"),
        }
    }
}

impl Extent {
    fn reason(self) -> &'static str {
        match self {
            Self::Bitmap => "the blocks marked on either side are compared (G7)",
            Self::Full(FullBecause::NoData) => "every block is compared, as there is no data yet (G3)",
            Self::Full(FullBecause::Unknown) => {
                "every block is compared, as nothing there can be believed (G4, D6)"
            }
            Self::Full(FullBecause::NoBase) => {
                "every block is compared, as no bitmap goes back far enough (G5)"
            }
            Self::Full(FullBecause::Unreadable) => {
                "every block is compared, as a bitmap or log is unreadable (G7)"
            }
        }
    }
}

impl Refusal {
    fn mirror(self) -> Self {
        match self {
            Self::Size { mine, theirs } => Self::Size { mine: theirs, theirs: mine },
            Self::BlockSize { mine, theirs } => Self::BlockSize { mine: theirs, theirs: mine },
            Self::Contradiction(which) => Self::Contradiction(which.mirror()),
            Self::UnfitButAhead(side) => Self::UnfitButAhead(side.other()),
            Self::PrimaryAsTarget(side) => Self::PrimaryAsTarget(side.other()),
            Self::SameNode(_) | Self::NoGoodCopy | Self::TwoPrimaries | Self::BothDiscarded => self,
        }
    }

    fn explain(self, names: Names<'_>) -> String {
        let both = names.both();
        match self {
            Self::SameNode(node) => format!(
                "{both} both say that they are node {:x}: one of the disks is a copy. Give that node a disk of its \
                 own (D4).",
                node.0
            ),
            Self::Size { mine, theirs } => format!(
                "The volume has {mine} bytes on {} and {theirs} on {}: the smaller one grows when its configuration \
                 names that `size` too, and its disk has room (G6).",
                names.mine, names.theirs
            ),
            Self::BlockSize { mine, theirs } => format!(
                "Bitmap blocks have {mine} bytes on {} and {theirs} on {}: give both the same `block_size` (G7).",
                names.mine, names.theirs
            ),
            Self::Contradiction(which) => format!(
                "The metadata of {} contradicts itself (G6): `evenkeel meta check` it, and if it is beyond repair \
                 stop that daemon, move its data and metadata away, and start it: a peer fills it.",
                names.which(which)
            ),
            Self::NoGoodCopy => format!(
                "Neither {both} has a complete copy (G8). Connect a node that has one; if there is none, choose the \
                 better one with `evenkeel primary --force=inconsistent`."
            ),
            Self::UnfitButAhead(side) => format!(
                "{unfit} is not complete, and {good} has not got the generation it belongs to (G8). Connect a node \
                 that has; or, to give up what is only on {unfit}, `evenkeel resolve --discard {unfit}`.",
                unfit = names.of(side),
                good = names.of(side.other()),
            ),
            Self::TwoPrimaries => {
                format!("{both} are both primary in the same generation (G10): make one of them secondary.")
            }
            Self::PrimaryAsTarget(side) => format!(
                "{} is primary, but its data is older than that of {} (G10): make it secondary first.",
                names.of(side),
                names.of(side.other())
            ),
            Self::BothDiscarded => {
                format!("`evenkeel resolve` discarded both {both} (G6): choose one again.")
            }
        }
    }
}
