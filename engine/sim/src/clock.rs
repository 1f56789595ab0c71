//! The clock of a node: starts anywhere at boot, runs a little too fast or too slow.

use evenkeel_core::ids::Timestamp;

const MILLION: i128 = 1_000_000;

/// Monotonic time on one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    booted: u64,
    start: u64,
    ppm: i64,
}

impl Clock {
    /// A machine that booted at global time `booted`, whose clock then showed `start`.
    pub(crate) fn new(booted: u64, start: u64, ppm: i64) -> Self {
        Self { booted, start, ppm }
    }

    fn scale(nanos: u64, up: i128, down: i128) -> u64 {
        u64::try_from(i128::from(nanos) * up / down).expect("rates are near one")
    }

    fn rate(&self) -> i128 {
        MILLION + i128::from(self.ppm)
    }

    /// Nanoseconds since the machine booted, by its own clock.
    pub(crate) fn uptime(&self, global: u64) -> u64 {
        Self::scale(global - self.booted, self.rate(), MILLION)
    }

    /// What the clock shows at a global time.
    pub(crate) fn local(&self, global: u64) -> Timestamp {
        Timestamp(self.start + self.uptime(global))
    }

    /// The first global time at which the clock shows `local` or more.
    pub(crate) fn global(&self, local: Timestamp) -> u64 {
        let since = local.0.saturating_sub(self.start);
        self.booted + Self::scale(since, MILLION, self.rate()) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_never_early() {
        for ppm in [-900, -1, 0, 1, 900] {
            let clock = Clock::new(1_000, 77, ppm);
            for local in [77, 78, 1_000_077, 9_999_999_999] {
                assert!(clock.local(clock.global(Timestamp(local))) >= Timestamp(local), "{ppm} {local}");
            }
        }
    }
}
