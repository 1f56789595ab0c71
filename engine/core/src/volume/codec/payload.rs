//! Where a payload is put that arrives in pieces.
//!
//! The parser does not know what the disk needs; whoever runs it can hand out aligned slots of a pool. One buffer
//! is taken at a time, only after the head of the frame was found right, and never for more than
//! [`PAYLOAD_BYTES_MAX`](super::limits::PAYLOAD_BYTES_MAX).

use bytes::Bytes;

/// Hands out buffers for payloads.
pub trait PayloadBuffers {
    /// What is handed out.
    type Buffer: PayloadBuffer;

    /// A buffer for exactly `len` bytes, which is more than 0.
    fn take(&mut self, len: usize) -> Self::Buffer;

    /// Whether a payload that arrived in one piece may stay in the memory that it arrived in, which saves a copy
    /// but keeps that memory, and has no alignment.
    fn may_stay(&mut self, whole: &Bytes) -> bool;
}

/// A buffer that is filled from the front.
pub trait PayloadBuffer {
    /// Appends a piece; all pieces together are as long as what was taken.
    fn append(&mut self, piece: &[u8]);

    /// Everything that was appended.
    fn finish(self) -> Bytes;
}

/// Buffers on the heap; what arrives in one piece stays where it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapBuffers;

impl PayloadBuffers for HeapBuffers {
    type Buffer = Vec<u8>;

    fn take(&mut self, len: usize) -> Vec<u8> {
        Vec::with_capacity(len)
    }

    fn may_stay(&mut self, _whole: &Bytes) -> bool {
        true
    }
}

impl PayloadBuffer for Vec<u8> {
    fn append(&mut self, piece: &[u8]) {
        self.extend_from_slice(piece);
    }

    fn finish(self) -> Bytes {
        Bytes::from(self)
    }
}
