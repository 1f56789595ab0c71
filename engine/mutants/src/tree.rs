//! A copy of the core and the simulator in which every mutant sleeps: one compilation serves all of them.
//!
//! In the copy each mutant's code stands beside the original, behind a number that the process takes from its
//! environment. The sources of the repository are not touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::list::List;

/// Names the mutant that is on; without it none is.
pub(crate) const SWITCH: &str = "EVENKEEL_MUTANT";

/// The programs that must notice.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The simulator.
    pub(crate) sim: PathBuf,
    /// Test programs with enumerations, and the name of each.
    pub(crate) enumerations: Vec<(String, PathBuf)>,
}

/// Copies what is needed, weaves the mutants in, and compiles.
///
/// # Errors
/// If something cannot be copied or the copy does not compile: then a mutant's code is wrong.
pub(crate) fn build(root: &Path, list: &List) -> Result<Programs> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let tree = target.join("mutants");
    fs::create_dir_all(&tree)?;
    for folder in ["engine/core", "engine/sim"] {
        let _ = fs::remove_dir_all(tree.join(folder));
        copy(&root.join(folder), &tree.join(folder))?;
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut manifest: toml::Table = manifest.parse()?;
    let workspace = manifest["workspace"].as_table_mut().context("Cargo.toml has no workspace")?;
    workspace.insert("members".into(), vec!["engine/core", "engine/sim"].into());
    workspace.remove("exclude");
    write_if_changed(&tree.join("Cargo.toml"), &manifest.to_string())?;
    fs::copy(root.join("Cargo.lock"), tree.join("Cargo.lock"))?;
    weave(&tree, list)?;
    fetch(root)?;
    compile(&tree, &target.join("mutants-target"))
}

/// Copies sources; unchanged files keep their time, so that cargo compiles only what is new.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text)?;
    }
    Ok(())
}

fn weave(tree: &Path, list: &List) -> Result<()> {
    for (at, mutant) in list.mutant.iter().enumerate() {
        let on = format!("crate::mutants::is_on({})", at + 1);
        for edit in mutant.edits() {
            let path = tree.join(&edit.file);
            let code = fs::read_to_string(&path)?;
            let found = code.matches(&edit.find).count();
            ensure!(found == 1, "{}: the code of another mutant hides its own", mutant.name);
            fs::write(&path, code.replace(&edit.find, &edit.replace.replace("MUTANT", &on)))?;
        }
    }
    let lib = tree.join("engine/core/src/lib.rs");
    let mut code = fs::read_to_string(&lib)?;
    code.push_str("\n/// Which mutant is on.\npub mod mutants;\n");
    fs::write(&lib, code)?;
    let switch = format!(
        "//! Which mutant is on.\n\nuse std::sync::OnceLock;\n\nstatic ON: OnceLock<u32> = OnceLock::new();\n\n\
         /// Whether this one is.\npub fn is_on(number: u32) -> bool {{\n    number == *ON.get_or_init(|| \
         std::env::var(\"{SWITCH}\").ok().and_then(|text| text.parse().ok()).unwrap_or(0))\n}}\n"
    );
    fs::write(tree.join("engine/core/src/mutants.rs"), switch)?;
    Ok(())
}

/// The test programs of the core that do not judge its rules: replayed inputs, what it imports, what it allocates.
const OF_NO_RULE: [&str; 3] = ["corpus_replay", "purity", "hot_path"];
/// Those that take seconds: metadata and its crash points, comparing of histories, workloads and their crash points.
const LONG: [&str; 4] = ["evenkeel_core", "decide_flags", "decide_enumeration", LONGEST];
/// The one that takes longest; the simulator comes before it.
pub(crate) const LONGEST: &str = "workloads";

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The copy is compiled offline, so that it has the versions of the repository's lock file and no others; on a new
/// machine these must be fetched once.
fn fetch(root: &Path) -> Result<()> {
    let done =
        cargo().args(["fetch", "--locked"]).current_dir(root).status().context("cargo cannot be started")?;
    ensure!(done.success(), "what the mutants are compiled from cannot be fetched: see above");
    Ok(())
}

fn compile(tree: &Path, target: &Path) -> Result<Programs> {
    let mut artifacts = Vec::new();
    for what in [["build", "--bins"].as_slice(), ["test", "--no-run", "--workspace"].as_slice()] {
        let output = cargo()
            .args(what)
            .args(["--offline", "--message-format=json-render-diagnostics"])
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", target)
            .env("RUSTFLAGS", "-A warnings")
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cargo cannot be started")?;
        ensure!(output.status.success(), "the mutants do not compile: see above");
        artifacts.extend(output.stdout.split(|byte| *byte == b'\n').filter_map(executable));
    }
    let Some(sim) = artifacts.iter().find(|found| found.name == "sim" && !found.test) else {
        bail!("the simulator was not built")
    };
    let core = tree.join("engine/core").canonicalize()?;
    let mut enumerations: Vec<(String, PathBuf)> = artifacts
        .iter()
        .filter(|found| found.test && found.source.starts_with(&core))
        .filter(|found| !OF_NO_RULE.contains(&found.name.as_str()))
        .map(|found| (found.name.clone(), found.path.clone()))
        .collect();
    // Most rules have a test of their own, and those take no time; the long ones come last.
    enumerations.sort_by_key(|(name, _)| (LONG.iter().position(|long| long == name), name.clone()));
    ensure!(enumerations.len() > LONG.len(), "the test programs of the core were not built");
    Ok(Programs { sim: sim.path.clone(), enumerations })
}

struct Artifact {
    name: String,
    test: bool,
    /// The root of its source.
    source: PathBuf,
    path: PathBuf,
}

fn executable(line: &[u8]) -> Option<Artifact> {
    let message: Value = serde_json::from_slice(line).ok()?;
    let target = message.get("target")?;
    Some(Artifact {
        name: target.get("name")?.as_str()?.to_owned(),
        test: message.get("profile")?.get("test")?.as_bool()?,
        source: target.get("src_path")?.as_str()?.into(),
        path: message.get("executable")?.as_str()?.into(),
    })
}
