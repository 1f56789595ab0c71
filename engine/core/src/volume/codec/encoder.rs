//! Frames into chunks for a vectored send.
//!
//! Heads are gathered in one buffer; a payload is a chunk of its own, the very memory that the client's data is
//! in. A burst of acknowledgements is one chunk. No allocation per frame: the buffer is taken anew only every
//! [`SCRATCH_BYTES`], or used again when what was sent from it is gone.

use bytes::{Bytes, BytesMut};

use super::{
    body::{self, Payload},
    fields::Writer,
    header::{HEADER_BYTES, Header, PayloadChecksum, SessionNumber, seal},
    kind::Kind,
};
use crate::volume::wire::Frame;

/// How much memory is taken at a time for heads.
const SCRATCH_BYTES: usize = 16 << 10;

/// Turns the frames of one channel into chunks.
#[derive(Debug)]
pub struct Encoder {
    session: SessionNumber,
    heads: BytesMut,
    chunks: Vec<Bytes>,
}

impl Encoder {
    /// For a channel of this session.
    #[must_use]
    pub fn new(session: SessionNumber) -> Self {
        Self { session, heads: BytesMut::new(), chunks: Vec::new() }
    }

    /// Appends a frame. `checksum` is that of its payload, if it was taken when the payload came in; else it is
    /// taken here. (A wrong one makes the peer refuse the frame: that is how damage in memory is found.)
    ///
    /// # Panics
    /// If the frame is one that no parser accepts: beyond the [`limits`](super::limits), an id that is zero, an
    /// empty span, an empty payload, a history that is none.
    pub fn push(&mut self, frame: &Frame, checksum: Option<PayloadChecksum>) {
        let kind = Kind::of(frame);
        let shape = kind.shape();
        let start = self.heads.len();
        self.reserve(HEADER_BYTES + shape.fixed);
        self.heads.extend_from_slice(&[0; HEADER_BYTES]);
        let beside = body::write(frame, &mut Writer::new(&mut self.heads));
        let fields = self.heads.len() - start - HEADER_BYTES;
        assert!(shape.admits(fields), "{kind} with {fields} bytes of fields");
        let payload = beside.payload.pieces().map(Bytes::len).sum();
        assert!(payload <= shape.payload_max, "{kind} with {payload} bytes of payload");
        assert!(payload > 0 || kind != Kind::Write, "a write of nothing");
        let header = Header {
            kind,
            flags: beside.flags,
            fields,
            payload,
            checksum: 0,
            payload_checksum: checksum.unwrap_or_else(|| taken_now(&beside.payload)).0,
            session: if kind == Kind::Hello { 0 } else { self.session.get() },
            sequence: beside.sequence.0,
        };
        let head = &mut self.heads[start..];
        head[..HEADER_BYTES].copy_from_slice(&header.write());
        seal(head);
        for piece in beside.payload.pieces() {
            self.close_heads();
            self.chunks.push(piece.clone());
        }
    }

    /// The chunks of everything that was pushed and not taken out, in order. The caller takes out what it sends.
    pub fn chunks(&mut self) -> &mut Vec<Bytes> {
        self.close_heads();
        &mut self.chunks
    }

    fn reserve(&mut self, head: usize) {
        if self.heads.capacity() - self.heads.len() < head {
            self.heads.reserve(SCRATCH_BYTES);
        }
    }

    /// Ends the chunk of heads, as a payload follows it or it is to be sent.
    fn close_heads(&mut self) {
        if !self.heads.is_empty() {
            self.chunks.push(self.heads.split().freeze());
        }
    }
}

fn taken_now(payload: &Payload<'_>) -> PayloadChecksum {
    let mut hasher = crc32fast::Hasher::new();
    payload.pieces().for_each(|piece| hasher.update(piece));
    PayloadChecksum(hasher.finalize())
}
