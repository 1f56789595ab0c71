//! What comes after a crash, and what must hold then. Each function takes a world at some moment of a workload, lets
//! one thing happen, mends it as an operator would, and compares with the contract.

use evenkeel_core::{
    ids::{Generation, PeerIndex},
    volume::{
        DiskState, Replication, Role,
        config::Protocol,
        io::RequestOutcome,
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
    },
};

use crate::{
    contract::{History, Must, Order},
    disk::{BLOCKS, Crash, Image, Name, PLACES},
    workload::{Operation, span},
    world::{Late, World},
};

/// What is written after a recovery, to see that the volume serves.
const AFTERWARDS: Name = 200;
/// So many pairs of disks are looked at when two nodes crash; of more, each disk at least once.
const PAIRS: usize = 64;

/// A moment of a workload.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) world: World,
    pub(crate) history: History,
    /// What a copy holds that has none of the newest generation.
    pub(crate) old: Image,
    /// Whether things have happened in another order than that in which they were begun.
    pub(crate) is_new: bool,
}

type Checked = Result<(), String>;

impl Moment {
    /// Puts what was answered into the history.
    ///
    /// # Errors
    /// If an answer is wrong.
    pub(crate) fn note_replies(&mut self) -> Result<bool, String> {
        if let Some(broken) = &self.world.broken {
            return Err(broken.clone());
        }
        let mut any = false;
        for at in 0..self.history.len() {
            if self.history.is_answered(at) {
                continue;
            }
            match self.world.replies.get(&(at as u64)) {
                Some(Ok(RequestOutcome::Done)) => self.history.answer(at, None)?,
                Some(Ok(RequestOutcome::Data(data))) => {
                    let name = data[0];
                    if data.iter().any(|&byte| byte != name) {
                        return Err("a read returned half a block".to_owned());
                    }
                    self.history.answer(at, Some(name))?;
                }
                // What was refused may be there or not.
                Some(Err(_)) | None => continue,
            }
            any = true;
        }
        Ok(any)
    }

    fn is_all_answered(&self) -> bool {
        (0..self.history.len()).all(|at| self.history.is_answered(at))
    }

    fn head(&self, node: usize) -> Option<Generation> {
        self.world.status(node).head
    }

    /// The primary, alone, comes back after its crash; the peer does not.
    pub(crate) fn primary_alone(&self, crash: Crash) -> Vec<Self> {
        self.world.crash(0, crash).into_iter().map(|world| Self { world, ..self.clone() }).collect()
    }

    /// The primary starts again and meets nobody.
    pub(crate) fn restart_alone(mut self, crash: Crash) -> Checked {
        let pair = self.world.nodes() == 2;
        if pair {
            self.world.kill(1);
        }
        self.world.start(0);
        self.world.pass(3);
        let must = match crash {
            Crash::Process => {
                if self.world.status(0).role != Role::Primary {
                    return Err("P7: a primary whose process died takes its role up again".to_owned());
                }
                Must::Everything
            }
            Crash::Power => {
                if self.world.status(0).role == Role::Primary {
                    return Err("P7: a primary whose machine lost power waits for its peer".to_owned());
                }
                if pair {
                    self.refuse(0)?;
                }
                self.promote(0, Force::Yes)?;
                Must::Flushed
            }
        };
        let image = self.image(0)?;
        self.history.check(image, must, Order::Flushes)?;
        self.serve(0)
    }

    /// The primary is gone for good, and its peer has crashed too or not.
    pub(crate) fn take_over(mut self, crash: Option<Crash>) -> Result<Self, String> {
        let head = self.head(0);
        let established = self.world.status(0).peers[0].replication == Replication::Established;
        self.world.kill(0);
        if crash.is_some() {
            self.world.start(1);
        }
        self.world.run(Late::Nothing);
        self.world.pass(1);
        let state = self.world.status(1);
        if state.role == Role::Primary || state.disk == DiskState::UpToDate {
            return Err(format!(
                "P1: the primary vanished, and the other is {:?} {:?}",
                state.role, state.disk
            ));
        }
        self.refuse(1)?;
        if state.disk == DiskState::Inconsistent {
            let answer = self.world.command(1, OperatorCommand::Primary(Force::Yes));
            if established || !matches!(answer, Some(OperatorAnswer::Refused(_))) {
                return Err(format!("an Inconsistent copy, in sync {established}, is promoted: {answer:?}"));
            }
            return Ok(self);
        }
        self.promote(1, Force::Yes)?;
        let image = self.image(1)?;
        if state.head != head {
            if established || image != self.old {
                return Err(format!("a copy of before shows {image:?}, in sync {established}"));
            }
        } else {
            let must = match (self.world.protocol(), crash) {
                (Protocol::C, None | Some(Crash::Process)) | (Protocol::B, None) => Must::Everything,
                (Protocol::B, Some(Crash::Process)) | (Protocol::B | Protocol::C, Some(Crash::Power)) => {
                    Must::Flushed
                }
                (Protocol::A, _) => Must::Nothing,
            };
            let order = match (self.world.protocol(), crash) {
                (Protocol::A, None | Some(Crash::Process)) => Order::Answers,
                (Protocol::A, Some(Crash::Power)) | (Protocol::B | Protocol::C, _) => Order::Flushes,
            };
            self.history.check(image, must, order)?;
        }
        self.serve(1)?;
        Ok(self)
    }

