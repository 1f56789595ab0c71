//! What a 4 KiB write costs in the engine: admission, activity log, range lock, sequence, completion, reply.
//!
//! Time is CPU time of the thread and includes the bench's own queue of events. Disks and links answer at once and
//! cost nothing, so there is no checksum in it. `alone` has no peer; `mirrored` counts *both* nodes' engines, on
//! protocol C. A flush follows every burst of 1,024 writes (at depth 1 and 32: every 1,024th), as the write log must
//! be emptied now and then.

mod cpu_time;
mod engine;

use bytes::Bytes;
use cpu_time::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{BLOCK, Cluster};
use evenkeel_core::volume::config::Protocol;

/// Blocks that are written again and again: 16 extents, hot after the first round.
const HOT_BLOCKS: u64 = 16 * (4 << 20) / BLOCK;
const FLUSH_EVERY: u64 = 1024;

fn writes(criterion: &mut Criterion<CpuTime>) {
    for (name, nodes) in [("alone", 1), ("mirrored", 2)] {
        let mut group = criterion.benchmark_group(format!("write 4KiB {name}"));
        for depth in [1, 32, 1024] {
            let mut cluster = Cluster::new(nodes, Protocol::C);
            let payload = Bytes::from(vec![7; usize::try_from(BLOCK).expect("small")]);
            let mut at = 0;
            let mut burst = |depth: u64| {
                let flush = (at + depth).is_multiple_of(FLUSH_EVERY);
                let replies = cluster.burst(at % HOT_BLOCKS, depth, &payload, flush);
                assert_eq!(replies, depth + u64::from(flush));
                at += depth;
            };
            (0..HOT_BLOCKS / depth).for_each(|_| burst(depth));
            group.throughput(Throughput::Elements(depth));
            group.bench_function(format!("depth {depth}"), |bencher| bencher.iter(|| burst(depth)));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = writes
}
criterion_main!(benches);
