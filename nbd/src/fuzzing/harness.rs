//! Runs a session against a device in memory, without sockets, and checks what came out.

use std::{collections::HashMap, io::IoSlice, rc::Rc, sync::Arc};

use super::replies::{OptionReply, ReplyPart, option_replies, reply_parts};
use crate::{
    device::{Completion, Features, Request},
    limits::Limits,
    memory::MemoryDevice,
    session::{Answer, Ask, Catalogue, Handshake, Negotiated, PayloadMemory, Step, Transmission},
    wire::{
        OPTION_REPLY_MAGIC, command, command_flag,
        option::{HEADER_BYTES, OptionHeader, reply},
        transmission::{Cookie, REQUEST_BYTES, RequestHeader, chunk},
    },
};

/// Bytes of the exports: small, so that a fuzzer runs fast and meets the end.
pub(super) const DEVICE_BYTES: usize = 64 << 10;
/// Bytes of the greeting.
const GREETING_BYTES: usize = 18;

/// The exports `r0` (can everything), `ro` (read-only) and `away` (refused).
#[derive(Debug)]
struct Exports {
    full: Arc<Features>,
    plain: Arc<Features>,
}

impl Catalogue for Exports {
    fn names(&self) -> Vec<String> {
        ["away", "r0", "ro"].map(str::to_owned).into()
    }