    /// Both have crashed, and both come back.
    pub(crate) fn both_return(mut self, crashes: [Crash; 2], held: bool) -> Checked {
        let protocol = self.world.protocol();
        self.world.start(0);
        self.world.start(1);
        self.world.wants_link = true;
        self.world.pass(3);
        let must = match (protocol, crashes) {
            (_, [Crash::Process, _]) => Must::Everything,
            (Protocol::C, [Crash::Power, Crash::Process]) if held => Must::Everything,
            (_, [Crash::Power, _]) => Must::Flushed,
        };
        self.converge(must)
    }

    /// The peer dies; the primary goes on.
    pub(crate) fn without_peer(mut self) -> Result<Self, String> {
        self.world.kill(1);
        self.goes_on()?;
        Ok(self)
    }

    /// The cable is pulled; the primary goes on.
    pub(crate) fn goes_on(&mut self) -> Checked {
        self.world.run(Late::Nothing);
        self.note_replies()?;
        if !self.is_all_answered() {
            return Err("a primary alone does not answer".to_owned());
        }
        self.history.check(self.world.disk(0).cache, Must::Everything, Order::Flushes)
    }

    /// The peer comes back as this disk.
    pub(crate) fn peer_returns(mut self, disk: &World) -> Checked {
        self.world.take_disk(1, disk);
        self.world.start(1);
        self.world.wants_link = true;
        self.world.pass(3);
        self.converge(Must::Everything)
    }

    /// The primary has crashed after it had gone on without its peer, which lives, and comes back to it.
    pub(crate) fn primary_returns(mut self, must: Must) -> Checked {
        self.world.start(0);
        self.world.wants_link = true;
        self.world.pass(3);
        self.converge(must)
    }

    /// A node that was away while the other was promoted by force comes back: it follows.
    pub(crate) fn deposed_returns(mut self, disk: &World) -> Checked {
        self.world.take_disk(0, disk);
        self.world.start(0);
        self.world.wants_link = true;
        self.world.pass(3);
        let image = self.image(1)?;
        if !self.world.is_well() || self.world.disk(0).cache != image {
            return Err(format!("the old primary does not follow: {}", self.world.told()));
        }
        Ok(())
    }

    /// Both nodes are there and connected: one serves, both are the same.
    fn converge(&mut self, must: Must) -> Checked {
        if let Some(broken) = &self.world.broken {
            return Err(broken.clone());
        }
        let primary = (0..2).find(|&node| self.world.status(node).role == Role::Primary);
        let primary = match primary {
            Some(primary) => primary,
            None => {
                if (0..2).any(|node| self.world.status(node).disk != DiskState::UpToDate) {
                    return Err(format!("they do not get in sync: {}", self.world.told()));
                }
                self.promote(0, Force::No)?;
                0
            }
        };
        let image = self.image(primary)?;
        self.history.check(image, must, Order::Flushes)?;
        if !self.world.is_well() {
            return Err(format!("not all is well afterwards: {}", self.world.told()));
        }
        self.serve(primary)?;
        self.lay_down(primary)
    }

    /// The primary becomes secondary: then the images are equal, also on media (P5).
    fn lay_down(&mut self, primary: usize) -> Checked {
        let answer = self.world.command(primary, OperatorCommand::Secondary { force: false });
        let (own, other) = (self.world.disk(primary), self.world.disk(1 - primary));
        if answer != Some(OperatorAnswer::Done) || own.stable != other.stable || own.stable != own.cache {
            return Err(format!("P5: {answer:?}, and the images are {}", self.world.told()));
        }
        Ok(())
    }

