//! One disk as an NBD block device, without replication: what `evenkeel serve` serves.
//!
//! Requests may have any alignment, overlap, and come from any connection. Reads and writes that are aligned
//! and meet nothing in their way take the short path: one entry in a table, one operation of the disk, one
//! completion. Everything else (read-modify-write, zeroing, waiting for a range or for memory) is a small task
//! in [`slow`].
//!
//! Rules:
//! - overlapping writes run in the order of admission, and a read waits for earlier writes that it overlaps
//!   ([`range_lock`]);
//! - a FLUSH covers every write replied to before it, on any connection, and shares its sync with others
//!   ([`flush_group`]);
//! - TRIM and WRITE_ZEROES read as zeroes afterwards (design rule R7);
//! - when a connection closes, its requests that still wait, for a range or for their turn, are dropped; what
//!   has begun goes on to its end (design rule W1, [`visit`]), except zeroes that are written piece by piece;
//! - after a failed sync the disk answers everything with an I/O error (design rule W4), and so does this.

mod flush_group;
mod range_lock;
mod slow;
pub(crate) mod visit;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use evenkeel_nbd::{
    buffer::BufferPool,
    device::{
        BlockDevice, ByteRange, Client, ClientId, Command, Completion, ExportState, Features, MapContext,
        Reply, Request, RequestId,
    },
    errno::ErrorClass,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use self::{
    flush_group::FlushGroup,
    range_lock::{Access, Admission, RangeLock, Ticket},
    visit::Visit,
};
use crate::disk::{
    DiskError, DiskOp, DiskReply, RawDisk, Span,
    byte_disk::{ByteDisk, Wait, data_of, to_len},
};

/// Memory for read-modify-write. Only the disk keeps it busy, never a client that does not read its replies.
const BOUNCE_BYTES: usize = 128 << 20;

/// A disk that fails is reported in the log at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How an export looks to its clients.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Text for people.
    pub description: String,
    /// The disk turns.
    pub rotational: bool,
}

/// See the module's head. Lives on the data thread, within a `LocalSet`.
pub struct FileDevice {
    shared: Rc<Shared>,
    pump: JoinHandle<()>,
}

/// What the short path, the tasks and the pump of completions work on.
struct Shared {
    disk: ByteDisk<Operation>,
    features: Features,
    state: watch::Sender<ExportState>,
    /// For data that is read. The server admits no more reads at a time than fit.
    replies: BufferPool,
    locks: RefCell<RangeLock>,
    flushes: RefCell<FlushGroup<FlushWaiter>>,
    visits: RefCell<HashMap<ClientId, Rc<Visit>>>,
    /// Requests taken and not yet completed or dropped.
    in_flight: Cell<usize>,
    nothing_in_flight: Notify,
    last_report: Cell<Option<Instant>>,
}

/// Who waits for an operation of the disk on the short path.
enum Operation {
    /// A read on the short path.
    Read { client: Rc<Client>, id: RequestId },
    /// A write on the short path.
    Write { client: Rc<Client>, id: RequestId, span: Span, ticket: Ticket },
    /// The flush group.
    Sync,
}

/// Who waits for a flush.
enum FlushWaiter {
    /// A FLUSH request.
    Request { client: Rc<Client>, id: RequestId },
    /// A task.
    Task(Rc<Wait>),
}

