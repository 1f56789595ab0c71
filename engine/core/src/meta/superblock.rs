//! Who a replica is and what its copy of the data is worth (design D5), as one structure of 8 KiB.
//!
//! Zero stands for "none" in every id and in every term number: all of them are random or begin at one (design
//! G3, P4), and none is written as zero.
//!
//! Invariant: `decode` returns only what `encode` can have written. Every size, count, index and flag is
//! checked, what is reserved is zero, and flags that contradict each other are refused.

use super::{
    codec::{Reader, Writer},
    geometry::Geometry,
    header::{CopyId, Fault, HEADER_BYTES, Kind, Place, seal, unseal},
    layout::{Layout, Region, SUPERBLOCK_BYTES},
};
use crate::{
    generation::{
        history::{HISTORY_CAPACITY, History, Window},
        record::Standing,
        view::{Power, Replies},
    },
    ids::{
        AttachCounter, BootId, COUNTER_END, ClusterId, Generation, GenerationId, InstanceId, MAX_PEERS,
        NodeId, PeerIndex, Term, VolumeId,
    },
};

/// Where the fields begin, as `docs/on-disk-format.md` has them.
const RUN_AT: usize = 224;
const FLAGS_AT: usize = 296;
const PEERS_AT: usize = 352;
const PEER_BYTES: usize = 64;
const GIVEN_UP_AT: usize = PEERS_AT + MAX_PEERS * PEER_BYTES;
const HISTORY_AT: usize = 1024;
const GENERATION_BYTES: usize = 32;
/// Ancestors for which the format has room.
const HISTORY_ROOM: usize = 128;
const END_AT: usize = HISTORY_AT + HISTORY_ROOM * GENERATION_BYTES;

const _: () = assert!(HISTORY_CAPACITY <= HISTORY_ROOM && END_AT <= SUPERBLOCK_BYTES);
const _: () = assert!(PEERS_AT + MAX_PEERS * PEER_BYTES <= HISTORY_AT);

const FLAG_FRESH: u32 = 1;
const FLAG_CONSISTENT: u32 = 1 << 1;
const FLAG_WAS_UP_TO_DATE: u32 = 1 << 2;
const FLAG_CRASHED_PRIMARY: u32 = 1 << 3;
const FLAG_ENTITLED: u32 = 1 << 4;
const FLAG_SETTLED: u32 = 1 << 5;
const FLAG_PROCESS_DIED: u32 = 1 << 6;
const FLAG_POWER_LOST: u32 = 1 << 7;
const FLAG_REPLIED_AHEAD: u32 = 1 << 8;
const FLAG_CACHE_IN_DOUBT: u32 = 1 << 9;
const ALL_FLAGS: u32 = (FLAG_CACHE_IN_DOUBT << 1) - 1;

const PEER_OUTDATED_CONFIRMED: u32 = 1;
const PEER_IN_SYNC: u32 = 1 << 1;

/// What is known of the own copy (design D5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Created by Evenkeel and never part of any generation (design G3). Then there is no head.
    pub fresh: bool,
    /// Not a mixture: no resync into it has begun that has not ended (design R1).
    pub consistent: bool,
    /// It was UpToDate when this was written. Then it is consistent.
    pub was_up_to_date: bool,
    /// Set, stably, before a primary takes its first write; still set after a crash, until what the crash left
    /// open has been resynced.
    pub crashed_primary: bool,
    /// The one node that may be promoted without force while peers are absent (design P2).
    pub entitled: bool,
}

/// What is kept with the head about the writes under it (design G8). It changes with the head, and gets worse at an
/// attach; it never gets better by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// What this copy still had of them when this was last written.
    pub power: Power,
    /// All of them are stable here and none has come since, so that the end of a run costs nothing.
    pub settled: bool,
    /// How they were replied to.
    pub replies: Replies,
}

impl Evidence {
    /// Of a head that this run makes or takes.
    #[must_use]
    pub fn of_this_run(replies: Replies) -> Self {
        Self { power: Power::SameRun, settled: false, replies }
    }

    /// After another run has begun; `same_boot` says that the kernel is still the one of the last.
    #[must_use]
    pub fn after_attach(self, same_boot: bool) -> Self {
        let power = match (self.power, self.settled, same_boot) {
            (power, true, _) => power,
            (Power::Lost, false, _) | (_, false, false) => Power::Lost,
            (Power::SameRun | Power::SameBoot, false, true) => Power::SameBoot,
        };
        Self { power, ..self }
    }
}

