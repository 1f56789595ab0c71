//! Replies of the transmission phase, checked against the rules that bind the server (spec: "Structured reply
//! types", "NBD_CMD_READ", "NBD_CMD_BLOCK_STATUS").

use anyhow::{Context, Result, bail, ensure};

use super::{
    protocol::{Errno, STRING_LIMIT, chunk, command, command_flag},
    transmission::Request,
};

/// One structured reply chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// See [`chunk`].
    pub kind: u16,
    /// Whether it is the last of its reply.
    pub done: bool,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Chunk {
    /// Whether it reports an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind & (1 << 15) != 0
    }

    /// Whether it describes content of the export.
    #[must_use]
    pub fn is_content(&self) -> bool {
        matches!(self.kind, chunk::OFFSET_DATA | chunk::OFFSET_HOLE)
    }
}

/// One extent of a reply to BLOCK_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u32,
    /// Status flags of the context.
    pub flags: u32,
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As sent in the request.
    pub cookie: u64,
    /// The error field; [`Errno::OK`] for success.
    pub error: Errno,
    /// The text beside a structured error.
    pub message: String,
    /// What a successful READ brought.
    pub data: Vec<u8>,
    /// The chunks of a structured reply; empty for a simple one.
    pub chunks: Vec<Chunk>,
}

impl Completion {
    /// A simple reply, with the data of a successful READ.
    pub(super) fn simple(cookie: u64, error: Errno, data: Vec<u8>) -> Self {
        Self { cookie, error, message: String::new(), data, chunks: Vec::new() }
    }

    /// A structured reply whose last chunk has come, checked against the request.
    pub(super) fn structured(request: &Request, chunks: Vec<Chunk>) -> Result<Self> {
        let mut completion = Self::simple(request.cookie, Errno::OK, Vec::new());
        for (index, one) in chunks.iter().enumerate() {
            ensure!(one.done == (index + 1 == chunks.len()), "DONE must be on the last chunk and only there");
            if one.is_error() {
                let (error, message) = check_error(request, one)?;
                completion.error = error;
                completion.message = message;
            }
        }
        match request.command {
            command::READ => {
                let data = assemble(request, &chunks)?;
                if completion.error == Errno::OK {
                    completion.data = data.context("a READ without all of its data claims success")?;
                }
            }
            command::BLOCK_STATUS => check_block_status(request, &chunks)?,
            _ => {
                let plain = chunks.iter().all(|one| one.kind == chunk::NONE || one.is_error());
                ensure!(plain, "chunks that do not belong to this command: {chunks:?}");
            }
        }
        completion.chunks = chunks;
        Ok(completion)
    }

    /// Checks how the request ended.
    ///
    /// # Errors
    /// Otherwise.
    pub fn expect(self, error: Errno) -> Result<Self> {
        self.expect_one_of(&[error])
    }

    /// As [`expect`](Self::expect), where the specification leaves a choice.
    ///
    /// # Errors
    /// Otherwise.
    pub fn expect_one_of(self, errors: &[Errno]) -> Result<Self> {
        let Self { error, message, .. } = &self;
        ensure!(errors.contains(error), "expected {errors:?}, got {error:?} ({message})");
        Ok(self)
    }

