//! A raw disk for requests of any alignment, and for requesters that wait as tasks.
//!
//! An operation that is whole blocks already takes the short path: [`ByteDisk::push`], one entry in a table, one
//! completion with the requester's own mark. Everything else is a future: the blocks at the edges of a write are
//! read, all is put together in one aligned buffer, and written once; whole blocks are zeroed by fallocate, edges,
//! and everything where fallocate cannot do it, by writing zeroes.
//!
//! The requester keeps operations apart that touch the same *block*: two writes that share a block's bytes without
//! sharing a byte would lose one of the two ([`ByteDisk::needs_turn`] tells which ones need that). Memory beyond the
//! pool is allocated: it is bounded by what requesters have under way, for each request its data and two blocks.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use evenkeel_nbd::buffer::{ALIGNMENT, AlignedBuffer, BufferPool};

use super::{DiskCompletion, DiskError, DiskExtent, DiskOp, DiskReply, RawDisk, Shape, Span, Tag, Zeroing};

/// Zeroes are written in pieces of at most this.
const ZEROES_BYTES: usize = 1 << 20;

/// A hint to read ahead is followed this far: a client must not fill the page cache of the host.
const PREFETCH_BYTES: u64 = 32 << 20;

/// Where a task waits for the end of one operation.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    result: RefCell<Option<Result<DiskReply, DiskError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Wait {
    /// Tells the task that its operation has ended.
    pub(crate) fn finish(&self, result: Result<DiskReply, DiskError>) {
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

    /// How the operation ended; to be awaited once.
    pub(crate) async fn ended(&self) -> Result<DiskReply, DiskError> {
        poll_fn(|cx| self.poll(cx)).await
    }
}

/// Who waits for an operation.
enum Waiter<T> {
    /// The requester itself, by its mark.
    Direct(T),
    /// A task.
    Task(Rc<Wait>),
}

/// Operations that the disk has, by tag.
struct Table<T> {
    entries: Vec<Option<Waiter<T>>>,
    free: Vec<usize>,
}

impl<T> Table<T> {
    fn add(&mut self, waiter: Waiter<T>) -> Tag {
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[place] = Some(waiter);
        Tag(place as u64)
    }

    fn take(&mut self, tag: Tag) -> Waiter<T> {
        let place = usize::try_from(tag.0).expect("tags are places in the table");
        let waiter = self.entries[place].take().expect("an operation is completed once");
        self.free.push(place);
        waiter
    }
}

/// Which ways of zeroing work; one that turns out not to is not tried again.
struct Abilities {
    punch: Cell<bool>,
    keep: Cell<bool>,
    zeroes: OnceCell<Bytes>,
}

impl Abilities {
    fn works(&self, zeroing: Zeroing) -> &Cell<bool> {
        match zeroing {
            Zeroing::Punch => &self.punch,
            Zeroing::Keep => &self.keep,
        }
    }

    /// [`ZEROES_BYTES`] zeroes at an aligned address, made when first needed.
    fn zeroes(&self) -> &Bytes {
        self.zeroes.get_or_init(|| {
            let mut buffer = allocate(ZEROES_BYTES);
            buffer.whole().fill(0);
            buffer.advance(ZEROES_BYTES);
            buffer.freeze()
        })
    }
}

/// The end of a zeroing that no error of the disk has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroed {
    /// It reads as zeroes.
    Done,
    /// Zeroes would have to be written, and the requester does not want that.
    TooSlow,
    /// The requester does not want it any more; it may be done in part.
    GivenUp,
}

/// See the module's head. `T` marks an operation on the short path.
pub(crate) struct ByteDisk<T> {
    disk: Box<dyn RawDisk>,
    table: RefCell<Table<T>>,
    abilities: Abilities,
    /// What it cannot give is allocated.
    buffers: BufferPool,
    burst: RefCell<Vec<DiskCompletion>>,
}

impl<T> ByteDisk<T> {
    /// Buffers come from `buffers`.
    pub(crate) fn new(disk: Box<dyn RawDisk>, buffers: BufferPool) -> Self {
        let shape = disk.shape();
        let abilities = Abilities {
            punch: Cell::new(shape.can_punch),
            keep: Cell::new(shape.can_zero_keep),
            zeroes: OnceCell::new(),
        };
        Self {
            disk,
            table: RefCell::new(Table { entries: Vec::new(), free: Vec::new() }),
            abilities,
            buffers,
            burst: RefCell::default(),
        }
    }