impl FileDevice {
    /// Begins to serve `disk`. Data that clients read takes at most `read_bytes` of memory at a time; the server
    /// counts the same bytes ([`read_memory_bytes`](evenkeel_nbd::limits::Limits::read_memory_bytes)), so that only
    /// clients which read their replies slowly ever wait for it, and not others.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    #[must_use]
    pub fn start(disk: Box<dyn RawDisk>, read_bytes: usize, options: DeviceOptions) -> Self {
        let shape = disk.shape();
        let features = Features {
            description: options.description,
            read_only: shape.read_only,
            rotational: options.rotational,
            fast_zero: shape.can_punch || shape.can_zero_keep,
            contexts: vec![MapContext::Allocation],
        };
        let (state, _) = watch::channel(ExportState::Serving { size: disk.size_bytes() });
        let shared = Rc::new(Shared {
            disk: ByteDisk::new(disk, BufferPool::new(BOUNCE_BYTES)),
            features,
            state,
            replies: BufferPool::new(read_bytes),
            locks: RefCell::default(),
            flushes: RefCell::default(),
            visits: RefCell::default(),
            in_flight: Cell::new(0),
            nothing_in_flight: Notify::new(),
            last_report: Cell::new(None),
        });
        let pump = tokio::task::spawn_local(Rc::clone(&shared).pump());
        Self { shared, pump }
    }

    /// Refuses clients from now on; open connections end after what they have in flight.
    pub fn refuse(&self, reason: &str) {
        self.shared.state.send_replace(ExportState::Refused(Arc::from(reason)));
    }

    /// Waits until nothing is in flight, then makes everything stable.
    ///
    /// # Errors
    /// If the sync fails, or one failed before.
    pub async fn drain(&self) -> Result<(), DiskError> {
        loop {
            let notified = self.shared.nothing_in_flight.notified();
            if self.shared.in_flight.get() == 0 {
                break;
            }
            notified.await;
        }
        if self.shared.features.read_only {
            return Ok(());
        }
        self.shared.sync().await
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl BlockDevice for FileDevice {
    fn features(&self) -> Features {
        self.shared.features.clone()
    }

    fn state(&self) -> watch::Receiver<ExportState> {
        self.shared.state.subscribe()
    }

    fn connected(&self, client: &Rc<Client>) {
        self.shared.visits.borrow_mut().insert(client.id(), Rc::new(Visit::begin()));
    }

    fn submit(&self, client: &Rc<Client>, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            self.shared.admit(client, request);
        }
        self.shared.disk.submit();
    }

    fn disconnected(&self, client: &Rc<Client>) {
        if let Some(visit) = self.shared.visits.borrow_mut().remove(&client.id()) {
            visit.end();
        }
    }
}

fn span_of(range: ByteRange) -> Span {
    Span::new(range.offset, range.len)
}

impl Shared {
    /// Starts a request, on the short path if it can go there.
    fn admit(self: &Rc<Self>, client: &Rc<Client>, request: Request) {
        self.in_flight.set(self.in_flight.get() + 1);
        let Request { id, command } = request;
        match command {
            Command::Read { range } => self.admit_read(client, id, range),
            Command::Write { offset, payload, fua } => self.admit_write(client, id, offset, payload, fua),
            Command::Flush => {
                let waiter = FlushWaiter::Request { client: Rc::clone(client), id };
                self.join_flush(waiter);
            }
            Command::Trim { range, .. } | Command::WriteZeroes { range, .. } => {
                if self.features.read_only {
                    self.complete(client, id, Err(ErrorClass::NotPermitted));
                } else {
                    let place = self.place(span_of(range), Access::Write);
                    slow::spawn(self, client, id, command, place);
                }
            }
            Command::Cache { .. } | Command::Map { .. } => slow::spawn(self, client, id, command, None),
        }
    }

    fn admit_read(self: &Rc<Self>, client: &Rc<Client>, id: RequestId, range: ByteRange) {
        let span = span_of(range);
        let len = to_len(span.len());
        let place = self.place(span, Access::Read);
        if let Some((_, Admission::Granted(_))) = place
            && span.is_aligned(self.disk.shape().block_bytes)
            && let Some(buffer) = self.replies.take(len)
        {
            let operation = Operation::Read { client: Rc::clone(client), id };
            self.disk.push(operation, DiskOp::Read { offset: span.start, buffer, len });
        } else {
            slow::spawn(self, client, id, Command::Read { range }, place);
        }
    }

