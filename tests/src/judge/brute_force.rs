//! The judge's shortcut against the definition: small random histories of one sector, where every order that the
//! times allow is tried. It must accuse exactly those that no order explains.

use super::{End, Fault, History, Kind, Moment, Operation, Permits, Value, WriteId, judge};
use crate::raw::pattern::Numbers;

/// Histories that are tried; so many are good or bad at least, or the test proves nothing.
const HISTORIES: u64 = 60_000;
const OF_EACH: u64 = 5_000;

/// A request of a history: when it begins and ends, and which write it makes or reads.
#[derive(Clone, Copy, Debug)]
struct Step {
    begin: u64,
    end: u64,
    write: u32,
    kind: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Read,
    Write,
    /// Without an answer: it may never have taken effect.
    Lost,
}

/// Up to six requests after a first write, at times that are all different.
fn history(numbers: &mut Numbers) -> Vec<Step> {
    let count = 2 + numbers.below(5);
    let mut times: Vec<u64> = (10..10 + 2 * count).collect();
    for last in (1..times.len()).rev() {
        times.swap(last, usize::try_from(numbers.below(last as u64 + 1)).expect("small"));
    }
    let mut steps = vec![Step { begin: 1, end: 2, write: 1, kind: Shape::Write }];
    for pair in times.chunks(2) {
        let (begin, end) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        let kind = match numbers.below(4) {
            0 => Shape::Write,
            1 => Shape::Lost,
            _ => Shape::Read,
        };
        let write = u32::try_from(steps.len()).expect("few") + 1;
        steps.push(Step { begin, end, write, kind });
    }
    let writes: Vec<u32> =
        steps.iter().filter(|step| step.kind != Shape::Read).map(|step| step.write).collect();
    for step in steps.iter_mut().filter(|step| step.kind == Shape::Read) {
        step.write = writes[usize::try_from(numbers.below(writes.len() as u64)).expect("few")];
    }
    steps
}

/// Whether some order explains the history: tries every request that may come next.
fn explained(left: &[Step], holds: u32) -> bool {
    if left.iter().all(|step| step.kind == Shape::Lost) {
        return true;
    }
    (0..left.len()).any(|index| {
        let step = left[index];
        if left.iter().any(|other| other.kind != Shape::Lost && other.end < step.begin) {
            return false;
        }
        // One whose connection was lost had its effect by its end, or never: then it is left out.
        let mut rest: Vec<Step> = left.to_vec();
        rest.remove(index);
        rest.retain(|other| other.kind != Shape::Lost || other.end > step.begin);
        match step.kind {
            Shape::Read => holds == step.write && explained(&rest, holds),
            Shape::Write | Shape::Lost => explained(&rest, step.write),
        }
    })
}

fn recorded(steps: &[Step]) -> History {
    let operations = steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let value = WriteId { client: 1, number: step.write };
            let (id, kind) = match step.kind {
                Shape::Read => {
                    let number = u32::try_from(index).expect("few");
                    (WriteId { client: 2, number }, Kind::Read(vec![Value::Written(value)]))
                }
                Shape::Write | Shape::Lost => (value, Kind::Write { fua: false }),
            };
            let at = Moment(step.end);
            let end = match step.kind {
                Shape::Lost => End::Lost { at, settled: at },
                Shape::Read | Shape::Write => End::Answered { at, errno: 0 },
            };
            Operation { id, kind, first: 0, count: 1, submitted: Moment(step.begin), end }
        })
        .collect();
    let fault = Fault {
        what: "everything".to_owned(),
        permits: Permits::Errors,
        from: Moment::START,
        until: Moment::NEVER,
    };
    History { volume: 1, operations, faults: vec![fault], ..History::default() }
}

#[test]
fn the_judge_accuses_exactly_what_no_order_explains() {
    let mut numbers = Numbers::new(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..HISTORIES {
        let steps = history(&mut numbers);
        let expected = explained(&steps, 0);
        let history = recorded(&steps);
        let verdict = judge(&history);
        assert_eq!(verdict.violations.is_empty(), expected, "{steps:#?}\n{verdict}");
        if expected {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good >= OF_EACH && bad >= OF_EACH, "{good} good and {bad} bad ones are too few");
}
