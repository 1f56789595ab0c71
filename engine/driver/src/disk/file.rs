//! Opening a file or block device as a disk: what it is, how large, how it must be aligned, what it can do,
//! and that nobody else uses it.
//!
//! - O_DIRECT where possible. Where the file system refuses it, or where the size is not a multiple of the
//!   block, the page cache is used instead and the log says so. (The alternative for odd sizes, direct I/O with
//!   a buffered tail, mixes both on one page; a truncate to a whole block is the better cure.)
//! - A file is locked with flock: exclusively, or shared for read-only. A block device is opened with O_EXCL,
//!   which also keeps mounted ones out. Both are held until the last request of the holder has ended, also when
//!   its process was killed: so a restart right after a crash waits for what the dead one still had in flight,
//!   and never reads what is yet to change.
//! - What fallocate can do is tried on a nameless file beside the image, never on data.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags, fallocate, flock,
        ftruncate, ioctl_blksszget, seek, statx,
    },
    io::Errno,
};
use thiserror::Error;

use super::{DiskOp, Span};

/// Files are punched and mapped in units of at least this; smaller edges are written.
const FILE_ZERO_BYTES: u64 = 4096;

/// A disk that is in use by no process that lives is waited for at most so long: requests of a killed process end
/// within milliseconds, unless the device under them is very slow.
const DEAD_HOLDER_LIMIT: Duration = Duration::from_secs(2);

/// Between two looks.
const DEAD_HOLDER_POLL: Duration = Duration::from_millis(2);

/// What to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// File or block device.
    pub path: PathBuf,
    /// The size in bytes that it must have. A missing file is created, sparse, with this size.
    pub size_bytes: Option<u64>,
    /// Open without the right to write.
    pub read_only: bool,
}

/// What a disk lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::BlockDevice => "block device",
        })
    }
}

/// Alignment and abilities of a disk.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What it lives on.
    pub kind: DiskKind,
    /// Whether O_DIRECT is on.
    pub direct: bool,
    /// Offsets and lengths of reads and writes are multiples of this; 1 without O_DIRECT.
    pub block_bytes: u64,
    /// Memory addresses are multiples of this; 1 without O_DIRECT.
    pub memory_bytes: u64,
    /// Ends of zeroed spans are multiples of this.
    pub zero_bytes: u64,
    /// Opened without the right to write.
    pub read_only: bool,
    /// Space can be given back and reads as zeroes, without writing.
    pub can_punch: bool,
    /// Space can be zeroed and kept, without writing.
    pub can_zero_keep: bool,
}

impl Shape {
    /// Holds every operation against the rules of [`DiskOp`]; breaking them is a bug of the requester.
    pub(super) fn check(&self, size_bytes: u64, op: &DiskOp) {
        let (span, unit) = match op {
            DiskOp::Read { offset, buffer, len } => {
                assert!(*len <= buffer.capacity(), "a read of {len} bytes into {}", buffer.capacity());
                (Span::new(*offset, *len as u64), self.block_bytes)
            }
            DiskOp::Write { offset, data, .. } => {
                let address = data.as_ptr().addr() as u64;
                assert!(address.is_multiple_of(self.memory_bytes), "a write from unaligned memory");
                (Span::new(*offset, data.len() as u64), self.block_bytes)
            }
            DiskOp::Zero { span, .. } => (*span, self.zero_bytes),
            DiskOp::Sync | DiskOp::Extend { .. } => return,
            DiskOp::Map { span, .. } | DiskOp::Prefetch { span } => (*span, 1),
        };
        assert!(!span.is_empty() && span.end <= size_bytes, "{span:?} on a disk of {size_bytes}");
        assert!(span.is_aligned(unit), "{span:?} is not aligned to {unit}");
    }
}

