//! The judge: is told everything that happens, and says which rule was broken.
//!
//! Rules are those of the contract (`docs/simulator.md` lists them): O1 register, O2 floor, O3 cut, O4 stability,
//! O5 convergence, O6 single writer, O7 honest state, O8 no lie, O9 liveness, O10 monotone metadata, O11 nothing kept quiet. The oracle
//! sees clients' requests and answers (black box), and images and states of the nodes (white box); it never
//! changes anything. The first broken rule ends a run.

pub(crate) mod convergence;
mod copies;
mod cut;
mod journal;
mod metadata;
pub(crate) mod notices;
mod register;
#[cfg(test)]
mod tests;
mod writers;

use evenkeel_core::{
    ids::GenerationId,
    volume::{DiskState, config::Protocol, span::ByteSpan},
};

use self::{
    copies::{Copies, NodeSet, Standard},
    cut::{Cut, Demand},
    journal::Journal,
    metadata::Metadata,
    register::{NEVER, Register},
    writers::{Answered, Writers},
};
use crate::{
    engine::MetaFacts,
    payload::{self, SECTOR, Value, WriteId},
};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, as `O1`.
    pub rule: &'static str,
    /// What was seen, with the history of the sector concerned.
    pub text: String,
}

/// A node as it answers: what the oracle needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answerer {
    pub(crate) node: usize,
    pub(crate) term: u64,
    pub(crate) head: Option<GenerationId>,
    pub(crate) own_disk: bool,
}

/// The state of judgement.
#[derive(Debug)]
pub(crate) struct Oracle {
    clock: u64,
    max_lag_bytes: u64,
    protocol: Protocol,
    journal: Journal,
    register: Register,
    cut: Cut,
    copies: Copies,
    writers: Writers,
    metadata: Metadata,
    /// Starts of the reads under way.
    reads: Vec<u64>,
    /// Two nodes may write, or have written apart; the truth waits until they are one again.
    forked: bool,
    /// On whose image the truth was settled when a force gave up what it lacks.
    settled_on: Option<usize>,
    /// The generation under which the last write was answered.
    head: Option<GenerationId>,
    beyond_budget: bool,
    violation: Option<Violation>,
    scratch: Vec<Value>,
}

fn sectors(span: ByteSpan) -> (u64, u64) {
    (span.offset / SECTOR as u64, span.len / SECTOR as u64)
}

fn place(sector: u64) -> usize {
    usize::try_from(sector).expect("a small device")
}

impl Oracle {
    pub(crate) fn new(
        nodes: usize,
        size_bytes: u64,
        protocol: Protocol,
        max_lag_bytes: u64,
        beyond: bool,
    ) -> Self {
        let count = place(size_bytes / SECTOR as u64);
        Self {
            clock: 0,
            max_lag_bytes,
            protocol,
            journal: Journal::new(count),
            register: Register::new(count),
            cut: Cut::new(count),
            copies: Copies::new(nodes, protocol),
            writers: Writers::new(nodes),
            metadata: Metadata::new(nodes),
            reads: Vec::new(),
            forked: false,
            settled_on: None,
            head: None,
            beyond_budget: beyond,
            violation: None,
            scratch: Vec::with_capacity(count),
        }
    }