    /// Whether it was a simple reply.
    #[must_use]
    pub fn is_simple(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The extents of a BLOCK_STATUS reply, by context id.
    ///
    /// # Errors
    /// A chunk has a wrong length, or describes nothing.
    pub fn extents(&self) -> Result<Vec<(u32, Vec<Extent>)>> {
        self.chunks.iter().filter(|one| one.kind == chunk::BLOCK_STATUS).map(extents).collect()
    }
}

/// The fields of a BLOCK_STATUS chunk.
fn extents(one: &Chunk) -> Result<(u32, Vec<Extent>)> {
    let (words, rest) = one.payload.as_chunks::<4>();
    ensure!(
        rest.is_empty() && words.len() >= 3 && words.len() % 2 == 1,
        "a BLOCK_STATUS chunk of {} bytes",
        one.payload.len()
    );
    let word = |index: usize| u32::from_be_bytes(words[index]);
    let extents = (1..words.len())
        .step_by(2)
        .map(|index| Extent { length: word(index), flags: word(index + 1) })
        .collect();
    Ok((word(0), extents))
}

/// Error chunks: a nonzero number of the protocol, a string within its limits, an offset within the request.
fn check_error(request: &Request, one: &Chunk) -> Result<(Errno, String)> {
    let offset_bytes = match one.kind {
        chunk::ERROR => 0,
        chunk::ERROR_OFFSET => 8,
        other => bail!("error chunk of unknown type {other:#x}"),
    };
    let payload = &one.payload;
    ensure!(payload.len() >= 6 + offset_bytes, "an error chunk of {} bytes", payload.len());
    let error = Errno(u32::from_be_bytes(payload[..4].try_into()?));
    ensure!(error != Errno::OK && error.name().is_some(), "an error chunk with {error:?}");
    let length = usize::from(u16::from_be_bytes(payload[4..6].try_into()?));
    ensure!(length <= STRING_LIMIT, "an error text of {length} bytes");
    ensure!(payload.len() == 6 + length + offset_bytes, "an error chunk with a wrong length of its text");
    let message = std::str::from_utf8(&payload[6..6 + length]).context("an error text that is not UTF-8")?;
    if offset_bytes > 0 {
        let offset = u64::from_be_bytes(payload[6 + length..].try_into()?);
        let end = request.offset + u64::from(request.length);
        ensure!((request.offset..end).contains(&offset), "an error at {offset}, outside of the request");
    }
    Ok((error, message.to_owned()))
}

/// Puts the content chunks of a READ in place. `None` when they do not cover all of it.
fn assemble(request: &Request, chunks: &[Chunk]) -> Result<Option<Vec<u8>>> {
    let mut pieces = Vec::new();
    for one in chunks {
        match one.kind {
            chunk::NONE => ensure!(one.payload.is_empty() && one.done, "NONE has no payload and is the last"),
            chunk::OFFSET_DATA => {
                ensure!(one.payload.len() >= 9, "OFFSET_DATA of {} bytes", one.payload.len());
                let offset = u64::from_be_bytes(one.payload[..8].try_into()?);
                pieces.push((offset, one.payload[8..].to_vec()));
            }
            chunk::OFFSET_HOLE => {
                ensure!(one.payload.len() == 12, "OFFSET_HOLE of {} bytes", one.payload.len());
                let offset = u64::from_be_bytes(one.payload[..8].try_into()?);
                let length = usize::try_from(u32::from_be_bytes(one.payload[8..].try_into()?))?;
                ensure!(length > 0, "a hole of no length");
                // Before anything is allocated for it.
                ensure!(length <= usize::try_from(request.length)?, "a hole longer than the request");
                pieces.push((offset, vec![0; length]));
            }
            _ => ensure!(one.is_error(), "a chunk of type {} in reply to READ", one.kind),
        }
    }
    let content = chunks.iter().filter(|one| one.is_content()).count();
    ensure!(
        request.flags & command_flag::DF == 0 || content <= 1,
        "DF was set, {content} content chunks came"
    );
    pieces.sort_by_key(|(offset, _)| *offset);
    let mut next = request.offset;
    let mut data = Vec::with_capacity(usize::try_from(request.length)?);
    for (offset, piece) in pieces {
        ensure!(offset >= next, "content at {offset} overlaps other content or precedes the request");
        if offset > next {
            return Ok(None);
        }
        data.extend_from_slice(&piece);
        next += piece.len() as u64;
    }
    let end = request.offset.saturating_add(u64::from(request.length));
    ensure!(next <= end, "content up to {next}, beyond the end of the request ({end})");
    Ok((next == end).then_some(data))
}

/// BLOCK_STATUS: every descriptor has a length, REQ_ONE brings one that fits, else only the last may pass the
/// end of the request; at most 2^20 of them; no context twice.
fn check_block_status(request: &Request, chunks: &[Chunk]) -> Result<()> {
    let mut contexts = Vec::new();
    for one in chunks {
        if one.kind == chunk::NONE || one.is_error() {
            continue;
        }
        ensure!(one.kind == chunk::BLOCK_STATUS, "a chunk of type {} in reply to BLOCK_STATUS", one.kind);
        let (context, extents) = extents(one)?;
        ensure!(!contexts.contains(&context), "two chunks for context {context}");
        contexts.push(context);
        ensure!(extents.len() <= 1 << 20, "{} extents in one chunk", extents.len());
        ensure!(extents.iter().all(|extent| extent.length > 0), "an extent of no length");
        let length = u64::from(request.length);
        if request.flags & command_flag::REQ_ONE != 0 {
            ensure!(extents.len() == 1, "REQ_ONE brought {} extents", extents.len());
            ensure!(u64::from(extents[0].length) <= length, "REQ_ONE brought an extent beyond the request");
        }
        let before_last: u64 =
            extents[..extents.len() - 1].iter().map(|extent| u64::from(extent.length)).sum();
        ensure!(
            before_last < length || extents.len() == 1,
            "extents that begin after the end of the request"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Request = Request { command: command::READ, flags: 0, cookie: 1, offset: 1000, length: 100 };

    fn data(offset: u64, length: usize) -> Chunk {
        let payload = [&offset.to_be_bytes()[..], &vec![7; length]].concat();
        Chunk { kind: chunk::OFFSET_DATA, done: false, payload }
    }

    fn hole(offset: u64, length: u32) -> Chunk {
        let payload = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
        Chunk { kind: chunk::OFFSET_HOLE, done: false, payload }
    }

    fn status(words: &[u32]) -> Chunk {
        let payload = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        Chunk { kind: chunk::BLOCK_STATUS, done: false, payload }
    }

    fn reply(request: Request, mut chunks: Vec<Chunk>) -> Result<Completion> {
        chunks.last_mut().expect("a chunk").done = true;
        Completion::structured(&request, chunks)
    }

    #[test]
    fn content_in_any_order_is_assembled() {
        let completion = reply(READ, vec![data(1050, 50), hole(1000, 50)]).expect("a good reply");
        assert_eq!(completion.data, [[0; 50], [7; 50]].concat());
    }

    #[test]
    fn wrong_content_is_found() {
        let wrong = [
            vec![data(1000, 99)],
            vec![data(1000, 101)],
            vec![data(999, 101)],
            vec![data(1000, 60), data(1050, 50)],
            vec![data(1000, 40), data(1050, 50)],
            vec![data(1000, 100), hole(1099, 1)],
            vec![data(1000, 0), data(1000, 100)],
            vec![hole(1000, 0), data(1000, 100)],
            vec![status(&[1, 100, 0])],
        ];
        for chunks in wrong {
            assert!(reply(READ, chunks.clone()).is_err(), "{chunks:?}");
        }
        let df = Request { flags: command_flag::DF, ..READ };
        assert!(reply(df, vec![data(1000, 50), data(1050, 50)]).is_err(), "two chunks although DF was set");
    }

    #[test]
    fn wrong_extents_are_found() {
        let request = Request { command: command::BLOCK_STATUS, ..READ };
        assert!(reply(request, vec![status(&[1, 60, 0, 500, 3])]).is_ok(), "the last may pass the end");
        let one = Request { flags: command_flag::REQ_ONE, ..request };
        assert!(reply(one, vec![status(&[1, 100, 0])]).is_ok());
        for words in [&[1][..], &[1, 0, 0], &[1, 100], &[1, 100, 0, 1, 0], &[1, 50, 0, 0, 1, 50, 0]] {
            assert!(reply(request, vec![status(words)]).is_err(), "{words:?}");
        }
        assert!(reply(request, vec![status(&[1, 100, 0]), status(&[1, 100, 0])]).is_err(), "a context twice");
        assert!(reply(one, vec![status(&[1, 101, 0])]).is_err(), "REQ_ONE beyond the request");
        assert!(reply(one, vec![status(&[1, 50, 0, 50, 3])]).is_err(), "REQ_ONE with two extents");
    }

    #[test]
    fn wrong_error_chunks_are_found() {
        let error = |payload: &[u8]| {
            let one = Chunk { kind: chunk::ERROR, done: false, payload: payload.to_vec() };
            reply(READ, vec![one])
        };
        let good = error(b"\0\0\0\x16\0\x02no").expect("a good error");
        assert_eq!((good.error, good.message.as_str()), (Errno::EINVAL, "no"));
        for wrong in [
            &b"\0\0\0\x16\0"[..],
            b"\0\0\0\0\0\0",
            b"\0\0\0\x16\0\x03no",
            b"\0\0\0\x63\0\0",
            b"\0\0\0\x16\0\x01\xff",
        ] {
            assert!(error(wrong).is_err(), "{wrong:?}");
        }
    }
}
