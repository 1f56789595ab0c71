//! Group commit: flushes that arrive while a sync runs share the next one.
//!
//! A flush covers what was replied before it arrived, so a sync that was already running then may have begun
//! too early for it; the next one has not. Any number of waiting flushes cost one sync.
//!
//! ```text
//!   idle ──join: start a sync──> running ──finish, nobody joined meanwhile──> idle
//!                                 │    ^
//!                                 └────┘ finish, somebody did: start the next
//! ```

/// See the module's head. `W` is whoever waits for a flush.
#[derive(Debug)]
pub(super) struct FlushGroup<W> {
    running: bool,
    /// Covered by the running sync.
    current: Vec<W>,
    /// Came after it began.
    next: Vec<W>,
}

impl<W> Default for FlushGroup<W> {
    fn default() -> Self {
        Self { running: false, current: Vec::new(), next: Vec::new() }
    }
}

impl<W> FlushGroup<W> {
    /// Adds a flush. True if the caller is to start a sync now.
    #[must_use]
    pub(super) fn join(&mut self, waiter: W) -> bool {
        if self.running {
            self.next.push(waiter);
            return false;
        }
        self.running = true;
        self.current.push(waiter);
        true
    }

    /// The running sync has ended: moves those it covered into `covered`. True if the caller is to start the
    /// next one.
    #[must_use]
    pub(super) fn finish(&mut self, covered: &mut Vec<W>) -> bool {
        assert!(self.running, "a sync ended that was not begun");
        covered.append(&mut self.current);
        std::mem::swap(&mut self.current, &mut self.next);
        self.running = !self.current.is_empty();
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_flushes_share_the_next_sync() {
        let mut group = FlushGroup::default();
        let mut covered = Vec::new();
        assert!(group.join(1));
        assert!(!group.join(2) && !group.join(3));
        assert!(group.finish(&mut covered), "two wait for the next");
        assert_eq!(covered, [1]);
        assert!(!group.join(4));
        covered.clear();
        assert!(group.finish(&mut covered));
        assert_eq!(covered, [2, 3]);
        covered.clear();
        assert!(!group.finish(&mut covered));
        assert_eq!(covered, [4]);
        assert!(group.join(5), "idle again");
    }
}
