//! `evenkeel meta dump|check PATH`: what a metadata file says, and whether it is whole. Works without a daemon, and
//! only reads.

use std::{
    fs::File,
    io::{ErrorKind, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use evenkeel_core::meta::report::{Report, inspect};
use rustix::fs::{FlockOperation, flock};

use crate::{
    exit::{Ended, Failure},
    output,
};

/// Look at a replica's metadata, without a daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show everything that the metadata say.
    Dump {
        /// The metadata file or device.
        path: PathBuf,
    },
    /// Say what is wrong with the metadata; exit code 1 if anything is.
    Check {
        /// The metadata file or device.
        path: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.action {
        Action::Dump { path } => dump(path),
        Action::Check { path } => check(path),
    }
}

fn dump(path: &Path) -> Result<()> {
    let (file, in_use) = open(path)?;
    if in_use {
        eprintln!("{}: a daemon uses it, so what is shown may be half old, half new", path.display());
    }
    let report = read(path, &file)?;
    if report.superblock().is_none() {
        return Err(Ended::error(Failure::Other, format!("{}: {}", path.display(), problems(&report))));
    }
    output::print(&report.to_string())
}

fn check(path: &Path) -> Result<()> {
    let (file, in_use) = open(path)?;
    if in_use {
        let text = format!("{} is in use by a daemon; stop it, then check", path.display());
        return Err(Ended::error(Failure::Refused, text));
    }
    let report = read(path, &file)?;
    if report.problems().is_empty() {
        return output::print(&format!("{}: whole\n", path.display()));
    }
    Err(Ended::error(Failure::No, format!("{}: {}", path.display(), problems(&report))))
}

/// The file, and whether somebody works with it.
fn open(path: &Path) -> Result<(File, bool)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = format!("there is no file {}", path.display());
            return Err(Ended::error(Failure::Missing, text));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let in_use = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    Ok((file, in_use))
}

fn read(path: &Path, mut file: &File) -> Result<Report> {
    // Also the size of a block device.
    let len =
        file.seek(SeekFrom::End(0)).with_context(|| format!("cannot tell the size of {}", path.display()))?;
    Ok(inspect(len, &mut |offset, buffer| {
        file.read_exact_at(buffer, offset).map_err(|error| format!("cannot be read at {offset}: {error}"))
    }))
}

fn problems(report: &Report) -> String {
    let lines: Vec<String> =
        report.problems().iter().map(|problem| format!("{}: {}", problem.place, problem.text)).collect();
    lines.join("\n")
}
