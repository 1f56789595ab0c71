//! What a verdict costs: `decide` over two nodes with full histories.
//!
//! Time is CPU time of the thread. It is paid once per handshake; it must not grow out of hand with the history.

mod cpu_time;

use std::hint::black_box;

use cpu_time::CpuTime;
use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel_core::{
    generation::{
        decide::decide,
        history::History,
        record::PeerRecord,
        verdict::Verdict,
        view::{Bond, Copy, NodeView, Power, Replies, Role, Unsettled, Wish},
    },
    ids::{AttachCounter, Generation, GenerationId, NodeId, Term},
};

const ANCESTORS: u64 = 63;

/// A history of 64 generations whose newest is `head`, on a branch of its own.
fn history(branch: u128, head: u64) -> History {
    let generation = |number: u64| Generation {
        id: GenerationId(branch << 64 | u128::from(number)),
        term: Term { number, node: NodeId(1) },
    };
    let ancestors = (head - ANCESTORS..head).rev().map(generation).collect();
    History::from_parts(Some(generation(head)), ancestors, None).expect("a chain")
}

fn view(node: u64, history: History) -> NodeView {
    NodeView {
        node: NodeId(node),
        size_bytes: 1 << 40,
        block_bytes: 4096,
        copy: Copy::Good,
        highest_term: history.head().map(|head| head.term),
        history,
        role: Role::Secondary,
        power: Power::SameRun,
        replies: Replies::Together,
        unsettled: Unsettled::Nothing,
        attach: AttachCounter(7),
        wish: Wish::Nothing,
        record: PeerRecord { seen: AttachCounter(7), ..PeerRecord::NEVER },
        bond: Bond::Free,
    }
}

/// A name, the other node's history, and what the verdict must be.
type Case = (&'static str, History, fn(&Verdict) -> bool);

fn verdicts(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("decide, 64 generations");
    let cases: [Case; 3] = [
        ("equal heads", history(1, 100), |verdict| !matches!(verdict, Verdict::Refused(_))),
        ("far behind", history(1, 70), |verdict| !matches!(verdict, Verdict::Refused(_))),
        ("unrelated", history(2, 100), |verdict| matches!(verdict, Verdict::Unrelated { .. })),
    ];
    for (name, theirs, expected) in cases {
        let (mine, theirs) = (view(1, history(1, 100)), view(2, theirs));
        let verdict = decide(&mine, &theirs);
        assert!(expected(&verdict), "{name}: {verdict:?}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide(black_box(&mine), black_box(&theirs)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = verdicts
}
criterion_main!(benches);
