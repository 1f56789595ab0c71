//! The disk on an own io_uring ring.
//!
//! Operations are written into the submission queue when they are pushed, and given to the kernel together by
//! one system call in `submit`. Completions wake the data thread through epoll on the ring's descriptor, so the
//! ring works under any tokio runtime, also under `tokio_uring`, whose own ring submits only when its executor
//! parks (measured: one busy task held a write back for 1.5 s).
//!
//! Invariants:
//! - at most [`ENTRIES`] operations are in the kernel's hands, and the completion queue has twice that room, so
//!   it cannot overflow; further operations wait in `backlog`, first come, first served;
//! - a slot keeps the buffer of its operation until the completion is reaped, also when the requester is gone,
//!   and dropping the disk waits for everything in flight.
//!
//! ```text
//!   backlog ──slot free──> queued ──submit──> in flight ──whole or failed──> completed
//!                             ^                   │
//!                             └─────in part───────┘
//! ```

#![allow(unsafe_code, reason = "the kernel reads and writes buffers through addresses in queue entries")]

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::{
    fs::Advice,
    io::{Errno, ReadWriteFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Backend, DiskCompletion, DiskError, DiskFile, DiskOp, DiskReply, RawDisk, Shape, Tag,
    health::{Health, Weight},
    progress::{Progress, Step},
    system_call::{block_len, fallocate_flags},
    threads::Pool,
};

/// Operations in the kernel's hands at the same time.
const ENTRIES: u32 = 1024;

/// What the disk asks of the ring; kernels before 5.6 lack some of it.
const OPERATIONS: [u8; 5] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::Fadvise::CODE,
];

/// Whether a ring can be had that does all that is needed. Sets one up and lets it go.
pub(super) fn probe() -> io::Result<()> {
    let ring = build_ring(8)?;
    let mut known = io_uring::Probe::new();
    ring.submitter().register_probe(&mut known)?;
    match OPERATIONS.iter().find(|&&operation| !known.is_supported(operation)) {
        None => Ok(()),
        Some(operation) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("this kernel lacks operation {operation}"),
        )),
    }
}

fn build_ring(entries: u32) -> io::Result<IoUring> {
    // One thread submits and reaps, so the kernel need not interrupt it to report a completion. (Deferring
    // completions until they are asked for, DEFER_TASKRUN, would save more, but then epoll is never told, and
    // everything stands still: the tests in `standstill` fail with it.)
    // Kernels before 6.0 do not know these flags.
    let tuned = IoUring::builder().setup_coop_taskrun().setup_single_issuer().dontfork().build(entries);
    match tuned {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().dontfork().build(entries)
        }
        answer => answer,
    }
}

/// The disk. See the module's head.
pub(super) struct UringDisk {
    // Before `ring`: epoll forgets the descriptor before it is closed.
    readiness: AsyncFd<RingDescriptor>,
    ring: RefCell<Ring>,
    /// The task that polls, while it waits.
    reaper: RefCell<Option<Waker>>,
    /// For what io_uring cannot do: mapping, extending, and refusals after a failure.
    aside: Pool,
    pushed_aside: RefCell<VecDeque<(Tag, DiskOp)>>,
    file: Arc<DiskFile>,
    health: Health,
}

/// The ring's descriptor as epoll sees it; [`Ring`] owns it.
struct RingDescriptor(RawFd);

impl AsRawFd for RingDescriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

struct Ring {
    queues: IoUring,
    slots: Vec<Option<Flight>>,
    free: Vec<u32>,
    backlog: VecDeque<(Tag, DiskOp)>,
    /// Slot numbers and results of a burst, here only to keep the memory.
    burst: Vec<(u64, i32)>,
    /// Where reads and writes go.
    target: types::Fd,
    block_len: usize,
}

/// An operation in a slot, with all that the kernel may touch.
struct Flight {
    tag: Tag,
    weight: Weight,
    op: DiskOp,
    progress: Progress,
}