    /// Alignment and abilities.
    pub(crate) fn shape(&self) -> &Shape {
        self.disk.shape()
    }

    /// Bytes that it has.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    /// Whether the disk takes this data as it is.
    pub(crate) fn is_direct(&self, span: Span, data: &Bytes) -> bool {
        let shape = self.shape();
        span.is_aligned(shape.block_bytes) && (data.as_ptr().addr() as u64).is_multiple_of(shape.memory_bytes)
    }

    /// Whether a write of this span changes a part of a block, so that no other write may touch that block until
    /// it has ended.
    pub(crate) fn needs_turn(&self, span: Span) -> bool {
        !span.is_aligned(self.shape().block_bytes)
    }

    /// Bytes of the pool that are out.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.buffers.used_bytes()
    }

    /// Whether one of these ways of zeroing works.
    pub(crate) fn zeroes_by_command(&self, ways: &[Zeroing]) -> bool {
        ways.iter().any(|&way| self.abilities.works(way).get())
    }

    /// Takes an operation that the disk can do as it is; its end comes out of [`ByteDisk::poll_ends`].
    pub(crate) fn push(&self, mark: T, op: DiskOp) {
        let tag = self.table.borrow_mut().add(Waiter::Direct(mark));
        self.disk.push(tag, op);
    }

    /// Takes an operation for a task, which waits for its end.
    pub(crate) fn begin(&self, op: DiskOp) -> Rc<Wait> {
        let wait = Rc::new(Wait::default());
        let tag = self.table.borrow_mut().add(Waiter::Task(Rc::clone(&wait)));
        self.disk.push(tag, op);
        wait
    }

    /// Hands everything taken so far to the system, in one go.
    pub(crate) fn submit(&self) {
        self.disk.submit();
    }

    /// Appends the ends of operations of the short path, after those of tasks were told. Only one task may poll.
    pub(crate) fn poll_ends(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<(T, Result<DiskReply, DiskError>)>,
    ) -> Poll<()> {
        let mut burst = self.burst.borrow_mut();
        loop {
            if self.disk.poll_completions(cx, &mut burst).is_pending() {
                return Poll::Pending;
            }
            for DiskCompletion { tag, result } in burst.drain(..) {
                let waiter = self.table.borrow_mut().take(tag);
                match waiter {
                    Waiter::Direct(mark) => into.push((mark, result)),
                    Waiter::Task(wait) => wait.finish(result),
                }
            }
            if !into.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Gives one operation to the disk at once and waits for its end.
    pub(crate) async fn operate(&self, op: DiskOp) -> Result<DiskReply, DiskError> {
        let wait = self.begin(op);
        self.disk.submit();
        wait.ended().await
    }

    /// A buffer with room for `len` bytes.
    pub(crate) fn buffer(&self, len: usize) -> AlignedBuffer {
        self.buffers.take(len).unwrap_or_else(|| allocate(len))
    }

    /// Reads bytes.
    pub(crate) async fn read(&self, span: Span) -> Result<Bytes, DiskError> {
        let outer = span.outward(self.shape().block_bytes);
        let len = to_len(outer.len());
        let buffer = self.buffer(len);
        let blocks = data_of(self.operate(DiskOp::Read { offset: outer.start, buffer, len }).await?);
        let skip = to_len(span.start - outer.start);
        Ok(blocks.slice(skip..skip + to_len(span.len())))
    }

    /// Writes bytes.
    pub(crate) async fn write(&self, offset: u64, data: Bytes, durable: bool) -> Result<(), DiskError> {
        let span = Span::new(offset, data.len() as u64);
        let (offset, data) = if self.is_direct(span, &data) {
            (offset, data)
        } else {
            let outer = span.outward(self.shape().block_bytes);
            (outer.start, self.complete_blocks(span, outer, &data).await?)
        };
        self.operate(DiskOp::Write { offset, data, durable }).await.map(drop)
    }

    /// `data`, surrounded by what the disk holds in the rest of its first and last block.
    async fn complete_blocks(&self, span: Span, outer: Span, data: &Bytes) -> Result<Bytes, DiskError> {
        let block = self.shape().block_bytes;
        let mut whole = self.buffer(to_len(outer.len()));
        whole.advance(to_len(outer.len()));
        let head = to_len(span.start - outer.start);
        let tail = head + data.len();
        let last_block = to_len(outer.len() - block);
        if head > 0 {
            let first = self.read(Span::new(outer.start, block)).await?;
            whole.whole()[..first.len()].copy_from_slice(&first);
        }
        let have_last = head > 0 && last_block == 0;
        if span.end < outer.end && !have_last {
            let last = self.read(Span::new(outer.end - block, block)).await?;
            whole.whole()[last_block..last_block + last.len()].copy_from_slice(&last);
        }
        whole.whole()[head..tail].copy_from_slice(data);
        Ok(whole.freeze())
    }

    /// Makes `span` read as zeroes in the first of `ways` that works, else by writing, unless that is too slow.
    /// Writing gigabytes takes minutes, so it is given up between two pieces when `go_on` says no.
    pub(crate) async fn zero(
        &self,
        span: Span,
        ways: &[Zeroing],
        fast: bool,
        go_on: impl Fn() -> bool,
    ) -> Result<Zeroed, DiskError> {
        let inner = span.inward(self.shape().zero_bytes);
        if inner.is_empty() {
            return self.write_zeroes(span, &go_on).await;
        }
        let mut zeroed = false;
        for &zeroing in ways {
            let works = self.abilities.works(zeroing);
            if !works.get() {
                continue;
            }
            match self.operate(DiskOp::Zero { span: inner, zeroing }).await {
                Err(error) if error.is_unsupported() => {
                    tracing::warn!(?zeroing, %error, "fallocate turned out not to work: zeroes are written instead");
                    works.set(false);
                }
                result => {
                    result?;
                    zeroed = true;
                    break;
                }
            }
        }
        if !zeroed {
            return if fast { Ok(Zeroed::TooSlow) } else { self.write_zeroes(span, &go_on).await };
        }
        match self.write_zeroes(Span { start: span.start, end: inner.start }, &go_on).await? {
            Zeroed::Done => self.write_zeroes(Span { start: inner.end, end: span.end }, &go_on).await,
            end @ (Zeroed::TooSlow | Zeroed::GivenUp) => Ok(end),
        }
    }

    async fn write_zeroes(&self, span: Span, go_on: &impl Fn() -> bool) -> Result<Zeroed, DiskError> {
        let block = self.shape().block_bytes;
        let mut at = span.start;
        while at < span.end {
            if at > span.start && !go_on() {
                return Ok(Zeroed::GivenUp);
            }
            // Pieces end at whole blocks, so that only the two ends of the span are put together from old data.
            let most = (at + ZEROES_BYTES as u64) / block * block;
            let end = span.end.min(most);
            let piece = self.abilities.zeroes().slice(..to_len(end - at));
            self.write(at, piece, false).await?;
            at = end;
        }
        Ok(Zeroed::Done)
    }

    /// Follows a hint to read ahead. With O_DIRECT there is no cache to read into.
    pub(crate) async fn prefetch(&self, span: Span) -> Result<(), DiskError> {
        if self.shape().direct {
            return Ok(());
        }
        let span = Span::new(span.start, span.len().min(PREFETCH_BYTES));
        self.operate(DiskOp::Prefetch { span }).await.map(drop)
    }

    /// Which parts of `span` hold data, in at most `limit` extents.
    pub(crate) async fn map(&self, span: Span, limit: usize) -> Result<Vec<DiskExtent>, DiskError> {
        match self.operate(DiskOp::Map { span, limit }).await? {
            DiskReply::Extents(extents) => Ok(extents),
            reply @ (DiskReply::Done | DiskReply::Data(_)) => panic!("a map brings extents, not {reply:?}"),
        }
    }
}

/// Memory beside any pool.
fn allocate(len: usize) -> AlignedBuffer {
    let room = len.next_multiple_of(ALIGNMENT).max(ZEROES_BYTES);
    BufferPool::new(room).take(len).expect("a pool of this size")
}

/// What was read.
pub(crate) fn data_of(reply: DiskReply) -> Bytes {
    match reply {
        DiskReply::Data(buffer) => buffer.freeze(),
        reply @ (DiskReply::Done | DiskReply::Extents(_)) => panic!("a read brings data, not {reply:?}"),
    }
}

/// A length that lies in memory: at most a payload and its edges, or a region of metadata.
pub(crate) fn to_len(len: u64) -> usize {
    usize::try_from(len).expect("what is read or written fits into memory")
}
