//! Tests of the dirty bitmap: bytes, crash points, proofs, runs, and a model.

use proptest::prelude::*;

use super::{page::WORDS, *};
use crate::ids::COUNTER_END;
use crate::meta::{
    crash::{Medium, every_crash},
    header::Fault,
    layout::{Layout, MetaWrite, PAGE_BYTES},
};

const NODE: NodeId = NodeId(0x0A0A_0B0B_0C0C_0D0D);
const SESSION: SessionId = SessionId(5);
const BLOCK: u64 = 4096;

fn peer() -> PeerIndex {
    PeerIndex::new(2).unwrap()
}

fn layout(size: u64) -> Layout {
    Layout::new(Geometry::new(size, 4096, 1 << 22, 16).unwrap(), [peer()]).unwrap()
}

/// Three pages, of which the last has ten blocks, and the last of these one sector.
const SMALL: u64 = (2 * BLOCKS_PER_PAGE + 9) * BLOCK + 512;

struct Rig {
    layout: Layout,
    bitmap: DirtyBitmap,
    medium: Medium,
}

impl Rig {
    fn new(size: u64) -> Self {
        let layout = layout(size);
        let region = layout.bitmap(peer()).unwrap();
        let mut medium = Medium::new(layout.end());
        medium.apply(&DirtyBitmap::format(region, NODE, peer()).collect::<Vec<_>>());
        let mut bitmap = DirtyBitmap::clean(*layout.geometry(), region, NODE, peer());
        bitmap.begin_session(SESSION);
        Self { layout, bitmap, medium }
    }

    fn load(&self, medium: &Medium) -> (DirtyBitmap, LoadReport) {
        let region = self.layout.bitmap(peer()).unwrap();
        let mut loader = Loader::new(*self.layout.geometry(), region, NODE, peer());
        for index in 0..self.layout.geometry().bitmap_pages() {
            loader.page(Some(medium.read(region.page_at(index).0, PAGE_BYTES)));
        }
        loader.finish()
    }

    fn flush(&mut self, scope: FlushScope) -> usize {
        let writes = self.bitmap.begin_flush(scope, usize::MAX);
        self.medium.apply(&writes);
        if !writes.is_empty() {
            self.bitmap.flushed();
        }
        writes.len()
    }
}

fn proof(bytes: Range<u64>, upto: u64) -> StableProof {
    StableProof::from_acknowledgement(peer(), SESSION, bytes, Sequence(upto))
}

fn dirty(bitmap: &DirtyBitmap) -> Vec<Range<u64>> {
    let mut runs = Vec::new();
    let mut at = BlockIndex(0);
    while let Some(run) = bitmap.next_dirty(at, u64::MAX) {
        at = run.end;
        runs.push(run.start.0..run.end.0);
    }
    runs
}

#[test]
fn golden_bytes() {
    let mut words = [0; WORDS];
    words[0] = 0x8000_0000_0000_0003;
    words[WORDS - 1] = 1;
    let page = page::encode(&words, peer(), 0x0102_0304, NODE, 9);
    let mut golden = vec![0u8; PAGE_BYTES];
    golden[..32].copy_from_slice(&[
        0x45, 0x76, 0x6B, 0x42, // magic
        0, 0, 0, 0, // checksum, see below
        2, 0, 0, 2, 4, 3, 2, 1, // version, copy, peer, page index
        0x0D, 0x0D, 0x0C, 0x0C, 0x0B, 0x0B, 0x0A, 0x0A, // node
        9, 0, 0, 0, 0, 0, 0, 0, // sequence
    ]);
    golden[4..8].copy_from_slice(&GOLDEN_CRC.to_le_bytes());
    golden[128] = 3;
    golden[135] = 0x80;
    golden[4088] = 1;
    assert_eq!(page, golden);
    assert_eq!(page::decode(&page, BLOCKS_PER_PAGE, peer(), 0x0102_0304, NODE), Ok((words, 9)));
}

/// Computed by another program from the bytes above.
const GOLDEN_CRC: u32 = 0xFCEECC4C;

#[test]
fn an_extent_lies_in_one_page() {
    assert_eq!(BLOCKS_PER_PAGE % ((4 << 20) / 4096), 0);
}