/// What is remembered of one peer (design D5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// Which node it is.
    pub node: NodeId,
    /// How much is known about what it has (design G5).
    pub standing: Standing,
    /// It has itself confirmed that it is durably Outdated (design P1).
    pub outdated_confirmed: bool,
    /// The highest attach counter that it has shown (design D6).
    pub attach_counter_seen: AttachCounter,
    /// The highest own attach counter that it may have been shown; stable before it is (design D6).
    pub attach_counter_shown: AttachCounter,
}

/// Everything that a superblock says. Its copies and their order are the matter of
/// [`SuperblockPair`](super::superblock_pair::SuperblockPair).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster, once agreed; agreed at first contact.
    pub cluster: Option<ClusterId>,
    /// The volume, once agreed; agreed at first contact.
    pub volume: Option<VolumeId>,
    /// This node; fixed at creation. Every page carries it as its owner.
    pub node: NodeId,
    /// Where everything lies, the size of the volume included.
    pub layout: Layout,
    /// The generations of this copy.
    pub history: History,
    /// The highest term that this node has seen (design P4).
    pub highest_term: Option<Term>,
    /// The kernel of the run that has the disk attached, or had it last (design P1, G8).
    pub boot: Option<BootId>,
    /// The run of the daemon that has the disk attached, or had it last (design D4).
    pub instance: Option<InstanceId>,
    /// Rises at every attach and once a minute while data changes (design D6).
    pub attach_counter: AttachCounter,
    /// When the attach counter had this value, nothing in the copy counted any more: it was made anew, or found to have
    /// been set back. So a peer that has seen lower values says nothing about what the copy has become since.
    pub given_up_at: AttachCounter,
    /// What the boot-time clock showed, in nanoseconds, when the counter last rose (design P7).
    pub counted_at_boot_nanos: u64,
    /// The attach counter at a clean shutdown. Attaching raises the counter, so an old record ends by itself.
    pub clean_shutdown: Option<AttachCounter>,
    /// What is known of the own copy.
    pub flags: Flags,
    /// What is known of the writes under the head.
    pub evidence: Evidence,
    /// A run on this boot of the machine ended without a word: a flush may have failed in it, and the kernel's cache may
    /// show what is not on the media (W4). No later flush ends that; the next boot does.
    pub cache_in_doubt: bool,
    /// What is remembered of each peer. Who is remembered has a bitmap in the layout.
    pub peers: [Option<PeerRecord>; MAX_PEERS],
}

impl Superblock {
    /// Whether the last run ended by a clean shutdown and none has begun since.
    #[must_use]
    pub fn was_shut_down_cleanly(&self) -> bool {
        self.clean_shutdown == Some(self.attach_counter)
    }

    /// The place of a peer, by its node id.
    #[must_use]
    pub fn peer_index(&self, node: NodeId) -> Option<PeerIndex> {
        PeerIndex::all().find(|peer| self.peers[peer.as_usize()].is_some_and(|record| record.node == node))
    }

    /// What makes this superblock impossible, if anything does.
    fn contradiction(&self) -> Option<&'static str> {
        let flags = self.flags;
        let nodes = || self.peers.iter().flatten().map(|record| record.node);
        let shown = self.peers.iter().flatten().map(|record| record.attach_counter_shown).max();
        let homeless =
            |peer: PeerIndex| self.peers[peer.as_usize()].is_some() && self.layout.bitmap(peer).is_none();
        [
            (self.node.0 == 0, "the node has no id"),
            (flags.fresh && self.history.head().is_some(), "fresh, but it has a generation"),
            (flags.was_up_to_date && !flags.consistent, "UpToDate, but not consistent"),
            (self.clean_shutdown == Some(AttachCounter(0)), "shut down in a run that has not begun"),
            (self.clean_shutdown > Some(self.attach_counter), "shut down in a run that has not begun"),
            (shown > Some(self.attach_counter), "it has shown a counter that it has not reached"),
            (self.given_up_at > self.attach_counter, "given up in a run that has not begun"),
            (nodes().any(|node| node == self.node), "it is its own peer"),
            (nodes().any(|node| nodes().filter(|other| *other == node).count() > 1), "the same peer twice"),
            (PeerIndex::all().any(homeless), "a peer without a dirty bitmap"),
        ]
        .into_iter()
        .find_map(|(wrong, text)| wrong.then_some(text))
    }
}

