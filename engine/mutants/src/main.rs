//! `mutants`: breaks each rule of the core on purpose, one at a time, and asks whether the simulator or an
//! enumeration notices. A rule whose breach nobody notices is a rule that nobody guards.
//!
//! Prints a line per mutant, and last one JSON object {mutants, killed, survived}; exit code 1 if one survived.
//! With `--table FILE` the table of the documents is written.

mod judge;
mod list;
mod table;
mod tree;

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::{judge::judge_all, list::List};

fn main() -> ExitCode {
    go().unwrap_or_else(|error| {
        eprintln!("mutants: {error:#}");
        ExitCode::from(2)
    })
}

fn go() -> Result<ExitCode> {
    let (mut table_file, mut only, mut simulate) = (None, Vec::new(), true);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--table" => table_file = Some(words.next().context("--table needs a file")?),
            "--no-sim" => simulate = false,
            "--rule" => only.push(words.next().context("--rule needs a rule, as D7")?),
            other => bail!("{other} is not known: --table FILE, --rule RULE, --no-sim"),
        }
    }
    let start = Instant::now();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let list = List::read(&root)?;
    let programs = tree::build(&root, &list)?;
    let numbers: Vec<usize> = (1..=list.mutant.len())
        .filter(|number| only.is_empty() || only.contains(&list.mutant[number - 1].rule))
        .collect();
    ensure!(!numbers.is_empty(), "no mutant breaks that rule");

    let sound = judge_all(&programs, &[0], simulate)?.remove(0);
    if let Some(text) = sound.killed_by {
        bail!("the code fails as it is, so nothing can be said of mutants: {text}");
    }
    println!("{:>4} s  the code as it is passes", sound.took.as_secs());
    let findings = judge_all(&programs, &numbers, simulate)?;
    let mut survived = Vec::new();
    for (number, finding) in numbers.iter().zip(&findings) {
        let mutant = &list.mutant[number - 1];
        let said = finding.killed_by.as_deref().unwrap_or("SURVIVED");
        println!("{:>4} s  {:4} {}: {said}", finding.took.as_secs(), mutant.rule, mutant.name);
        if finding.killed_by.is_none() {
            survived.push(format!("{} {}", mutant.rule, mutant.name));
        }
    }
    if let Some(file) = table_file {
        ensure!(only.is_empty(), "the table needs every mutant: leave out --rule");
        std::fs::write(root.join(&file), table::render(&list, &findings)).context(file)?;
    }
    println!("{} s in all", start.elapsed().as_secs());
    println!(
        "{}",
        json!({"mutants": numbers.len(), "killed": numbers.len() - survived.len(), "survived": survived})
    );
    Ok(if survived.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
