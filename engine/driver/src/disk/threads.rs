//! The disk of plain system calls on a few threads, for machines where io_uring is forbidden.
//!
//! Threads take operations from one queue and put results into one list; the data thread is woken once for a
//! burst of them. The same pool, with one thread, does for [`uring`](super::uring) what io_uring has no
//! operation for.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::JoinHandle,
};

use super::{
    Backend, DiskCompletion, DiskError, DiskFile, DiskOp, DiskReply, RawDisk, Shape, Tag,
    health::{Health, Weight},
    system_call,
};

/// Enough to keep a disk busy; more threads only add switches.
const THREADS: usize = 16;

/// Threads that do blocking operations on one file.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: Arc<DiskFile>,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Tag, DiskOp)>,
    done: Vec<(Tag, Weight, Result<DiskReply, DiskError>)>,
    waker: Option<Waker>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A thread that panicked did so outside the lock; the queue is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let (tag, op) = loop {
                if let Some(job) = queue.waiting.pop_front() {
                    break job;
                }
                if queue.closing {
                    return;
                }
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            let weight = Weight::of(&op);
            let result = system_call::perform(&self.file, op);
            let mut queue = self.lock();
            queue.done.push((tag, weight, result));
            let waker = queue.waker.take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Pool {
    pub(super) fn start(file: Arc<DiskFile>, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared { file, queue: Mutex::default(), arrived: Condvar::new() });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("disk-{number}"));
            pool.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Hands over all of `batch`.
    pub(super) fn submit(&self, batch: &mut VecDeque<(Tag, DiskOp)>) {
        match batch.len() {
            0 => {}
            1 => {
                self.shared.lock().waiting.append(batch);
                self.shared.arrived.notify_one();
            }
            _ => {
                self.shared.lock().waiting.append(batch);
                self.shared.arrived.notify_all();
            }
        }
    }

    /// Answers all of `batch` with [`DiskError::Failed`].
    pub(super) fn refuse(&self, batch: &mut VecDeque<(Tag, DiskOp)>) {
        let refused = batch.drain(..).map(|(tag, _)| (tag, Weight::Ordinary, Err(DiskError::Failed)));
        let mut queue = self.shared.lock();
        queue.done.extend(refused);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Appends what is done, as `health` judges it; registers the waker if there is nothing.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        health: &Health,
        into: &mut Vec<DiskCompletion>,
    ) -> Poll<()> {
        let mut queue = self.shared.lock();
        if queue.done.is_empty() {
            match &mut queue.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        for (tag, weight, result) in queue.done.drain(..) {
            into.push(DiskCompletion { tag, result: health.judge(weight, result) });
        }
        Poll::Ready(())
    }
}

impl Drop for Pool {
    /// Ends what has begun and what waits: an accepted write is carried out.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }
}

/// The disk. See the module's head.
pub(super) struct ThreadDisk {
    pool: Pool,
    file: Arc<DiskFile>,
    health: Health,
    pushed: RefCell<VecDeque<(Tag, DiskOp)>>,
}

impl ThreadDisk {
    pub(super) fn new(file: DiskFile) -> io::Result<Self> {
        let file = Arc::new(file);
        let pool = Pool::start(Arc::clone(&file), THREADS)?;
        Ok(Self { pool, file, health: Health::default(), pushed: RefCell::default() })
    }
}

impl RawDisk for ThreadDisk {
    fn shape(&self) -> &Shape {
        self.file.shape()
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn backend(&self) -> Backend {
        Backend::Threads
    }

    fn push(&self, tag: Tag, op: DiskOp) {
        self.shape().check(self.size_bytes(), &op);
        self.pushed.borrow_mut().push_back((tag, op));
    }

    fn submit(&self) {
        let mut pushed = self.pushed.borrow_mut();
        if self.health.is_failed() && !pushed.is_empty() {
            self.pool.refuse(&mut pushed);
        }
        self.pool.submit(&mut pushed);
    }

    fn poll_completions(&self, cx: &mut Context<'_>, into: &mut Vec<DiskCompletion>) -> Poll<()> {
        self.pool.poll(cx, &self.health, into)
    }
}
