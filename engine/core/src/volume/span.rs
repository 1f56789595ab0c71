//! Ranges of bytes on a device.

/// A range of bytes on the device. `len` is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteSpan {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl ByteSpan {
    /// The byte after the last one.
    ///
    /// # Panics
    /// If the span passes `u64::MAX`; spans are checked against the device's size where they enter.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset.checked_add(self.len).expect("span was checked where it entered")
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}
