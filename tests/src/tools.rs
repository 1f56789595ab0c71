//! Runs programs of the machine (libnbd's tools, qemu's, fio, …) with a time limit and their output at hand.
//!
//! A test that needs a program which is not there fails with the name of the Debian package; nothing is
//! skipped. The list of packages is `scripts/packages`, the same one that `make test` installs from.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};

/// `package command…` a line; `#` begins a comment.
const PACKAGES: &str = include_str!("../../scripts/packages");

/// How long [`run`] lets a program work before it is killed: far more than any of our tests needs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How often a condition is looked at again by [`wait_until`] and [`run_within`].
const POLL: Duration = Duration::from_millis(5);

/// A [`Command`] for a program from `scripts/packages`.
///
/// # Errors
/// The program is not installed (the text names the Debian package) or not on the list.
pub fn tool(name: &str) -> Result<Command> {
    let package = PACKAGES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let package = words.next()?;
            words.any(|command| command == name).then_some(package)
        })
        .with_context(|| format!("{name} is not in scripts/packages: add it beside its Debian package"))?;
    let path = search_path();
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
        .with_context(|| {
            format!("{name} is not installed: apt-get install {package} (or run scripts/install-tools)")
        })?;
    let mut command = Command::new(program);
    command.env("PATH", path);
    Ok(command)
}

/// Debian's own folders, then PATH. They come first because nbdsh runs whichever `python3` it meets, and only
/// Debian's has libnbd; those for administrators are added because PATH often lacks them.
fn search_path() -> OsString {
    let mut path = OsString::from("/usr/bin:/bin:/usr/sbin:/sbin");
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Standard output, if the program ended with exit code 0.
    ///
    /// # Errors
    /// It failed; the text holds the command and all that it printed.
    pub fn success(self) -> Result<String> {
        ensure!(self.status.success(), "{self}");
        Ok(self.stdout)
    }

    /// Standard error, if the program failed with an exit code of its own (not by a signal).
    ///
    /// # Errors
    /// It succeeded or was killed; the text holds the command and all that it printed.
    pub fn failure(self) -> Result<String> {
        ensure!(self.status.code().is_some_and(|code| code != 0), "expected a failure: {self}");
        Ok(self.stderr)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs a program to its end, with empty standard input, for at most [`LIMIT`].
///
/// # Errors
/// It could not be started, or had to be killed. A failing exit code is no error here: see [`Output::success`].
pub fn run(command: &mut Command) -> Result<Output> {
    run_within(command, LIMIT)
}

/// As [`run`], with another limit. The program gets a process group of its own, and whatever of it still runs
/// when the program has ended, or the time is over, is killed.
///
/// # Errors
/// As [`run`].
pub fn run_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait_for_exit(&mut child, limit)?;
    // What the program left running goes too: it would hold the pipes open. ESRCH: there is nothing left.
    if let Err(error) = kill_process_group(pid_of(&child), Signal::KILL)
        && error != Errno::SRCH
    {
        bail!("cannot end what {shown} started: {error}");
    }
    child.wait()?;
    let text = |thread: JoinHandle<String>| thread.join().expect("the reader of a pipe does not panic");
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => Ok(Output { command: shown, status, stdout, stderr }),
        None => {
            bail!("{shown} was killed: not done after {limit:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
        }
    }
}

/// The command line for a failure's text; long arguments (scripts) are cut.
fn show(command: &Command) -> String {
    let argument = |text: &OsStr| -> String {
        let text = text.to_string_lossy();
        match text.char_indices().nth(200) {
            Some((cut, _)) => format!("{}[…]", &text[..cut]),
            None => text.into_owned(),
        }
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(argument).collect::<Vec<_>>().join(" ")
}

/// The id of a child process.
#[must_use]
pub fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits until a child ends; `None` when it still runs after `limit`.
///
/// # Errors
/// The state of the child could not be asked.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Looks at a condition again and again until it holds.
///
/// # Errors
/// It does not hold after `limit`; the text says `what` was waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        thread::sleep(POLL);
    }
    Ok(())
}

/// Reads a pipe to its end on a thread of its own, so that the writer never blocks on a full pipe.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut pipe = pipe.expect("the pipe was asked for");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error here means that the program is gone; what it printed until then is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
