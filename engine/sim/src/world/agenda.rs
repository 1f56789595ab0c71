//! What will happen when: a heap of small entries, ordered by time and then by the order in which they were put.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::net::LinkIndex;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A disk action ends.
    Disk { node: usize, epoch: u32, slot: usize },
    /// The next frame of a channel arrives at the other end than `from`.
    Deliver { link: LinkIndex, from: usize, channel: usize },
    /// An end learns that its connection is there.
    LinkUp { link: LinkIndex, end: usize },
    /// An end learns that its connection is gone.
    LinkDown { link: LinkIndex, end: usize },
    /// The time that an engine asked for.
    Wake { node: usize, epoch: u32, stamp: u64 },
    /// A client may ask for something.
    Client { connection: usize },
    /// The caretaker looks around.
    Tick,
    /// An entry of the schedule strikes.
    Fault { entry: usize },
    /// An entry of the schedule ends.
    FaultEnds { entry: usize },
    /// A node that stood still goes on.
    Resume { node: usize, epoch: u32 },
    /// A node's daemon is started.
    Boot { node: usize },
}

#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The agenda.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Agenda {
    /// Puts something on the agenda.
    pub(crate) fn put(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.heap.push(Entry { at, order: self.order, due });
    }

    /// Takes what comes next.
    pub(crate) fn take(&mut self) -> Option<(u64, Due)> {
        self.heap.pop().map(|entry| (entry.at, entry.due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_ties_in_order() {
        let mut agenda = Agenda::default();
        agenda.put(5, Due::Tick);
        agenda.put(3, Due::Boot { node: 0 });
        agenda.put(3, Due::Boot { node: 1 });
        assert_eq!(agenda.take(), Some((3, Due::Boot { node: 0 })));
        assert_eq!(agenda.take(), Some((3, Due::Boot { node: 1 })));
        assert_eq!(agenda.take(), Some((5, Due::Tick)));
        assert_eq!(agenda.take(), None);
    }
}
