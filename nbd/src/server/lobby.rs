//! The place for connections whose handshake is not over.
//!
//! It is bounded, and it never refuses: when it is full, one that is there gives way to a new one. The oldest
//! silent one, if it has had [`TIME_TO_SPEAK`] or if more than half of the lobby is silent; else the oldest
//! of all. So half-open connections push out each other, however fast they come, and not those that talk; and a
//! newcomer among many that talk is not pushed out by the very next one before it could say a word.
//!
//! A connection that already has a place among the established ones, and only waits for its export, is
//! *seated*: it neither counts here nor gives way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

/// A connection that is silent for less long is not worse than one that talks.
const TIME_TO_SPEAK: Duration = Duration::from_secs(1);
/// More than one in so many that are silent are a crowd.
const CROWD_SHARE: usize = 2;

/// How a connection stands with the lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Has said nothing sensible yet.
    Silent,
    /// Is negotiating.
    Speaking,
    /// Has a place among the established connections.
    Seated,
}

/// The order in which connections came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket(u64);

#[derive(Debug)]
struct Guest {
    /// Ends the connection; set as soon as its task exists.
    abort: Option<AbortHandle>,
    rank: Rank,
    since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    guests: BTreeMap<Ticket, Guest>,
    next: u64,
}

impl Inner {
    /// Who gives way, in the rule of the module's head.
    fn victim(&self, now: Instant) -> Option<Ticket> {
        let oldest = |gives_way: fn(&Guest, Instant) -> bool| {
            let mut guests = self.guests.iter();
            guests
                .find(|(_, guest)| guest.abort.is_some() && gives_way(guest, now))
                .map(|(ticket, _)| *ticket)
        };
        let silent = self.guests.values().filter(|guest| guest.rank == Rank::Silent).count();
        let crowd = silent * CROWD_SHARE > self.guests.len();
        let silent_gives_way = if crowd {
            oldest(|guest, _| guest.rank == Rank::Silent)
        } else {
            oldest(|guest, now| {
                guest.rank == Rank::Silent && now.duration_since(guest.since) >= TIME_TO_SPEAK
            })
        };
        silent_gives_way.or_else(|| oldest(|guest, _| guest.rank != Rank::Seated))
    }
}

/// All connections in the handshake.
#[derive(Clone, Debug)]
pub(super) struct Lobby {
    inner: Arc<Mutex<Inner>>,
    capacity: usize,
}

impl Lobby {
    pub(super) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a lobby without room admits nobody");
        Self { inner: Arc::default(), capacity }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in; `start` starts the task of its handshake.
    pub(super) fn enter(&self, start: impl FnOnce(Stay) -> AbortHandle) {
        if self.len() >= self.capacity {
            self.drop_one();
        }
        let ticket = {
            let mut inner = self.lock();
            inner.next += 1;
            let ticket = Ticket(inner.next);
            inner.guests.insert(ticket, Guest { abort: None, rank: Rank::Silent, since: Instant::now() });
            ticket
        };
        // Without the lock: the task may run and end before this returns.
        let abort = start(Stay { lobby: self.clone(), ticket });
        if let Some(guest) = self.lock().guests.get_mut(&ticket) {
            guest.abort = Some(abort);
        }
    }

    /// Makes one connection give way.
    pub(super) fn drop_one(&self) {
        let victim = {
            let mut inner = self.lock();
            let victim = inner.victim(Instant::now());
            victim.and_then(|ticket| inner.guests.remove(&ticket))
        };
        if let Some(abort) = victim.and_then(|guest| guest.abort) {
            abort.abort();
        }
    }

    /// How many are here and not seated.
    pub(super) fn len(&self) -> usize {
        self.lock().guests.values().filter(|guest| guest.rank != Rank::Seated).count()
    }
}

/// A connection's stay in the lobby; ends on drop.
#[derive(Debug)]
pub(super) struct Stay {
    lobby: Lobby,
    ticket: Ticket,
}

impl Stay {
    pub(super) fn set_rank(&self, rank: Rank) {
        if let Some(guest) = self.lobby.lock().guests.get_mut(&self.ticket) {
            guest.rank = rank;
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.lobby.lock().guests.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lobby of three with these guests: rank, and how long they have been here.
    fn lobby(guests: &[(Rank, Duration)], now: Instant) -> Lobby {
        let lobby = Lobby::new(3);
        for (ticket, (rank, age)) in (1..).zip(guests) {
            let abort = Some(tokio::spawn(std::future::pending::<()>()).abort_handle());
            let guest = Guest { abort, rank: *rank, since: now.checked_sub(*age).expect("the clock ran") };
            let mut inner = lobby.lock();
            inner.guests.insert(Ticket(ticket), guest);
            inner.next = ticket;
        }
        lobby
    }

    #[tokio::test]
    async fn the_oldest_gives_way_but_silence_counts_only_after_a_while() {
        let now = Instant::now() + Duration::from_secs(60);
        let [young, old] = [Duration::from_millis(900), Duration::from_millis(1100)];
        for (guests, victim) in [
            (&[(Rank::Speaking, old), (Rank::Silent, old), (Rank::Silent, old)][..], Some(2)),
            (&[(Rank::Speaking, old), (Rank::Speaking, old), (Rank::Silent, young)], Some(1)),
            (&[(Rank::Silent, young), (Rank::Silent, young), (Rank::Silent, young)], Some(1)),
            (&[(Rank::Seated, old), (Rank::Speaking, young), (Rank::Silent, young)], Some(2)),
            (&[(Rank::Seated, old)], None),
        ] {
            assert_eq!(lobby(guests, now).lock().victim(now), victim.map(Ticket), "{guests:?}");
        }
    }

    #[tokio::test]
    async fn a_newcomer_among_talkers_outlives_the_next_arrival_but_not_a_crowd() {
        let now = Instant::now();
        let lobby = lobby(&[(Rank::Speaking, Duration::ZERO); 3], now);
        let arrive = || {
            let (told, stay) = tokio::sync::oneshot::channel();
            lobby.enter(|stay| {
                tokio::spawn(async move {
                    // The stay lasts as long as the task.
                    let _told = (told, stay);
                    std::future::pending::<()>().await;
                })
                .abort_handle()
            });
            stay
        };
        let mut newcomer: tokio::sync::oneshot::Receiver<()> = arrive();
        let next = arrive();
        tokio::task::yield_now().await;
        assert_eq!(lobby.len(), 3);
        assert!(newcomer.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty), "still here");
        let crowd = arrive();
        newcomer
            .await
            .expect_err("two of three are silent: the oldest of them gives way, not the one that talks");
        drop((next, crowd));
    }
}
