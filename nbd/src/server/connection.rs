//! One established connection: moves bytes and requests between socket, session and device.
//!
//! One wake-up is one burst: completions are taken once, replies written with one call, the socket read once,
//! everything that came is parsed and submitted as one batch. A device that completes at once is answered in
//! the same poll. Nothing waits for a batch to fill.
//!
//! ```text
//! serving --device refuses, revoked--> draining --all written or time up--> lingering --> closed
//!    |                                                                                      ^
//!    +--DISC, end of stream--> ending --all written or time up------------------------------+
//! ```

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Sleep, sleep, timeout},
};

use super::{
    door::Handover,
    hall::{Hall, Presence, Snapshot},
    socket::Socket,
};
use crate::{
    device::{BlockDevice, Completion, ExportState, Request},
    session::{Blocked, Transmission, Violation},
};

/// Slices of one write: enough for 32 reads, below the kernel's limit of 1,024.
const MAX_SLICES: usize = 128;
/// Rounds of one poll before others on the thread get their turn.
const MAX_TURNS: usize = 8;
/// How long a client whose connection was ended by the server may take to close its side.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// How a connection ended; for the log.
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye, or closed the socket, and has its replies.
    Left,
    /// The export or the server ended it, and the client has its replies.
    Drained(Arc<str>),
    /// Not everything could be answered in time after the end.
    TimeUp,
    /// The client broke the protocol.
    Violated(Violation),
    /// The client kept others waiting.
    Stalled,
    /// The socket failed.
    Lost(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("the client left"),
            Self::Drained(reason) => f.write_str(reason),
            Self::TimeUp => f.write_str("requests could not be answered in time after the end"),
            Self::Violated(violation) => violation.fmt(f),
            Self::Stalled => f.write_str("the client stalled while others waited for its memory"),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

/// Waits for the next change of an export's state; gives the receiver back, unless the sender is gone.
type StateChange = Pin<Box<dyn Future<Output = Option<watch::Receiver<ExportState>>>>>;

/// A wait for the pool, after which clients that stall are closed.
struct PoolWait {
    timer: Pin<Box<Sleep>>,
    before: Snapshot,
}

/// The state of one connection.
pub(super) struct Connection<'a> {
    hall: &'a Hall,
    presence: &'a Presence,
    device: &'a Rc<dyn BlockDevice>,
    socket: Socket,
    session: Transmission,
    state: StateChange,
    /// Why the server ended the connection, once it has.
    drained: Option<Arc<str>>,
    /// Runs from the end of taking requests.
    deadline: Option<Pin<Box<Sleep>>>,
    pool_wait: Option<PoolWait>,
    batch: Vec<Request>,
    completions: Vec<Completion>,
    _place: OwnedSemaphorePermit,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        hall: &'a Hall,
        presence: &'a Presence,
        handover: Handover,
        device: &'a Rc<dyn BlockDevice>,
    ) -> io::Result<Self> {
        let socket = Socket::new(handover.socket)?;
        let (limits, memory) = (hall.limits.clone(), hall.memory.clone());
        let mut state = device.state();
        // The state may have changed since the handshake: it is looked at first of all.
        state.mark_changed();
        Ok(Self {
            hall,
            presence,
            device,
            socket,
            session: Transmission::new(handover.negotiated, limits, memory, &handover.input),
            state: next_state(state),
            drained: None,
            deadline: None,
            pool_wait: None,
            batch: Vec::new(),
            completions: Vec::new(),
            _place: handover.place,
        })
    }

    /// Serves until the end.
    pub(super) async fn run(mut self) -> End {
        let end = std::future::poll_fn(|context| self.poll(context)).await;
        if let End::Drained(_) = end {
            // Whether the client closes in time makes no difference.
            let _ = timeout(FAREWELL, self.socket.linger()).await;
        }
        end
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..MAX_TURNS {
            match self.turn(context) {
                Err(end) => return Poll::Ready(end),
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round; false if nothing moved, and everything that can move next wakes this task.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if self.presence.cut.get() {
            return Err(End::Stalled);
        }
        let mut moved = self.take_inbox(context)?;
        self.watch_state(context)?;
        moved |= self.write(context)?;
        if self.session.is_finished() {
            return Err(self.drained.take().map_or(End::Left, End::Drained));
        }
        moved |= self.read(context)?;
        moved |= self.submit(context)?;
        self.presence.payload.update(self.session.payload_debt());
        self.presence.replies.update(self.session.reply_debt());
        self.watch_time(context)?;
        Ok(moved)
    }

    fn take_inbox(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let client = &self.presence.client;
        if !client.poll_inbox(context.waker()) {
            return Ok(false);
        }
        client.take_completions(&mut self.completions);
        for completion in self.completions.drain(..) {
            self.session.complete(completion);
        }
        if let Some(reason) = client.revoked() {
            self.drain(reason)?;
        }
        Ok(true)
    }

    fn watch_state(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        while let Poll::Ready(changed) = self.state.as_mut().poll(context) {
            let Some(mut state) = changed else {
                self.state = Box::pin(std::future::pending());
                break;
            };
            let refused = match &*state.borrow_and_update() {
                ExportState::Serving { size } => {
                    self.session.set_size(*size);
                    None
                }
                ExportState::Held => None,
                ExportState::Refused(text) => Some(Arc::clone(text)),
            };
            self.state = next_state(state);
            if let Some(text) = refused {
                self.drain(text)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self, reason: Arc<str>) -> Result<(), End> {
        if self.session.is_open() {
            self.drained = Some(reason);
        }
        self.session.drain().map_err(End::Violated)
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        while self.session.has_output() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.session.output(&mut slices);
            match self.socket.poll_write(context, &slices[..count]) {
                Poll::Ready(Ok(len)) => {
                    self.session.written(len);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(End::Lost(error)),
                Poll::Pending => break,
            }
        }
        Ok(moved)
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let Some(mut space) = self.session.space() else { return Ok(false) };
        match self.socket.poll_read(context, &mut space) {
            Poll::Ready(Ok(0)) => self.session.end_of_input(),
            Poll::Ready(Ok(len)) => self.session.advance(len),
            Poll::Ready(Err(error)) => return Err(End::Lost(error)),
            Poll::Pending => return Ok(false),
        }
        Ok(true)
    }

    fn submit(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let blocked = self.session.blocked();
        if let Some(blocked) = blocked {
            // Before the attempt, so that nothing that comes back after it is missed.
            self.hall.memory.wake_on_return(blocked, context.waker());
        }
        let had_output = self.session.has_output();
        self.session.parse(&mut self.batch).map_err(End::Violated)?;
        let moved = !self.batch.is_empty()
            || self.session.has_output() != had_output
            || self.session.blocked() != blocked;
        if !self.batch.is_empty() {
            self.device.submit(&self.presence.client, &mut self.batch);
            assert!(self.batch.is_empty(), "a device takes the whole batch");
        }
        Ok(moved)
    }

    fn watch_time(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        if !self.session.is_open() {
            let drain_time = self.hall.limits.drain_time;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(drain_time)));
            if deadline.as_mut().poll(context).is_ready() {
                return Err(End::TimeUp);
            }
        }
        if self.session.blocked() != Some(Blocked::Pool) {
            self.pool_wait = None;
            return Ok(());
        }
        let hall = self.hall;
        let new_wait =
            || PoolWait { timer: Box::pin(sleep(hall.limits.stall_time)), before: hall.snapshot() };
        let mut wait = self.pool_wait.take().unwrap_or_else(new_wait);
        while wait.timer.as_mut().poll(context).is_ready() {
            hall.cut_stalled(&wait.before);
            wait = new_wait();
        }
        self.pool_wait = Some(wait);
        Ok(())
    }
}

fn next_state(mut state: watch::Receiver<ExportState>) -> StateChange {
    Box::pin(async move { state.changed().await.ok().map(|()| state) })
}
