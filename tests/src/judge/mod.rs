//! The judge: decides from the outside whether a replicated volume kept its promises in a run. It shares no code
//! with the engine, knows nothing of generations or bitmaps, and believes nobody's status.
//!
//! A [`History`] holds what clients were told and what was found on the images; [`judge`] checks it:
//!
//! | rule | what must hold |
//! |---|---|
//! | O1 register | each sector is one linearizable register: what is read is what was written last |
//! | O2 floor | what was acknowledged (or flushed, see [`Promise`]) survives every fault |
//! | O3 order | no write is present without those that a completed FLUSH (on protocol A: an answer) put before it |
//! | O4 stability | what was read once is not taken back by a failover, nor does what was lost come back |
//! | O5 convergence | the images are equal at the end, and no more was moved than had to be |
//! | O8 no lie | every sector is all zeroes or wholly what one write put there, in its place, after it was sent |
//! | answers | no answer with an error, and no lost connection, that no fault explains |
//!
//! Values are unique (see [`tag`]), so the order that a register must have had is known from its readers, and
//! checking is a matter of sorting ([`register`]). Zeroes are not unique: whatever zeroing explains them counts, so
//! a run with many of them proves a little less, and never accuses wrongly.

#[cfg(test)]
mod brute_force;
pub mod convergence;
mod cut;
pub mod history;
#[cfg(test)]
mod made_up;
mod register;
mod replies;
pub mod tag;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
};

pub use history::{Clock, End, Fault, History, Kind, Moment, Operation, Permits, Promise, Snapshot};
pub use tag::{SECTOR, Value, WriteId};

/// So many violations are told in full; the others are counted.
const TOLD: usize = 4;

/// So many requests to the sector are told of each violation, the ones nearest to it.
const REQUESTS_TOLD: usize = 40;

/// The rule of `reference/reliability.md`, section 3, that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// O1.
    Register,
    /// O2.
    Floor,
    /// O3.
    Order,
    /// O4.
    Stability,
    /// O5.
    Convergence,
    /// O8.
    NoLie,
    /// An error, or a lost connection, that no fault explains.
    Answers,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "O1 (register)",
            Self::Floor => "O2 (floor)",
            Self::Order => "O3 (order)",
            Self::Stability => "O4 (stability)",
            Self::Convergence => "O5 (convergence)",
            Self::NoLie => "O8 (no lie)",
            Self::Answers => "answers without cause",
        })
    }
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The sector at which it shows; `None` where it is no matter of one sector.
    pub sector: Option<u64>,
    /// Which write should be there and which is, or what else is wrong.
    pub text: String,
    /// About when, for the choice of what is told beside it.
    pub at: Moment,
}

/// What the judge found.
#[derive(Debug)]
pub struct Verdict<'a> {
    history: &'a History,
    /// All violations.
    pub violations: Vec<Violation>,
}

impl Verdict<'_> {
    /// Passes if nothing was found.
    ///
    /// # Errors
    /// Something was: the text tells rule, sector, what should be there, what is, and the sector's history.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.violations.is_empty(), "{self}");
        Ok(())
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = BTreeMap::new();
        for violation in &self.violations {
            *counts.entry(violation.rule).or_insert(0) += 1;
        }
        writeln!(f, "the judge found {} violations in {}", self.violations.len(), self.history.summary())?;
        for (rule, count) in counts {
            writeln!(f, "  {count} of {rule}")?;
        }
        for violation in self.violations.iter().take(TOLD) {
            writeln!(f, "\n{}: {}", violation.rule, violation.text)?;
            if let Some(sector) = violation.sector {
                f.write_str(&self.history.tell(sector, violation.at))?;
            }
        }
        Ok(())
    }
}

