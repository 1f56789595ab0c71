//! One disk operation as blocking system calls, for the threads.

use std::os::fd::AsFd;

use rustix::{
    fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, fdatasync, seek},
    io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2},
};

use super::{
    DiskError, DiskExtent, DiskOp, DiskReply, Shape, Span, Zeroing,
    file::{DiskFile, DiskKind},
    progress::{Progress, Step},
};

/// Does `op` and returns when it is done. Blocks.
pub(super) fn perform(file: &DiskFile, op: DiskOp) -> Result<DiskReply, DiskError> {
    let unit = block_len(file.shape());
    match op {
        DiskOp::Read { offset, mut buffer, len } => {
            transfer(len, unit, |progress| {
                let at = offset + progress.done() as u64;
                pread(file, &mut buffer.whole()[progress.done()..len], at)
            })?;
            buffer.advance(len);
            Ok(DiskReply::Data(buffer))
        }
        DiskOp::Write { offset, data, durable } => transfer(data.len(), unit, |progress| {
            let at = offset + progress.done() as u64;
            let rest = &data[progress.done()..];
            if durable {
                pwritev2(file, &[std::io::IoSlice::new(rest)], at, ReadWriteFlags::DSYNC)
            } else {
                pwrite(file, rest, at)
            }
        }),
        DiskOp::Zero { span, zeroing } => {
            retry(|| fallocate(file, fallocate_flags(zeroing), span.start, span.len()))
        }
        DiskOp::Sync => retry(|| fdatasync(file)),
        DiskOp::Map { span, limit } => map(file, span, limit).map(DiskReply::Extents),
        DiskOp::Extend { size_bytes } => retry(|| file.extend(size_bytes)),
        DiskOp::Prefetch { span } => {
            retry(|| fadvise(file, span.start, std::num::NonZeroU64::new(span.len()), Advice::WillNeed))
        }
    }
}

/// The block as a length in memory.
pub(super) fn block_len(shape: &Shape) -> usize {
    usize::try_from(shape.block_bytes).expect("a block is at most a page or two")
}

/// How fallocate is told to zero. The size of the file never changes.
pub(super) fn fallocate_flags(zeroing: Zeroing) -> FallocateFlags {
    FallocateFlags::KEEP_SIZE
        | match zeroing {
            Zeroing::Punch => FallocateFlags::PUNCH_HOLE,
            Zeroing::Keep => FallocateFlags::ZERO_RANGE,
        }
}

fn transfer(
    len: usize,
    unit: usize,
    mut piece: impl FnMut(&Progress) -> Result<usize, Errno>,
) -> Result<DiskReply, DiskError> {
    let mut progress = Progress::new(len);
    loop {
        match progress.advance(piece(&progress), unit) {
            Step::Continue => {}
            Step::Complete => return Ok(DiskReply::Done),
            Step::Fail(error) => return Err(error),
        }
    }
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<DiskReply, DiskError> {
    loop {
        match call() {
            Ok(()) => return Ok(DiskReply::Done),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DiskError::Os(errno)),
        }
    }
}

/// Data and holes by SEEK_DATA and SEEK_HOLE. A block device, and a file system without them, is all data.
fn map(file: &DiskFile, span: Span, limit: usize) -> Result<Vec<DiskExtent>, DiskError> {
    let all_data = || vec![DiskExtent { len: span.len(), hole: false }];
    if file.shape().kind == DiskKind::BlockDevice {
        return Ok(all_data());
    }
    let mut extents = Vec::new();
    let mut at = span.start;
    let mut hole = false;
    while at < span.end && extents.len() < limit {
        // The next place of the other kind is where this run ends.
        let whence = if hole { SeekFrom::Data(at) } else { SeekFrom::Hole(at) };
        let next = match seek(file.as_fd(), whence) {
            Ok(next) => next.min(span.end),
            // No data behind `at`: a hole up to the end.
            Err(Errno::NXIO) => span.end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) if extents.is_empty() => return Ok(all_data()),
            Err(errno) => return Err(DiskError::Os(errno)),
        };
        if next > at {
            extents.push(DiskExtent { len: next - at, hole });
        }
        at = next;
        hole = !hole;
    }
    Ok(extents)
}
