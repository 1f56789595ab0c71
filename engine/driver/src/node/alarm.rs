//! The time at which a volume wants to be woken.
//!
//! A timer of the kernel's, not of the runtime: that one sorts its timers by wheels and wakes once more for each wheel
//! on which a timer lies, and an idle node that wakes twice for each tick costs twice as much. It also counts the time
//! for which the machine slept, as the core's clock does (P8).

#![expect(unsafe_code, reason = "the runtime wants a promise that the descriptor stays open")]

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use evenkeel_core::ids::Timestamp;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use super::clock;

const NANOS: u64 = 1_000_000_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Alarm {
    at: Cell<Option<Timestamp>>,
    changed: Notify,
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// If the kernel has no timer for it: too many files are open.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        // SAFETY: the descriptor is valid and stays open as long as the `AsyncFd` that owns it, and an `OwnedFd` always
        // names the same one.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { at: Cell::new(None), changed: Notify::new(), timer })
    }

    /// Sets it, in place of what was set before.
    pub(super) fn set(&self, at: Timestamp) {
        self.at.set(Some(at));
        self.changed.notify_one();
    }

    /// Waits for the time that is set last; then none is set.
    pub(super) async fn rings(&self) {
        loop {
            match self.at.get() {
                None => self.changed.notified().await,
                Some(at) if at <= clock::now() => {
                    self.at.set(None);
                    return;
                }
                Some(at) => {
                    self.arm(at);
                    tokio::select! {
                        () = self.changed.notified() => {}
                        ready = self.timer.readable() => {
                            // Setting it anew takes the readiness of the descriptor away, this that of the runtime.
                            ready.expect("the runtime lives").clear_ready();
                        }
                    }
                }
            }
        }
    }

    fn arm(&self, at: Timestamp) {
        let part = |value: u64| i64::try_from(value).expect("less than 2^63 seconds");
        let value = Timespec { tv_sec: part(at.0 / NANOS), tv_nsec: part(at.0 % NANOS) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let set = timerfd_settime(self.timer.get_ref().as_fd(), TimerfdTimerFlags::ABSTIME, &once);
        set.expect("a time that was seen on this clock, or comes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_rings_at_the_time_set_last_and_once() {
        let alarm = Alarm::new().expect("a timer");
        let begin = clock::now();
        alarm.set(begin.after(Duration::from_secs(3600)));
        alarm.set(begin.after(Duration::from_millis(30)));
        alarm.rings().await;
        let after = clock::now().since(begin);
        assert!(after >= Duration::from_millis(30) && after < Duration::from_secs(60), "{after:?}");
        let again = tokio::time::timeout(Duration::from_millis(100), alarm.rings()).await;
        assert!(again.is_err(), "none is set");
        alarm.set(begin);
        alarm.rings().await;
    }

    #[tokio::test]
    async fn a_time_that_changes_while_it_is_waited_for_counts() {
        let alarm = Alarm::new().expect("a timer");
        let begin = clock::now();
        alarm.set(begin.after(Duration::from_secs(3600)));
        let (waited, ()) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(60), alarm.rings()), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                alarm.set(clock::now().after(Duration::from_millis(20)));
            });
        waited.expect("it rings at the new time");
    }
}
