//! `evenkeel completions SHELL`: what a shell needs to complete our commands.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::output;

/// Print the completions for a shell.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut commands: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut commands, "evenkeel", &mut script);
    output::print(&String::from_utf8(script)?)
}