    fn admit_write(
        self: &Rc<Self>,
        client: &Rc<Client>,
        id: RequestId,
        offset: u64,
        payload: Bytes,
        fua: bool,
    ) {
        if self.features.read_only {
            return self.complete(client, id, Err(ErrorClass::NotPermitted));
        }
        let span = Span::new(offset, payload.len() as u64);
        let place = self.place(span, Access::Write);
        if let Some((_, Admission::Granted(ticket))) = place
            && self.disk.is_direct(span, &payload)
        {
            let operation = Operation::Write { client: Rc::clone(client), id, span, ticket };
            self.disk.push(operation, DiskOp::Write { offset, data: payload, durable: fua });
        } else {
            slow::spawn(self, client, id, Command::Write { offset, payload, fua }, place);
        }
    }

    /// Takes a place in the order of requests, for whole blocks: read-modify-write touches them whole.
    fn place(&self, span: Span, access: Access) -> Option<(Span, Admission)> {
        let span = span.outward(self.disk.shape().block_bytes);
        Some((span, self.locks.borrow_mut().admit(span, access)))
    }

    /// Adds to the group of flushes. The caller submits.
    fn join_flush(&self, waiter: FlushWaiter) {
        if self.flushes.borrow_mut().join(waiter) {
            self.disk.push(Operation::Sync, DiskOp::Sync);
        }
    }

    /// Answers a request.
    fn complete(&self, client: &Client, id: RequestId, outcome: Result<Reply, ErrorClass>) {
        client.complete(Completion { id, outcome });
        self.forget_request();
    }

    /// Counts a request as over.
    fn forget_request(&self) {
        let left = self.in_flight.get().checked_sub(1).expect("a request ends once");
        self.in_flight.set(left);
        if left == 0 {
            self.nothing_in_flight.notify_waiters();
        }
    }

    /// Hands out completions of the disk for as long as the device lives.
    async fn pump(self: Rc<Self>) {
        let mut burst = Vec::new();
        let mut covered = Vec::new();
        loop {
            poll_fn(|cx| self.disk.poll_ends(cx, &mut burst)).await;
            for (operation, result) in burst.drain(..) {
                self.completed(operation, result, &mut covered);
            }
            // The next sync of the flush group, if there is one.
            self.disk.submit();
        }
    }

    fn completed(
        &self,
        operation: Operation,
        result: Result<DiskReply, DiskError>,
        covered: &mut Vec<FlushWaiter>,
    ) {
        match operation {
            Operation::Read { client, id } => {
                let outcome = self.classify(result).map(|reply| Reply::Data(data_of(reply)));
                self.complete(&client, id, outcome);
            }
            Operation::Write { client, id, span, ticket } => {
                self.locks.borrow_mut().release(span, ticket);
                let outcome = self.classify(result).map(|_| Reply::Done);
                self.complete(&client, id, outcome);
            }
            Operation::Sync => {
                let result = result.map(drop);
                let again = self.flushes.borrow_mut().finish(covered);
                if again {
                    self.disk.push(Operation::Sync, DiskOp::Sync);
                }
                for waiter in covered.drain(..) {
                    match waiter {
                        FlushWaiter::Request { client, id } => {
                            let outcome = self.classify(result).map(|()| Reply::Done);
                            self.complete(&client, id, outcome);
                        }
                        FlushWaiter::Task(wait) => wait.finish(result.map(|()| DiskReply::Done)),
                    }
                }
            }
        }
    }

    /// An error of the disk as the client is told it; the operator reads it in the log.
    fn classify<T>(&self, result: Result<T, DiskError>) -> Result<T, ErrorClass> {
        result.map_err(|error| {
            if self.last_report.get().is_none_or(|last| last.elapsed() >= REPORT_INTERVAL) {
                self.last_report.set(Some(Instant::now()));
                tracing::warn!(%error, "the disk failed a request");
            }
            match error {
                DiskError::Failed | DiskError::Truncated => ErrorClass::Io,
                DiskError::Os(errno) => ErrorClass::from_os(&errno.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
