//! Chunks, cut anywhere, into frames.
//!
//! ```text
//!          ┌────────────no payload: a frame───────────┐
//!          ▼                                          │
//!        Head ──header and fields there and right─────┴──► Payload
//!         ▲ │                                               │  │
//!         │ │            └─────────all there and right: a frame┘  │
//!         │ └──────anything wrong──────► Refused ◄──wrong─────────┘
//!         └──────────────(a frame)
//! ```
//!
//! Memory: at most one head ([`HEADER_BYTES`] + [`FIELDS_BYTES_MAX`](super::limits::FIELDS_BYTES_MAX)), as far as
//! it has arrived, and at most one buffer for a payload.

use bytes::{Buf, Bytes};

use super::{
    body::{self, Opened},
    error::FrameError,
    header::{HEADER_BYTES, Header, SessionNumber},
    kind::Kind,
    payload::{PayloadBuffer, PayloadBuffers},
};
use crate::volume::wire::Frame;

/// Turns the chunks of one channel into frames.
#[derive(Debug)]
pub struct Parser<B: PayloadBuffers> {
    session: SessionNumber,
    buffers: B,
    /// The head of the next frame, as far as it has arrived; empty while a head lies whole in a chunk.
    head: Vec<u8>,
    state: State<B::Buffer>,
}

/// See the head of this file.
enum State<T> {
    Head,
    Payload(Gathering<T>),
    Refused(FrameError),
}

/// A payload that has begun to arrive, or is about to.
struct Gathering<T> {
    opened: Opened,
    kind: Kind,
    /// How many bytes are still to come.
    missing: usize,
    checksum: u32,
    hasher: crc32fast::Hasher,
    /// Taken with the first piece that is not the whole.
    buffer: Option<T>,
    len: usize,
    /// How many bytes came before it in its frame.
    head: usize,
}

impl<T> std::fmt::Debug for State<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head => f.write_str("Head"),
            Self::Payload(gathering) => {
                write!(f, "Payload({}, {} to come)", gathering.kind, gathering.missing)
            }
            Self::Refused(error) => write!(f, "Refused({error:?})"),
        }
    }
}

impl<B: PayloadBuffers> Parser<B> {
    /// For a channel of this session; payloads go into `buffers`.
    pub fn new(session: SessionNumber, buffers: B) -> Self {
        Self { session, buffers, head: Vec::new(), state: State::Head }
    }

    /// The next frame, if it ends in this chunk; what was used is gone from the chunk. To be called again with the
    /// same chunk until it is empty.
    ///
    /// # Errors
    /// What came is not a frame of this session. The channel cannot be read any further: from now on every call
    /// gives the same error.
    pub fn next_frame(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let result = self.advance(chunk);
        if let Err(error) = result {
            self.head = Vec::new();
            self.state = State::Refused(error);
        }
        result
    }

    /// To be called when the channel was closed.
    ///
    /// # Errors
    /// It was closed in the middle of a frame, or what came before was refused.
    pub fn finish(&self) -> Result<(), FrameError> {
        match &self.state {
            State::Head if self.head.is_empty() => Ok(()),
            State::Head => Err(FrameError::Truncated { have: self.head.len() }),
            State::Payload(gathering) => {
                Err(FrameError::Truncated { have: gathering.head + gathering.len - gathering.missing })
            }
            State::Refused(error) => Err(*error),
        }
    }

    fn advance(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Refused(error) => return Err(*error),
                State::Head => match self.next_head(chunk)? {
                    None => return Ok(None),
                    Some((_, Opened::Whole(frame))) => return Ok(Some(frame)),
                    Some((
                        header,
                        opened @ (Opened::Write { .. } | Opened::Fetched { .. } | Opened::Part { .. }),
                    )) => {
                        self.state = State::Payload(Gathering::new(&header, opened));
                    }
                },
                State::Payload(gathering) => {
                    let Some(payload) = gathering.advance(chunk, &mut self.buffers)? else { return Ok(None) };
                    let State::Payload(gathering) = std::mem::replace(&mut self.state, State::Head) else {
                        panic!("just looked at")
                    };
                    return Ok(Some(gathering.opened.close(payload)));
                }
            }
        }
    }

    /// Header and fields of the next frame: out of the chunk where they lie whole in it, else gathered.
    fn next_head(&mut self, chunk: &mut Bytes) -> Result<Option<(Header, Opened)>, FrameError> {
        if self.head.is_empty()
            && let Some(header) = Header::read(chunk)?
            && let Some(head) = chunk.get(..HEADER_BYTES + header.fields)
        {
            let opened = self.open(&header, head)?;
            chunk.advance(HEADER_BYTES + header.fields);
            return Ok(Some((header, opened)));
        }
        // The least that tells how much is needed: a header, and of a hello the versions behind it.
        for enough in [HEADER_BYTES, HEADER_BYTES + 4] {
            self.gather(chunk, enough);
            if let Some(header) = Header::read(&self.head)? {
                self.gather(chunk, HEADER_BYTES + header.fields);
                if self.head.len() < HEADER_BYTES + header.fields {
                    return Ok(None);
                }
                let opened = self.open(&header, &self.head)?;
                self.head.clear();
                return Ok(Some((header, opened)));
            }
        }
        Ok(None)
    }

    /// Moves bytes from the chunk until so many of the head are there, or the chunk is empty.
    fn gather(&mut self, chunk: &mut Bytes, enough: usize) {
        let missing = enough.saturating_sub(self.head.len()).min(chunk.len());
        self.head.extend_from_slice(&chunk[..missing]);
        chunk.advance(missing);
    }

    fn open(&self, header: &Header, head: &[u8]) -> Result<Opened, FrameError> {
        header.verify(head, self.session)?;
        body::open(header, &head[HEADER_BYTES..])
    }
}

impl<T: PayloadBuffer> Gathering<T> {
    fn new(header: &Header, opened: Opened) -> Self {
        Self {
            opened,
            kind: header.kind,
            missing: header.payload,
            checksum: header.payload_checksum,
            hasher: crc32fast::Hasher::new(),
            buffer: None,
            len: header.payload,
            head: HEADER_BYTES + header.fields,
        }
    }

    /// The payload, once it is all there and right.
    fn advance(
        &mut self,
        chunk: &mut Bytes,
        buffers: &mut impl PayloadBuffers<Buffer = T>,
    ) -> Result<Option<Bytes>, FrameError> {
        if chunk.is_empty() {
            return Ok(None);
        }
        let piece = chunk.split_to(self.missing.min(chunk.len()));
        self.missing -= piece.len();
        self.hasher.update(&piece);
        if piece.len() == self.len && buffers.may_stay(&piece) {
            self.verify()?;
            return Ok(Some(piece));
        }
        let buffer = self.buffer.get_or_insert_with(|| buffers.take(self.len));
        buffer.append(&piece);
        if self.missing > 0 {
            return Ok(None);
        }
        self.verify()?;
        let payload = self.buffer.take().expect("just appended to").finish();
        assert_eq!(payload.len(), self.len, "a buffer gives back what was put into it");
        Ok(Some(payload))
    }

    fn verify(&self) -> Result<(), FrameError> {
        let found = self.hasher.clone().finalize();
        if found == self.checksum {
            return Ok(());
        }
        Err(FrameError::PayloadChecksum { kind: self.kind, found, expected: self.checksum })
    }
}
