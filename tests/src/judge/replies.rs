//! Answers that no fault explains: an error, or a connection that ended, while nothing was broken; and an answer
//! that came although the volume had been recovered elsewhere.

use super::{End, History, Moment, Operation, Permits, Promise, Rule, Violation};

/// Checks how every request ended.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let told = |operation: &Operation, text: String| Violation {
        rule: Rule::Answers,
        sector: None,
        text: format!("{operation}: {text}"),
        at: operation.submitted,
    };
    let mut found = Vec::new();
    for operation in &history.operations {
        let (needs, what) = match operation.end {
            End::Answered { errno: 0, .. } => {
                found.extend(crosses_recovery(history, operation).map(|at| Violation {
                    rule: Rule::Floor,
                    ..told(operation, format!("it was sent before the volume was recovered at {at}"))
                }));
                continue;
            }
            End::Answered { .. } => (Permits::Errors, "an error that no fault explains"),
            End::Lost { .. } => (Permits::Disconnect, "a lost connection that no fault explains"),
        };
        let explained = history.faults.iter().any(|fault| {
            fault.permits >= needs && fault.from <= operation.ended() && operation.submitted <= fault.until
        });
        if !explained {
            found.push(told(operation, what.to_owned()));
        }
    }
    found
}

/// The recovery that lies between sending and answer: whoever answered did not know of it.
fn crosses_recovery(history: &History, operation: &Operation) -> Option<Moment> {
    let recoveries = history.snapshots.iter().filter(|image| match image.promise {
        Promise::Flushed | Promise::Cut { .. } => true,
        Promise::Answered | Promise::Older => false,
    });
    let mut crossed = recoveries.filter(|image| {
        operation.is_change() && operation.submitted < image.from && image.until < operation.ended()
    });
    crossed.next().map(|image| image.from)
}
