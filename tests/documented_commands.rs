//! The commands in README.md and docs/ work. Each block of shell commands there says by its tag what it is:
//!
//! - `sh server`: a server that stays; it is started and waited for until it prints its first line;
//! - `sh runnable`: commands that must succeed, one after the other;
//! - `sh by-hand`: commands that a test cannot run (they need the kernel's nbd module, or run the tests
//!   themselves); that our own commands and targets in them exist is still checked.
//!
//! The blocks of one file are one session: they run in order, in one new folder, with our binary first on PATH.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_tests::{serve::binary, tools::run_within};

/// One document's session, all of it.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Runnable,
    ByHand,
}

struct Block {
    kind: Kind,
    line: usize,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn documents() -> Result<Vec<PathBuf>> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for entry in fs::read_dir(root().join("docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The shell blocks of a document.
fn blocks(document: &Path) -> Result<Vec<Block>> {
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let mut found: Vec<Block> = Vec::new();
    let mut inside = None;
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        match (line.strip_prefix("```"), inside) {
            (Some(tag), None) => {
                let kind = match tag.trim() {
                    "sh server" => Some(Kind::Server),
                    "sh runnable" => Some(Kind::Runnable),
                    "sh by-hand" => Some(Kind::ByHand),
                    tag if tag == "sh" || tag.starts_with("sh ") || tag.starts_with("bash") => {
                        bail!(
                            "{}:{line_number}: tag the block server, runnable or by-hand",
                            document.display()
                        )
                    }
                    _ => None,
                };
                inside = Some(kind);
                if let Some(kind) = kind {
                    found.push(Block { kind, line: line_number, text: String::new() });
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(Some(_))) => {
                let block = found.last_mut().expect("a block was begun");
                writeln!(block.text, "{line}")?;
            }
            (None, _) => {}
        }
    }
    ensure!(inside.is_none(), "{}: the last block has no end", document.display());
    Ok(found)
}

/// One bash script out of a document's blocks.
fn session(blocks: &[Block]) -> Result<String> {
    let mut script =
        String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n");
    for Block { kind, line, text } in blocks {
        match kind {
            Kind::Server => write!(
                script,
                "( {} ) >ready.{line} &\nuntil [[ -s ready.{line} ]]; do kill -0 $!; sleep 0.02; done\n",
                // The shell in the parentheses must become the server, or the trap would kill only the shell.
                format_args!("exec {}", text.trim())
            )?,
            Kind::Runnable => script.push_str(text),
            Kind::ByHand => {}
        }
    }
    Ok(script)
}

#[test]
fn documented_sessions_run() -> Result<()> {
    let binary = binary()?;
    let mut path = std::ffi::OsString::from(binary.parent().context("the binary lies in a folder")?);
    path.push(":/usr/bin:/bin:/usr/sbin:/sbin");
    let mut ran = 0;
    for document in documents()? {
        let blocks = blocks(&document)?;
        if !blocks.iter().any(|block| block.kind == Kind::Runnable) {
            continue;
        }
        let folder = tempfile::tempdir()?;
        let script = session(&blocks)?;
        let mut bash = Command::new("bash");
        bash.current_dir(folder.path()).env("PATH", &path).args(["-c", &script]);
        run_within(&mut bash, LIMIT)?
            .success()
            .with_context(|| format!("{}\n{script}", document.display()))?;
        ran += 1;
    }
    ensure!(ran > 0, "README.md has commands to run");
    Ok(())
}

#[test]
fn documented_commands_exist() -> Result<()> {
    let binary = binary()?;
    let mut checked = 0;
    for document in documents()? {
        for block in blocks(&document)? {
            for line in block.text.lines() {
                let words: Vec<&str> =
                    line.split_whitespace().skip_while(|word| word.contains('=')).collect();
                let outcome = match words[..] {
                    ["evenkeel", command, ..] if !command.starts_with('-') => {
                        run_within(Command::new(&binary).args([command, "--help"]), LIMIT)
                    }
                    ["make", target, ..] => {
                        run_within(Command::new("make").current_dir(root()).args(["-n", target]), LIMIT)
                    }
                    _ => continue,
                };
                outcome?
                    .success()
                    .with_context(|| format!("{}:{}: {line}", document.display(), block.line))?;
                checked += 1;
            }
        }
    }
    ensure!(checked > 2, "README.md names our commands");
    Ok(())
}

/// Commands within sentences and tables, as `evenkeel wait NAME --for STATE`: the command exists, and so does every
/// option that is named with it.
#[test]
fn commands_in_sentences_exist() -> Result<()> {
    let binary = binary()?;
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut checked = 0;
    for document in documents()? {
        let text = fs::read_to_string(&document)?;
        for (number, line) in text.lines().enumerate() {
            for span in line.split('`').skip(1).step_by(2) {
                let Some(rest) = span.strip_prefix("evenkeel ") else { continue };
                let words: Vec<&str> = rest.split(|c: char| c.is_whitespace() || "[]|".contains(c)).collect();
                let groups = ["volume", "meta"];
                let depth = if groups.contains(&words[0]) { 2 } else { 1 };
                let command: Vec<String> = words.iter().take(depth).map(|&word| word.to_owned()).collect();
                let place = || format!("{}:{}: `{span}`", document.display(), number + 1);
                let help = match helps.entry(command.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let mut asked = Command::new(&binary);
                        let output = run_within(asked.args(&command).arg("--help"), LIMIT)?;
                        new.insert(output.success().with_context(place)?)
                    }
                };
                for option in words.iter().filter(|word| word.starts_with("--")) {
                    let option = option.split('=').next().unwrap_or(option);
                    ensure!(help.contains(option), "{}: {option} does not exist", place());
                }
                checked += 1;
            }
        }
    }
    ensure!(checked > 20, "docs/commands.md names our commands");
    Ok(())
}
