//! A part of a dirty bitmap as runs: how two nodes tell each other what they know (design G7).
//!
//! A batch says: between `from` and `until` exactly these runs are dirty. Encoded, all numbers are LEB128: `from`,
//! `until - from`, then for each run the gap before it and its length. Two bytes for most runs; a bitmap in which
//! every other block is dirty takes 8 times its raw size, which is still a 2000th of the data that it calls for.
//!
//! Invariant: runs are in order, not empty, do not touch each other, and lie between `from` and `until`.

use std::ops::Range;

use crate::ids::BlockIndex;

/// The most runs of one batch; about 32 KiB encoded, at most [`MAX_ENCODED_BYTES`].
pub const MAX_RUNS: usize = 8192;
/// The longest encoded batch: two numbers in front and two for each run, of ten bytes each.
pub const MAX_ENCODED_BYTES: usize = (2 + 2 * MAX_RUNS) * 10;

/// A batch that was received cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunsError {
    /// It ends within a number, or a number does not fit into 64 bits or is longer than it must be.
    #[error("a list of dirty blocks is malformed at byte {0}")]
    Malformed(usize),
    /// More than [`MAX_RUNS`].
    #[error("a list of more than {MAX_RUNS} runs of dirty blocks")]
    TooMany,
    /// A run is empty, touches the one before it, or leaves the batch.
    #[error("a list of dirty blocks that overlap or leave their range")]
    Disorder,
    /// It names blocks that the volume does not have.
    #[error("a list of dirty blocks up to {until}, but the volume has {blocks}")]
    BeyondVolume {
        /// The end of the batch.
        until: u64,
        /// The blocks of the volume.
        blocks: u64,
    },
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyRuns {
    covers: Range<BlockIndex>,
    runs: Vec<Range<BlockIndex>>,
}

impl DirtyRuns {
    /// From runs that hold the invariant.
    pub(super) fn new(covers: Range<BlockIndex>, runs: Vec<Range<BlockIndex>>) -> Self {
        Self { covers, runs }
    }

    /// The blocks of which the batch speaks; the next batch begins at their end.
    #[must_use]
    pub fn covers(&self) -> Range<BlockIndex> {
        self.covers.clone()
    }

    /// The runs of dirty blocks.
    pub fn iter(&self) -> impl Iterator<Item = Range<BlockIndex>> + '_ {
        self.runs.iter().cloned()
    }

    /// As bytes for a frame; at most [`MAX_ENCODED_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.runs.len() * 4);
        put(&mut out, self.covers.start.0);
        put(&mut out, self.covers.end.0 - self.covers.start.0);
        let mut at = self.covers.start.0;
        for run in &self.runs {
            put(&mut out, run.start.0 - at);
            put(&mut out, run.end.0 - run.start.0);
            at = run.end.0;
        }
        out
    }

    /// From the bytes of a frame. Allocates at most 16 bytes for each of [`MAX_RUNS`].
    ///
    /// # Errors
    /// [`RunsError`]; the sender is at fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, RunsError> {
        let mut at = 0;
        let mut number = || take(bytes, &mut at);
        let from = number()?.ok_or(RunsError::Malformed(0))?;
        let len = number()?.ok_or(RunsError::Malformed(bytes.len()))?;
        let until = from.checked_add(len).ok_or(RunsError::Disorder)?;
        let mut runs: Vec<Range<BlockIndex>> = Vec::new();
        let mut last = from;
        while let Some(gap) = number()? {
            let length = number()?.ok_or(RunsError::Malformed(bytes.len()))?;
            if runs.len() == MAX_RUNS {
                return Err(RunsError::TooMany);
            }
            let start = last.checked_add(gap).ok_or(RunsError::Disorder)?;
            let end = start.checked_add(length).ok_or(RunsError::Disorder)?;
            if length == 0 || end > until || (gap == 0 && !runs.is_empty()) {
                return Err(RunsError::Disorder);
            }
            runs.push(BlockIndex(start)..BlockIndex(end));
            last = end;
        }
        Ok(Self { covers: BlockIndex(from)..BlockIndex(until), runs })
    }
}

/// Appends a number as LEB128.
fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number as LEB128, in its shortest form; `None` at the end.
fn take(bytes: &[u8], at: &mut usize) -> Result<Option<u64>, RunsError> {
    if *at == bytes.len() {
        return Ok(None);
    }
    let start = *at;
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(RunsError::Malformed(start))?;
        *at += 1;
        let low = u64::from(byte & 0x7F);
        if low << shift >> shift != low {
            return Err(RunsError::Malformed(start));
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || shift == 0;
            return if shortest { Ok(Some(value)) } else { Err(RunsError::Malformed(start)) };
        }
    }
    Err(RunsError::Malformed(start))
}
