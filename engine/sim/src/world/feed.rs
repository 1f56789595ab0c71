//! Events into an engine, actions out of it.

use evenkeel_core::volume::{
    DiskState, Replication,
    io::{Action, Event, Notice},
    operator::OperatorAnswer,
    wire::Frame,
};

use super::{World, agenda::Due, node::peer_node};
use crate::{
    coverage,
    decision::mix,
    engine::{Engine, FileFacts, Memory},
    oracle::{Answerer, notices::Notices},
    plan::MILLISECOND,
};

/// Whether an event can change what a node says of itself (role, disk, peers). The others are the many.
fn weighty(event: &Event) -> bool {
    match event {
        Event::Request { .. } | Event::ClientGone(_) => false,
        Event::ReadDone { result, .. } => result.is_err(),
        Event::DiskDone { result, .. } => result.is_err(),
        Event::LinkUp { .. } | Event::LinkDown { .. } | Event::Wake | Event::Command { .. } => true,
        Event::Frame { frame, .. } => !matches!(
            frame,
            Frame::Write { .. }
                | Frame::Zero { .. }
                | Frame::FlushTo(_)
                | Frame::Received(_)
                | Frame::Applied { .. }
                | Frame::StableTo(_)
                | Frame::Pull { .. }
                | Frame::Part { .. }
                | Frame::Settled { .. }
                | Frame::Ping(_)
        ),
    }
}

/// A number that tells an event apart from most others, for the trace hash.
fn fingerprint(event: &Event) -> u64 {
    match event {
        Event::Request { client, id, .. } => mix(client.0) ^ id.0,
        Event::ClientGone(client) => client.0,
        Event::ReadDone { tag, .. } | Event::DiskDone { tag, .. } => tag.0,
        Event::LinkUp { link, .. } | Event::LinkDown { link, .. } => link.0,
        Event::Frame { link, frame, .. } => mix(link.0) ^ frame_number(frame),
        Event::Wake => 0,
        Event::Command { id, .. } => id.0,
    }
}

fn frame_number(frame: &Frame) -> u64 {
    match frame {
        Frame::Write { sequence, .. } | Frame::Zero { sequence, .. } => sequence.0,
        Frame::FlushTo(sequence) | Frame::Received(sequence) | Frame::StableTo(sequence) => sequence.0,
        Frame::Applied { upto, also } => mix(upto.0) ^ also.len() as u64,
        _ => 0,
    }
}

/// An event or action in few words: payloads are long.
fn brief(text: &impl std::fmt::Debug) -> String {
    let mut text = format!("{text:?}");
    while let Some(start) = text.find("b\"") {
        let mut escaped = false;
        let end = text[start + 2..].find(|next: char| {
            let ends = next == '"' && !escaped;
            escaped = next == '\\' && !escaped;
            ends
        });
        let end = end.map_or(text.len(), |end| start + 3 + end);
        text.replace_range(start..end, "…");
    }
    if text.len() > 2000 {
        let cut = (0..=2000).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0);
        text.truncate(cut);
    }
    text
}

