//! Goes through every workload, and at every event of it through every crash.
//!
//! The workloads are a tree: what the first operations have in common is carried out once, and a crash in it is looked
//! at once. Crashes that leave what an earlier one has left, with the same promises made, are looked at once too.

use std::collections::HashSet;

use evenkeel_core::volume::{Replication, Role, config::Protocol};

use crate::{
    contract::{History, Must},
    disk::{Crash, Disk, Image, Sort},
    recovery::{Moment, pairs},
    workload::{Operation, Pace},
    world::{Late, World},
};

/// In what state the volume is when the workload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A volume of one node.
    Single,
    /// Two nodes in sync.
    InSync,
    /// The peer was away and copies what it lacks.
    Returning,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visited {
    pub(crate) workloads: u64,
    /// Moments of workloads at which something crashed.
    pub(crate) moments: u64,
    /// Crashes that were recovered from.
    pub(crate) recoveries: u64,
}

/// One walk through the tree.
pub(crate) struct Explorer {
    stage: Stage,
    late: Late,
    protocol: Protocol,
    operations: usize,
    trail: Vec<(Operation, Pace)>,
    seen: HashSet<u64>,
    visited: Visited,
}

/// What one walk passes on to the next of the same stage and protocol.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    seen: HashSet<u64>,
    pub(crate) visited: Visited,
}

const BASE: Image = [101, 102, 103];
const NEWER: Image = [111, 112, 103];

fn write(world: &mut World, id: u64, block: usize, name: u8) {
    let payload = World::payload(name);
    let offset = crate::disk::PLACES[block];
    world.ask(0, id, evenkeel_core::volume::io::ClientOperation::Write { offset, payload, fua: true });
}

/// The volume as the workload finds it: a primary, every block stable, nothing open in the activity log.
fn prepared(stage: Stage, protocol: Protocol) -> Moment {
    use evenkeel_core::volume::operator::{Force, OperatorAnswer, OperatorCommand};
    let mut world = World::new(if stage == Stage::Single { 1 } else { 2 }, protocol);
    world.wants_link = true;
    world.pass(1);
    assert_eq!(world.command(0, OperatorCommand::Primary(Force::No)), Some(OperatorAnswer::Done));
    for (block, name) in BASE.into_iter().enumerate() {
        write(&mut world, 900 + block as u64, block, name);
    }
    // Two minutes: idle extents are let go (D8).
    world.pass(130);
    let mut base = BASE;
    world.wants_link = false;
    if stage == Stage::Returning {
        world.cut();
        write(&mut world, 910, 0, NEWER[0]);
        write(&mut world, 911, 1, NEWER[1]);
        world.run(Late::Nothing);
        base = NEWER;
        world.connect();
        while world.status(1).peers[0].replication != Replication::SyncTarget {
            let next = world.next(Late::Nothing).expect("the resync begins");
            world.step(next);
        }
    }
    assert_eq!(world.broken, None);
    assert_eq!(world.disk(0).stable, base);
    Moment { world, history: History::new(base), old: BASE, is_new: true }
}

impl Explorer {
    /// Walks through all workloads of so many operations, in this order of events.
    pub(crate) fn walk(stage: Stage, protocol: Protocol, late: Late, operations: usize, passed: &mut Passed) {
        let Passed { seen, visited } = std::mem::take(passed);
        let mut explorer = Self { stage, late, protocol, operations, trail: Vec::new(), seen, visited };
        let mut start = prepared(stage, protocol);
        start.is_new = late == Late::Nothing;
        explorer.extend(&start, Pace::AtOnce, 0);
        *passed = Passed { seen: explorer.seen, visited: explorer.visited };
    }

    /// Every next operation.
    fn extend(&mut self, from: &Moment, pace: Pace, used: usize) {
        if self.trail.len() == self.operations {
            return;
        }
        for operation in Operation::all(used) {
            let mut moment = from.clone();
            let at = moment.history.ask(operation);
            moment.world.ask(0, at as u64, operation.request(moment.history.name(at)));
            self.trail.push((operation, pace));
            self.visited.workloads += 1;
            let used = operation.block().map_or(used, |block| used.max(block + 1));
            // Both requests come in before anything else happens.
            self.happen(&mut moment);
            self.extend(&moment, Pace::AtOnce, used);
            if let Some(answered) = self.carry_out(moment, at) {
                self.extend(&answered, Pace::Answered, used);
            }
            self.trail.pop();
        }
    }

