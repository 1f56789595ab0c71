//! The daemon's folders: the state directory, which one daemon has for itself, and the run directory.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::exit::{Ended, Failure};

/// Held by the daemon that lives; says which one it is.
const LOCK_FILE: &str = "daemon.pid";
/// The kernel takes a moment to let go of what a killed process had.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes a folder that only its owner can use, if there is none.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Takes the state directory: no other daemon can have it until the returned file is closed.
pub(super) fn take(folder: &Path) -> Result<File> {
    make(folder)?;
    let path = folder.join(LOCK_FILE);
    let fail = || format!("cannot use {}", path.display());
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(fail)?;
    let until = Instant::now() + PATIENCE;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).with_context(fail);
        }
        if Instant::now() >= until {
            let mut holder = String::new();
            // Whoever it is, it is named only for people.
            let _ = (&file).take(20).read_to_string(&mut holder);
            let text = format!(
                "the state directory {} is in use by the daemon with process id {}; stop it, or give this one \
                 another --state-dir",
                folder.display(),
                holder.trim()
            );
            return Err(Ended::error(Failure::Refused, text));
        }
        std::thread::sleep(PAUSE);
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(fail)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn a_state_directory_has_one_daemon() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("new/state");
        let held = take(&state).expect("it is free");
        let error = take(&state).expect_err("it is taken");
        assert_eq!(code_of(&error), Failure::Refused);
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()) && text.contains("--state-dir"), "{text}");
        drop(held);
        take(&state).expect("it is free again");
    }
}
