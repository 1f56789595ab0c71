//! Where payloads are put that arrive: into aligned buffers of the node's pool, so that a disk can use them with
//! O_DIRECT.
//!
//! The pool has a budget. A reader looks for room *before* it parses a chunk ([`poll_room`]), and there is room for
//! all payloads that a chunk can complete; so a buffer is always there when the parser takes it.

use std::task::{Context, Poll};

use bytes::Bytes;
use evenkeel_core::volume::codec::{PayloadBuffer, PayloadBuffers};
use evenkeel_nbd::buffer::{AlignedBuffer, BufferPool};

/// So much is parsed at a time: at least a datagram.
pub(super) const CHUNK_BYTES_MAX: usize = 9000;

/// What a chunk can take from the pool: fewer than 200 payloads end in it, each of which takes at least 4 KiB, and
/// one of up to 1 MiB begins.
pub(super) const CHUNK_NEEDS_BYTES: usize = 2 << 20;

/// Hands out buffers of the pool.
#[derive(Debug)]
pub(super) struct AlignedBuffers(pub(super) BufferPool);

/// A buffer that is being filled.
#[derive(Debug)]
pub(super) struct Filling(AlignedBuffer);

impl PayloadBuffers for AlignedBuffers {
    type Buffer = Filling;

    fn take(&mut self, len: usize) -> Filling {
        Filling(self.0.take(len).expect("room was looked for before the chunk was parsed"))
    }

    fn may_stay(&mut self, _whole: &Bytes) -> bool {
        // The memory of a datagram has no alignment, and a slice would keep all of it.
        false
    }
}

impl PayloadBuffer for Filling {
    fn append(&mut self, piece: &[u8]) {
        self.0.extend(piece);
    }

    fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Ready when a chunk can be parsed.
pub(super) fn poll_room(pool: &BufferPool, context: &mut Context<'_>) -> Poll<()> {
    let has_room = || pool.used_bytes() + CHUNK_NEEDS_BYTES <= pool.budget_bytes();
    if has_room() {
        return Poll::Ready(());
    }
    pool.wake_on_return(context.waker());
    // What came back before the waker was there would not wake it.
    if has_room() { Poll::Ready(()) } else { Poll::Pending }
}

#[cfg(test)]
mod tests {
    use evenkeel_core::{
        ids::Sequence,
        volume::{
            codec::{Encoder, Parser, SessionNumber, limits::PAYLOAD_BYTES_MAX},
            wire::Frame,
        },
    };

    use super::*;

    #[test]
    fn one_chunk_never_takes_more_than_there_is_room_for() {
        let session = SessionNumber::new(1).expect("not zero");
        let mut encoder = Encoder::new(session);
        let write = |len| Frame::Write {
            sequence: Sequence(1),
            after: Sequence::ZERO,
            offset: 0,
            payload: Bytes::from(vec![1; len]),
            fua: false,
        };
        // The most payloads that a chunk can complete, then the beginning of the longest.
        (0..CHUNK_BYTES_MAX / 49).for_each(|_| encoder.push(&write(1), None));
        encoder.push(&write(PAYLOAD_BYTES_MAX), None);
        let all: Vec<u8> = encoder.chunks().drain(..).flatten().collect();
        let pool = BufferPool::new(CHUNK_NEEDS_BYTES);
        assert_eq!(poll_room(&pool, &mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(()));
        let mut parser = Parser::new(session, AlignedBuffers(pool.clone()));
        let mut chunk = Bytes::copy_from_slice(&all[..CHUNK_BYTES_MAX]);
        let mut frames = Vec::new();
        while !chunk.is_empty() {
            frames.extend(parser.next_frame(&mut chunk).expect("right"));
        }
        assert_eq!(frames.len(), CHUNK_BYTES_MAX / 49);
        assert_eq!(poll_room(&pool, &mut Context::from_waker(std::task::Waker::noop())), Poll::Pending);
        drop((frames, parser));
        assert_eq!(pool.used_bytes(), 0);
    }
}
