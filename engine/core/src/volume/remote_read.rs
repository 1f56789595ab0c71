//! Reads of a primary from a peer in sync: its own disk failed (W7), or could not read these bytes.
//!
//! ```text
//!   primary: waiting ──Fetch(after)──> asked ──Fetched──> answered
//!   peer:    everything up to `after` applied ──> read ──> Fetched
//! ```
//!
//! `after` is the last write that the primary had issued: the read has passed the range lock, so every write that it
//! has to show is among those. Later ones may show too; they are concurrent with it.
//!
//! Invariant: a read is answered once, with bytes of one copy or with an error; one that waits for its host fails
//! when it was held longer than `hold`.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    clients::PIECE_BYTES_MAX,
    io::{Action, Area, Channel, DiskError, LinkId, RequestError, RequestOutcome},
    operation::{Kind, Purpose},
    slab::Key,
    span::ByteSpan,
    volume::{Broken, Volume},
    wire::Frame,
};
use crate::ids::{PeerIndex, Sequence, Timestamp};

/// Questions under way at once.
const FETCHES_MAX: usize = 64;

/// What the primary wants to read from a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemoteReads {
    reads: Vec<RemoteRead>,
    waiting: VecDeque<Part>,
    asked: Vec<Asked>,
    next_id: u64,
}

/// What a peer was asked for. It counts until it is answered, whoever still waits for it: the peer counts too.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    peer: PeerIndex,
    part: Part,
}

/// A client's read.
#[derive(Clone, Debug)]
struct RemoteRead {
    operation: Key,
    offset: u64,
    since: Timestamp,
    /// The bytes that have come, by their order; a read that fits a frame needs no copy.
    parts: Vec<(u64, Bytes)>,
    missing: usize,
}

/// So much of a read as fits a frame.
#[derive(Clone, Copy, Debug)]
struct Part {
    operation: Key,
    span: ByteSpan,
}

/// A question of the primary that waits here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    id: u64,
    span: ByteSpan,
    after: Sequence,
    reading: bool,
}

impl Volume {
    /// A read that the range lock has let through cannot be served from the own disk.
    pub(crate) fn read_remotely(&mut self, key: Key) {
        let span = self.operations.get_mut(key).expect("an operation in the lock exists").span;
        let since = self.now;
        let mut missing = 0;
        let mut offset = span.offset;
        while offset < span.end() {
            let len = PIECE_BYTES_MAX.min(span.end() - offset);
            self.remote_reads.waiting.push_back(Part { operation: key, span: ByteSpan { offset, len } });
            missing += 1;
            offset += len;
        }
        let read = RemoteRead { operation: key, offset: span.offset, since, parts: Vec::new(), missing };
        self.remote_reads.reads.push(read);
    }

    /// Asks for what waits, or gives up what nobody can answer any more.
    pub(crate) fn advance_remote_reads(&mut self) {
        if self.remote_reads.reads.is_empty() {
            return;
        }
        if !self.serves() {
            self.fail_remote_reads(RequestError::Shutdown);
            return;
        }
        let able = |peer: &super::peer::Peer| peer.is_counted() && peer.is_in_sync();
        let Some(peer) = self.peers.iter().find(|peer| able(peer)).map(|peer| peer.index) else {
            if !self.is_diskless() {
                self.fail_remote_reads(RequestError::Io);
            }
            return;
        };
        if self.is_diskless() && self.suspended.is_some() {
            return;
        }
        while self.remote_reads.asked.iter().filter(|asked| asked.peer == peer).count() < FETCHES_MAX
            && let Some(part) = self.remote_reads.waiting.pop_front()
        {
            let id = self.remote_reads.next_id;
            self.remote_reads.next_id += 1;
            self.remote_reads.asked.push(Asked { id, peer, part });
            let after = self.log.issued();
            self.send(peer, Channel::Data, Frame::Fetch { id, span: part.span, after });
        }
    }

    fn fail_remote_reads(&mut self, error: RequestError) {
        while let Some(read) = self.remote_reads.reads.first() {
            let key = read.operation;
            self.end_remote_read(key, Err(error));
        }
    }

    fn end_remote_read(&mut self, key: Key, result: Result<Bytes, RequestError>) {
        let reads = &mut self.remote_reads;
        reads.reads.retain(|read| read.operation != key);
        reads.waiting.retain(|part| part.operation != key);
        let operation = self.leave(key);
        let Kind::ClientRead { client, id, .. } = operation.kind else {
            panic!("only clients read remotely")
        };
        let result = result.map(|data| {
            self.io.reads += 1;
            self.io.read_bytes += data.len() as u64;
            RequestOutcome::Data(data)
        });
        self.reply_read(client, id, result);
    }