/// D11: only an acknowledgement of this peer, of this session, clears.
#[test]
fn d11_other_peers_and_sessions_clear_nothing() {
    let mut rig = Rig::new(SMALL);
    rig.bitmap.set(&(0..BLOCK), Sequence(1));
    let of = |peer, session, range| StableProof::from_acknowledgement(peer, session, range, Sequence(9));
    let other = PeerIndex::new(1).unwrap();
    let cases = [
        (of(other, SESSION, 0..BLOCK), ProofRefused::OtherPeer(other)),
        (of(peer(), SessionId(4), 0..BLOCK), ProofRefused::OtherSession(SessionId(4))),
        (of(peer(), SESSION, 0..SMALL + 1), ProofRefused::OutOfRange),
        (of(peer(), SESSION, 5..5), ProofRefused::OutOfRange),
    ];
    for (proof, refused) in cases {
        assert_eq!(rig.bitmap.clear(&proof), Err(refused));
    }
    rig.bitmap.end_session();
    let good = proof(0..BLOCK, 9);
    assert_eq!(rig.bitmap.clear(&good), Err(ProofRefused::OtherSession(SESSION)));
    rig.bitmap.begin_session(SESSION);
    rig.bitmap.begin_term();
    assert_eq!(rig.bitmap.clear(&good), Err(ProofRefused::OtherSession(SESSION)));
    assert_eq!(rig.bitmap.dirty_blocks(), 1);
    rig.bitmap.begin_session(SESSION);
    assert_eq!(rig.bitmap.clear(&good), Ok(Cleared { blocks: 1, kept: 0 }));
    assert_eq!((good.peer(), good.session(), good.upto()), (peer(), SESSION, Sequence(9)));
}

/// D11: a bit that was set later than the acknowledged write stays.
#[test]
fn d11_an_older_acknowledgement_clears_nothing() {
    let mut rig = Rig::new(SMALL);
    rig.bitmap.set(&(0..BLOCK), Sequence(7));
    assert_eq!(rig.bitmap.clear(&proof(0..BLOCK, 6)), Ok(Cleared { blocks: 0, kept: 1 }));
    assert_eq!(rig.bitmap.clear(&proof(0..BLOCK, 7)), Ok(Cleared { blocks: 1, kept: 0 }));
    // Setting what is set is a later set too.
    rig.bitmap.set(&(0..BLOCK), Sequence(8));
    rig.bitmap.set(&(0..BLOCK), Sequence(20));
    assert_eq!(rig.bitmap.clear(&proof(0..BLOCK, 10)), Ok(Cleared { blocks: 0, kept: 1 }));
    // A new term's writes come after all of those.
    rig.bitmap.begin_term();
    rig.bitmap.begin_session(SESSION);
    assert_eq!(rig.bitmap.clear(&proof(0..BLOCK, 1)), Ok(Cleared { blocks: 1, kept: 0 }));
}

/// D11: outward when setting, inward when clearing.
#[test]
fn d11_rounding() {
    let mut rig = Rig::new(SMALL);
    assert_eq!(rig.bitmap.set(&(BLOCK - 1..2 * BLOCK + 1), Sequence(1)), 3);
    assert_eq!(rig.bitmap.clear(&proof(1..3 * BLOCK - 1, 1)), Ok(Cleared { blocks: 1, kept: 0 }));
    assert_eq!(dirty(&rig.bitmap), [0..1, 2..3]);
    let last = rig.layout.geometry().blocks() - 1;
    rig.bitmap.set(&(SMALL - 1..SMALL), Sequence(1));
    assert_eq!(rig.bitmap.dirty_bytes(), 2 * BLOCK + 512);
    assert_eq!(rig.bitmap.clear(&proof(last * BLOCK..SMALL - 1, 1)).unwrap().blocks, 0);
    assert_eq!(rig.bitmap.clear(&proof(last * BLOCK..SMALL, 1)).unwrap().blocks, 1);
}

