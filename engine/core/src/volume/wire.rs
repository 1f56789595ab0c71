//! The frames that two nodes exchange about one volume.
//!
//! Every frame belongs to one link: the driver never hands a frame of an older connection to a newer one, and
//! the header's session number, agreed in [`Hello`], lets the parser refuse one that was replayed.
//!
//! ```text
//!  Control   Hello, Report, Agree -> Begin, Ready     handshake (see `handshake`)
//!            Offer -> Adopted                         a new generation (G1)
//!            Host -> Adopted                          serve for me, my disk failed (W7)
//!            Everywhere ->                            what is stable on whom (G9, three nodes)
//!            Ask -> Answer                            may I be primary (P3)
//!            Outdate -> Outdated, Yield -> Yielded    a clean parting (P1, P2, P6)
//!            Discard -> DiscardAnswer                 the end of a split brain, ordered at the other node
//!            Invalidate -> InvalidateAnswer           a copy declared bad, ordered at the other node
//!            Ping -> Pong, Mark                       liveness, state
//!  Data      Start, Write, Zero, FlushTo ->  <- Received, Applied, StableTo, Failed;  Fetch ->  <- Fetched
//!  Resync    Runs, RunsEnd ->  <- Pull  Part ->  <- Settled, Finish (then, on Control, Counted and Finished)
//!            Compare ->  <- Compared                  verify
//! ```

use bytes::Bytes;

use super::{DiskState, Role, io::ZeroMode, span::ByteSpan};
use crate::{
    generation::{
        verdict::Verdict,
        view::{NodeView, Power, Replies},
    },
    ids::{AttachCounter, ClusterId, Generation, GenerationId, NodeId, Sequence, Term, Timestamp, VolumeId},
};

/// The newest version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// A frame, as it goes into and comes out of a volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Who speaks; the first frame on every link, both ways.
    Hello(Hello),
    /// What the sender's copy is; numbered from 1, a later one replaces an earlier one.
    Report {
        /// Counts the reports on this link.
        number: u32,
        /// The sender's state.
        view: Box<NodeView>,
    },
    /// The sender has compared the two reports and concludes this, from its own side.
    Agree {
        /// The number of the sender's report.
        own: u32,
        /// The number of the receiver's report.
        theirs: u32,
        /// The sender's conclusion.
        verdict: Verdict,
    },
    /// The leader of this link starts what was agreed.
    Begin {
        /// The number of the leader's report.
        own: u32,
        /// The number of the receiver's report.
        theirs: u32,
    },
    /// The follower has made stable what had to be first; frames of replication and resync may come.
    Ready,
    /// The sender, which is primary, has a new generation, stable on its own disk (G1); it leads from here on.
    Offer {
        /// The new head.
        generation: Generation,
        /// How writes under it are replied to.
        replies: Replies,
    },
    /// The offered generation is stable here.
    Adopted(GenerationId),
    /// Of the writes of the sender, which is primary, those up to this one are stable on it and on these nodes, which
    /// are in sync with it. Sent only if there are more than two nodes (G9).
    Everywhere {
        /// Up to this write.
        upto: Sequence,
        /// The head that all of them have taken; `None` while they take a new one.
        head: Option<GenerationId>,
        /// Which nodes, beside the sender and the receiver.
        nodes: Vec<NodeId>,
    },
    /// The sender, which is primary and was in sync with the receiver, has lost its disk (W7): take this generation,
    /// keep the bits for the sender and the right to be promoted; answered with [`Frame::Adopted`].
    Host {
        /// The generation.
        generation: Generation,
        /// The one before, which is the receiver's head unless it has taken the new one already.
        parent: GenerationId,
        /// The last write that was sent on this link; all up to it are to be applied before.
        after: Sequence,
    },
    /// The volume is to grow to this size: take this step. Sent to peers that follow and are in sync.
    Grow {
        /// Which step.
        step: GrowthStep,
        /// The size in bytes.
        size_bytes: u64,
    },
    /// The step is taken, and what it brought is stable; or it cannot be.
    Grown {
        /// Which step.
        step: GrowthStep,
        /// The size in bytes.
        size_bytes: u64,
        /// Whether it is taken.
        done: bool,
    },
    /// May the sender become primary with this term (P3)?
    Ask(Term),
    /// The answer: granted, or the reason why not.
    Answer {
        /// The term that was asked for.
        term: Term,
        /// `None` when granted.
        refusal: Option<Refusal>,
    },
    /// The sender's role, disk, highest term or attach counter changed.
    Mark {
        /// Its role.
        role: Role,
        /// Its disk.
        disk: DiskState,
        /// The highest term that it has seen.
        term: Term,
        /// Its attach counter, as it has noted on stable media that it shows it to the receiver (D6).
        attach: AttachCounter,
    },
    /// Become durably Outdated: the sender goes on without you (P1).
    Outdate,
    /// Done.
    Outdated,
    /// Take over the entitlement (P2): the sender leaves cleanly.
    Yield,
    /// Taken, durably; the sender of `Yield` may give it up.
    Yielded,
    /// The sender closes on purpose; do not take it for a failure.
    Leave,
    /// The operator has chosen the sender's copy: give up what is only in yours (`resolve --discard`, G6).
    Discard,
    /// The receiver of [`Frame::Discard`] does so, or why not.
    DiscardAnswer(Option<DiscardRefusal>),
    /// The operator has declared the receiver's copy bad (`invalidate --peer`): become Inconsistent, durably.
    Invalidate,
    /// The receiver of [`Frame::Invalidate`] has done so, or why not.
    InvalidateAnswer(Option<InvalidateRefusal>),
    /// Are you there?
    Ping(Timestamp),
    /// Yes; echoes the time.
    Pong(Timestamp),

    /// The first frame of the data channel, and the first after an [`Frame::Offer`]: the writes that follow
    /// come after this one.
    Start(Sequence),
    /// A write of the primary.
    Write {
        /// Its place in the order.
        sequence: Sequence,
        /// Begin only when everything up to this write is applied (protocol A, W5); else zero.
        after: Sequence,
        /// First byte.
        offset: u64,
        /// The data.
        payload: Bytes,
        /// Acknowledge only when stable.
        fua: bool,
    },
    /// A zeroing of the primary.
    Zero {
        /// Its place in the order.
        sequence: Sequence,
        /// As for [`Frame::Write`].
        after: Sequence,
        /// Where.
        span: ByteSpan,
        /// How.
        mode: ZeroMode,
        /// Acknowledge only when stable.
        fua: bool,
    },
    /// Make everything up to this write stable, once it is applied.
    FlushTo(Sequence),
    /// Everything up to this write is in the sender's memory (protocol B).
    Received(Sequence),
    /// These writes are applied: everything up to `upto`, and the ones listed.
    Applied {
        /// Everything up to this one.
        upto: Sequence,
        /// And these, each greater than `upto`.
        also: Vec<Sequence>,
    },
    /// Everything up to this write is stable on the sender's media.
    StableTo(Sequence),
    /// The sender's disk failed.
    Failed,

    /// The sender, which is primary, cannot read this span on its own disk (W7).
    Fetch {
        /// Names the read on this link.
        id: u64,
        /// What; at most 1 MiB.
        span: ByteSpan,
        /// Read when everything up to this write is applied.
        after: Sequence,
    },
    /// The bytes of the span, or `None` if they cannot be read here either.
    Fetched {
        /// That of the question.
        id: u64,
        /// The bytes.
        payload: Option<Bytes>,
    },

    /// Blocks that may differ, for the union of both bitmaps (G7).
    Runs(Vec<ByteSpan>),
    /// All runs were sent.
    RunsEnd,
    /// The target asks for a span (R1, R2).
    Pull {
        /// Names the request on this link.
        id: u64,
        /// What.
        span: ByteSpan,
        /// Answer only when this write is applied (a primary: issued) at the source.
        after: Sequence,
        /// The target's checksum of each block; empty when it does not want to compare.
        digests: Vec<u128>,
    },
    /// The source's answer, block by block.
    Part {
        /// That of the request.
        id: u64,
        /// The source's sequence when it read.
        read_at: Sequence,
        /// One per block of the span.
        blocks: Vec<BlockContent>,
    },
    /// The target has these spans stable, each as the source read it at that sequence; only this clears bits
    /// (D11).
    Settled(Vec<(ByteSpan, Sequence)>),
    /// Does the follower have the same (R7)?
    Compare {
        /// Names the question on this link.
        id: u64,
        /// Of what.
        span: ByteSpan,
        /// Compare when everything up to this write is applied.
        at: Sequence,
        /// The leader's checksum of each block.
        digests: Vec<u128>,
    },
    /// The blocks of the span that differ, counted from its start.
    Compared {
        /// That of the question.
        id: u64,
        /// Which blocks.
        differing: Vec<u32>,
    },
    /// The target has no bits left (R6, first step).
    Finish,
    /// The source counts the target for every write after this one; flush, then take the head (R6).
    Counted {
        /// The last write that did not count.
        after: Sequence,
        /// The head to take.
        head: Generation,
        /// Its ancestors, newest first.
        ancestors: Vec<Generation>,
        /// What the source kept of the writes under the head.
        kept: Retained,
    },
    /// The target has durably taken the head and is UpToDate (R6, third step).
    Finished,
}

