//! The volume itself: what it owns, how an event is taken apart, and what happens after each event.
//!
//! Each concern has its file with its own `impl Volume`: `attach`, `clients`, `operations`, `flush`,
//! `handshake`, `lead`, `follow`, `pull`, `supply`, `generations`, `set_back`, `liveness`. All of them change
//! state only from within [`Volume::handle`].

use std::collections::VecDeque;

use super::{
    DiskState, Replication, Role,
    attach::Opening,
    clients::Waiting,
    config::{RunInfo, Tunables, VolumeConfig},
    demotion::Demotion,
    disk_failure::Failure,
    diskless::Diskless,
    entropy::Entropy,
    flush::Flushes,
    gap::WithheldRead,
    growth::Growing,
    io::{Action, Channel, CommandId, DiskError, DiskTag, Event, LinkId, Notice},
    operation::{Operation, Purpose, Request},
    pace::Pace,
    peer::{Peer, Session},
    promotion::{Promotion, Resumption},
    range_lock::RangeLock,
    remote_read::RemoteReads,
    slab::{Key, Slab},
    span::ByteSpan,
    status::{IoCounters, LastResync, PeerStatus, Status, Suspended},
    store::{Store, Then},
    verify::{CheckId, Verify},
    wire::Frame,
    write_log::{Place, WriteLog},
};
use crate::ids::{PeerIndex, Sequence, Timestamp};

/// How far a volume is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// The metadata are being read.
    Opening(Box<Opening>),
    /// Everything is known.
    Running,
    /// Nothing can be done any more: the metadata could not be opened, or the volume was shut down.
    Closed,
}

/// See the module's head. It holds nothing but its state: a copy of it goes on from the same moment, which is how
/// tests explore what may happen next.
#[derive(Clone, Debug)]
pub struct Volume {
    pub(crate) config: VolumeConfig,
    pub(crate) run: RunInfo,
    pub(crate) now: Timestamp,
    pub(crate) entropy: Entropy,
    pub(crate) stage: Stage,
    pub(crate) store: Option<Store>,
    pub(crate) role: Role,
    pub(crate) disk: DiskState,
    pub(crate) suspended: Option<Suspended>,
    /// A peer was lost that may have our head: no answer before a new generation is stable (G1).
    pub(crate) generation_due: bool,
    pub(crate) promotion: Option<Promotion>,
    /// Who is to be told when the node serves as primary.
    pub(crate) promotion_waiters: Vec<CommandId>,
    pub(crate) demotion: Option<Demotion>,
    pub(crate) resumption: Option<Resumption>,
    pub(crate) resync_paused: bool,
    pub(crate) pace: Pace,
    pub(crate) last_resync: Option<LastResync>,
    /// What clients have done; `held` is counted when it is asked for.
    pub(crate) io: IoCounters,
    pub(crate) verify: Option<Verify>,
    pub(crate) next_check: CheckId,
    pub(crate) growth: Growing,
    /// With three nodes: the leader whose writes are applied here, and on which link (see `survivors`).
    pub(crate) stream: Option<(PeerIndex, LinkId)>,
    /// The peer that takes over because the own disk failed.
    pub(crate) heir: Option<PeerIndex>,
    /// The own disk failed while primary, and a peer serves.
    pub(crate) diskless: Option<Diskless>,
    /// When the failure of the own disk is next tried to be recorded.
    pub(crate) condemn_at: Option<Timestamp>,
    pub(crate) remote_reads: RemoteReads,
    /// Whether what is read here is what the media have. After a run that may have seen a flush fail it is not: the
    /// kernel's cache still shows what the media never got (found by the simulator).
    pub(crate) reads_media: bool,
    pub(crate) peers: Vec<Peer>,