/// A superblock as it is stored.
///
/// # Panics
/// If it contradicts itself or an id is zero: an invariant of the caller is broken, and nothing may be written.
pub(super) fn encode(superblock: &Superblock, copy: CopyId, sequence: u64) -> [u8; SUPERBLOCK_BYTES] {
    if let Some(text) = superblock.contradiction() {
        panic!("a superblock that cannot be: {text}");
    }
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let geometry = superblock.layout.geometry();
    let mut w = Writer::new(&mut bytes, HEADER_BYTES);
    w.u128(some(superblock.cluster.map(|id| id.0)));
    w.u128(some(superblock.volume.map(|id| id.0)));
    w.u64(0);
    w.u64(geometry.size_bytes());
    w.u32(geometry.block_bytes());
    w.u32(geometry.extent_bytes());
    w.u32(geometry.slots());
    w.u32(0);
    w.u64(superblock.layout.log().start);
    w.u64(superblock.layout.end());
    for peer in PeerIndex::all() {
        let region = superblock.layout.bitmap(peer).unwrap_or(Region { start: 0, pages: 0 });
        w.u64(region.start);
        w.u64(region.pages);
    }
    w.zeroes_up_to(RUN_AT);
    w.u128(some(superblock.boot.map(|id| id.0)));
    w.u128(some(superblock.instance.map(|id| id.0)));
    w.u64(superblock.attach_counter.0);
    w.u64(superblock.counted_at_boot_nanos);
    w.u64(superblock.clean_shutdown.map_or(0, |counter| counter.0));
    put_term(&mut w, superblock.highest_term);
    w.zeroes_up_to(FLAGS_AT);
    let doubt = if superblock.cache_in_doubt { FLAG_CACHE_IN_DOUBT } else { 0 };
    w.u32(flag_bits(superblock.flags) | evidence_bits(superblock.evidence) | doubt);
    let ancestors = superblock.history.ancestors();
    w.u32(u32::try_from(ancestors.len()).expect("at most HISTORY_CAPACITY"));
    w.u128(some(superblock.history.toward().map(|id| id.0)));
    put_generation(&mut w, superblock.history.head());
    for (index, record) in superblock.peers.iter().enumerate() {
        w.zeroes_up_to(PEERS_AT + index * PEER_BYTES);
        if let Some(record) = record {
            put_peer(&mut w, *record);
        }
    }
    w.zeroes_up_to(GIVEN_UP_AT);
    w.u64(superblock.given_up_at.0);
    w.zeroes_up_to(HISTORY_AT);
    for ancestor in ancestors {
        put_generation(&mut w, Some(*ancestor));
    }
    seal(&mut bytes, place(copy, Some(superblock.node)), sequence);
    bytes
}

