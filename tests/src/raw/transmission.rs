//! The transmission phase (spec: "Transmission", "Request types").

use std::{collections::HashMap, io::Write, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    handshake::ExportInfo,
    protocol::{
        DEFAULT_MAX_PAYLOAD, Errno, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
        command, command_flag,
    },
    reply::{Chunk, Completion},
    stream::{Stream, is_closed},
};

/// The fixed part of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// Request type.
    pub command: u16,
    /// Echoed by the server.
    pub cookie: u64,
    /// First byte concerned.
    pub offset: u64,
    /// Number of bytes concerned.
    pub length: u32,
}

impl Request {
    /// Bytes of a request on the wire, without its payload.
    pub const SIZE: usize = 28;

    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        self.encode_with_magic(REQUEST_MAGIC)
    }

    /// As it goes over the wire, with a magic that may be wrong.
    #[must_use]
    pub fn encode_with_magic(&self, magic: u32) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// A request whose reply is not complete.
#[derive(Debug)]
struct Pending {
    request: Request,
    chunks: Vec<Chunk>,
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Transmission {
    stream: Stream,
    info: ExportInfo,
    structured: bool,
    next_cookie: u64,
    pending: HashMap<u64, Pending>,
    done: HashMap<u64, Completion>,
}

impl Transmission {
    pub(super) fn new(stream: Stream, info: ExportInfo, structured: bool) -> Self {
        // Cookies far from zero: a server that counts by itself is found out.
        let next_cookie = 0xC00C_1E00_0000_0001;
        Self { stream, info, structured, next_cookie, pending: HashMap::new(), done: HashMap::new() }
    }

    /// What the server told about the export.
    #[must_use]
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// Whether a transmission flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.info.flags & flag != 0
    }

