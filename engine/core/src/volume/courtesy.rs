//! A resync yields to the application (R5): the source reads for it as much at once as the application does not feel.
//!
//! The measure is the latency of the application's own reads and writes on this node. What is usual is learnt while no
//! read for a resync is under way, and may only fall while one is, but for a slow rise: an application may change its
//! ways. When an answer takes more than twice as long as usual, the window is halved, at most once in that time; with
//! each eighth answer in time it grows by one. One read at a time always goes on, so a resync ends under any load; and while
//! the application asks for nothing there is no window at all.

use std::time::Duration;

use crate::ids::Timestamp;

/// The widest window; as much as a target asks for at once.
const WIDEST: usize = 16;
/// So much more than twice the usual latency is still in time: timers and disks are not that exact.
const SLACK: u64 = 200_000;
/// An application that has nothing outstanding, and had no answer for so long, is idle.
const IDLE: Duration = Duration::from_millis(200);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Courtesy {
    /// The usual latency in nanoseconds; zero before the first answer.
    usual: u64,
    window: usize,
    /// Answers in time so far.
    in_time: u64,
    /// Reads for resyncs that are under way.
    reading: usize,
    answered_at: Timestamp,
    narrowed_at: Timestamp,
}

impl Default for Courtesy {
    fn default() -> Self {
        let never = Timestamp(0);
        Self { usual: 0, window: WIDEST, in_time: 0, reading: 0, answered_at: never, narrowed_at: never }
    }
}

impl Courtesy {
    /// The application has been answered.
    pub(crate) fn answered(&mut self, now: Timestamp, since: Timestamp) {
        let latency = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX / 4);
        self.answered_at = now;
        if self.usual == 0 {
            self.usual = latency.max(1);
        } else if self.reading == 0 {
            self.usual = (self.usual - self.usual / 8 + latency / 8).max(1);
        } else {
            self.usual = latency.clamp(1, self.usual + self.usual / 256);
        }
        if latency <= self.usual.saturating_mul(2).saturating_add(SLACK) {
            self.in_time += 1;
            if self.in_time.is_multiple_of(8) {
                self.window = (self.window + 1).min(WIDEST);
            }
        } else if self.reading > 0 && since >= self.narrowed_at {
            self.window = (self.window / 2).max(1);
            self.narrowed_at = now;
        }
    }

    /// Whether one more read for a resync may begin; `busy`: the application waits for something.
    pub(crate) fn may_read(&self, now: Timestamp, busy: bool) -> bool {
        let idle = !busy && now.since(self.answered_at) > IDLE;
        idle || self.reading < self.window
    }

    pub(crate) fn begins(&mut self) {
        self.reading += 1;
    }

    pub(crate) fn ends(&mut self) {
        self.reading = self.reading.checked_sub(1).expect("a read that ends has begun");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What one disk has to do, one after the other, for a second: each of `apps` asks again as soon as it is answered
    /// and has thought for a while; a resync keeps as many reads in the queue as it may. Returns the application's mean
    /// latency in microseconds, and the reads of the resync.
    fn second(apps: usize, think: u64, resync: bool) -> (u64, u64) {
        const OWN: u64 = 100_000;
        const COPY: u64 = 300_000;
        let mut courtesy = Courtesy::default();
        let mut disk: VecDeque<Option<Timestamp>> = VecDeque::new();
        let mut thinking: Vec<u64> = (0..apps as u64).map(|app| app * 10_000).collect();
        let (mut now, mut answers, mut sum, mut copies) = (1_000_000_000_u64, 0, 0, 0);
        let end = now + 2_000_000_000;
        let begin_resync = now + 1_000_000_000;
        thinking.iter_mut().for_each(|at| *at += now);
        while now < end {
            thinking.retain(|&at| {
                if at <= now {
                    disk.push_back(Some(Timestamp(at)));
                }
                at > now
            });
            let busy = disk.iter().any(Option::is_some);
            while resync && now >= begin_resync && disk.len() < 64 && courtesy.may_read(Timestamp(now), busy)
            {
                courtesy.begins();
                disk.push_back(None);
            }
            match disk.pop_front() {
                Some(Some(since)) => {
                    now += OWN;
                    courtesy.answered(Timestamp(now), since);
                    if now >= begin_resync {
                        answers += 1;
                        sum += now - since.0;
                    }
                    thinking.push(now + think);
                }
                Some(None) => {
                    now += COPY;
                    courtesy.ends();
                    copies += 1;
                }
                None => {
                    let next = thinking.iter().copied().min().unwrap_or(end);
                    now = if now < begin_resync { next.min(begin_resync) } else { next }.max(now + 1);
                }
            }
        }
        (sum / 1000 / answers.max(1), copies)
    }

    #[test]
    fn r5_a_resync_neither_starves_nor_is_felt_too_much() {
        for (apps, think) in [(1, 0), (1, 400_000), (4, 0), (4, 1_000_000), (16, 0)] {
            let (alone, none) = second(apps, think, false);
            let (beside, copies) = second(apps, think, true);
            assert_eq!(none, 0);
            assert!(copies >= 200, "{apps} {think}: {copies} reads in a second");
            assert!(beside <= 4 * alone + 400, "{apps} {think}: {alone} us became {beside} us");
        }
    }

    #[test]
    fn r5_beside_an_idle_application_there_is_no_window() {
        let (_, copies) = second(0, 0, true);
        assert!(copies > 3_300, "{copies} reads of 300 us in a second");
        let mut courtesy = Courtesy::default();
        let now = Timestamp(10_000_000_000);
        for _ in 0..1_000 {
            assert!(courtesy.may_read(now, false));
            courtesy.begins();
        }
        assert!(!courtesy.may_read(now, true), "unless it waits for something");
    }
}
