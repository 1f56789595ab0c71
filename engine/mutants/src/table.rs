//! The table of the documents: which breach of which rule is noticed by what.

use crate::{
    judge::{Finding, SEEDS},
    list::List,
};

/// The whole file.
pub(crate) fn render(list: &List, findings: &[Finding]) -> String {
    let mut text = format!(
        "# Mutants\n\n\
         Written by `make mutants`; not edited by hand. Each line is one change of the core's code that breaks one rule of\n\
         the design, and what noticed it first: tests of the core that are named after rules, enumerations of histories and\n\
         crash points, the simulator (seeds {SEEDS}), every workload of three operations with every crash.\n\n\
         | rule | what the mutant does | noticed by |\n|---|---|---|\n"
    );
    for (mutant, finding) in list.mutant.iter().zip(findings) {
        let said = finding.killed_by.as_deref().unwrap_or("**nobody**").replace('|', "\\|");
        text.push_str(&format!("| {} | {} | {said} |\n", mutant.rule, mutant.name));
    }
    text.push_str("\nRules that do not live in the core:\n\n| rule | where it lives |\n|---|---|\n");
    for rule in &list.elsewhere {
        text.push_str(&format!("| {} | {} |\n", rule.rule, rule.why));
    }
    text
}