    fn features(&self, name: &str) -> Option<Arc<Features>> {
        match name {
            "r0" | "away" => Some(Arc::clone(&self.full)),
            "ro" => Some(Arc::clone(&self.plain)),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Stage {
    Haggling(Box<Handshake>),
    Transmitting(Box<Transmission>),
    Closed,
}

/// A session, a device, and everything that went in and out.
#[derive(Debug)]
pub struct Harness {
    exports: Exports,
    device: Rc<MemoryDevice>,
    limits: Limits,
    memory: PayloadMemory,
    stage: Stage,
    /// What the session has not taken yet.
    incoming: Vec<u8>,
    reading: bool,
    deferring: bool,
    deferred: Vec<Request>,
    /// Both sides of the handshake; the server's without greeting and without the reply to EXPORT_NAME.
    said: Vec<u8>,
    heard: Vec<u8>,
    export_reply: Vec<u8>,
    entered: Option<Negotiated>,
    /// Both sides of the transmission phase.
    sent: Vec<u8>,
    replied: Vec<u8>,
    violated: bool,
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness {
    /// A session that begins, with small limits.
    #[must_use]
    pub fn new() -> Self {
        let limits = Limits {
            payload_bytes: 32 << 10,
            payload_skip_bytes: 64 << 10,
            in_flight_requests: 16,
            in_flight_bytes: 64 << 10,
            share_bytes: 16 << 10,
            pool_bytes: 512 << 10,
            ..Limits::default()
        };
        let full = MemoryDevice::full_features();
        let plain = Features { read_only: true, fast_zero: false, contexts: Vec::new(), ..full.clone() };
        let mut handshake = Handshake::new(&limits);
        assert_eq!(handshake.take_output().len(), GREETING_BYTES);
        Self {
            device: MemoryDevice::new(DEVICE_BYTES, full.clone()),
            exports: Exports { full: Arc::new(full), plain: Arc::new(plain) },
            memory: PayloadMemory::new(&limits),
            stage: Stage::Haggling(Box::new(handshake)),
            limits,
            incoming: Vec::new(),
            reading: true,
            deferring: false,
            deferred: Vec::new(),
            said: Vec::new(),
            heard: Vec::new(),
            export_reply: Vec::new(),
            entered: None,
            sent: Vec::new(),
            replied: Vec::new(),
            violated: false,
        }
    }

    /// The device behind all exports.
    #[must_use]
    pub fn device(&self) -> &MemoryDevice {
        &self.device
    }

    /// What the handshake agreed on, once it has.
    #[must_use]
    pub fn entered(&self) -> Option<&Negotiated> {
        self.entered.as_ref()
    }

    /// Whether the session wants to close the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// Whether it closes because the client broke the protocol in the transmission phase.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.violated
    }

    /// The server's replies to options so far.
    #[must_use]
    pub fn option_replies(&self) -> Vec<OptionReply> {
        option_replies(&self.heard)
    }

    /// The reply to EXPORT_NAME, empty if there was none.
    #[must_use]
    pub fn export_reply(&self) -> &[u8] {
        &self.export_reply
    }

    /// The server's bytes in the transmission phase.
    #[must_use]
    pub fn replied(&self) -> &[u8] {
        &self.replied
    }

    /// The replies of the transmission phase; empty if cookies repeat, which makes simple replies ambiguous.
    #[must_use]
    pub fn reply_parts(&self) -> Vec<ReplyPart> {
        let Some(params) = &self.entered else { return Vec::new() };
        let (requests, partial) = self.requests();
        let mut reads = HashMap::new();
        for header in requests.iter().chain(&partial) {
            let is_read = header.command == command::READ && !params.structured;
            let len = if is_read { header.length as usize } else { 0 };
            if reads.insert(header.cookie, len).is_some() {
                return Vec::new();
            }
        }
        reply_parts(&self.replied, &reads)
    }

    /// The client sends.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &self.stage {
            Stage::Haggling(_) => self.said.extend_from_slice(bytes),
            Stage::Transmitting(session) if session.is_open() => self.sent.extend_from_slice(bytes),
            Stage::Transmitting(_) | Stage::Closed => return,
        }
        self.incoming.extend_from_slice(bytes);
        self.pump();
    }

    /// The client reads replies from now on, or stops to.
    pub fn set_reading(&mut self, reading: bool) {
        self.reading = reading;
        self.pump();
    }

    /// The device keeps requests from now on, or does all it has and keeps none.
    pub fn set_deferring(&mut self, deferring: bool) {
        self.deferring = deferring;
        while !deferring && !self.deferred.is_empty() {
            self.complete_one(self.deferred.len() - 1);
        }
    }

    /// The device does one of the requests that it keeps.
    pub fn complete_one(&mut self, which: usize) {
        if !self.deferred.is_empty() {
            let request = self.deferred.swap_remove(which % self.deferred.len());
            self.perform(request);
            self.pump();
        }
    }

    /// The server ends the connection. What it has not read yet counts as not sent.
    pub fn drain(&mut self) {
        match &mut self.stage {
            Stage::Haggling(handshake) => handshake.stop(),
            Stage::Transmitting(session) => {
                self.sent.truncate(self.sent.len() - self.incoming.len());
                self.incoming.clear();
                self.violated |= session.drain().is_err();
            }
            Stage::Closed => {}
        }
        self.pump();
    }

    /// The client reads everything and closes its side.
    pub fn finish(&mut self) {
        self.set_reading(true);
        self.set_deferring(false);
        if let Stage::Transmitting(session) = &mut self.stage {
            session.end_of_input();
        }
        self.pump();
    }

    fn perform(&mut self, request: Request) {
        let outcome = self.device.perform(request.command);
        if let Stage::Transmitting(session) = &mut self.stage {
            session.complete(Completion { id: request.id, outcome });
        }
    }

    fn pump(&mut self) {
        loop {
            let moved = match &self.stage {
                Stage::Haggling(_) => self.haggle(),
                Stage::Transmitting(_) => self.transmit(),
                Stage::Closed => false,
            };
            if !moved {
                return;
            }
        }
    }

    fn haggle(&mut self) -> bool {
        let Stage::Haggling(handshake) = &mut self.stage else { return false };
        let step = handshake.step(&self.exports);
        self.heard.extend(handshake.take_output());
        match step {
            Step::Receive => {
                let len = self.incoming.len().min(4096);
                handshake.receive(&self.incoming[..len]);
                self.incoming.drain(..len);
                len > 0
            }
            Step::Close(_) => {
                self.stage = Stage::Closed;
                false
            }
            Step::Ask(ask) => {
                let negotiated = handshake.answer(self.exports.answer(&ask));
                let output = handshake.take_output();
                if output.starts_with(&OPTION_REPLY_MAGIC.to_be_bytes()) {
                    self.heard.extend(output);
                } else {
                    self.export_reply = output;
                }
                if let Some(negotiated) = negotiated {
                    let input = handshake.take_input();
                    self.sent = input.clone();
                    self.sent.extend_from_slice(&self.incoming);
                    self.said.truncate(self.said.len() - self.sent.len());
                    self.entered = Some(negotiated.clone());
                    let session =
                        Transmission::new(negotiated, self.limits.clone(), self.memory.clone(), &input);
                    self.stage = Stage::Transmitting(Box::new(session));
                }
                true
            }
        }
    }

    fn transmit(&mut self) -> bool {
        let Stage::Transmitting(session) = &mut self.stage else { return false };
        let mut batch = Vec::new();
        if session.parse(&mut batch).is_err() {
            self.violated = true;
            self.stage = Stage::Closed;
            return false;
        }
        let mut moved = !batch.is_empty();
        for request in batch {
            if self.deferring {
                self.deferred.push(request);
            } else {
                self.perform(request);
            }
        }
        let Stage::Transmitting(session) = &mut self.stage else { return false };
        let bound = 2 * self.limits.in_flight_bytes + 512 * self.limits.in_flight_requests;
        let pending = session.output_bytes();
        assert!(
            pending <= bound as u64 || !session.is_open(),
            "{pending} bytes of replies wait for a client"
        );
        while self.reading && session.has_output() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = session.output(&mut slices);
            slices[..count].iter().for_each(|slice| self.replied.extend_from_slice(slice));
            session.written(slices[..count].iter().map(|slice| slice.len()).sum());
            moved = true;
        }
        if let Some(mut space) = session.space() {
            let mut rest = &self.incoming[..];
            for slice in &mut space {
                let (here, behind) = rest.split_at(rest.len().min(slice.len()));
                slice[..here.len()].copy_from_slice(here);
                rest = behind;
            }
            let len = self.incoming.len() - rest.len();
            session.advance(len);
            self.incoming.drain(..len);
            moved |= len > 0;
        }
        if session.is_finished() {
            assert_eq!(self.memory.used_bytes(), 0, "a finished session holds nothing");
            self.stage = Stage::Closed;
            return false;
        }
        if !session.is_open() {
            self.incoming.clear();
        } else if !moved && self.reading && self.deferred.is_empty() {
            assert!(self.incoming.is_empty(), "the session is blocked, and nothing is in flight");
        }
        moved
    }

