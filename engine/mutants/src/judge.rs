//! Whether a mutant is noticed: first by the simulator, then by the enumerations.

use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::tree::{Programs, SWITCH};

/// Seeds that the simulator is given.
pub(crate) const SEEDS: &str = "1..380";
/// A program that runs longer than this has noticed: it hangs, and without a mutant it does not.
const TIME_LIMIT: Duration = Duration::from_secs(180);
/// Kilobytes of address space for each program: a mutant may forget to stop.
const MEMORY_KILOBYTES: u32 = 8 << 20;
/// Mutants that are judged at the same time; each program runs in one thread.
const WORKERS: usize = 2;

/// What was seen of one mutant.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Who noticed, and how; `None` if nobody did.
    pub(crate) killed_by: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Judges the mutants with these numbers; 0 is the code as it is.
pub(crate) fn judge_all(programs: &Programs, numbers: &[usize], simulate: bool) -> Result<Vec<Finding>> {
    let next = AtomicUsize::new(0);
    let mut findings: Vec<(usize, Result<Finding>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut found = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(number) = numbers.get(at) else { break found };
                        found.push((at, judge(programs, *number, simulate)));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    findings.sort_by_key(|(at, _)| *at);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn judge(programs: &Programs, number: usize, simulate: bool) -> Result<Finding> {
    let start = Instant::now();
    let mut killed_by = None;
    for (name, program) in &programs.enumerations {
        if killed_by.is_some() {
            break;
        }
        killed_by = run(program, &["--test-threads", "1"], number)?.map(|text| enumeration_said(name, &text));
    }
    if simulate && killed_by.is_none() {
        let sim = ["--seeds", SEEDS, "--threads", "1", "--no-shrink", "--lines", "0"];
        killed_by = run(&programs.sim, &sim, number)?.map(|text| simulator_said(&text));
    }
    Ok(Finding { killed_by, took: start.elapsed() })
}

/// Runs a program; its output if it did not end well.
fn run(program: &Path, arguments: &[&str], number: usize) -> Result<Option<String>> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {MEMORY_KILOBYTES}; exec \"$0\" \"$@\" 2>&1"))
        .arg(program)
        .args(arguments)
        .env(SWITCH, number.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("sh cannot be started")?;
    let mut output = child.stdout.take().expect("its output is piped");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        output.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > TIME_LIMIT {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = reader.join().expect("the reader does not panic")?;
    Ok(match status {
        Some(status) if status.success() => None,
        Some(_) => Some(text),
        None => Some(format!("no end within {} s", TIME_LIMIT.as_secs())),
    })
}

/// "seed 17 broke O7 …" of the simulator's output.
fn simulator_said(text: &str) -> String {
    let seed = text.lines().find(|line| line.starts_with("seed ") && line.contains(" broke "));
    let told =
        seed.map_or_else(|| last_line(text), |line| line.split(" after ").next().unwrap_or(line).to_owned());
    format!("simulator: {told}")
}

/// The names of the tests that failed.
fn enumeration_said(name: &str, text: &str) -> String {
    let failed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    let told = if failed.is_empty() { last_line(text) } else { failed.join(", ") };
    format!("{name}: {told}")
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output").to_owned()
}
