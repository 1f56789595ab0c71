//! Requests of clients: admission (W1), reads, writes, and their answers.
//!
//! ```text
//!   waiting ──admit──> in the range lock ──let through──> hot in the activity log ──> issued ──> answered
//! ```
//!
//! The range lock comes before the activity log: a piece that is let through gets its sequence number in the
//! same call in which its extents are hot, so no extent can be evicted between the two.

use super::{
    DiskState, Role,
    config::Protocol,
    io::{Action, ClientId, ClientOperation, RequestError, RequestId, RequestOutcome},
    operation::{Content, Kind, Operation, Purpose, Request},
    range_lock::Access,
    slab::Key,
    span::ByteSpan,
    status::Suspended,
    verify::REPAIR_CLIENT,
    volume::Volume,
    write_log::{Place, Places},
};
use crate::ids::{Sequence, Timestamp};

/// No piece of a write is longer than this: it must fit a frame.
pub(crate) const PIECE_BYTES_MAX: u64 = 1 << 20;

/// Protocol A: a peer that was too far behind comes nearer by one in so many parts of what is allowed.
const LAG_SHARE: u64 = 16;

/// A request that is not admitted yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) client: ClientId,
    pub(crate) id: RequestId,
    pub(crate) operation: ClientOperation,
    pub(crate) since: Timestamp,
}

impl Volume {
    pub(crate) fn on_request(&mut self, client: ClientId, id: RequestId, operation: ClientOperation) {
        self.waiting.push_back(Waiting { client, id, operation, since: self.now });
    }

    /// After each event: what waits when there is no role to wait for must not be carried out under a later one
    /// (W1; found by the simulator: a request that came while the role ended took effect when it was taken up again).
    pub(crate) fn turn_clients_away(&mut self) {
        if !self.takes_clients() {
            self.fail_waiting(RequestError::Shutdown);
        }
    }

    /// A client is gone: what is not admitted is dropped, what is keeps its sequence (W1).
    pub(crate) fn on_client_gone(&mut self, client: ClientId) {
        self.waiting.retain(|waiting| waiting.client != client);
    }

    /// Whether requests are taken, to be carried out now or held for a while.
    fn takes_clients(&self) -> bool {
        self.role == Role::Primary || self.is_retaking_role()
    }

    /// Whether clients may be told what is written and read here: a deposed primary only keeps its role until that is
    /// recorded (G10).
    pub(crate) fn serves(&self) -> bool {
        self.role == Role::Primary && self.suspended != Some(Suspended::Deposed)
    }

