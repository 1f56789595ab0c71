//! The transmission phase: bytes in, requests out; completions in, replies out.
//!
//! Ingest copies a payload once, into the buffer that goes to the disk. The session offers the place for the
//! next bytes of the socket ([`Transmission::space`]): its parse buffer, or the rest of the payload that is
//! arriving and behind it the parse buffer. One read brings many requests; [`Transmission::parse`] turns them into
//! one batch.
//!
//! Invariants:
//! - each request but DISC is answered exactly once, after all of it has come;
//! - the payload of a refused WRITE is read and dropped, so that the stream stays in step, and then answered;
//! - memory is bounded by [`Limits`]: a request is taken out of the stream only when there is room for it and
//!   its reply, and memory for a payload is taken only when its first byte is there;
//! - what a request holds is given back when its reply has been written, for the payload of a WRITE when it is
//!   done.

use std::io::{IoSlice, IoSliceMut};

use super::{
    allowance::{Allowance, Blocked, Held, PayloadMemory},
    check::{Accepted, Refusal, check},
    in_flight::{Filling, InFlight, Skipping, Status},
    negotiated::{Negotiated, context_id},
    outbox::{Outbox, Released},
    reply::{SHUTDOWN, failure, wire_extents},
    slots::Slots,
};
use crate::{
    device::{ByteRange, Command, Completion, Extent, MapContext, Reply, Request, RequestId},
    errno::ErrorClass,
    limits::Limits,
    wire::{
        command,
        transmission::{Cookie, REQUEST_BYTES, RequestHeader, WrongMagic, chunk},
    },
};

/// Bytes of the parse buffer: what one read of the socket can bring.
const PARSE_BUFFER_BYTES: usize = 256 << 10;

/// What the extents of one context are charged with: as the device tells them, or as a reply in a buffer that
/// grows by doubling.
pub(crate) const EXTENTS_BYTES: usize = size_of::<Extent>() * Extent::MAX_PER_REPLY;

/// What a client has to do before memory of the shared pool comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// Whether there is memory that waits for the client.
    pub owed: bool,
    /// What the client has ever done, in bytes.
    pub paid_bytes: u64,
}

/// After this the stream means nothing, or would cost too much; the connection is to be closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something else than a request stood where one should.
    #[error("the client sent {0:#010x} instead of a request")]
    WrongMagic(u32),
    /// The payload of a WRITE is longer than what would be skipped.
    #[error("the client announced a payload of {0} bytes")]
    PayloadTooLong(u32),
}

/// Where the transmission stands.
///
/// ```text
/// Open --drain--> Draining --+
///  |                 |       +--> (all answered: finished)
///  +--DISC, EOF--> Ending ---+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are taken.
    Open,
    /// The socket is not read; what was received and not submitted is answered with ESHUTDOWN.
    Draining,
    /// The client has said its last; what is in flight is answered.
    Ending,
}

/// The transmission phase of one connection.
#[derive(Debug)]
pub struct Transmission {
    params: Negotiated,
    size: u64,
    limits: Limits,
    phase: Phase,
    input: Box<[u8]>,
    /// The unread part of `input`.
    start: usize,
    end: usize,
    filling: Option<Filling>,
    /// Never at the same time as `filling`.
    skipping: Option<Skipping>,
    blocked: Option<Blocked>,
    in_flight: Slots<InFlight>,
    statuses: Slots<Status>,
    /// Requests taken from the stream whose replies are not written yet.
    requests: usize,
    /// What these hold of the connection's limit.
    bytes: usize,
    allowance: Allowance,
    /// Bytes of payload that came, all in all.
    payload_bytes: u64,
    outbox: Outbox,
}

impl Transmission {
    /// The transmission phase after a handshake; `input` is what the client sent behind its last option.
    #[must_use]
    pub fn new(params: Negotiated, limits: Limits, memory: PayloadMemory, input: &[u8]) -> Self {
        let mut buffer = vec![0; PARSE_BUFFER_BYTES.max(input.len())].into_boxed_slice();
        buffer[..input.len()].copy_from_slice(input);
        let allowance = Allowance::new(memory, &limits);
        Self {
            size: params.size,
            params,
            limits,
            phase: Phase::Open,
            input: buffer,
            start: 0,
            end: input.len(),
            filling: None,
            skipping: None,
            blocked: None,
            in_flight: Slots::new(),
            statuses: Slots::new(),
            requests: 0,
            bytes: 0,
            allowance,
            payload_bytes: 0,
            outbox: Outbox::default(),
        }
    }

    /// What the handshake agreed on.
    #[must_use]
    pub fn params(&self) -> &Negotiated {
        &self.params
    }

