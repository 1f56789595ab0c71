//! Tests of the activity log: bytes, crash points, eviction, order of service.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{slots::Slot, *};
use crate::meta::{
    crash::{Medium, every_crash},
    geometry::Geometry,
    header::Fault,
    layout::PAGE_BYTES,
};

const NODE: NodeId = NodeId(0x0A0A_0B0B_0C0C_0D0D);
const EXTENT: u64 = 1 << 16;

fn layout(extents: u64, slots: u32) -> Layout {
    Layout::new(Geometry::new(extents * EXTENT, 4096, 1 << 16, slots).unwrap(), []).unwrap()
}

fn formatted(layout: &Layout) -> Medium {
    let mut medium = Medium::new(layout.end());
    medium.apply(&ActivityLog::format(layout, NODE).collect::<Vec<_>>());
    medium
}

pub(super) fn open(layout: &Layout, medium: &Medium) -> (ActivityLog, Replay) {
    let region = layout.log();
    let len = usize::try_from(region.bytes().end - region.start).unwrap();
    ActivityLog::open(layout, NODE, medium.read(region.start, len))
}

pub(super) fn some(first: u32, count: u32) -> Extents {
    Extents { first: ExtentIndex(first), last: ExtentIndex(first + count - 1) }
}

fn one(extent: u32) -> Extents {
    some(extent, 1)
}

pub(super) fn set(log: &ActivityLog) -> BTreeSet<u32> {
    log.extents().map(|extent| extent.0).collect()
}

/// Whether a crash left a sector that is neither the old nor the new one.
fn tears_a_sector(before: &Medium, writes: &[MetaWrite], crashed: &Medium) -> bool {
    writes.iter().any(|write| {
        write.bytes.chunks_exact(512).zip((write.offset.0..).step_by(512)).any(|(after, at)| {
            let now = crashed.read(at, 512);
            now != after && now != before.read(at, 512)
        })
    })
}

/// A log with its disk, driven as the engine drives it.
pub(super) struct Rig {
    pub(super) layout: Layout,
    pub(super) log: ActivityLog,
    pub(super) medium: Medium,
    pub(super) stable: Sequence,
    pub(super) next: u64,
}

impl Rig {
    pub(super) fn new(extents: u64, slots: u32) -> Self {
        let layout = layout(extents, slots);
        let medium = formatted(&layout);
        let (log, replay) = open(&layout, &medium);
        assert_eq!(replay, Replay::default());
        assert!(log.is_clean());
        Self { layout, log, medium, stable: Sequence::ZERO, next: 1 }
    }

    fn advance(&mut self, admitted: &mut Vec<PieceId>) -> Step {
        self.log.advance(self.stable, |_| true, admitted)
    }

    /// Makes extents hot and writes to them, one by one.
    fn touch(&mut self, extents: impl IntoIterator<Item = u32>) {
        let extents: Vec<u32> = extents.into_iter().collect();
        let mut admitted = Vec::new();
        for extent in &extents {
            if self.log.hold(PieceId(u64::from(*extent)), one(*extent)) == Hold::Hot {
                admitted.push(PieceId(u64::from(*extent)));
            }
        }
        while let Step::Write(writes) = self.advance(&mut admitted) {
            self.medium.apply(&writes);
            self.log.committed(&mut admitted);
        }
        assert_eq!(admitted.len(), extents.len(), "every piece was served");
        for extent in extents {
            self.log.assigned(one(extent), Sequence(self.next));
            self.next += 1;
        }
    }

    /// Uses every extent again but `old`, so that those go next.
    fn age(&mut self, old: &[u32]) {
        let others = set(&self.log).into_iter().filter(|extent| !old.contains(extent)).collect::<Vec<_>>();
        self.touch(others);
        self.flush();
    }

    /// Everything written so far is stable everywhere.
    fn flush(&mut self) {
        self.stable = Sequence(self.next - 1);
    }
}

