//! The disk actions of a volume: data on the short path where the disk takes them as they are, everything else as
//! tasks.
//!
//! - Data that are whole blocks in aligned memory: one operation, one event, no task.
//! - Parts of blocks, and zeroing: a task. Two such writes never run at once, or they would lose each other's bytes
//!   in a block that they share; a write of whole blocks cannot share one with them, because the core keeps writes
//!   that overlap apart.
//! - Metadata are cold: a task for each commit, which writes all pieces and then makes them stable. An error there
//!   is final for the run (design W4): the core never commits again.

use bytes::Bytes;
use evenkeel_core::volume::{
    io::{DiskError as CoreError, DiskTag, Event, ZeroMode},
    span::ByteSpan,
};
use rustix::io::Errno;

use super::Runner;
use crate::{
    disk::{
        DiskError, DiskOp, DiskReply, Span, Zeroing,
        byte_disk::{ByteDisk, Zeroed, data_of, to_len},
    },
    node::abort,
};

/// Making room zeroes so much in one go.
const ZEROED_AT_ONCE: u64 = 1 << 30;

/// What an operation of the data disk was for.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) enum DataMark {
    Read(DiskTag),
    /// A write or a flush.
    Change(DiskTag),
}

impl DataMark {
    pub(super) fn into_event(self, runner: &Runner, result: Result<DiskReply, DiskError>) -> Event {
        match self {
            Self::Read(tag) => Event::ReadDone { tag, result: runner.judge("data", result.map(data_of)) },
            Self::Change(tag) => Event::DiskDone { tag, result: runner.judge("data", result.map(drop)) },
        }
    }
}

fn span_of(span: ByteSpan) -> Span {
    Span::new(span.offset, span.len)
}

