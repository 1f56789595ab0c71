//! Raw block I/O on one file or block device, without any knowledge of who asks.
//!
//! A requester pushes operations, each with a [`Tag`] of its own choice, hands the whole batch to the system
//! with one [`RawDisk::submit`], and collects results in bursts with [`RawDisk::poll_completions`]. There are
//! two implementations, and [`open`] says in the log which one serves: io_uring ([`uring`]), and system calls
//! on threads ([`threads`]).
//!
//! Invariants that both keep:
//! - every pushed operation is completed exactly once, in any order;
//! - a buffer belongs to the disk until its operation is completed, whatever becomes of the requester;
//! - reads and writes are complete or fail: short ones are continued;
//! - a failed sync is final (design rule W4): from then on everything is answered with
//!   [`DiskError::Failed`], because nobody can say which earlier writes were lost.
//!
//! Operations in flight have no order among themselves. Who needs one waits, or holds a range lock.

pub(crate) mod byte_disk;
mod file;
mod health;
mod progress;
mod system_call;
mod threads;
mod uring;

use std::{
    fmt,
    str::FromStr,
    task::{Context, Poll},
};

use bytes::Bytes;
use evenkeel_nbd::buffer::AlignedBuffer;
use rustix::io::Errno;
use thiserror::Error;

pub use file::{DiskFile, DiskKind, OpenError, OpenOptions, Shape};

/// Names an operation; the disk only echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A run of bytes on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// The byte after the last one.
    pub end: u64,
}

impl Span {
    /// `len` bytes from `offset` on.
    ///
    /// # Panics
    /// If the end passes `u64::MAX`: spans are made from ranges that were checked against a disk's size.
    #[must_use]
    pub fn new(offset: u64, len: u64) -> Self {
        let end = offset.checked_add(len).expect("a span lies on a disk");
        Self { start: offset, end }
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// The smallest span with both ends at multiples of `unit` bytes that contains this one.
    #[must_use]
    pub fn outward(self, unit: u64) -> Self {
        Self { start: self.start / unit * unit, end: self.end.next_multiple_of(unit) }
    }

    /// The largest such span within this one; empty if there is none.
    #[must_use]
    pub fn inward(self, unit: u64) -> Self {
        Self { start: self.start.next_multiple_of(unit), end: self.end / unit * unit }
    }

    /// Whether both ends are multiples of `unit` bytes.
    #[must_use]
    pub const fn is_aligned(self, unit: u64) -> bool {
        self.start.is_multiple_of(unit) && self.end.is_multiple_of(unit)
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// How a range is made to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// Give the space back (a hole).
    Punch,
    /// Keep the space allocated.
    Keep,
}

/// One operation. Offsets and lengths are multiples of [`Shape::block_bytes`], memory is aligned to
/// [`Shape::memory_bytes`], and everything lies within [`RawDisk::size_bytes`].
#[derive(Debug)]
pub enum DiskOp {
    /// Read `len` bytes into the buffer, which has room for them and comes back in [`DiskReply::Data`].
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Where they go; filled from its start.
        buffer: AlignedBuffer,
        /// How many.
        len: usize,
    },
    /// Write.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// What to write; not changed while the operation lasts.
        data: Bytes,
        /// Complete only when this data is stable (RWF_DSYNC).
        durable: bool,
    },
    /// Make a span read as zeroes without writing it; its ends are multiples of [`Shape::zero_bytes`].
    /// Fails with an error for which [`DiskError::is_unsupported`] holds where the system cannot do it.
    Zero {
        /// Where.
        span: Span,
        /// What becomes of the space.
        zeroing: Zeroing,
    },
    /// Make everything that was completed before this was submitted stable (fdatasync).
    Sync,
    /// Tell which parts hold data.
    Map {
        /// Where.
        span: Span,
        /// At most this many extents; what lies behind them is left out.
        limit: usize,
    },
    /// Read ahead into the page cache.
    Prefetch {
        /// Where.
        span: Span,
    },
    /// Make the disk at least this large; from its end on [`RawDisk::size_bytes`] says so. A file gets a hole at its
    /// end; a block device must be that large already. Fails with ENOSPC if there is no room, and with EINVAL if the
    /// size is no multiple of [`Shape::block_bytes`].
    Extend {
        /// Bytes that it must have.
        size_bytes: u64,
    },
}

/// One run of the same kind, as answered to [`DiskOp::Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// Number of bytes, never zero.
    pub len: u64,
    /// Whether it is a hole, which reads as zeroes.
    pub hole: bool,
}

