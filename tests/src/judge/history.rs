//! What happened in a run, as its clients and its operator saw it: requests with the times of their submission and
//! their answer, images read whole, and faults.
//!
//! All times are of one monotonic clock of the test's process. A time of submission is taken before the request
//! leaves, that of an answer after it came: so "answered before submitted" is always true order, and everything
//! else counts as concurrent.

use std::{collections::BTreeMap, fmt, time::Instant};

use super::tag::{Value, WriteId};

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Before everything that a run records.
    pub const START: Self = Self(0);
    /// After everything that a run records.
    pub const NEVER: Self = Self(u64::MAX);
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return write!(f, "never");
        }
        write!(f, "{}.{:06} s", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A run begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time now; always after [`Moment::START`].
    ///
    /// # Panics
    /// After 584 years.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.0.elapsed().as_nanos()).expect("a run ends within centuries") + 1)
    }
}

/// What a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WRITE.
    Write {
        /// Answered only once stable.
        fua: bool,
    },
    /// WRITE_ZEROES or TRIM: both read as zeroes afterwards (design rule R7).
    Zero {
        /// Answered only once stable.
        fua: bool,
    },
    /// FLUSH.
    Flush,
    /// READ, with the value of each sector, if there was an answer without an error.
    Read(Vec<Value>),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answered {
        /// When it was read.
        at: Moment,
        /// The errno of the answer; 0 is success.
        errno: u32,
    },
    /// The connection ended before the answer.
    Lost {
        /// When the client noticed.
        at: Moment,
        /// When the client was served again, on a new connection: a write that has not taken effect by then never
        /// does (design rule W1).
        settled: Moment,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name; for a write also what its sectors say.
    pub id: WriteId,
    /// What it asked for.
    pub kind: Kind,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u32,
    /// When it was sent.
    pub submitted: Moment,
    /// How it ended.
    pub end: End,
}

impl Operation {
    /// Whether it was answered with success.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        matches!(self.end, End::Answered { errno: 0, .. })
    }

    /// When it was answered with success.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Moment> {
        match self.end {
            End::Answered { at, errno: 0 } => Some(at),
            End::Answered { .. } | End::Lost { .. } => None,
        }
    }

    /// The time after which it takes no effect that it has not had before.
    #[must_use]
    pub fn settled(&self) -> Moment {
        match self.end {
            End::Answered { at, .. } => at,
            End::Lost { settled, .. } => settled,
        }
    }

    /// When the client knew how it ended.
    #[must_use]
    pub fn ended(&self) -> Moment {
        match self.end {
            End::Answered { at, .. } | End::Lost { at, .. } => at,
        }
    }

    /// Whether it changes data.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(self.kind, Kind::Write { .. } | Kind::Zero { .. })
    }

    /// Whether it was answered only once stable.
    #[must_use]
    pub fn is_fua(&self) -> bool {
        matches!(self.kind, Kind::Write { fua: true } | Kind::Zero { fua: true })
    }

    /// Its sectors.
    #[must_use]
    pub fn sectors(&self) -> std::ops::Range<u64> {
        self.first..self.first + u64::from(self.count)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Write { fua: false } => "WRITE",
            Kind::Write { fua: true } => "WRITE+FUA",
            Kind::Zero { fua: false } => "ZERO",
            Kind::Zero { fua: true } => "ZERO+FUA",
            Kind::Flush => "FLUSH",
            Kind::Read(_) => "READ",
        };
        write!(f, "{kind} {} sectors {}+{}, sent {}, ", self.id, self.first, self.count, self.submitted)?;
        match self.end {
            End::Answered { at, errno: 0 } => write!(f, "answered {at}"),
            End::Answered { at, errno } => write!(f, "answered {at} with errno {errno}"),
            End::Lost { at, settled } => write!(f, "connection lost {at}, served again {settled}"),
        }
    }
}

