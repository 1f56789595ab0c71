//! Aligned buffers for payload, from a pool with a fixed budget.
//!
//! A payload is copied once, from the socket into a buffer whose address is a multiple of [`ALIGNMENT`], and is
//! shared from then on as [`Bytes`]: disks use it with O_DIRECT, links send it, nobody copies it again. When
//! the last `Bytes` is dropped the buffer returns to its pool.
//!
//! Invariants:
//! - memory and reservations together never exceed the budget, which is fixed at start; what is kept for reuse
//!   counts, and goes when it is needed elsewhere;
//! - memory that a client has not filled is zero or its own earlier data, never shown: [`AlignedBuffer::freeze`]
//!   exposes only what was marked as filled.
//!
//! The pool is shared through an `Arc` with a mutex because `Bytes` demands an owner that is `Send`. All users
//! are on the data thread, so the lock is never contended.

#![allow(unsafe_code, reason = "buffers are slices of memory that the pool hands out")]

mod memory;
mod queue;

use std::{
    sync::{Arc, Mutex},
    task::Waker,
};

use bytes::Bytes;

pub use self::queue::Place;
use self::{
    memory::{Block, Memory},
    queue::Queue,
};

/// Every buffer begins at a multiple of this many bytes, enough for O_DIRECT on any disk.
pub const ALIGNMENT: usize = 4096;

/// Buffers of these sizes are kept for reuse; larger ones are allocated exactly and freed at once.
const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Where buffers come from. Cloning is cheap and shares the pool.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Mutex<Shared>>,
    budget_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    memory: Memory,
    /// Handed out, reservations included.
    used_bytes: usize,
    /// Reservations alone.
    reserved_bytes: usize,
    /// To be woken when something comes back.
    waiters: Vec<Waker>,
    queue: Queue,
}

impl Shared {
    /// Takes `bytes` back into the budget and returns who waits for it.
    fn give_back(&mut self, bytes: usize) -> Vec<Waker> {
        assert!(self.used_bytes >= bytes, "the pool got back more than was taken");
        self.used_bytes -= bytes;
        std::mem::take(&mut self.waiters)
    }
}

/// The index of the smallest class that holds `len` bytes, or none for a large buffer.
fn class_of(len: usize) -> Option<usize> {
    CLASS_BYTES.iter().position(|&class| len <= class)
}

/// What a buffer for `len` bytes takes from the budget.
pub(crate) fn capacity_for(len: usize) -> usize {
    class_of(len).map_or_else(|| len.next_multiple_of(ALIGNMENT), |class| CLASS_BYTES[class])
}

impl BufferPool {
    /// A pool that never has more than `budget_bytes` handed out.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        let memory = Memory::new(&CLASS_BYTES, budget_bytes);
        let shared =
            Shared { memory, used_bytes: 0, reserved_bytes: 0, waiters: Vec::new(), queue: Queue::default() };
        Self { shared: Arc::new(Mutex::new(shared)), budget_bytes }
    }

    /// The fixed budget in bytes.
    #[must_use]
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Bytes that are handed out now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.lock().used_bytes
    }

    /// A buffer with room for `len` bytes, none of them filled; `None` when that would pass the budget, which
    /// is the caller's sign to stop reading requests.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<AlignedBuffer> {
        let capacity = capacity_for(len.max(1));
        let mut shared = self.lock();
        let room = self.budget_bytes - shared.reserved_bytes;
        let block = shared.memory.take(class_of(capacity), capacity, room)?;
        shared.used_bytes += capacity;
        drop(shared);
        Some(AlignedBuffer { lease: Lease { block: Some(block), pool: self.clone() }, filled: 0 })
    }

    /// A reservation of nothing, which can grow: for memory that is not taken from this pool, but has to stay
    /// within its budget.
    #[must_use]
    pub fn reservation(&self) -> Reservation {
        Reservation { pool: self.clone(), bytes: 0 }
    }

    /// Wakes `waker` once, when anything comes back to the pool. To be called before the attempt whose failure
    /// it is to mend, or followed by another attempt.
    pub fn wake_on_return(&self, waker: &Waker) {
        let mut shared = self.lock();
        if !shared.waiters.iter().any(|waiter| waiter.will_wake(waker)) {
            shared.waiters.push(waker.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // A panic while the lock is held cannot leave the counters half-changed, so poison carries no meaning.
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Returns its block to the pool on drop.
#[derive(Debug)]
struct Lease {
    block: Option<Block>,
    pool: BufferPool,
}

impl Lease {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("only drop takes the block")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let block = self.block.take().expect("dropped once");
        let mut shared = self.pool.lock();
        let waiters = shared.give_back(block.capacity());
        shared.memory.give_back(block);
        drop(shared);
        waiters.into_iter().for_each(Waker::wake);
    }
}

/// A part of a pool's budget without memory; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    pool: BufferPool,
    bytes: usize,
}

impl Reservation {
    /// Takes from the budget what a buffer of `len` bytes would take, and returns how much that is; nothing is
    /// taken if it passes the budget.
    #[must_use]
    pub fn grow(&mut self, len: usize) -> Option<usize> {
        let bytes = capacity_for(len);
        let mut shared = self.pool.lock();
        let wanted = shared.reserved_bytes.checked_add(bytes).filter(|sum| *sum <= self.pool.budget_bytes)?;
        if !shared.memory.shrink_to(self.pool.budget_bytes - wanted) {
            return None;
        }
        shared.reserved_bytes = wanted;
        shared.used_bytes += bytes;
        self.bytes += bytes;
        Some(bytes)
    }

    /// Bytes that are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back `bytes` of what [`Reservation::grow`] returned.
    ///
    /// # Panics
    /// If that much is not held.
    pub fn shrink(&mut self, bytes: usize) {
        self.bytes = self.bytes.checked_sub(bytes).expect("no more is given back than was taken");
        if bytes > 0 {
            let mut shared = self.pool.lock();
            shared.reserved_bytes -= bytes;
            let waiters = shared.give_back(bytes);
            drop(shared);
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// A buffer that is being filled by its one owner.
#[derive(Debug)]
pub struct AlignedBuffer {
    lease: Lease,
    filled: usize,
}

impl AlignedBuffer {
    /// Bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lease.block().capacity()
    }

    /// Bytes that are filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// All memory of the buffer, filled or not: initialised, but with arbitrary content past
    /// [`AlignedBuffer::len`].
    #[must_use]
    pub fn whole(&mut self) -> &mut [u8] {
        let block = self.lease.block();
        // SAFETY: the block has `capacity` bytes, initialised since allocation, nobody else has it, and
        // `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(block.pointer().as_ptr(), block.capacity()) }
    }

    /// The part that is not filled yet.
    #[must_use]
    pub fn unfilled(&mut self) -> &mut [u8] {
        let filled = self.filled;
        &mut self.whole()[filled..]
    }

    /// Marks the next `len` bytes as filled.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn advance(&mut self, len: usize) {
        let filled = self.filled.checked_add(len).expect("lengths are far below usize::MAX");
        assert!(filled <= self.capacity(), "{filled} bytes marked in a buffer of {}", self.capacity());
        self.filled = filled;
    }

    /// Copies `data` behind what is filled.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn extend(&mut self, data: &[u8]) {
        self.unfilled()[..data.len()].copy_from_slice(data);
        self.advance(data.len());
    }

    /// The address of the first byte, for kernel interfaces. The memory neither moves nor goes away while this
    /// buffer, or a [`Bytes`] made from it, lives.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lease.block().pointer().as_ptr()
    }

    /// Ends the filling: the filled bytes, shareable, at an aligned address.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(Frozen { lease: self.lease, filled: self.filled })
    }
}