#[test]
fn golden_bytes() {
    let page = page::encode([Some(ExtentIndex(0x0102)), None].into_iter(), 3, CopyId::B, NODE, 9);
    let mut golden = vec![0xFFu8; PAGE_BYTES];
    golden[..32].copy_from_slice(&[
        0x45, 0x76, 0x6B, 0x41, // magic
        0, 0, 0, 0, // checksum, see below
        2, 0, 1, 0xFF, 3, 0, 0, 0, // version, copy, no peer, page index
        0x0D, 0x0D, 0x0C, 0x0C, 0x0B, 0x0B, 0x0A, 0x0A, // node
        9, 0, 0, 0, 0, 0, 0, 0, // sequence
    ]);
    golden[4..8].copy_from_slice(&GOLDEN_CRC.to_le_bytes());
    golden[32..36].copy_from_slice(&[2, 1, 0, 0]);
    for end in (512..=PAGE_BYTES).step_by(512) {
        let crc = if end == 512 { GOLDEN_FIRST_SECTOR } else { GOLDEN_FREE_SECTOR };
        golden[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    }
    assert_eq!(page, golden);
    assert_eq!(size_of::<Slot>(), 32);
}

/// Computed by another program from the bytes above.
const GOLDEN_CRC: u32 = 0xC9E565B9;
const GOLDEN_FIRST_SECTOR: u32 = 0x1DFDBBEA;
const GOLDEN_FREE_SECTOR: u32 = 0x4D3F5134;

/// D7: nothing is hot before its transaction is flushed.
#[test]
fn d7_cold_until_committed() {
    let mut rig = Rig::new(100, 64);
    let mut admitted = Vec::new();
    assert_eq!(rig.log.hold(PieceId(1), some(3, 2)), Hold::Waiting);
    assert_eq!(rig.log.hold(PieceId(2), one(4)), Hold::Waiting);
    let Step::Write(writes) = rig.advance(&mut admitted) else { panic!("a transaction") };
    assert_eq!(writes.len(), 1, "both pieces in one page write");
    assert!(!rig.log.is_hot(ExtentIndex(3)) && admitted.is_empty());
    assert_eq!(rig.log.hold(PieceId(3), one(4)), Hold::Waiting);
    assert_eq!(rig.advance(&mut admitted), Step::InFlight);
    rig.log.committed(&mut admitted);
    assert_eq!(admitted, [PieceId(1), PieceId(2)]);
    assert!(rig.log.is_hot(ExtentIndex(3)));
    assert_eq!(rig.advance(&mut admitted), Step::Idle, "hot by now: no transaction");
    assert_eq!(admitted, [PieceId(1), PieceId(2), PieceId(3)]);
    assert_eq!(rig.log.hold(PieceId(4), some(3, 2)), Hold::Hot);
}

/// D3, O10: after every crash of a transaction over three pages each extent that was in the log before and after
/// it is found, nothing else than old or new, and cleaning up works.
#[test]
fn d3_every_crash_of_a_transaction() {
    let mut rig = Rig::new(5000, 2100);
    rig.touch(0..2100);
    rig.flush();
    // After a first round both copies of the three pages differ in few sectors, so every subset can be tried.
    rig.age(&[200, 800, 1200, 1800, 2050, 2080]);
    rig.touch(4000..4006);
    rig.age(&[400, 900, 1400, 1900, 2060, 2061]);
    let before = set(&rig.log);
    let mut admitted = Vec::new();
    for extent in 3000..3006 {
        assert_eq!(rig.log.hold(PieceId(u64::from(extent)), one(extent)), Hold::Waiting);
    }
    let Step::Write(writes) = rig.advance(&mut admitted) else { panic!("a transaction") };
    assert_eq!(writes.len(), 3);
    let after = set(&rig.log);
    assert_eq!(before.difference(&after).count(), 6);
    let (mut tried, mut torn) = (0, 0);
    let states = every_crash(&rig.medium, &writes, |crashed| {
        tried += 1;
        let (mut log, replay) = open(&rig.layout, crashed);
        if tears_a_sector(&rig.medium, &writes, crashed) {
            // Cannot be told from rot: the log may say that it knows nothing, not that it knows something wrong.
            torn += 1;
            if replay.everything_may_differ() {
                return;
            }
        }
        assert!(!replay.everything_may_differ(), "{replay:?}");
        let found = set(&log);
        assert!(before.intersection(&after).all(|extent| found.contains(extent)));
        assert!(found.iter().all(|extent| before.contains(extent) || after.contains(extent)));
        if tried % 16 == 0 {
            let mut medium = crashed.clone();
            log.carried_settled();
            while let Step::Write(writes) = log.clean(Sequence::ZERO, Sequence::ZERO, |_| true, 900) {
                medium.apply(&writes);
                log.committed(&mut Vec::new());
            }
            assert!(log.is_clean());
            let (log, replay) = open(&rig.layout, &medium);
            assert!(log.is_clean() && !replay.everything_may_differ());
        }
    });
    assert!(
        states > 500 && tried == states && torn < states / 2,
        "{states} states, {torn} torn within a sector"
    );
}

/// One transaction moves an extent from one page to another, and only the second page is there.
#[test]
fn an_extent_that_is_found_twice_is_held_once() {
    let mut rig = Rig::new(5000, 2016);
    rig.touch(0..2016);
    rig.flush();
    rig.age(&[5, 1505]);
    rig.touch([4100, 4101]);
    rig.age(&[0, 1500]);
    // Extent 0 of page 0 retires for 4000, so a piece that needs it waits, and gets the slot of 1500 in page 1.
    let mut admitted = Vec::new();
    assert_eq!(rig.log.hold(PieceId(1), one(4000)), Hold::Waiting);
    rig.stable = Sequence::ZERO;
    assert_eq!(rig.advance(&mut admitted), Step::NeedsFlush);
    assert_eq!(rig.log.hold(PieceId(2), one(0)), Hold::Waiting);
    rig.flush();
    let Step::Write(writes) = rig.advance(&mut admitted) else { panic!("a transaction") };
    assert_eq!(writes.len(), 2);
    let mut doubles = 0;
    every_crash(&rig.medium, &writes, |crashed| {
        let (log, replay) = open(&rig.layout, crashed);
        if tears_a_sector(&rig.medium, &writes, crashed) && replay.everything_may_differ() {
            return;
        }
        assert!(!replay.everything_may_differ());
        let all: Vec<u32> = log.extents().map(|extent| extent.0).collect();
        let different: BTreeSet<u32> = all.iter().copied().collect();
        assert_eq!(all.len(), different.len());
        if log.pages.iter().any(|page| page.rewrites > 0) {
            doubles += 1;
            let mut medium = crashed.clone();
            let mut log = log;
            log.carried_settled();
            while let Step::Write(writes) = log.clean(Sequence::ZERO, Sequence::ZERO, |_| true, 10_000) {
                medium.apply(&writes);
                log.committed(&mut Vec::new());
            }
            assert!(open(&rig.layout, &medium).0.is_clean(), "the second place was freed on disk too");
        }
    });
    assert!(doubles > 0, "no state has it twice");
}

/// D3, G7: what no interrupted write explains makes everything differ, and is mended only after that was dealt
/// with.
#[test]
fn d3_damage_is_not_taken_for_a_clean_log() {
    let mut rig = Rig::new(100, 64);
    rig.touch([5, 6]);
    rig.flush();
    rig.touch([7]);
    let [a, b] = [CopyId::A, CopyId::B].map(|copy| rig.layout.log_page_at(0, copy).0);
    let good: Vec<u8> = rig.medium.read(a, PAGE_BYTES).to_vec();
    let foreign = page::encode(std::iter::empty(), 0, CopyId::B, NodeId(1), 99);
    let misplaced = page::encode(std::iter::empty(), 1, CopyId::B, NODE, 99);
    let wild = page::encode([Some(ExtentIndex(100))].into_iter(), 0, CopyId::B, NODE, 99);
    let behind = page::encode([Some(ExtentIndex(1)); 65].into_iter(), 0, CopyId::B, NODE, 99);
    let same = {
        let sequence = u64::from_le_bytes(good[24..32].try_into().unwrap());
        page::encode(std::iter::empty(), 0, CopyId::B, NODE, sequence)
    };
    let zero = vec![0; PAGE_BYTES];
    let spoils: [&[u8]; 7] = [&zero, &foreign, &misplaced, &wild, &behind, &same, &good];
    for (case, spoilt) in spoils.into_iter().enumerate() {
        let mut medium = rig.medium.clone();
        medium.write(b, spoilt);
        let (mut log, replay) = open(&rig.layout, &medium);
        assert!(replay.everything_may_differ() && !log.is_clean(), "case {case}");
        log.carried_settled();
        while let Step::Write(writes) = log.clean(Sequence::ZERO, Sequence::ZERO, |_| true, 64) {
            medium.apply(&writes);
            log.committed(&mut Vec::new());
        }
        let (log, replay) = open(&rig.layout, &medium);
        assert!(log.is_clean(), "case {case}");
        assert_eq!(replay, Replay::default(), "case {case}: mended");
    }
    // Both copies torn: the last flush cannot have left that.
    let mut medium = rig.medium.clone();
    medium.write(a + 2000, &[1]);
    medium.write(b + 2000, &[1]);
    let (_, replay) = open(&rig.layout, &medium);
    assert_eq!(replay.damaged, [(0, CopyId::A, Fault::Damaged), (0, CopyId::B, Fault::Damaged)]);
    let (log, replay) = ActivityLog::open(&rig.layout, NODE, &[]);
    assert!(replay.everything_may_differ() && log.used() == 0);
}

/// D3, G7: a bit that flips, anywhere in either copy, is never taken for an interrupted write.
#[test]
fn d3_a_flipped_bit_is_not_taken_for_an_interrupted_write() {
    let mut rig = Rig::new(100, 64);
    rig.touch([5, 6]);
    rig.flush();
    rig.touch([7]);
    for copy in [CopyId::A, CopyId::B] {
        let start = rig.layout.log_page_at(0, copy).0;
        for bit in (0..PAGE_BYTES * 8).step_by(7) {
            let mut medium = rig.medium.clone();
            let at = start + (bit / 8) as u64;
            let byte = medium.read(at, 1)[0] ^ (1 << (bit % 8));
            medium.write(at, &[byte]);
            assert!(open(&rig.layout, &medium).1.everything_may_differ(), "copy {copy}, bit {bit}");
        }
    }
}

#[test]
#[should_panic(expected = "before every bit was set (D8)")]
fn d8_a_damaged_log_cannot_be_overwritten_too_early() {
    let layout = layout(100, 64);
    let (mut log, _) = ActivityLog::open(&layout, NODE, &[]);
    assert_eq!(log.hold(PieceId(1), one(1)), Hold::Waiting);
    let _ = log.advance(Sequence::ZERO, |_| true, &mut Vec::new());
}

/// D8: an extent stays while its write is not stable, while bits are not flushed, while a piece holds it, and
/// while it is carried.
#[test]
fn d8_what_keeps_an_extent() {
    let mut rig = Rig::new(100, 16);
    rig.touch(0..16);
    let mut admitted = Vec::new();
    assert_eq!(rig.log.hold(PieceId(1), one(50)), Hold::Waiting);
    assert_eq!(rig.advance(&mut admitted), Step::NeedsFlush, "nothing is stable");
    assert!(rig.log.needs_flush());
    rig.flush();
    let unflushed = rig.log.advance(rig.stable, |_| false, &mut admitted);
    assert_eq!(unflushed, Step::NeedsFlush, "the bits of an absent peer are not flushed");
    rig.log.begin_term();
    assert_eq!(rig.advance(&mut admitted), Step::NeedsFlush, "carried from the last term");
    rig.log.carried_settled();
    let Step::Write(writes) = rig.advance(&mut admitted) else { panic!("now one may go") };
    rig.medium.apply(&writes);
    rig.log.committed(&mut admitted);
    assert_eq!(admitted, [PieceId(1)]);
    assert!(!rig.log.needs_flush() && !rig.log.is_hot(ExtentIndex(0)), "the least recently used one went");
    assert_eq!(set(&rig.log), (1..16).chain([50]).collect());
    let held = (1..16).filter(|extent| rig.log.hold(PieceId(0), one(*extent)) == Hold::Hot).count();
    assert_eq!(held, 15);
    assert_eq!(rig.log.hold(PieceId(2), one(51)), Hold::Waiting);
    assert_eq!(rig.advance(&mut admitted), Step::NeedsFlush, "all are held");
    rig.log.cancelled(one(9));
    assert!(matches!(rig.advance(&mut admitted), Step::Write(_)));
    assert!(!set(&rig.log).contains(&9));
}

/// D8: idle extents are cleaned, others are not.
#[test]
fn d8_idle_extents_are_cleaned() {
    let mut rig = Rig::new(100, 64);
    rig.touch(0..10);
    rig.flush();
    let idle_since = rig.stable;
    rig.touch([3, 20]);
    let clean =
        |rig: &mut Rig, stable, flushed: bool, most| rig.log.clean(idle_since, stable, |_| flushed, most);
    assert_eq!(clean(&mut rig, Sequence::ZERO, true, 64), Step::Idle);
    rig.flush();
    let stable = rig.stable;
    assert_eq!(clean(&mut rig, stable, false, 64), Step::Idle);
    while let Step::Write(writes) = clean(&mut rig, stable, true, 4) {
        rig.medium.apply(&writes);
        rig.log.committed(&mut Vec::new());
    }
    assert_eq!(set(&rig.log), [3, 20].into());
    assert_eq!(set(&open(&rig.layout, &rig.medium).0), [3, 20].into());
}

/// D9: strictly first come, first served among those that wait; a piece takes its slots all at once; who finds
/// its extents hot does not wait.
#[test]
fn d9_first_come_first_served() {
    let mut rig = Rig::new(200, 64);
    rig.touch(0..64);
    let mut admitted = Vec::new();
    assert_eq!(rig.log.hold(PieceId(1), some(100, 8)), Hold::Waiting);
    assert_eq!(rig.log.hold(PieceId(2), one(110)), Hold::Waiting);
    rig.stable = Sequence(4);
    assert_eq!(rig.advance(&mut admitted), Step::NeedsFlush, "four could go, eight are needed");
    assert_eq!(rig.log.used(), 64, "and none was taken");
    assert_eq!(rig.log.hold(PieceId(3), one(63)), Hold::Hot, "not one of the eight that retire");
    assert_eq!(rig.log.hold(PieceId(4), one(7)), Hold::Waiting, "one of those");
    rig.log.assigned(one(63), Sequence(100));
    rig.stable = Sequence(64);
    let Step::Write(_) = rig.advance(&mut admitted) else { panic!("a transaction") };
    rig.log.committed(&mut admitted);
    assert_eq!(admitted, [1, 2, 4].map(PieceId));
    assert_eq!(rig.log.abandon_waiting().count(), 0);
}

/// D9: writers that find everything hot cannot keep a cold piece out for ever.
#[test]
fn d9_hot_writers_do_not_starve_a_cold_one() {
    let mut rig = Rig::new(100, 16);
    rig.touch(0..16);
    assert_eq!(rig.log.hold(PieceId(1000), some(50, 2)), Hold::Waiting);
    let mut admitted = Vec::new();
    let mut queued = BTreeMap::new();
    for round in 0..3 {
        // The flush covers what was written before it began; meanwhile every extent is written again.
        let flushed = Sequence(rig.next - 1);
        for extent in 0..16 {
            let piece = PieceId(u64::from(round * 16 + extent));
            match rig.log.hold(piece, one(extent)) {
                Hold::Hot => {
                    rig.log.assigned(one(extent), Sequence(rig.next));
                    rig.next += 1;
                }
                Hold::Waiting => {
                    queued.insert(piece, extent);
                }
            }
        }
        rig.stable = flushed;
        while let Step::Write(_) = rig.advance(&mut admitted) {
            rig.log.committed(&mut admitted);
        }
        if admitted.contains(&PieceId(1000)) {
            assert!(queued.len() <= 2 * 3, "only what retired had to wait");
            return;
        }
    }
    panic!("the cold piece starves");
}

/// The scenario of DRBD's stress-al: 67 slots, writes scattered over 127 extents.
#[test]
fn d9_stress_al() {
    let mut rig = Rig::new(127, 67);
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut waiting: VecDeque<(PieceId, Extents, u64)> = VecDeque::new();
    let mut holding: Vec<Extents> = Vec::new();
    let mut admitted = Vec::new();
    let (mut served, mut flushes, mut longest) = (0u64, 0u64, 0u64);
    for step in 0..60_000u64 {
        if waiting.len() < 32 {
            let count = 1 + u32::try_from(draw(8)).unwrap();
            let extents = some(u32::try_from(draw(u64::from(127 - count))).unwrap(), count);
            match rig.log.hold(PieceId(step), extents) {
                Hold::Hot => holding.push(extents),
                Hold::Waiting => waiting.push_back((PieceId(step), extents, step)),
            }
        }
        match rig.advance(&mut admitted) {
            Step::Write(writes) => {
                rig.medium.apply(&writes);
                rig.log.committed(&mut admitted);
            }
            Step::NeedsFlush => {
                // The range lock lets all go on in the end; then a flush covers them.
                for extents in holding.drain(..) {
                    rig.log.assigned(extents, Sequence(rig.next));
                    rig.next += 1;
                }
                rig.flush();
                flushes += 1;
            }
            Step::Idle | Step::InFlight => {}
        }
        for piece in admitted.drain(..) {
            let (first, extents, since) = waiting.pop_front().expect("it waited");
            assert_eq!(piece, first, "first come, first served");
            longest = longest.max(step - since);
            holding.push(extents);
            served += 1;
        }
        if draw(3) == 0 && !holding.is_empty() {
            let extents = holding.swap_remove(usize::try_from(draw(holding.len() as u64)).unwrap());
            rig.log.assigned(extents, Sequence(rig.next));
            rig.next += 1;
        }
    }
    assert!(served > 10_000 && flushes > 1000, "served {served} with {flushes} flushes");
    assert!(longest < 200, "a piece waited for {longest} steps");
}

/// A clean TiB with one peer: at most 4 MiB, of which the activity log takes 3.
#[test]
fn a_clean_tebibyte_is_cheap() {
    use crate::{
        ids::PeerIndex,
        meta::{dirty_bitmap::DirtyBitmap, geometry},
    };
    let geometry =
        Geometry::new(1 << 40, 4096, geometry::DEFAULT_EXTENT_BYTES, geometry::DEFAULT_SLOTS).unwrap();
    let layout = Layout::new(geometry, PeerIndex::all().take(1)).unwrap();
    let (log, _) = ActivityLog::open(&layout, NODE, &[]);
    let log_bytes = log.slots.heap_bytes() + log.pages.capacity() * size_of::<PageState>();
    let region = layout.bitmap(PeerIndex::new(0).unwrap()).unwrap();
    let bitmap = DirtyBitmap::clean(geometry, region, NODE, PeerIndex::new(0).unwrap());
    let total = log_bytes + bitmap.heap_bytes();
    assert!(total <= 4 << 20, "{total} bytes");
}
