//! One client's stay: whether it is still here, and its turn for work that only it can want.
//!
//! Maps and hints change nothing, may each take the disk long, and are cheap to ask for. So one client has at
//! most one of them at the disk: many maps of one client do not hold up the map of another, and those of a
//! client that has left are never begun (design rule W1), so that they do not hold up the end of the server.
//!
//! ```text
//!   here ──end──> gone   (whoever waits for a turn is told, and none is given any more)
//! ```

use tokio::sync::{Semaphore, SemaphorePermit};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Closed when the client is gone.
    turns: Semaphore,
}

impl Visit {
    /// A client that is here.
    pub(crate) fn begin() -> Self {
        Self { turns: Semaphore::new(1) }
    }

    /// The client is gone.
    pub(crate) fn end(&self) {
        self.turns.close();
    }

    /// Whether the client is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.turns.is_closed()
    }

    /// Waits until no other map or hint of this client is at the disk; nothing if the client has gone.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[test]
    fn one_turn_at_a_time_and_none_after_the_end() {
        let visit = Visit::begin();
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = pin!(visit.turn());
        let Poll::Ready(Some(turn)) = first.as_mut().poll(&mut cx) else { panic!("nobody has the turn") };
        let mut second = pin!(visit.turn());
        let mut third = pin!(visit.turn());
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        drop(turn);
        let Poll::Ready(Some(turn)) = second.as_mut().poll(&mut cx) else { panic!("the turn came back") };
        visit.end();
        assert!(visit.is_over());
        assert!(matches!(third.as_mut().poll(&mut cx), Poll::Ready(None)), "told at once");
        drop(turn);
        assert!(matches!(pin!(visit.turn()).as_mut().poll(&mut cx), Poll::Ready(None)));
    }
}