/// A superblock that was read from the place of `copy`, with its sequence.
pub(super) fn decode(bytes: &[u8], copy: CopyId, owner: Option<NodeId>) -> Result<(Superblock, u64), Fault> {
    let Ok(bytes) = <&[u8; SUPERBLOCK_BYTES]>::try_from(bytes) else {
        return Err(Fault::Unreadable);
    };
    let header = unseal(bytes, place(copy, owner))?;
    let mut r = Reader::new(bytes, HEADER_BYTES);
    let cluster = none_if_zero(r.u128()).map(ClusterId);
    let volume = none_if_zero(r.u128()).map(VolumeId);
    if r.u64() != 0 {
        return Err(Fault::Contradiction("it needs a feature that this program does not know"));
    }
    let (size, block, extent, slots) = (r.u64(), r.u32(), r.u32(), r.u32());
    let geometry = Geometry::new(size, block, extent, slots)
        .map_err(|_| Fault::Contradiction("the volume's division is out of the limits"))?;
    if r.u32() != 0 {
        return Err(Fault::Contradiction("reserved bytes are not zero"));
    }
    let log = Region { start: r.u64(), pages: 2 * u64::from(geometry.log_pages()) };
    let end = r.u64();
    let mut bitmaps = [None; MAX_PEERS];
    for bitmap in &mut bitmaps {
        let region = Region { start: r.u64(), pages: r.u64() };
        *bitmap = (region != Region { start: 0, pages: 0 }).then_some(region);
    }
    let layout = Layout::from_parts(geometry, log, bitmaps, end)
        .map_err(|_| Fault::Contradiction("its regions overlap or lie outside the file"))?;
    r.zeroes_up_to(RUN_AT)?;
    let boot = none_if_zero(r.u128()).map(BootId);
    let instance = none_if_zero(r.u128()).map(InstanceId);
    let attach_counter = take_counter(&mut r)?;
    let counted_at_boot_nanos = r.u64();
    let clean_shutdown = Some(take_counter(&mut r)?).filter(|counter| counter.0 != 0);
    let highest_term = take_term(&mut r)?;
    r.zeroes_up_to(FLAGS_AT)?;
    let bits = r.u32();
    let (flags, evidence) = flags_from(bits)?;
    let count = r.u32() as usize;
    if count > HISTORY_CAPACITY {
        return Err(Fault::Contradiction("its history is too long"));
    }
    let toward = none_if_zero(r.u128()).map(GenerationId);
    let head = take_generation(&mut r)?;
    let mut peers = [None; MAX_PEERS];
    for (index, peer) in peers.iter_mut().enumerate() {
        r.zeroes_up_to(PEERS_AT + index * PEER_BYTES)?;
        *peer = take_peer(&mut r)?;
    }
    r.zeroes_up_to(GIVEN_UP_AT)?;
    let given_up_at = take_counter(&mut r)?;
    r.zeroes_up_to(HISTORY_AT)?;
    let mut ancestors = Vec::with_capacity(count);
    for _ in 0..count {
        ancestors.push(
            take_generation(&mut r)?.ok_or(Fault::Contradiction("a generation in its history has no id"))?,
        );
    }
    r.zeroes_up_to(SUPERBLOCK_BYTES)?;
    let history = History::from_parts(head, ancestors, toward)
        .map_err(|_| Fault::Contradiction("its history is not a chain"))?;
    let superblock = Superblock {
        cluster,
        volume,
        node: header.owner,
        layout,
        history,
        highest_term,
        boot,
        instance,
        attach_counter,
        given_up_at,
        counted_at_boot_nanos,
        clean_shutdown,
        flags,
        evidence,
        cache_in_doubt: bits & FLAG_CACHE_IN_DOUBT != 0,
        peers,
    };
    match superblock.contradiction() {
        Some(text) => Err(Fault::Contradiction(text)),
        None => Ok((superblock, header.sequence)),
    }
}

fn place(copy: CopyId, owner: Option<NodeId>) -> Place {
    Place { kind: Kind::Superblock, copy, index: 0, owner }
}

/// An id as it is stored; zero is kept for "none".
fn some(id: Option<u128>) -> u128 {
    assert_ne!(id, Some(0), "an id that is zero");
    id.unwrap_or(0)
}

fn none_if_zero(id: u128) -> Option<u128> {
    (id != 0).then_some(id)
}

fn put_term(w: &mut Writer<'_>, term: Option<Term>) {
    assert!(term.is_none_or(|term| term.number != 0 && term.node.0 != 0), "{term:?} was never granted");
    w.u64(term.map_or(0, |term| term.number));
    w.u64(term.map_or(0, |term| term.node.0));
}

fn take_counter(r: &mut Reader<'_>) -> Result<AttachCounter, Fault> {
    match r.u64() {
        COUNTER_END.. => Err(Fault::Contradiction("an attach counter has ended")),
        counter => Ok(AttachCounter(counter)),
    }
}

fn take_term(r: &mut Reader<'_>) -> Result<Option<Term>, Fault> {
    match (r.u64(), r.u64()) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(Fault::Contradiction("half a term")),
        (COUNTER_END.., _) => Err(Fault::Contradiction("its terms have ended")),
        (number, node) => Ok(Some(Term { number, node: NodeId(node) })),
    }
}

fn put_generation(w: &mut Writer<'_>, generation: Option<Generation>) {
    w.u128(some(generation.map(|generation| generation.id.0)));
    put_term(w, generation.map(|generation| generation.term));
}

fn take_generation(r: &mut Reader<'_>) -> Result<Option<Generation>, Fault> {
    match (none_if_zero(r.u128()), take_term(r)?) {
        (None, None) => Ok(None),
        (Some(id), Some(term)) => Ok(Some(Generation { id: GenerationId(id), term })),
        (None, Some(_)) | (Some(_), None) => Err(Fault::Contradiction("half a generation")),
    }
}

