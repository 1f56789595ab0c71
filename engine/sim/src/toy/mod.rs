//! A toy engine that proves the simulator: two nodes, one request at a time, whole copies instead of bitmaps.
//!
//! It speaks the same events, actions and frames as the real engine and keeps protocol C under crashes, power
//! loss and broken links. [`Bug`] puts one well-known mistake into it; each must be found by the oracle within a
//! stated number of seeds (`tests/toy.rs`). It is not fast, never damaged disks are assumed, and nobody should
//! learn replication from it.
//!
//! * `record`: what it keeps on disk, and what two nodes that meet conclude. `serve`: the primary's side.
//! * `follow`: the secondary's side and the copy. `bug`: the mistakes.

mod bug;
mod follow;
mod record;
mod serve;

use std::collections::VecDeque;

use bytes::Bytes;
use evenkeel_core::{
    ids::{AttachCounter, NodeId, PeerIndex, Term, Timestamp},
    volume::{
        DiskState, Replication, Role,
        config::{RunInfo, VolumeConfig},
        io::{
            Action, Area, Channel, ClientId, ClientOperation, CommandId, DiskTag, Event, LinkId, Notice,
            RequestId,
        },
        operator::{Discard, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::{IoCounters, PeerStatus, Status, Suspended},
        wire::Frame,
    },
};

pub use bug::Bug;

use self::record::{Record, Report, Verdict};
use crate::{
    Allowed, FaultKind,
    decision::Stream,
    engine::{CreateSpec, Engine, FileFacts, Memory, MetaFacts},
};

/// What the engine's disk actions are for; the tag is the place in a list that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Open,
    Commit,
    Local,
    Apply,
    CopyRead { link: LinkId, offset: u64 },
    Leave,
}

/// What happens when the record at hand is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Promoted,
    Demoted,
    WentAlone,
    Adopted,
    BecameTarget,
    CopyEnded,
    Nothing,
}

/// How far the link is.
///
/// ```text
///   Down --LinkUp--> Greeting --reports--> InSync | Source | Target | Split
///     ^________________LinkDown, silence________________________/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Down,
    Greeting,
    InSync,
    Source,
    Target,
    Split,
}

/// A request of a client under way at the primary, one at a time.
#[derive(Debug)]
struct Current {
    client: ClientId,
    id: RequestId,
    operation: ClientOperation,
    local: bool,
    remote: bool,
    data: Option<Bytes>,
    failed: bool,
}

/// The toy.
#[derive(Debug)]
pub struct Toy {
    bug: Option<Bug>,
    run: RunInfo,
    draws: Stream,
    now: Timestamp,
    size_bytes: u64,
    peer_timeout: std::time::Duration,
    opened: bool,
    record: Record,
    role: Role,
    disk: DiskState,
    session: Session,
    link: Option<LinkId>,
    heard: Timestamp,
    theirs: Option<Report>,
    purposes: Vec<Purpose>,
    committing: Option<After>,
    commits: VecDeque<(Record, After)>,
    queue: VecDeque<(ClientId, RequestId, ClientOperation)>,
    current: Option<Current>,
    sequence: u64,
    promotion: Option<CommandId>,
    demotion: Option<CommandId>,
    /// A demotion under way: flushed here, flushed at the peer.
    leaving: Option<(CommandId, bool, bool)>,
    inbox: VecDeque<Frame>,
    applying: Option<(LinkId, Frame)>,
    copied: u64,
    /// The target waits for a copy; it begins when nothing is under way here.
    copy_wanted: bool,
    discards_own: bool,
}

const PEER: PeerIndex = PeerIndex::FIRST;
/// The copy goes in pieces of this size.
const COPY_BYTES: u64 = 64 << 10;
const PING: std::time::Duration = std::time::Duration::from_millis(300);