impl<E: Engine> World<'_, E> {
    /// Starts a node's daemon, if its disk lets it.
    pub(super) fn boot(&mut self, node: usize) {
        let now = self.now;
        let this = &mut self.nodes[node];
        if this.runs() || !this.boot_due {
            return;
        }
        if this.unfit_until > now {
            self.agenda.put(this.unfit_until, Due::Boot { node });
            return;
        }
        this.boot_due = false;
        if std::mem::take(&mut this.blank) {
            self.make_disk(node, true);
            self.oracle.forget_metadata(node);
        }
        let this = &mut self.nodes[node];
        let data_len = this.disk.data_len();
        let truncated = std::mem::take(&mut this.truncated);
        let files = FileFacts {
            data_len: if truncated { self.plan.size_bytes / 2 } else { data_len },
            meta_len: this.disk.meta().len() as u64,
            remembered: this.memory,
        };
        this.epoch += 1;
        this.started = now;
        this.status = None;
        this.notices = Notices::new(self.plan.nodes - 1);
        this.paused = false;
        this.absence = None;
        this.backlog.clear();
        this.commands.clear();
        this.forced = false;
        let run = this.run_info(now);
        let config = this.config.clone();
        let local = this.clock.local(now);
        let mut actions = self.spare.pop().unwrap_or_default();
        this.engine = Some(E::attach(config, run, files, &self.settings, local, &mut actions));
        self.note(|| format!("node {node} starts, {files:?}"));
        self.carry_out(node, &mut actions);
        self.spare.push(actions);
        self.look(node);
        if truncated {
            // Somebody notices, mends the file and starts the daemon again.
            self.end_process(node);
            self.come_back(node, 2_000 * MILLISECOND);
        }
    }

    /// The daemon of a node will be started again after a while.
    pub(super) fn come_back(&mut self, node: usize, after: u64) {
        self.nodes[node].boot_due = true;
        self.agenda.put(self.now + after, Due::Boot { node });
    }

    /// Gives an engine an event, at once or, while it stands still, later.
    pub(super) fn feed(&mut self, node: usize, event: Event) {
        if !self.nodes[node].runs() {
            return;
        }
        if self.nodes[node].paused {
            self.nodes[node].backlog.push_back(event);
            return;
        }
        let moment = coverage::Kind::of(&event);
        let kind = moment.number() as u64;
        self.hash = mix(self.hash ^ self.now ^ ((node as u64) << 56) ^ (kind << 48) ^ fingerprint(&event));
        if matches!(event, Event::Wake) {
            self.check_wakes(node);
        } else {
            self.counts.events += 1;
        }
        let late = self.is_late(node, &event);
        if let Some(status) = self.nodes[node].status.as_ref().filter(|_| !late) {
            self.coverage.saw(status, &event);
        }
        if self.trace.is_some() {
            let text = brief(&event);
            self.note(|| format!("node {node} <- {text}"));
        }
        let mut weighty = weighty(&event);
        let local = self.nodes[node].clock.local(self.now);
        let mut actions = self.spare.pop().unwrap_or_default();
        let engine = self.nodes[node].engine.as_mut().expect("it runs");
        engine.handle(local, event, &mut actions);
        weighty |= actions.iter().any(|action| {
            matches!(
                action,
                Action::Notice(_) | Action::CloseLink { .. } | Action::Answer { .. } | Action::Commit { .. }
            )
        });
        weighty |= std::mem::take(&mut self.commit_ended);
        if weighty {
            let this = &mut self.nodes[node];
            let stable = this.engine.as_ref().map_or_else(Memory::default, E::to_remember);
            this.memory.attach = this.memory.attach.max(stable.attach);
            this.memory.term = this.memory.term.max(stable.term);
            // Before the replies of the same event are judged: they count under what the engine is now.
            self.look(node);
        }
        self.carry_out(node, &mut actions);
        self.spare.push(actions);
        if !self.ambushes.is_empty() {
            self.spring_ambushes(node, moment);
        }
    }

    fn carry_out(&mut self, node: usize, actions: &mut Vec<Action>) {
        let epoch = self.nodes[node].epoch;
        for action in actions.drain(..) {
            if self.trace.is_some() && !matches!(action, Action::WakeAt(_)) {
                let text = brief(&action);
                self.note(|| format!("node {node}    -> {text}"));
            }
            match action {
                Action::Read { .. }
                | Action::Write { .. }
                | Action::Zero { .. }
                | Action::Flush { .. }
                | Action::Extend { .. }
                | Action::Commit { .. } => self.disk_begins(node, epoch, action),
                Action::Send { peer, link, channel, frame } => {
                    self.send(node, peer_node(node, peer), link, channel, frame);
                }
                Action::CloseLink { link, .. } => self.close_link(node, link),
                Action::Reply { client, id, result } => self.reply(node, client, id, result),
                Action::WakeAt(at) => {
                    let this = &mut self.nodes[node];
                    this.wake += 1;
                    let at = this.clock.global(at).max(self.now + 1);
                    let stamp = this.wake;
                    self.agenda.put(at, Due::Wake { node, epoch, stamp });
                }
                Action::Answer { id, answer } => self.answered(node, id, answer),
                Action::Notice(notice) => self.noticed(node, notice),
            }
        }
    }

    fn noticed(&mut self, node: usize, notice: Notice) {
        self.nodes[node].notices.tell(&notice);
        if let Notice::ResyncDone { peer, compared_bytes: _, moved_bytes } = notice {
            self.resync_done(node, peer_node(node, peer), moved_bytes);
        } else if let Notice::Unreadable(_) = notice {
            self.unreadable = true;
        }
    }

    fn answered(&mut self, node: usize, id: evenkeel_core::volume::io::CommandId, answer: OperatorAnswer) {
        let this = &mut self.nodes[node];
        let Some(place) = this.commands.iter().position(|(command, _)| *command == id) else { return };
        let (_, command) = this.commands.swap_remove(place);
        self.command_answered(node, &command, &answer);
    }

    fn disk_begins(&mut self, node: usize, epoch: u32, action: Action) {
        let this = &mut self.nodes[node];
        let weight = match &action {
            Action::Flush { .. } | Action::Commit { .. } | Action::Extend { .. } => 4,
            Action::Read { .. } | Action::Write { .. } | Action::Zero { .. } => 1,
            other => unreachable!("not a disk action: {other:?}"),
        };
        // Armed faults strike whenever the disk is next used for it; the other copies may be worse by then.
        this.disk.may_strike(self.plan.beyond_budget || self.oracle.may_damage(node));
        let slot = this.disk.begin(action);
        if this.disk.has_struck() {
            self.oracle.damaged(node);
        }
        let typical = self.plan.disk_latency * weight;
        let mut latency = typical / 4 + this.draws.below(typical + 1);
        if this.draws.chance(1, 64) {
            latency *= 20;
        }
        let at = (self.now + latency).max(this.disk.stalled_until + latency);
        self.agenda.put(at, Due::Disk { node, epoch, slot });
    }

    pub(super) fn disk_ends(&mut self, node: usize, epoch: u32, slot: usize) {
        let this = &mut self.nodes[node];
        if this.epoch != epoch || !this.runs() {
            return;
        }
        let was_commit = this.disk.is_commit(slot);
        this.disk.may_strike(self.plan.beyond_budget || self.oracle.may_damage(node));
        let event = this.disk.finish(slot, &mut this.draws);
        if this.disk.has_struck() {
            self.oracle.damaged(node);
        }
        self.commit_ended = was_commit;
        self.feed(node, event);
    }

    pub(super) fn wake(&mut self, node: usize, epoch: u32, stamp: u64) {
        let this = &self.nodes[node];
        if this.epoch == epoch && this.wake == stamp {
            self.feed(node, Event::Wake);
        }
    }

    pub(super) fn resume(&mut self, node: usize, epoch: u32) {
        if self.nodes[node].epoch != epoch || !self.nodes[node].paused {
            return;
        }
        self.note(|| format!("node {node} goes on"));
        self.nodes[node].paused = false;
        self.end_absence(node);
        let backlog = std::mem::take(&mut self.nodes[node].backlog);
        for event in backlog {
            if self.nodes[node].epoch == epoch {
                self.feed(node, event);
            }
        }
    }

    /// Who answers, as the oracle wants to know it.
    pub(super) fn answerer(&self, node: usize) -> Answerer {
        let status = self.nodes[node].status.as_ref();
        Answerer {
            node,
            term: self.nodes[node].term(),
            head: status.and_then(|status| status.head).map(|head| head.id),
            own_disk: status.is_some_and(|status| status.disk == DiskState::UpToDate),
        }
    }

    /// Whether `node` says that it is in sync with `peer`.
    pub(super) fn in_sync(&self, node: usize, peer: usize) -> bool {
        self.nodes[node].status.as_ref().is_some_and(|status| {
            status.peers.iter().any(|entry| {
                peer_node(node, entry.index) == peer
                    && matches!(entry.replication, Replication::Established | Replication::Verify)
                    && entry.disk == Some(DiskState::UpToDate)
            })
        })
    }
}
