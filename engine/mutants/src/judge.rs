//! Whether a mutant is noticed: by the tests of the core's rules, by the simulator, or by the workloads.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::tree::{LONGEST, Programs, SWITCH};

/// Seeds that the simulator is given.
pub(crate) const SEEDS: &str = "1..380";
/// A program that runs longer than this has noticed: it hangs, and without a mutant it does not.
const TIME_LIMIT: Duration = Duration::from_secs(400);
/// Kilobytes of address space for each program: a mutant may forget to stop.
const MEMORY_KILOBYTES: u32 = 1 << 20;
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
                        let finding = judge(programs, *number, simulate);
                        tell(*number, &finding);
                        found.push((at, finding));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    findings.sort_by_key(|(at, _)| *at);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// A line for each mutant as it is done.
fn tell(number: usize, finding: &Result<Finding>) {
    match finding {
        Ok(Finding { killed_by, took }) => {
            let said = killed_by.as_deref().unwrap_or("nobody noticed");
            println!("{:>4} s  mutant {number}: {said}", took.as_secs());
        }
        Err(error) => println!("        mutant {number}: {error:#}"),
    }
}

/// From what takes no time to what takes long: whatever notices first ends it.
fn judge(programs: &Programs, number: usize, simulate: bool) -> Result<Finding> {
    let start = Instant::now();
    let mut killed_by = None;
    let (longest, quick): (Vec<_>, Vec<_>) =
        programs.enumerations.iter().partition(|(name, _)| name == LONGEST);
    let ask = |(name, program): &(String, PathBuf)| -> Result<Option<String>> {
        Ok(run(program, &["--test-threads", "1"], number)?.map(|text| enumeration_said(name, &text)))
    };
    for program in quick {
        if killed_by.is_none() {
            killed_by = ask(program)?;
        }
    }
    if simulate && killed_by.is_none() {
        let sim = ["--seeds", SEEDS, "--threads", "1", "--no-shrink", "--lines", "0"];
        killed_by = run(&programs.sim, &sim, number)?.map(|text| simulator_said(&text));
    }
    for program in longest {
        if killed_by.is_none() {
            killed_by = ask(program)?;
        }
    }
    Ok(Finding { killed_by, took: start.elapsed() })
}

/// Runs a program; its output if it did not end well. A test program is ended at its first failure.
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
    let output = child.stdout.take().expect("its output is piped");
    let failed = AtomicBool::new(false);
    let start = Instant::now();
    let (status, text) = thread::scope(|scope| -> Result<_> {
        let reader = scope.spawn(|| {
            let mut text = String::new();
            for line in BufReader::new(output).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                if line.starts_with("test ") && line.ends_with(" ... FAILED") || line == "FAILED" {
                    failed.store(true, Ordering::Relaxed);
                }
                text.push_str(&line);
                text.push('\n');
            }
            std::io::Result::Ok(text)
        });
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > TIME_LIMIT || failed.load(Ordering::Relaxed) {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        Ok((status, reader.join().expect("the reader does not panic")?))
    })?;
    Ok(match status {
        Some(status) if status.success() => None,
        Some(_) => Some(text),
        None if failed.load(Ordering::Relaxed) => Some(text),
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
