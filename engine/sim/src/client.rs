//! The clients: connections that ask, wait, lose their connection, and ask again.
//!
//! As the kernel's nbd client does with reconnect: what was not answered is sent again on the next connection, in
//! the same order, to whichever node is primary then. The n-th request of a connection is a pure function of the
//! seed, so leaving requests out at the end changes none before.

use std::collections::VecDeque;

use bytes::Bytes;
use evenkeel_core::volume::{
    io::{ClientId, ClientOperation, RequestId, ZeroMode},
    span::ByteSpan,
};

use crate::{
    decision::{Stream, mix},
    payload::{SECTOR, WriteId},
    plan::{Load, Plan},
};

/// What a request is.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Read(ByteSpan),
    Write { span: ByteSpan, fua: bool },
    Zero { span: ByteSpan, mode: ZeroMode, fua: bool },
    Flush,
}

impl Wish {
    /// Where on the device it ends.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Read(span) | Self::Write { span, .. } | Self::Zero { span, .. } => span.end(),
            Self::Flush => 0,
        }
    }
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) wish: Wish,
    /// For writes and zeroings.
    pub(crate) write: Option<WriteId>,
    pub(crate) payload: Option<Bytes>,
    /// The oracle's stamp of the last time it was sent (reads and flushes).
    pub(crate) asked: u64,
    /// When it was last sent, in virtual time; `None` when it has yet to be sent on this connection.
    pub(crate) sent: Option<u64>,
}

impl Request {
    /// What goes to the engine.
    pub(crate) fn operation(&self) -> ClientOperation {
        match &self.wish {
            Wish::Read(span) => ClientOperation::Read(*span),
            Wish::Write { span, fua } => ClientOperation::Write {
                offset: span.offset,
                payload: self.payload.clone().expect("a write has data"),
                fua: *fua,
            },
            Wish::Zero { span, mode, fua } => ClientOperation::Zero { span: *span, mode: *mode, fua: *fua },
            Wish::Flush => ClientOperation::Flush,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its name at the node where it is; a new one each time.
    pub(crate) id: ClientId,
    /// Where it is.
    pub(crate) node: Option<usize>,
    /// What waits for an answer, in the order of first sending.
    pub(crate) waiting: VecDeque<Request>,
    /// A visit of the world is on the agenda.
    pub(crate) scheduled: bool,
    made: u64,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) connections: Vec<Connection>,
    load: Load,
    seed: u64,
    size_bytes: u64,
    issued: u32,
    next_id: u64,
    next_request: u64,
}

impl Clients {
    pub(crate) fn new(plan: &Plan) -> Self {
        let connection = |_| Connection {
            id: ClientId(0),
            node: None,
            waiting: VecDeque::new(),
            scheduled: false,
            made: 0,
        };
        Self {
            connections: (0..plan.load.connections).map(connection).collect(),
            load: plan.load.clone(),
            seed: plan.seed,
            size_bytes: plan.size_bytes,
            issued: 0,
            next_id: 0,
            next_request: 0,
        }
    }

    /// Requests without an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.connections.iter().map(|connection| connection.waiting.len()).sum()
    }

    /// Whether a connection has room for one more request, and the run for one more.
    pub(crate) fn may_ask(&self, connection: usize) -> bool {
        self.issued < self.load.requests
            && self.connections[connection].node.is_some()
            && self.connections[connection].waiting.len() < self.load.depth
    }

    /// The device has so many bytes now.
    pub(crate) fn may_use(&mut self, size_bytes: u64) {
        self.size_bytes = self.size_bytes.max(size_bytes);
    }

    /// No more requests from now on.
    pub(crate) fn stop(&mut self) {
        self.load.requests = self.issued;
    }

    /// A name for a connection that attaches.
    pub(crate) fn fresh_id(&mut self) -> ClientId {
        self.next_id += 1;
        ClientId(self.next_id)
    }

    /// A name for a request that is sent.
    pub(crate) fn fresh_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// The pause before the next request of a connection, in nanoseconds: bursts, then silence.
    pub(crate) fn pause(&self, connection: usize) -> u64 {
        let mut draws = self.draws(connection, 1);
        if draws.chance(3, 4) {
            draws.below(self.load.think / 4 + 1)
        } else {
            draws.below(self.load.think * 6 + 1)
        }
    }

    fn draws(&self, connection: usize, purpose: u64) -> Stream {
        let made = self.connections[connection].made;
        Stream::of_key(mix(self.seed ^ 0xC11E) ^ mix((connection as u64) << 48 | made << 2 | purpose))
    }

    /// The next wish of a connection.
    pub(crate) fn wish(&mut self, connection: usize) -> Wish {
        let mut draws = self.draws(connection, 0);
        self.connections[connection].made += 1;
        self.issued += 1;
        let load = &self.load;
        let part = draws.below(100);
        if part < load.flush_percent {
            return Wish::Flush;
        }
        let part = draws.below(100);
        let fua = draws.chance(load.fua_percent, 100);
        let span = self.span(&mut draws);
        if part < load.read_percent {
            Wish::Read(span)
        } else if part < load.read_percent + load.zero_percent {
            let mode = if draws.chance(1, 2) { ZeroMode::Punch } else { ZeroMode::Allocate };
            Wish::Zero { span, mode, fua }
        } else {
            Wish::Write { span, fua }
        }
    }

    /// Few blocks are asked for often; most requests are whole blocks, some cut across them.
    fn span(&self, draws: &mut Stream) -> ByteSpan {
        let total = self.size_bytes / SECTOR as u64;
        let blocks = total.div_ceil(8);
        let block = if draws.chance(1, 3) {
            draws.below(blocks)
        } else {
            draws.skewed(0, blocks - 1).wrapping_mul(0x9E37_79B1) % blocks
        };
        let (first, count) = if draws.chance(2, 3) {
            (block * 8, 8 * draws.skewed(1, (self.load.max_sectors / 8).max(1)))
        } else {
            (block * 8 + draws.below(8), draws.skewed(1, self.load.max_sectors))
        };
        let first = first.min(total - 1);
        let count = count.min(total - first);
        ByteSpan { offset: first * SECTOR as u64, len: count * SECTOR as u64 }
    }
}
