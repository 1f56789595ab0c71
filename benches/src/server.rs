//! The servers that are compared, started one at a time on the same image.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// From start to a socket that accepts.
const START_LIMIT: Duration = Duration::from_secs(10);

/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The unit of CPU times in `/proc` (USER_HZ, 100 on every platform that Rust's Linux targets have).
const TICK_MILLISECONDS: u64 = 10;

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
    pub fn start(&self, image: &Path, socket: &Path) -> Result<Server> {
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
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        let child =
            command.spawn().with_context(|| format!("{}: Debian package {}", self.name(), self.package()))?;
        let mut server = Server { child, name: self.name() };
        let begin = Instant::now();
        while UnixStream::connect(socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status} before it served", self.name());
            }
            ensure!(begin.elapsed() < START_LIMIT, "{} did not serve within {START_LIMIT:?}", self.name());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: &'static str,
}

impl Server {
    /// CPU time that the process has used so far, with all its threads. The kernel's workers for its io_uring
    /// are threads of the process and count.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        ticks_in(&text)
            .map(|ticks| Duration::from_millis(ticks * TICK_MILLISECONDS))
            .with_context(|| format!("{path} is not as expected: {text}"))
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begin.elapsed() < STOP_LIMIT, "{} did not end within {STOP_LIMIT:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both fail only if the process is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// utime + stime of `/proc/PID/stat`: fields 14 and 15, counted behind the name, which may contain anything.
fn ticks_in(stat: &str) -> Option<u64> {
    let behind_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 3 0 5 6 7";
        assert_eq!(ticks_in(stat), Some(100));
        assert_eq!(ticks_in("12 no name"), None);
    }
}
