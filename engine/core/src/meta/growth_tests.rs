//! Every crash of a growing volume's metadata: bitmaps in new places, then the superblock that names them.

use super::{
    crash::{Medium, every_crash},
    dirty_bitmap::{DirtyBitmap, FlushScope, Loader, Move},
    geometry::Geometry,
    layout::{Layout, MetaWrite, PAGE_BYTES, SUPERBLOCK_BYTES},
    superblock::{Evidence, Flags, Superblock},
    superblock_pair::{Expectations, SuperblockPair},
};
use crate::{
    generation::{
        history::History,
        view::{Power, Replies},
    },
    ids::{AttachCounter, BlockIndex, MAX_PEERS, NodeId, PeerIndex, Sequence},
};

const NODE: NodeId = NodeId(0x0A0A_0B0B_0C0C_0D0D);
const BLOCK: u64 = 4096;
/// Not a whole number of blocks, in one page; then two pages.
const SIZES: [u64; 3] = [100 * BLOCK + 512, 31_744 * BLOCK + 512, 40_000 * BLOCK];

fn superblock(layout: Layout) -> Superblock {
    Superblock {
        cluster: None,
        volume: None,
        node: NODE,
        layout,
        history: History::empty(),
        highest_term: None,
        boot: None,
        instance: None,
        attach_counter: AttachCounter(1),
        given_up_at: AttachCounter::default(),
        counted_at_boot_nanos: 0,
        clean_shutdown: None,
        flags: Flags::default(),
        evidence: Evidence { power: Power::SameRun, settled: true, replies: Replies::Together },
        cache_in_doubt: false,
        peers: [const { None }; MAX_PEERS],
    }
}

/// What opens from a medium: the size, and what each peer lacks of the old volume.
fn open(medium: &Medium) -> (u64, Vec<DirtyBitmap>) {
    let copy = |at| medium.read(at, SUPERBLOCK_BYTES);
    let expectations = Expectations { metadata_bytes: medium.len(), ..Expectations::default() };
    let opened =
        SuperblockPair::open(Some(copy(0)), Some(copy(super::layout::SUPERBLOCK_STRIDE)), &expectations)
            .expect("an interrupted growth opens");
    let layout = &opened.pair.current().layout;
    let bitmaps = PeerIndex::all().filter_map(|peer| {
        let region = layout.bitmap(peer)?;
        let mut loader = Loader::new(*layout.geometry(), region, NODE, peer);
        for page in 0..layout.geometry().bitmap_pages() {
            loader.page(Some(medium.read(region.page_at(page).0, PAGE_BYTES)));
        }
        let (bitmap, report) = loader.finish();
        assert_eq!(report.bad_pages(), 0, "every page that is named is whole");
        Some(bitmap)
    });
    (layout.geometry().size_bytes(), bitmaps.collect())
}

fn flush(bitmap: &mut DirtyBitmap, medium: &mut Medium) {
    let writes = bitmap.begin_flush(FlushScope::All, usize::MAX);
    medium.apply(&writes);
    if !writes.is_empty() {
        bitmap.flushed();
    }
}

/// Of the two peers the second one may lack the new part, or not.
fn towards(grown: &Layout, peer: PeerIndex, lacks: bool) -> Move {
    Move {
        geometry: *grown.geometry(),
        region: grown.bitmap(peer).unwrap(),
        lacks_new_part: lacks && peer != PeerIndex::FIRST,
    }
}

#[test]
fn d3_every_crash_of_a_growth() {
    every_crash_of_a_growth(false);
}

/// A copy that was set back from the larger size has nothing of what its peers wrote there (found by the simulator).
#[test]
fn d6_what_a_peer_may_lack_is_marked_as_soon_as_there_is_such_a_place() {
    every_crash_of_a_growth(true);
}

fn every_crash_of_a_growth(lacks: bool) {
    let geometry = Geometry::new(SIZES[0], 4096, 1 << 20, 16).unwrap();
    let layout = Layout::new(geometry, PeerIndex::all().take(2)).unwrap();
    let mut medium = Medium::new(1 << 20);
    let (mut pair, writes) = SuperblockPair::create(superblock(layout.clone()));
    medium.apply(&writes);
    let mut bitmaps: Vec<DirtyBitmap> = PeerIndex::all()
        .take(2)
        .map(|peer| {
            let region = layout.bitmap(peer).unwrap();
            medium.apply(&DirtyBitmap::format(region, NODE, peer).collect::<Vec<_>>());
            DirtyBitmap::clean(geometry, region, NODE, peer)
        })
        .collect();
    let mut layout = layout;
    let mut old_size = SIZES[0];
    for size in SIZES.into_iter().skip(1) {
        // Flushed on stable media, and only in memory when the growth begins. The first peer lacks everything.
        bitmaps[0].set_all(Sequence(1));
        bitmaps[1].set(&(3 * BLOCK..5 * BLOCK), Sequence(1));
        bitmaps.iter_mut().for_each(|bitmap| flush(bitmap, &mut medium));
        bitmaps[1].set(&(7 * BLOCK..8 * BLOCK), Sequence(2));
        let old_blocks = bitmaps[0].geometry().blocks();
        let is_right = |(found, bitmaps): (u64, Vec<DirtyBitmap>), unflushed: bool| {
            assert!(found == old_size || found == size);
            assert!((0..old_blocks).all(|block| bitmaps[0].is_dirty(BlockIndex(block))));
            assert!([3, 4].into_iter().all(|block| bitmaps[1].is_dirty(BlockIndex(block))));
            assert!(found == old_size || !unflushed || bitmaps[1].is_dirty(BlockIndex(7)));
            let mut new = bitmaps[1].geometry().blocks_touched(&(old_size.min(found - 1)..found));
            assert!(found == old_size || !lacks || new.all(|block| bitmaps[1].is_dirty(BlockIndex(block))));
            found
        };

        let grown = layout.grown_to(size).unwrap();
        let moves: Vec<MetaWrite> = bitmaps
            .iter_mut()
            .flat_map(|bitmap| {
                let to = towards(&grown, bitmap.peer(), lacks);
                (0..grown.geometry().bitmap_pages())
                    .map(move |page| bitmap.move_page(&to, page))
                    .collect::<Vec<_>>()
            })
            .collect();
        every_crash(&medium, &moves, |crashed| assert_eq!(is_right(open(crashed), false), old_size));
        medium.apply(&moves);
        for bitmap in &mut bitmaps {
            bitmap.moved(&towards(&grown, bitmap.peer(), lacks));
        }
        let update = pair.update(Superblock { layout: grown.clone(), ..pair.current().clone() });
        let mut seen = [0, 0];
        every_crash(&medium, std::slice::from_ref(&update), |crashed| {
            seen[usize::from(is_right(open(crashed), true) == size)] += 1;
        });
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        medium.apply(&[update]);
        pair.committed();
        assert_eq!(open(&medium).0, size);
        for block in old_blocks..bitmaps[0].geometry().blocks() {
            assert!(!bitmaps[0].is_dirty(BlockIndex(block)), "the new part is equal everywhere");
            assert_eq!(bitmaps[1].is_dirty(BlockIndex(block)), lacks);
        }
        bitmaps[1].set(&(size - 512..size), Sequence(3));
        flush(&mut bitmaps[1], &mut medium);
        let (_, found) = open(&medium);
        assert_eq!(found[1].dirty_blocks(), bitmaps[1].dirty_blocks());
        assert_eq!(found[0].dirty_blocks(), old_blocks);
        (layout, old_size) = (grown, size);
    }
}