/// What a successful operation brings back.
#[derive(Debug)]
pub enum DiskReply {
    /// For writes, zeroing, syncs, prefetches and extensions.
    Done,
    /// For reads: the buffer, with `len` bytes filled.
    Data(AlignedBuffer),
    /// For maps: extents without gaps from the start of the span.
    Extents(Vec<DiskExtent>),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// A sync failed before (design rule W4).
    #[error("the disk failed earlier and is out of service until it is opened again")]
    Failed,
    /// A read met the end of the file before the end of the disk.
    #[error("the file has become shorter than it was when it was opened")]
    Truncated,
    /// The operating system's error.
    #[error("{0}")]
    Os(Errno),
}

impl DiskError {
    /// Whether the system cannot do this on this file at all, so that writing zeroes has to do instead.
    #[must_use]
    pub fn is_unsupported(self) -> bool {
        // ENODEV and ENOTTY come from files and drivers without the call, EINVAL from block devices that see
        // another alignment than they announced.
        matches!(self, Self::Os(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::NOTTY | Errno::INVAL))
    }
}

/// The end of an operation.
#[derive(Debug)]
pub struct DiskCompletion {
    /// That given to [`RawDisk::push`].
    pub tag: Tag,
    /// How it ended.
    pub result: Result<DiskReply, DiskError>,
}

/// Raw block I/O. See the module's head for the rules.
pub trait RawDisk {
    /// Alignment and abilities; fixed while the disk is open.
    fn shape(&self) -> &Shape;

    /// Its size in bytes.
    fn size_bytes(&self) -> u64;

    /// Which implementation this is.
    fn backend(&self) -> Backend;

    /// Takes an operation. It starts at the next [`RawDisk::submit`].
    ///
    /// # Panics
    /// If the operation breaks the rules of [`DiskOp`].
    fn push(&self, tag: Tag, op: DiskOp);

    /// Hands everything pushed so far to the system, in one go. Never blocks.
    fn submit(&self);

    /// Appends what has been completed to `into`; pending, with the waker registered, if nothing has. Only one
    /// task may poll.
    fn poll_completions(&self, cx: &mut Context<'_>, into: &mut Vec<DiskCompletion>) -> Poll<()>;
}

/// Which implementation serves a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// An own io_uring ring.
    IoUring,
    /// pread and pwrite on threads.
    Threads,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Threads => "pread",
        })
    }
}

/// Which implementation the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring where it is allowed, otherwise threads.
    #[default]
    Auto,
    /// This one or none.
    Only(Backend),
}

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::Only(Backend::IoUring)),
            "pread" => Ok(Self::Only(Backend::Threads)),
            other => Err(UnknownBackend(other.to_owned())),
        }
    }
}

/// A backend's name that means nothing.
#[derive(Debug, Error)]
#[error("no disk backend is called '{0}': use auto, io_uring or pread")]
pub struct UnknownBackend(String);

/// Why no backend could be started.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The kernel or a sandbox refuses io_uring, and the operator asked for nothing else.
    #[error(
        "io_uring is refused here ({0}): allow it (sysctl kernel.io_uring_disabled=0, or the container's \
         seccomp profile), or use --disk-backend pread"
    )]
    UringRefused(std::io::Error),
    /// No threads could be started.
    #[error("threads for disk I/O cannot be started ({0}): look at the limit on processes (ulimit -u)")]
    NoThreads(std::io::Error),
}

/// Finds out which backend can serve here, and says why if it is not io_uring. Works on any thread, without a
/// runtime, so that the kind of runtime can follow from it.
///
/// # Errors
/// If `choice` demands io_uring and it is refused.
pub fn choose_backend(choice: BackendChoice) -> Result<Backend, BackendError> {
    match (choice, uring::probe()) {
        (BackendChoice::Only(Backend::Threads), _) => Ok(Backend::Threads),
        (BackendChoice::Auto | BackendChoice::Only(Backend::IoUring), Ok(())) => Ok(Backend::IoUring),
        (BackendChoice::Only(Backend::IoUring), Err(refusal)) => Err(BackendError::UringRefused(refusal)),
        (BackendChoice::Auto, Err(refusal)) => {
            tracing::warn!(%refusal, "io_uring is not usable here: disks are served by pread and pwrite");
            Ok(Backend::Threads)
        }
    }
}

/// Starts a backend on an opened file. Must be called on the data thread, within its tokio runtime, and says in
/// the log what serves.
///
/// # Errors
/// If the ring or the threads cannot be set up.
pub fn open(file: DiskFile, backend: Backend) -> Result<Box<dyn RawDisk>, BackendError> {
    let shape = file.shape();
    tracing::info!(
        path = %file.path().display(),
        kind = %shape.kind,
        size = file.size_bytes(),
        direct = shape.direct,
        block = shape.block_bytes,
        %backend,
        "disk opened"
    );
    Ok(match backend {
        Backend::IoUring => Box::new(uring::UringDisk::new(file).map_err(BackendError::UringRefused)?),
        Backend::Threads => Box::new(threads::ThreadDisk::new(file).map_err(BackendError::NoThreads)?),
    })
}

#[cfg(test)]
mod tests;