    /// The next thing happens, and everything that can come of it is looked at; whether there was one.
    fn happen(&mut self, moment: &mut Moment) -> bool {
        let Some(next) = moment.world.next(self.late) else { return false };
        moment.is_new |= moment.world.next(Late::Nothing) != Some(next);
        let node = moment.world.step(next);
        match moment.note_replies() {
            // What is the same in the order in which things were begun is looked at there.
            Ok(_) if !moment.is_new => {}
            Ok(replied) => self.visit(moment, node, replied),
            Err(why) => self.fail("in the workload", &why, moment),
        }
        true
    }

    /// Carries the workload out to its end; returns the moment at which its last operation was answered.
    fn carry_out(&mut self, mut moment: Moment, last: usize) -> Option<Moment> {
        let mut answered = moment.history.is_answered(last).then(|| moment.clone());
        while self.happen(&mut moment) {
            if answered.is_none() && moment.history.is_answered(last) {
                answered = Some(moment.clone());
            }
        }
        let lost = (0..moment.history.len()).any(|at| !moment.history.is_answered(at));
        if lost {
            self.fail("at the end", "not everything was answered", &moment);
        }
        if let Err(why) = moment.history.check(
            moment.world.disk(0).cache,
            Must::Everything,
            crate::contract::Order::Flushes,
        ) {
            self.fail("at the end", &why, &moment);
        }
        if self.stage != Stage::Single && moment.world.disk(0).cache != moment.world.disk(1).cache {
            self.fail("at the end", "the images differ", &moment);
        }
        answered
    }

    fn fail(&self, what: &str, why: &str, moment: &Moment) -> ! {
        panic!(
            "{:?}, protocol {:?}, last {:?}, {:?}: {what}: {why}{}",
            self.stage,
            self.protocol,
            self.late,
            self.trail,
            moment.world.told()
        );
    }

    fn judge(&mut self, what: &str, moment: &Moment, result: Result<(), String>) {
        self.visited.recoveries += 1;
        if let Err(why) = result {
            self.fail(what, &why, moment);
        }
    }

    /// Whether this was looked at before: the same disks, the same promises, the same way on.
    fn is_new(&mut self, way: &str, disks: &[u64], history: &History) -> bool {
        let key = format!("{way} {disks:?} {}", history.promises());
        self.seen.insert(xxhash_rust::xxh3::xxh3_64(key.as_bytes()))
    }

    /// Everything that can go wrong at this moment, which came of an event at `node`.
    fn visit(&mut self, moment: &Moment, node: usize, replied: bool) {
        self.visited.moments += 1;
        if node == 0 || replied {
            self.primary_alone(moment);
        }
        if self.stage == Stage::Single {
            return;
        }
        if node == 1 || replied {
            self.primary_lost(moment);
        }
        self.both_crash(moment);
        self.peer_lost(moment, node);
        if self.trail.len() <= 2 && self.stage == Stage::InSync {
            self.cable_pulled(moment);
        }
        if self.trail.len() <= 2 {
            self.by_command(moment);
        }
    }

    fn primary_alone(&mut self, moment: &Moment) {
        for crash in [Crash::Process, Crash::Power] {
            for crashed in moment.primary_alone(crash) {
                let disk = crashed.world.disk(0).fingerprint();
                if self.is_new(&format!("alone {crash:?}"), &[disk], &moment.history) {
                    let result = crashed.clone().restart_alone(crash);
                    self.judge(&format!("the primary alone after {crash:?}"), &crashed, result);
                }
            }
        }
    }

    fn primary_lost(&mut self, moment: &Moment) {
        let mut worlds: Vec<(Option<Crash>, World)> = vec![(None, moment.world.clone())];
        for crash in [Crash::Process, Crash::Power] {
            worlds.extend(moment.world.crash(1, crash).into_iter().map(|world| (Some(crash), world)));
        }
        for (crash, world) in worlds {
            let disks = [
                world.disk(1).fingerprint(),
                u64::from(moment.world.status(0).peers[0].replication == Replication::Established),
            ];
            if crash.is_some() && !self.is_new(&format!("lost {crash:?}"), &disks, &moment.history) {
                continue;
            }
            let lost = Moment { world, ..moment.clone() };
            let what = format!("the primary is lost, and its peer {crash:?}");
            let after = lost.clone().take_over(crash);
            self.judge(&what, &lost, after.as_ref().map(|_| ()).map_err(Clone::clone));
            // It comes back, as it was left by either crash.
            let Ok(after) = after else { continue };
            if crash.is_some() || after.world.status(1).role != Role::Primary {
                continue;
            }
            for crash in [Crash::Process, Crash::Power] {
                let worlds = moment.world.crash(0, crash);
                let disks = [worlds[worlds.len() - 1].disk(0), after.world.disk(1)];
                if !self.is_new("deposed", &disks.map(Disk::fingerprint), &moment.history) {
                    continue;
                }
                let result = after.clone().deposed_returns(&worlds[worlds.len() - 1]);
                self.judge(&format!("the lost primary returns after {crash:?}"), &after, result);
            }
        }
    }

