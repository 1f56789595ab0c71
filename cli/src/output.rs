//! Results on standard output. A reader that goes away early (`| head`) is no failure of the command.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints a result at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the result to standard output"),
    }
}
