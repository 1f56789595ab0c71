//! Who waits for the memory of a pool: first come, first served.
//!
//! Without an order a large request starves: what comes back to the pool goes to smaller ones again and again.
//! Whoever finds the pool exhausted joins the queue, and nobody but the first in it takes anything until that
//! one has got what it waits for, or has given up.
//!
//! Invariant: a number is in the queue exactly as long as its [`Place`] lives.

use std::{collections::VecDeque, task::Waker};

use super::BufferPool;

/// The numbers of those who wait, the first in front.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<u64>,
    next: u64,
}

/// A place in the queue for a pool's memory; given up on drop, which wakes the others.
#[derive(Debug)]
pub struct Place {
    pool: BufferPool,
    number: u64,
}

impl BufferPool {
    /// Joins the queue at its end.
    #[must_use]
    pub fn queue_up(&self) -> Place {
        let queue = &mut self.lock().queue;
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(number);
        Place { pool: self.clone(), number }
    }

    /// Whether the holder of `place`, or somebody without a place, may take memory now.
    #[must_use]
    pub fn is_turn_of(&self, place: Option<&Place>) -> bool {
        let first = self.lock().queue.waiting.front().copied();
        first.is_none_or(|first| place.is_some_and(|place| place.number == first))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.pool.lock();
        shared.queue.waiting.retain(|number| *number != self.number);
        let waiters = std::mem::take(&mut shared.waiters);
        drop(shared);
        waiters.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_the_order_of_arrival() {
        let pool = BufferPool::new(4096);
        assert!(pool.is_turn_of(None), "nobody waits");
        let first = pool.queue_up();
        let second = pool.queue_up();
        assert!(!pool.is_turn_of(None) && !pool.is_turn_of(Some(&second)) && pool.is_turn_of(Some(&first)));
        drop(first);
        assert!(!pool.is_turn_of(None) && pool.is_turn_of(Some(&second)));
        let third = pool.queue_up();
        drop(third);
        drop(second);
        assert!(pool.is_turn_of(None));
    }
}
