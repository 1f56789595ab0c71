//! The writes that a primary has issued and that are not yet stable everywhere (design W2, W4, W6).
//!
//! ```text
//!   issued ──every awaited node acknowledged──> answerable ──applied and stable on every node──> forgotten
//! ```
//!
//! The log is a ring in sequence order. It knows of each write where it went, who has applied it and whose
//! acknowledgement its answer waits for; and of each node up to where everything is applied and stable. When a
//! peer is lost, what it did not report as stable is handed out, to become dirty bits.
//!
//! Invariants, asserted:
//! - the ring holds exactly the writes after `forgotten` up to `issued`, without gaps;
//! - a node's `stable` never passes its `applied`, and `applied` never passes `issued`;
//! - nothing is forgotten before it is stable on every node that takes part;
//! - no call allocates: the ring's capacity is fixed at start and [`WriteLog::is_full`] says when to wait.

use std::collections::VecDeque;

use super::{slab::Key, span::ByteSpan};
use crate::ids::{MAX_PEERS, PeerIndex, Sequence};

/// The nodes of a volume as seen from one of them: itself and its peers.
const NODES: usize = MAX_PEERS + 1;

/// One node, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This node's disk.
    Own,
    /// A peer.
    Peer(PeerIndex),
}

impl Place {
    fn index(self) -> usize {
        match self {
            Self::Own => 0,
            Self::Peer(peer) => 1 + peer.as_usize(),
        }
    }
}

/// A set of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Places(u8);

impl Places {
    pub(crate) const NONE: Self = Self(0);

    #[must_use]
    pub(crate) fn with(self, place: Place) -> Self {
        Self(self.0 | 1 << place.index())
    }

    #[must_use]
    pub(crate) fn without(self, place: Place) -> Self {
        Self(self.0 & !(1 << place.index()))
    }

