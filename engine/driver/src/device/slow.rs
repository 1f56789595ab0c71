//! Requests that need more than one operation of the disk, or have to wait: each is one task.
//!
//! - Writes that are not whole blocks, or whose data is not aligned in memory: the blocks at the edges are
//!   read, all is put together in one aligned buffer, and written once.
//! - TRIM and WRITE_ZEROES: whole blocks by fallocate, in one operation however large; edges, and everything
//!   where fallocate cannot do it, by writing zeroes.
//! - Requests that wait for a range that an earlier write holds, or for memory.
//! - Maps and hints, of which each client has one at a time at the disk.
//!
//! A task that holds a buffer of the bounce pool waits for nothing but the disk, so tasks cannot wait for each
//! other in a circle.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_nbd::{
    buffer::{AlignedBuffer, BufferPool},
    device::{Client, Command, Extent, Reply, RequestId},
    errno::ErrorClass,
};

use super::{FlushWaiter, Operation, Shared, data_of, range_lock::Admission, span_of, to_len, visit::Visit};
use crate::disk::{DiskError, DiskOp, DiskReply, Shape, Span, Zeroing};

/// Zeroes are written in pieces of at most this.
const ZEROES_BYTES: usize = 1 << 20;

/// At most this many extents in one answer to a map; the client asks again for the rest.
const EXTENTS: usize = 8192;

/// A hint to read ahead is followed this far: a client must not fill the page cache of the host.
const PREFETCH_BYTES: u64 = 32 << 20;

/// Memory that ran out is asked for again after this time. Rare, so a queue is not worth its code.
const MEMORY_RETRY: Duration = Duration::from_millis(1);