impl History {
    /// Numbers of the run, on one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let reads =
            self.operations.iter().filter(|operation| matches!(operation.kind, Kind::Read(_))).count();
        let lost =
            self.operations.iter().filter(|operation| matches!(operation.end, End::Lost { .. })).count();
        format!(
            "{} requests ({} writes acknowledged, {reads} reads, {lost} lost with their connection), {} faults, {} images",
            self.operations.len(),
            self.acknowledged_writes(),
            self.faults.len(),
            self.snapshots.len(),
        )
    }

    /// What happened at a sector, in the order of time, with the faults and images in between.
    fn tell(&self, sector: u64, at: Moment) -> String {
        let mut lines: Vec<(Moment, String)> = self
            .operations
            .iter()
            .filter(|operation| operation.sectors().contains(&sector))
            .map(|operation| {
                let seen = match &operation.kind {
                    Kind::Read(values) => {
                        let index = usize::try_from(sector - operation.first).unwrap_or(usize::MAX);
                        values.get(index).map_or(String::new(), |value| format!(" -> {value}"))
                    }
                    Kind::Write { .. } | Kind::Zero { .. } | Kind::Flush => String::new(),
                };
                (operation.submitted, format!("{operation}{seen}"))
            })
            .collect();
        lines.extend(self.snapshots.iter().map(|image| {
            let text = format!(
                "IMAGE of {}, read {} to {}, promise {:?} -> {}",
                image.node,
                image.from,
                image.until,
                image.promise,
                image.value(sector)
            );
            (image.from, text)
        }));
        lines.sort();
        // The nearest ones, but for faults: those are told all that lie between them.
        let middle = lines.partition_point(|(time, _)| *time <= at);
        let begin = middle.saturating_sub(REQUESTS_TOLD / 2);
        let mut told: Vec<_> = lines.drain(begin..lines.len().min(begin + REQUESTS_TOLD)).collect();
        let span = told.first().map_or(Moment::START, |line| line.0)..=told.last().map_or(at, |line| line.0);
        for fault in &self.faults {
            if span.contains(&fault.from) || span.contains(&fault.until) {
                told.push((
                    fault.from,
                    format!("FAULT {} from {} until {}", fault.what, fault.from, fault.until),
                ));
            }
        }
        told.sort();
        let mut text = format!("history of sector {sector} (byte {}):\n", sector * SECTOR as u64);
        for (_, line) in told {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    /// Whether a fault had effect at some time between these.
    fn fault_between(&self, from: Moment, until: Moment) -> bool {
        self.faults.iter().any(|fault| fault.from <= until && fault.until >= from)
    }
}

/// A stretch of the run in which nothing that was answered may be lost, with the images read in it.
pub(crate) struct Epoch<'a> {
    history: &'a History,
    /// Since when; [`Moment::START`] for the first.
    from: Moment,
    /// The image that it begins with; the first begins with zeroes.
    initial: Option<&'a Snapshot>,
    /// Requests sent in it.
    operations: Vec<&'a Operation>,
    /// Images that were read in it; the last may be the one that ends it.
    snapshots: Vec<&'a Snapshot>,
    /// All changes of the run by name.
    changes: &'a HashMap<WriteId, &'a Operation>,
}

impl Epoch<'_> {
    /// The value with which a sector begins.
    fn initial(&self, sector: u64) -> &Value {
        self.initial.map_or(&Value::Zero, |image| image.value(sector))
    }

    /// Why a value that no write of this epoch explains cannot be right.
    fn unexplained(&self, sector: u64, id: WriteId) -> (Rule, String) {
        match self.changes.get(&id) {
            Some(change) if !change.sectors().contains(&sector) => {
                (Rule::NoLie, format!("write {id} never touched sector {sector}"))
            }
            Some(_) => (
                Rule::Stability,
                format!("write {id} came back: it was gone when the volume was recovered at {}", self.from),
            ),
            None => (Rule::NoLie, format!("write {id} was never sent")),
        }
    }
}

/// Checks all rules on a run.
#[must_use]
pub fn judge(history: &History) -> Verdict<'_> {
    let mut violations = replies::check(history);
    let changes: HashMap<WriteId, &Operation> =
        history.operations.iter().filter(|operation| operation.is_change()).map(|o| (o.id, o)).collect();
    let ends = |image: &&Snapshot| matches!(image.promise, Promise::Flushed | Promise::Cut { .. });
    let mut from = Moment::START;
    let mut initial = None;
    let recoveries = history.snapshots.iter().filter(ends).map(Some).chain([None]);
    for recovery in recoveries {
        let until = recovery.map_or(Moment::NEVER, |image| image.from);
        let inside = |moment: Moment| from <= moment && moment < until;
        let epoch = Epoch {
            history,
            from,
            initial,
            operations: history.operations.iter().filter(|o| inside(o.submitted)).collect(),
            snapshots: history
                .snapshots
                .iter()
                .filter(|image| inside(image.from) && !ends(image))
                .chain(recovery)
                .collect(),
            changes: &changes,
        };
        violations.extend(register::check(&epoch));
        violations.extend(epoch.snapshots.iter().flat_map(|image| cut::check(&epoch, image)));
        from = recovery.map_or(Moment::NEVER, |image| image.until);
        initial = recovery;
    }
    Verdict { history, violations }
}
