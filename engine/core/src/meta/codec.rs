//! Little-endian fields in and out of structures of a fixed size, one after the other.
//!
//! Invariant: what is not a field is zero; a reader that finds anything else there says so. Positions never
//! depend on what is read, so reading cannot leave the structure.

use super::{header::Fault, layout::SUPERBLOCK_BYTES};

/// To compare with: the longest structure has this many bytes.
static ZEROES: [u8; SUPERBLOCK_BYTES] = [0; SUPERBLOCK_BYTES];

/// Whether there is nothing but zeroes. Compared as memory, which is fast in debug builds too.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}

/// Puts fields into a structure.
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Begins at byte `at` of a structure that is all zero from there on.
    pub(super) fn new(bytes: &'a mut [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn put(&mut self, value: &[u8]) {
        self.bytes[self.at..self.at + value.len()].copy_from_slice(value);
        self.at += value.len();
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    /// Leaves zeroes up to byte `at`, which the documented format names.
    pub(super) fn zeroes_up_to(&mut self, at: usize) {
        assert!(self.at <= at, "field at {} written past {at}", self.at);
        self.at = at;
    }
}

/// Takes fields out of a structure.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins at byte `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let value = self.bytes[self.at..self.at + N].try_into().expect("N bytes");
        self.at += N;
        value
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    /// Passes over bytes that must be zero, up to byte `at`.
    pub(super) fn zeroes_up_to(&mut self, at: usize) -> Result<(), Fault> {
        let reserved = &self.bytes[self.at..at];
        self.at = at;
        if is_zero(reserved) { Ok(()) } else { Err(Fault::Contradiction("reserved bytes are not zero")) }
    }
}
