//! O1, O2, O4 and O8 within an epoch: each sector is a linearizable register, over crashes too.
//!
//! Every write and the reads that returned it form a cluster. In any legal order a cluster stands in one piece, so
//! its *zone*, from the earliest end to the latest begin in it, must not be entered by another:
//!
//! ```text
//! end before begin (forward)   w |--|      r |--|        the value was there all the time from f to s
//!                                   f........s
//! begin before end (backward)  w |-----|                 some moment between s and f
//!                              r   |-----|
//! ```
//!
//! Two forward zones may not overlap, and no backward zone may lie within a forward one; this is also enough
//! (Gibbons and Korach, "Testing shared memories", 1997). A write whose connection was lost counts once somebody
//! has read it.

use std::collections::{BTreeMap, HashSet};

use super::{Epoch, Kind, Moment, Operation, Promise, Rule, Value, Violation, WriteId};

/// A change of a sector.
struct Change<'a> {
    operation: &'a Operation,
    /// After this it takes no effect any more.
    until: Moment,
}

impl Change<'_> {
    fn is_zero(&self) -> bool {
        matches!(self.operation.kind, Kind::Zero { .. })
    }
}

/// A sector was read: by a client, or with a whole image.
struct Look<'a> {
    from: Moment,
    until: Moment,
    value: &'a Value,
    by: &'a str,
}

impl Look<'_> {
    /// The write that was found, if it was one.
    fn written(&self) -> Option<WriteId> {
        match self.value {
            Value::Written(id) => Some(*id),
            Value::Zero | Value::Wrong(_) => None,
        }
    }
}

/// All that happened to a sector in an epoch.
#[derive(Default)]
struct Lane<'a> {
    /// By name.
    changes: Vec<Change<'a>>,
    looks: Vec<Look<'a>>,
}

/// A broken rule at a known sector.
type Finding = (Rule, String, Moment);

/// The times of a cluster.
struct Zone {
    name: String,
    earliest_end: Moment,
    latest_begin: Moment,
}

/// Checks all sectors that were touched in the epoch.
pub(super) fn check(epoch: &Epoch<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (sector, lane) in lanes(epoch) {
        if let Err((rule, text, at)) = lane.check(epoch, sector) {
            let text = format!("sector {sector}: {text}");
            found.push(Violation { rule, sector: Some(sector), text, at });
        }
    }
    found
}

fn lanes<'a>(epoch: &Epoch<'a>) -> BTreeMap<u64, Lane<'a>> {
    let mut lanes: BTreeMap<u64, Lane<'a>> = BTreeMap::new();
    // A lossy recovery ends all that was under way.
    let recovered = |image: &&&super::Snapshot| !matches!(image.promise, Promise::Answered | Promise::Older);
    let limit = epoch.snapshots.iter().find(recovered).map_or(Moment::NEVER, |image| image.from);
    for operation in &epoch.operations {
        match &operation.kind {
            Kind::Flush => {}
            Kind::Write { .. } | Kind::Zero { .. } => {
                let until = operation.settled().min(limit);
                for sector in operation.sectors() {
                    lanes.entry(sector).or_default().changes.push(Change { operation, until });
                }
            }
            Kind::Read(values) => {
                for (sector, value) in operation.sectors().zip(values) {
                    let (from, until) = (operation.submitted, operation.ended());
                    lanes.entry(sector).or_default().looks.push(Look { from, until, value, by: "a client" });
                }
            }
        }
    }
    for image in epoch.snapshots.iter().filter(|image| image.promise == Promise::Answered) {
        for &sector in image.sectors.keys() {
            lanes.entry(sector).or_default();
        }
        if let Some(initial) = epoch.initial {
            for &sector in initial.sectors.keys() {
                lanes.entry(sector).or_default();
            }
        }
        for (&sector, lane) in &mut lanes {
            let (from, until) = (image.from, image.until);
            lane.looks.push(Look { from, until, value: image.value(sector), by: &image.node });
        }
    }
    for lane in lanes.values_mut() {
        lane.changes.sort_by_key(|change| change.operation.id);
    }
    lanes
}