    /// The socket, for what the protocol does not foresee.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Sends a request without waiting for its reply; returns its cookie.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Result<u64> {
        let cookie = self.next_cookie;
        // An odd step, so that neighbours differ in many bits.
        self.next_cookie = cookie.wrapping_add(0x0101_0101_0101_0101);
        self.send_request(Request { flags, command, cookie, offset, length }, payload)?;
        Ok(cookie)
    }

    /// As [`send`](Self::send), with a cookie of the caller's choice.
    ///
    /// # Errors
    /// The connection is closed, or a request with this cookie is in flight.
    pub fn send_request(&mut self, request: Request, payload: &[u8]) -> Result<()> {
        self.expect_reply_to(request)?;
        self.push(&request.encode()).context("sending a request")?;
        self.push(payload).context("sending a payload")
    }

    /// Writes bytes, and reads replies meanwhile: a client that only writes while the server waits for it to
    /// read would stand still for ever, and by its own fault.
    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let sent = self.stream.write_some(bytes)?;
            bytes = &bytes[sent..];
            if sent == 0 && self.stream.wait_for_either()? {
                self.receive()?;
            }
        }
        Ok(())
    }

    /// Registers a request that the caller sends by [`stream`](Self::stream).
    ///
    /// # Errors
    /// A request with this cookie is in flight.
    pub fn expect_reply_to(&mut self, request: Request) -> Result<()> {
        let pending = Pending { request, chunks: Vec::new() };
        ensure!(self.pending.insert(request.cookie, pending).is_none(), "cookie {:#x} twice", request.cookie);
        Ok(())
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// The connection is closed, or the reply breaks the protocol. An error *in* the reply is no error here.
    pub fn call(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Result<Completion> {
        let cookie = self.send(command, flags, offset, length, payload)?;
        self.wait(cookie)
    }

    /// Waits for the reply to this request; others that come first are kept.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn wait(&mut self, cookie: u64) -> Result<Completion> {
        loop {
            if let Some(completion) = self.done.remove(&cookie) {
                return Ok(completion);
            }
            ensure!(self.pending.contains_key(&cookie), "no request with cookie {cookie:#x} is in flight");
            self.receive()?;
        }
    }

    /// Waits until any request is complete.
    ///
    /// # Errors
    /// As [`call`](Self::call); or none is in flight.
    pub fn wait_any(&mut self) -> Result<Completion> {
        while self.done.is_empty() {
            ensure!(!self.pending.is_empty(), "no request is in flight");
            self.receive()?;
        }
        let cookie = *self.done.keys().next().context("one is done")?;
        self.done.remove(&cookie).context("one is done")
    }

    /// As [`wait_any`](Self::wait_any); `None` when all are answered, or the server has closed the connection.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn wait_any_or_close(&mut self) -> Result<Option<Completion>> {
        if self.pending.is_empty() && self.done.is_empty() {
            return Ok(None);
        }
        match self.wait_any() {
            Ok(completion) => Ok(Some(completion)),
            Err(error) if error.root_cause().downcast_ref().is_some_and(is_closed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Number of requests without a complete reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Reads.
    ///
    /// # Errors
    /// The server reports an error, or breaks the protocol.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let completion = self.call(command::READ, command_flag::NONE, offset, length, &[])?;
        Ok(completion.expect(Errno::OK).with_context(|| format!("READ {offset}+{length}"))?.data)
    }

    /// Writes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_with(command_flag::NONE, offset, data)
    }

    /// Writes with command flags.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write_with(&mut self, flags: u16, offset: u64, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len())?;
        let completion = self.call(command::WRITE, flags, offset, length, data)?;
        completion.expect(Errno::OK).with_context(|| format!("WRITE {offset}+{length}"))?;
        Ok(())
    }

    /// Flushes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn flush(&mut self) -> Result<()> {
        self.call(command::FLUSH, command_flag::NONE, 0, 0, &[])?.expect(Errno::OK).context("FLUSH")?;
        Ok(())
    }

    /// Checks that the stream is in step: a read is answered by a reply to this read.
    ///
    /// # Errors
    /// It is not.
    pub fn check_in_step(&mut self) -> Result<()> {
        self.read(0, 512).context("after this the stream must be in step")?;
        Ok(())
    }

    /// Sends DISC and waits until the server has closed; it must not send anything but replies that were due.
    ///
    /// # Errors
    /// It does otherwise.
    pub fn disconnect(mut self) -> Result<()> {
        let request = Request { command: command::DISC, cookie: self.next_cookie, ..Request::default() };
        self.stream.write_all(&request.encode())?;
        while !self.pending.is_empty() {
            self.receive().context("DISC must leave requests in flight to be answered")?;
        }
        self.stream.expect_close()
    }

    /// Gives up waiting for a reply earlier than usual.
    ///
    /// # Errors
    /// `limit` is zero.
    pub fn set_read_limit(&mut self, limit: Duration) -> Result<()> {
        Ok(self.stream.set_read_limit(limit)?)
    }

    /// Reads one message and files it.
    fn receive(&mut self) -> Result<()> {
        let magic = self.stream.read_u32()?;
        let completion = match magic {
            SIMPLE_REPLY_MAGIC => Some(self.receive_simple()?),
            STRUCTURED_REPLY_MAGIC => self.receive_chunk()?,
            other => bail!("a reply began with {other:#x}"),
        };
        if let Some(completion) = completion {
            ensure!(completion.error.name().is_some(), "{:?}", completion.error);
            self.done.insert(completion.cookie, completion);
        }
        Ok(())
    }

    fn receive_simple(&mut self) -> Result<Completion> {
        let error = Errno(self.stream.read_u32()?);
        let cookie = self.stream.read_u64()?;
        let pending = self.pending.remove(&cookie);
        let Pending { request, chunks } =
            pending.with_context(|| format!("a reply to nothing: {cookie:#x}"))?;
        ensure!(chunks.is_empty(), "a simple reply amid the chunks of a structured one");
        let is_read = request.command == command::READ;
        ensure!(
            !(self.structured && is_read),
            "a simple reply to READ although structured ones were negotiated"
        );
        let mut data = Vec::new();
        if is_read && error == Errno::OK {
            data = self.stream.read_bytes(usize::try_from(request.length)?)?;
        }
        Ok(Completion::simple(cookie, error, data))
    }

    fn receive_chunk(&mut self) -> Result<Option<Completion>> {
        ensure!(self.structured, "a structured reply without negotiation");
        let flags = self.stream.read_u16()?;
        ensure!(flags & !chunk::FLAG_DONE == 0, "unknown reply flags {flags:#x}");
        let kind = self.stream.read_u16()?;
        let cookie = self.stream.read_u64()?;
        let length = self.stream.read_u32()?;
        ensure!(length <= DEFAULT_MAX_PAYLOAD + 8, "a chunk of {length} bytes");
        let payload = self.stream.read_bytes(usize::try_from(length)?)?;
        let done = flags & chunk::FLAG_DONE != 0;
        let pending = self.pending.get_mut(&cookie);
        let pending = pending.with_context(|| format!("a chunk for nothing: {cookie:#x}"))?;
        pending.chunks.push(Chunk { kind, done, payload });
        if !done {
            return Ok(None);
        }
        let Pending { request, chunks } = self.pending.remove(&cookie).context("it was there just now")?;
        Completion::structured(&request, chunks).map(Some)
    }
}
