//! What one connection may hold of the memory for payload.
//!
//! Each connection has a share of [`Limits::share_bytes`] that nobody else can use up, and all together have the
//! shared pool of [`Limits::pool_bytes`]. A request takes from the share what fits there, else from the pool. So
//! whatever others do, a request of at most a quarter of the share waits only for earlier ones of its own
//! connection. Larger ones stand in one queue for the shared pool, first come, first served; those that fit into
//! the share get it at the latest when nothing else of their connection is in flight.
//!
//! The share is a count, not memory: an idle connection holds nothing. Payload that is counted against a share
//! lies in a pool for all shares. It is larger than the shares by a quarter, because a slab is held whole by one
//! block of it. While that pool is exhausted nevertheless (by a device that keeps payload for long), requests go
//! to the shared pool, and small ones wait for the device if there is no room either.
//!
//! Invariant: `share_used` is at most the share, and the sum of all [`Held::share`] that were not given back.

use std::task::Waker;

use crate::{
    buffer::{AlignedBuffer, BufferPool, Place, Reservation, capacity_for},
    limits::Limits,
};

/// A request is small, and never waits for others, up to this part of the share.
const SMALL_PART: usize = 4;

/// Why the session takes no more requests for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The connection has as much in flight as it may. Its own requests that are answered make room.
    InFlight,
    /// The memory behind the shares is exhausted, though the connection's own share is free: the device keeps
    /// more than was expected. What it gives back makes room.
    Shares,
    /// The shared pool is exhausted, or others were first. Anybody's memory that comes back makes room.
    Pool,
}

/// The memory for payload of all connections. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct PayloadMemory {
    shared: BufferPool,
    shares: BufferPool,
}

impl PayloadMemory {
    /// Memory within these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            shared: BufferPool::new(limits.pool_bytes),
            shares: BufferPool::new(Limits::with_slabs(limits.shares_bytes())),
        }
    }

    /// Bytes that are handed out or reserved now; what reads hold of shares is not among them.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.shared.used_bytes() + self.shares.used_bytes()
    }

    /// Wakes `waker` once, when something comes back that a request waits for which is blocked in this way; see
    /// [`BufferPool::wake_on_return`].
    pub fn wake_on_return(&self, blocked: Blocked, waker: &Waker) {
        match blocked {
            Blocked::InFlight => {}
            Blocked::Shares => self.shares.wake_on_return(waker),
            Blocked::Pool => self.shared.wake_on_return(waker),
        }
    }
}

/// What one request holds, until it is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Bytes of the connection's share.
    pub(super) share: usize,
    /// Bytes reserved in the shared pool.
    pub(super) reserved: usize,
}

/// The allowance of one connection.
#[derive(Debug)]
pub(super) struct Allowance {
    memory: PayloadMemory,
    share_bytes: usize,
    share_used: usize,
    /// What reads hold of the shared pool: their data is allocated by the device, outside of it.
    reserved: Reservation,
    /// While a request waits for the shared pool.
    place: Option<Place>,
}

impl Allowance {
    pub(super) fn new(memory: PayloadMemory, limits: &Limits) -> Self {
        Self {
            share_bytes: limits.share_bytes,
            share_used: 0,
            reserved: memory.shared.reservation(),
            place: None,
            memory,
        }
    }

    /// A buffer for the payload of a WRITE, and what it holds of the share: nothing if it is of the shared pool.
    pub(super) fn take(&mut self, len: usize) -> Result<(AlignedBuffer, Held), Blocked> {
        let bytes = capacity_for(len);
        if self.has_room(bytes)
            && let Some(buffer) = self.memory.shares.take(len)
        {
            self.share_used += bytes;
            return Ok((buffer, Held { share: bytes, reserved: 0 }));
        }
        if self.memory.shared.is_turn_of(self.place.as_ref())
            && let Some(buffer) = self.memory.shared.take(len)
        {
            self.leave_queue();
            return Ok((buffer, Held::default()));
        }
        Err(self.wait(bytes))
    }

    /// Room for data that the device allocates.
    pub(super) fn reserve(&mut self, len: usize) -> Result<Held, Blocked> {
        let bytes = capacity_for(len);
        if self.has_room(bytes) {
            self.share_used += bytes;
            return Ok(Held { share: bytes, reserved: 0 });
        }
        if self.memory.shared.is_turn_of(self.place.as_ref())
            && let Some(reserved) = self.reserved.grow(len)
        {
            self.leave_queue();
            return Ok(Held { share: 0, reserved });
        }
        Err(self.wait(bytes))
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.share_bytes - self.share_used
    }

    /// What a request of so many bytes waits for: a small one never for the shared pool.
    fn wait(&mut self, bytes: usize) -> Blocked {
        if bytes <= self.share_bytes / SMALL_PART {
            return if self.share_used > 0 { Blocked::InFlight } else { Blocked::Shares };
        }
        self.place.get_or_insert_with(|| self.memory.shared.queue_up());
        Blocked::Pool
    }

