//! What the metadata cost in memory: activity log hot and cold, the dirty bitmap of a tebibyte.
//!
//! Time is CPU time of the thread. `cold` makes every extent take a slot from another one and includes the
//! encoding and checksum of the transaction's pages, not the disk. Bitmaps have blocks of 4 KiB.

mod cpu_time;

use std::hint::black_box;

use cpu_time::CpuTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use evenkeel_core::{
    ids::{BlockIndex, NodeId, PeerIndex, Sequence},
    meta::{
        activity_log::{ActivityLog, Hold, PieceId, Step},
        dirty_bitmap::{DirtyBitmap, FlushScope},
        geometry::Geometry,
        layout::Layout,
        stable_proof::{SessionId, measure::proof},
    },
};

const NODE: NodeId = NodeId(1);
const EXTENT: u64 = 4 << 20;
const BLOCK: u64 = 4096;
const CLEARED: u64 = 1000;

fn layout(size: u64, slots: u32) -> Layout {
    let geometry = Geometry::new(size, 4096, 4 << 20, slots).expect("valid");
    Layout::new(geometry, PeerIndex::all().take(1)).expect("valid")
}

fn opened(layout: &Layout) -> ActivityLog {
    let mut region = Vec::new();
    for write in ActivityLog::format(layout, NODE) {
        let at = usize::try_from(write.offset.0 - layout.log().bytes().start).expect("small");
        region.resize(region.len().max(at + write.bytes.len()), 0);
        region[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let (log, replay) = ActivityLog::open(layout, NODE, &region);
    assert!(!replay.everything_may_differ());
    log
}

fn activity_log(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("activity log");
    let layout = layout(1 << 40, 65_536);
    let mut log = opened(&layout);
    let mut admitted = Vec::new();
    let mut sequence = 0;
    let mut hold = |log: &mut ActivityLog, extent: u64| {
        let start = extent * EXTENT;
        let extents = layout.geometry().extents_of(&(start..start + BLOCK));
        sequence += 1;
        let was = log.hold(PieceId(sequence), extents);
        if was == Hold::Waiting {
            let Step::Write(pages) = log.advance(Sequence(sequence), |_| true, &mut admitted) else {
                panic!("a cold extent needs a transaction")
            };
            black_box(pages);
            log.committed(&mut admitted);
            admitted.clear();
        }
        log.assigned(extents, Sequence(sequence));
        was
    };
    for extent in 0..65_536 {
        assert_eq!(hold(&mut log, extent), Hold::Waiting);
    }
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("hot", |bencher| {
        bencher.iter(|| {
            at = (at + 7919) % 65_536;
            assert_eq!(hold(&mut log, at), Hold::Hot);
        });
    });
    let mut cold = 65_536;
    group.bench_function("cold, full log", |bencher| {
        bencher.iter(|| {
            cold = if cold + 1 == 262_144 { 0 } else { cold + 1 };
            assert_eq!(hold(&mut log, cold), Hold::Waiting);
        });
    });
    group.finish();
}

fn bitmap() -> DirtyBitmap {
    let layout = layout(1 << 40, 65_536);
    let peer = PeerIndex::FIRST;
    let region = layout.bitmap(peer).expect("there is one peer");
    DirtyBitmap::clean(*layout.geometry(), region, NODE, peer)
}

/// So many blocks, spread over the tebibyte.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    let blocks = (1u64 << 40) / BLOCK;
    (0..count).map(move |at| at * 982_451_653 % blocks)
}

fn dirty_bitmap(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("bitmap 1TiB");
    let mut marked = bitmap();
    let mut at = scattered(u64::MAX);
    group.throughput(Throughput::Elements(1));
    group.bench_function("mark a block", |bencher| {
        bencher.iter(|| {
            let block = at.next().expect("endless");
            marked.set(&(block * BLOCK..(block + 1) * BLOCK), Sequence(1))
        });
    });
    group.throughput(Throughput::Elements(CLEARED));
    group.bench_function("clear 1,000 blocks", |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut bitmap = bitmap();
                bitmap.begin_session(SessionId(1));
                for block in scattered(CLEARED) {
                    bitmap.set(&(block * BLOCK..(block + 1) * BLOCK), Sequence(1));
                }
                bitmap
            },
            |bitmap| {
                for block in scattered(CLEARED) {
                    let bytes = block * BLOCK..(block + 1) * BLOCK;
                    let proof = proof(PeerIndex::FIRST, SessionId(1), bytes, Sequence(1));
                    bitmap.clear(&proof).expect("a good proof");
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    let scan = |bitmap: &DirtyBitmap| {
        let (mut runs, mut from) = (0, BlockIndex(0));
        while let Some(run) = bitmap.next_dirty(from, 256) {
            runs += 1;
            from = run.end;
        }
        runs
    };
    let clean = bitmap();
    group.bench_function("scan, clean", |bencher| {
        bencher.iter(|| assert_eq!(scan(black_box(&clean)), 0));
    });
    let mut sparse = bitmap();
    for block in scattered(100_000) {
        sparse.set(&(block * BLOCK..(block + 1) * BLOCK), Sequence(1));
    }
    group.bench_function("scan, 100,000 blocks", |bencher| {
        bencher.iter(|| assert!(scan(black_box(&sparse)) > 90_000));
    });
    group.bench_function("write out, 100,000 blocks", |bencher| {
        bencher.iter_batched_ref(
            || sparse.clone(),
            |bitmap| {
                assert!(!bitmap.begin_flush(FlushScope::All, usize::MAX).is_empty());
                bitmap.flushed();
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = activity_log, dirty_bitmap
}
criterion_main!(benches);
