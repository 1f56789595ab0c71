//! A program that is measured: started, asked for its CPU time, ended.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// From start to the point where it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The unit of CPU times in `/proc` (USER_HZ, 100 on every platform that Rust's Linux targets have).
const TICK_MILLISECONDS: u64 = 10;

/// A running program; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `command` and returns when it is `ready`. Its messages go to stderr.
    ///
    /// # Errors
    /// It is missing (the text names its Debian package), ends, or is not ready in time.
    pub fn start(
        name: &'static str,
        package: &str,
        command: &mut Command,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Self> {
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        let child =
            command.spawn().with_context(|| format!("{name} cannot be started: Debian package {package}"))?;
        let mut process = Self { child, name };
        let begin = Instant::now();
        while !ready() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended with {status} before it served");
            }
            ensure!(begin.elapsed() < START_LIMIT, "{name} did not serve within {START_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

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

impl Drop for Process {
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