    /// The export's size has changed; requests are checked against the new one from here on.
    pub fn set_size(&mut self, size: u64) {
        self.size = size;
    }

    /// Where the next bytes of the socket go, in this order; `None` while none are wanted.
    #[must_use]
    pub fn space(&mut self) -> Option<[IoSliceMut<'_>; 2]> {
        if self.phase != Phase::Open || self.blocked.is_some() {
            return None;
        }
        // Only a part of a header, or one without any payload, is ever left here: moving it costs nothing.
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let rest = &mut self.input[self.end..];
        Some(match &mut self.filling {
            Some(filling) => {
                let missing = filling.missing();
                [IoSliceMut::new(&mut filling.buffer.unfilled()[..missing]), IoSliceMut::new(rest)]
            }
            None => [IoSliceMut::new(rest), IoSliceMut::new(&mut [])],
        })
    }

    /// Tells that the first `len` bytes of [`Transmission::space`] have been filled.
    ///
    /// # Panics
    /// If that is more than there was.
    pub fn advance(&mut self, len: usize) {
        let mut rest = len;
        if let Some(filling) = &mut self.filling {
            let here = rest.min(filling.missing());
            filling.buffer.advance(here);
            self.payload_bytes += here as u64;
            rest -= here;
        }
        self.end += rest;
        assert!(self.end <= self.input.len(), "{len} bytes were received, which is more than was asked for");
    }

    /// Takes requests out of what has been received and appends those that are allowed to `batch`, which goes to
    /// the device. Refused ones are answered at once.
    ///
    /// # Errors
    /// If the connection is to be closed at once.
    pub fn parse(&mut self, batch: &mut Vec<Request>) -> Result<(), Violation> {
        self.blocked = None;
        let taken = self.take_requests(batch);
        if self.blocked != Some(Blocked::Pool) {
            self.allowance.leave_queue();
        }
        taken
    }

