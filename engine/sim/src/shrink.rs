//! Makes a failing plan short: fewer faults, fewer requests, an earlier end; the same rule must break.
//!
//! The order: cut the schedule off at the failure, drop whole kinds of faults, then halves, quarters and single
//! entries of the schedule (delta debugging), then requests from the end. Every attempt is a run of its own.

use crate::{FaultKind, Plan, Planned, engine::Engine, run::run};

/// A short plan and how it fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How many runs it took.
    pub attempts: u32,
    /// Events of the run that is left.
    pub events: u64,
}

/// Searches with at most `budget` runs.
pub fn shrink<E: Engine>(plan: &Plan, settings: &E::Settings, rule: &str, budget: u32) -> Shrunk {
    let mut search =
        Search::<E> { settings, rule, budget, attempts: 0, best: plan.clone(), events: u64::MAX };
    let failed_at = search.fails(plan);
    if let Some(at) = failed_at {
        let before = |fault: &Planned| fault.at <= at;
        search.keep_if_failing(plan.faults.iter().copied().filter(before).collect());
    }
    for kind in FaultKind::ALL {
        let without: Vec<Planned> =
            search.best.faults.iter().copied().filter(|fault| fault.kind != kind).collect();
        if without.len() < search.best.faults.len() {
            search.keep_if_failing(without);
        }
    }
    search.thin_out();
    search.fewer_requests();
    Shrunk { plan: search.best, attempts: search.attempts, events: search.events }
}

struct Search<'a, E: Engine> {
    settings: &'a E::Settings,
    rule: &'a str,
    budget: u32,
    attempts: u32,
    best: Plan,
    events: u64,
}

impl<E: Engine> Search<'_, E> {
    /// When the plan breaks the rule, if it does.
    fn fails(&mut self, plan: &Plan) -> Option<u64> {
        if self.attempts >= self.budget {
            return None;
        }
        self.attempts += 1;
        let outcome = run::<E>(plan, self.settings, 0);
        let (violation, at) = outcome.failure?;
        if violation.rule != self.rule {
            return None;
        }
        self.events = outcome.counts.events;
        Some(at)
    }

    fn keep_if_failing(&mut self, faults: Vec<Planned>) -> bool {
        let plan = Plan { faults, ..self.best.clone() };
        let fails = self.fails(&plan).is_some();
        if fails {
            self.best = plan;
        }
        fails
    }

    fn thin_out(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2);
        while size >= 1 {
            let mut start = 0;
            while start < self.best.faults.len() {
                let end = (start + size).min(self.best.faults.len());
                let mut faults = self.best.faults.clone();
                faults.drain(start..end);
                if !self.keep_if_failing(faults) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    fn fewer_requests(&mut self) {
        let (mut low, mut high) = (0, self.best.load.requests);
        while low + 1 < high && self.attempts < self.budget {
            let middle = low.midpoint(high);
            let mut plan = self.best.clone();
            plan.load.requests = middle;
            if self.fails(&plan).is_some() {
                self.best = plan;
                high = middle;
            } else {
                low = middle;
            }
        }
    }
}