impl Toy {
    /// The faults that the toy claims to survive.
    #[must_use]
    pub fn allowed() -> Allowed {
        let kinds = vec![
            FaultKind::ProcessCrash,
            FaultKind::PowerLoss,
            FaultKind::PowerLossEverywhere,
            FaultKind::Pause,
            FaultKind::LinkCut,
            FaultKind::LinkReplaced,
            FaultKind::OneWayCut,
            FaultKind::Partition,
            FaultKind::Flap,
            FaultKind::Clog,
            FaultKind::DropFrame,
            FaultKind::Replay,
            FaultKind::CorruptFrame,
            FaultKind::DiskStall,
            FaultKind::ClientDisconnect,
            FaultKind::Handover,
            FaultKind::Demote,
        ];
        let protocols = vec![evenkeel_core::volume::config::Protocol::C];
        Allowed { kinds, protocols, max_nodes: 2, all_nodes: false, beyond_budget: false, eager: false }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn tag(&mut self, purpose: Purpose) -> DiskTag {
        self.purposes.push(purpose);
        DiskTag(self.purposes.len() as u64 - 1)
    }

    fn send(&self, channel: Channel, frame: Frame, actions: &mut Vec<Action>) {
        if let Some(link) = self.link {
            actions.push(Action::Send { peer: PEER, link, channel, frame });
        }
    }

    fn set_role(&mut self, role: Role, actions: &mut Vec<Action>) {
        if self.role != role {
            self.role = role;
            actions.push(Action::Notice(Notice::Role(role)));
            let term = Term { number: self.record.term, node: NodeId(self.record.node) };
            self.send(
                Channel::Control,
                Frame::Mark { role, disk: self.disk, term, attach: AttachCounter(0) },
                actions,
            );
        }
    }

    fn set_disk(&mut self, disk: DiskState, actions: &mut Vec<Action>) {
        if self.disk != disk {
            self.disk = disk;
            actions.push(Action::Notice(Notice::Disk(disk)));
        }
    }

    fn set_session(&mut self, session: Session, actions: &mut Vec<Action>) {
        self.session = session;
        actions.push(Action::Notice(Notice::Peer(PEER, self.replication())));
    }

    fn replication(&self) -> Replication {
        match self.session {
            Session::Down | Session::Greeting => Replication::Off,
            Session::InSync => Replication::Established,
            Session::Source => Replication::SyncSource,
            Session::Target => Replication::SyncTarget,
            Session::Split => Replication::SplitBrain,
        }
    }

    /// Makes a new record stable; what follows, follows in order.
    fn commit(&mut self, record: Record, after: After, actions: &mut Vec<Action>) {
        self.record = record;
        self.commits.push_back((self.record.clone(), after));
        self.next_commit(actions);
    }

    fn next_commit(&mut self, actions: &mut Vec<Action>) {
        if self.committing.is_some() {
            return;
        }
        let Some((record, after)) = self.commits.pop_front() else { return };
        self.committing = Some(after);
        let pieces = vec![record.encode()];
        let tag = self.tag(Purpose::Commit);
        actions.push(Action::Commit { tag, pieces });
    }

    fn committed(&mut self, actions: &mut Vec<Action>) {
        let after = self.committing.take().expect("one was under way");
        match after {
            After::Promoted => self.promoted(actions),
            After::Demoted => self.demoted(actions),
            After::WentAlone => {
                if let Some(current) = &mut self.current {
                    current.remote = true;
                }
            }
            After::Adopted => {
                let id = self.record.head_id();
                self.send(Channel::Control, Frame::Adopted(id), actions);
            }
            After::BecameTarget => {
                self.set_disk(DiskState::Inconsistent, actions);
                self.send(Channel::Control, Frame::Ready, actions);
            }
            After::CopyEnded => {
                self.set_disk(DiskState::UpToDate, actions);
                self.set_session(Session::InSync, actions);
                self.send(Channel::Control, Frame::Finished, actions);
            }
            After::Nothing => {}
        }
        self.next_commit(actions);
    }

    fn opened(&mut self, meta: &[u8], actions: &mut Vec<Action>) {
        self.opened = true;
        let Some(record) = Record::decode(meta) else { return };
        self.record = record;
        self.record.lost_power |= self.record.boot != 0 && self.record.boot != self.run.boot.0;
        self.record.boot = self.run.boot.0;
        let disk = if self.record.inconsistent { DiskState::Inconsistent } else { DiskState::Consistent };
        self.set_disk(disk, actions);
        let record = self.record.clone().next();
        self.commit(record, After::Nothing, actions);
        self.greet(actions);
        self.meet(actions);
    }

    fn link_up(&mut self, link: LinkId, actions: &mut Vec<Action>) {
        self.link_lost(actions);
        self.link = Some(link);
        self.heard = self.now;
        self.set_session(Session::Greeting, actions);
        self.greet(actions);
        actions.push(Action::WakeAt(self.now.after(PING)));
    }

    fn greet(&mut self, actions: &mut Vec<Action>) {
        if !self.disk_known() || self.link.is_none() {
            return;
        }
        let report = Report::new(&self.record, self.role, self.discards_own);
        self.send(Channel::Control, report.frame(), actions);
    }

    fn disk_known(&self) -> bool {
        self.opened && self.disk != DiskState::Diskless
    }

    fn link_lost(&mut self, actions: &mut Vec<Action>) {
        if self.link.take().is_none() {
            return;
        }
        let was_in_sync = self.session == Session::InSync;
        self.theirs = None;
        self.copy_wanted = false;
        self.inbox.clear();
        self.set_session(Session::Down, actions);
        if self.role == Role::Primary || self.record.active {
            if was_in_sync {
                self.go_alone(actions);
            } else if let Some(current) = &mut self.current {
                current.remote = true;
            }
        } else if was_in_sync {
            self.set_disk(DiskState::Consistent, actions);
        }
        if self.leaving.is_some() {
            self.left(false, actions);
        }
        if let Some(id) = self.promotion.take() {
            let record = Record { active: false, ..self.record.clone() }.next();
            self.commit(record, After::Nothing, actions);
            let answer = OperatorAnswer::Refused("the peer went away".to_owned());
            actions.push(Action::Answer { id, answer });
        }
    }

    fn woken(&mut self, actions: &mut Vec<Action>) {
        if let Some(link) = self.link {
            if self.now.since(self.heard) > self.peer_timeout {
                actions.push(Action::CloseLink { peer: PEER, link, reason: "silent" });
                self.link_lost(actions);
            } else {
                self.send(Channel::Control, Frame::Ping(self.now), actions);
            }
        }
        actions.push(Action::WakeAt(self.now.after(PING)));
    }

    fn frame(&mut self, link: LinkId, frame: Frame, actions: &mut Vec<Action>) {
        if self.link != Some(link) {
            return;
        }
        self.heard = self.now;
        match frame {
            Frame::Counted { after, head, ancestors, .. } => {
                self.theirs = Some(Report::of_frame(after, head, &ancestors));
                self.meet(actions);
            }
            Frame::Mark { role, .. } => {
                if let Some(theirs) = &mut self.theirs {
                    theirs.primary = role == Role::Primary;
                }
            }
            Frame::Ready => self.copy_wanted = self.session == Session::Source,
            Frame::Finished => {
                self.set_session(Session::InSync, actions);
                let record = Record { lost_power: false, ..self.record.clone() }.next();
                self.commit(record, After::Nothing, actions);
                actions.push(Action::Notice(Notice::ResyncDone {
                    peer: PEER,
                    compared_bytes: self.size_bytes,
                    moved_bytes: self.size_bytes,
                }));
            }
            Frame::Offer { generation: head, .. } => {
                if self.role == Role::Primary || self.promotion.is_some() {
                    return;
                }
                let mut record = self.record.clone().with_head(head.id.0, head.term.number);
                record.active = false;
                self.commit(record, After::Adopted, actions);
            }
            Frame::Adopted(id) => self.adopted(id, actions),
            Frame::Applied { upto, .. } | Frame::StableTo(upto) => {
                self.peer_has(upto);
                if self.leaving.is_some() && upto.0 >= self.sequence {
                    self.left(false, actions);
                }
            }
            Frame::Write { .. } | Frame::Zero { .. } | Frame::FlushTo(_) | Frame::Finish => {
                self.inbox.push_back(frame);
            }
            _ => {}
        }
    }

    /// Both reports are there: what now?
    fn meet(&mut self, actions: &mut Vec<Action>) {
        let Some(theirs) = self.theirs.clone() else { return };
        if !self.disk_known() {
            return;
        }
        let mine = Report::new(&self.record, self.role, self.discards_own);
        match record::decide(&mine, &theirs, self.bug) {
            Verdict::InSync => {
                self.record.lost_power = false;
                self.set_disk(DiskState::UpToDate, actions);
                self.set_session(Session::InSync, actions);
            }
            Verdict::Source => {
                self.set_disk(DiskState::UpToDate, actions);
                self.set_session(Session::Source, actions);
            }
            Verdict::Target => {
                self.depose(actions);
                self.set_session(Session::Target, actions);
                let record = Record { inconsistent: true, ..self.record.clone() }.next();
                self.commit(record, After::BecameTarget, actions);
            }
            Verdict::Split => self.set_session(Session::Split, actions),
        }
    }

    fn command(&mut self, id: CommandId, command: &OperatorCommand, actions: &mut Vec<Action>) {
        let refused = |text: &str| OperatorAnswer::Refused(text.to_owned());
        let answer = match command {
            OperatorCommand::Primary(force) => return self.promote(id, *force, actions),
            OperatorCommand::Secondary { .. } => return self.demote(id, actions),
            OperatorCommand::Resolve { discard: Discard::Own, .. } if self.session == Session::Split => {
                self.discards_own = true;
                self.greet(actions);
                self.meet(actions);
                OperatorAnswer::Done
            }
            OperatorCommand::Connect(_)
            | OperatorCommand::PauseResync(_)
            | OperatorCommand::LimitResync(_) => OperatorAnswer::Done,
            OperatorCommand::Disconnect(_)
            | OperatorCommand::Resize(_)
            | OperatorCommand::Invalidate
            | OperatorCommand::InvalidatePeer(_)
            | OperatorCommand::Foretell { .. }
            | OperatorCommand::Verify { .. }
            | OperatorCommand::Resolve { .. }
            | OperatorCommand::Shutdown => refused("the toy cannot"),
        };
        actions.push(Action::Answer { id, answer });
    }

    fn disk_done(&mut self, purpose: Purpose, data: Option<Bytes>, failed: bool, actions: &mut Vec<Action>) {
        match purpose {
            Purpose::Open => self.opened(&data.unwrap_or_default(), actions),
            Purpose::Commit => self.committed(actions),
            Purpose::Local => {
                if let Some(current) = &mut self.current {
                    current.local = true;
                    current.failed |= failed;
                    current.data = data;
                }
            }
            Purpose::Apply => self.applied(actions),
            Purpose::Leave => self.left(true, actions),
            Purpose::CopyRead { link, offset } => {
                self.copy_piece(link, offset, data.unwrap_or_default(), actions);
            }
        }
    }

    fn read_meta(&mut self, actions: &mut Vec<Action>) {
        let tag = self.tag(Purpose::Open);
        let span = ByteSpan { offset: 0, len: record::META_BYTES };
        actions.push(Action::Read { tag, area: Area::Meta, span });
    }
}

impl Engine for Toy {
    type Settings = Option<Bug>;

