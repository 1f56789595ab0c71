//! Entry points for fuzzing: every function takes any bytes and must neither panic nor allocate beyond its bound.
//!
//! A checksum keeps a fuzzer out, so each of them also *patches* a good structure, makes its checksum right again
//! and checks what comes out: whatever is accepted must be exactly what would be written for it.

use super::{
    activity_log::{self, ActivityLog, Hold, PieceId},
    dirty_bitmap::{DirtyBitmap, FlushScope, Loader},
    geometry::Geometry,
    header::CopyId,
    layout::{Layout, PAGE_BYTES, REGIONS_START, SUPERBLOCK_BYTES},
    superblock::{Evidence, Flags, PeerRecord, Superblock, decode, encode},
    superblock_pair::{Expectations, SuperblockPair},
};
use crate::{
    generation::{history::History, view::Replies},
    ids::{
        AttachCounter, BlockIndex, ClusterId, Generation, GenerationId, MAX_PEERS, NodeId, PeerIndex,
        Sequence, Term,
    },
};

const NODE: NodeId = NodeId(0x77);

/// Makes the checksum of a structure right.
pub fn reseal(bytes: &mut [u8]) {
    super::header::reseal(bytes);
}

/// Overwrites parts of `bytes`: `data` is a list of {offset: u16, length: u8, content}.
fn patch(bytes: &mut [u8], mut data: &[u8]) {
    while let [low, high, len, rest @ ..] = data {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
        let len = usize::from(*len).min(rest.len()).min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&rest[..len]);
        data = &rest[len..];
    }
    reseal(bytes);
}

fn layout() -> Layout {
    let geometry = Geometry::new(160 << 20, 4096, 1 << 20, 1100).expect("within the limits");
    Layout::new(geometry, PeerIndex::all().take(2)).expect("within the limits")
}

fn peer() -> PeerIndex {
    PeerIndex::new(0).expect("there is a first peer")
}

fn superblock() -> Superblock {
    let generation = |number| Generation {
        id: GenerationId(number),
        term: Term { number: u64::try_from(number).expect("small"), node: NODE },
    };
    let mut peers = [None; MAX_PEERS];
    peers[1] = Some(PeerRecord {
        node: NodeId(0x78),
        standing: crate::generation::record::Standing::Never,
        outdated_confirmed: true,
        attach_counter_seen: AttachCounter(9),
        attach_counter_shown: AttachCounter(4),
    });
    Superblock {
        cluster: Some(ClusterId(5)),
        volume: None,
        node: NODE,
        layout: layout(),
        history: History::from_parts(Some(generation(3)), vec![generation(2), generation(1)], None)
            .expect("a chain"),
        highest_term: Some(Term { number: 3, node: NODE }),
        boot: None,
        instance: None,
        attach_counter: AttachCounter(4),
        given_up_at: AttachCounter::default(),
        counted_at_boot_nanos: 0,
        clean_shutdown: None,
        flags: Flags { consistent: true, ..Flags::default() },
        evidence: Evidence::of_this_run(Replies::Together),
        cache_in_doubt: false,
        peers,
    }
}

/// Both copies of the superblock as they are, and one that was patched.
///
/// # Panics
/// If what was accepted is not what would be written.
pub fn superblocks(data: &[u8]) {
    let expectations = Expectations { metadata_bytes: u64::MAX, ..Expectations::default() };
    let (a, b) = data.split_at(data.len().min(SUPERBLOCK_BYTES));
    let _ = SuperblockPair::open(Some(a), Some(b), &expectations);

    let mut patched = encode(&superblock(), CopyId::A, 6);
    let good = encode(&superblock(), CopyId::B, 7);
    patch(&mut patched, data);
    if let Ok((found, sequence)) = decode(&patched, CopyId::A, None) {
        assert_eq!(encode(&found, CopyId::A, sequence), patched, "one state has one form");
        assert!(!found.to_string().is_empty());
    }
    if let Ok(mut opened) = SuperblockPair::open(Some(&patched), Some(&good), &expectations) {
        let next = opened.pair.current().clone();
        let _ = opened.pair.update(next);
        opened.pair.committed();
    }
}

/// The region of the activity log as it is, and one page of it patched; the log is then used.
///
/// # Panics
/// If the log that was opened breaks one of its own invariants.
pub fn activity_logs(data: &[u8]) {
    let layout = layout();
    let (log, replay) = ActivityLog::open(&layout, NODE, data);
    assert!(replay.everything_may_differ() && log.extents().count() <= 1100);

    let mut region: Vec<u8> =
        ActivityLog::format(&layout, NODE).flat_map(|write| write.bytes.to_vec()).collect();
    // `format` gives both copies of a page together; the region has all of copy A first.
    let pages = region.len() / PAGE_BYTES / 2;
    let in_place = region.clone();
    for (index, page) in in_place.chunks_exact(PAGE_BYTES).enumerate() {
        let at = (index / 2 + index % 2 * pages) * PAGE_BYTES;
        region[at..at + PAGE_BYTES].copy_from_slice(page);
    }
    let (which, data) = data.split_first().map_or((0, data), |(which, data)| (usize::from(*which), data));
    let at = which % (2 * pages) * PAGE_BYTES;
    patch(&mut region[at..at + PAGE_BYTES], data);
    let (mut log, _) = ActivityLog::open(&layout, NODE, &region);
    log.carried_settled();
    let mut admitted = Vec::new();
    for byte in data.iter().take(16) {
        let start = (u64::from(*byte) % 160) << 20;
        let extents = layout.geometry().extents_of(&(start..start + 1));
        if log.hold(PieceId(u64::from(*byte)), extents) == Hold::Hot {
            log.assigned(extents, Sequence(1));
        }
        for _ in 0..4 {
            match log.advance(Sequence(1), |_| true, &mut admitted) {
                activity_log::Step::Write(_) => log.committed(&mut admitted),
                activity_log::Step::Idle | activity_log::Step::InFlight | activity_log::Step::NeedsFlush => {}
            }
        }
        for piece in admitted.drain(..) {
            let start = (piece.0 % 160) << 20;
            log.assigned(layout.geometry().extents_of(&(start..start + 1)), Sequence(1));
        }
    }
    assert_eq!(log.waiting(), 0, "160 extents always fit into 1100 slots");
}