    fn both_crash(&mut self, moment: &Moment) {
        let held = moment.world.status(0).peers[0].replication == Replication::Established;
        for crashes in [Crash::Process, Crash::Power]
            .into_iter()
            .flat_map(|one| [[one, Crash::Process], [one, Crash::Power]])
        {
            let first = moment.world.crash(0, crashes[0]);
            let second = moment.world.crash(1, crashes[1]);
            for (one, other) in pairs(first.len(), second.len()) {
                let disks = [first[one].disk(0), second[other].disk(1)];
                let prints = [disks[0].fingerprint(), disks[1].fingerprint(), u64::from(held)];
                if !self.is_new(&format!("both {crashes:?}"), &prints, &moment.history) {
                    continue;
                }
                let mut crashed = Moment { world: first[one].clone(), ..moment.clone() };
                crashed.world.kill(1);
                crashed.world.take_disk(1, &second[other]);
                let result = crashed.clone().both_return(crashes, held);
                self.judge(&format!("both return after {crashes:?}"), &crashed, result);
            }
        }
    }

    fn peer_lost(&mut self, moment: &Moment, node: usize) {
        let after = match moment.clone().without_peer() {
            Ok(after) => after,
            Err(why) => self.fail("the peer is lost", &why, moment),
        };
        if node == 0 && self.trail.len() > 2 {
            return;
        }
        for crash in [Crash::Process, Crash::Power] {
            for disk in moment.world.crash(1, crash) {
                let prints = [disk.disk(1).fingerprint(), after.world.disk(0).fingerprint()];
                if self.is_new("peer", &prints, &after.history) {
                    let result = after.clone().peer_returns(&disk);
                    self.judge(&format!("the peer returns after {crash:?}"), &after, result);
                }
            }
        }
    }

    /// The cable is pulled, and then the primary crashes at each later event, with its peer alive.
    fn cable_pulled(&mut self, moment: &Moment) {
        let mut apart = moment.clone();
        apart.world.cut();
        loop {
            for crash in [Crash::Process, Crash::Power] {
                let must = match (self.protocol, crash) {
                    (_, Crash::Process) => Must::Everything,
                    (_, Crash::Power) => Must::Flushed,
                };
                for crashed in apart.primary_alone(crash) {
                    let disks = [crashed.world.disk(0).fingerprint(), crashed.world.disk(1).fingerprint()];
                    if self.is_new(&format!("apart {crash:?}"), &disks, &apart.history) {
                        let result = crashed.clone().primary_returns(must);
                        self.judge(
                            &format!("apart, and the primary returns after {crash:?}"),
                            &crashed,
                            result,
                        );
                    }
                }
            }
            let Some(next) = apart.world.next(self.late) else { break };
            apart.world.step(next);
            if let Err(why) = apart.note_replies() {
                self.fail("apart", &why, &apart);
            }
        }
        let result = apart.goes_on();
        self.judge("apart", moment, result);
    }

    fn by_command(&mut self, moment: &Moment) {
        let result = moment.clone().hand_over(self.late);
        self.judge("the role is handed over", moment, result);
        if self.stage == Stage::InSync {
            let untouched = (0..moment.history.len())
                .all(|at| moment.history.operation(at).block() != Some(crate::disk::BLOCKS - 1));
            let result = moment.clone().verify(self.late, untouched);
            self.judge("verify", moment, result);
        }
    }
}

/// Orders in which something comes last.
pub(crate) fn orders() -> Vec<Late> {
    use evenkeel_core::volume::io::Channel;
    let disks = (0..2).flat_map(|node| {
        [Sort::Read, Sort::Write, Sort::Flush, Sort::Commit].map(|sort| Late::Disk(node, sort))
    });
    let frames = (0..2).flat_map(|node| {
        [Channel::Control, Channel::Data, Channel::Resync].map(|channel| Late::Frames(node, channel))
    });
    [Late::Older].into_iter().chain(disks).chain(frames).collect()
}