/// D10: pages that are clean or wholly dirty take no memory.
#[test]
fn d10_uniform_pages_are_free() {
    let mut rig = Rig::new(1 << 40);
    let words = |bitmap: &DirtyBitmap| bitmap.pages.iter().filter(|page| page.has_words()).count();
    assert!(rig.bitmap.heap_bytes() < 256 << 10);
    rig.bitmap.set_all(Sequence(1));
    assert_eq!((rig.bitmap.dirty_bytes(), words(&rig.bitmap)), (1 << 40, 0));
    assert_eq!(rig.bitmap.next_dirty(BlockIndex(0), u64::MAX), Some(BlockIndex(0)..BlockIndex(1 << 28)));
    rig.bitmap.clear(&proof(0..1 << 39, 1)).unwrap();
    assert_eq!((rig.bitmap.dirty_bytes(), words(&rig.bitmap)), (1 << 39, 1));
    rig.bitmap.clear(&proof(1 << 39..1 << 40, 1)).unwrap();
    assert_eq!((rig.bitmap.dirty_bytes(), words(&rig.bitmap)), (0, 0));
    assert_eq!(rig.bitmap.next_dirty(BlockIndex(0), 1), None);
}

#[test]
fn a_page_that_changes_while_it_is_written_is_written_again() {
    let mut rig = Rig::new(SMALL);
    let bytes = 0..BLOCK;
    rig.bitmap.set(&bytes, Sequence(1));
    assert!(!rig.bitmap.is_flushed(&bytes) && rig.bitmap.needs_flush(FlushScope::Sets));
    assert!(rig.bitmap.is_flushed(&(BLOCKS_PER_PAGE * BLOCK..SMALL)), "another page");
    assert_eq!(rig.bitmap.begin_flush(FlushScope::Sets, 9).len(), 1);
    assert!(rig.bitmap.is_flushing() && !rig.bitmap.is_flushed(&bytes), "in flight is not flushed");
    rig.bitmap.set(&(BLOCK..2 * BLOCK), Sequence(2));
    rig.bitmap.flushed();
    assert!(!rig.bitmap.is_flushed(&bytes), "the second bit is not");
    assert_eq!(rig.flush(FlushScope::Sets), 1);
    assert!(rig.bitmap.is_flushed(&bytes) && !rig.bitmap.needs_flush(FlushScope::All));
    assert_eq!(rig.flush(FlushScope::All), 0);
}

#[test]
fn cleared_bits_are_written_at_leisure() {
    let mut rig = Rig::new(SMALL);
    rig.bitmap.set_all(Sequence(1));
    assert_eq!(rig.bitmap.begin_flush(FlushScope::Sets, 2).len(), 2);
    rig.bitmap.flushed();
    assert_eq!(rig.flush(FlushScope::Sets), 1);
    rig.bitmap.clear(&proof(0..BLOCK, 1)).unwrap();
    assert!(rig.bitmap.is_flushed(&(0..BLOCK)) && !rig.bitmap.needs_flush(FlushScope::Sets));
    assert_eq!(rig.flush(FlushScope::Sets), 0);
    assert_eq!(rig.flush(FlushScope::All), 1);
    // Set again after the cleared state was handed out: that is a new bit.
    rig.bitmap.clear(&proof(BLOCK..2 * BLOCK, 1)).unwrap();
    assert_eq!(rig.bitmap.begin_flush(FlushScope::All, 9).len(), 1);
    rig.bitmap.set(&(BLOCK..2 * BLOCK), Sequence(2));
    rig.bitmap.flushed();
    assert!(!rig.bitmap.is_flushed(&(BLOCK..2 * BLOCK)));
}

/// D3, O10: after every crash of a flush the dirty set holds everything that was flushed before and still lacks,
/// and a page is as it was, as it was to be, or wholly dirty.
#[test]
fn d3_every_crash_of_a_flush() {
    let mut rig = Rig::new(SMALL);
    for block in (0..BLOCKS_PER_PAGE).step_by(97) {
        rig.bitmap.set(&(block * BLOCK..block * BLOCK + 1), Sequence(1));
    }
    rig.bitmap.set(&(SMALL - 1..SMALL), Sequence(1));
    rig.flush(FlushScope::All);
    let (before, _) = rig.load(&rig.medium);
    rig.bitmap.clear(&proof(0..BLOCKS_PER_PAGE * BLOCK, 1)).unwrap();
    rig.bitmap.set(&(1000 * BLOCK..1005 * BLOCK), Sequence(2));
    rig.bitmap.set(&(SMALL - 2 * BLOCK..SMALL), Sequence(2));
    let writes = rig.bitmap.begin_flush(FlushScope::All, usize::MAX);
    assert_eq!(writes.len(), 2);
    let after = rig.bitmap.clone();
    let (mut torn, mut whole) = (0, 0);
    let states = every_crash(&rig.medium, &writes, |crashed| {
        let (found, report) = rig.load(crashed);
        assert_eq!(report.damaged_pages, 0);
        torn += usize::from(report.torn_pages > 0);
        whole += usize::from(report.torn_pages == 0);
        for (page, range) in by_page(0..rig.layout.geometry().blocks()) {
            let same = |other: &DirtyBitmap| {
                found.pages[page].words(range.end) == other.pages[page].words(range.end)
            };
            assert!(same(&before) || same(&after) || found.pages[page].dirty() == range.end);
        }
    });
    assert!(states > 800 && torn > 500 && whole >= 4, "{states} states, {torn} torn, {whole} whole");
}