    pub(crate) fn contains(self, place: Place) -> bool {
        self.0 & 1 << place.index() != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One issued write.
#[derive(Clone, Debug)]
struct Issued {
    span: ByteSpan,
    /// Whose acknowledgement the answer still waits for.
    awaited: Places,
    /// Who has it and has not applied it.
    unapplied: Places,
    /// Whether having received it counts as an acknowledgement of a peer (protocol B, not for FUA).
    by_receipt: bool,
    /// The user's name for the write, until it has become answerable.
    piece: Key,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watermarks {
    applied: Sequence,
    stable: Sequence,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct WriteLog {
    ring: VecDeque<Issued>,
    capacity: usize,
    /// The last write that is no longer in the ring.
    forgotten: Sequence,
    taking_part: Places,
    marks: [Watermarks; NODES],
    /// Bytes issued and not applied, per node: the lag.
    lag_bytes: [u64; NODES],
}

/// An acknowledgement that cannot be: the peer that sent it has broken the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible;

impl WriteLog {
    /// An empty log for a node that takes part itself; `issued` is the last sequence that is already used up.
    pub(crate) fn new(capacity: usize, issued: Sequence) -> Self {
        let mark = Watermarks { applied: issued, stable: issued };
        Self {
            ring: VecDeque::with_capacity(capacity),
            capacity,
            forgotten: issued,
            taking_part: Places::NONE.with(Place::Own),
            marks: [mark; NODES],
            lag_bytes: [0; NODES],
        }
    }

    /// The last sequence issued.
    pub(crate) fn issued(&self) -> Sequence {
        Sequence(self.forgotten.0 + self.ring.len() as u64)
    }

    /// Whether the next write has to wait until something has become stable.
    pub(crate) fn is_full(&self) -> bool {
        self.ring.len() >= self.capacity
    }

    /// Whether it is time to make things stable, long before the log is full.
    pub(crate) fn wants_flush(&self) -> bool {
        self.ring.len() >= self.capacity / 2
    }

    /// Whether every write is answerable and applied wherever it went.
    pub(crate) fn is_settled(&self) -> bool {
        self.ring.iter().all(|issued| issued.awaited.is_empty() && issued.unapplied.is_empty())
    }

    /// Whether `place` gets every write.
    pub(crate) fn takes_part(&self, place: Place) -> bool {
        self.taking_part.contains(place)
    }

    /// From now on `place` gets every write.
    pub(crate) fn join(&mut self, place: Place) {
        assert!(!self.taking_part.contains(place), "{place:?} takes part already");
        self.taking_part = self.taking_part.with(place);
        let issued = self.issued();
        self.marks[place.index()] = Watermarks { applied: issued, stable: issued };
        self.lag_bytes[place.index()] = 0;
    }

    /// Records a write that goes to every node that takes part; its answer waits for `awaited`.
    ///
    /// # Panics
    /// If the log is full or a node is awaited that does not take part.
    pub(crate) fn issue(
        &mut self,
        span: ByteSpan,
        awaited: Places,
        by_receipt: bool,
        piece: Key,
    ) -> Sequence {
        assert!(!self.is_full(), "the caller waits while the log is full");
        assert!(awaited.0 & !self.taking_part.0 == 0, "an awaited node takes part");
        for index in 0..NODES {
            if self.taking_part.0 & 1 << index != 0 {
                self.lag_bytes[index] += span.len;
            }
        }
        self.ring.push_back(Issued { span, awaited, unapplied: self.taking_part, by_receipt, piece });
        self.issued()
    }

    /// `place` has received everything up to `upto` (protocol B). Appends the pieces that are answerable now.
    pub(crate) fn received(
        &mut self,
        place: Place,
        upto: Sequence,
        answerable: &mut Vec<Key>,
    ) -> Result<(), Impossible> {
        if upto > self.issued() || !self.taking_part.contains(place) {
            return Err(Impossible);
        }
        for at in 0..self.ring.len().min(self.position_after(upto)) {
            if self.ring[at].by_receipt {
                self.acknowledge(at, place, answerable);
            }
        }
        Ok(())
    }

    /// `place` has applied `sequence`. Appends its piece if it is answerable now. A repeated acknowledgement
    /// changes nothing.
    pub(crate) fn applied(
        &mut self,
        place: Place,
        sequence: Sequence,
        answerable: &mut Vec<Key>,
    ) -> Result<(), Impossible> {
        if sequence > self.issued() || !self.taking_part.contains(place) {
            return Err(Impossible);
        }
        if sequence <= self.marks[place.index()].applied {
            return Ok(());
        }
        let at = self.position_after(sequence) - 1;
        let issued = &mut self.ring[at];
        if issued.unapplied.contains(place) {
            issued.unapplied = issued.unapplied.without(place);
            self.lag_bytes[place.index()] -= issued.span.len;
        }
        self.acknowledge(at, place, answerable);
        let mut applied = self.marks[place.index()].applied;
        while applied < self.issued() {
            let next = &self.ring[self.position_after(applied)];
            if next.unapplied.contains(place) {
                break;
            }
            applied = applied.next();
        }
        self.marks[place.index()].applied = applied;
        Ok(())
    }

    /// Everything up to `upto` is stable on `place`. Forgets what is stable everywhere.
    pub(crate) fn stable(&mut self, place: Place, upto: Sequence) -> Result<(), Impossible> {
        let mark = &mut self.marks[place.index()];
        if upto > mark.applied || !self.taking_part.contains(place) {
            return Err(Impossible);
        }
        mark.stable = mark.stable.max(upto);
        self.forget();
        Ok(())
    }

    /// Up to where everything is applied on `place`.
    pub(crate) fn applied_to(&self, place: Place) -> Sequence {
        self.marks[place.index()].applied
    }

    /// Up to where everything is stable on `place`.
    pub(crate) fn stable_to(&self, place: Place) -> Sequence {
        self.marks[place.index()].stable
    }

    /// Up to where everything is stable on every node that takes part.
    pub(crate) fn stable_everywhere(&self) -> Sequence {
        (0..NODES)
            .filter(|index| self.taking_part.0 & 1 << index != 0)
            .map(|index| self.marks[index].stable)
            .min()
            .unwrap_or(self.issued())
    }

    /// Bytes that `place` has got and not applied.
    pub(crate) fn lag_bytes(&self, place: Place) -> u64 {
        self.lag_bytes[place.index()]
    }

    /// `place` takes part no longer: hands out what is not known to be stable there (design W6) and appends the
    /// pieces that waited for it alone.
    pub(crate) fn leave(
        &mut self,
        place: Place,
        mut lacking: impl FnMut(ByteSpan),
        answerable: &mut Vec<Key>,
    ) {
        assert!(self.taking_part.contains(place), "{place:?} takes part");
        self.taking_part = self.taking_part.without(place);
        let stable = self.marks[place.index()].stable;
        for at in 0..self.ring.len() {
            if self.forgotten.0 + 1 + at as u64 > stable.0 {
                lacking(self.ring[at].span);
            }
            self.ring[at].unapplied = self.ring[at].unapplied.without(place);
            self.acknowledge(at, place, answerable);
        }
        self.lag_bytes[place.index()] = 0;
        self.forget();
    }

    /// The own disk has failed and `host` serves in its place (W7): whatever waited for the own disk waits until the
    /// host has applied it, whatever was sufficient before. Appends the pieces that it has applied already.
    pub(crate) fn hand_over(&mut self, host: Place, answerable: &mut Vec<Key>) {
        assert!(self.taking_part.contains(host), "{host:?} takes part");
        self.taking_part = self.taking_part.without(Place::Own);
        self.lag_bytes[Place::Own.index()] = 0;
        for issued in &mut self.ring {
            issued.unapplied = issued.unapplied.without(Place::Own);
            issued.by_receipt = false;
            if issued.awaited.is_empty() {
                continue;
            }
            issued.awaited = issued.awaited.without(Place::Own);
            if issued.unapplied.contains(host) {
                issued.awaited = issued.awaited.with(host);
            }
            if issued.awaited.is_empty() {
                answerable.push(issued.piece);
            }
        }
        self.forget();
    }

    /// The host is lost, and nobody takes part any more: names the pieces that it has not acknowledged, in order.
    /// Nothing is known of them; they are issued anew when it is back.
    pub(crate) fn withdraw(&mut self, host: Place) -> Vec<Key> {
        self.taking_part = self.taking_part.without(host);
        assert!(self.taking_part.is_empty(), "a primary without a disk has one host");
        self.lag_bytes[host.index()] = 0;
        let issued = self.issued();
        let unacknowledged = self.ring.drain(..).filter(|issued| !issued.awaited.is_empty());
        let pieces = unacknowledged.map(|issued| issued.piece).collect();
        self.forgotten = issued;
        pieces
    }

    /// The position in the ring of the write after `sequence`.
    fn position_after(&self, sequence: Sequence) -> usize {
        usize::try_from(sequence.0.saturating_sub(self.forgotten.0)).expect("the ring is in memory")
    }

    fn acknowledge(&mut self, at: usize, place: Place, answerable: &mut Vec<Key>) {
        let issued = &mut self.ring[at];
        if issued.awaited.contains(place) {
            issued.awaited = issued.awaited.without(place);
            if issued.awaited.is_empty() {
                answerable.push(issued.piece);
            }
        }
    }

    fn forget(&mut self) {
        let stable = self.stable_everywhere();
        while self.forgotten < stable
            && let Some(front) = self.ring.front()
        {
            if !front.awaited.is_empty() || !front.unapplied.is_empty() {
                break;
            }
            self.ring.pop_front();
            self.forgotten = self.forgotten.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Place = Place::Peer(PeerIndex::FIRST);

    fn key(number: u64) -> Key {
        Key::from_u64(number)
    }

    fn span(offset: u64) -> ByteSpan {
        ByteSpan { offset, len: 4096 }
    }

    fn both() -> Places {
        Places::NONE.with(Place::Own).with(PEER)
    }

    fn log_of_two() -> WriteLog {
        let mut log = WriteLog::new(8, Sequence(100));
        log.join(PEER);
        log
    }

    #[test]
    fn a_write_is_answerable_when_all_awaited_have_it() {
        let mut log = log_of_two();
        let first = log.issue(span(0), both(), false, key(7));
        assert_eq!(first, Sequence(101));
        let mut answerable = Vec::new();
        log.applied(PEER, first, &mut answerable).expect("possible");
        log.applied(PEER, first, &mut answerable).expect("a repeated acknowledgement is harmless");
        assert!(answerable.is_empty());
        log.applied(Place::Own, first, &mut answerable).expect("possible");
        assert_eq!(answerable, [key(7)]);
    }

    #[test]
    fn watermarks_follow_the_order_not_the_acknowledgements() {
        let mut log = log_of_two();
        let first = log.issue(span(0), both(), false, key(1));
        let second = log.issue(span(4096), both(), false, key(2));
        let mut answerable = Vec::new();
        log.applied(PEER, second, &mut answerable).expect("possible");
        assert_eq!(log.applied_to(PEER), Sequence(100));
        assert_eq!(log.stable(PEER, second), Err(Impossible), "stable before applied");
        log.applied(PEER, first, &mut answerable).expect("possible");
        assert_eq!(log.applied_to(PEER), second);
        assert_eq!(log.lag_bytes(PEER), 0);
        assert_eq!(log.lag_bytes(Place::Own), 8192);
    }

    #[test]
    fn w6_a_lost_peer_lacks_what_it_did_not_report_as_stable() {
        let mut log = log_of_two();
        let mut answerable = Vec::new();
        for piece in 0..3 {
            let sequence = log.issue(span(piece * 4096), both(), false, key(piece));
            log.applied(Place::Own, sequence, &mut answerable).expect("possible");
            log.applied(PEER, sequence, &mut answerable).expect("possible");
        }
        let late = log.issue(span(1 << 20), both(), false, key(3));
        log.applied(Place::Own, late, &mut answerable).expect("possible");
        log.stable(PEER, Sequence(101)).expect("possible");
        answerable.clear();
        let mut lacking = Vec::new();
        log.leave(PEER, |span| lacking.push(span.offset), &mut answerable);
        assert_eq!(lacking, [4096, 8192, 1 << 20], "applied is not stable");
        assert_eq!(answerable, [key(3)]);
    }

    #[test]
    fn d8_nothing_is_forgotten_before_it_is_stable_everywhere() {
        let mut log = log_of_two();
        let mut answerable = Vec::new();
        let first = log.issue(span(0), both(), false, key(0));
        for place in [Place::Own, PEER] {
            log.applied(place, first, &mut answerable).expect("possible");
        }
        log.stable(PEER, first).expect("possible");
        assert_eq!(log.stable_everywhere(), Sequence(100));
        assert_eq!(log.ring.len(), 1);
        log.stable(Place::Own, first).expect("possible");
        assert_eq!(log.stable_everywhere(), first);
        assert_eq!(log.ring.len(), 0);
    }

    #[test]
    fn w7_what_waited_for_the_own_disk_waits_until_the_host_has_applied_it() {
        let mut log = log_of_two();
        let own = Places::NONE.with(Place::Own);
        let mut answerable = Vec::new();
        let applied = log.issue(span(0), both(), false, key(1));
        let ahead = log.issue(span(4096), own, false, key(2));
        let received = log.issue(span(8192), both(), true, key(3));
        log.received(PEER, received, &mut answerable).expect("possible");
        log.applied(PEER, applied, &mut answerable).expect("possible");
        assert!(answerable.is_empty());
        log.hand_over(PEER, &mut answerable);
        assert_eq!(answerable, [key(1)], "on A and B too: received is not applied");
        log.applied(PEER, ahead, &mut answerable).expect("possible");
        assert_eq!(answerable, [key(1), key(2)]);
        assert_eq!(log.withdraw(PEER), [key(3)], "to be issued anew");
        assert_eq!(log.issued(), received, "no sequence is used twice");
        log.join(PEER);
        assert_eq!(log.stable_everywhere(), received);
    }

    #[test]
    fn impossible_acknowledgements_are_refused() {
        let mut log = log_of_two();
        let mut answerable = Vec::new();
        assert_eq!(log.applied(PEER, Sequence(101), &mut answerable), Err(Impossible));
        assert_eq!(log.received(PEER, Sequence(101), &mut answerable), Err(Impossible));
        assert_eq!(log.stable(PEER, Sequence(101)), Err(Impossible));
        log.issue(span(0), both(), false, key(0));
        log.leave(PEER, |_| {}, &mut answerable);
        assert_eq!(log.applied(PEER, Sequence(101), &mut answerable), Err(Impossible));
    }

    #[test]
    fn the_log_says_when_it_is_full() {
        let mut log = WriteLog::new(2, Sequence::ZERO);
        let own = Places::NONE.with(Place::Own);
        log.issue(span(0), own, false, key(0));
        assert!(log.wants_flush());
        log.issue(span(0), own, false, key(1));
        assert!(log.is_full());
        let mut answerable = Vec::new();
        for sequence in [1, 2] {
            log.applied(Place::Own, Sequence(sequence), &mut answerable).expect("possible");
        }
        assert!(log.is_settled());
        log.stable(Place::Own, Sequence(2)).expect("possible");
        assert!(!log.is_full());
    }
}