fn put_peer(w: &mut Writer<'_>, record: PeerRecord) {
    assert_ne!(record.node.0, 0, "a peer without an id");
    w.u64(record.node.0);
    let window = record.standing.window();
    w.u128(some(window.map(|window| window.base.0)));
    w.u128(some(window.map(|window| window.offered.0)));
    w.u64(record.attach_counter_seen.0);
    let in_sync = if record.standing == Standing::InSync { PEER_IN_SYNC } else { 0 };
    w.u32(in_sync | if record.outdated_confirmed { PEER_OUTDATED_CONFIRMED } else { 0 });
    w.u32(0);
    w.u64(record.attach_counter_shown.0);
}

fn take_peer(r: &mut Reader<'_>) -> Result<Option<PeerRecord>, Fault> {
    let node = NodeId(r.u64());
    let window = match (none_if_zero(r.u128()), none_if_zero(r.u128())) {
        (None, None) => None,
        (Some(base), Some(offered)) => {
            Some(Window { base: GenerationId(base), offered: GenerationId(offered) })
        }
        (None, Some(_)) | (Some(_), None) => return Err(Fault::Contradiction("half a window of a peer")),
    };
    let attach_counter_seen = take_counter(r)?;
    let flags = r.u32();
    if flags & !(PEER_OUTDATED_CONFIRMED | PEER_IN_SYNC) != 0 {
        return Err(Fault::Contradiction("a peer has flags that this program does not know"));
    }
    let outdated_confirmed = flags & PEER_OUTDATED_CONFIRMED != 0;
    let standing = match (window, flags & PEER_IN_SYNC != 0) {
        (None, false) => Standing::Never,
        (None, true) => Standing::InSync,
        (Some(window), false) => Standing::Behind(window),
        (Some(_), true) => return Err(Fault::Contradiction("a peer in sync that is behind")),
    };
    if r.u32() != 0 {
        return Err(Fault::Contradiction("reserved bytes of a peer are not zero"));
    }
    let attach_counter_shown = take_counter(r)?;
    let record = PeerRecord { node, standing, outdated_confirmed, attach_counter_seen, attach_counter_shown };
    if node.0 != 0 {
        return Ok(Some(record));
    }
    let nobody = PeerRecord {
        node,
        standing: Standing::Never,
        outdated_confirmed: false,
        attach_counter_seen: AttachCounter::default(),
        attach_counter_shown: AttachCounter::default(),
    };
    if record == nobody { Ok(None) } else { Err(Fault::Contradiction("a peer without an id")) }
}

fn flag_bits(flags: Flags) -> u32 {
    let Flags { fresh, consistent, was_up_to_date, crashed_primary, entitled } = flags;
    [
        (fresh, FLAG_FRESH),
        (consistent, FLAG_CONSISTENT),
        (was_up_to_date, FLAG_WAS_UP_TO_DATE),
        (crashed_primary, FLAG_CRASHED_PRIMARY),
        (entitled, FLAG_ENTITLED),
    ]
    .into_iter()
    .fold(0, |bits, (set, flag)| if set { bits | flag } else { bits })
}

fn evidence_bits(evidence: Evidence) -> u32 {
    let Evidence { power, settled, replies } = evidence;
    let power = match power {
        Power::SameRun => 0,
        Power::SameBoot => FLAG_PROCESS_DIED,
        Power::Lost => FLAG_POWER_LOST,
    };
    let replies = match replies {
        Replies::Ahead => FLAG_REPLIED_AHEAD,
        Replies::Together => 0,
    };
    power | replies | if settled { FLAG_SETTLED } else { 0 }
}

fn flags_from(bits: u32) -> Result<(Flags, Evidence), Fault> {
    if bits & !ALL_FLAGS != 0 {
        return Err(Fault::Contradiction("it has flags that this program does not know"));
    }
    let power = match (bits & FLAG_PROCESS_DIED != 0, bits & FLAG_POWER_LOST != 0) {
        (false, false) => Power::SameRun,
        (true, false) => Power::SameBoot,
        (false, true) => Power::Lost,
        (true, true) => return Err(Fault::Contradiction("only the process died, and power was lost")),
    };
    let flags = Flags {
        fresh: bits & FLAG_FRESH != 0,
        consistent: bits & FLAG_CONSISTENT != 0,
        was_up_to_date: bits & FLAG_WAS_UP_TO_DATE != 0,
        crashed_primary: bits & FLAG_CRASHED_PRIMARY != 0,
        entitled: bits & FLAG_ENTITLED != 0,
    };
    let replies = if bits & FLAG_REPLIED_AHEAD == 0 { Replies::Together } else { Replies::Ahead };
    Ok((flags, Evidence { power, settled: bits & FLAG_SETTLED != 0, replies }))
}
