//! Medians over rounds, and how they are printed.

use std::fmt::Write as _;

use serde::Serialize;

/// What one round measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Median time of a request, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPU time of the server for one request, in microseconds.
    pub cpu_us: f64,
}

/// Medians of one server under one workload, each value by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub workload: &'static str,
    /// By whom.
    pub server: &'static str,
    /// Requests per second.
    pub iops: f64,
    /// Median time of a request, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPU time of the server for one request, in microseconds.
    pub cpu_us: f64,
    /// Lowest and highest requests per second of all rounds.
    pub iops_range: (f64, f64),
}

impl Row {
    /// The medians of `samples`.
    ///
    /// # Panics
    /// Without a sample.
    #[must_use]
    pub fn new(workload: &'static str, server: &'static str, samples: &[Sample]) -> Self {
        let sorted = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |value| {
            let values = sorted(value);
            f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
        };
        let iops = sorted(|sample| sample.iops);
        Self {
            workload,
            server,
            iops: median(|sample| sample.iops),
            p50_us: median(|sample| sample.p50_us),
            p99_us: median(|sample| sample.p99_us),
            cpu_us: median(|sample| sample.cpu_us),
            iops_range: (iops[0], iops[iops.len() - 1]),
        }
    }
}

/// A Markdown table; the last three columns compare with `base` under the same workload.
#[must_use]
pub fn render(rows: &[Row], base: &str) -> String {
    let mut text = String::from(
        "| workload | server | IOPS | (min - max) | p50 us | p99 us | CPU us/op | IOPS x | p50 x | CPU x |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let base = rows.iter().find(|other| other.workload == row.workload && other.server == base);
        let base = base.unwrap_or(row);
        let written = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} - {:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} |",
            row.workload,
            row.server,
            row.iops,
            row.iops_range.0,
            row.iops_range.1,
            row.p50_us,
            row.p99_us,
            row.cpu_us,
            row.iops / base.iops,
            row.p50_us / base.p50_us,
            row.cpu_us / base.cpu_us,
        );
        written.expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let sample = |iops| Sample { iops, p50_us: 10.0, p99_us: 20.0, cpu_us: 5.0 };
        let rows = [
            Row::new("w", "base", &[sample(100.0), sample(300.0), sample(200.0)]),
            Row::new("w", "us", &[sample(300.0)]),
        ];
        assert!((rows[0].iops - 200.0).abs() < 1e-9);
        assert!((Row::new("w", "x", &[sample(1.0), sample(2.0)]).iops - 1.5).abs() < 1e-9);
        assert!(
            render(&rows, "base")
                .contains("| w | us | 300 | 300 - 300 | 10 | 20 | 5.0 | 1.50 | 1.00 | 1.00 |")
        );
    }
}
