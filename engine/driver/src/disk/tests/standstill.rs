//! No completion is ever waited for in vain: thousands of operations in bursts of all sizes, with nothing else
//! on the runtime that could wake the data thread. Timers are off, so a lost wake-up is a standstill, which
//! another thread sees.

use std::{sync::mpsc, thread, time::Duration};

use super::*;

/// Of the longest wait for one burst on a busy machine. Only a standstill takes longer.
const STANDSTILL: Duration = Duration::from_secs(60);

const OPERATIONS: usize = 6000;
const BLOCKS: u64 = 2048;

/// Runs `work` on a thread of its own, and fails when it has not reported a burst for [`STANDSTILL`].
fn watch(what: &str, work: impl FnOnce(mpsc::Sender<usize>) + Send + 'static) {
    let (report, bursts) = mpsc::channel();
    let worker = thread::spawn(move || work(report));
    let mut done = 0;
    loop {
        match bursts.recv_timeout(STANDSTILL) {
            Ok(burst) => done += burst,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: standstill after {done} operations"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    worker.join().expect("no panic");
    assert_eq!(done, OPERATIONS, "{what}");
}

/// Keeps up to `depth` operations in flight. Each round adds a random number of them, and then waits for the
/// next completions, or, now and then, for all.
async fn load(backend: Backend, depth: usize, report: mpsc::Sender<usize>) {
    let folder = folder();
    let disk = open(image(&folder, BLOCKS * 4096), backend).expect("this machine has both");
    let pool = BufferPool::new(16 << 20);
    let mut state = depth as u64;
    let mut random = |below: u64| {
        // Knuth's MMIX generator; its upper bits are good enough to choose sizes.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut pushed, mut in_flight) = (0, 0);
    let mut done = Vec::new();
    while pushed < OPERATIONS || in_flight > 0 {
        let room = (depth - in_flight).min(OPERATIONS - pushed);
        if room > 0 {
            let batch = 1 + usize::try_from(random(room as u64)).expect("small");
            for _ in 0..batch {
                let offset = random(BLOCKS) * 4096;
                let op = match random(8) {
                    0 => DiskOp::Sync,
                    1..=3 => read_op(&pool, offset, 4096),
                    _ => DiskOp::Write { offset, data: pattern(&pool, 4096, 1), durable: false },
                };
                disk.push(Tag(0), op);
            }
            disk.submit();
            pushed += batch;
            in_flight += batch;
        }
        if random(4) == 0 {
            // Other tasks run, and completions come in before anybody waits for them.
            tokio::task::yield_now().await;
        }
        let wait_for = if random(8) == 0 { in_flight } else { 1 };
        while done.len() < wait_for {
            poll_fn(|cx| disk.poll_completions(cx, &mut done)).await;
        }
        in_flight -= done.len();
        report.send(done.len()).expect("somebody watches");
        for completion in done.drain(..) {
            completion.result.expect("a good disk");
        }
    }
}

#[test]
fn no_wake_up_is_lost_on_a_plain_runtime() {
    for backend in BACKENDS {
        for depth in [1, 32, 200, 2000] {
            watch(&format!("{backend}, depth {depth}"), move |report| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                runtime.expect("a runtime").block_on(load(backend, depth, report));
            });
        }
    }
}

#[test]
fn no_wake_up_is_lost_inside_tokio_uring() {
    for depth in [1, 32, 200, 2000] {
        watch(&format!("tokio_uring, depth {depth}"), move |report| {
            tokio_uring::builder().entries(8).start(load(Backend::IoUring, depth, report));
        });
    }
}
