//! What a client may rely on, written from the contract (design section 2) and from nothing of the engine.
//!
//! A history is what was asked and answered, with the order in time. An image is right if some of the changes, in
//! some order that time allows, leave exactly it: all that must be there among them, and none without what has to
//! come before it.

use crate::{
    disk::{BLOCKS, Image, Name},
    workload::Operation,
};

/// What must be there of what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Must {
    /// All of it.
    Everything,
    /// What a flush covers that was answered, and what was answered as stable.
    Flushed,
    /// Nothing: only the cut has to be right.
    Nothing,
}

/// What has to be there before a change can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// What a flush has put before it.
    Flushes,
    /// Everything that was answered before it was asked for (protocol A, while the replica keeps power).
    Answers,
}

/// One operation, and when.
#[derive(Clone, Debug)]
struct Entry {
    operation: Operation,
    /// What it writes.
    name: Name,
    asked: u64,
    /// When its effect was seen: by its answer, or by a read that showed it.
    answered: Option<u64>,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct History {
    base: Image,
    entries: Vec<Entry>,
    clock: u64,
}

/// One change of a block.
#[derive(Clone, Copy, Debug)]
struct Change {
    block: usize,
    name: Name,
    asked: u64,
    answered: Option<u64>,
    through: bool,
}

impl History {
    /// Of a device with this image, all of it stable.
    pub(crate) fn new(base: Image) -> Self {
        Self { base, entries: Vec::new(), clock: 0 }
    }

    /// A client asks; returns the operation's number.
    pub(crate) fn ask(&mut self, operation: Operation) -> usize {
        self.clock += 1;
        let named = |entry: &&Entry| entry.operation.changes().is_some_and(|(_, named)| named);
        let before = self.entries.iter().filter(named).count();
        let own = operation.changes().is_some_and(|(_, named)| named);
        let name = if own { Name::try_from(before + 1).expect("few operations") } else { 0 };
        self.entries.push(Entry { operation, name, asked: self.clock, answered: None });
        self.entries.len() - 1
    }

    /// What an operation writes.
    pub(crate) fn name(&self, at: usize) -> Name {
        self.entries[at].name
    }