impl UringDisk {
    pub(super) fn new(file: DiskFile) -> io::Result<Self> {
        let file = Arc::new(file);
        let aside = Pool::start(Arc::clone(&file), 1)?;
        let queues = build_ring(ENTRIES)?;
        let descriptor = RingDescriptor(queues.as_raw_fd());
        // SAFETY: the descriptor is open as long as `queues` lives; both end up in one `UringDisk`, whose field
        // order drops the registration first, and locals here drop it first too.
        let readiness = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        let ring = Ring {
            queues,
            slots: (0..ENTRIES).map(|_| None).collect(),
            free: (0..ENTRIES).rev().collect(),
            backlog: VecDeque::new(),
            burst: Vec::new(),
            target: types::Fd(std::os::fd::AsFd::as_fd(&*file).as_raw_fd()),
            block_len: block_len(file.shape()),
        };
        Ok(Self {
            readiness,
            ring: RefCell::new(ring),
            reaper: RefCell::default(),
            aside,
            pushed_aside: RefCell::default(),
            file,
            health: Health::default(),
        })
    }
}

impl RawDisk for UringDisk {
    fn shape(&self) -> &Shape {
        self.file.shape()
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn backend(&self) -> Backend {
        Backend::IoUring
    }

    fn push(&self, tag: Tag, op: DiskOp) {
        self.shape().check(self.size_bytes(), &op);
        if self.health.is_failed() || matches!(op, DiskOp::Map { .. } | DiskOp::Extend { .. }) {
            self.pushed_aside.borrow_mut().push_back((tag, op));
        } else {
            self.ring.borrow_mut().push(tag, op);
        }
    }

    fn submit(&self) {
        let mut ring = self.ring.borrow_mut();
        ring.enter();
        if ring.has_completions()
            && let Some(waker) = self.reaper.borrow_mut().take()
        {
            // What ended meanwhile need not wait for a round through epoll.
            waker.wake();
        }
        drop(ring);
        let mut pushed = self.pushed_aside.borrow_mut();
        if pushed.is_empty() {
            return;
        }
        if self.health.is_failed() {
            self.aside.refuse(&mut pushed);
        } else {
            self.aside.submit(&mut pushed);
        }
    }

    fn poll_completions(&self, cx: &mut Context<'_>, into: &mut Vec<DiskCompletion>) -> Poll<()> {
        let before = into.len();
        let mut ring = self.ring.borrow_mut();
        let from_aside = self.aside.poll(cx, &self.health, into);
        loop {
            ring.enter();
            ring.reap(&self.health, into);
            // Rests of operations done in part, and what waited for a slot.
            ring.enter();
            if into.len() > before {
                return Poll::Ready(());
            }
            assert!(from_aside.is_pending(), "the threads said that they had something");
            if ring.must_submit_again() {
                // The kernel was short of memory. Nothing else may be under way that would wake us.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.readiness.poll_read_ready(cx) {
                // Epoll reports edges: what is completed from now on is reported again. So this may be stale,
                // and what came before it is looked for once more.
                Poll::Ready(guard) => guard.expect("the runtime outlives the disk").clear_ready(),
                Poll::Pending => {
                    *self.reaper.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Ring {
    fn push(&mut self, tag: Tag, op: DiskOp) {
        if self.backlog.is_empty()
            && let Some(slot) = self.free.pop()
        {
            self.start(slot, tag, op);
        } else {
            self.backlog.push_back((tag, op));
        }
    }

    fn start(&mut self, slot: u32, tag: Tag, op: DiskOp) {
        let total = match &op {
            DiskOp::Read { len, .. } => *len,
            DiskOp::Write { data, .. } => data.len(),
            DiskOp::Zero { .. }
            | DiskOp::Sync
            | DiskOp::Map { .. }
            | DiskOp::Prefetch { .. }
            | DiskOp::Extend { .. } => 0,
        };
        let flight = Flight { tag, weight: Weight::of(&op), op, progress: Progress::new(total) };
        let place = &mut self.slots[slot as usize];
        assert!(place.is_none(), "slot {slot} is taken");
        *place = Some(flight);
        self.enqueue(slot);
    }

    /// Writes the entry for what is left of the operation in `slot`.
    fn enqueue(&mut self, slot: u32) {
        let flight = self.slots[slot as usize].as_mut().expect("a slot in use");
        let entry = flight.entry(self.target).user_data(slot.into());
        // SAFETY: the entry's addresses point into the buffer that `flight` owns, past `progress.done()` and
        // within its length; the flight stays in its slot until the completion with this number is reaped, and
        // `Drop` waits for all of them. Buffers do not move when their owner does.
        let pushed = unsafe { self.queues.submission().push(&entry) };
        assert!(pushed.is_ok(), "there are as many queue entries as slots");
    }

    /// Gives all entries to the kernel. What it does not take now stays queued.
    fn enter(&mut self) {
        while self.must_submit_again() {
            match self.queues.submit() {
                Ok(_) => {}
                Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::BUSY) => return,
                    _ => panic!("io_uring_enter failed for a reason that only a bug can cause: {error}"),
                },
            }
        }
    }

    fn has_completions(&mut self) -> bool {
        !self.queues.completion().is_empty()
    }

    fn must_submit_again(&mut self) -> bool {
        !self.queues.submission().is_empty()
    }

    /// Takes all completions, and fills the slots that became free from the backlog.
    fn reap(&mut self, health: &Health, into: &mut Vec<DiskCompletion>) {
        let mut burst = std::mem::take(&mut self.burst);
        burst.extend(self.queues.completion().map(|entry| (entry.user_data(), entry.result())));
        for (slot, result) in burst.drain(..) {
            let slot = u32::try_from(slot).expect("slot numbers are ours");
            let flight = self.slots[slot as usize].as_mut().expect("completed once");
            let answer = usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
            let result = match flight.progress.advance(answer, self.block_len) {
                Step::Continue => {
                    self.enqueue(slot);
                    continue;
                }
                Step::Complete => Ok(()),
                Step::Fail(error) => Err(error),
            };
            let flight = self.slots[slot as usize].take().expect("looked at above");
            self.free.push(slot);
            let reply = result.map(|()| flight.op.into_reply());
            into.push(DiskCompletion { tag: flight.tag, result: health.judge(flight.weight, reply) });
        }
        self.burst = burst;
        while !self.backlog.is_empty() && !self.free.is_empty() {
            let (tag, op) = self.backlog.pop_front().expect("not empty");
            if health.is_failed() {
                into.push(DiskCompletion { tag, result: Err(DiskError::Failed) });
            } else {
                let slot = self.free.pop().expect("not empty");
                self.start(slot, tag, op);
            }
        }
    }
}

impl Drop for Ring {
    /// Waits until the kernel has let go of every buffer; accepted operations are carried out.
    fn drop(&mut self) {
        let health = Health::default();
        let mut dropped = Vec::new();
        loop {
            self.reap(&health, &mut dropped);
            dropped.clear();
            if self.free.len() == self.slots.len() {
                return;
            }
            if let Err(error) = self.queues.submit_and_wait(1)
                && !matches!(
                    error.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::INTR | Errno::AGAIN | Errno::BUSY)
                )
            {
                // The kernel may still use the buffers: better to lose the memory than to hand it out again.
                tracing::error!(%error, "cannot wait for disk operations in flight: their buffers stay allocated");
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
        }
    }
}

impl Flight {
    fn entry(&mut self, target: types::Fd) -> squeue::Entry {
        let done = self.progress.done();
        let left =
            u32::try_from(self.progress.left()).expect("a transfer is at most a payload and its edges");
        match &mut self.op {
            DiskOp::Read { offset, buffer, len } => {
                let address = buffer.whole()[done..*len].as_mut_ptr();
                opcode::Read::new(target, address, left).offset(*offset + done as u64).build()
            }
            DiskOp::Write { offset, data, durable } => {
                let flags = if *durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                opcode::Write::new(target, data[done..].as_ptr(), left)
                    .offset(*offset + done as u64)
                    .rw_flags(flags.bits().cast_signed())
                    .build()
            }
            DiskOp::Zero { span, zeroing } => opcode::Fallocate::new(target, span.len())
                .offset(span.start)
                .mode(fallocate_flags(*zeroing).bits().cast_signed())
                .build(),
            DiskOp::Sync => opcode::Fsync::new(target).flags(types::FsyncFlags::DATASYNC).build(),
            DiskOp::Prefetch { span } => {
                // The field has 32 bits; this is only a hint.
                let len = i64::try_from(span.len().min(1 << 30)).expect("below 2^30");
                opcode::Fadvise::new(target, len, Advice::WillNeed as i32).offset(span.start).build()
            }
            DiskOp::Map { .. } | DiskOp::Extend { .. } => unreachable!("these go to the thread"),
        }
    }
}

impl DiskOp {
    /// The reply to this operation, now that all of it is done.
    fn into_reply(self) -> DiskReply {
        match self {
            Self::Read { mut buffer, len, .. } => {
                buffer.advance(len);
                DiskReply::Data(buffer)
            }
            Self::Write { .. } | Self::Zero { .. } | Self::Sync | Self::Prefetch { .. } => DiskReply::Done,
            Self::Map { .. } | Self::Extend { .. } => unreachable!("these go to the thread"),
        }
    }
}
