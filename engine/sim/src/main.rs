//! `sim`: runs seeds, prints what they add up to, and makes a failing one short.
//!
//! The last line of the output is one JSON object; the exit code is 1 if a seed failed, 2 for wrong usage.

use std::{
    env,
    io::Write,
    process::{Command, ExitCode},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use evenkeel_core::volume::Volume;
use evenkeel_sim::{
    Allowed, FaultKind, Plan,
    engine::Engine,
    report::Report,
    run::{Outcome, remember_panics, run},
    shrink::shrink,
    toy::{Bug, Toy},
};

const USAGE: &str = "usage: sim [--minutes M | --seeds A..B | --seed N] [--threads N] [--append FILE]
           [--engine core|toy] [--bug NAME] [--only KIND,KIND…] [--without KIND,KIND…]
           [--nodes 2|3] [--all-nodes] [--in-budget] [--keep-going] [--no-shrink] [--lines N]";

/// Failing seeds that are shrunk and told in full; more are only counted.
const TOLD: u64 = 3;
/// Runs that a search for a short schedule may take.
const SHRINK_RUNS: u32 = 300;

struct Options {
    minutes: f64,
    seeds: std::ops::Range<u64>,
    single: bool,
    threads: usize,
    append: Option<String>,
    toy: bool,
    bug: Option<Bug>,
    allowed: Allowed,
    keep_going: bool,
    shrinks: bool,
    lines: usize,
    arguments: Vec<String>,
}

fn kinds(list: &str) -> Result<Vec<FaultKind>, String> {
    list.split(',')
        .map(|name| FaultKind::named(name).ok_or_else(|| format!("there is no fault called {name}")))
        .collect()
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        minutes: 0.0,
        seeds: 0..0,
        single: false,
        threads: thread::available_parallelism().map_or(1, usize::from),
        append: None,
        toy: false,
        bug: None,
        allowed: Allowed::default(),
        keep_going: false,
        shrinks: true,
        lines: 300,
        arguments: Vec::new(),
    };
    let mut words = arguments.iter();
    let mut repeated = arguments.iter();
    while let Some(word) = repeated.next() {
        match word.as_str() {
            "--engine" | "--bug" | "--only" | "--without" | "--nodes" => {
                options.arguments.push(word.clone());
                options.arguments.extend(repeated.next().cloned());
            }
            "--in-budget" | "--all-nodes" => options.arguments.push(word.clone()),
            _ => {}
        }
    }
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"));
        match word.as_str() {
            "--minutes" => {
                let text = value()?;
                options.minutes = text.parse().map_err(|error| format!("--minutes {text}: {error}"))?;
            }
            "--seed" => {
                let seed = number(value()?)?;
                options.seeds = seed..seed + 1;
                options.single = true;
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or("--seeds needs A..B")?;
                options.seeds = number(&from.to_owned())?..number(&to.to_owned())?;
            }
            "--threads" => options.threads = usize::try_from(number(value()?)?).map_err(|e| e.to_string())?,
            "--append" => options.append = Some(value()?.clone()),
            "--engine" => {
                options.toy = match value()?.as_str() {
                    "core" => false,
                    "toy" => true,
                    other => return Err(format!("--engine {other}: there is core and toy")),
                };
            }
            "--bug" => {
                let name = value()?;
                let bug = Bug::named(name).ok_or_else(|| format!("the toy has no bug called {name}"))?;
                options.bug = Some(bug);
                options.toy = true;
            }
            "--only" => {
                options.allowed.kinds = kinds(value()?)?;
                options.allowed.eager = true;
            }
            "--without" => {
                let without = kinds(value()?)?;
                options.allowed.kinds.retain(|kind| !without.contains(kind));
            }
            "--nodes" => options.allowed.max_nodes = if number(value()?)? >= 3 { 3 } else { 2 },
            "--in-budget" => options.allowed.beyond_budget = false,
            "--all-nodes" => options.allowed.all_nodes = true,
            "--lines" => options.lines = usize::try_from(number(value()?)?).map_err(|e| e.to_string())?,
            "--keep-going" => options.keep_going = true,
            "--no-shrink" => options.shrinks = false,
            other => return Err(format!("{other} is not known")),
        }
    }
    if options.toy {
        let Allowed { kinds, eager, .. } = std::mem::replace(&mut options.allowed, Toy::allowed());
        if eager {
            options.allowed.kinds = kinds;
            options.allowed.eager = true;
        }
    }
    if options.minutes > 0.0 && options.seeds.is_empty() {
        let start = Instant::now();
        // A fresh range for each long run; the command line of a failure names the seed itself.
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let first = wall.map_or(0, |since| since.as_secs()) * 1_000_000
            + u64::from(start.elapsed().subsec_nanos() % 7);
        options.seeds = first..u64::MAX;
    }
    if options.seeds.is_empty() {
        return Err("say --minutes M, --seeds A..B or --seed N".to_owned());
    }
    Ok(options)
}

fn describe(seed: u64, outcome: &Outcome) -> String {
    match &outcome.failure {
        None => {
            format!("seed {seed}: good, {} events, hash {:016x}", outcome.counts.events, outcome.trace_hash)
        }
        Some((violation, at)) => format!(
            "seed {seed} broke {} after {} ms of virtual time, {} events:\n{}",
            violation.rule,
            at / 1_000_000,
            outcome.counts.events,
            violation.text
        ),
    }
}