    pub(crate) fn operation(&self, at: usize) -> Operation {
        self.entries[at].operation
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_answered(&self, at: usize) -> bool {
        self.entries[at].answered.is_some()
    }

    /// An operation is answered; a read with what it has found.
    ///
    /// # Errors
    /// If the read may not have found that.
    pub(crate) fn answer(&mut self, at: usize, found: Option<Name>) -> Result<(), String> {
        self.clock += 1;
        let now = self.clock;
        self.entries[at].answered = Some(now);
        let (Operation::Read(block), Some(name)) = (self.entries[at].operation, found) else { return Ok(()) };
        let asked = self.entries[at].asked;
        if !self.may_show(block, name, asked) {
            return Err(format!("the read {at} found {name} in block {block}: {:?}", self.entries));
        }
        // What one reader has seen, the next must see too.
        for entry in &mut self.entries {
            if entry.name == name && entry.operation.changes() == Some((block, true)) {
                entry.answered.get_or_insert(now);
            }
        }
        Ok(())
    }

    /// Names everything that a check depends on: the changes and the answered flushes, in their order in time.
    pub(crate) fn promises(&self) -> String {
        let counts = |entry: &&Entry| match entry.operation {
            Operation::Write(_) | Operation::Through(_) | Operation::Zero(_) => true,
            Operation::Flush => entry.answered.is_some(),
            Operation::Read(_) => false,
        };
        let mut times: Vec<u64> = Vec::new();
        for entry in self.entries.iter().filter(counts) {
            times.extend([entry.asked].into_iter().chain(entry.answered));
        }
        times.sort_unstable();
        let rank = |time: u64| times.binary_search(&time).expect("it is one of them");
        let told = self
            .entries
            .iter()
            .filter(counts)
            .map(|entry| (entry.operation, entry.name, rank(entry.asked), entry.answered.map(rank)));
        format!("{:?}", told.collect::<Vec<_>>())
    }

    fn changes(&self) -> Vec<Change> {
        let change = |entry: &Entry| {
            let (block, _) = entry.operation.changes()?;
            let through = matches!(entry.operation, Operation::Through(_));
            Some(Change { block, name: entry.name, asked: entry.asked, answered: entry.answered, through })
        };
        self.entries.iter().filter_map(change).collect()
    }

    /// Whether a read that was asked for then may show this now.
    fn may_show(&self, block: usize, name: Name, asked: u64) -> bool {
        let changes: Vec<Change> =
            self.changes().into_iter().filter(|change| change.block == block).collect();
        let must: Vec<bool> =
            changes.iter().map(|change| change.answered.is_some_and(|answered| answered < asked)).collect();
        let mut image = self.base;
        image[block] = name;
        some_order(self.base, image, &changes, |chosen| {
            must.iter().zip(chosen).all(|(must, chosen)| !must || *chosen)
        })
    }

    /// When the first flush was asked for that was answered before `then` and covers what was answered at `answered`.
    fn is_flushed(&self, change: &Change, then: u64) -> bool {
        let Some(answered) = change.answered else { return false };
        let covers = |entry: &Entry| {
            entry.operation == Operation::Flush
                && entry.asked > answered
                && entry.answered.is_some_and(|at| at < then)
        };
        change.through && answered < then || self.entries.iter().any(covers)
    }

    /// Whether a copy may look like this.
    ///
    /// # Errors
    /// Says what it may not.
    pub(crate) fn check(&self, image: Image, must: Must, order: Order) -> Result<(), String> {
        let changes = self.changes();
        let wanted: Vec<bool> = changes
            .iter()
            .map(|change| match must {
                Must::Everything => change.answered.is_some(),
                Must::Flushed => self.is_flushed(change, u64::MAX),
                Must::Nothing => false,
            })
            .collect();
        let before = |first: &Change, second: &Change| match order {
            Order::Flushes => self.is_flushed(first, second.asked),
            Order::Answers => first.answered.is_some_and(|answered| answered < second.asked),
        };
        let fits = |chosen: &[bool]| {
            let complete = wanted.iter().zip(chosen).all(|(wanted, chosen)| !wanted || *chosen);
            complete
                && changes.iter().zip(chosen).filter(|(_, chosen)| **chosen).all(|(second, _)| {
                    changes.iter().zip(chosen).all(|(first, chosen)| *chosen || !before(first, second))
                })
        };
        if some_order(self.base, image, &changes, fits) {
            return Ok(());
        }
        Err(format!(
            "an image {image:?} where {must:?} has to be there, in order of {order:?}: {:?}",
            self.entries
        ))
    }
}

/// Whether some of the changes that `fits` allows, in an order that time allows, lead from one image to the other.
fn some_order(base: Image, image: Image, changes: &[Change], fits: impl Fn(&[bool]) -> bool) -> bool {
    (0..1_u32 << changes.len()).any(|set| {
        let chosen: Vec<bool> = (0..changes.len()).map(|at| set & 1 << at != 0).collect();
        fits(&chosen)
            && (0..BLOCKS).all(|block| {
                let of_block: Vec<&Change> = changes
                    .iter()
                    .zip(&chosen)
                    .filter(|(change, chosen)| **chosen && change.block == block)
                    .map(|(change, _)| change)
                    .collect();
                // The last one is any that no other one of the block has to follow.
                let is_last = |last: &&&Change| {
                    let answered = last.answered;
                    !of_block.iter().any(|other| answered.is_some_and(|answered| answered < other.asked))
                };
                if of_block.is_empty() {
                    image[block] == base[block]
                } else {
                    of_block.iter().filter(is_last).any(|last| last.name == image[block])
                }
            })
    })
}

/// The contract is a judge: it must find what is wrong.
#[test]
fn the_contract_finds_planted_errors() {
    let base = [101, 102, 103];
    let mut history = History::new(base);
    let first = history.ask(Operation::Write(0));
    history.answer(first, None).expect("no read");
    let flush = history.ask(Operation::Flush);
    history.answer(flush, None).expect("no read");
    let second = history.ask(Operation::Write(1));
    let (one, two) = (history.name(first), history.name(second));
    assert!(history.check([one, 102, 103], Must::Everything, Order::Flushes).is_ok());
    assert!(history.check([one, two, 103], Must::Flushed, Order::Flushes).is_ok(), "it may be there");
    assert!(history.check(base, Must::Flushed, Order::Flushes).is_err(), "what was flushed is lost");
    assert!(history.check(base, Must::Nothing, Order::Flushes).is_ok());
    assert!(history.check([101, two, 103], Must::Nothing, Order::Flushes).is_err(), "not a cut");
    assert!(history.check([one, 102, 0], Must::Nothing, Order::Flushes).is_err(), "of no write");
    let read = history.ask(Operation::Read(1));
    assert!(history.clone().answer(read, Some(102)).is_ok());
    assert!(history.clone().answer(read, Some(9)).is_err(), "of no write");
    history.answer(read, Some(two)).expect("it may be there");
    assert!(history.check([one, 102, 103], Must::Everything, Order::Flushes).is_err(), "it was seen");

    let mut history = History::new(base);
    let first = history.ask(Operation::Write(0));
    history.answer(first, None).expect("no read");
    history.ask(Operation::Write(1));
    assert!(history.check([101, 2, 103], Must::Nothing, Order::Flushes).is_ok());
    assert!(history.check([101, 2, 103], Must::Nothing, Order::Answers).is_err(), "on A in order of answers");
    let again = history.ask(Operation::Write(0));
    assert!(history.check([1, 102, 103], Must::Everything, Order::Flushes).is_ok());
    history.answer(again, None).expect("no read");
    assert!(
        history.check([1, 102, 103], Must::Everything, Order::Flushes).is_err(),
        "the later one was answered"
    );
}
