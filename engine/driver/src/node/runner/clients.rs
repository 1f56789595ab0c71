//! Requests: those of NBD clients, whose answers go straight to them, and those of the node's own tasks.

use std::rc::Rc;

use evenkeel_core::volume::{
    io::{ClientId as CoreClient, ClientOperation, Event, RequestError, RequestId, RequestOutcome},
    span::ByteSpan,
};
use evenkeel_nbd::{
    buffer::AlignedBuffer,
    device::{Client, Completion, ExportState, Extent, Reply, RequestId as NbdRequest},
    errno::ErrorClass,
};
use tokio::sync::{oneshot, watch};

use super::{Inner, Runner};
use crate::disk::{DiskError, Span, Zeroing};

/// The client in whose name the node's own tasks ask; it never goes. (The core keeps the greatest for itself.)
const OWN: CoreClient = CoreClient(u64::MAX - 1);

/// The end of a request.
type End = Result<RequestOutcome, RequestError>;

impl Runner {
    pub(in crate::node) fn client_came(&self, client: &Rc<Client>) {
        self.clients.borrow_mut().insert(CoreClient(client.id().0), Rc::clone(client));
    }

    pub(in crate::node) fn client_went(&self, client: &Client) {
        let id = CoreClient(client.id().0);
        self.clients.borrow_mut().remove(&id);
        self.client_left.notify_waiters();
        self.turn([Event::ClientGone(id)]);
    }

    /// The clients that are connected, in words.
    pub(in crate::node) fn client_names(&self) -> Vec<String> {
        self.clients.borrow().values().map(|client| client.identity().to_string()).collect()
    }

    pub(in crate::node) fn export(&self) -> watch::Receiver<ExportState> {
        self.export.subscribe()
    }

    /// A buffer with room for `len` bytes.
    pub(in crate::node) fn buffer(&self, len: usize) -> AlignedBuffer {
        self.data.buffer(len)
    }

    /// Puts a request of a task into the core's order, and returns where its end will be told. Not to be called
    /// within a turn.
    pub(in crate::node) fn begin_request(&self, operation: ClientOperation) -> oneshot::Receiver<End> {
        let (sender, end) = oneshot::channel();
        let id = {
            let mut inner = self.inner.borrow_mut();
            let id = RequestId(inner.next_order);
            inner.next_order += 1;
            inner.own_requests.insert(id, sender);
            id
        };
        self.turn([Event::Request { client: OWN, id, operation }]);
        end
    }

    /// The same, and waits for the end.
    pub(in crate::node) async fn request(&self, operation: ClientOperation) -> End {
        self.begin_request(operation).await.unwrap_or(Err(RequestError::Shutdown))
    }

    /// Hands an answer to whom it is for.
    pub(super) fn answer_request(&self, inner: &mut Inner, client: CoreClient, id: RequestId, end: End) {
        if client == OWN {
            if let Some(waiting) = inner.own_requests.remove(&id) {
                // Who does not wait any more needs no answer; this holds for clients that have gone, too.
                drop(waiting.send(end));
            }
        } else if let Some(client) = self.clients.borrow().get(&client) {
            client.complete(Completion { id: NbdRequest(id.0), outcome: outcome_of(end) });
        }
    }

    /// Whether zeroes are made faster than by writing them.
    pub(in crate::node) fn zeroes_fast(&self, keep: bool) -> bool {
        if keep {
            self.data.zeroes_by_command(&[Zeroing::Keep])
        } else {
            self.data.zeroes_by_command(&[Zeroing::Punch, Zeroing::Keep])
        }
    }

    /// Follows a hint to read ahead.
    pub(in crate::node) async fn prefetch(&self, span: Span) -> Result<(), ErrorClass> {
        self.data.prefetch(span).await.map_err(class_of)
    }

    /// Which parts a replica lacks. All of them may, as far as a volume knows that is not open any more.
    pub(in crate::node) fn dirty_map(&self, span: ByteSpan) -> Vec<Extent> {
        let extents = self.inner.borrow().volume.dirty_map(span, Extent::MAX_PER_REPLY);
        if extents.is_empty() {
            return vec![Extent { len: span.len, flags: Extent::DIRTY }];
        }
        let describe = |dirty| if dirty { Extent::DIRTY } else { 0 };
        extents.iter().map(|extent| Extent { len: extent.len, flags: describe(extent.dirty) }).collect()
    }

    /// Which parts of the own disk hold data.
    pub(in crate::node) async fn map(&self, span: Span) -> Result<Vec<Extent>, ErrorClass> {
        let extents = self.data.map(span, Extent::MAX_PER_REPLY).await.map_err(class_of)?;
        let describe = |hole| if hole { Extent::HOLE | Extent::ZERO } else { 0 };
        Ok(extents.iter().map(|extent| Extent { len: extent.len, flags: describe(extent.hole) }).collect())
    }
}

fn class_of(error: DiskError) -> ErrorClass {
    match error {
        DiskError::Failed | DiskError::Truncated => ErrorClass::Io,
        DiskError::Os(errno) => ErrorClass::from_os(&errno.into()),
    }
}

/// The end of a request, as a client of NBD is told it.
pub(in crate::node) fn outcome_of(end: End) -> Result<Reply, ErrorClass> {
    match end {
        Ok(RequestOutcome::Done) => Ok(Reply::Done),
        Ok(RequestOutcome::Data(data)) => Ok(Reply::Data(data)),
        Err(RequestError::Invalid) => Err(ErrorClass::Invalid),
        Err(RequestError::Io) => Err(ErrorClass::Io),
        Err(RequestError::Shutdown) => Err(ErrorClass::Shutdown),
    }
}