impl Lane<'_> {
    fn check(&self, epoch: &Epoch<'_>, sector: u64) -> Result<(), Finding> {
        // For "the newest change that had taken effect before T": by the time of the answer, or of being read, with
        // the latest time of sending up to there.
        let mut effective: Vec<(Moment, &Change<'_>)> =
            self.changes.iter().filter_map(|c| c.operation.acknowledged().map(|at| (at, c))).collect();
        for look in &self.looks {
            if let Some(change) = look.written().and_then(|id| self.change(id)) {
                effective.push((look.until.min(change.until), change));
            }
        }
        effective.sort_by_key(|(at, _)| *at);
        let mut newest: Vec<(Moment, &Change<'_>)> = Vec::with_capacity(effective.len());
        for (at, change) in effective {
            let best = newest.last().map(|(_, best)| *best);
            let best = best.filter(|best| best.operation.submitted > change.operation.submitted);
            newest.push((at, best.unwrap_or(change)));
        }
        for look in &self.looks {
            let settled = self.settled_of(epoch, sector, look)?;
            let before = newest.partition_point(|(at, _)| *at < look.from);
            let Some((_, due)) = newest[..before].last() else { continue };
            if settled < due.operation.submitted {
                let fault = epoch.history.fault_between(due.operation.ended(), look.from);
                let (rule, how) = match (due.operation.succeeded(), fault) {
                    (true, true) => (Rule::Floor, "was answered"),
                    (true, false) => (Rule::Register, "was answered"),
                    (false, true) => (Rule::Stability, "was read elsewhere, so it was there"),
                    (false, false) => (Rule::Register, "was read elsewhere, so it was there"),
                };
                let text = format!(
                    "{} found {} at {}, but {} {how} before that",
                    look.by,
                    look.value,
                    look.from,
                    describe(due.operation),
                );
                return Err((rule, text, look.from));
            }
        }
        self.check_zones(epoch, sector)
    }

    fn change(&self, id: WriteId) -> Option<&Change<'_>> {
        self.changes
            .binary_search_by_key(&id, |change| change.operation.id)
            .ok()
            .map(|index| &self.changes[index])
    }

    /// Checks that somebody wrote this value in time; the time after which that write took no effect any more.
    fn settled_of(&self, epoch: &Epoch<'_>, sector: u64, look: &Look<'_>) -> Result<Moment, Finding> {
        let lie = |text: String| (Rule::NoLie, format!("{} at {}: {text}", look.by, look.from), look.from);
        match look.value {
            Value::Wrong(text) => Err(lie(format!("found {text}"))),
            Value::Zero => {
                let zeroed =
                    self.changes.iter().filter(|c| c.is_zero() && c.operation.submitted < look.until);
                let begin = (*epoch.initial(sector) == Value::Zero).then_some(epoch.from);
                let latest = zeroed.map(|change| change.until).chain(begin).max();
                latest.ok_or_else(|| lie("found zeroes, but nobody has zeroed it".to_owned()))
            }
            Value::Written(id) => {
                let Some(change) = self.change(*id) else {
                    if epoch.initial(sector) == look.value {
                        return Ok(epoch.from);
                    }
                    let (rule, text) = epoch.unexplained(sector, *id);
                    return Err((rule, format!("{} at {}: {text}", look.by, look.from), look.from));
                };
                if change.operation.submitted > look.until {
                    return Err(lie(format!("found write {id}, which was sent only later")));
                }
                Ok(change.until)
            }
        }
    }

    /// The clusters' zones against one another.
    fn check_zones(&self, epoch: &Epoch<'_>, sector: u64) -> Result<(), Finding> {
        let mut zones: BTreeMap<WriteId, Zone> = BTreeMap::new();
        let read: HashSet<WriteId> = self.looks.iter().filter_map(Look::written).collect();
        for change in &self.changes {
            if read.contains(&change.operation.id) || change.operation.succeeded() {
                zones.insert(
                    change.operation.id,
                    Zone {
                        name: describe(change.operation),
                        earliest_end: change.until,
                        latest_begin: change.operation.submitted,
                    },
                );
            }
        }
        if let Value::Written(id) = epoch.initial(sector) {
            let name = format!("write {id}, with which the sector began at {},", epoch.from);
            zones.insert(*id, Zone { name, earliest_end: epoch.from, latest_begin: epoch.from });
        }
        for look in &self.looks {
            if let Some(zone) = look.written().and_then(|id| zones.get_mut(&id)) {
                zone.earliest_end = zone.earliest_end.min(look.until);
                zone.latest_begin = zone.latest_begin.max(look.from);
            }
        }
        let (mut forward, backward): (Vec<Zone>, Vec<Zone>) =
            zones.into_values().partition(|zone| zone.earliest_end < zone.latest_begin);
        forward.sort_by_key(|zone| zone.earliest_end);
        let conflict = |one: &Zone, other: &Zone| {
            let from = one.earliest_end.min(other.earliest_end);
            let until = one.latest_begin.max(other.latest_begin);
            let rule =
                if epoch.history.fault_between(from, until) { Rule::Stability } else { Rule::Register };
            let text = format!(
                "{} was there from {} to {}, and yet {} was there in between: one of them was taken back",
                one.name, one.earliest_end, one.latest_begin, other.name
            );
            (rule, text, one.latest_begin)
        };
        for pair in forward.windows(2) {
            if pair[1].earliest_end < pair[0].latest_begin {
                return Err(conflict(&pair[0], &pair[1]));
            }
        }
        for zone in &backward {
            // The forward zones are disjoint by now: only the last that begins before can hold it.
            let index = forward.partition_point(|other| other.earliest_end < zone.latest_begin);
            if let Some(around) = forward[..index].last()
                && zone.earliest_end < around.latest_begin
            {
                return Err(conflict(around, zone));
            }
        }
        Ok(())
    }
}

/// A change in the text of a finding.
fn describe(operation: &Operation) -> String {
    match operation.kind {
        Kind::Zero { .. } => format!("the zeroing {}", operation.id),
        Kind::Write { .. } | Kind::Flush | Kind::Read(_) => format!("write {}", operation.id),
    }
}
