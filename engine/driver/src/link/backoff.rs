//! Pauses between attempts: none before the first, then longer and longer, each a little different, so that two
//! nodes, or many links, do not keep step.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// After a refusal: nothing changes before somebody mends it.
const REFUSED: Duration = Duration::from_secs(1);
/// What lasted this long was no failed attempt.
const LASTED: Duration = Duration::from_secs(5);

/// The pauses of one thing that is tried again and again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The next attempt is made at once.
    pub(super) fn reset(&mut self) {
        self.next = Duration::ZERO;
    }

    /// The next pause is that after a refusal, or a longer one.
    pub(super) fn refused(&mut self) {
        self.next = self.next.max(REFUSED);
    }

    /// What was reached has ended after this time: if it lasted, the next attempt is made at once.
    pub(super) fn ended_after(&mut self, lasted: Duration) {
        if lasted >= LASTED {
            self.reset();
        }
    }

    /// Waits before an attempt.
    pub(super) async fn wait(&mut self) {
        let pause = self.pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// The pause before the attempt that is made now.
    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST, LONGEST);
        scattered(pause)
    }
}

/// Half to one and a half of it.
fn scattered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness nodes may keep step, which only costs time.
    let _ = SystemRandom::new().fill(&mut random);
    pause / 2 + pause * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.pause()).collect();
        assert_eq!(pauses[0], Duration::ZERO);
        assert!(pauses[1] >= FIRST / 2 && pauses[1] <= FIRST * 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST * 3 / 2), "{pauses:?}");
        assert!(pauses[11] >= LONGEST / 2, "{pauses:?}");
        backoff.ended_after(LASTED / 2);
        assert!(!backoff.next.is_zero());
        backoff.ended_after(LASTED);
        assert!(backoff.next.is_zero());
        backoff.refused();
        assert_eq!(backoff.next, REFUSED);
    }
}
