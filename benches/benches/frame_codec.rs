//! What frames cost between the engine and the link: encoding and parsing of writes and acknowledgements.
//!
//! Time is CPU time of the thread. `given` has the checksum from where the payload came in, as on the path of a
//! write; `taken` takes it while encoding. Parsing always takes it. `whole` comes in one chunk; `packets` in
//! chunks of 1,200 bytes, as from the link, and is put into one buffer.

mod cpu_time;

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use cpu_time::CpuTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use evenkeel_core::{
    ids::Sequence,
    volume::{
        codec::{Encoder, HeapBuffers, Parser, PayloadChecksum, SessionNumber},
        wire::Frame,
    },
};

const SIZES: [(&str, usize); 3] = [("4KiB", 4 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20)];
/// Payload of a QUIC packet on a path of which nothing is known.
const PACKET_BYTES: usize = 1200;

fn session() -> SessionNumber {
    SessionNumber::new(1).expect("not zero")
}

fn write(len: usize) -> Frame {
    Frame::Write {
        sequence: Sequence(7),
        after: Sequence(3),
        offset: 4096,
        payload: Bytes::from_owner(vec![0xA5; len]),
        fua: false,
    }
}

fn wire(frame: &Frame, count: usize) -> Bytes {
    let mut encoder = Encoder::new(session());
    (0..count).for_each(|_| encoder.push(frame, None));
    let chunks = encoder.chunks().drain(..);
    chunks
        .fold(BytesMut::new(), |mut all, chunk| {
            all.extend_from_slice(&chunk);
            all
        })
        .freeze()
}

fn parse(chunks: &mut [Bytes]) -> usize {
    let mut parser = Parser::new(session(), HeapBuffers);
    let mut frames = 0;
    for chunk in chunks {
        while let Some(frame) = parser.next_frame(chunk).expect("a good frame") {
            black_box(&frame);
            frames += 1;
        }
    }
    frames
}

fn encoding(criterion: &mut Criterion<CpuTime>) {
    for (name, len) in SIZES {
        let mut group = criterion.benchmark_group(format!("encode/write {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        let frame = write(len);
        let checksum = PayloadChecksum::of(&vec![0xA5; len]);
        for (how, checksum) in [("given", Some(checksum)), ("taken", None)] {
            let mut encoder = Encoder::new(session());
            group.bench_function(how, |bencher| {
                bencher.iter(|| {
                    encoder.push(black_box(&frame), checksum);
                    // As after a send: what was sent is gone.
                    black_box(encoder.chunks()).clear();
                });
            });
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("encode/burst of 32");
    let frame = write(4096);
    let checksum = PayloadChecksum::of(&[0xA5; 4096]);
    let mut encoder = Encoder::new(session());
    group.bench_function("writes 4KiB given", |bencher| {
        bencher.iter(|| {
            (0..32).for_each(|_| encoder.push(black_box(&frame), Some(checksum)));
            black_box(encoder.chunks()).clear();
        });
    });
    let ack = Frame::Applied { upto: Sequence(7), also: vec![Sequence(9)] };
    group.bench_function("acknowledgements", |bencher| {
        bencher.iter(|| {
            (0..32).for_each(|_| encoder.push(black_box(&ack), None));
            black_box(encoder.chunks()).clear();
        });
    });
    group.finish();
}

fn parsing(criterion: &mut Criterion<CpuTime>) {
    for (name, len) in SIZES {
        let mut group = criterion.benchmark_group(format!("parse/write {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        let bytes = wire(&write(len), 1);
        for (how, cut) in [("whole", bytes.len()), ("packets", PACKET_BYTES)] {
            let chunks: Vec<Bytes> = (0..bytes.len())
                .step_by(cut)
                .map(|from| bytes.slice(from..bytes.len().min(from + cut)))
                .collect();
            group.bench_function(how, |bencher| {
                bencher.iter_batched_ref(
                    || chunks.clone(),
                    |chunks| assert_eq!(parse(black_box(chunks)), 1),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("parse/burst of 32");
    for (name, frame) in [
        ("upto", Frame::StableTo(Sequence(7))),
        ("acknowledgements", Frame::Applied { upto: Sequence(7), also: vec![Sequence(9)] }),
    ] {
        let bytes = wire(&frame, 32);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || [bytes.clone()],
                |chunks| assert_eq!(parse(black_box(chunks)), 32),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The floor: the checksum alone.
fn checksum(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("checksum");
    for (name, len) in SIZES {
        let payload = vec![0xA5; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| bencher.iter(|| PayloadChecksum::of(black_box(&payload))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = encoding, parsing, checksum
}
criterion_main!(benches);