    pub(crate) lock: RangeLock,
    pub(crate) operations: Slab<Operation>,
    pub(crate) requests: Slab<Request>,
    pub(crate) purposes: Slab<Purpose>,
    pub(crate) log: WriteLog,
    pub(crate) flushes: Flushes,
    /// Requests that are not admitted yet, first come first served (W1).
    pub(crate) waiting: VecDeque<Waiting>,
    /// Protocol A: a peer is as far behind as it may be, and has not come nearer by a good piece since.
    pub(crate) too_far_ahead: bool,
    /// Bytes of writes that are admitted and not answered.
    pub(crate) inflight_bytes: u64,
    /// Peers that have to confirm, and since when, before answers go on (P8).
    pub(crate) confirming: Vec<(PeerIndex, Timestamp)>,
    /// Reads whose answers wait for that.
    pub(crate) withheld_reads: Vec<WithheldRead>,
    pub(crate) attached_at: Timestamp,
    /// When the attach counter was last looked at, and what was issued then (D6).
    pub(crate) minute: (Timestamp, Sequence),
    /// Flushes that begin when nothing that this node follows is on its way to the disk any more.
    pub(crate) quiescing: Vec<Purpose>,
    /// Pieces that every awaited node has, whose answer is withheld until a new generation is stable (W6).
    pub(crate) withheld: Vec<Key>,

    /// Pieces that are let through and wait for answers to go on, or for room in the log, in order.
    pub(crate) parked: VecDeque<Key>,
    /// Operations that the range lock has let through and that have not begun, in order.
    pub(crate) let_through: VecDeque<Key>,
    /// Pieces that have become answerable within this event.
    pub(crate) answerable: Vec<Key>,
    pub(crate) out: Vec<Action>,
    pub(crate) wake_at: Option<Timestamp>,
}