/// What a node's image must still hold when it is read whole (the rows of the contract, design section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Everything that was answered.
    Answered,
    /// What an answered FLUSH or FUA covered, and no write without those that a FLUSH put before it. The rest may
    /// be gone.
    Flushed,
    /// A state that the volume had: no write without those answered before it was sent. Of the answered ones at
    /// most this many bytes are missing.
    Cut {
        /// Bytes that may be missing.
        lag: u64,
    },
    /// The copy of a node that was left behind: of any age, but no write without those that a FLUSH put before it.
    /// It says nothing of what the volume holds.
    Older,
}

/// A whole image, read while nobody wrote to it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which image: the node's name.
    pub node: String,
    /// What it must hold.
    pub promise: Promise,
    /// When the reading began.
    pub from: Moment,
    /// When it ended.
    pub until: Moment,
    /// The sectors that are not zero.
    pub sectors: BTreeMap<u64, Value>,
}

impl Snapshot {
    /// The value of a sector.
    #[must_use]
    pub fn value(&self, sector: u64) -> &Value {
        self.sectors.get(&sector).unwrap_or(&Value::Zero)
    }
}

/// What clients may see of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permits {
    /// Nothing but a delay.
    Delay,
    /// Connections that end, but no answer with an error.
    Disconnect,
    /// Answers with an error too.
    Errors,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What, for the report.
    pub what: String,
    /// What clients may see of it.
    pub permits: Permits,
    /// When it began.
    pub from: Moment,
    /// When its effect was over: the volume is served again as before.
    pub until: Moment,
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The volume that the tags name.
    pub volume: u32,
    /// All requests, in any order.
    pub operations: Vec<Operation>,
    /// Images, in the order in which they were read. [`Promise::Flushed`] and [`Promise::Cut`] say that the volume
    /// was recovered from this image: what it lacks is gone for good, and all that is read later must follow from
    /// it.
    pub snapshots: Vec<Snapshot>,
    /// Faults.
    pub faults: Vec<Fault>,
}

impl History {
    /// Number of changes that were answered with success.
    #[must_use]
    pub fn acknowledged_writes(&self) -> usize {
        self.operations.iter().filter(|operation| operation.is_change() && operation.succeeded()).count()
    }

    /// Number of requests that were sent but not answered at this moment.
    #[must_use]
    pub fn in_flight_at(&self, moment: Moment) -> usize {
        self.operations
            .iter()
            .filter(|operation| operation.submitted < moment && moment < operation.ended())
            .count()
    }

    /// The longest that a request, answered with success within these times, took, in seconds.
    #[must_use]
    pub fn longest(&self, from: Moment, until: Moment) -> f64 {
        let overlaps = |operation: &&Operation| operation.submitted < until && operation.ended() > from;
        let nanos = |operation: &Operation| operation.ended().0 - operation.submitted.0;
        let longest = self.operations.iter().filter(|o| o.succeeded()).filter(overlaps).map(nanos).max();
        std::time::Duration::from_nanos(longest.unwrap_or(0)).as_secs_f64()
    }

    /// Bytes of all aligned pieces of `granule` bytes that were touched by a change which was under way, or sent,
    /// after `since`: at most so much can be dirty, or hot in an activity log, if all before was stable everywhere.
    #[must_use]
    pub fn touched_bytes(&self, since: Moment, granule: u64) -> u64 {
        let sectors = granule / super::tag::SECTOR as u64;
        let mut pieces: Vec<u64> = self
            .operations
            .iter()
            .filter(|operation| operation.is_change() && operation.settled() > since)
            .flat_map(|operation| {
                let range = operation.sectors();
                range.start / sectors..=(range.end - 1) / sectors
            })
            .collect();
        pieces.sort_unstable();
        pieces.dedup();
        pieces.len() as u64 * granule
    }

    /// The last moment before `moment` at which a FLUSH that was answered in between was sent: all that was
    /// answered before it is stable on every node in sync.
    #[must_use]
    pub fn last_flush_before(&self, moment: Moment) -> Moment {
        let flushes = self.operations.iter().filter(|operation| operation.kind == Kind::Flush);
        let covered = flushes.filter(|flush| flush.acknowledged().is_some_and(|at| at < moment));
        covered.map(|flush| flush.submitted).max().unwrap_or(Moment::START)
    }
}