    /// The requests that the client has sent completely, and the one behind them whose payload is not complete
    /// or too long. Ends at a DISC and at the first thing that is not a request.
    fn requests(&self) -> (Vec<RequestHeader>, Option<RequestHeader>) {
        let mut requests = Vec::new();
        let mut rest = &self.sent[..];
        while let Some((header, behind)) = rest.split_first_chunk::<REQUEST_BYTES>() {
            let Ok(header) = RequestHeader::parse(header) else { break };
            if header.command == command::DISC {
                break;
            }
            let payload = if header.command == command::WRITE { header.length as usize } else { 0 };
            if payload > behind.len() || header.length > self.limits.payload_skip_bytes && payload > 0 {
                return (requests, Some(header));
            }
            requests.push(header);
            rest = &behind[payload..];
        }
        (requests, None)
    }

    /// Ends the session, checks the whole of it, and returns the replies of the transmission phase.
    ///
    /// # Panics
    /// If the server was out of step, did not answer each request exactly once, or answered wrongly.
    pub fn check(&mut self) -> Vec<ReplyPart> {
        self.check_options();
        self.finish();
        let Some(params) = self.entered.clone() else { return Vec::new() };
        assert!(self.is_closed(), "after the end of input everything is answered and written");
        if !self.violated {
            self.check_replies(&params);
        }
        self.reply_parts()
    }

