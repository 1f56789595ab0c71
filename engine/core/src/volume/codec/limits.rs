//! How much one frame may carry. The encoder asserts these, the parser refuses what is beyond them.

use crate::generation::history::HISTORY_CAPACITY;

/// The payload of one frame: the data of a write or of the blocks of a part, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The fields of one frame, that is everything between its header and its payload, in bytes.
pub const FIELDS_BYTES_MAX: usize = 64 << 10;

/// Runs of blocks in one [`Runs`](crate::volume::wire::Frame::Runs).
pub const RUNS_MAX: usize = 4096;

/// Writes listed one by one in one [`Applied`](crate::volume::wire::Frame::Applied).
pub const APPLIED_MAX: usize = 4096;

/// Blocks that one [`Pull`](crate::volume::wire::Frame::Pull), [`Part`](crate::volume::wire::Frame::Part),
/// [`Compare`](crate::volume::wire::Frame::Compare) or [`Compared`](crate::volume::wire::Frame::Compared) is
/// about: 1 MiB in blocks of 4 KiB.
pub const BLOCKS_MAX: usize = 256;

/// Spans in one [`Settled`](crate::volume::wire::Frame::Settled).
pub const SETTLED_MAX: usize = 2048;

/// Generations of one history: the head and its ancestors.
pub const GENERATIONS_MAX: usize = 1 + HISTORY_CAPACITY;
