//! The faults of the schedule: what each does when its time comes, and when it ends.
//!
//! The atlas: a fault that damages a copy strikes only while another node holds everything acknowledged, unless
//! the run is one of those beyond the budget. What cannot strike (a crash of a node that is down) does nothing.

use evenkeel_core::volume::{
    io::{Area, DiskError, Event},
    operator::{Force, OperatorAnswer, OperatorCommand},
};

use super::{Phase, World, agenda::Due, node::peer_index};
use crate::{
    decision::Stream,
    disk::{Disk, DiskFault},
    engine::Engine,
    payload::SECTOR,
    plan::{FaultKind, MILLISECOND, Planned},
};

impl<E: Engine> World<'_, E> {
    pub(super) fn strike(&mut self, entry: usize) {
        let fault = self.plan.faults[entry];
        if self.phase != Phase::Faults || (fault.kind.damages_copy() && !self.oracle.may_damage(fault.node)) {
            return;
        }
        if self.apply(entry, fault) {
            self.counts.faults[fault.kind.number()] += 1;
            self.note(|| format!("### {:?} node {} peer {}", fault.kind, fault.node, fault.peer));
        }
    }

    /// Lets a fault happen; false when it has nothing to happen to.
    fn apply(&mut self, entry: usize, fault: Planned) -> bool {
        let Planned { kind, node, peer, lasts, key, .. } = fault;
        let mut draws = Stream::of_key(key);
        let ends = Due::FaultEnds { entry };
        match kind {
            FaultKind::ProcessCrash => {
                let struck = self.crash(node, &mut draws);
                self.come_back_after(struck, node, lasts)
            }
            FaultKind::PowerLoss => {
                let struck = self.lose_power(node, &mut draws);
                self.come_back_after(struck, node, lasts)
            }
            FaultKind::PowerLossEverywhere => {
                for node in 0..self.plan.nodes {
                    self.lose_power(node, &mut draws);
                    let after = 1 + draws.below(lasts);
                    self.come_back(node, after);
                }
                true
            }
            FaultKind::Ambush => {
                self.lay_ambush(entry, &mut draws);
                false
            }
            FaultKind::Pause | FaultKind::Sleep => self.pause(node, lasts),
            FaultKind::CleanRestart => self.while_running(node, |world| {
                world.command(node, OperatorCommand::Shutdown);
            }),
            FaultKind::LinkCut => self.while_linked(node, peer, |world| world.break_link(node, peer)),
            FaultKind::LinkReplaced => self.while_linked(node, peer, |world| world.connect(node, peer)),
            FaultKind::OneWayCut => {
                self.net.cut(node, peer);
                self.agenda.put(self.now + lasts, ends);
                true
            }
            FaultKind::Partition => {
                self.net.cut(node, peer);
                self.net.cut(peer, node);
                self.agenda.put(self.now + lasts, ends);
                true
            }
            FaultKind::Flap => {
                self.break_link(node, peer);
                if lasts > 0 {
                    // One break now; the caretaker's next connection is broken again when the entry ends.
                    self.agenda.put(self.now + lasts.min(3_000 * MILLISECOND), ends);
                }
                true
            }
            FaultKind::Clog => self.clog(node, peer, Some(lasts), &mut draws),
            FaultKind::DropFrame => {
                let struck = self.clog(node, peer, None, &mut draws);
                if struck {
                    self.agenda.put(self.now + lasts.min(30_000 * MILLISECOND), ends);
                }
                struck
            }
            FaultKind::Replay => self.while_running(node, |world| {
                world.replay(node, 1 + draws.index(10));
            }),
            FaultKind::CorruptFrame => {
                self.while_linked(node, peer, |world| world.corrupt(node, peer, &mut draws))
            }
            FaultKind::DiskStall => {
                self.nodes[node].disk.stalled_until = self.now + lasts;
                true
            }
            FaultKind::DataReadError => self.arm(node, DiskFault::Read(Area::Data)),
            FaultKind::MetaReadError => self.arm(node, DiskFault::Read(Area::Meta)),
            FaultKind::WriteError => self.arm(node, DiskFault::Write(DiskError::Io)),
            FaultKind::DataNoSpace => self.arm(node, DiskFault::Write(DiskError::NoSpace)),
            FaultKind::FlushError => self.arm(node, DiskFault::Flush),
            FaultKind::CommitError => self.arm(node, DiskFault::Commit(DiskError::Io)),
            FaultKind::MetaNoSpace => self.arm(node, DiskFault::Commit(DiskError::NoSpace)),
            FaultKind::LostWrite => self.arm(node, DiskFault::Lost),
            FaultKind::MisdirectedWrite => self.arm(node, DiskFault::Misdirected),
            FaultKind::MisdirectedToMeta => self.arm(node, DiskFault::MisdirectedToMeta),
            FaultKind::DataBitFlip => {
                self.oracle.damaged(node);
                self.nodes[node].disk.flip_bit(Area::Data, &mut draws);
                true
            }
            FaultKind::MetaBitFlip => self.while_down(node, lasts, &mut draws, |world, draws| {
                world.nodes[node].disk.flip_bit(Area::Meta, draws);
                world.oracle.forget_metadata(node);
            }),
            FaultKind::SnapshotBoth => self.snapshot(entry, true, true),
            FaultKind::SnapshotData => self.snapshot(entry, true, false),
            FaultKind::SnapshotMeta => self.snapshot(entry, false, true),
            FaultKind::BlankDisk => self.while_down(node, lasts, &mut draws, |world, _| {
                world.nodes[node].blank = true;
                world.oracle.forget_metadata(node);
            }),
            FaultKind::NotMounted => {
                let struck = self.crash(node, &mut draws);
                self.nodes[node].unfit_until = self.now + lasts;
                self.come_back_after(struck, node, lasts / 2)
            }
            FaultKind::Truncated => {
                let struck = self.crash(node, &mut draws);
                self.nodes[node].truncated = true;
                self.come_back_after(struck, node, lasts)
            }
            FaultKind::BareMountPoint => {
                if self.nodes[node].unmounted.is_some() {
                    return false;
                }
                self.lose_power(node, &mut draws);
                self.swap_disk(node);
                self.nodes[node].blank = true;
                self.come_back(node, 1_000 * MILLISECOND);
                self.agenda.put(self.now + 1_000 * MILLISECOND + lasts, ends);
                true
            }
            FaultKind::ClientDisconnect => {
                let connection = draws.index(self.clients.connections.len());
                self.disconnect_client(connection);
                true
            }
            FaultKind::Handover => {
                self.caretaker.prefer(node);
                self.demote_primaries()
            }
            FaultKind::Demote => {
                self.caretaker.rest_until(self.now + lasts);
                self.demote_primaries()
            }
            FaultKind::PromoteBlindly => self.while_running(node, |world| {
                world.command(node, OperatorCommand::Primary(Force::No));
            }),
            FaultKind::ForceBlindly if !self.net.is_cut(node, peer) => {
                // First nobody hears anybody, long enough for both to give up; then the operator acts.
                self.net.cut(node, peer);
                self.net.cut(peer, node);
                self.agenda.put(self.now + 8_000 * MILLISECOND, Due::Fault { entry });
                false
            }
            FaultKind::ForceBlindly => {
                self.agenda.put(self.now + lasts, ends);
                self.while_running(node, |world| {
                    world.command(node, OperatorCommand::Primary(Force::Yes));
                })
            }
            FaultKind::ForceBesidePause => self.force_beside_pause(lasts),
            FaultKind::Disconnect => {
                self.agenda.put(self.now + lasts, ends);
                self.while_running(node, |world| {
                    world.command(node, OperatorCommand::Disconnect(peer_index(node, peer)));
                })
            }
            FaultKind::Invalidate => {
                if self.nodes[node].is_primary() {
                    return false;
                }
                self.while_running(node, |world| {
                    world.oracle.damaged(node);
                    world.command(node, OperatorCommand::Invalidate);
                })
            }
            FaultKind::Verify => self.while_running(node, |world| {
                let peer = peer_index(node, peer);
                world.command(node, OperatorCommand::Verify { peer, repair: draws.chance(1, 2) });
            }),
            FaultKind::Resize => self.resize(node, &mut draws),
            FaultKind::PauseResync => {
                self.agenda.put(self.now + lasts, ends);
                self.while_running(node, |world| world.command(node, OperatorCommand::PauseResync(true)))
            }
        }
    }

    pub(super) fn strike_ends(&mut self, entry: usize) {
        let Planned { kind, node, peer, .. } = self.plan.faults[entry];
        if self.phase != Phase::Faults {
            return;
        }
        match kind {
            FaultKind::Ambush => self.die_in_ambush(entry),
            FaultKind::OneWayCut => self.reopen(node, peer),
            FaultKind::Partition | FaultKind::ForceBlindly => {
                self.reopen(node, peer);
                self.reopen(peer, node);
            }
            FaultKind::Flap | FaultKind::DropFrame => self.break_link(node, peer),
            FaultKind::BareMountPoint => {
                self.mount_again(node);
                self.come_back(node, 1_000 * MILLISECOND);
            }
            FaultKind::Disconnect if self.nodes[node].runs() => {
                self.command(node, OperatorCommand::Connect(peer_index(node, peer)));
            }
            FaultKind::PauseResync if self.nodes[node].runs() => {
                self.command(node, OperatorCommand::PauseResync(false));
            }
            _ => {}
        }
    }

    /// Puts the disk that a node has aside, and the one that is aside, or a new one, in its place.
    fn swap_disk(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let (data_len, meta_len) = (this.disk.data().len() as u64, this.disk.meta().len() as u64);
        let other = this.unmounted.take().unwrap_or_else(|| Disk::empty(data_len, meta_len));
        let own = std::mem::replace(&mut this.disk, other);
        this.unmounted = Some(own);
        self.oracle.damaged(node);
        self.oracle.forget_metadata(node);
    }

    /// The disk that was missing is mounted again; what was made in its place is out of sight. If that has become the last
    /// good copy it stays, and the other disk is given up.
    fn mount_again(&mut self, node: usize) {
        if self.nodes[node].unmounted.is_none() {
            return;
        }
        if !self.oracle.may_damage(node) {
            self.nodes[node].unmounted = None;
            return;
        }
        self.crash(node, &mut Stream::of_key(self.now));
        self.swap_disk(node);
        let this = &mut self.nodes[node];
        this.unmounted = None;
        this.blank = false;
    }

    /// The operator makes the volume larger, mostly where it is primary.
    fn resize(&mut self, node: usize, draws: &mut Stream) -> bool {
        let primary = (0..self.plan.nodes).find(|other| self.nodes[*other].is_primary());
        let node = if draws.chance(1, 4) { node } else { primary.unwrap_or(node) };
        let sizes = self.nodes.iter().filter_map(|node| node.status.as_ref()).map(|status| status.size_bytes);
        let largest = sizes.max().unwrap_or(0).max(self.plan.size_bytes);
        let sectors = (self.plan.size_bytes_max - largest) / SECTOR as u64;
        if sectors == 0 {
            return false;
        }
        let size_bytes = largest + SECTOR as u64 * draws.between(1, sectors);
        self.while_running(node, |world| world.command(node, OperatorCommand::Resize(size_bytes)))
    }

    fn reopen(&mut self, from: usize, to: usize) {
        self.net.heal(from, to);
        if !self.net.is_cut(from, to) {
            self.kick_all(from, to);
        }
    }

    fn while_running(&mut self, node: usize, act: impl FnOnce(&mut Self)) -> bool {
        let runs = self.nodes[node].runs();
        if runs {
            act(self);
        }
        runs
    }

    fn while_linked(&mut self, node: usize, peer: usize, act: impl FnOnce(&mut Self)) -> bool {
        let linked =
            self.net.newest(node, peer).is_some() && self.nodes[node].runs() && self.nodes[peer].runs();
        if linked {
            act(self);
        }
        linked
    }

    /// Stops a node, does something to its disk, and starts it again.
    fn while_down(
        &mut self,
        node: usize,
        lasts: u64,
        draws: &mut Stream,
        act: impl FnOnce(&mut Self, &mut Stream),
    ) -> bool {
        self.crash(node, draws);
        self.oracle.damaged(node);
        act(self, draws);
        self.come_back(node, lasts);
        true
    }

    fn come_back_after(&mut self, struck: bool, node: usize, after: u64) -> bool {
        if struck {
            self.come_back(node, after);
        }
        struck
    }

    fn arm(&mut self, node: usize, fault: DiskFault) -> bool {
        // From now on anything may be wrong with this copy: the atlas counts on the others.
        self.oracle.damaged(node);
        self.nodes[node].disk.arm(fault);
        true
    }

    fn snapshot(&mut self, entry: usize, data: bool, meta: bool) -> bool {
        let Planned { node, lasts, key, .. } = self.plan.faults[entry];
        let this = &mut self.nodes[node];
        let attach = if E::INSPECTS { this.memory.attach } else { this.epoch.into() };
        match this.disk.snapshot_attach() {
            // Design D6 finds a copy by the attach counter: it must have risen since the copy was taken.
            Some(taken) if taken < attach && this.runs() => {
                let mut draws = Stream::of_key(key);
                self.while_down(node, lasts, &mut draws, |world, _| {
                    world.nodes[node].disk.restore_snapshot(data, meta);
                    world.oracle.forget_metadata(node);
                })
            }
            Some(_) => {
                self.agenda.put(self.now + 5_000 * MILLISECOND, Due::Fault { entry });
                false
            }
            // What is being made anew is nothing yet.
            None if this.blank => false,
            None => {
                this.disk.take_snapshot(attach);
                self.agenda.put(self.now + 1 + lasts, Due::Fault { entry });
                false
            }
        }
    }

    fn clog(&mut self, node: usize, peer: usize, lasts: Option<u64>, draws: &mut Stream) -> bool {
        let Some(link) = self.net.newest(node, peer) else { return false };
        let channel = draws.index(3);
        let until = self.now + lasts.unwrap_or(0);
        let end = self.net.link(link).end_of(node);
        let stream = &mut self.net.link(link).streams[end][channel];
        match lasts {
            Some(_) => stream.clogged_until = until,
            None => stream.stuck = true,
        }
        true
    }

    fn pause(&mut self, node: usize, lasts: u64) -> bool {
        if !self.nodes[node].runs() || self.nodes[node].paused {
            return false;
        }
        self.nodes[node].paused = true;
        self.nodes[node].absence = Some(self.absence_of(node));
        let epoch = self.nodes[node].epoch;
        self.agenda.put(self.now + lasts, Due::Resume { node, epoch });
        true
    }

    /// The primary stands still, and at once somebody who takes it for dead forces a node that follows it.
    fn force_beside_pause(&mut self, lasts: u64) -> bool {
        let pair = (0..self.plan.nodes).filter(|node| self.nodes[*node].is_primary()).find_map(|primary| {
            let follows = |other: &usize| *other != primary && self.in_sync(primary, *other);
            let usable = |other: &usize| self.nodes[*other].runs() && !self.nodes[*other].paused;
            (0..self.plan.nodes).filter(usable).find(follows).map(|follower| (primary, follower))
        });
        let Some((primary, follower)) = pair else { return false };
        let stands = self.pause(primary, lasts);
        if stands {
            self.command(follower, OperatorCommand::Primary(Force::Yes));
        }
        stands
    }

    fn demote_primaries(&mut self) -> bool {
        let primaries: Vec<usize> = (0..self.plan.nodes)
            .filter(|node| self.nodes[*node].runs() && self.nodes[*node].is_primary())
            .collect();
        for node in &primaries {
            self.command(*node, OperatorCommand::Secondary { force: true });
        }
        !primaries.is_empty()
    }

    /// The process of a node dies.
    pub(super) fn crash(&mut self, node: usize, draws: &mut Stream) -> bool {
        if !self.nodes[node].runs() {
            return false;
        }
        self.check_holders();
        self.nodes[node].disk.kill(draws);
        self.end_process(node);
        self.counts.crashes += 1;
        self.check_metadata(node);
        true
    }

    /// The machine of a node loses power; its caches go even if the daemon was not running.
    pub(super) fn lose_power(&mut self, node: usize, draws: &mut Stream) -> bool {
        self.check_holders();
        self.nodes[node].disk.lose_power(draws);
        let ran = self.nodes[node].runs();
        if ran {
            self.end_process(node);
        }
        self.nodes[node].boot_machine(self.plan, self.now);
        self.oracle.power_lost(node);
        self.counts.crashes += 1;
        self.check_metadata(node);
        ran
    }

    /// The daemon of a node is gone.
    pub(super) fn end_process(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let was_primary = this.is_primary();
        this.engine = None;
        this.status = None;
        this.epoch += 1;
        this.paused = false;
        this.absence = None;
        this.backlog.clear();
        this.commands.clear();
        this.forced = false;
        this.died_primary = was_primary;
        self.oracle.process_gone(node, was_primary);
        self.break_links_of(node);
        self.detach_all(node);
        self.note(|| format!("node {node} is gone"));
    }

    /// No more faults: everything that the schedule broke is mended.
    pub(super) fn heal(&mut self) {
        self.note(|| "### healing".to_owned());
        self.net.heal_all();
        for node in 0..self.plan.nodes {
            self.mount_again(node);
            self.nodes[node].disk.disarm();
            self.nodes[node].unfit_until = 0;
            self.nodes[node].truncated = false;
            for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
                self.kick_all(node, peer);
                if self.nodes[node].runs() {
                    self.command(node, OperatorCommand::Connect(peer_index(node, peer)));
                }
                self.break_link(node, peer);
            }
            if self.nodes[node].runs() {
                self.command(node, OperatorCommand::PauseResync(false));
                let epoch = self.nodes[node].epoch;
                self.agenda.put(self.now, Due::Resume { node, epoch });
            } else {
                self.come_back(node, 1_000 * MILLISECOND);
            }
        }
        self.caretaker.rest_until(0);
    }

    /// Gives a node a command of the operator.
    pub(super) fn command(&mut self, node: usize, command: OperatorCommand) {
        if !self.nodes[node].runs() {
            return;
        }
        let id = self.fresh_command();
        if matches!(command, OperatorCommand::Primary(Force::Yes | Force::Inconsistent)) {
            self.nodes[node].forced = true;
        }
        if matches!(command, OperatorCommand::Resolve { .. }) {
            self.caretaker.resolved = true;
        }
        self.nodes[node].commands.push((id, command.clone()));
        self.feed(node, Event::Command { id, command });
    }

    /// A command is answered.
    pub(super) fn command_answered(
        &mut self,
        node: usize,
        command: &OperatorCommand,
        answer: &OperatorAnswer,
    ) {
        let done = *answer == OperatorAnswer::Done;
        if let OperatorAnswer::Verified { differing_bytes, differing, .. } = answer
            && *differing_bytes > 0
            && !self.plan.beyond_budget
            && !(self.unreadable && self.phase == Phase::Faults)
        {
            let text = format!("node {node} verified: {differing_bytes} bytes differ, at {differing:?}");
            self.oracle.broken("O5", text);
        }
        match command {
            OperatorCommand::Primary(Force::Yes | Force::Inconsistent) => {
                self.nodes[node].forced = false;
                if done && self.oracle.is_fork_possible() {
                    // Some clients find the new primary, some stay where they are.
                    self.disconnect_client(0);
                }
                if matches!(answer, OperatorAnswer::Refused(why) if why.contains("restart the machine")) {
                    // As it says.
                    let mut draws = Stream::of_key(self.now);
                    self.lose_power(node, &mut draws);
                    self.come_back(node, 1_000 * MILLISECOND);
                }
            }
            OperatorCommand::Resize(size_bytes) if done => self.clients.may_use(*size_bytes),
            OperatorCommand::Resolve { .. } if !done => self.caretaker.resolved = false,
            OperatorCommand::Shutdown if done => {
                let mut draws = Stream::of_key(self.now);
                self.nodes[node].disk.kill(&mut draws);
                self.end_process(node);
                self.come_back(node, 1_000 * MILLISECOND);
            }
            OperatorCommand::Primary(Force::No)
            | OperatorCommand::Secondary { .. }
            | OperatorCommand::Disconnect(_)
            | OperatorCommand::Connect(_)
            | OperatorCommand::Invalidate
            | OperatorCommand::InvalidatePeer(_)
            | OperatorCommand::Foretell { .. }
            | OperatorCommand::PauseResync(_)
            | OperatorCommand::LimitResync(_)
            | OperatorCommand::Resolve { .. }
            | OperatorCommand::Verify { .. }
            | OperatorCommand::Resize(_)
            | OperatorCommand::Shutdown => {}
        }
    }
}
