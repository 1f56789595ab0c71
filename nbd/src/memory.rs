//! A block device in memory: for tests, fuzzing and benchmarks of everything above a disk.
//!
//! It completes each request within `submit`, or, with [`MemoryDevice::deferred`], when told to.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    device::{
        BlockDevice, ByteRange, Client, ClientId, Command, Completion, ExportState, Extent, Features,
        MapContext, Reply, Request,
    },
    errno::ErrorClass,
};

/// Extents are told in blocks of this many bytes.
const BLOCK_BYTES: usize = 4096;

/// A block device in memory.
#[derive(Debug)]
pub struct MemoryDevice {
    content: RefCell<Vec<u8>>,
    features: Features,
    state: watch::Sender<ExportState>,
    deferring: Cell<bool>,
    deferred: RefCell<Vec<(Rc<Client>, Request)>>,
    clients: RefCell<Vec<ClientId>>,
    failure: Cell<Option<ErrorClass>>,
    flushes: Cell<usize>,
}

impl MemoryDevice {
    /// A device of `size` zeroes.
    #[must_use]
    pub fn new(size: usize, features: Features) -> Rc<Self> {
        let state = ExportState::Serving { size: size as u64 };
        Rc::new(Self {
            content: RefCell::new(vec![0; size]),
            features,
            state: watch::Sender::new(state),
            deferring: Cell::new(false),
            deferred: RefCell::default(),
            clients: RefCell::default(),
            failure: Cell::new(None),
            flushes: Cell::new(0),
        })
    }

    /// Features of a device that can everything.
    #[must_use]
    pub fn full_features() -> Features {
        Features {
            description: "memory".to_owned(),
            read_only: false,
            rotational: false,
            fast_zero: true,
            contexts: MapContext::ALL.to_vec(),
        }
    }

    /// Sets the state that clients see.
    pub fn set_state(&self, state: ExportState) {
        self.state.send_replace(state);
    }

    /// From now on requests are kept until [`MemoryDevice::complete_deferred`].
    pub fn defer(&self) {
        self.deferring.set(true);
    }

    /// Requests that are kept.
    #[must_use]
    pub fn deferred(&self) -> usize {
        self.deferred.borrow().len()
    }

    /// Completes what is kept, the newest first, and keeps nothing more.
    pub fn complete_deferred(&self) {
        self.deferring.set(false);
        let mut deferred = std::mem::take(&mut *self.deferred.borrow_mut());
        while let Some((client, request)) = deferred.pop() {
            self.complete(&client, request);
        }
    }

    /// From now on requests fail with this error, or work again.
    pub fn fail_with(&self, failure: Option<ErrorClass>) {
        self.failure.set(failure);
    }

    /// Clients that are connected.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientId> {
        self.clients.borrow().clone()
    }

    /// Flushes that were done.
    #[must_use]
    pub fn flushes(&self) -> usize {
        self.flushes.get()
    }

    /// The content as it is now.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.content.borrow().clone()
    }

    /// Does one request; also for users that drive a session without a server.
    ///
    /// # Errors
    /// If [`MemoryDevice::fail_with`] was told so.
    pub fn perform(&self, command: Command) -> Result<Reply, ErrorClass> {
        if let Some(failure) = self.failure.get() {
            return Err(failure);
        }
        let mut content = self.content.borrow_mut();
        match command {
            Command::Read { range } => Ok(Reply::Data(Bytes::copy_from_slice(slice(&mut content, range)))),
            Command::Write { offset, payload, fua: _ } => {
                let range = ByteRange { offset, len: payload.len() as u64 };
                slice(&mut content, range).copy_from_slice(&payload);
                Ok(Reply::Done)
            }
            Command::Trim { range, fua: _ } | Command::WriteZeroes { range, .. } => {
                slice(&mut content, range).fill(0);
                Ok(Reply::Done)
            }
            Command::Flush => {
                self.flushes.set(self.flushes.get() + 1);
                Ok(Reply::Done)
            }
            Command::Cache { range: _ } => Ok(Reply::Done),
            Command::Map { range, context } => Ok(Reply::Extents(extents(&mut content, range, context))),
        }
    }

    fn complete(&self, client: &Rc<Client>, request: Request) {
        client.complete(Completion { id: request.id, outcome: self.perform(request.command) });
    }
}

fn slice(content: &mut [u8], range: ByteRange) -> &mut [u8] {
    let at = |place: u64| usize::try_from(place).expect("inside a vector");
    &mut content[at(range.offset)..at(range.end())]
}

/// One extent for each piece of a block, not merged.
fn extents(content: &mut [u8], range: ByteRange, context: MapContext) -> Vec<Extent> {
    let pieces = slice(content, range).chunks(BLOCK_BYTES).take(Extent::MAX_PER_REPLY);
    let flags = |piece: &[u8]| match context {
        MapContext::Allocation if piece.iter().all(|byte| *byte == 0) => Extent::HOLE | Extent::ZERO,
        MapContext::Allocation | MapContext::Dirty => 0,
    };
    pieces.map(|piece| Extent { len: piece.len() as u64, flags: flags(piece) }).collect()
}

impl BlockDevice for MemoryDevice {
    fn features(&self) -> Features {
        self.features.clone()
    }

    fn state(&self) -> watch::Receiver<ExportState> {
        self.state.subscribe()
    }

    fn connected(&self, client: &Rc<Client>) {
        self.clients.borrow_mut().push(client.id());
    }

    fn submit(&self, client: &Rc<Client>, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            if self.deferring.get() {
                self.deferred.borrow_mut().push((Rc::clone(client), request));
            } else {
                self.complete(client, request);
            }
        }
    }

    fn disconnected(&self, client: &Rc<Client>) {
        self.clients.borrow_mut().retain(|id| *id != client.id());
        self.deferred.borrow_mut().retain(|(owner, _)| owner.id() != client.id());
    }
}