/// The pages of a bitmap as they are, and one of them patched; the bitmap is then used.
///
/// # Panics
/// If the bitmap that was opened breaks one of its own invariants.
pub fn dirty_bitmaps(data: &[u8]) {
    let layout = layout();
    let region = layout.bitmap(peer()).expect("the layout has two bitmaps");
    let geometry = *layout.geometry();
    let mut loader = Loader::new(geometry, region, NODE, peer());
    for page in data.chunks(PAGE_BYTES) {
        loader.page(Some(page));
    }
    let (bitmap, report) = loader.finish();
    assert_eq!(u64::from(geometry.bitmap_pages()), report.bad_pages());
    assert_eq!(bitmap.dirty_blocks(), geometry.blocks());

    let mut loader = Loader::new(geometry, region, NODE, peer());
    let mut patched = Vec::new();
    for write in DirtyBitmap::format(region, NODE, peer()) {
        let mut page = write.bytes.to_vec();
        patch(&mut page, data);
        loader.page(Some(&page));
        patched.push(page);
    }
    let (mut bitmap, _) = loader.finish();
    let mut counted = 0;
    let mut at = BlockIndex(0);
    while let Some(run) = bitmap.next_dirty(at, 1000) {
        counted += run.end.0 - run.start.0;
        at = run.end;
    }
    assert_eq!(counted, bitmap.dirty_blocks());
    bitmap.set_all(Sequence(1));
    assert!(!bitmap.begin_flush(FlushScope::All, usize::MAX).is_empty());
    bitmap.flushed();
}

/// Dump and check of a file that is any bytes, and of a good one of which a page was patched.
///
/// # Panics
/// If a report says nothing.
pub fn reports(data: &[u8]) {
    inspect(data);
    let (which, data) = data.split_at(data.len().min(2));
    let which = which.iter().fold(0, |which, byte| which << 8 | usize::from(*byte));
    let mut file = file();
    let page = which % (file.len() / PAGE_BYTES) * PAGE_BYTES;
    let len = if (page as u64) < REGIONS_START { SUPERBLOCK_BYTES } else { PAGE_BYTES };
    patch(&mut file[page..page + len], data);
    inspect(&file);
}

fn inspect(file: &[u8]) {
    let mut read = |offset: u64, into: &mut [u8]| {
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let len = into.len().min(file.len() - at);
        into[..len].copy_from_slice(&file[at..at + len]);
        if len == into.len() { Ok(()) } else { Err("the file ends here".to_owned()) }
    };
    let report = super::report::inspect(file.len() as u64, &mut read);
    assert!(!report.to_string().is_empty());
}

/// A good metadata file.
fn file() -> Vec<u8> {
    let layout = layout();
    let (_, superblocks) = SuperblockPair::create(superblock());
    let log = ActivityLog::format(&layout, NODE);
    let bitmaps = PeerIndex::all().filter_map(|peer| Some((layout.bitmap(peer)?, peer)));
    let bitmaps = bitmaps.flat_map(|(region, peer)| DirtyBitmap::format(region, NODE, peer));
    let mut file = Vec::new();
    for write in superblocks.into_iter().chain(log).chain(bitmaps) {
        let at = usize::try_from(write.offset.0).expect("a small file");
        file.resize(file.len().max(at + write.bytes.len()), 0);
        file[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that get somewhere: small patches at places that matter, or anything.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let small = prop_oneof![Just(0u8), Just(1), Just(0xFF), any::<u8>()];
        let piece = (0u16..1200, proptest::collection::vec(small, 0..20)).prop_map(|(at, content)| {
            let len = u8::try_from(content.len()).unwrap();
            at.to_le_bytes().into_iter().chain([len]).chain(content).collect::<Vec<u8>>()
        });
        prop_oneof![
            proptest::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat()),
            proptest::collection::vec(any::<u8>(), 0..9000),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_superblocks(data in bytes()) { superblocks(&data); }
        #[test]
        fn any_activity_logs(data in bytes()) { activity_logs(&data); }
        #[test]
        fn any_dirty_bitmaps(data in bytes()) { dirty_bitmaps(&data); }
        #[test]
        fn any_reports(data in bytes()) { reports(&data); }
    }

    #[test]
    fn nothing_at_all() {
        for run in [superblocks, activity_logs, dirty_bitmaps, reports] {
            run(&[]);
        }
    }

    #[test]
    fn the_file_that_is_patched_is_good() {
        let file = file();
        let mut read = |offset: u64, into: &mut [u8]| {
            let at = usize::try_from(offset).unwrap();
            into.copy_from_slice(&file[at..at + into.len()]);
            Ok(())
        };
        let report = super::super::report::inspect(file.len() as u64, &mut read);
        assert!(report.problems().is_empty(), "{report}");
    }
}