    /// The peer's answer.
    pub(crate) fn on_fetched(
        &mut self,
        peer: PeerIndex,
        id: u64,
        payload: Option<Bytes>,
    ) -> Result<(), Broken> {
        self.leading_mut(peer)?;
        let reads = &mut self.remote_reads;
        // An answer of a session before this one is not waited for any more.
        let Some(place) = reads.asked.iter().position(|asked| asked.id == id && asked.peer == peer) else {
            return Ok(());
        };
        let part = reads.asked[place].part;
        if payload.as_ref().is_some_and(|payload| payload.len() as u64 != part.span.len) {
            // It stays with what is asked for again, elsewhere or on the next link.
            return Err(Broken("read bytes of the wrong length"));
        }
        reads.asked.swap_remove(place);
        // The read was given up meanwhile.
        let Some(read) = reads.reads.iter_mut().find(|read| read.operation == part.operation) else {
            return Ok(());
        };
        match payload {
            Some(payload) => {
                read.parts.push((part.span.offset, payload));
                read.missing -= 1;
            }
            None => {
                self.end_remote_read(part.operation, Err(RequestError::Io));
                return Ok(());
            }
        }
        if read.missing > 0 {
            return Ok(());
        }
        let (key, offset) = (read.operation, read.offset);
        let mut parts = std::mem::take(&mut read.parts);
        parts.sort_unstable_by_key(|(at, _)| *at);
        assert!(parts.first().is_some_and(|(at, _)| *at == offset), "the first part is there");
        let data = match parts.as_slice() {
            [(_, whole)] => whole.clone(),
            parts => parts.iter().flat_map(|(_, part)| part.iter().copied()).collect(),
        };
        self.end_remote_read(key, Ok(data));
        Ok(())
    }

    /// The session with the peer is over: what it was asked for is asked for again when it, or another, is there.
    pub(crate) fn ask_reads_again(&mut self, peer: PeerIndex) {
        let reads = &mut self.remote_reads;
        let (lost, left): (Vec<Asked>, Vec<Asked>) =
            reads.asked.drain(..).partition(|asked| asked.peer == peer);
        reads.asked = left;
        for Asked { part, .. } in lost.into_iter().rev() {
            if reads.reads.iter().any(|read| read.operation == part.operation) {
                reads.waiting.push_front(part);
            }
        }
    }

    /// Fails reads that were held longer than `hold`; returns when the next one will have been.
    pub(crate) fn fail_overdue_reads(&mut self) -> Option<Timestamp> {
        loop {
            let first = self.remote_reads.reads.iter().min_by_key(|read| read.since)?;
            let (key, until) = (first.operation, first.since.after(self.config.hold));
            if until > self.now {
                return Some(until);
            }
            self.end_remote_read(key, Err(RequestError::Io));
        }
    }

    /// A primary wants to read from this copy.
    pub(crate) fn on_fetch(
        &mut self,
        peer: PeerIndex,
        id: u64,
        span: ByteSpan,
        after: Sequence,
    ) -> Result<(), Broken> {
        if !self.is_valid(span) || span.len > PIECE_BYTES_MAX {
            return Err(Broken("a read of an impossible span"));
        }
        let following = self.following_mut(peer)?;
        if !following.in_sync() || following.fetches.len() >= FETCHES_MAX {
            return Err(Broken("a read that cannot be served"));
        }
        following.fetches.push(Fetch { id, span, after, reading: false });
        self.advance_fetches(peer);
        Ok(())
    }

    /// Reads what the primary wants, as soon as everything before is applied.
    pub(crate) fn advance_fetches(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let Ok(following) = self.following_mut(peer) else { return };
        let applied = following.applied;
        let due = |fetch: &&mut Fetch| !fetch.reading && fetch.after <= applied;
        let mut ready = Vec::new();
        for fetch in following.fetches.iter_mut().filter(due) {
            fetch.reading = true;
            ready.push((fetch.id, fetch.span));
        }
        for (fetch, span) in ready {
            let tag = self.tag(Purpose::FetchRead { peer, link, fetch });
            self.out.push(Action::Read { tag, area: Area::Data, span });
        }
    }

    pub(crate) fn on_fetch_read(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        id: u64,
        result: Result<Bytes, DiskError>,
    ) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Ok(following) = self.following_mut(peer) else { return };
        following.fetches.retain(|fetch| fetch.id != id);
        self.send(peer, Channel::Data, Frame::Fetched { id, payload: result.ok() });
    }
}