/// Why a disk could not be opened. The text names the path and the way out.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Nothing is there and no size was given.
    #[error("{path}: no such file: give --size to create it")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// The size is not the wanted one.
    #[error(
        "{path}: its size is {actual} bytes, but --size says {wanted}: leave --size out, or resize it first"
    )]
    SizeDiffers {
        /// Where.
        path: PathBuf,
        /// Bytes that are there.
        actual: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// There is not a single byte.
    #[error("{path}: its size is zero: truncate it to the size of the volume (truncate -s 1G {path})")]
    Empty {
        /// Where.
        path: PathBuf,
    },
    /// Neither file nor block device.
    #[error("{path}: is a {what}: a disk must be a regular file or a block device")]
    Unsuitable {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Another program has it.
    #[error("{path}: in use by {holder}: stop that first")]
    InUse {
        /// Where.
        path: PathBuf,
        /// Who has it, as far as the system tells.
        holder: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot {what}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What it answered. (Not called source: the text has it already.)
        error: io::Error,
    },
}

/// An opened and locked disk, before a backend serves it. It may cross threads.
#[derive(Debug)]
pub struct DiskFile {
    fd: OwnedFd,
    path: PathBuf,
    shape: Shape,
    /// Only grows. Whoever relies on a new size has been told of it by the end of the operation that made it.
    size_bytes: AtomicU64,
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl DiskFile {
    /// Opens, and creates if that is asked for, and locks.
    ///
    /// # Errors
    /// See [`OpenError`]. A file that was created by a call that fails is removed again.
    pub fn open(options: &OpenOptions) -> Result<Self, OpenError> {
        let path = &options.path;
        let system = |what| move |error: io::Error| OpenError::System { path: path.clone(), what, error };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match options.size_bytes {
                None => return Err(OpenError::Missing { path: path.clone() }),
                Some(0) => return Err(OpenError::Empty { path: path.clone() }),
                Some(size) => {
                    create_sparse(path, size)?;
                    fs::metadata(path).map_err(system("look at it"))?
                }
            },
            Err(error) => return Err(system("look at it")(error)),
        };
        let kind = kind_of(&metadata.file_type())
            .map_err(|what| OpenError::Unsuitable { path: path.clone(), what })?;

        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
        flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        if kind == DiskKind::BlockDevice {
            flags |= OFlags::EXCL;
        }
        let opened = wait_for_the_dead(|| match open_direct_if_possible(path, flags) {
            // The kernel does not tell who claimed a device: it may be a process that is about to end.
            Err(Errno::BUSY) => None,
            result => Some(result),
        });
        let (fd, mut direct) = opened.unwrap_or(Err(Errno::BUSY)).map_err(|errno| match errno {
            Errno::BUSY => OpenError::InUse {
                path: path.clone(),
                holder: "a mount or another program that claimed the device (lsblk and fuser show it)".into(),
            },
            errno => system("open it")(errno.into()),
        })?;
        if kind == DiskKind::File {
            lock(&fd, path, options.read_only)?;
        }

        // Lock first, then measure: the size cannot change under a rival that is being refused.
        let size_bytes = seek(&fd, SeekFrom::End(0)).map_err(|errno| system("measure it")(errno.into()))?;
        if size_bytes == 0 {
            return Err(OpenError::Empty { path: path.clone() });
        }
        if let Some(wanted) = options.size_bytes
            && wanted != size_bytes
        {
            return Err(OpenError::SizeDiffers { path: path.clone(), actual: size_bytes, wanted });
        }

        let (mut block_bytes, mut memory_bytes) = direct_alignment(&fd, kind);
        if direct && !size_bytes.is_multiple_of(block_bytes) {
            tracing::warn!(
                path = %path.display(), size = size_bytes, block = block_bytes,
                "the size is not a multiple of the block: the page cache is used instead of O_DIRECT"
            );
            clear_direct(&fd).map_err(|errno| system("turn O_DIRECT off on it")(errno.into()))?;
            direct = false;
        }
        if !direct {
            (block_bytes, memory_bytes) = (1, 1);
        }
        let zero_bytes = match kind {
            DiskKind::File => FILE_ZERO_BYTES.max(block_bytes),
            DiskKind::BlockDevice => direct_alignment(&fd, kind).0,
        };
        let (can_punch, can_zero_keep) = match (options.read_only, kind) {
            (true, _) => (false, false),
            (false, DiskKind::File) => try_fallocate(&fd, path, size_bytes.next_multiple_of(zero_bytes)),
            (false, DiskKind::BlockDevice) => {
                let offloaded = zeroes_by_command(&metadata);
                (offloaded, offloaded)
            }
        };
        let read_only = options.read_only;
        let shape = Shape {
            kind,
            direct,
            block_bytes,
            memory_bytes,
            zero_bytes,
            read_only,
            can_punch,
            can_zero_keep,
        };
        Ok(Self { fd, path: path.clone(), shape, size_bytes: AtomicU64::new(size_bytes) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes that it has.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// See [`DiskOp::Extend`]. Blocks.
    pub(super) fn extend(&self, wanted: u64) -> Result<(), Errno> {
        if !wanted.is_multiple_of(self.shape.block_bytes) {
            return Err(Errno::INVAL);
        }
        let mut size_bytes = seek(&self.fd, SeekFrom::End(0))?;
        if size_bytes < wanted {
            match self.shape.kind {
                DiskKind::File => ftruncate(&self.fd, wanted)?,
                DiskKind::BlockDevice => return Err(Errno::NOSPC),
            }
            size_bytes = wanted;
        }
        self.size_bytes.fetch_max(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A disk on any descriptor, for tests that need one that misbehaves.
    #[cfg(test)]
    pub(super) fn from_parts(fd: OwnedFd, shape: Shape, size_bytes: u64) -> Self {
        Self { fd, path: PathBuf::from("test"), shape, size_bytes: AtomicU64::new(size_bytes) }
    }

    /// The descriptor, for [`DiskFile::from_parts`].
    #[cfg(test)]
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

fn kind_of(file_type: &fs::FileType) -> Result<DiskKind, &'static str> {
    if file_type.is_file() {
        Ok(DiskKind::File)
    } else if file_type.is_block_device() {
        Ok(DiskKind::BlockDevice)
    } else if file_type.is_dir() {
        Err("directory")
    } else if file_type.is_char_device() {
        Err("character device")
    } else if file_type.is_fifo() {
        Err("pipe")
    } else if file_type.is_socket() {
        Err("socket")
    } else {
        Err("thing of an unknown kind")
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Creates a file of holes, stable together with its name.
fn create_sparse(path: &Path, size: u64) -> Result<(), OpenError> {
    let system = |what| move |error: io::Error| OpenError::System { path: path.to_owned(), what, error };
    let file = fs::File::create_new(path).map_err(system("create it"))?;
    let filled = ftruncate(&file, size).map_err(io::Error::from).and_then(|()| file.sync_all());
    if let Err(error) = filled {
        // The name is ours alone: create_new made it.
        fs::remove_file(path).map_err(system("remove it again"))?;
        return Err(system("give it its size")(error));
    }
    fs::File::open(folder_of(path))
        .and_then(|folder| folder.sync_all())
        .map_err(system("make its name stable"))?;
    tracing::info!(path = %path.display(), size, "created a sparse file");
    Ok(())
}

/// Opens with O_DIRECT, or without where the file system refuses that.
fn open_direct_if_possible(path: &Path, flags: OFlags) -> Result<(OwnedFd, bool), Errno> {
    match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::INVAL) => {
            let fd = rustix::fs::open(path, flags, Mode::empty())?;
            tracing::warn!(
                path = %path.display(),
                "the file system refuses O_DIRECT: the page cache is used, flushes still reach the disk"
            );
            Ok((fd, false))
        }
        Err(errno) => Err(errno),
    }
}

fn clear_direct(fd: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags - OFlags::DIRECT)
}

/// The alignment of offsets and of memory that O_DIRECT needs.
fn direct_alignment(fd: &OwnedFd, kind: DiskKind) -> (u64, u64) {
    if let Ok(answer) = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && answer.stx_dio_offset_align.is_power_of_two()
        && answer.stx_dio_mem_align.is_power_of_two()
    {
        return (answer.stx_dio_offset_align.into(), answer.stx_dio_mem_align.into());
    }
    // Before Linux 6.1: the sector of a device; for files the page, which is enough on every file system.
    match kind {
        DiskKind::BlockDevice => {
            ioctl_blksszget(fd).map_or((4096, 4096), |sector| (sector.into(), sector.into()))
        }
        DiskKind::File => (4096, 4096),
    }
}

/// Which ways of zeroing the files of this folder have, tried on a nameless file. Where the file system has
/// none, punching is tried behind the end of the file itself, which changes nothing; zeroing would allocate.
fn try_fallocate(fd: &OwnedFd, path: &Path, behind: u64) -> (bool, bool) {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder_of(path), flags, Mode::RUSR | Mode::WUSR) {
        Ok(trial) => {
            let works = |mode| fallocate(&trial, mode, 0, FILE_ZERO_BYTES).is_ok();
            (works(punch), works(keep))
        }
        Err(_) => (fallocate(fd, punch, behind, FILE_ZERO_BYTES).is_ok(), false),
    }
}

/// Whether a block device zeroes by command: only then fallocate on it is faster than writing.
fn zeroes_by_command(metadata: &fs::Metadata) -> bool {
    let device = metadata.rdev();
    let name = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A partition has no queue of its own; its disk is one folder up.
    ["queue", "../queue"].iter().any(|queue| {
        fs::read_to_string(format!("{name}/{queue}/write_zeroes_max_bytes"))
            .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
    })
}

/// Tries until there is an answer, for as long as the kernel may need to end what a killed process had in flight;
/// `None` after that.
fn wait_for_the_dead<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Some(answer) => return Some(answer),
            None if start.elapsed() > DEAD_HOLDER_LIMIT => return None,
            None => thread::sleep(DEAD_HOLDER_POLL),
        }
    }
}

fn lock(fd: &OwnedFd, path: &Path, shared: bool) -> Result<(), OpenError> {
    let wanted =
        if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    let in_use = |holder| OpenError::InUse { path: path.to_owned(), holder };
    let locked = wait_for_the_dead(|| match flock(fd, wanted) {
        Ok(()) => Some(Ok(())),
        // A holder that lives is refused at once; one that is not to be found may be dead.
        Err(Errno::WOULDBLOCK) => holder_of(fd).map(|holder| Err(in_use(holder))),
        Err(errno) => {
            Some(Err(OpenError::System { path: path.to_owned(), what: "lock it", error: errno.into() }))
        }
    });
    locked.unwrap_or_else(|| Err(in_use("another program (fuser shows it)".into())))
}

/// The process that lives and holds the flock on a file, from `/proc/locks` ("1: FLOCK ADVISORY WRITE 123 fe:00:456 0 EOF").
fn holder_of(fd: &OwnedFd) -> Option<String> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let place = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
        stat.st_ino
    );
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process: u32 = locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&place.as_str()))
        .and_then(|words| words.get(4)?.parse().ok())?;
    // "123 (name) S …": Z is a zombie, X is dead.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    (!rest.trim_start().starts_with(['Z', 'X'])).then(|| format!("process {process} ({name})"))
}