/// Where a task waits for one result.
#[derive(Default)]
pub(super) struct Wait {
    result: RefCell<Option<Result<DiskReply, DiskError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Wait {
    pub(super) fn finish(&self, result: Result<DiskReply, DiskError>) {
        *self.result.borrow_mut() = Some(result);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<DiskReply, DiskError>> {
        if let Some(result) = self.result.borrow_mut().take() {
            return Poll::Ready(result);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Which ways of zeroing work; one that turns out not to is not tried again.
pub(super) struct Abilities {
    punch: Cell<bool>,
    keep: Cell<bool>,
    zeroes: OnceCell<Bytes>,
}

impl Abilities {
    pub(super) fn of(shape: &Shape) -> Self {
        Self {
            punch: Cell::new(shape.can_punch),
            keep: Cell::new(shape.can_zero_keep),
            zeroes: OnceCell::new(),
        }
    }

    fn works(&self, zeroing: Zeroing) -> &Cell<bool> {
        match zeroing {
            Zeroing::Punch => &self.punch,
            Zeroing::Keep => &self.keep,
        }
    }

    /// [`ZEROES_BYTES`] zeroes at an aligned address, made when first needed.
    fn zeroes(&self) -> &Bytes {
        self.zeroes.get_or_init(|| {
            let pool = BufferPool::new(ZEROES_BYTES);
            let mut buffer = pool.take(ZEROES_BYTES).expect("a pool of this size");
            buffer.whole().fill(0);
            buffer.advance(ZEROES_BYTES);
            buffer.freeze()
        })
    }
}

/// Starts the task for a request that has, if it needs one, its place in the order of requests.
pub(super) fn spawn(
    shared: &Rc<Shared>,
    client: &Rc<Client>,
    id: RequestId,
    command: Command,
    place: Option<(Span, Admission)>,
) {
    let visit = shared.visits.borrow().get(&client.id()).cloned().expect("only clients that are here submit");
    let (shared, client) = (Rc::clone(shared), Rc::clone(client));
    tokio::task::spawn_local(async move { shared.carry_out(&client, &visit, id, command, place).await });
}

impl Shared {
    async fn carry_out(
        &self,
        client: &Client,
        visit: &Visit,
        id: RequestId,
        command: Command,
        place: Option<(Span, Admission)>,
    ) {
        let writes = match &command {
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. } => true,
            Command::Read { .. } | Command::Flush | Command::Cache { .. } | Command::Map { .. } => false,
        };
        let takes_turns = match &command {
            Command::Cache { .. } | Command::Map { .. } => true,
            Command::Read { .. }
            | Command::Write { .. }
            | Command::Flush
            | Command::Trim { .. }
            | Command::WriteZeroes { .. } => false,
        };
        let waits = takes_turns || matches!(place, Some((_, Admission::Waiting(_))));
        let held = match place {
            None => None,
            Some((span, Admission::Granted(ticket))) => Some((span, ticket)),
            Some((span, Admission::Waiting(ticket))) => {
                poll_fn(|cx| self.locks.borrow_mut().poll_granted(ticket, cx)).await;
                Some((span, ticket))
            }
        };
        // Held until the end.
        let _turn = if takes_turns { visit.turn().await } else { None };
        let dropped = waits && visit.is_over();
        let sync_behind = match &command {
            Command::Trim { fua, .. } | Command::WriteZeroes { fua, .. } => *fua,
            Command::Read { .. }
            | Command::Write { .. }
            | Command::Flush
            | Command::Cache { .. }
            | Command::Map { .. } => false,
        };
        let mut outcome =
            if dropped { Err(ErrorClass::Shutdown) } else { self.perform(command, visit).await };
        if let Some((span, ticket)) = held
            && writes
        {
            self.locks.borrow_mut().release(span, ticket);
        }
        if sync_behind && outcome.is_ok() {
            let synced = self.sync().await;
            outcome = self.classify(synced).map(|()| Reply::Done);
        }
        if dropped {
            self.forget_request();
        } else {
            self.complete(client, id, outcome);
        }
    }

    async fn perform(&self, command: Command, visit: &Visit) -> Result<Reply, ErrorClass> {
        match command {
            Command::Read { range } => self.read(span_of(range), visit).await.map(Reply::Data),
            Command::Write { offset, payload, fua } => {
                self.write(offset, payload, fua).await.map(|()| Reply::Done)
            }
            Command::Trim { range, .. } => {
                let ways = &[Zeroing::Punch, Zeroing::Keep];
                self.zero(span_of(range), ways, false, visit).await.map(|()| Reply::Done)
            }
            Command::WriteZeroes { range, no_hole, fast, .. } => {
                let ways: &[_] = if no_hole { &[Zeroing::Keep] } else { &[Zeroing::Punch, Zeroing::Keep] };
                self.zero(span_of(range), ways, fast, visit).await.map(|()| Reply::Done)
            }
            Command::Cache { range } => self.prefetch(span_of(range)).await.map(|()| Reply::Done),
            Command::Map { range, .. } => self.map(span_of(range)).await.map(Reply::Extents),
            Command::Flush => unreachable!("flushes go to their group"),
        }
    }

    /// Gives one operation to the disk and waits for its end.
    async fn operate(&self, op: DiskOp) -> Result<DiskReply, DiskError> {
        let wait = Rc::new(Wait::default());
        self.push(Operation::Task(Rc::clone(&wait)), op);
        self.disk.submit();
        poll_fn(|cx| wait.poll(cx)).await
    }

    /// Makes everything completed so far stable, together with the flushes of clients.
    pub(super) async fn sync(&self) -> Result<(), DiskError> {
        let wait = Rc::new(Wait::default());
        self.join_flush(FlushWaiter::Task(Rc::clone(&wait)));
        self.disk.submit();
        poll_fn(|cx| wait.poll(cx)).await.map(drop)
    }

    /// Reads through the bounce pool where the span is not whole blocks, so that a reply keeps no more memory
    /// than the server has counted for it.
    async fn read(&self, span: Span, visit: &Visit) -> Result<Bytes, ErrorClass> {
        let outer = span.outward(self.disk.shape().block_bytes);
        let (len, outer_len) = (to_len(span.len()), to_len(outer.len()));
        let mut reply = take(&self.replies, len, Some(visit)).await?;
        if outer == span {
            let result = self.operate(DiskOp::Read { offset: span.start, buffer: reply, len }).await;
            return self.classify(result).map(data_of);
        }
        let buffer = take(&self.bounce, outer_len, None).await?;
        let result = self.operate(DiskOp::Read { offset: outer.start, buffer, len: outer_len }).await;
        let blocks = self.classify(result).map(data_of)?;
        let skip = to_len(span.start - outer.start);
        reply.extend(&blocks[skip..skip + len]);
        Ok(reply.freeze())
    }

    async fn write(&self, offset: u64, data: Bytes, durable: bool) -> Result<(), ErrorClass> {
        let span = Span::new(offset, data.len() as u64);
        let (start, data) = if self.is_direct(span, &data) {
            (offset, data)
        } else {
            let outer = span.outward(self.disk.shape().block_bytes);
            (outer.start, self.complete_blocks(span, outer, &data).await?)
        };
        let result = self.operate(DiskOp::Write { offset: start, data, durable }).await;
        self.classify(result).map(drop)
    }

    /// `data`, surrounded by what the disk holds in the rest of its first and last block.
    async fn complete_blocks(&self, span: Span, outer: Span, data: &Bytes) -> Result<Bytes, ErrorClass> {
        let block = self.disk.shape().block_bytes;
        let mut whole = take(&self.bounce, to_len(outer.len()), None).await?;
        whole.advance(to_len(outer.len()));
        let head = to_len(span.start - outer.start);
        let tail = head + data.len();
        let last_block = to_len(outer.len() - block);
        if head > 0 {
            let first = self.read_block(outer.start).await?;
            whole.whole()[..first.len()].copy_from_slice(&first);
        }
        let have_last = head > 0 && last_block == 0;
        if span.end < outer.end && !have_last {
            let last = self.read_block(outer.end - block).await?;
            whole.whole()[last_block..last_block + last.len()].copy_from_slice(&last);
        }
        whole.whole()[head..tail].copy_from_slice(data);
        Ok(whole.freeze())
    }

    async fn read_block(&self, offset: u64) -> Result<Bytes, ErrorClass> {
        let len = to_len(self.disk.shape().block_bytes);
        let buffer = BufferPool::new(len.next_multiple_of(evenkeel_nbd::buffer::ALIGNMENT)).take(len);
        let buffer = buffer.expect("a pool of this size");
        let result = self.operate(DiskOp::Read { offset, buffer, len }).await;
        self.classify(result).map(data_of)
    }

    /// Makes `span` read as zeroes in the first of `ways` that works, else by writing, unless that is too slow.
    async fn zero(&self, span: Span, ways: &[Zeroing], fast: bool, visit: &Visit) -> Result<(), ErrorClass> {
        let inner = span.inward(self.disk.shape().zero_bytes);
        if inner.is_empty() {
            return self.write_zeroes(span, visit).await;
        }
        let mut zeroed = false;
        for &zeroing in ways {
            let works = self.zeroing.works(zeroing);
            if !works.get() {
                continue;
            }
            match self.operate(DiskOp::Zero { span: inner, zeroing }).await {
                Err(error) if error.is_unsupported() => {
                    tracing::warn!(?zeroing, %error, "fallocate turned out not to work: zeroes are written instead");
                    works.set(false);
                }
                result => {
                    self.classify(result)?;
                    zeroed = true;
                    break;
                }
            }
        }
        if !zeroed {
            if fast {
                return Err(ErrorClass::NotSupported);
            }
            return self.write_zeroes(span, visit).await;
        }
        self.write_zeroes(Span { start: span.start, end: inner.start }, visit).await?;
        self.write_zeroes(Span { start: inner.end, end: span.end }, visit).await
    }

    /// Gigabytes take minutes this way, so it is given up between two pieces if the client leaves: what was never
    /// replied to may be done in part.
    async fn write_zeroes(&self, span: Span, visit: &Visit) -> Result<(), ErrorClass> {
        let block = self.disk.shape().block_bytes;
        let mut at = span.start;
        while at < span.end {
            if at > span.start && visit.is_over() {
                return Err(ErrorClass::Shutdown);
            }
            // Pieces end at whole blocks, so that only the two ends of the span are put together from old data.
            let most = (at + ZEROES_BYTES as u64) / block * block;
            let end = span.end.min(most);
            let piece = self.zeroing.zeroes().slice(..to_len(end - at));
            self.write(at, piece, false).await?;
            at = end;
        }
        Ok(())
    }

    /// With O_DIRECT there is no cache to read into, and the hint is answered at once.
    async fn prefetch(&self, span: Span) -> Result<(), ErrorClass> {
        if self.disk.shape().direct {
            return Ok(());
        }
        let span = Span::new(span.start, span.len().min(PREFETCH_BYTES));
        let result = self.operate(DiskOp::Prefetch { span }).await;
        self.classify(result).map(drop)
    }

    async fn map(&self, span: Span) -> Result<Vec<Extent>, ErrorClass> {
        let result = self.operate(DiskOp::Map { span, limit: EXTENTS }).await;
        let DiskReply::Extents(extents) = self.classify(result)? else { panic!("a map brings extents") };
        let describe = |hole| if hole { Extent::HOLE | Extent::ZERO } else { 0 };
        Ok(extents.iter().map(|extent| Extent { len: extent.len, flags: describe(extent.hole) }).collect())
    }
}

/// Takes a buffer, waiting until one comes back if the pool is used up, or until the `visit` for which it is
/// wanted is over.
async fn take(pool: &BufferPool, len: usize, visit: Option<&Visit>) -> Result<AlignedBuffer, ErrorClass> {
    loop {
        if let Some(buffer) = pool.take(len) {
            return Ok(buffer);
        }
        if pool.used_bytes() == 0 {
            return Err(ErrorClass::NoMemory);
        }
        if visit.is_some_and(Visit::is_over) {
            return Err(ErrorClass::Shutdown);
        }
        tokio::time::sleep(MEMORY_RETRY).await;
    }
}