    /// Fails everything that waits.
    pub(crate) fn fail_waiting(&mut self, error: RequestError) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.reply(waiting.client, waiting.id, Err(error));
        }
    }

    /// Fails what has waited longer than `hold`; returns when the next one will have.
    pub(crate) fn fail_overdue(&mut self) -> Option<Timestamp> {
        let next_waiting = self.fail_overdue_waiting();
        let next_withheld = self.fail_overdue_withheld();
        let next_blocked = self.fail_overdue_blocked_reads();
        let next_flush = self.fail_overdue_flushes();
        let next_read = self.fail_overdue_reads();
        [next_waiting, next_withheld, next_blocked, next_flush, next_read].into_iter().flatten().min()
    }

    /// Of what is held, each since some time: what was for longer than `hold`, and when the next will have been.
    fn overdue(&self, held: impl Iterator<Item = (Key, Timestamp)>) -> (Vec<Key>, Option<Timestamp>) {
        let (mut overdue, mut next) = (Vec::new(), None);
        for (key, since) in held {
            let until = since.after(self.config.hold);
            if until <= self.now {
                overdue.push(key);
            } else {
                next = Some(next.map_or(until, |next: Timestamp| next.min(until)));
            }
        }
        (overdue, next)
    }

    /// The same for what was admitted and whose answer is withheld. It stays where it was written; only nobody
    /// can be told any more that it was.
    fn fail_overdue_withheld(&mut self) -> Option<Timestamp> {
        if !self.withholds_answers() {
            return None;
        }
        let held = self
            .requests
            .iter()
            .filter(|(_, request)| !request.answered && request.client != REPAIR_CLIENT)
            .map(|(key, request)| (key, request.since));
        let (overdue, next) = self.overdue(held);
        for key in overdue {
            let request = self.requests.get_mut(key).expect("was just there");
            request.answered = true;
            request.failed = true;
            let (client, id) = (request.client, request.id);
            self.reply(client, id, Err(RequestError::Io));
        }
        self.give_up_answered();
        next
    }

    /// The same for reads that wait in the range lock for such a write (W3): it stays there as long as it is withheld.
    fn fail_overdue_blocked_reads(&mut self) -> Option<Timestamp> {
        if !self.withholds_answers() {
            return None;
        }
        // One that the lock has let through is answered by the disk.
        let blocked = self.operations.iter().filter_map(|(key, operation)| match operation.kind {
            Kind::ClientRead { since, .. } if !self.lock.is_held(operation.lock) => Some((key, since)),
            Kind::ClientRead { .. }
            | Kind::ClientWrite { .. }
            | Kind::Replica { .. }
            | Kind::SourceRead { .. }
            | Kind::Check { .. }
            | Kind::TargetStore { .. } => None,
        });
        let (overdue, next) = self.overdue(blocked);
        for key in overdue {
            let Kind::ClientRead { client, id, .. } = self.leave(key).kind else {
                panic!("only reads were looked for")
            };
            self.reply(client, id, Err(RequestError::Io));
        }
        next
    }

    /// Pieces that wait to be issued and whose client has been told that they failed are not issued any more.
    fn give_up_answered(&mut self) {
        for _ in 0..self.parked.len() {
            let key = self.parked.pop_front().expect("counted");
            let operation = self.operations.get_mut(key).expect("a parked piece is in the lock");
            let answered = match operation.kind {
                Kind::ClientWrite { request, .. } => {
                    self.requests.get_mut(request).is_some_and(|request| request.answered)
                }
                Kind::Replica { .. } => false,
                Kind::ClientRead { .. }
                | Kind::SourceRead { .. }
                | Kind::Check { .. }
                | Kind::TargetStore { .. } => panic!("only writes are parked"),
            };
            if answered {
                self.give_up(key);
            } else {
                self.parked.push_back(key);
            }
        }
    }

    fn fail_overdue_waiting(&mut self) -> Option<Timestamp> {
        while let Some(first) = self.waiting.front() {
            let until = first.since.after(self.config.hold);
            if until > self.now {
                return Some(until);
            }
            let first = self.waiting.pop_front().expect("there is a front");
            self.reply(first.client, first.id, Err(RequestError::Io));
        }
        None
    }

    /// Requests that wait for more than their turn.
    pub(crate) fn held(&self) -> u64 {
        if !self.withholds_answers() && !self.is_retaking_role() {
            return 0;
        }
        let unanswered = self.requests.iter().filter(|(_, request)| !request.answered).count();
        (self.waiting.len() + unanswered + self.flushes.waiting()) as u64
    }

    pub(crate) fn reply(
        &mut self,
        client: ClientId,
        id: RequestId,
        result: Result<RequestOutcome, RequestError>,
    ) {
        self.out.push(Action::Reply { client, id, result });
    }

    /// Admits the request that has waited longest, if it can be; nothing overtakes it.
    pub(crate) fn admit_next(&mut self) -> bool {
        if self.role != Role::Primary || self.withholds_answers() || self.is_demoting() {
            return false;
        }
        let Some(first) = self.waiting.front() else { return false };
        let bytes = match &first.operation {
            ClientOperation::Write { payload, .. } => payload.len() as u64,
            ClientOperation::Zero { .. } => super::SECTOR_BYTES,
            ClientOperation::Read(_) | ClientOperation::Flush => 0,
        };
        if bytes > 0 && !self.has_room_for(bytes) {
            return false;
        }
        let first = self.waiting.pop_front().expect("there is a front");
        match first.operation {
            ClientOperation::Flush => self.admit_flush(first.client, first.id),
            ClientOperation::Read(span) => {
                if !self.is_valid(span) {
                    self.reply(first.client, first.id, Err(RequestError::Invalid));
                    return true;
                }
                let kind = Kind::ClientRead { client: first.client, id: first.id, since: first.since };
                self.enter(span, Access::Read, kind);
            }
            ClientOperation::Write { offset, payload, fua } => {
                let span = ByteSpan { offset, len: payload.len() as u64 };
                self.admit_write(first.client, first.id, span, &Content::Data(payload), fua, bytes);
            }
            ClientOperation::Zero { span, mode, fua } => {
                self.admit_write(first.client, first.id, span, &Content::Zero(mode), fua, bytes);
            }
        }
        true
    }

    /// Whether the limits leave room for one more write (W1).
    fn has_room_for(&mut self, bytes: u64) -> bool {
        let idle = self.requests.len() == 0;
        let fits = self.inflight_bytes + bytes <= self.config.max_inflight_bytes
            && self.requests.len() < self.config.max_inflight_writes;
        // A write larger than the whole limit still goes through, alone.
        (idle || fits) && !self.is_holding_writes() && !self.is_too_far_ahead()
    }

    /// Protocol A: whether a peer is further behind than allowed. If so, it has to come nearer by a part of that: were
    /// one write let in for each that it has applied, each would follow the answers to all before it (W5), and the peer
    /// could apply only one at a time.
    fn is_too_far_ahead(&mut self) -> bool {
        if self.config.protocol != Protocol::A {
            return false;
        }
        let max = self.config.max_lag_bytes;
        let limit = if self.too_far_ahead { max - max / LAG_SHARE } else { max };
        self.too_far_ahead = self
            .peers
            .iter()
            .any(|peer| peer.is_counted() && self.log.lag_bytes(Place::Peer(peer.index)) >= limit);
        self.too_far_ahead
    }

    fn admit_write(
        &mut self,
        client: ClientId,
        id: RequestId,
        span: ByteSpan,
        content: &Content,
        fua: bool,
        bytes: u64,
    ) {
        if !self.is_valid(span) {
            self.reply(client, id, Err(RequestError::Invalid));
            return;
        }
        let piece_bytes = match content {
            Content::Data(_) => PIECE_BYTES_MAX.min(self.store().piece_bytes_max()),
            Content::Zero(_) => self.store().piece_bytes_max(),
        };
        // Pieces end at multiples of their size, so that each lies within few extents (D9).
        let first = span.offset / piece_bytes;
        let last = (span.end() - 1) / piece_bytes;
        let pieces = u32::try_from(last - first + 1).expect("a request is limited by the device's size");
        self.inflight_bytes += bytes;
        let since = self.now;
        let request =
            Request { client, id, pieces_left: pieces, bytes, failed: false, answered: false, since };
        let request = self.requests.insert(request);
        for piece in first..=last {
            let offset = span.offset.max(piece * piece_bytes);
            let end = span.end().min((piece + 1) * piece_bytes);
            let content = match content {
                Content::Data(payload) => {
                    let at = |offset| usize::try_from(offset - span.offset).expect("payload is in memory");
                    Content::Data(payload.slice(at(offset)..at(end)))
                }
                Content::Zero(mode) => Content::Zero(*mode),
            };
            let kind = Kind::ClientWrite { request, content, fua, sequence: None };
            self.enter(ByteSpan { offset, len: end - offset }, Access::Change, kind);
        }
    }

    /// A piece is let through: issues it if its extents are hot, else asks for them.
    pub(crate) fn begin_client_write(&mut self, key: Key, span: ByteSpan) {
        if !self.serves() {
            self.fail_piece(key);
            return;
        }
        if self.store_mut().hold(span, key) {
            self.issue_or_park(key);
        }
    }

    /// A piece holds its extents: issues it now, or as soon as answers go on and the log has room.
    pub(crate) fn issue_or_park(&mut self, key: Key) {
        let operation = self.operations.get_mut(key).expect("a piece in the lock exists");
        if matches!(operation.kind, Kind::Replica { .. }) {
            if self.disk == DiskState::Failed {
                self.leave(key);
            } else if self.log.is_full() || !self.parked.is_empty() {
                self.parked.push_back(key);
            } else {
                self.issue_hosted(key);
            }
            return;
        }
        if !self.serves() {
            self.give_up(key);
            return;
        }
        if self.suspended.is_some() || self.log.is_full() || !self.parked.is_empty() {
            self.parked.push_back(key);
        } else {
            self.issue(key);
        }
    }

    /// Issues what was parked, in order, as far as it can be.
    pub(crate) fn unpark_pieces(&mut self) {
        while self.suspended.is_none()
            && !self.log.is_full()
            && let Some(key) = self.parked.pop_front()
        {
            let operation = self.operations.get_mut(key).expect("a parked piece is in the lock");
            match operation.kind {
                Kind::Replica { .. } => self.issue_hosted(key),
                Kind::ClientWrite { .. }
                | Kind::ClientRead { .. }
                | Kind::SourceRead { .. }
                | Kind::Check { .. }
                | Kind::TargetStore { .. } => self.issue(key),
            }
        }
    }

    /// Every request that is under way ends with an error, however its pieces end (G10).
    pub(crate) fn fail_requests(&mut self) {
        let keys: Vec<Key> = self.requests.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.requests.get_mut(key).expect("was just there").failed = true;
        }
    }

    /// Fails every piece that has not been issued; what was issued goes on to its end, unanswered.
    pub(crate) fn fail_unissued_pieces(&mut self) {
        for key in self.store_mut().abandon_waiting() {
            match self.operations.get_mut(key).expect("what waits for extents is in the lock").kind {
                Kind::ClientWrite { .. } => self.fail_piece(key),
                // A leader's write: the own disk has failed.
                Kind::Replica { .. } => drop(self.leave(key)),
                Kind::ClientRead { .. }
                | Kind::SourceRead { .. }
                | Kind::Check { .. }
                | Kind::TargetStore { .. } => panic!("only writes wait for extents"),
            }
        }
        while let Some(key) = self.parked.pop_front() {
            self.give_up(key);
        }
    }

    /// Fails a piece that holds its extents and was not issued.
    fn give_up(&mut self, key: Key) {
        let span = self.operations.get_mut(key).expect("the piece is in the lock").span;
        self.store_mut().cancelled(span);
        self.fail_piece(key);
    }

    /// Gives the piece its place in the order and sends it everywhere at once (W2).
    fn issue(&mut self, key: Key) {
        let diskless = self.is_diskless();
        let mut awaited = if diskless { Places::NONE } else { Places::NONE.with(Place::Own) };
        let operation = self.operations.get_mut(key).expect("a piece in the lock exists");
        let span = operation.span;
        let Kind::ClientWrite { content, fua, .. } = &operation.kind else {
            panic!("only a client's write is issued")
        };
        let (content, fua) = (content.clone(), *fua);
        if self.config.protocol != Protocol::A || diskless {
            for peer in &self.peers {
                if peer.is_counted() {
                    awaited = awaited.with(Place::Peer(peer.index));
                }
            }
        }
        let by_receipt = self.config.protocol == Protocol::B && !fua && !diskless;
        let sequence = self.log.issue(span, awaited, by_receipt, key);
        self.store_mut().assigned(span, sequence);
        let operation = self.operations.get_mut(key).expect("still there");
        let Kind::ClientWrite { sequence: given, .. } = &mut operation.kind else {
            panic!("only a client's write is issued")
        };
        *given = Some(sequence);
        let lock = operation.lock;
        self.lock.issued(lock);
        // The peers get it before the own disk has it: their round trip is the longer one.
        for peer in self.peer_indices() {
            if self.peer(peer).receives() {
                self.send_write(peer, sequence, span, &content, fua);
            } else {
                self.store_mut().mark_dirty(peer, span, sequence);
            }
        }
        if !diskless {
            self.write_own(key, span, content, fua);
        }
    }

    /// Answers the pieces that have become answerable, unless answers are withheld (W6).
    pub(crate) fn answer_pieces(&mut self) {
        if self.withholds_answers() {
            let mut pieces = std::mem::take(&mut self.answerable);
            for &key in &pieces {
                // A resync must not wait for an answer that itself waits for the resync.
                let lock = self.operations.get_mut(key).expect("an unanswered piece is in the lock").lock;
                self.lock.settle(lock, &mut self.let_through);
            }
            self.withheld.append(&mut pieces);
            self.answerable = pieces;
            return;
        }
        let mut pieces = std::mem::take(&mut self.answerable);
        for key in pieces.drain(..) {
            self.answer_piece(key);
        }
        self.answerable = pieces;
    }

    /// Answers of a primary wait while a new generation is on its way, end when it is deposed (G10), and wait
    /// after a gap in its time until its peers have confirmed that it still is the primary (P8).
    pub(crate) fn withholds_answers(&self) -> bool {
        self.suspended.is_some() || !self.confirming.is_empty()
    }

    /// Lets go what was withheld.
    pub(crate) fn release_withheld(&mut self) {
        let mut withheld = std::mem::take(&mut self.withheld);
        for key in withheld.drain(..) {
            self.answer_piece(key);
        }
        self.withheld = withheld;
    }

    fn answer_piece(&mut self, key: Key) {
        let operation = self.leave(key);
        let Kind::ClientWrite { request, sequence, .. } = operation.kind else {
            panic!("only a client's write is answered by pieces")
        };
        if let Some(sequence) = sequence {
            self.note_replied(sequence);
        }
        // A write that outlives its role was never acknowledged by the role that follows.
        self.end_piece(request, self.role != Role::Primary);
    }

    /// Ends a piece that was never issued.
    pub(crate) fn fail_piece(&mut self, key: Key) {
        let operation = self.leave(key);
        let Kind::ClientWrite { request, .. } = operation.kind else {
            panic!("only a client's write is answered by pieces")
        };
        self.end_piece(request, true);
    }

    fn end_piece(&mut self, key: Key, failed: bool) {
        let request = self.requests.get_mut(key).expect("a request outlives its pieces");
        request.failed |= failed;
        request.pieces_left -= 1;
        if request.pieces_left > 0 {
            return;
        }
        let request = self.requests.remove(key).expect("was just there");
        self.inflight_bytes -= request.bytes;
        let stays = self.role == Role::Primary && !self.is_demoting();
        let error = if stays { RequestError::Io } else { RequestError::Shutdown };
        if request.client == REPAIR_CLIENT {
            self.on_repaired(request.id, request.failed);
            return;
        }
        if request.answered {
            return;
        }
        let result = if request.failed { Err(error) } else { Ok(RequestOutcome::Done) };
        if result.is_ok() {
            let now = self.now;
            self.pace.courtesy.answered(now, request.since);
            self.io.writes += 1;
            self.io.written_bytes += request.bytes;
        }
        self.reply(request.client, request.id, result);
    }

    /// The own disk is asked to do what an operation wants.
    pub(crate) fn write_own(&mut self, key: Key, span: ByteSpan, content: Content, fua: bool) {
        let tag = self.tag(Purpose::Operation(key));
        self.out.push(match content {
            Content::Data(payload) => Action::Write { tag, offset: span.offset, payload, fua },
            Content::Zero(mode) => Action::Zero { tag, span, mode, fua },
        });
    }

    /// Puts an operation behind all that entered the range lock before.
    pub(crate) fn enter(&mut self, span: ByteSpan, access: Access, kind: Kind) -> Key {
        // The lock names the operation's key as owner, and the operation the lock's id: so the slab comes first.
        let key = self.operations.insert(Operation { span, lock: super::range_lock::LockId::NONE, kind });
        let (lock, held) = self.lock.enter(span, access, key);
        let operation = self.operations.get_mut(key).expect("was just inserted");
        operation.lock = lock;
        // What comes from a primary has its sequence already.
        if matches!(operation.kind, Kind::Replica { .. } | Kind::TargetStore { .. }) {
            self.lock.issued(lock);
        }
        if held {
            self.let_through.push_back(key);
        }
        key
    }

    /// Takes an operation out; those that waited for it are let through.
    pub(crate) fn leave(&mut self, key: Key) -> Operation {
        let operation = self.operations.remove(key).expect("an operation leaves once");
        self.lock.leave(operation.lock, &mut self.let_through);
        operation
    }

    /// The highest sequence that was answered, for protocol A's order (W5).
    fn note_replied(&mut self, sequence: Sequence) {
        self.flushes.replied = self.flushes.replied.max(sequence);
    }
}
