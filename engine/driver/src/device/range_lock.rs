//! Keeps overlapping requests apart: writes that overlap run one after the other, in the order of admission,
//! and a read waits for every earlier write that it overlaps.
//!
//! Reads hold nothing: a write that comes while a read runs may be seen by it or not, which is what NBD allows
//! for requests in flight together.
//!
//! The common case, no overlap, is a binary search in a short sorted list and an insertion: no allocation once
//! the list has grown to the usual queue depth. Exact, not hashed, so that a discard of gigabytes costs the same
//! as a block.
//!
//! Invariants: spans in `held` never overlap; `blockers` of a waiter counts the earlier writes, held or
//! waiting, that overlap it, and is never zero while it waits.
//!
//! ```text
//!   admit ──no earlier overlapping write──> granted ──release──> gone
//!     └──> waiting ──last of those released──^
//! ```

use std::task::{Context, Poll, Waker};

use crate::disk::Span;

/// What a request does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// The place of a request in the order of admission. A granted write must be given back to
/// [`RangeLock::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Whether a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted(Ticket),
    Waiting(Ticket),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    /// Running writes, sorted by where they start.
    held: Vec<(Span, Ticket)>,
    /// In order of admission.
    waiting: Vec<Waiter>,
    admitted: u64,
}

#[derive(Debug)]
struct Waiter {
    span: Span,
    ticket: Ticket,
    access: Access,
    blockers: usize,
    waker: Option<Waker>,
}

impl RangeLock {
    /// Takes a request's place in the order. A granted read needs no release.
    pub(super) fn admit(&mut self, span: Span, access: Access) -> Admission {
        let ticket = Ticket(self.admitted);
        self.admitted += 1;
        let first = self.first_ending_behind(span.start);
        let running = self.held[first..].iter().take_while(|(held, _)| held.start < span.end).count();
        let queued = self
            .waiting
            .iter()
            .filter(|waiter| waiter.access == Access::Write && waiter.span.overlaps(span))
            .count();
        if running + queued > 0 {
            self.waiting.push(Waiter { span, ticket, access, blockers: running + queued, waker: None });
            return Admission::Waiting(ticket);
        }
        if access == Access::Write {
            self.held.insert(first, (span, ticket));
        }
        Admission::Granted(ticket)
    }

    /// Ends a granted write, and grants what waited only for it.
    pub(super) fn release(&mut self, span: Span, ticket: Ticket) {
        let place = self.first_ending_behind(span.start);
        assert_eq!(self.held.get(place), Some(&(span, ticket)), "a range is released by who holds it");
        self.held.remove(place);
        if self.waiting.is_empty() {
            return;
        }
        let mut granted = Vec::new();
        self.waiting.retain_mut(|waiter| {
            if waiter.ticket < ticket || !waiter.span.overlaps(span) {
                return true;
            }
            waiter.blockers -= 1;
            if waiter.blockers > 0 {
                return true;
            }
            if let Some(waker) = waiter.waker.take() {
                waker.wake();
            }
            if waiter.access == Access::Write {
                granted.push((waiter.span, waiter.ticket));
            }
            false
        });
        for (span, ticket) in granted {
            let place = self.first_ending_behind(span.start);
            assert!(
                self.held.get(place).is_none_or(|(next, _)| !next.overlaps(span)),
                "a write was granted into a running one"
            );
            self.held.insert(place, (span, ticket));
        }
    }

    /// Ready once a waiting request has been granted.
    pub(super) fn poll_granted(&mut self, ticket: Ticket, cx: &Context<'_>) -> Poll<()> {
        match self.waiting.iter_mut().find(|waiter| waiter.ticket == ticket) {
            Some(waiter) => {
                waiter.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// The place of the first held span that ends behind `offset`. Held spans are disjoint, so their ends are
    /// sorted as their starts are.
    fn first_ending_behind(&self, offset: u64) -> usize {
        self.held.partition_point(|(held, _)| held.end <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn granted(lock: &mut RangeLock, ticket: Ticket) -> bool {
        lock.poll_granted(ticket, &Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn overlapping_writes_run_in_the_order_of_admission() {
        let mut lock = RangeLock::default();
        let (a, b, c) = (Span::new(0, 10), Span::new(5, 10), Span::new(12, 10));
        let Admission::Granted(first) = lock.admit(a, Access::Write) else { panic!("nothing is held") };
        let Admission::Waiting(second) = lock.admit(b, Access::Write) else { panic!("overlaps the first") };
        let Admission::Waiting(third) = lock.admit(c, Access::Write) else { panic!("overlaps the second") };
        let Admission::Waiting(read) = lock.admit(Span::new(21, 1), Access::Read) else {
            panic!("third waits")
        };
        assert!(matches!(lock.admit(Span::new(30, 1), Access::Read), Admission::Granted(_)));
        lock.release(a, first);
        assert!(granted(&mut lock, second) && !granted(&mut lock, third));
        lock.release(b, second);
        assert!(granted(&mut lock, third) && !granted(&mut lock, read));
        lock.release(c, third);
        assert!(granted(&mut lock, read));
        assert!(lock.held.is_empty() && lock.waiting.is_empty());
    }

    proptest! {
        /// Against a model that holds every request and compares all pairs.
        #[test]
        fn grants_are_those_of_the_definition(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 1_u64..12, any::<prop::sample::Index>()), 1..120)
        ) {
            let mut lock = RangeLock::default();
            // (ticket, span, access, running) of everything that is not over, in order of admission.
            let mut model: Vec<(Ticket, Span, Access, bool)> = Vec::new();
            for (write, offset, len, pick) in steps {
                let running: Vec<usize> = (0..model.len()).filter(|&at| model[at].3).collect();
                if !running.is_empty() && pick.index(2) == 0 {
                    let (ticket, span, ..) = model.remove(running[pick.index(running.len())]);
                    lock.release(span, ticket);
                } else {
                    let span = Span::new(offset, len);
                    let access = if write { Access::Write } else { Access::Read };
                    match lock.admit(span, access) {
                        Admission::Granted(ticket) | Admission::Waiting(ticket) => {
                            model.push((ticket, span, access, false));
                        }
                    }
                }
                let mut at = 0;
                while at < model.len() {
                    let (ticket, span, access, was_running) = model[at];
                    let free = !model[..at].iter().any(|(_, other, other_access, _)| {
                        *other_access == Access::Write && other.overlaps(span)
                    });
                    let is_granted = granted(&mut lock, ticket);
                    prop_assert_eq!(is_granted, free);
                    prop_assert!(is_granted || !was_running, "a grant is never taken back");
                    if is_granted && access == Access::Read {
                        model.remove(at);
                    } else {
                        model[at].3 = is_granted;
                        at += 1;
                    }
                }
            }
        }
    }
}