impl Volume {
    /// Takes one event; what is to be done is appended to `actions`. `now` never runs backwards.
    ///
    /// # Panics
    /// If an invariant of the engine is broken. The process must end then: the peer takes over, and what is
    /// on disk is what the invariants left there.
    pub fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) {
        assert!(self.out.is_empty(), "the actions of the last event were handed out");
        self.note_gap(now);
        self.now = self.now.max(now);
        match event {
            Event::Request { client, id, operation } => self.on_request(client, id, operation),
            Event::ClientGone(client) => self.on_client_gone(client),
            Event::ReadDone { tag, result } => self.on_read_done(tag, result),
            Event::DiskDone { tag, result } => self.on_disk_done(tag, result),
            Event::LinkUp { peer, link } => self.on_link_up(peer, link),
            Event::Frame { peer, link, channel, frame } => self.on_frame(peer, link, channel, frame),
            Event::LinkDown { peer, link } => self.on_link_down(peer, link),
            Event::Wake => self.on_wake(),
            Event::Command { id, command } => self.on_command(id, command),
        }
        self.settle();
        self.turn_clients_away();
        actions.append(&mut self.out);
    }

    /// Carries on everything that the event has made possible, until nothing more is.
    fn settle(&mut self) {
        match self.stage {
            Stage::Running => {}
            Stage::Opening(_) => {
                if self.store.is_some() {
                    self.advance_commit();
                }
                return;
            }
            Stage::Closed => {
                // That a disk failed while it was opened is recorded all the same (W4).
                if self.disk == DiskState::Failed && self.store.is_some() {
                    self.advance_commit();
                    self.set_wake();
                }
                return;
            }
        }
        loop {
            self.answer_pieces();
            if let Some(key) = self.let_through.pop_front() {
                self.begin_operation(key);
                continue;
            }
            if !self.answerable.is_empty() && !self.withholds_answers() || self.admit_next() {
                continue;
            }
            self.advance_quiescing();
            self.advance_flushes();
            self.advance_remote_reads();
            self.advance_demotion();
            self.advance_paced();
            self.advance_pulls();
            self.advance_verify();
            self.advance_resumption();
            self.advance_growth();
            self.keep_company();
            self.tell_word();
            self.make_room_in_log();
            self.advance_commit();
            if self.let_through.is_empty() && self.answerable.is_empty() {
                break;
            }
        }
        self.set_wake();
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("the volume runs")
    }

    pub(crate) fn store_mut(&mut self) -> &mut Store {
        self.store.as_mut().expect("the volume runs")
    }

    pub(crate) fn peer(&self, index: PeerIndex) -> &Peer {
        &self.peers[index.as_usize()]
    }

    pub(crate) fn peer_mut(&mut self, index: PeerIndex) -> &mut Peer {
        &mut self.peers[index.as_usize()]
    }

    /// All configured peers' indices.
    pub(crate) fn peer_indices(&self) -> impl Iterator<Item = PeerIndex> + use<> {
        PeerIndex::all().take(self.peers.len())
    }

    /// A tag for a disk action.
    pub(crate) fn tag(&mut self, purpose: Purpose) -> DiskTag {
        self.purposes.insert(purpose).into()
    }

    /// Sends on the peer's link; nothing happens when there is none.
    pub(crate) fn send(&mut self, peer: PeerIndex, channel: Channel, frame: Frame) {
        if let Some(link) = self.peer(peer).link {
            self.out.push(Action::Send { peer, link, channel, frame });
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.out.push(Action::Notice(notice));
    }

    /// Changes the own disk's state and tells everybody.
    pub(crate) fn set_disk(&mut self, disk: DiskState) {
        if self.disk != disk {
            self.disk = disk;
            self.notice(Notice::Disk(disk));
            self.tell_mark();
        }
    }

    fn on_disk_done(&mut self, tag: DiskTag, result: Result<(), DiskError>) {
        let Some(purpose) = self.purposes.remove(Key::from_u64(tag.0)) else {
            panic!("a disk action ended that was never begun, or twice: {tag:?}");
        };
        match purpose {
            Purpose::Attach
            | Purpose::TargetRead { .. }
            | Purpose::QuestionRead { .. }
            | Purpose::FetchRead { .. } => {
                panic!("a read ended as a write: {purpose:?}")
            }
            Purpose::AttachFlush => self.on_attach_flush_done(result),
            Purpose::Commit => self.on_commit_done(result),
            Purpose::FirstFlush => self.on_first_flush_done(result),
            Purpose::PromotionFlush => self.on_promotion_flush_done(result),
            Purpose::GenerationFlush => self.on_generation_flush_done(result),
            Purpose::OfferFlush { peer, link, id } => {
                self.on_offer_flush_done(peer, link, id, result);
            }
            Purpose::ClosingFlush => self.on_closing_flush_done(result),
            Purpose::LeadFlush { peer, link } => self.on_lead_flush_done(peer, link, result),
            Purpose::StartFlush { peer, link } => self.on_start_flush_done(peer, link, result),
            Purpose::Operation(key) => self.on_operation_done(key, result),
            Purpose::OwnFlush(upto) => self.on_own_flush_done(upto, result),
            Purpose::FollowerFlush { peer, link, upto } => {
                self.on_follower_flush_done(peer, link, upto, result);
            }
            Purpose::HostFlush { peer, link } => self.on_host_flush_done(peer, link, result),
            Purpose::TargetWrite { operation } => self.on_target_write_done(operation, result),
            Purpose::TargetFlush { peer, link } => self.on_target_flush_done(peer, link, result),
            Purpose::Extend => self.on_extended(result),
        }
    }

    fn on_read_done(&mut self, tag: DiskTag, result: Result<bytes::Bytes, DiskError>) {
        let Some(purpose) = self.purposes.remove(Key::from_u64(tag.0)) else {
            panic!("a read ended that was never begun, or twice: {tag:?}");
        };
        match purpose {
            Purpose::Attach => self.on_attach_read(result),
            Purpose::Operation(key) => self.on_operation_read(key, result),
            Purpose::QuestionRead { peer, link, question } => {
                self.on_question_read(peer, link, question, result);
            }
            Purpose::TargetRead { peer, link, pull } => self.on_target_read(peer, link, pull, result),
            Purpose::FetchRead { peer, link, fetch } => self.on_fetch_read(peer, link, fetch, result),
            Purpose::AttachFlush
            | Purpose::Commit
            | Purpose::FirstFlush
            | Purpose::PromotionFlush
            | Purpose::GenerationFlush
            | Purpose::OfferFlush { .. }
            | Purpose::ClosingFlush
            | Purpose::LeadFlush { .. }
            | Purpose::StartFlush { .. }
            | Purpose::OwnFlush(_)
            | Purpose::FollowerFlush { .. }
            | Purpose::HostFlush { .. }
            | Purpose::TargetWrite { .. }
            | Purpose::Extend
            | Purpose::TargetFlush { .. } => panic!("a write ended as a read: {purpose:?}"),
        }
    }

    fn on_frame(&mut self, peer: PeerIndex, link: LinkId, channel: Channel, frame: Frame) {
        if peer.as_usize() >= self.peers.len() || self.peer(peer).link != Some(link) {
            // A frame of an older session (F31): the newest link is the only one.
            return;
        }
        let now = self.now;
        self.peer_mut(peer).heard_at = now;
        let taken = if self.is_probe(peer) {
            self.on_probe_frame(peer, frame)
        } else {
            self.dispatch_frame(peer, channel, frame)
        };
        if let Err(broken) = taken {
            self.notice(Notice::ProtocolError(peer, broken.0));
            self.close_link(peer, broken.0);
        }
    }

    fn dispatch_frame(&mut self, peer: PeerIndex, channel: Channel, frame: Frame) -> Result<(), Broken> {
        match (channel, frame) {
            (Channel::Control, Frame::Hello(hello)) => self.on_hello(peer, hello),
            (Channel::Control, Frame::Report { number, view }) => self.on_report(peer, number, view),
            (Channel::Control, Frame::Agree { own, theirs, verdict }) => {
                self.on_agree(peer, own, theirs, &verdict)
            }
            (Channel::Control, Frame::Begin { own, theirs }) => self.on_begin(peer, own, theirs),
            (Channel::Control, Frame::Ready) => self.on_ready(peer),
            (Channel::Control, Frame::Offer { generation, replies }) => {
                self.on_offer(peer, generation, replies)
            }
            (Channel::Control, Frame::Adopted(id)) => self.on_adopted(peer, id),
            (Channel::Control, Frame::Everywhere { upto, head, nodes }) => {
                self.on_everywhere(peer, upto, head, &nodes);
                Ok(())
            }
            (Channel::Control, Frame::Host { generation, parent, after }) => {
                self.on_host(peer, generation, parent, after)
            }
            (Channel::Control, Frame::Grow { step, size_bytes }) => self.on_grow(peer, step, size_bytes),
            (Channel::Control, Frame::Grown { step, size_bytes, done }) => {
                self.on_grown(peer, step, size_bytes, done);
                Ok(())
            }
            (Channel::Control, Frame::Ask(term)) => {
                self.on_ask(peer, term);
                Ok(())
            }
            (Channel::Control, Frame::Answer { term, refusal }) => self.on_answer(peer, term, refusal),
            (Channel::Control, Frame::Mark { role, disk, term, attach }) => {
                self.on_mark(peer, role, disk, term, attach)
            }
            (Channel::Control, Frame::Outdate) => self.on_outdate(peer),
            (Channel::Control, Frame::Outdated) => self.on_outdated(peer),
            (Channel::Control, Frame::Yield) => self.on_yield(peer),
            (Channel::Control, Frame::Yielded) => self.on_yielded(peer),
            (Channel::Control, Frame::Leave) => self.on_leave(peer),
            (Channel::Control, Frame::Discard) => self.on_discard(peer),
            (Channel::Control, Frame::DiscardAnswer(refusal)) => self.on_discard_answer(peer, refusal),
            (Channel::Control, Frame::Invalidate) => self.on_invalidate(peer),
            (Channel::Control, Frame::InvalidateAnswer(refusal)) => self.on_invalidate_answer(peer, refusal),
            (Channel::Control, Frame::Ping(time)) => {
                self.on_ping(peer, time);
                Ok(())
            }
            (Channel::Control, Frame::Pong(time)) => {
                self.on_pong(peer, time);
                Ok(())
            }
            (Channel::Control, Frame::Counted { after, head, ancestors, kept }) => {
                self.on_counted(peer, after, head, ancestors, kept)
            }
            (Channel::Control, Frame::Finished) => self.on_finished(peer),
            (Channel::Data, Frame::Start(after)) => self.on_start(peer, after),
            (Channel::Data, Frame::Write { sequence, after, offset, payload, fua }) => {
                self.on_replica_write(peer, sequence, after, offset, payload, fua)
            }
            (Channel::Data, Frame::Zero { sequence, after, span, mode, fua }) => {
                self.on_replica_zero(peer, sequence, after, span, mode, fua)
            }
            (Channel::Data, Frame::FlushTo(upto)) => self.on_flush_to(peer, upto),
            (Channel::Data, Frame::Received(upto)) => self.on_received(peer, upto),
            (Channel::Data, Frame::Applied { upto, also }) => self.on_applied(peer, upto, &also),
            (Channel::Data, Frame::StableTo(upto)) => self.on_stable_to(peer, upto),
            (Channel::Data, Frame::Failed) => self.on_peer_failed(peer),
            (Channel::Data, Frame::Fetch { id, span, after }) => self.on_fetch(peer, id, span, after),
            (Channel::Data, Frame::Fetched { id, payload }) => self.on_fetched(peer, id, payload),
            (Channel::Resync, Frame::Runs(runs)) => self.on_runs(peer, &runs),
            (Channel::Resync, Frame::RunsEnd) => self.on_runs_end(peer),
            (Channel::Resync, Frame::Pull { id, span, after, digests }) => {
                self.on_pull(peer, id, span, after, digests)
            }
            (Channel::Resync, Frame::Part { id, read_at, blocks }) => self.on_part(peer, id, read_at, blocks),
            (Channel::Resync, Frame::Settled(spans)) => self.on_settled(peer, &spans),
            (Channel::Resync, Frame::Compare { id, span, at, digests }) => {
                self.on_compare(peer, id, span, at, digests)
            }
            (Channel::Resync, Frame::Compared { id, differing }) => self.on_compared(peer, id, &differing),
            (Channel::Resync, Frame::Finish) => self.on_finish(peer),
            (_, _) => Err(Broken("a frame on the wrong channel")),
        }
    }

    /// Writes what is to become stable, one commit at a time.
    pub(crate) fn advance_commit(&mut self) {
        loop {
            let stable = self.covered_everywhere();
            let mut admitted = Vec::new();
            let pieces = self.store_mut().begin_commit(stable, &mut admitted);
            let again = !admitted.is_empty();
            for key in admitted {
                self.on_extents_hot(key);
            }
            if let Some(pieces) = pieces {
                let tag = self.tag(Purpose::Commit);
                self.out.push(Action::Commit { tag, pieces });
            }
            if !again {
                break;
            }
        }
        if self.store().is_short_of_slots() {
            self.advance_flushes();
        }
    }

    fn on_commit_done(&mut self, result: Result<(), DiskError>) {
        if let Err(error) = result {
            let lost = self.store_mut().commit_failed();
            self.fail_disk(Failure::Commit(error));
            if lost.then.contains(&Then::Condemned) {
                self.on_not_condemned();
            }
            for then in lost.then {
                self.not_done(then);
            }
            for key in lost.admitted {
                self.issue_or_park(key);
            }
            return;
        }
        let size_bytes = self.store().size_bytes();
        let committed = self.store_mut().committed();
        if self.disk == DiskState::Failed && self.store().size_bytes() != size_bytes {
            // It was on its way when the disk failed, and is on the media with that.
            self.notice(Notice::Grown(self.store().size_bytes()));
        }
        for key in committed.admitted {
            self.on_extents_hot(key);
        }
        for then in committed.then {
            match (self.disk, then) {
                (DiskState::Failed, Then::Condemned) => self.on_condemned(),
                (DiskState::Failed, then) => self.not_done(then),
                (_, then) => self.carry_out(then),
            }
        }
    }

    fn carry_out(&mut self, then: Then) {
        match then {
            Then::Attached => self.on_attached(),
            Then::GenerationStable(id) => self.on_generation_stable(id),
            Then::OfferAdopted { peer, link, id } => {
                if self.peer(peer).link == Some(link) {
                    self.send(peer, Channel::Control, Frame::Adopted(id));
                }
            }
            Then::LeaderReady { peer, link } => self.on_leader_ready(peer, link),
            Then::FollowerMarked { peer, link } => self.on_follower_marked(peer, link),
            Then::FollowerReady { peer, link } => self.on_follower_ready(peer, link),
            Then::CountPeer { peer, link } => self.on_count_peer(peer, link),
            Then::HeadTaken { peer, link } => self.on_head_taken(peer, link),
            Then::Demoted => self.on_demoted(),
            Then::Outdated { peer, link } => {
                if self.peer(peer).link == Some(link) {
                    self.send(peer, Channel::Control, Frame::Outdated);
                }
            }
            Then::EntitlementTaken { peer, link } => {
                if self.peer(peer).link == Some(link) {
                    self.send(peer, Channel::Control, Frame::Yielded);
                }
            }
            Then::EntitlementGivenUp { peer, link } => self.on_entitlement_given_up(peer, link),
            Then::EntitlementEnded { peer, link, term } => {
                if self.peer(peer).link == Some(link) {
                    self.on_ask(peer, term);
                }
            }
            Then::Quiet => self.on_quiet(),
            Then::ClosedCleanly => self.on_closed_cleanly(),
            Then::Condemned => panic!("only of a failed disk this is recorded"),
            Then::HostReady { peer, link } => self.on_host_ready(peer, link),
            Then::Carried => {}
            Then::TargetMarked { operation } => self.on_target_marked(operation),
            Then::SetBackNoted => self.on_set_back_noted(),
            Then::CounterShown => self.tell_mark(),
            Then::Grown => self.on_size_stable(),
            Then::Answered(id) => self.answer(id, Ok(())),
            Then::Invalidated { peer, link } => self.on_invalidated(peer, link),
        }
    }

    /// The write log has got shorter: there may be room again.
    pub(crate) fn on_log_shrunk(&mut self) {
        self.unpark_pieces();
    }

    /// Takes over settings that may change while the volume runs. Each counts from the next time it is looked at.
    pub fn tune(&mut self, tunables: Tunables) {
        let Tunables { size_bytes_max, on_peer_loss, peer_timeout, hold, max_lag_bytes, resync_limit } =
            tunables;
        self.pace.set_limit(resync_limit);
        self.growth.limit_changes(self.config.size_bytes_max, size_bytes_max);
        let config = &mut self.config;
        config.size_bytes_max = size_bytes_max;
        (config.on_peer_loss, config.peer_timeout) = (on_peer_loss, peer_timeout);
        (config.hold, config.max_lag_bytes) = (hold, max_lag_bytes);
    }

    /// The superblock as it is on stable media, once the metadata are open: what a state directory may remember.
    #[must_use]
    pub fn stable_superblock(&self) -> Option<&crate::meta::superblock::Superblock> {
        match self.stage {
            Stage::Running => self.store.as_ref().map(Store::stable_superblock),
            Stage::Opening(_) | Stage::Closed => None,
        }
    }

    /// The state of the volume at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let store = self.store.as_ref();
        let peers = self.peers.iter().map(|peer| PeerStatus {
            index: peer.index,
            connected: !matches!(peer.session, Session::Down | Session::Greeting),
            allowed: peer.allowed,
            apart: peer.apart(),
            stranger: peer.shown_stranger(),
            parted: self.parted(peer.index),
            replication: match &self.verify {
                Some(verify) if verify.peer() == peer.index => Replication::Verify,
                Some(_) | None => peer.replication(),
            },
            role: peer.told.map(|told| told.role),
            disk: peer.told.map(|told| told.disk),
            dirty_bytes: store.map_or(0, |store| store.dirty_bytes(peer.index)),
            lag_bytes: self.log.lag_bytes(Place::Peer(peer.index)),
            resync: peer.progress_of_resync().map(|progress| progress.at(self.now)),
        });
        Status {
            size_bytes: store.map_or(0, Store::size_bytes),
            node: store.map(Store::node),
            role: self.role,
            disk: self.disk,
            head: self.served_head(),
            term: store.and_then(Store::term),
            entitled: store.is_some_and(Store::is_entitled),
            resuming: self.is_retaking_role(),
            suspended: self.suspended,
            io: IoCounters { held: self.held(), ..self.io },
            resync_paused: self.resync_paused,
            last_resync: self.last_resync,
            peers: peers.collect(),
        }
    }

    /// Whether a span that came from outside lies on the device and is aligned.
    pub(crate) fn is_valid(&self, span: ByteSpan) -> bool {
        let unit = super::SECTOR_BYTES;
        span.len > 0
            && span.offset.is_multiple_of(unit)
            && span.len.is_multiple_of(unit)
            && span.offset.checked_add(span.len).is_some_and(|end| end <= self.store().size_bytes())
    }

    /// Where this node and the peer stand.
    pub(crate) fn session(&self, peer: PeerIndex) -> &Session {
        &self.peer(peer).session
    }
}

/// A peer has sent what it must not send; the connection is closed with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);
