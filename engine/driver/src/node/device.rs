//! A volume as an NBD block device: requests of any byte alignment to requests of whole sectors.
//!
//! Whole sectors go to the core as they are, a burst in one turn. The rest:
//! - a read of parts of sectors reads the sectors around it;
//! - a write of parts of sectors first reads the sectors at its edges, through the core, then writes whole ones.
//!   Between the two nothing else may change those sectors, or its bytes would be lost: so from the read until the
//!   write is in the core's order, whatever else changes the volume waits behind it, first come first served;
//! - a zeroing of parts of sectors is two such writes and a zeroing of what lies between;
//! - maps and hints go past the core to the own disk, one at a time for each client.
//!
//! ```text
//!   free ──part of a sector is to be changed──> busy ──its write is in the core's order──┐
//!     ^                                          ^  └─────another one waits──────────────┤
//!     └────────nothing waits any more────────────┼───────────────────────────────────────┘
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bytes::Bytes;
use evenkeel_core::volume::{
    DiskState, SECTOR_BYTES,
    io::{
        ClientId as CoreClient, ClientOperation, Event, RequestError, RequestId as CoreRequest,
        RequestOutcome, ZeroMode,
    },
    span::ByteSpan,
};
use evenkeel_nbd::{
    device::{
        BlockDevice, ByteRange, Client, ClientId, Command, Completion, ExportState, Extent, Features,
        MapContext, Reply, Request, RequestId,
    },
    errno::ErrorClass,
};
use tokio::sync::watch;

use super::{
    abort,
    runner::{Runner, outcome_of},
};
use crate::{
    device::visit::Visit,
    disk::{Span, byte_disk::to_len},
};

/// See the module's head.
pub(super) struct VolumeDevice {
    own: std::rc::Weak<Self>,
    runner: Rc<Runner>,
    visits: RefCell<BTreeMap<ClientId, Rc<Visit>>>,
    /// A write of a part of a sector is between its read and its place in the core's order.
    busy: Cell<bool>,
    /// What waits behind it.
    behind: RefCell<VecDeque<(Rc<Client>, Request)>>,
}

fn span_of(range: ByteRange) -> ByteSpan {
    ByteSpan { offset: range.offset, len: range.len }
}

/// The whole sectors around a span.
fn sectors(span: ByteSpan) -> ByteSpan {
    let outer = Span::new(span.offset, span.len).outward(SECTOR_BYTES);
    ByteSpan { offset: outer.start, len: outer.len() }
}

fn is_whole(span: ByteSpan) -> bool {
    sectors(span) == span
}

impl VolumeDevice {
    pub(super) fn new(runner: Rc<Runner>) -> Rc<Self> {
        Rc::new_cyclic(|own| Self {
            own: own.clone(),
            runner,
            visits: RefCell::default(),
            busy: Cell::new(false),
            behind: RefCell::default(),
        })
    }

    fn own(&self) -> Rc<Self> {
        self.own.upgrade().expect("it is being used")
    }

