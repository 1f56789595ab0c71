//! One seed from beginning to end.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{Counts, Coverage, Plan, Violation, engine::Engine, world::World};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it counted.
    pub counts: Counts,
    /// Which events met which states.
    pub coverage: Coverage,
    /// Two runs of one plan have the same.
    pub trace_hash: u64,
    /// The first broken rule, with the virtual time at which it was seen in nanoseconds.
    pub failure: Option<(Violation, u64)>,
    /// The last lines of the trace, if it was kept.
    pub trace: Vec<String>,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics quiet and remembers where they were: within a run they are findings, told with their seed.
pub fn remember_panics() {
    std::panic::set_hook(Box::new(|info| {
        LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
    }));
}

/// Runs a plan; the last `trace_lines` lines of what happened are kept. A panic of the engine is a broken rule
/// (`panic`): in production the process would die.
pub fn run<E: Engine>(plan: &Plan, settings: &E::Settings, trace_lines: usize) -> Outcome {
    let mut world = World::<E>::new(plan, settings, trace_lines);
    let violation = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(violation) => violation,
        Err(panic) => {
            let place = LAST_PANIC.with(|last| std::mem::take(&mut *last.borrow_mut()));
            let text = if place.is_empty() {
                panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without words".to_owned())
            } else {
                place
            };
            Some(Violation { rule: "panic", text })
        }
    };
    // The toy is no measure.
    let violation = violation.or_else(|| {
        let illegal = world.coverage.illegal().filter(|_| E::INSPECTS)?;
        Some(Violation { rule: "coverage", text: format!("{illegal}, which `legal.rs` does not know") })
    });
    let now = world.now();
    world.counts.virtual_nanos = now;
    Outcome {
        counts: world.counts.clone(),
        coverage: world.coverage.clone(),
        trace_hash: world.hash,
        failure: violation.map(|violation| (violation, now)),
        trace: world.trace(),
    }
}