    const INSPECTS: bool = false;
    const ENCODES: bool = false;
    const LEAVES_EQUAL: bool = false;

    fn meta_len(_: u64, _: usize, _: &Self::Settings) -> u64 {
        record::META_BYTES
    }

    fn create(spec: &CreateSpec, _: &Self::Settings) -> Vec<(u64, Bytes)> {
        let record = Record::new(spec.node as u64 + 1);
        vec![record.encode(), record.next().encode()]
    }

    fn attach(
        config: VolumeConfig,
        run: RunInfo,
        files: FileFacts,
        bug: &Self::Settings,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Self {
        let seed = u64::try_from(run.entropy >> 64).expect("64 bits");
        let mut toy = Self {
            bug: *bug,
            run,
            draws: Stream::of_key(seed),
            now,
            size_bytes: files.data_len,
            peer_timeout: config.peer_timeout,
            opened: false,
            record: Record::new(0),
            role: Role::Secondary,
            disk: DiskState::Diskless,
            session: Session::Down,
            link: None,
            heard: now,
            theirs: None,
            purposes: Vec::new(),
            committing: None,
            commits: VecDeque::new(),
            queue: VecDeque::new(),
            current: None,
            sequence: 0,
            promotion: None,
            demotion: None,
            leaving: None,
            inbox: VecDeque::new(),
            applying: None,
            copied: 0,
            copy_wanted: false,
            discards_own: false,
        };
        toy.read_meta(actions);
        toy
    }

    fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) {
        self.now = now;
        match event {
            Event::Request { client, id, operation } => self.queue.push_back((client, id, operation)),
            Event::ClientGone(client) => self.queue.retain(|(owner, ..)| *owner != client),
            Event::ReadDone { tag, result } => {
                let purpose = self.purposes[usize::try_from(tag.0).expect("small")];
                let failed = result.is_err();
                self.disk_done(purpose, result.ok(), failed, actions);
            }
            Event::DiskDone { tag, result } => {
                let purpose = self.purposes[usize::try_from(tag.0).expect("small")];
                self.disk_done(purpose, None, result.is_err(), actions);
            }
            Event::LinkUp { link, .. } => self.link_up(link, actions),
            Event::Frame { link, frame, .. } => self.frame(link, frame, actions),
            Event::LinkDown { link, .. } => {
                if self.link == Some(link) {
                    self.link_lost(actions);
                }
            }
            Event::Wake => self.woken(actions),
            Event::Command { id, command } => self.command(id, &command, actions),
        }
        self.serve(actions);
        self.follow(actions);
        if self.copy_wanted && self.current.is_none() && self.applying.is_none() {
            self.start_copy(actions);
        }
    }

    fn status(&self) -> Status {
        let node = NodeId(self.record.node);
        let connected = !matches!(self.session, Session::Down | Session::Greeting);
        let peer = PeerStatus {
            index: PEER,
            connected,
            allowed: true,
            apart: None,
            stranger: None,
            parted: None,
            replication: self.replication(),
            role: None,
            disk: (self.session == Session::InSync).then_some(DiskState::UpToDate),
            dirty_bytes: if self.session == Session::Source { self.size_bytes } else { 0 },
            lag_bytes: 0,
            resync: None,
        };
        let alone = self.commits.iter().any(|(_, after)| *after == After::WentAlone);
        Status {
            size_bytes: self.size_bytes,
            node: Some(node),
            role: self.role,
            disk: self.disk,
            head: Some(self.record.head()),
            term: Some(Term { number: self.record.term, node }),
            entitled: self.record.active,
            resuming: false,
            suspended: alone.then_some(Suspended::NewGeneration),
            io: IoCounters::default(),
            resync_paused: false,
            last_resync: None,
            peers: vec![peer],
        }
    }

    fn to_remember(&self) -> Memory {
        Memory::default()
    }

    fn inspect(_: &[u8]) -> Option<MetaFacts> {
        None
    }
}
