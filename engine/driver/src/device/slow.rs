//! Requests that need more than one operation of the disk, or have to wait: each is one task.
//!
//! - Reads and writes that are not whole blocks, TRIM and WRITE_ZEROES ([`byte_disk`](crate::disk::byte_disk)).
//! - Requests that wait for a range that an earlier write holds, or for memory.
//! - Maps and hints, of which each client has one at a time at the disk.
//!
//! A task that holds memory for read-modify-write waits for nothing but the disk, so tasks cannot wait for each
//! other in a circle.

use std::{future::poll_fn, rc::Rc, time::Duration};

use bytes::Bytes;
use evenkeel_nbd::{
    buffer::{AlignedBuffer, BufferPool},
    device::{Client, Command, Extent, Reply, RequestId},
    errno::ErrorClass,
};

use super::{FlushWaiter, Shared, range_lock::Admission, span_of, visit::Visit};
use crate::disk::{
    DiskError, DiskOp, Span, Zeroing,
    byte_disk::{Wait, Zeroed, data_of, to_len},
};

/// Memory that ran out is asked for again after this time. Rare, so a queue is not worth its code.
const MEMORY_RETRY: Duration = Duration::from_millis(1);

/// Starts the task for a request that has, if it needs one, its place in the order of requests.
pub(super) fn spawn(
    shared: &Rc<Shared>,
    client: &Rc<Client>,
    id: RequestId,
    command: Command,
    place: Option<(Span, Admission)>,
) {
    let visit = shared.visits.borrow().get(&client.id()).cloned().expect("only clients that are here submit");
    let (shared, client) = (Rc::clone(shared), Rc::clone(client));
    tokio::task::spawn_local(async move { shared.carry_out(&client, &visit, id, command, place).await });
}

impl Shared {
    async fn carry_out(
        &self,
        client: &Client,
        visit: &Visit,
        id: RequestId,
        command: Command,
        place: Option<(Span, Admission)>,
    ) {
        let writes = match &command {
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. } => true,
            Command::Read { .. } | Command::Flush | Command::Cache { .. } | Command::Map { .. } => false,
        };
        let takes_turns = match &command {
            Command::Cache { .. } | Command::Map { .. } => true,
            Command::Read { .. }
            | Command::Write { .. }
            | Command::Flush
            | Command::Trim { .. }
            | Command::WriteZeroes { .. } => false,
        };
        let waits = takes_turns || matches!(place, Some((_, Admission::Waiting(_))));
        let held = match place {
            None => None,
            Some((span, Admission::Granted(ticket))) => Some((span, ticket)),
            Some((span, Admission::Waiting(ticket))) => {
                poll_fn(|cx| self.locks.borrow_mut().poll_granted(ticket, cx)).await;
                Some((span, ticket))
            }
        };
        // Held until the end.
        let _turn = if takes_turns { visit.turn().await } else { None };
        let dropped = waits && visit.is_over();
        let sync_behind = match &command {
            Command::Trim { fua, .. } | Command::WriteZeroes { fua, .. } => *fua,
            Command::Read { .. }
            | Command::Write { .. }
            | Command::Flush
            | Command::Cache { .. }
            | Command::Map { .. } => false,
        };
        let mut outcome =
            if dropped { Err(ErrorClass::Shutdown) } else { self.perform(command, visit).await };
        if let Some((span, ticket)) = held
            && writes
        {
            self.locks.borrow_mut().release(span, ticket);
        }
        if sync_behind && outcome.is_ok() {
            let synced = self.sync().await;
            outcome = self.classify(synced).map(|()| Reply::Done);
        }
        if dropped {
            self.forget_request();
        } else {
            self.complete(client, id, outcome);
        }
    }

    async fn perform(&self, command: Command, visit: &Visit) -> Result<Reply, ErrorClass> {
        match command {
            Command::Read { range } => self.read(span_of(range), visit).await.map(Reply::Data),
            Command::Write { offset, payload, fua } => {
                self.write(offset, payload, fua).await.map(|()| Reply::Done)
            }
            Command::Trim { range, .. } => {
                let ways = &[Zeroing::Punch, Zeroing::Keep];
                self.zero(span_of(range), ways, false, visit).await.map(|()| Reply::Done)
            }
            Command::WriteZeroes { range, no_hole, fast, .. } => {
                let ways: &[_] = if no_hole { &[Zeroing::Keep] } else { &[Zeroing::Punch, Zeroing::Keep] };
                self.zero(span_of(range), ways, fast, visit).await.map(|()| Reply::Done)
            }
            Command::Cache { range } => self.prefetch(span_of(range)).await.map(|()| Reply::Done),
            Command::Map { range, .. } => self.map(span_of(range)).await.map(Reply::Extents),
            Command::Flush => unreachable!("flushes go to their group"),
        }
    }

    /// Makes everything completed so far stable, together with the flushes of clients.
    pub(super) async fn sync(&self) -> Result<(), DiskError> {
        let wait = Rc::new(Wait::default());
        self.join_flush(FlushWaiter::Task(Rc::clone(&wait)));
        self.disk.submit();
        wait.ended().await.map(drop)
    }

    /// Where the span is not whole blocks its bytes are copied out, so that a reply keeps no more memory than the
    /// server has counted for it.
    async fn read(&self, span: Span, visit: &Visit) -> Result<Bytes, ErrorClass> {
        let len = to_len(span.len());
        let mut buffer = take(&self.replies, len, visit).await?;
        if span.is_aligned(self.disk.shape().block_bytes) {
            let result = self.disk.operate(DiskOp::Read { offset: span.start, buffer, len }).await;
            return self.classify(result).map(data_of);
        }
        let data = self.classify(self.disk.read(span).await)?;
        buffer.extend(&data);
        Ok(buffer.freeze())
    }

    async fn write(&self, offset: u64, data: Bytes, durable: bool) -> Result<(), ErrorClass> {
        self.classify(self.disk.write(offset, data, durable).await)
    }

    /// What was never replied to may be done in part: it is given up if the client leaves.
    async fn zero(&self, span: Span, ways: &[Zeroing], fast: bool, visit: &Visit) -> Result<(), ErrorClass> {
        let zeroed = self.disk.zero(span, ways, fast, || !visit.is_over()).await;
        match self.classify(zeroed)? {
            Zeroed::Done => Ok(()),
            Zeroed::TooSlow => Err(ErrorClass::NotSupported),
            Zeroed::GivenUp => Err(ErrorClass::Shutdown),
        }
    }

    async fn prefetch(&self, span: Span) -> Result<(), ErrorClass> {
        self.classify(self.disk.prefetch(span).await)
    }

    async fn map(&self, span: Span) -> Result<Vec<Extent>, ErrorClass> {
        let extents = self.classify(self.disk.map(span, Extent::MAX_PER_REPLY).await)?;
        let describe = |hole| if hole { Extent::HOLE | Extent::ZERO } else { 0 };
        Ok(extents.iter().map(|extent| Extent { len: extent.len, flags: describe(extent.hole) }).collect())
    }
}

/// Takes a buffer, waiting until one comes back if the pool is used up, or until the `visit` for which it is
/// wanted is over.
async fn take(pool: &BufferPool, len: usize, visit: &Visit) -> Result<AlignedBuffer, ErrorClass> {
    loop {
        if let Some(buffer) = pool.take(len) {
            return Ok(buffer);
        }
        if pool.used_bytes() == 0 {
            return Err(ErrorClass::NoMemory);
        }
        if visit.is_over() {
            return Err(ErrorClass::Shutdown);
        }
        tokio::time::sleep(MEMORY_RETRY).await;
    }
}