/// One seed in full: its trace, and if it fails a short schedule.
fn tell<E: Engine>(plan: &Plan, settings: &E::Settings, options: &Options) {
    let outcome = run::<E>(plan, settings, options.lines);
    let mut text = String::new();
    for line in &outcome.trace {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&describe(plan.seed, &outcome));
    if let Some((violation, _)) = &outcome.failure {
        text.push_str(&format!(
            "\nrepeat with: sim --seed {} {}\n{} nodes, protocol {:?}, {} KiB, {:?} on loss",
            plan.seed,
            options.arguments.join(" "),
            plan.nodes,
            plan.protocol,
            plan.size_bytes / 1024,
            plan.on_peer_loss
        ));
        if options.shrinks {
            let short = shrink::<E>(plan, settings, violation.rule, SHRINK_RUNS);
            text.push_str(&format!(
                "\nshrunk in {} runs to {} faults, {} requests, {} events:",
                short.attempts,
                short.plan.faults.len(),
                short.plan.load.requests,
                short.events
            ));
            for fault in &short.plan.faults {
                text.push_str(&format!(
                    "\n  at {:>7} ms {:?} node {} peer {} for {} ms",
                    fault.at / 1_000_000,
                    fault.kind,
                    fault.node,
                    fault.peer,
                    fault.lasts / 1_000_000
                ));
            }
            let kinds: Vec<String> =
                short.plan.faults.iter().map(|fault| format!("{:?}", fault.kind)).collect();
            let outcome = run::<E>(&short.plan, settings, options.lines);
            text.push_str(&format!("\nkinds left: {}\nthe short run's end:", kinds.join(",")));
            for line in &outcome.trace {
                text.push('\n');
                text.push_str(line);
            }
            text.push('\n');
            text.push_str(&describe(plan.seed, &outcome));
        }
    }
    println!("{text}");
}

fn run_all<E: Engine>(options: &Options, settings: &E::Settings) -> (Report, Duration, u64) {
    let start = Instant::now();
    let next = AtomicU64::new(options.seeds.start);
    let stop = AtomicBool::new(false);
    let told = AtomicU64::new(0);
    let total = Mutex::new(Report::default());
    let deadline = (options.minutes > 0.0).then(|| Duration::from_secs_f64(options.minutes * 60.0));
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut report = Report::default();
                while !stop.load(Ordering::Relaxed)
                    && deadline.is_none_or(|deadline| start.elapsed() < deadline)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.seeds.end {
                        break;
                    }
                    let plan = Plan::new(seed, &options.allowed);
                    let outcome = run::<E>(&plan, settings, 0);
                    report.add(&outcome);
                    if seed.is_multiple_of(100) {
                        let again = run::<E>(&plan, settings, 0);
                        if again.trace_hash != outcome.trace_hash {
                            println!("seed {seed}: two runs differ");
                            report.fail("hash");
                        }
                    }
                    if outcome.failure.is_some() {
                        if told.fetch_add(1, Ordering::Relaxed) < TOLD {
                            tell::<E>(&plan, settings, options);
                        } else {
                            println!(
                                "{}",
                                describe(seed, &outcome).lines().take(2).collect::<Vec<_>>().join(" ")
                            );
                        }
                        if !options.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                total.lock().expect("no thread panics with it").merge(&report);
            });
        }
    });
    let elapsed = start.elapsed();
    let last = next.load(Ordering::Relaxed).min(options.seeds.end);
    (total.into_inner().expect("no thread panics with it"), elapsed, last)
}

fn append(file: &str, report: &Report, elapsed: Duration, seeds: std::ops::Range<u64>) -> Result<(), String> {
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output().ok();
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let mut line = report.json(elapsed);
    line["commit"] = commit.trim().into();
    line["first_seed"] = seeds.start.into();
    line["last_seed"] = seeds.end.saturating_sub(1).into();
    line["seconds"] = elapsed.as_secs().into();
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut file| writeln!(file, "{line}")).map_err(|error| format!("{file}: {error}"))
}

fn go<E: Engine>(options: &Options, settings: &E::Settings) -> Result<ExitCode, String> {
    if options.single {
        let plan = Plan::new(options.seeds.start, &options.allowed);
        tell::<E>(&plan, settings, options);
        let outcome = run::<E>(&plan, settings, 0);
        return Ok(if outcome.failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let (report, elapsed, last) = run_all::<E>(options, settings);
    if let Some(file) = &options.append {
        append(file, &report, elapsed, options.seeds.start..last)?;
    }
    println!("{}", report.table());
    println!("seeds {}..{last}", options.seeds.start);
    println!("{}", report.json(elapsed));
    Ok(if report.failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    remember_panics();
    let result = parse(&arguments).and_then(|options| {
        if options.toy { go::<Toy>(&options, &options.bug) } else { go::<Volume>(&options, &()) }
    });
    result.unwrap_or_else(|error| {
        eprintln!("sim: {error}\n{USAGE}");
        ExitCode::from(2)
    })
}
