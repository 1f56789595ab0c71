//! The commands, one file each.

mod serve;

use anyhow::Result;
use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve one file or block device over NBD, without replication.
    Serve(serve::Arguments),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Serve(arguments) => serve::run(arguments),
        }
    }
}