    /// Options are answered in order, each with one final reply.
    fn check_options(&self) {
        let mut options = Vec::new();
        let mut rest = self.said.get(4..).unwrap_or_default();
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let Some(header) = OptionHeader::parse(header) else { break };
            let Some(behind) = behind.get(header.length as usize..) else { break };
            options.push(header.option);
            rest = behind;
        }
        let replies = self.option_replies();
        let is_final = |kind: u32| kind == reply::ACK || kind & (1 << 31) != 0;
        let finals: Vec<_> =
            replies.iter().filter(|reply| is_final(reply.kind)).map(|reply| reply.option).collect();
        let answered = finals.len() + usize::from(!self.export_reply.is_empty());
        // The option that is one too many is answered before its data is there.
        assert!(options.starts_with(&finals) || finals.len() > self.limits.options as usize, "out of step");
        if matches!(self.stage, Stage::Haggling(_)) || self.entered.is_some() {
            assert_eq!(answered, options.len(), "each option has one final reply");
        }
    }

    fn check_replies(&self, params: &Negotiated) {
        let (requests, partial) = self.requests();
        let parts = self.reply_parts();
        if parts.is_empty() && !self.replied.is_empty() {
            return;
        }
        let mut by_cookie: HashMap<Cookie, Vec<&ReplyPart>> = HashMap::new();
        for part in &parts {
            by_cookie.entry(part.cookie()).or_default().push(part);
        }
        for header in &requests {
            let parts = by_cookie.remove(&header.cookie).unwrap_or_default();
            check_reply(header, &parts, params);
        }
        if let Some(header) = partial {
            by_cookie.remove(&header.cookie);
        }
        assert!(by_cookie.is_empty(), "replies to requests that were not sent: {by_cookie:?}");
    }
}

impl Exports {
    fn answer(&self, ask: &Ask) -> Answer {
        match self.features(&ask.export) {
            None => Answer::Unknown,
            Some(_) if ask.export == "away" => Answer::Refuse("the primary is on node beta".to_owned()),
            Some(features) => Answer::Serve { size: DEVICE_BYTES as u64, features },
        }
    }
}

/// One whole reply: ends once, at its end, and covers what was asked for.
fn check_reply(header: &RequestHeader, parts: &[&ReplyPart], params: &Negotiated) {
    let lasts = parts.iter().filter(|part| part.is_last()).count();
    assert_eq!(lasts, 1, "{header:?} has one end in {parts:?}");
    assert!(parts.last().is_some_and(|part| part.is_last()), "nothing follows the end");
    if parts.iter().any(|part| part.error() != 0) {
        return;
    }
    match header.command {
        command::READ if params.structured => {
            let mut next = header.offset;
            for part in parts {
                let ReplyPart::Chunk { kind, payload, .. } = part else {
                    panic!("a simple reply to a structured READ")
                };
                let (at, rest) = payload.split_first_chunk::<8>().expect("checked");
                assert_eq!(u64::from_be_bytes(*at), next, "chunks follow each other");
                next += match *kind {
                    chunk::OFFSET_DATA => rest.len() as u64,
                    chunk::OFFSET_HOLE => {
                        u64::from(u32::from_be_bytes(*rest.first_chunk().expect("checked")))
                    }
                    other => panic!("a chunk of type {other} in the reply to a READ"),
                };
            }
            assert_eq!(next - header.offset, u64::from(header.length), "the whole range is covered");
            assert!(header.flags & command_flag::DF == 0 || parts.len() == 1, "DF means one chunk");
        }
        command::BLOCK_STATUS => {
            assert_eq!(parts.len(), params.contexts.len(), "one chunk for each context");
            for part in parts {
                let ReplyPart::Chunk { kind: chunk::BLOCK_STATUS, payload, .. } = part else {
                    panic!("{part:?} in the reply to a BLOCK_STATUS")
                };
                let one = header.flags & command_flag::REQ_ONE != 0;
                assert!(!one || payload.len() == 12, "REQ_ONE means one extent");
            }
        }
        _other => assert_eq!(parts.len(), 1),
    }
}