/// D3: a page that is not what it should be counts as dirty, never as clean.
#[test]
fn d3_damaged_pages_are_dirty() {
    let rig = Rig::new(SMALL);
    let region = rig.layout.bitmap(peer()).unwrap();
    let zero = [0; WORDS];
    let spoils: [(MetaWrite, Fault); 6] = [
        (write(region, vec![0; PAGE_BYTES]), Fault::Empty),
        (write(region, page::encode(&zero, peer(), 0, NODE, 5)), Fault::Misplaced),
        (write(region, page::encode(&zero, PeerIndex::new(1).unwrap(), 2, NODE, 5)), Fault::Misplaced),
        (write(region, page::encode(&zero, peer(), 2, NodeId(1), 5)), Fault::Foreign(NodeId(1))),
        (
            write(region, page::encode(&[1 << 10; WORDS], peer(), 2, NODE, 5)),
            Fault::Contradiction("a bit behind the end of the volume"),
        ),
        (
            write(region, page::encode(&zero, peer(), 2, NODE, COUNTER_END)),
            Fault::Contradiction("its sequence has ended"),
        ),
    ];
    for (spoilt, fault) in spoils {
        let mut medium = rig.medium.clone();
        medium.apply(&[spoilt]);
        let (mut bitmap, report) = rig.load(&medium);
        assert_eq!((report.damaged_pages, report.first.as_slice()), (1, [(2, fault)].as_slice()));
        let last = BlockIndex(2 * BLOCKS_PER_PAGE)..BlockIndex(2 * BLOCKS_PER_PAGE + 10);
        assert_eq!(bitmap.next_dirty(BlockIndex(0), u64::MAX), Some(last));
        // It is written again at the next flush, and not relied on before.
        assert!(!bitmap.is_flushed(&(SMALL - 1..SMALL)));
        assert_eq!(bitmap.begin_flush(FlushScope::Sets, 9).len(), 1);
    }
    let (bitmap, report) = Loader::new(*rig.layout.geometry(), region, NODE, peer()).finish();
    assert_eq!(report.damaged_pages, 3);
    assert_eq!(bitmap.dirty_bytes(), SMALL);
}

fn write(region: Region, bytes: impl Into<bytes::Bytes>) -> MetaWrite {
    MetaWrite { offset: region.page_at(2), bytes: bytes.into() }
}

/// What may happen to a bitmap, in any order. Ranges are in bytes.
#[derive(Clone, Debug)]
enum Op {
    Set(Range<u64>),
    Clear(Range<u64>, u64),
    Begin(FlushScope, usize),
    Flushed,
    Crash(u64),
}

/// Ranges around the places where something begins or ends.
fn range() -> impl Strategy<Value = Range<u64>> {
    let place = prop_oneof![
        0..SMALL,
        (0..4u64, 0..3 * BLOCK).prop_map(|(page, off)| page * BLOCKS_PER_PAGE * BLOCK + off),
        (0..3 * BLOCK).prop_map(|off| SMALL - 1 - off),
    ];
    let len = prop_oneof![1..5 * BLOCK, 1..SMALL, Just(BLOCK), Just(SMALL)];
    (place, len).prop_map(|(start, len)| {
        let start = start.min(SMALL - 1);
        start..(start + len).min(SMALL)
    })
}

