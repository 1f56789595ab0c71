//! What is kept on disk beside the data: superblock, activity log, dirty bitmaps (design section 4).
//!
//! The format is described byte by byte in `docs/on-disk-format.md`. Everything here is pure: what was read comes
//! in as bytes, what is to be written goes out as [`MetaWrite`](layout::MetaWrite)s, and a method named
//! `committed` or `flushed` is called once they are on stable media. Nothing is assumed about the order of writes
//! between two flushes, nor about how much of them is there after a crash (design D3).
//!
//! What is read at opening may be in a volatile cache only, when a process died and the machine did not. So the
//! metadata are flushed once after they were read and before anything is written: from then on all that was read
//! is stable, which is what the methods here take it for.
//!
//! | file | noun |
//! |---|---|
//! | `geometry` | how a volume is divided into blocks and extents |
//! | `layout` | where the regions of a metadata file lie |
//! | `header`, `codec` | magic, place, owner, checksum; fields |
//! | `superblock`, `superblock_pair` | what a replica is; its two copies |
//! | `activity_log` | extents that may differ after a crash |
//! | `dirty_bitmap` | blocks that one peer lacks |
//! | `stable_proof` | the only thing that clears a dirty bit |
//! | `report` | a metadata file for people: dump and check |

pub mod activity_log;
mod codec;
#[cfg(test)]
mod crash;
pub mod dirty_bitmap;
#[doc(hidden)]
pub mod fuzzing;
pub mod geometry;
#[cfg(test)]
mod growth_tests;
pub mod header;
pub mod layout;
pub mod report;
pub mod stable_proof;
pub mod superblock;
pub mod superblock_pair;
#[cfg(test)]
mod superblock_tests;