impl Runner {
    /// An error as the core is told it; the operator reads it in the log.
    fn judge<T>(&self, what: &'static str, result: Result<T, DiskError>) -> Result<T, CoreError> {
        result.map_err(|error| {
            tracing::error!(volume = self.settings.borrow().name, what, %error, "the disk failed an operation");
            match error {
                DiskError::Os(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => CoreError::NoSpace,
                DiskError::Os(_) | DiskError::Failed | DiskError::Truncated => CoreError::Io,
            }
        })
    }

    /// Begins a task that ends in an event.
    fn spawn(&self, task: impl AsyncFnOnce(&Self) -> Event + 'static) {
        let runner = self.own.upgrade().expect("it is being used");
        abort::spawn(async move {
            let event = task(&runner).await;
            runner.turn([event]);
        });
    }

    pub(super) fn read_data(&self, tag: DiskTag, span: ByteSpan) {
        let span = span_of(span);
        if span.is_aligned(self.data.shape().block_bytes) {
            let len = to_len(span.len());
            let buffer = self.data.buffer(len);
            self.data.push(DataMark::Read(tag), DiskOp::Read { offset: span.start, buffer, len });
        } else {
            self.spawn(async move |runner| {
                let result = runner.data.read(span).await;
                Event::ReadDone { tag, result: runner.judge("data", result) }
            });
        }
    }

    pub(super) fn write_data(&self, tag: DiskTag, offset: u64, data: Bytes, durable: bool) {
        let span = Span::new(offset, data.len() as u64);
        if self.data.is_direct(span, &data) {
            self.data.push(DataMark::Change(tag), DiskOp::Write { offset, data, durable });
            return;
        }
        self.spawn(async move |runner| {
            let _turn =
                if runner.data.needs_turn(span) { Some(runner.block_turn.lock().await) } else { None };
            let result = runner.data.write(offset, data, durable).await;
            Event::DiskDone { tag, result: runner.judge("data", result) }
        });
    }

    pub(super) fn zero_data(&self, tag: DiskTag, span: ByteSpan, mode: ZeroMode, durable: bool) {
        let span = span_of(span);
        let ways: &[_] = match mode {
            ZeroMode::Punch => &[Zeroing::Punch, Zeroing::Keep],
            ZeroMode::Allocate => &[Zeroing::Keep],
        };
        self.spawn(async move |runner| {
            let _turn =
                if runner.data.needs_turn(span) { Some(runner.block_turn.lock().await) } else { None };
            let result = match zero(&runner.data, span, ways).await {
                Ok(()) if durable => runner.data.operate(DiskOp::Sync).await.map(drop),
                result => result,
            };
            Event::DiskDone { tag, result: runner.judge("data", result) }
        });
    }

    /// Both disks get room for a larger volume. It may take long, and ends with the runner.
    pub(super) fn make_room(&self, tag: DiskTag, data: ByteSpan, meta: ByteSpan) {
        let runner = self.own.upgrade().expect("it is being used");
        let task = abort::spawn(async move {
            let result = runner.extend(span_of(data), span_of(meta)).await;
            let result = runner.judge("room for a larger volume", result);
            runner.turn([Event::DiskDone { tag, result }]);
        });
        self.tasks.borrow_mut().push(task);
    }

    /// Ends when `data` reads as zeroes and `meta` has its space, on stable media. What lay there before, on a larger
    /// device or after an attempt that was cut off, is overwritten. Data keep their holes; metadata must not run out of
    /// room when their commit is due.
    async fn extend(&self, data: Span, meta: Span) -> Result<(), DiskError> {
        make_larger(&self.data, data.end).await?;
        if !meta.is_empty() {
            make_larger(&self.meta, meta.end).await?;
            zero_all(&self.meta, meta, &[Zeroing::Keep]).await?;
        }
        let ways = [Zeroing::Punch, Zeroing::Keep];
        let block_bytes = self.data.shape().block_bytes;
        let shared = data.start.next_multiple_of(block_bytes).min(data.end);
        if data.start < shared {
            // Clients may be writing to the rest of this block.
            let _turn = self.block_turn.lock().await;
            zero_all(&self.data, Span { start: data.start, end: shared }, &ways).await?;
        }
        zero_all(&self.data, Span { start: shared, end: data.end }, &ways).await?;
        self.data.operate(DiskOp::Sync).await?;
        self.meta.operate(DiskOp::Sync).await.map(drop)
    }

    pub(super) fn flush_data(&self, tag: DiskTag) {
        self.data.push(DataMark::Change(tag), DiskOp::Sync);
    }

    pub(super) fn read_meta(&self, tag: DiskTag, span: ByteSpan) {
        self.spawn(async move |runner| {
            let result = runner.meta.read(span_of(span)).await;
            Event::ReadDone { tag, result: runner.judge("metadata", result) }
        });
    }

    pub(super) fn commit_meta(&self, tag: DiskTag, pieces: Vec<(u64, Bytes)>) {
        self.spawn(async move |runner| {
            let result = runner.commit(pieces).await;
            Event::DiskDone { tag, result: runner.judge("metadata", result) }
        });
    }

    /// All pieces at once, then one sync behind them.
    async fn commit(&self, pieces: Vec<(u64, Bytes)>) -> Result<(), DiskError> {
        let mut waits = Vec::with_capacity(pieces.len());
        for (offset, bytes) in pieces {
            let span = Span::new(offset, bytes.len() as u64);
            let data = if self.meta.is_direct(span, &bytes) {
                bytes
            } else {
                // Pages of metadata are whole blocks of every disk; only their memory may be unaligned.
                assert!(!self.meta.needs_turn(span), "metadata are written in whole pages");
                let mut buffer = self.meta.buffer(bytes.len());
                buffer.extend(&bytes);
                buffer.freeze()
            };
            waits.push(self.meta.begin(DiskOp::Write { offset, data, durable: false }));
        }
        self.meta.submit();
        let mut result = Ok(());
        for wait in waits {
            result = result.and(wait.ended().await.map(drop));
        }
        result?;
        self.meta.operate(DiskOp::Sync).await.map(drop)
    }
}

/// Whatever the system says: the disk cannot be that large, and nothing has happened to what is on it.
async fn make_larger<T>(disk: &ByteDisk<T>, size_bytes: u64) -> Result<(), DiskError> {
    match disk.operate(DiskOp::Extend { size_bytes }).await {
        Ok(_) => Ok(()),
        Err(DiskError::Os(error)) => {
            tracing::error!(size_bytes, %error, "the disk cannot grow");
            Err(DiskError::Os(Errno::NOSPC))
        }
        Err(error @ (DiskError::Failed | DiskError::Truncated)) => Err(error),
    }
}

/// However long it takes.
async fn zero<T>(disk: &ByteDisk<T>, span: Span, ways: &[Zeroing]) -> Result<(), DiskError> {
    match disk.zero(span, ways, false, || true).await? {
        Zeroed::Done => Ok(()),
        end @ (Zeroed::TooSlow | Zeroed::GivenUp) => panic!("nobody asked for {end:?}"),
    }
}

/// In pieces, so that it can be given up between them.
async fn zero_all<T>(disk: &ByteDisk<T>, span: Span, ways: &[Zeroing]) -> Result<(), DiskError> {
    let mut at = span.start;
    while at < span.end {
        let piece =
            Span { start: at, end: span.end.min((at + ZEROED_AT_ONCE) / ZEROED_AT_ONCE * ZEROED_AT_ONCE) };
        zero(disk, piece, ways).await?;
        at = piece.end;
    }
    Ok(())
}
