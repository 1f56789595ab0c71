//! How far a resync is, how fast it goes and when it will have ended (R5).
//!
//! Invariants:
//! - `done_bytes` counts what is settled: stable on the target. It only grows, and the total is never less;
//! - the rate is that of the last few seconds, so that a pause or a limit shows soon.

use std::time::Duration;

use super::status::{LastResync, ResyncProgress};
use crate::{
    generation::verdict::Verdict,
    ids::{PeerIndex, Timestamp},
};

/// The rate is measured over between one and two of these.
const WINDOW: Duration = Duration::from_secs(5);

/// The course of one resync, seen from either side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    why: Verdict,
    total_bytes: u64,
    done_bytes: u64,
    compared_bytes: u64,
    moved_bytes: u64,
    /// When, and at what `done_bytes`, the window before the present one began.
    before: (Timestamp, u64),
    /// The same of the present one.
    window: (Timestamp, u64),
}

impl Progress {
    pub(crate) fn new(why: Verdict, total_bytes: u64, now: Timestamp) -> Self {
        let start = (now, 0);
        Self {
            why,
            total_bytes,
            done_bytes: 0,
            compared_bytes: 0,
            moved_bytes: 0,
            before: start,
            window: start,
        }
    }

    /// The bits of both sides are known now.
    pub(crate) fn set_total(&mut self, total_bytes: u64) {
        self.total_bytes = total_bytes.max(self.done_bytes);
    }

    /// A span was compared, and so many bytes of it had to be sent.
    pub(crate) fn compared(&mut self, bytes: u64, moved: u64) {
        self.compared_bytes += bytes;
        self.moved_bytes += moved;
    }

    /// So many bytes more are stable on the target.
    pub(crate) fn settled(&mut self, bytes: u64, now: Timestamp) {
        self.done_bytes += bytes;
        self.total_bytes = self.total_bytes.max(self.done_bytes);
        if now.since(self.window.0) >= WINDOW {
            self.before = self.window;
            self.window = (now, self.done_bytes);
        }
    }

    pub(crate) fn at(&self, now: Timestamp) -> ResyncProgress {
        let (since, done) = if now.since(self.window.0) >= WINDOW { self.window } else { self.before };
        let nanos = now.since(since).as_nanos().max(1);
        let bytes = u128::from(self.done_bytes - done) * 1_000_000_000 / nanos;
        let rate = u64::try_from(bytes).unwrap_or(u64::MAX);
        let left = self.total_bytes - self.done_bytes;
        ResyncProgress {
            why: self.why,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
            moved_bytes: self.moved_bytes,
            rate,
            eta_seconds: (rate > 0).then(|| left.div_ceil(rate)),
        }
    }

    pub(crate) fn finish(&self, peer: PeerIndex, now: Timestamp) -> LastResync {
        LastResync {
            peer,
            why: self.why,
            compared_bytes: self.compared_bytes,
            moved_bytes: self.moved_bytes,
            finished: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut progress = Progress::new(Verdict::NoSync, 1000, at(100));
        assert_eq!(progress.at(at(100)).eta_seconds, None, "nothing is known yet");
        for second in 1..=10 {
            progress.settled(10, at(100 + second));
        }
        assert_eq!(progress.at(at(110)).rate, 10);
        assert_eq!(progress.at(at(110)).eta_seconds, Some(90));
        for second in 11..=20 {
            progress.settled(50, at(100 + second));
        }
        assert_eq!(progress.at(at(120)).rate, 50, "the slow start is forgotten");
        assert_eq!(progress.at(at(160)).rate, 0, "it stands still");
        assert_eq!(progress.at(at(160)).eta_seconds, None);
    }

    #[test]
    fn more_than_was_known_at_the_start_moves_the_total() {
        let mut progress = Progress::new(Verdict::NoSync, 0, at(1));
        progress.settled(10, at(2));
        progress.compared(10, 4);
        let seen = progress.at(at(2));
        assert_eq!((seen.done_bytes, seen.total_bytes, seen.moved_bytes), (10, 10, 4));
    }
}
