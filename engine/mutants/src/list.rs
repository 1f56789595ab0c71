//! The list of mutants, `mutants.toml`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Rules of each letter in the design: D1 to D11, G1 to G10, and so on.
const RULES: [(char, u32); 5] = [('D', 11), ('G', 10), ('P', 8), ('W', 7), ('R', 7)];

/// One change that breaks one rule.
#[derive(Debug, Deserialize)]
pub(crate) struct Mutant {
    /// The rule of the design that it breaks.
    pub(crate) rule: String,
    /// What it does wrong, in words.
    pub(crate) name: String,
    #[serde(flatten)]
    edit: Edit,
    /// Other places that have to change with the first.
    #[serde(default)]
    also: Vec<Edit>,
}

/// A change of one place.
#[derive(Debug, Deserialize)]
pub(crate) struct Edit {
    /// The file, from the root.
    pub(crate) file: String,
    /// Code that is there exactly once.
    pub(crate) find: String,
    /// What stands there instead; `MUTANT` in it is true while this mutant is on.
    pub(crate) replace: String,
}

impl Mutant {
    /// Every place that changes.
    pub(crate) fn edits(&self) -> impl Iterator<Item = &Edit> {
        std::iter::once(&self.edit).chain(&self.also)
    }
}

/// A rule that does not live in the core.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Elsewhere {
    /// The rule.
    pub(crate) rule: String,
    /// Where it lives, and what looks at it.
    pub(crate) why: String,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    /// In the order of the file; a mutant's number is its place, from 1.
    pub(crate) mutant: Vec<Mutant>,
    /// Rules without one.
    pub(crate) elsewhere: Vec<Elsewhere>,
}

impl List {
    /// Reads the list of the repository at `root` and checks it.
    ///
    /// # Errors
    /// If a rule is neither broken by a mutant nor said to live elsewhere, or code is not found exactly once.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = root.join("engine/mutants/mutants.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let list: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        list.check(root)?;
        Ok(list)
    }

    fn check(&self, root: &Path) -> Result<()> {
        let all: BTreeSet<String> = RULES
            .iter()
            .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
            .collect();
        let broken: BTreeSet<String> = self.mutant.iter().map(|mutant| mutant.rule.clone()).collect();
        let elsewhere: BTreeSet<String> = self.elsewhere.iter().map(|rule| rule.rule.clone()).collect();
        for rule in broken.union(&elsewhere) {
            ensure!(all.contains(rule), "there is no rule {rule}");
        }
        for rule in &all {
            ensure!(
                broken.contains(rule) != elsewhere.contains(rule),
                "rule {rule} must either have a mutant or be said to live elsewhere, not both"
            );
        }
        let mut names = BTreeSet::new();
        for mutant in &self.mutant {
            let label = format!("{} ({})", mutant.name, mutant.rule);
            ensure!(names.insert(&mutant.name), "two mutants are called {label}");
            ensure!(mutant.edit.replace.contains("MUTANT"), "{label}: `replace` must contain MUTANT");
            for edit in mutant.edits() {
                let path = root.join(&edit.file);
                let code =
                    fs::read_to_string(&path).with_context(|| format!("{label}: {}", path.display()))?;
                let found = code.matches(&edit.find).count();
                ensure!(found == 1, "{label}: its code is in {} {found} times, not once", edit.file);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_mutant_or_a_reason_and_every_mutant_its_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let list = List::read(&root).unwrap();
        assert!(!list.mutant.is_empty());
    }
}