    fn take_requests(&mut self, batch: &mut Vec<Request>) -> Result<(), Violation> {
        loop {
            if !self.skip() || !self.fill(batch) {
                return Ok(());
            }
            let Some(header) = self.input[self.start..self.end].first_chunk::<REQUEST_BYTES>() else {
                return Ok(());
            };
            let header =
                RequestHeader::parse(header).map_err(|WrongMagic(magic)| Violation::WrongMagic(magic))?;
            if header.command == command::DISC {
                self.end_of_input();
                return Ok(());
            }
            // While draining the parse buffer bounds the replies: nothing is read any more.
            if self.phase == Phase::Open && self.requests >= self.limits.in_flight_requests {
                self.blocked = Some(Blocked::InFlight);
                return Ok(());
            }
            let verdict = match self.phase {
                Phase::Open => check(&header, &self.params, self.size, self.limits.payload_bytes),
                Phase::Draining | Phase::Ending => Err(SHUTDOWN),
            };
            match verdict {
                Err(refusal) => self.refuse(&header, refusal)?,
                Ok(accepted) => {
                    if !self.accept(header.cookie, accepted, batch) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Drops payload of a refused WRITE; false if more of it has to come.
    fn skip(&mut self) -> bool {
        let Some(mut skipping) = self.skipping.take() else { return true };
        let here = skipping.missing.min(self.end - self.start);
        self.start += here;
        skipping.missing -= here;
        if skipping.missing > 0 {
            self.skipping = Some(skipping);
            return false;
        }
        self.fail(skipping.cookie, skipping.refusal, Released { requests: 1, ..Released::default() });
        true
    }

    /// Moves payload from the parse buffer to where it belongs; false if more of it has to come.
    fn fill(&mut self, batch: &mut Vec<Request>) -> bool {
        let Some(mut filling) = self.filling.take() else { return true };
        let here = filling.missing().min(self.end - self.start);
        filling.buffer.extend(&self.input[self.start..self.start + here]);
        self.start += here;
        self.payload_bytes += here as u64;
        if filling.missing() > 0 {
            self.filling = Some(filling);
            return false;
        }
        let Filling { cookie, length, held, .. } = filling;
        let id = self.in_flight.insert(InFlight::Write { cookie, length, held });
        let payload = filling.buffer.freeze();
        batch.push(Request {
            id,
            command: Command::Write { offset: filling.offset, payload, fua: filling.fua },
        });
        true
    }

    /// Answers a request that is not allowed, a WRITE as soon as its payload is dropped.
    fn refuse(&mut self, header: &RequestHeader, refusal: Refusal) -> Result<(), Violation> {
        let payload = if header.command == command::WRITE { header.length } else { 0 };
        if payload > self.limits.payload_skip_bytes {
            return Err(Violation::PayloadTooLong(payload));
        }
        self.start += REQUEST_BYTES;
        self.requests += 1;
        self.skipping = Some(Skipping { cookie: header.cookie, refusal, missing: payload as usize });
        Ok(())
    }

    /// Takes a request whose header is at the beginning of the input, if there is room for it.
    fn accept(&mut self, cookie: Cookie, accepted: Accepted, batch: &mut Vec<Request>) -> bool {
        let mut charged = Released { requests: 1, ..Released::default() };
        let plain = |this: &mut Self| this.in_flight.insert(InFlight::Plain { cookie });
        let (id, command) = match accepted {
            Accepted::Write { offset, length, fua } => {
                return self.accept_write(cookie, offset, length as usize, fua, batch);
            }
            Accepted::Read { range, whole } => {
                let len = usize::try_from(range.len).expect("at most a payload");
                let Some(held) = self.reserve(len) else { return false };
                charged.bytes = len;
                charged.held = held;
                let id = self.in_flight.insert(InFlight::Read { cookie, range, whole, charged });
                (id, Command::Read { range })
            }
            Accepted::BlockStatus { range, one } => return self.accept_status(cookie, range, one, batch),
            Accepted::Flush => (plain(self), Command::Flush),
            Accepted::Trim { range, fua } => (plain(self), Command::Trim { range, fua }),
            Accepted::Cache { range } => (plain(self), Command::Cache { range }),
            Accepted::WriteZeroes { range, fua, no_hole, fast } => {
                (plain(self), Command::WriteZeroes { range, fua, no_hole, fast })
            }
        };
        self.start += REQUEST_BYTES;
        self.requests += 1;
        batch.push(Request { id, command });
        true
    }

    fn accept_write(
        &mut self,
        cookie: Cookie,
        offset: u64,
        length: usize,
        fua: bool,
        batch: &mut Vec<Request>,
    ) -> bool {
        if self.end - self.start == REQUEST_BYTES {
            // Announcing a payload is free; memory is taken only when it begins to come.
            return false;
        }
        if !self.charge(length) {
            return false;
        }
        let (buffer, held) = match self.allowance.take(length) {
            Ok(taken) => taken,
            Err(blocked) => {
                self.bytes -= length;
                self.blocked = Some(blocked);
                return false;
            }
        };
        self.start += REQUEST_BYTES;
        self.requests += 1;
        self.filling = Some(Filling { cookie, offset, length, fua, buffer, held });
        self.fill(batch)
    }

    /// One BLOCK_STATUS becomes one request to the device for each selected context.
    fn accept_status(
        &mut self,
        cookie: Cookie,
        range: ByteRange,
        one: bool,
        batch: &mut Vec<Request>,
    ) -> bool {
        let contexts_left = self.params.contexts.len();
        let bytes = EXTENTS_BYTES * contexts_left;
        let Some(held) = self.reserve(bytes) else { return false };
        self.start += REQUEST_BYTES;
        self.requests += 1;
        let charged = Released { requests: 1, bytes, held };
        let status = self.statuses.insert(Status { cookie, contexts_left, failed: None, charged });
        for &context in &self.params.contexts {
            let id = self.in_flight.insert(InFlight::Map { context, range, one, status });
            batch.push(Request { id, command: Command::Map { range, context } });
        }
        true
    }

    /// Charges the connection's limit; the first request always fits.
    fn charge(&mut self, bytes: usize) -> bool {
        if self.bytes > 0 && self.bytes + bytes > self.limits.in_flight_bytes {
            self.blocked = Some(Blocked::InFlight);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Charges the connection's limit, and reserves memory, for data that the device allocates.
    fn reserve(&mut self, bytes: usize) -> Option<Held> {
        if !self.charge(bytes) {
            return None;
        }
        match self.allowance.reserve(bytes) {
            Ok(held) => Some(held),
            Err(blocked) => {
                self.bytes -= bytes;
                self.blocked = Some(blocked);
                None
            }
        }
    }

    /// Whether requests wait for room, and for which.
    #[must_use]
    pub fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// The rest of a payload that lies in the shared pool.
    #[must_use]
    pub fn payload_debt(&self) -> Debt {
        let owed = self.filling.as_ref().is_some_and(|filling| filling.held == Held::default());
        Debt { owed, paid_bytes: self.payload_bytes }
    }

    /// The reading of replies, while reads hold memory of the shared pool.
    #[must_use]
    pub fn reply_debt(&self) -> Debt {
        let owed = self.has_output() && self.allowance.has_reserved();
        Debt { owed, paid_bytes: self.outbox.written_bytes() }
    }

    /// The client will send nothing more, or nothing more that matters. What is in flight will be answered.
    pub fn end_of_input(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Ending;
            self.drop_input();
        }
    }

    /// The server wants to end the connection: requests that have been received whole and not been submitted are
    /// answered with ESHUTDOWN, nothing more is read. A WRITE whose payload is still coming gets no reply; its
    /// client sees the connection close.
    ///
    /// # Errors
    /// If what was received breaks the protocol.
    pub fn drain(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Open {
            return Ok(());
        }
        self.phase = Phase::Draining;
        let mut none = Vec::new();
        let parsed = self.parse(&mut none);
        assert!(none.is_empty(), "a draining session accepts nothing");
        self.drop_input();
        parsed
    }

    fn drop_input(&mut self) {
        (self.start, self.end) = (0, 0);
        self.blocked = None;
        self.allowance.leave_queue();
        if self.skipping.take().is_some() {
            self.requests -= 1;
        }
        if let Some(filling) = self.filling.take() {
            self.requests -= 1;
            self.bytes -= filling.length;
            self.allowance.give_back(filling.held);
        }
    }

    /// Whether everything has been answered and written after the end of input or a drain.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase != Phase::Open && self.in_flight.len() == 0 && self.outbox.is_empty()
    }

    /// Whether the session still takes requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Turns what a device has done into a reply.
    ///
    /// # Panics
    /// If the completion does not fit a request in flight: an error in the device.
    pub fn complete(&mut self, completion: Completion) {
        match (self.in_flight.remove(completion.id), completion.outcome) {
            (InFlight::Read { cookie, range, whole, charged }, Ok(Reply::Data(data))) => {
                assert_eq!(data.len() as u64, range.len, "a device reads exactly what was asked for");
                self.outbox.read(self.params.structured, cookie, range.offset, data, whole);
                self.outbox.end_reply(charged);
            }
            (InFlight::Write { cookie, length, held }, outcome) => {
                self.bytes -= length;
                self.allowance.give_back(held);
                self.plain_reply(cookie, outcome);
            }
            (InFlight::Plain { cookie }, outcome) => self.plain_reply(cookie, outcome),
            (InFlight::Map { context, range, one, status }, outcome) => {
                self.status_reply(context, range, one, status, outcome);
            }
            (InFlight::Read { cookie, charged, .. }, Err(class)) => {
                self.fail(cookie, failure(class), charged)
            }
            (InFlight::Read { .. }, Ok(Reply::Done | Reply::Extents(_))) => {
                panic!("a device answers READ with data")
            }
        }
    }

    fn plain_reply(&mut self, cookie: Cookie, outcome: Result<Reply, ErrorClass>) {
        let charged = Released { requests: 1, ..Released::default() };
        match outcome {
            Ok(Reply::Done) => {
                self.outbox.simple(None, cookie);
                self.outbox.end_reply(charged);
            }
            Err(class) => self.fail(cookie, failure(class), charged),
            Ok(Reply::Data(_) | Reply::Extents(_)) => {
                panic!("only READ and BLOCK_STATUS bring something back")
            }
        }
    }

    fn status_reply(
        &mut self,
        context: MapContext,
        range: ByteRange,
        one: bool,
        id: RequestId,
        outcome: Result<Reply, ErrorClass>,
    ) {
        let status = self.statuses.get_mut(id);
        status.contexts_left -= 1;
        match outcome {
            Ok(Reply::Extents(extents)) => {
                let last = status.contexts_left == 0 && status.failed.is_none();
                let flags = if last { chunk::FLAG_DONE } else { 0 };
                let extents = wire_extents(&extents, range, one);
                self.outbox.status_chunk(flags, status.cookie, context_id(context), &extents);
            }
            Err(class) => status.failed = Some(class),
            Ok(Reply::Done | Reply::Data(_)) => panic!("a device answers a map with extents"),
        }
        if status.contexts_left == 0 {
            let status = self.statuses.remove(id);
            match status.failed {
                Some(class) => self.fail(status.cookie, failure(class), status.charged),
                None => self.outbox.end_reply(status.charged),
            }
        }
    }

    fn fail(&mut self, cookie: Cookie, refusal: Refusal, charged: Released) {
        self.outbox.error(self.params.structured, cookie, refusal);
        self.outbox.end_reply(charged);
    }

    /// Whether replies wait to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Bytes of replies that wait to be written.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.outbox.len()
    }

    /// Sets `slices` to the beginning of what is to be written and returns how many are set.
    pub fn output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.outbox.slices(slices)
    }

    /// Tells that the first `len` bytes of [`Transmission::output`] have been written.
    ///
    /// # Panics
    /// If that is more than there was.
    pub fn written(&mut self, len: usize) {
        let released = self.outbox.written(len);
        self.requests -= released.requests;
        self.bytes -= released.bytes;
        self.allowance.give_back(released.held);
    }
}