    /// The request as an event of the volume, if it can go there at once.
    fn admit(&self, client: &Rc<Client>, request: Request) -> Option<Event> {
        let Request { id, command } = request;
        let operation = match command {
            Command::Read { range } if is_whole(span_of(range)) => ClientOperation::Read(span_of(range)),
            Command::Read { range } => {
                self.read_parts(client, id, span_of(range));
                return None;
            }
            Command::Flush => ClientOperation::Flush,
            Command::Cache { range } => {
                self.look_ahead(client, id, range);
                return None;
            }
            Command::Map { range, context } => {
                self.map(client, id, range, context);
                return None;
            }
            change @ (Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }) => {
                if self.busy.get() {
                    self.behind.borrow_mut().push_back((Rc::clone(client), Request { id, command: change }));
                    return None;
                }
                return self.admit_change(client, id, change);
            }
        };
        Some(event(client, id, operation))
    }

    /// A change as an event of the volume; one of parts of sectors makes the device busy instead.
    fn admit_change(&self, client: &Rc<Client>, id: RequestId, command: Command) -> Option<Event> {
        if let Command::WriteZeroes { fast: true, no_hole, .. } = command
            && !self.runner.zeroes_fast(no_hole)
        {
            client.complete(Completion { id, outcome: Err(ErrorClass::NotSupported) });
            return None;
        }
        let (span, operation) = match command {
            Command::Write { offset, payload, fua } => {
                let span = ByteSpan { offset, len: payload.len() as u64 };
                (span, ClientOperation::Write { offset, payload, fua })
            }
            Command::Trim { range, fua } => {
                let span = span_of(range);
                (span, ClientOperation::Zero { span, mode: ZeroMode::Punch, fua })
            }
            Command::WriteZeroes { range, fua, no_hole, .. } => {
                let span = span_of(range);
                let mode = if no_hole { ZeroMode::Allocate } else { ZeroMode::Punch };
                (span, ClientOperation::Zero { span, mode, fua })
            }
            Command::Read { .. } | Command::Flush | Command::Cache { .. } | Command::Map { .. } => {
                panic!("only changes come here")
            }
        };
        if is_whole(span) {
            return Some(event(client, id, operation));
        }
        self.busy.set(true);
        let (device, client) = (self.own(), Rc::clone(client));
        abort::spawn(async move {
            device.change_parts(&client, id, operation).await;
            device.go_on();
        });
        None
    }

    /// What waited behind a change of parts of sectors, until the next such one.
    fn go_on(&self) {
        self.busy.set(false);
        let next = std::iter::from_fn(|| {
            while !self.busy.get() {
                let (client, Request { id, command }) = self.behind.borrow_mut().pop_front()?;
                if self.visits.borrow().contains_key(&client.id())
                    && let Some(event) = self.admit_change(&client, id, command)
                {
                    return Some(event);
                }
            }
            None
        });
        self.runner.turn(next);
    }

    fn read_parts(&self, client: &Rc<Client>, id: RequestId, span: ByteSpan) {
        let (runner, client) = (Rc::clone(&self.runner), Rc::clone(client));
        // Not within the caller's turn: the device answers only after it.
        abort::spawn(async move {
            let outer = sectors(span);
            let read = runner.request(ClientOperation::Read(outer)).await;
            let skip = to_len(span.offset - outer.offset);
            let outcome = outcome_of(read).map(|reply| match reply {
                Reply::Data(data) => Reply::Data(data.slice(skip..skip + to_len(span.len))),
                Reply::Done | Reply::Extents(_) => panic!("a read brings data"),
            });
            client.complete(Completion { id, outcome });
        });
    }

    /// Brings a change of parts of sectors into the core's order; it is answered when all of it is done.
    async fn change_parts(&self, client: &Rc<Client>, id: RequestId, operation: ClientOperation) {
        match self.parts_of(operation).await {
            // It was admitted by nobody yet: dropped with its client (design W1).
            _ if !self.visits.borrow().contains_key(&client.id()) => {}
            Ok(parts) => {
                let ends: Vec<_> = parts.into_iter().map(|part| self.runner.begin_request(part)).collect();
                let client = Rc::clone(client);
                abort::spawn(async move {
                    let mut outcome = Ok(Reply::Done);
                    for end in ends {
                        outcome = outcome.and(outcome_of(end.await.unwrap_or(Err(RequestError::Shutdown))));
                    }
                    client.complete(Completion { id, outcome });
                });
            }
            Err(error) => client.complete(Completion { id, outcome: outcome_of(Err(error)) }),
        }
    }

    /// The same change in whole sectors.
    async fn parts_of(&self, operation: ClientOperation) -> Result<Vec<ClientOperation>, RequestError> {
        match operation {
            ClientOperation::Write { offset, payload, fua } => {
                let (offset, payload) = self.complete_sectors(offset, &payload).await?;
                Ok(vec![ClientOperation::Write { offset, payload, fua }])
            }
            ClientOperation::Zero { span, mode, fua } => {
                let inner = Span::new(span.offset, span.len).inward(SECTOR_BYTES);
                let edges = if inner.is_empty() {
                    vec![span]
                } else {
                    let head = ByteSpan { offset: span.offset, len: inner.start - span.offset };
                    let tail = ByteSpan { offset: inner.end, len: span.end() - inner.end };
                    vec![head, tail]
                };
                let mut parts = Vec::new();
                for edge in edges.into_iter().filter(|edge| edge.len > 0) {
                    let zeroes = vec![0; to_len(edge.len)];
                    let (offset, payload) = self.complete_sectors(edge.offset, &zeroes).await?;
                    parts.push(ClientOperation::Write { offset, payload, fua });
                }
                if !inner.is_empty() {
                    let span = ByteSpan { offset: inner.start, len: inner.len() };
                    parts.push(ClientOperation::Zero { span, mode, fua });
                }
                Ok(parts)
            }
            ClientOperation::Read(_) | ClientOperation::Flush => panic!("only changes have parts"),
        }
    }

    /// `data`, surrounded by what the volume holds in the rest of its first and last sector.
    async fn complete_sectors(&self, offset: u64, data: &[u8]) -> Result<(u64, Bytes), RequestError> {
        let span = ByteSpan { offset, len: data.len() as u64 };
        let outer = sectors(span);
        let mut whole = self.runner.buffer(to_len(outer.len));
        whole.advance(to_len(outer.len));
        let sector = to_len(SECTOR_BYTES);
        let (head, last) = (to_len(offset - outer.offset), to_len(outer.len) - sector);
        if head > 0 {
            whole.whole()[..sector].copy_from_slice(&self.read_sector(outer.offset).await?);
        }
        if head + data.len() < to_len(outer.len) && (head == 0 || last > 0) {
            let at = outer.end() - SECTOR_BYTES;
            whole.whole()[last..last + sector].copy_from_slice(&self.read_sector(at).await?);
        }
        whole.whole()[head..head + data.len()].copy_from_slice(data);
        Ok((outer.offset, whole.freeze()))
    }

    async fn read_sector(&self, offset: u64) -> Result<Bytes, RequestError> {
        match self.runner.request(ClientOperation::Read(ByteSpan { offset, len: SECTOR_BYTES })).await? {
            RequestOutcome::Data(data) => Ok(data),
            RequestOutcome::Done => panic!("a read brings data"),
        }
    }

    /// Begins something that goes past the core, when it is the client's turn.
    fn aside(
        &self,
        client: &Rc<Client>,
        id: RequestId,
        task: impl AsyncFnOnce(&Runner) -> Result<Reply, ErrorClass> + 'static,
    ) {
        let visit =
            self.visits.borrow().get(&client.id()).cloned().expect("only clients that are here submit");
        let (runner, client) = (Rc::clone(&self.runner), Rc::clone(client));
        abort::spawn(async move {
            if let Some(_turn) = visit.turn().await {
                let outcome = task(&runner).await;
                client.complete(Completion { id, outcome });
            }
        });
    }

    fn look_ahead(&self, client: &Rc<Client>, id: RequestId, range: ByteRange) {
        self.aside(client, id, async move |runner| {
            runner.prefetch(Span::new(range.offset, range.len)).await.map(|()| Reply::Done)
        });
    }

    fn map(&self, client: &Rc<Client>, id: RequestId, range: ByteRange, context: MapContext) {
        self.aside(client, id, async move |runner| match context {
            MapContext::Allocation => {
                if runner.core_status().disk != DiskState::UpToDate {
                    // Served by a peer: nothing is known here about its holes.
                    return Ok(Reply::Extents(vec![Extent { len: range.len, flags: 0 }]));
                }
                runner.map(Span::new(range.offset, range.len)).await.map(Reply::Extents)
            }
            MapContext::Dirty => Ok(Reply::Extents(runner.dirty_map(span_of(range)))),
        });
    }
}

fn event(client: &Client, id: RequestId, operation: ClientOperation) -> Event {
    Event::Request { client: CoreClient(client.id().0), id: CoreRequest(id.0), operation }
}

impl BlockDevice for VolumeDevice {
    fn features(&self) -> Features {
        (*self.runner.features()).clone()
    }

    fn state(&self) -> watch::Receiver<ExportState> {
        self.runner.export()
    }

    fn connected(&self, client: &Rc<Client>) {
        self.visits.borrow_mut().insert(client.id(), Rc::new(Visit::begin()));
        self.runner.client_came(client);
    }

    fn submit(&self, client: &Rc<Client>, batch: &mut Vec<Request>) {
        self.runner.turn(batch.drain(..).filter_map(|request| self.admit(client, request)));
    }

    fn disconnected(&self, client: &Rc<Client>) {
        if let Some(visit) = self.visits.borrow_mut().remove(&client.id()) {
            visit.end();
        }
        self.runner.client_went(client);
    }
}