    /// No request waits any more.
    pub(super) fn leave_queue(&mut self) {
        self.place = None;
    }

    /// Takes back what requests held.
    ///
    /// # Panics
    /// If it was not held.
    pub(super) fn give_back(&mut self, held: Held) {
        self.share_used =
            self.share_used.checked_sub(held.share).expect("no more is given back than was taken");
        self.reserved.shrink(held.reserved);
    }

    /// Whether reads hold memory of the shared pool.
    pub(super) fn has_reserved(&self) -> bool {
        self.reserved.bytes() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn limits() -> Limits {
        Limits { connections: 4, share_bytes: 64 * KIB, pool_bytes: 1 << 20, ..Limits::default() }
    }

    #[test]
    fn small_requests_wait_only_for_their_own() {
        let memory = PayloadMemory::new(&limits());
        let mut hog = Allowance::new(memory.clone(), &limits());
        let all = hog.reserve(1 << 20).expect("the shared pool is free");
        assert_eq!(all, Held { share: 0, reserved: 1 << 20 });
        assert_eq!(hog.reserve(65 * KIB), Err(Blocked::Pool));
        let mut good = Allowance::new(memory.clone(), &limits());
        let (write, of_write) = good.take(16 * KIB).expect("its share");
        let reads: Vec<Held> = (0..3).map(|_| good.reserve(16 * KIB).expect("its share")).collect();
        assert!(reads.iter().all(|held| *held == Held { share: 16 * KIB, reserved: 0 }));
        assert_eq!(good.reserve(1), Err(Blocked::InFlight), "for its own, and nobody else");
        drop(write);
        good.give_back(of_write);
        assert!(good.reserve(16 * KIB).is_ok());
        assert_eq!(good.take(17 * KIB).map(drop), Err(Blocked::Pool), "64 KiB of memory is not small");
        (0..4).for_each(|_| good.give_back(reads[0]));
        assert!(good.take(17 * KIB).is_ok(), "but its share is free now");
    }

    #[test]
    fn a_device_that_keeps_payload_stops_small_requests_only_while_nothing_else_is_free() {
        let memory = PayloadMemory::new(&limits());
        let mut good = Allowance::new(memory.clone(), &limits());
        let kept: Vec<_> = std::iter::from_fn(|| memory.shares.take(64 * KIB)).collect();
        let (buffer, held) = good.take(4 * KIB).expect("the shared pool is free");
        assert_eq!(held, Held::default());
        drop(buffer);
        let all = memory.shared.take(1 << 20).expect("it is free");
        assert_eq!(good.take(4 * KIB).map(drop), Err(Blocked::Shares));
        drop(kept);
        assert!(good.take(4 * KIB).is_ok());
        drop(all);
    }

    #[test]
    fn idle_connections_hold_nothing() {
        let memory = PayloadMemory::new(&limits());
        let mut one = Allowance::new(memory.clone(), &limits());
        let (buffer, held) = one.take(1000).expect("its share");
        assert_eq!((held.share, memory.used_bytes()), (4 * KIB, 4 * KIB));
        drop(buffer);
        one.give_back(held);
        assert_eq!((one.share_used, memory.used_bytes()), (0, 0));
        let large = one.reserve(1 << 20).expect("the shared pool is free");
        assert!(one.has_reserved() && memory.used_bytes() == 1 << 20);
        one.give_back(large);
        assert!(!one.has_reserved() && memory.used_bytes() == 0);
    }

    #[test]
    fn a_large_request_is_not_overtaken() {
        let memory = PayloadMemory::new(&limits());
        let [mut hog, mut large, mut other] = [(); 3].map(|()| Allowance::new(memory.clone(), &limits()));
        let pieces = [(); 4].map(|()| hog.reserve(256 * KIB).expect("the shared pool is free"));
        assert_eq!(large.take(1 << 20).map(drop), Err(Blocked::Pool));
        hog.give_back(pieces[0]);
        assert_eq!(other.reserve(256 * KIB), Err(Blocked::Pool), "it is not its turn");
        assert_eq!(hog.reserve(256 * KIB), Err(Blocked::Pool));
        assert!(other.reserve(16 * KIB).is_ok(), "a share has no queue");
        pieces[1..].iter().for_each(|piece| hog.give_back(*piece));
        let (buffer, held) = large.take(1 << 20).expect("all of it is free");
        assert_eq!(held, Held::default());
        drop(buffer);
        assert_eq!(hog.reserve(256 * KIB), Err(Blocked::Pool), "the other came first");
        drop(other);
        assert!(hog.reserve(256 * KIB).is_ok(), "one that leaves makes way");
    }
}
