//! The table of the mirrored path: medians over rounds, with the CPU time of both ends.

use std::fmt::Write as _;

use serde::Serialize;

/// What one round measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Writes per second.
    pub iops: f64,
    /// Median time of a write, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPU time for one write of what clients talk to, in microseconds.
    pub primary_us: f64,
    /// The same of what has the replica, if there is one.
    pub secondary_us: Option<f64>,
    /// The same of the load generator.
    pub generator_us: f64,
}

/// Medians of one system under one load, each value by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `memory` or `disk`.
    pub storage: &'static str,
    /// Writes in flight.
    pub depth: usize,
    /// By whom.
    pub system: &'static str,
    /// Writes per second.
    pub iops: f64,
    /// Lowest and highest of all rounds.
    pub iops_range: (f64, f64),
    /// Median time of a write, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPU time for one write of what clients talk to, in microseconds.
    pub primary_us: f64,
    /// The same of what has the replica, if there is one.
    pub secondary_us: Option<f64>,
    /// The same of the load generator.
    pub generator_us: f64,
}

impl Row {
    /// The medians of `samples`.
    ///
    /// # Panics
    /// Without a sample.
    #[must_use]
    pub fn new(storage: &'static str, depth: usize, system: &'static str, samples: &[Sample]) -> Self {
        let iops = sorted(samples.iter().map(|sample| sample.iops));
        let secondary = samples.iter().filter_map(|sample| sample.secondary_us);
        Self {
            storage,
            depth,
            system,
            iops: median(&iops).expect("there are samples"),
            iops_range: (iops[0], iops[iops.len() - 1]),
            p50_us: median_of(samples, |sample| sample.p50_us),
            p99_us: median_of(samples, |sample| sample.p99_us),
            primary_us: median_of(samples, |sample| sample.primary_us),
            secondary_us: median(&sorted(secondary)),
            generator_us: median_of(samples, |sample| sample.generator_us),
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(f64::midpoint(sorted[last / 2], sorted[sorted.len() / 2]))
}

fn median_of(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    median(&sorted(samples.iter().map(value))).expect("there are samples")
}

/// A Markdown table.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| storage | depth | system | IOPS | (min - max) | p50 us | p99 us | CPU us/op primary | secondary | generator |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let written = writeln!(
            text,
            "| {} | {} | {} | {:.0} | {:.0} - {:.0} | {:.0} | {:.0} | {:.1} | {} | {:.1} |",
            row.storage,
            row.depth,
            row.system,
            row.iops,
            row.iops_range.0,
            row.iops_range.1,
            row.p50_us,
            row.p99_us,
            row.primary_us,
            row.secondary_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
            row.generator_us,
        );
        written.expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_each_value() {
        let sample = |iops, secondary_us| Sample {
            iops,
            p50_us: 10.0,
            p99_us: 20.0,
            primary_us: 5.0,
            secondary_us,
            generator_us: 1.0,
        };
        let rows = [
            Row::new("disk", 1, "two", &[sample(300.0, Some(4.0)), sample(100.0, Some(2.0))]),
            Row::new("disk", 1, "one", &[sample(100.0, None)]),
        ];
        let text = render(&rows);
        assert!(text.contains("| disk | 1 | two | 200 | 100 - 300 | 10 | 20 | 5.0 | 3.0 | 1.0 |"), "{text}");
        assert!(text.contains("| disk | 1 | one | 100 | 100 - 100 | 10 | 20 | 5.0 | - | 1.0 |"), "{text}");
    }
}
