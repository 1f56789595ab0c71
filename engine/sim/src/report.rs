//! What many runs add up to, as a table for people and one line for programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Counts, Coverage, FaultKind, run::Outcome};

/// A run of so many seeds lists the pairs that it has not seen.
const LONG_RUN: u64 = 2_000;

/// The sum of many runs.
#[derive(Clone, Debug)]
pub struct Report {
    /// Runs.
    pub seeds: u64,
    /// Runs that broke a rule.
    pub failures: u64,
    counts: Counts,
    coverage: Coverage,
    rules: Vec<(&'static str, u64)>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            seeds: 0,
            failures: 0,
            counts: Counts::new(),
            coverage: Coverage::default(),
            rules: Vec::new(),
        }
    }
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.add_counts(&outcome.counts);
        self.coverage.add(&outcome.coverage);
        if let Some((violation, _)) = &outcome.failure {
            self.fail(violation.rule);
        }
    }

    /// Counts a failure that is not a run's own (two runs of one seed that differ).
    pub fn fail(&mut self, rule: &'static str) {
        self.failures += 1;
        match self.rules.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += 1,
            None => self.rules.push((rule, 1)),
        }
    }

    fn add_counts(&mut self, counts: &Counts) {
        self.counts.events += counts.events;
        self.counts.acked_writes += counts.acked_writes;
        self.counts.failed_requests += counts.failed_requests;
        self.counts.promotions += counts.promotions;
        self.counts.resyncs_completed += counts.resyncs_completed;
        self.counts.crashes += counts.crashes;
        self.counts.forks += counts.forks;
        self.counts.virtual_nanos += counts.virtual_nanos;
        for (mine, theirs) in self.counts.faults.iter_mut().zip(&counts.faults) {
            *mine += theirs;
        }
    }

    /// Adds the runs of another report.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.add_counts(&other.counts);
        self.coverage.add(&other.coverage);
        self.failures += other.failures;
        for (rule, count) in &other.rules {
            match self.rules.iter_mut().find(|(known, _)| known == rule) {
                Some((_, mine)) => *mine += count,
                None => self.rules.push((rule, *count)),
            }
        }
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![format!("{:<22} {:>12} {:>10}", "fault", "struck", "per seed")];
        let seeds = self.seeds.max(1);
        for kind in FaultKind::ALL {
            let count = self.counts.faults[kind.number()];
            if count > 0 {
                let (whole, part) = (count / seeds, count % seeds * 100 / seeds);
                lines.push(format!("{:<22} {count:>12} {whole:>7}.{part:02}", format!("{kind:?}")));
            }
        }
        lines.push(String::new());
        lines.push(format!("virtual time           {:>12} s", self.counts.virtual_nanos / 1_000_000_000));
        let (seen, legal) = self.coverage.seen_of_legal();
        lines.push(format!("state x event pairs    {seen:>12} seen of {legal} legal"));
        lines.push(format!("requests that failed   {:>12}", self.counts.failed_requests));
        lines.push(format!("split brains resolved  {:>12}", self.counts.forks));
        lines.push(format!(
            "means per seed         events {}, acked writes {}, promotions {}.{:02}, resyncs {}.{:02}, crashes {}.{:02}",
            self.counts.events / seeds,
            self.counts.acked_writes / seeds,
            self.counts.promotions / seeds,
            self.counts.promotions % seeds * 100 / seeds,
            self.counts.resyncs_completed / seeds,
            self.counts.resyncs_completed % seeds * 100 / seeds,
            self.counts.crashes / seeds,
            self.counts.crashes % seeds * 100 / seeds,
        ));
        if seeds >= LONG_RUN {
            lines.push(String::from("legal pairs that were not seen:"));
            lines.extend(self.coverage.unseen().into_iter().map(|line| format!("  {line}")));
        }
        let mut rules = self.rules.clone();
        rules.sort_unstable();
        for (rule, count) in rules {
            lines.push(format!("BROKEN {rule:<15} {count:>12} seeds"));
        }
        lines.join("\n")
    }

    /// The line for programs.
    #[must_use]
    pub fn json(&self, elapsed: Duration) -> Value {
        let millis = elapsed.as_millis().max(1);
        let per_hour = u128::from(self.seeds) * 3_600_000 / millis;
        json!({
            "seeds": self.seeds,
            "events": self.counts.events,
            "acked_writes": self.counts.acked_writes,
            "promotions": self.counts.promotions,
            "resyncs_completed": self.counts.resyncs_completed,
            "crashes": self.counts.crashes,
            "faults": self.counts.faults.iter().sum::<u64>(),
            "failures": self.failures,
            "seeds_per_hour": u64::try_from(per_hour).unwrap_or(u64::MAX),
        })
    }
}
