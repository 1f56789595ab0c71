//! Rules for the files of this repository that neither the compiler nor clippy checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A source file that grows beyond this is split.
const MAX_LINES: usize = 600;

/// Markers of unfinished work or of a test that does not run, in two halves so that this file holds none itself.
const BANNED: [(&str, &str); 5] =
    [("TO", "DO"), ("FIX", "ME"), ("#[ig", "nore"), ("unimple", "mented!"), ("db", "g!(")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// All files below a folder with one of these endings, but for what builds and tools leave behind.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let generated = ["target", "corpus", "artifacts", "coverage"].contains(&name.as_str());
            if !generated && !name.starts_with('.') {
                found.extend(files(&path, endings)?);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Fails with all that a rule found, not only with the first.
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn source_files_are_short_and_say_what_they_are() -> Result<()> {
    let sources = files(&root(), &[".rs"])?;
    assert!(sources.len() > 20, "the search must find the sources, but found {}", sources.len());
    let mut long = Vec::new();
    let mut headless = Vec::new();
    for path in sources {
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            headless.push(path.display().to_string());
        }
    }
    assert_none("files above 600 lines", &long);
    assert_none("files that do not begin with a //! header", &headless);
    Ok(())
}

#[test]
fn nothing_is_left_unfinished() -> Result<()> {
    let mut found = Vec::new();
    let mut all = files(&root(), &[".rs", ".py", ".md", ".toml", "Makefile"])?;
    all.extend(files(&root().join("scripts"), &[""])?);
    for path in all {
        let text = fs::read_to_string(&path)?;
        for (number, line) in text.lines().enumerate() {
            for (head, tail) in BANNED {
                if line.contains(&format!("{head}{tail}")) {
                    found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert_none("unfinished work, or tests that do not run", &found);
    Ok(())
}
