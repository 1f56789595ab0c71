//! One run of fio against an NBD server, and what it measured.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What fio does.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// For the table.
    pub name: &'static str,
    /// fio's `rw`.
    pub pattern: &'static str,
    /// Bytes of one request.
    pub block_bytes: u64,
    /// Requests in flight.
    pub depth: u32,
}

/// The workloads of the comparison.
pub const WORKLOADS: [Workload; 6] = [
    Workload { name: "4 KiB random write, depth 1", pattern: "randwrite", block_bytes: 4 << 10, depth: 1 },
    Workload { name: "4 KiB random write, depth 32", pattern: "randwrite", block_bytes: 4 << 10, depth: 32 },
    Workload { name: "4 KiB random read, depth 1", pattern: "randread", block_bytes: 4 << 10, depth: 1 },
    Workload { name: "4 KiB random read, depth 32", pattern: "randread", block_bytes: 4 << 10, depth: 32 },
    Workload { name: "1 MiB sequential write, depth 4", pattern: "write", block_bytes: 1 << 20, depth: 4 },
    Workload { name: "1 MiB sequential read, depth 4", pattern: "read", block_bytes: 1 << 20, depth: 4 },
];

/// What one run brought.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Requests done.
    pub operations: u64,
    /// Requests per second.
    pub iops: f64,
    /// Median time of a request as the client sees it, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile, in microseconds.
    pub p99_us: f64,
}

/// Loads `export` on `socket` for `time`.
///
/// # Errors
/// fio is missing, fails, or reports an error of the server.
pub fn run(workload: &Workload, socket: &Path, export: &str, time: Duration) -> Result<Outcome> {
    let output = Command::new("fio")
        .args(["--name=peers", "--ioengine=nbd", "--output-format=json", "--time_based", "--randrepeat=0"])
        .args(["--lat_percentiles=1", "--clat_percentiles=0", "--norandommap"])
        .arg(format!("--uri=nbd+unix:///{export}?socket={}", socket.display()))
        .arg(format!("--rw={}", workload.pattern))
        .arg(format!("--bs={}", workload.block_bytes))
        .arg(format!("--iodepth={}", workload.depth))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .output()
        .context("fio cannot be started: install the Debian package fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "fio failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    parse(&text).with_context(|| format!("fio's report is not as expected: {text}"))
}

fn parse(report: &str) -> Result<Outcome> {
    // Notes of the engine may stand before the report.
    let start = report.find('{').context("no JSON")?;
    let report: Value = serde_json::from_str(&report[start..])?;
    let job = &report["jobs"][0];
    ensure!(job["error"].as_i64() == Some(0), "fio met error {}", job["error"]);
    let done = |side: &str| job[side]["total_ios"].as_u64().unwrap_or(0);
    let side = if done("write") > 0 { "write" } else { "read" };
    let percentile = |name: &str| -> Result<f64> {
        let nanoseconds = job[side]["lat_ns"]["percentile"][name].as_f64();
        Ok(nanoseconds.with_context(|| format!("no percentile {name}"))? / 1000.0)
    };
    Ok(Outcome {
        operations: done(side),
        iops: job[side]["iops"].as_f64().context("no iops")?,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"note: something
            {"jobs":[{"error":0,"read":{"total_ios":0},"write":{"total_ios":7,"iops":3.5,
            "lat_ns":{"percentile":{"50.000000":1500,"99.000000":9000}}}}]}"#;
        let outcome = parse(report).expect("well formed");
        assert_eq!(outcome.operations, 7);
        assert!((outcome.iops - 3.5).abs() < 1e-9 && (outcome.p50_us - 1.5).abs() < 1e-9);
        assert!((outcome.p99_us - 9.0).abs() < 1e-9);
        assert!(parse(r#"{"jobs":[{"error":5}]}"#).is_err());
        assert!(parse("nothing").is_err());
    }
}