/// The owner behind a frozen buffer.
struct Frozen {
    lease: Lease,
    filled: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the first `filled` bytes lie within the block, are initialised, and are no longer written by
        // anybody: the one `AlignedBuffer` was consumed.
        unsafe { std::slice::from_raw_parts(self.lease.block().pointer().as_ptr(), self.filled) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_carry_what_was_filled() {
        let pool = BufferPool::new(64 << 20);
        for len in [1, 4095, 4096, 4097, 100_000, 1 << 20, (1 << 20) + 1, 32 << 20] {
            let mut buffer = pool.take(len).expect("within the budget");
            assert!(buffer.capacity() >= len);
            buffer.extend(&vec![7; len]);
            let bytes = buffer.freeze();
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes.as_ptr() as usize % ALIGNMENT, 0);
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn the_budget_holds_and_comes_back() {
        let pool = BufferPool::new(16 << 10);
        let first = pool.take(4096).expect("fits");
        let frozen = pool.take(8192);
        assert!(frozen.is_none(), "a 16 KiB class buffer on top of 4 KiB passes the budget");
        let rest: Vec<_> = (0..3).map(|_| pool.take(1).expect("fits")).collect();
        assert!(pool.take(1).is_none());
        let mut first = first;
        first.extend(b"ab");
        let shared = first.freeze();
        let slice = shared.slice(1..2);
        drop((shared, rest));
        assert_eq!(pool.used_bytes(), 4096, "a slice keeps the whole buffer");
        drop(slice);
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.take(16 << 10).is_some());
    }

    #[test]
    fn reservations_count_and_wake() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let pool = BufferPool::new(16 << 10);
        let mut reservation = pool.reservation();
        assert_eq!((reservation.grow(4096), reservation.grow(1)), (Some(4096), Some(4096)));
        assert_eq!(reservation.grow(16 << 10), None, "24 KiB pass the budget");
        let flag = Arc::new(Flag(false.into()));
        pool.wake_on_return(&Waker::from(flag.clone()));
        assert!(!flag.0.load(std::sync::atomic::Ordering::Relaxed));
        reservation.shrink(4096);
        assert!(flag.0.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(pool.used_bytes(), 4096);
        drop(reservation);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn a_length_near_the_end_of_usize_is_refused() {
        let pool = BufferPool::new(1 << 20);
        assert!(pool.take(usize::MAX - ALIGNMENT).is_none());
    }

    #[test]
    #[should_panic(expected = "marked in a buffer")]
    fn marking_more_than_fits_is_a_bug() {
        BufferPool::new(1 << 20).take(1).expect("fits").advance(4097);
    }
}