    /// The role is handed over in the midst of the workload.
    pub(crate) fn hand_over(mut self, late: Late) -> Checked {
        let command = self.world.begin(0, OperatorCommand::Secondary { force: false });
        let in_sync = self.world.status(0).peers[0].replication == Replication::Established;
        while self.world.answer(command).is_none() {
            let Some(next) = self.world.next(late) else { return Err("P5: no answer".to_owned()) };
            self.world.step(next);
            self.note_replies()?;
        }
        let disks = [self.world.disk(0), self.world.disk(1)];
        if in_sync && (disks[0].stable != disks[1].stable || disks[0].stable != disks[0].cache) {
            return Err(format!("P5: at the answer the images are {}", self.world.told()));
        }
        self.history.check(disks[0].stable, Must::Everything, Order::Flushes)?;
        self.world.run(late);
        if !(0..self.history.len()).all(|at| self.world.replies.contains_key(&(at as u64))) {
            return Err("P5: what was asked for is never answered".to_owned());
        }
        self.world.wants_link = true;
        self.world.pass(1);
        self.promote(1, Force::No)?;
        let image = self.image(1)?;
        self.history.check(image, Must::Everything, Order::Flushes)?;
        self.serve(1)
    }

    /// A verify in the midst of the workload finds what was changed behind the engine, and nothing else (R7).
    pub(crate) fn verify(mut self, late: Late, planted: bool) -> Checked {
        if planted {
            self.world.spoil(1, BLOCKS - 1);
        }
        let peer = PeerIndex::FIRST;
        let command = self.world.begin(0, OperatorCommand::Verify { peer, repair: false });
        self.world.run(late);
        let expected: Vec<ByteSpan> = if planted { vec![span(BLOCKS - 1)] } else { Vec::new() };
        match self.world.answer(command) {
            Some(OperatorAnswer::Verified { differing, .. }) if *differing == expected => Ok(()),
            other => Err(format!("R7: {other:?} instead of {expected:?}")),
        }
    }

    /// Without force this node may not become primary: the other may be.
    fn refuse(&mut self, node: usize) -> Checked {
        match self.world.command(node, OperatorCommand::Primary(Force::No)) {
            Some(OperatorAnswer::Refused(_)) => Ok(()),
            other => Err(format!("P2: promoted without force while its peer may be primary: {other:?}")),
        }
    }

    fn promote(&mut self, node: usize, force: Force) -> Checked {
        match self.world.command(node, OperatorCommand::Primary(force)) {
            Some(OperatorAnswer::Done) => Ok(()),
            other => Err(format!("P3: node {node} with {force:?}: {other:?} {}", self.world.told())),
        }
    }

    /// The whole device, as a client reads it.
    fn image(&mut self, node: usize) -> Result<Image, String> {
        let first = 500;
        for block in 0..BLOCKS {
            self.world.replies.remove(&(first + block as u64));
            self.world.ask(node, first + block as u64, Operation::Read(block).request(0));
        }
        self.world.run(Late::Nothing);
        let mut image = [0; BLOCKS];
        for (block, name) in image.iter_mut().enumerate() {
            match self.world.replies.get(&(first + block as u64)) {
                Some(Ok(RequestOutcome::Data(data))) => *name = data[0],
                other => return Err(format!("a read at node {node} got {other:?} {}", self.world.told())),
            }
        }
        Ok(image)
    }

    /// The volume takes a write.
    fn serve(&mut self, node: usize) -> Checked {
        let request = 600;
        self.world.replies.remove(&request);
        let payload = World::payload(AFTERWARDS);
        let write =
            evenkeel_core::volume::io::ClientOperation::Write { offset: PLACES[0], payload, fua: true };
        self.world.ask(node, request, write);
        self.world.run(Late::Nothing);
        match self.world.replies.get(&request) {
            Some(Ok(RequestOutcome::Done)) => Ok(()),
            other => Err(format!("a write at node {node} got {other:?} {}", self.world.told())),
        }
    }
}

/// Pairs of disks after a crash of both nodes.
pub(crate) fn pairs(first: usize, second: usize) -> Vec<(usize, usize)> {
    if first * second <= PAIRS {
        return (0..first).flat_map(|one| (0..second).map(move |other| (one, other))).collect();
    }
    (0..first.max(second)).map(|at| (at % first, at % second)).collect()
}
