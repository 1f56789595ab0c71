//! For the tests: a medium that loses power, and every state in which that can leave it.
//!
//! Between two flushes nothing is known of the order of writes, so any subset of the written sectors may be there
//! (design D3, fault F10). Sectors whose content does not change make no difference and are left out. Up to
//! [`ALL_SUBSETS`] sectors all subsets are tried; of more, all prefixes and suffixes, and all that lack or have
//! only one or two sectors. In addition every prefix in bytes, for media that tear within a sector.

use super::layout::MetaWrite;

const SECTOR: usize = 512;
/// Of so many sectors every subset is tried.
const ALL_SUBSETS: usize = 16;

/// What is on a disk.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Medium {
    bytes: Vec<u8>,
}

impl Medium {
    /// A new file: all zero.
    pub(super) fn new(len: u64) -> Self {
        Self { bytes: vec![0; usize::try_from(len).unwrap()] }
    }

    /// A device with something else on it.
    pub(super) fn filled(len: u64, byte: u8) -> Self {
        Self { bytes: vec![byte; usize::try_from(len).unwrap()] }
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> &[u8] {
        let at = usize::try_from(offset).unwrap();
        &self.bytes[at..at + len]
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes and flushes.
    pub(super) fn apply(&mut self, writes: &[MetaWrite]) {
        for write in writes {
            self.write(write.offset.0, &write.bytes);
        }
    }
}

/// One sector that a write changes: where, before, after.
struct Change {
    offset: u64,
    before: [u8; SECTOR],
    after: [u8; SECTOR],
}

/// Calls `check` with every state that a crash between `writes` and their flush can leave; returns how many.
pub(super) fn every_crash(before: &Medium, writes: &[MetaWrite], mut check: impl FnMut(&Medium)) -> usize {
    let mut changes = Vec::new();
    for write in writes {
        assert_eq!(write.bytes.len() % SECTOR, 0, "whole sectors are written");
        for (index, after) in write.bytes.chunks_exact(SECTOR).enumerate() {
            let offset = write.offset.0 + (index * SECTOR) as u64;
            let before = before.read(offset, SECTOR);
            if before != after {
                let (before, after) = (before.try_into().unwrap(), after.try_into().unwrap());
                changes.push(Change { offset, before, after });
            }
        }
    }
    let mut medium = before.clone();
    let mut tried = 0;
    let n = changes.len();
    if n <= ALL_SUBSETS {
        // Gray code: each subset differs from the last one in one sector.
        let mut present = 0u32;
        check(&medium);
        for step in 1u32..1 << n {
            let at = step.trailing_zeros() as usize;
            present ^= 1 << at;
            let change = &changes[at];
            medium
                .write(change.offset, if present & (1 << at) != 0 { &change.after } else { &change.before });
            check(&medium);
        }
        tried += 1 << n;
    } else {
        let mut subset = |present: &dyn Fn(usize) -> bool| {
            for (at, change) in changes.iter().enumerate() {
                medium.write(change.offset, if present(at) { &change.after } else { &change.before });
            }
            check(&medium);
            tried += 1;
        };
        for cut in 0..=n {
            subset(&|at| at < cut);
            subset(&|at| at >= cut);
        }
        // All pairs of a large write are too many to copy; pairs near each other and far apart are tried.
        for first in 0..n {
            for second in [first, (first + 1) % n, (first + n / 2) % n, n - 1 - first] {
                subset(&|at| at != first && at != second);
                subset(&|at| at == first || at == second);
            }
        }
    }
    tried + every_byte_prefix(before, writes, &mut check)
}

/// Calls `check` with every prefix, in bytes, of all writes one after the other, as far as they change something.
fn every_byte_prefix(before: &Medium, writes: &[MetaWrite], check: &mut impl FnMut(&Medium)) -> usize {
    let mut medium = before.clone();
    let mut tried = 0;
    for write in writes {
        for (index, byte) in write.bytes.iter().enumerate() {
            let at = usize::try_from(write.offset.0).unwrap() + index;
            if medium.bytes[at] != *byte {
                medium.bytes[at] = *byte;
                check(&medium);
                tried += 1;
            }
        }
    }
    tried
}
