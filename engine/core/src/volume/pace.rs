//! How fast a resync may go (R5): the operator's limit, changed at any time, and as the application lets it (`courtesy`).
//!
//! Both sides keep their own, for what they ask for and for what they answer, so the lower one counts, and it does
//! not matter where the operator sets it. Bytes count when they are compared: that loads both disks, whether or not
//! they have to travel.

use std::{collections::VecDeque, time::Duration};

use super::{
    courtesy::Courtesy, io::LinkId, operation::Kind, range_lock::Access, span::ByteSpan, volume::Volume,
};
use crate::ids::{PeerIndex, Sequence, Timestamp};

/// Time that was not used may be used up to this much later: timers are late, and disks answer in bursts.
const SLACK: Duration = Duration::from_millis(50);

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// Bytes per second; never zero.
    limit: Option<u64>,
    /// When everything that was begun is paid for.
    paid_at: Timestamp,
    /// Something waits for that.
    waiting: bool,
    /// Questions of targets that wait to be answered, in order.
    held: VecDeque<HeldPull>,
    /// How much of it the application does not feel.
    pub(crate) courtesy: Courtesy,
}

/// A target's question that waits.
#[derive(Clone, Debug)]
pub(crate) struct HeldPull {
    pub(crate) peer: PeerIndex,
    pub(crate) link: LinkId,
    pub(crate) pull: u64,
    pub(crate) span: ByteSpan,
    pub(crate) digests: Vec<u128>,
}

impl Pace {
    /// From now on at most so many bytes per second; `None` for as fast as it goes.
    pub(crate) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit.map(|limit| limit.max(1));
        self.paid_at = Timestamp(0);
    }

    /// Takes the time for so many bytes, if it has come; else something waits for it.
    fn take(&mut self, now: Timestamp, bytes: u64) -> bool {
        let Some(limit) = self.limit else { return true };
        if self.paid_at > now {
            self.waiting = true;
            return false;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(limit);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        let slack = u64::try_from(SLACK.as_nanos()).expect("milliseconds");
        let since = self.paid_at.max(Timestamp(now.0.saturating_sub(slack)));
        self.paid_at = since.after(cost);
        true
    }

    /// When to wake the volume for what waits.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        self.waiting.then_some(self.paid_at)
    }
}

impl Volume {
    /// Whether a resync may go on by so many bytes now.
    pub(crate) fn may_resync(&mut self, bytes: u64) -> bool {
        let now = self.now;
        self.pace.take(now, bytes)
    }

    /// Whether the application leaves room for one more read. Who waits for that goes on when another one ends.
    fn may_answer_pull(&self) -> bool {
        let busy = self.requests.len() > 0 || !self.waiting.is_empty();
        self.pace.courtesy.may_read(self.now, busy)
    }

    /// Answers a target, now or when the time for it has come.
    pub(crate) fn pace_pull(&mut self, pull: HeldPull) {
        self.pace.held.push_back(pull);
        self.advance_paced();
    }

    /// Answers what waited, as far as the time has come. Questions of links that are gone are dropped.
    pub(crate) fn advance_paced(&mut self) {
        self.pace.waiting = false;
        while let Some(first) = self.pace.held.front() {
            let (peer, link, bytes) = (first.peer, first.link, first.span.len);
            if self.peer(peer).link == Some(link) && !(self.may_answer_pull() && self.may_resync(bytes)) {
                return;
            }
            let HeldPull { peer, link, pull, span, digests } = self.pace.held.pop_front().expect("a front");
            if self.peer(peer).link == Some(link) {
                let read_at: Sequence = self.log.issued();
                self.pace.courtesy.begins();
                self.enter(span, Access::Copy, Kind::SourceRead { peer, link, pull, read_at, digests });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_over_time_and_late_timers_lose_nothing() {
        let mut pace = Pace::default();
        let mut now = Timestamp(1_000_000_000);
        assert!(pace.take(now, u64::MAX) && pace.take(now, 1), "no limit");
        pace.set_limit(Some(1 << 20));
        let mut bytes = 0;
        for _ in 0..1000 {
            // A timer that comes every 10 ms, whatever was asked for.
            now = now.after(Duration::from_millis(10));
            while pace.take(now, 4096) {
                bytes += 4096;
            }
            assert!(pace.wake_at().is_some_and(|at| at > now));
        }
        let seconds = 10;
        assert!(
            (seconds << 20..(seconds << 20) + (128 << 10)).contains(&bytes),
            "{bytes} bytes in {seconds} s"
        );
        pace.set_limit(None);
        assert!(pace.take(now, u64::MAX));
    }
}
