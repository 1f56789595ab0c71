//! O2 and O3 on an image from which something may be missing: what it must hold, and that nothing is in it without
//! what came before.

use std::collections::{BTreeMap, BTreeSet};

use super::{Epoch, Kind, Moment, Operation, Promise, Rule, SECTOR, Snapshot, Value, Violation};

/// What an image must at least hold.
struct Floor {
    /// Changes answered before this.
    answered: Moment,
    /// Changes with FUA answered before this.
    answered_with_fua: Moment,
    /// The rule that says so, and why, for the report.
    rule: Rule,
    reason: String,
}

/// Checks an image against its promise. One that must hold everything is the matter of [`super::register`].
pub(super) fn check(epoch: &Epoch<'_>, image: &Snapshot) -> Vec<Violation> {
    let changes = changes_by_sector(epoch, image);
    let newest = newest_visible(epoch, image);
    let sent = newest.map_or(Moment::START, |operation| operation.submitted);
    let shown = newest.map_or("nothing".to_owned(), |operation| format!("write {}", operation.id));
    let flushed = |before: Moment| {
        let flushes = epoch.operations.iter().filter(|operation| operation.kind == Kind::Flush);
        let done = flushes.filter(|flush| flush.acknowledged().is_some_and(|at| at < before));
        done.map(|flush| flush.submitted).max().unwrap_or(Moment::START)
    };
    let floor = match image.promise {
        Promise::Answered => return Vec::new(),
        Promise::Flushed => Floor {
            answered: flushed(image.from),
            answered_with_fua: image.from,
            rule: Rule::Floor,
            reason: "it was flushed".to_owned(),
        },
        Promise::Older => Floor {
            answered: flushed(sent),
            answered_with_fua: sent,
            rule: Rule::Order,
            reason: format!("a flush put it before {shown}, which is there"),
        },
        Promise::Cut { .. } => Floor {
            answered: sent,
            answered_with_fua: sent,
            rule: Rule::Order,
            reason: format!("it was answered before {shown}, which is there, was sent"),
        },
    };
    let mut found = Vec::new();
    let initial = epoch.initial.iter().flat_map(|initial| initial.sectors.keys());
    let sectors: BTreeSet<u64> = changes.keys().chain(image.sectors.keys()).chain(initial).copied().collect();
    for sector in sectors {
        let changes = changes.get(&sector).map_or(&[][..], Vec::as_slice);
        if let Some((rule, text)) = check_sector(epoch, image, &floor, sector, changes) {
            let text = format!("sector {sector} on {}: {text}", image.node);
            found.push(Violation { rule, sector: Some(sector), text, at: image.from });
        }
    }
    if let Promise::Cut { lag } = image.promise {
        found.extend(check_lag(epoch, image, sent, lag));
    }
    found
}

/// The changes of this epoch that were sent before the image was read, by sector.
fn changes_by_sector<'a>(epoch: &Epoch<'a>, image: &Snapshot) -> BTreeMap<u64, Vec<&'a Operation>> {
    let mut result: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in epoch.operations.iter().filter(|o| o.is_change() && o.submitted < image.until) {
        for sector in operation.sectors() {
            result.entry(sector).or_default().push(operation);
        }
    }
    result
}

/// The change, of those that the image shows, that was sent last.
fn newest_visible<'a>(epoch: &Epoch<'a>, image: &Snapshot) -> Option<&'a Operation> {
    let shown = image.sectors.values().filter_map(|value| match value {
        Value::Written(id) => epoch.changes.get(id).copied(),
        Value::Zero | Value::Wrong(_) => None,
    });
    shown.filter(|change| change.submitted >= epoch.from).max_by_key(|change| change.submitted)
}

fn check_sector(
    epoch: &Epoch<'_>,
    image: &Snapshot,
    floor: &Floor,
    sector: u64,
    changes: &[&Operation],
) -> Option<(Rule, String)> {
    let value = image.value(sector);
    // When the change that is there had taken effect for certain.
    let settled = match value {
        Value::Wrong(text) => return Some((Rule::NoLie, format!("it holds {text}"))),
        Value::Written(id) => match changes.iter().find(|change| change.id == *id) {
            Some(change) => change.settled(),
            None if epoch.initial(sector) == value => epoch.from,
            None => return Some(epoch.unexplained(sector, *id)),
        },
        Value::Zero => {
            let zeroed = changes.iter().filter(|change| matches!(change.kind, Kind::Zero { .. }));
            let begin = (*epoch.initial(sector) == Value::Zero).then_some(epoch.from);
            match zeroed.map(|change| change.settled()).chain(begin).max() {
                Some(settled) => settled,
                None => return Some((Rule::NoLie, "it holds zeroes, but nobody has zeroed it".to_owned())),
            }
        }
    };
    let missing = changes.iter().find(|change| {
        let limit = if change.is_fua() { floor.answered_with_fua } else { Moment::START }.max(floor.answered);
        change.acknowledged().is_some_and(|at| at < limit) && settled < change.submitted
    })?;
    Some((floor.rule, format!("it holds {value}, but {} must be there: {}", missing.id, floor.reason)))
}

/// Protocol A: what was answered and is not there must not be more than was promised.
fn check_lag(epoch: &Epoch<'_>, image: &Snapshot, sent: Moment, lag: u64) -> Option<Violation> {
    // What zeroes leave cannot be told from zeroes that were there: they do not count.
    let missing = epoch.operations.iter().filter(|operation| {
        matches!(operation.kind, Kind::Write { .. }) && operation.succeeded() && operation.submitted > sent
    });
    let bytes: u64 = missing.map(|operation| u64::from(operation.count) * SECTOR as u64).sum();
    (bytes > lag).then(|| Violation {
        rule: Rule::Floor,
        sector: None,
        text: format!("{}: {bytes} acknowledged bytes are missing, {lag} may be", image.node),
        at: image.from,
    })
}