/// Who speaks, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version that the sender speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// The cluster, once agreed.
    pub cluster: Option<ClusterId>,
    /// The volume, once agreed.
    pub volume: Option<VolumeId>,
    /// The sender.
    pub from: NodeId,
    /// Whom the sender expects; `None` at the first contact.
    pub to: Option<NodeId>,
    /// The size of the device in bytes.
    pub size_bytes: u64,
}

/// What a copy kept of the writes under its head; it goes with the head to whoever takes it (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Over crashes and losses of power.
    pub power: Power,
    /// How they were replied to.
    pub replies: Replies,
}

/// Why a promotion is refused by a peer, or not granted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is primary itself.
    IAmPrimary,
    /// It has granted or seen a term that is not lower.
    TermTaken(Term),
    /// Its histories and the asker's have parted.
    SplitBrain,
    /// It is in sync with another node, which is primary.
    HasPrimary,
    /// It has had the right to be promoted alone until now (P2). Another answer follows when the end of that is stable.
    NotYet,
}

/// A step of a volume's growth. The first can fail, and then nothing has changed anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowthStep {
    /// Make room: the data file reads as zeroes up to the new size, the metadata file can be as long as it must.
    Room,
    /// Take the size.
    Size,
}

/// Why a node does not give up its copy for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardRefusal {
    /// It is primary.
    IAmPrimary,
    /// Its verdict with the sender is none that has to be resolved.
    NothingToResolve,
}

/// Why a node does not give up its copy when it is told that it is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidateRefusal {
    /// It is primary.
    IAmPrimary,
    /// It is not in sync with the sender: its copy may be the only good one.
    NotInSync,
}

/// One block in an answer to a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockContent {
    /// The target's digest was right.
    Same,
    /// All zeroes.
    Zero,
    /// The data.
    Data(Bytes),
}
