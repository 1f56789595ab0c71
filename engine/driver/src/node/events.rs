//! The numbered event stream of a node (`evenkeel events`): a bounded ring that any thread may read.
//!
//! Numbers begin at 1 with the process and never repeat within it. A reader that asks for what came after a number
//! gets what is left of it, and learns how many are lost; one whose number lies in the future has met another run
//! of the daemon, and gets everything.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

/// So many events are kept.
const CAPACITY: usize = 4096;

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Its number.
    pub number: u64,
    /// When it happened.
    pub at: SystemTime,
    /// The volume that it is about, if it is about one.
    pub volume: Option<String>,
    /// The peer that it is about, if it is about one.
    pub peer: Option<String>,
    /// What kind of thing happened, a fixed word for scripts.
    pub kind: &'static str,
    /// What happened, for people.
    pub text: String,
}

/// Some events, and what is missing before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// So many events between the number asked for and the first one are lost.
    pub lost: u64,
    /// In order.
    pub events: Vec<NodeEvent>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<NodeEvent>,
    last: u64,
}

/// See the module's head. Cloning is cheap and shares the ring.
#[derive(Clone, Debug)]
pub struct Events {
    ring: Arc<Mutex<Ring>>,
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Arc::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing that can panic happens under the lock: the ring is whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event and returns its number.
    pub fn push(&self, volume: Option<&str>, peer: Option<&str>, kind: &'static str, text: String) -> u64 {
        let mut ring = self.lock();
        let number = ring.last + 1;
        if ring.events.len() == CAPACITY {
            ring.events.pop_front();
        }
        ring.events.push_back(NodeEvent {
            number,
            at: SystemTime::now(),
            volume: volume.map(str::to_owned),
            peer: peer.map(str::to_owned),
            kind,
            text,
        });
        ring.last = number;
        drop(ring);
        self.last.send_replace(number);
        number
    }

    /// The number of the newest event; 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// What came after the event with this number.
    #[must_use]
    pub fn since(&self, number: u64) -> EventBatch {
        let ring = self.lock();
        let number = if number > ring.last { 0 } else { number };
        let first = ring.events.front().map_or(ring.last + 1, |event| event.number);
        let lost = first.saturating_sub(number + 1);
        let events = ring.events.iter().filter(|event| event.number > number).cloned().collect();
        EventBatch { lost, events }
    }

    /// Changes whenever there is a new event, to its number.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_resumes_and_learns_what_is_lost() {
        let events = Events::default();
        assert_eq!(events.since(0), EventBatch::default());
        let mut watch = events.watch();
        for number in 1..=3 {
            assert_eq!(events.push(Some("r0"), None, "role", format!("event {number}")), number);
        }
        assert!(watch.has_changed().is_ok_and(|changed| changed) && *watch.borrow_and_update() == 3);
        let numbers = |batch: &EventBatch| batch.events.iter().map(|event| event.number).collect::<Vec<_>>();
        let batch = events.since(1);
        assert_eq!((batch.lost, numbers(&batch)), (0, vec![2, 3]));
        assert_eq!(numbers(&events.since(99)), [1, 2, 3], "the number is of another run");
        for _ in 0..CAPACITY {
            events.push(None, None, "role", String::new());
        }
        let batch = events.since(1);
        assert_eq!((batch.lost, batch.events.len()), (2, CAPACITY));
        assert_eq!(batch.events[0].number, 4);
    }
}