fn op() -> impl Strategy<Value = Op> {
    let scope = prop_oneof![Just(FlushScope::Sets), Just(FlushScope::All)];
    prop_oneof![
        4 => range().prop_map(Op::Set),
        4 => (range(), 0u64..4).prop_map(|(range, back)| Op::Clear(range, back)),
        2 => (scope, 1usize..4).prop_map(|(scope, most)| Op::Begin(scope, most)),
        2 => Just(Op::Flushed),
        1 => any::<u64>().prop_map(Op::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// D3, D10, D11, O10: against one entry for each block.
    #[test]
    fn the_bitmap_against_a_naive_model(ops in proptest::collection::vec(op(), 1..40)) {
        let mut rig = Rig::new(SMALL);
        let geometry = *rig.layout.geometry();
        let blocks = geometry.blocks();
        let bytes_of = |block: u64| geometry.block_range(BlockIndex(block)..BlockIndex(block + 1));
        // The sequence that set each dirty block.
        let mut model: Vec<Option<u64>> = vec![None; usize::try_from(blocks).unwrap()];
        let mut writes = Vec::new();
        for (now, op) in (10u64..).zip(ops) {
            match op {
                Op::Set(bytes) => {
                    rig.bitmap.set(&bytes, Sequence(now));
                    for block in geometry.blocks_touched(&bytes) {
                        model[usize::try_from(block).unwrap()] = Some(now);
                    }
                }
                Op::Clear(bytes, back) => {
                    let upto = now - back;
                    let cleared = rig.bitmap.clear(&proof(bytes.clone(), upto)).unwrap();
                    let mut gone = 0;
                    for block in geometry.blocks_covered(&bytes) {
                        let entry = &mut model[usize::try_from(block).unwrap()];
                        if entry.is_some() && !rig.bitmap.is_dirty(BlockIndex(block)) {
                            prop_assert!(entry.unwrap() <= upto, "a bit that was set later is gone");
                            *entry = None;
                            gone += 1;
                        } else if back == 0 {
                            prop_assert!(entry.is_none(), "the newest proof clears all that it covers");
                        }
                    }
                    prop_assert_eq!(gone, cleared.blocks);
                }
                Op::Begin(scope, most) => {
                    if writes.is_empty() {
                        writes = rig.bitmap.begin_flush(scope, most);
                    }
                }
                Op::Flushed => {
                    if !writes.is_empty() {
                        rig.medium.apply(&std::mem::take(&mut writes));
                        rig.bitmap.flushed();
                    }
                }
                Op::Crash(seed) => {
                    let mut medium = rig.medium.clone();
                    let sectors = writes.iter().flat_map(|write| {
                        write.bytes.chunks_exact(512).enumerate().map(|(at, s)| (write.offset.0 + at as u64 * 512, s))
                    });
                    for (at, (offset, sector)) in sectors.enumerate() {
                        if seed >> (at % 64) & 1 == 1 {
                            medium.write(offset, sector);
                        }
                    }
                    let (found, report) = rig.load(&medium);
                    prop_assert_eq!(report.damaged_pages, 0);
                    // What is not flushed yet is in the activity log (D8).
                    for (block, entry) in (0u64..).zip(&model) {
                        if entry.is_some() && rig.bitmap.is_flushed(&bytes_of(block)) {
                            prop_assert!(found.is_dirty(BlockIndex(block)), "block {} was lost", block);
                        }
                    }
                }
            }
            let dirty = model.iter().flatten().count() as u64;
            prop_assert_eq!(rig.bitmap.dirty_blocks(), dirty);
        }
        let expected: Vec<u64> = (0u64..).zip(&model).filter_map(|(at, entry)| entry.map(|_| at)).collect();
        let found: Vec<u64> = dirty(&rig.bitmap).into_iter().flatten().collect();
        prop_assert_eq!(&found, &expected);
        let mut short = Vec::new();
        let mut at = BlockIndex(0);
        while let Some(run) = rig.bitmap.next_dirty(at, 700) {
            prop_assert!(run.end.0 - run.start.0 <= 700 && run.start >= at);
            at = run.end;
            short.extend(run.start.0..run.end.0);
        }
        prop_assert_eq!(&short, &expected);
        if !writes.is_empty() {
            rig.medium.apply(&writes);
            rig.bitmap.flushed();
        }
        rig.flush(FlushScope::All);
        prop_assert!(rig.bitmap.is_flushed(&(0..SMALL)));
        let (loaded, report) = rig.load(&rig.medium);
        prop_assert_eq!(report, LoadReport::default());
        prop_assert_eq!(dirty(&loaded), dirty(&rig.bitmap));
    }
}