    /// The first broken rule.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Breaks a rule from outside (the world judges liveness and convergence).
    pub(crate) fn broken(&mut self, rule: &'static str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, text });
        }
    }

    fn broken_at(&mut self, rule: &'static str, sector: usize, text: &str) {
        let history = self.journal.history(sector, 12);
        self.broken(rule, format!("sector {sector}: {text}\n{history}"));
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write or zeroing goes to a node, for the first time or because what it repeats was not answered.
    pub(crate) fn write_begins(
        &mut self,
        span: ByteSpan,
        zero: bool,
        fua: bool,
        repeats: Option<WriteId>,
    ) -> WriteId {
        let now = self.tick();
        let (first, count) = sectors(span);
        let write = self.journal.submit(first, count, zero, fua, repeats, now);
        let oldest_read = self.reads.iter().copied().min().unwrap_or(now);
        for sector in first..first + count {
            self.register.submit(place(sector), write, zero, now, oldest_read);
        }
        write
    }

    /// A read or a flush goes to a node; the stamp is given back with its answer.
    pub(crate) fn asks(&mut self, read: bool) -> u64 {
        let now = self.tick();
        if read {
            self.reads.push(now);
        }
        now
    }

    /// A read was given up: it will be asked again, or has failed.
    pub(crate) fn read_ends(&mut self, asked: u64) {
        if let Some(place) = self.reads.iter().position(|start| *start == asked) {
            self.reads.swap_remove(place);
        }
    }

    /// A node answers a write well.
    pub(crate) fn write_answered(&mut self, write: WriteId, by: Answerer) {
        let now = self.tick();
        let answered = self.answers(by);
        let Some(written) = self.journal.get(write).copied() else { return };
        if written.acknowledged != NEVER {
            return;
        }
        self.journal.acknowledge(write, now);
        self.lapse(written.repeats, now);
        if !answered {
            return;
        }
        self.copies.acknowledged(by.node, by.own_disk);
        if self.copies.in_sync.is_empty() {
            // Its own disk is not good, and it says of nobody that he is in sync: then one of the two is not true.
            let text = format!("node {} answered write {} and says that no copy counts", by.node, write.0);
            self.broken("O7", text);
        }
        for sector in (written.first..written.first + written.sectors).map(place) {
            self.cut.acknowledge(sector, write, written.submitted, written.fua, now);
            if let Err(wrong) = self.register.acknowledge(sector, write, now) {
                self.broken_at("O1", sector, &wrong);
            }
        }
    }

    /// What was sent before, and before that, will not take effect any more.
    fn lapse(&mut self, mut repeated: Option<WriteId>, now: u64) {
        while let Some(write) = repeated {
            let Some(written) = self.journal.get(write).copied() else { return };
            self.journal.lapse(write);
            for sector in written.first..written.first + written.sectors {
                self.register.lapse(place(sector), write, now);
            }
            repeated = written.repeats;
        }
    }

    /// A node answers a flush well that was asked at `asked`.
    pub(crate) fn flush_answered(&mut self, asked: u64, by: Answerer) {
        let now = self.tick();
        if self.answers(by) {
            self.cut.flushed(asked, now);
        }
    }

    /// Whether what this node answers is the truth; a second writer is a broken rule, or a fork.
    fn answers(&mut self, by: Answerer) -> bool {
        let answered = self.writers.answered(by.node, by.term, by.head);
        if self.protocol == Protocol::C {
            self.copies.seen_by(by.node).for_each(|peer| self.writers.follows(peer, by.node));
        }
        match answered {
            Answered::Alone => {
                self.head = by.head;
                !self.forked
            }
            Answered::Forked => {
                self.forked = true;
                false
            }
            Answered::Wrong(text) => {
                self.broken("O6", text);
                false
            }
        }
    }

    /// A node answers a read well that was asked at `asked`.
    pub(crate) fn read_answered(&mut self, span: ByteSpan, asked: u64, data: &[u8], node: usize) {
        let now = self.tick();
        self.read_ends(asked);
        if data.len() as u64 != span.len {
            self.broken("O8", format!("node {node} answered a read of {span:?} with {} bytes", data.len()));
            return;
        }
        let judged = !self.forked && asked > self.register.base;
        for (sector, bytes) in (sectors(span).0..).zip(data.chunks_exact(SECTOR)) {
            let value = payload::parse(bytes, sector);
            if value == Value::Foreign {
                self.broken_at("O8", place(sector), &format!("node {node} read bytes of no write"));
            } else if judged && let Err(wrong) = self.register.read(place(sector), value, asked, now) {
                let text = format!(
                    "read by node {node}, asked at {asked}, answered at {now}, got {value:?}: {wrong}"
                );
                self.broken_at("O1", place(sector), &text);
            }
        }
    }

    /// A node says of another that the two are in sync, or not.
    pub(crate) fn sees(&mut self, node: usize, peer: usize, in_sync: bool) {
        self.copies.sees(node, peer, in_sync);
    }

    /// A resync has ended; `serves`: its source is primary.
    pub(crate) fn copied(&mut self, from: usize, to: usize, serves: bool) {
        self.copies.copied(from, to, serves);
        self.writers.follows(to, from);
    }

    /// A resync into a node ended in the middle.
    pub(crate) fn interrupted(&mut self, node: usize) {
        self.copies.interrupted(node);
    }

    /// A process is gone (killed, shut down, or with its machine).
    pub(crate) fn process_gone(&mut self, node: usize, was_primary: bool) {
        self.copies.forgets(node);
        self.copies.died(node, was_primary);
    }

    /// A machine lost power.
    pub(crate) fn power_lost(&mut self, node: usize) {
        self.copies.lost_power(node);
    }

    /// A node's copy is damaged, or may be.
    pub(crate) fn damaged(&mut self, node: usize) {
        let had_a_copy = !self.copies.holders.is_empty();
        self.copies.damage(node);
        let settled = !self.forked && !self.writers.fork_possible();
        if had_a_copy && self.copies.holders.is_empty() && settled && !self.beyond_budget {
            let text = format!("the fault on node {node} took the last copy of what was acknowledged");
            self.broken("atlas", text);
        }
    }

    /// What a node's copy calls itself.
    pub(crate) fn shows(&mut self, node: usize, disk: DiskState, linked: bool) {
        self.copies.shows(node, disk, linked);
    }

    /// Whether the fault atlas lets this node's copy be damaged.
    pub(crate) fn may_damage(&self, node: usize) -> bool {
        self.beyond_budget || (self.copies.may_damage(node) && !self.forked && !self.writers.fork_possible())
    }

    /// Whether a node holds everything acknowledged, as far as the contract says.
    pub(crate) fn holds(&self, node: usize) -> bool {
        self.copies.holders.has(node)
    }

    /// Whether nobody holds everything acknowledged any more.
    pub(crate) fn nobody_holds(&self) -> bool {
        self.copies.holders.is_empty()
    }

    /// Whether a node was in sync at the last acknowledgement.
    pub(crate) fn was_in_sync(&self, node: usize) -> bool {
        self.copies.in_sync.has(node)
    }

    /// Who answered last.
    pub(crate) fn last_writer(&self) -> Option<usize> {
        self.writers.last()
    }

    fn parse_image(&mut self, image: &[u8]) {
        self.scratch.clear();
        self.scratch.extend(
            (0..).zip(image.chunks_exact(SECTOR)).map(|(sector, bytes)| payload::parse(bytes, sector)),
        );
    }

    /// A node has become primary: its image is what clients will read from now on. Judges it by what is owed,
    /// then settles the truth on it. `forced`: by force, and what its copy called itself before.
    pub(crate) fn promoted(&mut self, node: usize, image: &[u8], forced: Option<DiskState>) {
        let now = self.tick();
        // The last primary before a force of which it has not heard may go on by its right (P2): a second truth, whether
        // the forced one has answered a write or only served.
        let others = [self.writers.last(), self.settled_on];
        self.forked |=
            forced.is_none() && others.iter().flatten().any(|&other| self.writers.are_apart(other, node));
        if self.forked {
            return;
        }
        let standard = self.copies.standard(node, forced);
        self.parse_image(image);
        let values = std::mem::take(&mut self.scratch);
        match standard {
            Standard::Everything => {
                // What nobody has answered or read yet is seen by nobody before this node serves: it may still vanish with it.
                for (sector, value) in values.iter().enumerate() {
                    if let Some(wrong) = self.register.lacks(sector, *value) {
                        let text = format!("node {node} became primary with {value:?}: {wrong}");
                        self.broken_at("O1", sector, &text);
                        break;
                    }
                }
            }
            Standard::Loss(demand) => self.owed(node, &values, demand),
            Standard::Lag => {
                self.owed(node, &values, Demand::Order);
                let lost = self.cut.lost(&values, &self.journal);
                let bytes: u64 = lost
                    .iter()
                    .filter_map(|write| self.journal.get(*write))
                    .map(|write| write.sectors * SECTOR as u64)
                    .sum();
                // One write may pass the limit: it is looked at before it is taken.
                if bytes > self.max_lag_bytes + 1024 * 1024 {
                    self.broken(
                        "O2",
                        format!(
                            "node {node} became primary and lost {bytes} acknowledged bytes, allowed lag {}",
                            self.max_lag_bytes
                        ),
                    );
                }
            }
            Standard::Nothing => {}
        }
        if standard != Standard::Everything {
            // Those on its line were there when the force was used, and get its generation with it.
            let mut line = NodeSet::default();
            (0..self.writers.nodes())
                .filter(|other| !self.writers.are_apart(node, *other))
                .for_each(|other| line.insert(other));
            self.settle_on(node, &values, now, forced.map(|_| line));
            // With everybody on one line nothing that was given up can come back.
            self.settled_on = self.writers.fork_possible().then_some(node);
        } else {
            self.copies.holders.insert(node);
        }
        self.scratch = values;
    }

    fn owed(&mut self, node: usize, values: &[Value], demand: Demand) {
        if let Some(missing) = self.cut.missing(values, &self.journal, demand) {
            let rule = if demand == Demand::Floor { "O2" } else { "O3" };
            let text = format!(
                "node {node} has {:?} and lacks write {} ({demand:?})",
                missing.found, missing.write.0
            );
            self.broken_at(rule, missing.sector, &text);
        }
    }

    fn settle_on(&mut self, node: usize, values: &[Value], now: u64, parts: Option<NodeSet>) {
        for (sector, value) in values.iter().enumerate() {
            self.register.settle(sector, *value, now);
        }
        self.register.base = now;
        self.cut.settle(values, &self.journal);
        self.copies.settle(node, parts);
    }

    /// A node calls itself Consistent or UpToDate: its image is a cut (O3), and if it says UpToDate on C it has
    /// every acknowledged write (O7).
    pub(crate) fn claims(&mut self, node: usize, image: &[u8], up_to_date: bool) {
        if self.forked || self.writers.fork_possible() || self.beyond_budget {
            return;
        }
        self.parse_image(image);
        let values = std::mem::take(&mut self.scratch);
        self.owed(node, &values, Demand::Cut);
        if up_to_date && self.protocol == Protocol::C && !self.copies.holders.is_empty() {
            for (sector, value) in values.iter().enumerate() {
                if let Some(wrong) = self.register.lacks(sector, *value) {
                    let text = format!("node {node} calls itself UpToDate with {value:?}: {wrong}");
                    self.broken_at("O7", sector, &text);
                    break;
                }
            }
        }
        self.scratch = values;
    }

    /// Every holder's image holds every acknowledged write (protocol C): the white-box form of the contract.
    pub(crate) fn held(&mut self, node: usize, image: &[u8]) {
        let asked = self.protocol == Protocol::C && !self.forked && !self.beyond_budget;
        if !asked || !self.copies.holders.has(node) {
            return;
        }
        for (sector, bytes) in image.chunks_exact(SECTOR).enumerate() {
            let value = payload::parse(bytes, sector as u64);
            if let Some(wrong) = self.register.lacks(sector, value) {
                let text = format!("node {node} was counted as in sync and has {value:?}: {wrong}");
                self.broken_at("O7", sector, &text);
                return;
            }
        }
    }

    /// What is on a node's media holds everything that a flush covered or that was answered as stable.
    pub(crate) fn stable_on(&mut self, node: usize, image: &[u8]) {
        if self.forked || self.writers.fork_possible() || self.beyond_budget {
            return;
        }
        self.parse_image(image);
        let values = std::mem::take(&mut self.scratch);
        let missing = self.cut.missing(&values, &self.journal, Demand::Floor);
        self.scratch = values;
        // A truth is settled on what a node shows, and its media may have less until they are flushed again.
        let since = self.register.base;
        let owed = |write| self.journal.get(write).is_some_and(|written| written.submitted > since);
        if let Some(missing) = missing.filter(|missing| owed(missing.write)) {
            let text =
                format!("the media of node {node} have {:?}, not write {}", missing.found, missing.write.0);
            self.broken_at("O2", missing.sector, &text);
        }
    }

    /// The atlas: while there are holders, the image of one of them has every acknowledged write. `images`: of each node,
    /// and whether its daemon runs (on B a peer may have it in memory alone).
    pub(crate) fn some_copy_is_whole<'a>(&mut self, images: impl Iterator<Item = (&'a [u8], bool)>) {
        let settled = !self.forked && !self.writers.fork_possible();
        if self.copies.holders.is_empty() || !settled || self.beyond_budget {
            return;
        }
        let mut lacking = None;
        for (node, (image, runs)) in images.enumerate().filter(|(node, _)| self.copies.holders.has(*node)) {
            let mut sectors = image.chunks_exact(SECTOR).enumerate();
            let lacks = sectors.find_map(|(sector, bytes)| {
                let value = payload::parse(bytes, sector as u64);
                self.register.lacks(sector, value).map(|wrong| (sector, wrong))
            });
            match lacks {
                None => return,
                Some(_) if self.protocol == Protocol::B && runs => return,
                Some((sector, wrong)) => lacking = Some((node, sector, wrong)),
            }
        }
        if let Some((node, sector, wrong)) = lacking {
            let text = format!("no copy holds everything acknowledged; on node {node}: {wrong}");
            self.broken_at("atlas", sector, &text);
        }
    }

    /// An operator's force was accepted while another node was, or could again become, primary.
    /// `together` are that node and those connected with it.
    pub(crate) fn fork_possible(&mut self, node: usize, together: &[usize]) {
        // Who answered last may have gone on alone, with writes that the forced node lacks.
        let (holders, alone) = (self.copies.holders, self.copies.went_on_without(node));
        let ahead = self.writers.last().filter(|last| holders.has(*last) && alone);
        self.writers.forced(together, self.head, ahead);
    }

    /// Two nodes are primary at once after a force: from now on each has a truth of its own.
    pub(crate) fn two_primaries(&mut self) {
        self.forked |= self.writers.fork_possible();
    }

    /// Whether two nodes may have written apart and are not one again.
    pub(crate) fn is_fork_possible(&self) -> bool {
        self.writers.fork_possible()
    }

    /// Whether two nodes answered under generations of their own, so that their meeting is a split brain.
    pub(crate) fn is_split(&self) -> bool {
        self.forked && self.writers.both_advanced()
    }

    /// Whether the histories of two nodes have parted, so that the meeting of these two is a split brain.
    pub(crate) fn have_parted(&self, one: usize, other: usize) -> bool {
        self.is_split() && self.writers.have_parted(one, other)
    }

    /// Whether an operator's force has put the two on different lines.
    pub(crate) fn are_apart(&self, one: usize, other: usize) -> bool {
        self.writers.are_apart(one, other)
    }

    /// Two nodes are on one line again, on the image of `node`.
    pub(crate) fn joined(&mut self, node: usize, loser: usize, image: &[u8]) {
        let now = self.tick();
        if self.forked {
            self.copies.gives_up(node, loser);
        }
        // What a force gave up comes back when its line is given up for the other one.
        let given_up = self.settled_on.is_some_and(|settled| self.writers.are_apart(settled, node));
        let decided = self.writers.joined(node, loser, self.settled_on);
        if decided && (std::mem::take(&mut self.forked) || given_up) {
            self.settled_on = None;
            self.parse_image(image);
            let values = std::mem::take(&mut self.scratch);
            self.settle_on(node, &values, now, Some(NodeSet::only(node)));
            self.cut.join(&values);
            self.scratch = values;
        }
        if !self.writers.fork_possible() {
            self.settled_on = None;
        }
    }

    /// The metadata on a node's media, read from outside.
    pub(crate) fn metadata(&mut self, node: usize, facts: Option<MetaFacts>) {
        if let Err(text) = self.metadata.seen(node, facts) {
            self.broken("O10", text);
        }
    }

    /// An older metadata file was put back on a node, or damaged.
    pub(crate) fn forget_metadata(&mut self, node: usize) {
        self.metadata.forget(node);
        self.writers.forget(node);
    }

    /// Everything acknowledged is in this image, and nothing foreign (the end of a run).
    pub(crate) fn final_image(&mut self, node: usize, image: &[u8]) {
        let now = self.tick();
        for (sector, bytes) in image.chunks_exact(SECTOR).enumerate() {
            let value = payload::parse(bytes, sector as u64);
            if let Err(wrong) = self.register.read(sector, value, now, now) {
                let text = format!("at the end node {node} has {value:?}: {wrong}");
                self.broken_at("O1", sector, &text);
                return;
            }
        }
    }
}
