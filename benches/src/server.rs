//! The servers that are compared, started one at a time on the same image.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::process::Process;

/// The name under which every server exports the image.
pub const EXPORT: &str = "bench";

/// A program that serves an image over NBD.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Ours, at this path.
    Evenkeel(PathBuf),
    /// qemu-nbd with O_DIRECT and io_uring.
    QemuNbd,
    /// nbdkit's file plugin. It knows no O_DIRECT: `cache=none` writes through the page cache and evicts.
    Nbdkit,
}

impl Peer {
    /// For the table.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Evenkeel(_) => "evenkeel serve",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit file",
        }
    }

    /// How it is run, and in what it differs.
    #[must_use]
    pub const fn conditions(&self) -> &'static str {
        match self {
            Self::Evenkeel(_) => "O_DIRECT, io_uring",
            Self::QemuNbd => "--cache=none --aio=io_uring -f raw: O_DIRECT, io_uring",
            Self::Nbdkit => {
                "file cache=none: page cache, evicted afterwards, no O_DIRECT; \
                 writes are answered from memory, write-back by the kernel is not in its CPU"
            }
        }
    }

    fn package(&self) -> &'static str {
        match self {
            Self::Evenkeel(_) => "none: cargo build --release -p evenkeel",
            Self::QemuNbd => "qemu-utils",
            Self::Nbdkit => "nbdkit",
        }
    }

    fn program(&self) -> PathBuf {
        match self {
            Self::Evenkeel(path) => path.clone(),
            Self::QemuNbd => "qemu-nbd".into(),
            Self::Nbdkit => "nbdkit".into(),
        }
    }

    /// The first line of `--version`.
    ///
    /// # Errors
    /// The program is missing; the text names its Debian package.
    pub fn version(&self) -> Result<String> {
        let program = self.program();
        let output = Command::new(&program).arg("--version").output().with_context(|| {
            format!("{} cannot be started: install the Debian package {}", program.display(), self.package())
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("unknown").to_owned())
    }

    /// Starts it on `image`, and returns when it accepts connections on `socket`.
    ///
    /// # Errors
    /// It is missing, or does not come up; its messages are on stderr.
    pub fn start(&self, image: &Path, socket: &Path) -> Result<Process> {
        let mut command = Command::new(self.program());
        match self {
            Self::Evenkeel(_) => {
                command.arg("serve").arg(image).args(["--export", EXPORT, "--socket"]).arg(socket)
            }
            Self::QemuNbd => command
                .args(["--cache=none", "--aio=io_uring", "-f", "raw", "-t", "-x", EXPORT, "-k"])
                .arg(socket)
                .arg(image),
            Self::Nbdkit => command
                .args(["--foreground", "--exit-with-parent", "-e", EXPORT, "-U"])
                .arg(socket)
                .arg("file")
                .arg(image)
                .arg("cache=none"),
        };
        Process::start(self.name(), self.package(), &mut command, || UnixStream::connect(socket).is_ok())
    }
}
