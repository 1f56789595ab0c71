//! One channel of a link: a stream, what waits to be written to it, and who reads it.
//!
//! Sending only encodes; the writer task runs when the sender gives way, and writes everything that was sent by
//! then at once. Reading goes burst by burst into the inbox. The two never wait for each other: a reader that
//! waited for a blocked writer could wait for its own twin on the other node.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};

use bytes::Bytes;
use evenkeel_core::volume::{
    codec::{Encoder, Parser, PayloadChecksum, SessionNumber},
    wire::Frame,
};
use evenkeel_nbd::buffer::BufferPool;
use quinn::{RecvStream, SendStream};

use super::{
    buffers::{self, AlignedBuffers},
    closing::Broken,
    inbox::{Inbox, frame_bytes},
};

/// Chunks that are read at a time; each is what one datagram brought, as a rule.
const CHUNKS: usize = 64;

/// The sending side of a channel.
#[derive(Debug)]
pub(super) struct Outgoing {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    encoder: Encoder,
    /// Bytes of frames that were sent and not yet handed to the transport.
    queued_bytes: usize,
    /// Those of them that the writer has taken.
    taken_bytes: usize,
    /// Nothing comes any more; the writer ends the stream.
    closing: bool,
    /// The writer, when it has nothing to do.
    writer: Option<Waker>,
}

impl Outgoing {
    pub(super) fn new(session: SessionNumber) -> Self {
        let encoder = Encoder::new(session);
        let state = State { encoder, queued_bytes: 0, taken_bytes: 0, closing: false, writer: None };
        Self { state: RefCell::new(state) }
    }

    /// Queues a frame and returns how many bytes are queued.
    pub(super) fn push(&self, frame: &Frame, checksum: Option<PayloadChecksum>) -> usize {
        let mut state = self.state.borrow_mut();
        state.encoder.push(frame, checksum);
        state.queued_bytes += frame_bytes(frame);
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        state.queued_bytes
    }

    /// Bytes of frames that were sent and not yet handed to the transport.
    pub(super) fn queued_bytes(&self) -> usize {
        self.state.borrow().queued_bytes
    }

    /// What is queued still goes out, then the stream ends.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closing = true;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    /// Moves everything that is queued into `chunks`, which is empty; false if nothing comes any more.
    async fn take(&self, chunks: &mut Vec<Bytes>) -> bool {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            std::mem::swap(state.encoder.chunks(), chunks);
            if !chunks.is_empty() {
                state.taken_bytes = state.queued_bytes;
                return Poll::Ready(true);
            }
            if state.closing {
                return Poll::Ready(false);
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// What was taken is with the transport.
    fn written(&self) {
        let mut state = self.state.borrow_mut();
        state.queued_bytes -= state.taken_bytes;
        state.taken_bytes = 0;
    }

    /// Writes what is sent until the stream breaks or [`Outgoing::close`]; then waits until the peer has it all.
    pub(super) async fn write_to(&self, mut stream: SendStream) -> Result<(), Broken> {
        let mut chunks = Vec::new();
        while self.take(&mut chunks).await {
            stream.write_all_chunks(&mut chunks).await?;
            chunks.clear();
            self.written();
        }
        // An error says that it was reset, which is as good an end.
        let _ = stream.finish();
        stream.stopped().await?;
        Ok(())
    }
}

/// Reads frames until the stream ends between two of them, or breaks. `deliver` gets them in order.
pub(super) async fn read_from(
    mut stream: RecvStream,
    session: SessionNumber,
    pool: &BufferPool,
    inbox: &Inbox,
    mut deliver: impl FnMut(Frame),
) -> Result<(), Broken> {
    let mut parser = Parser::new(session, AlignedBuffers(pool.clone()));
    let mut chunks = vec![Bytes::new(); CHUNKS];
    loop {
        poll_fn(|context| inbox.poll_room(context)).await;
        let count = match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => count,
            Ok(None) => return parser.finish().map_err(Broken::from),
            Err(error) => return Err(error.into()),
        };
        for chunk in &mut chunks[..count] {
            let mut chunk = std::mem::take(chunk);
            while !chunk.is_empty() {
                poll_fn(|context| buffers::poll_room(pool, context)).await;
                let mut piece = chunk.split_to(chunk.len().min(buffers::CHUNK_BYTES_MAX));
                while !piece.is_empty() {
                    match parser.next_frame(&mut piece) {
                        Ok(Some(frame)) => deliver(frame),
                        Ok(None) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}
