//! One node of a cluster: its daemon, which can be killed, stopped and started again, and the commands to it.
//!
//! ```text
//!            start                 pause
//!  ended ------------> running ------------> paused (SIGSTOP)
//!    ^  kill, terminate |  ^      resume       |
//!    +------------------+  +-------------------+
//! ```

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

use super::{Folders, VolumeStatus, init};
use crate::{
    raw::Address,
    serve::binary,
    tools::{Output, pid_of, run_within, wait_for_exit, wait_until},
};

/// From start to the first answer of the daemon, and from one state to another that a test waits for. Generous: the
/// machine may be busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(30);

/// From SIGTERM to the end: 10 s by design rule P6, and something for a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// No command takes longer.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The status in the report of a failure: a daemon that does not answer is what failed.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// So much of a log is shown when a test fails.
const SHOWN: u64 = 16 << 10;

/// A node.
#[derive(Debug)]
pub struct Node {
    name: String,
    address: Ipv4Addr,
    fingerprint: String,
    folders: Folders,
    config: Mutex<PathBuf>,
    log: PathBuf,
    namespace: Option<String>,
    process: Mutex<Option<Child>>,
}

impl Node {
    pub(super) fn new(
        name: &str,
        address: Ipv4Addr,
        cluster: &Path,
        config: PathBuf,
        namespace: Option<String>,
    ) -> Result<Self> {
        let folders = Folders::new(cluster, name)?;
        let fingerprint = init(name, &folders.state)?;
        Ok(Self {
            name: name.to_owned(),
            address,
            fingerprint,
            log: cluster.join(name).join("daemon.log"),
            folders,
            config: Mutex::new(config),
            namespace,
            process: Mutex::new(None),
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of its QUIC endpoint.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The fingerprint of its key.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The data file of a volume.
    #[must_use]
    pub fn data(&self, volume: &str) -> PathBuf {
        self.folders.data.join(format!("{volume}.img"))
    }

    /// The metadata file of a volume.
    #[must_use]
    pub fn meta(&self, volume: &str) -> PathBuf {
        self.folders.data.join(format!("{volume}.meta"))
    }

    /// The state folder.
    #[must_use]
    pub fn state_folder(&self) -> &Path {
        &self.folders.state
    }

    /// The NBD socket.
    #[must_use]
    pub fn nbd(&self) -> Address {
        Address::Unix(self.nbd_socket())
    }

    fn nbd_socket(&self) -> PathBuf {
        self.folders.run.join("nbd.sock")
    }

    /// The NBD URI of a volume, as libnbd's and qemu's tools take it.
    #[must_use]
    pub fn uri(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.nbd_socket().display())
    }

    /// The process id of the running daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        self.with_process(|process| Ok(process.id()))
    }

    fn with_process<T>(&self, act: impl FnOnce(&mut Child) -> Result<T>) -> Result<T> {
        let mut process = self.process.lock().unwrap_or_else(|_| panic!("a thread of the test panicked"));
        act(process.as_mut().with_context(|| format!("{} does not run", self.name))?)
    }

    /// Gives this node a configuration of its own, from the next start or reload on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.folders.state.with_file_name("own.toml");
        fs::write(&path, text)?;
        *self.config.lock().unwrap_or_else(|_| panic!("a thread of the test panicked")) = path;
        Ok(())
    }

    /// The command line of the daemon.
    ///
    /// # Errors
    /// The binary is missing.
    pub fn daemon(&self) -> Result<Command> {
        let binary = binary()?;
        let mut command = match &self.namespace {
            None => Command::new(binary),
            Some(namespace) => {
                // `ip netns exec` becomes the daemon, so the process id is the daemon's.
                let mut command = crate::tools::tool("ip")?;
                command.args(["netns", "exec", namespace]).arg(binary);
                command
            }
        };
        let config = self.config.lock().unwrap_or_else(|_| panic!("a thread of the test panicked")).clone();
        command.arg("daemon").arg("--config").arg(config).arg("--node").arg(&self.name);
        command.arg("--state-dir").arg(&self.folders.state).arg("--run-dir").arg(&self.folders.run);
        Ok(command)
    }

    /// Starts the daemon, without waiting for it.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(|_| panic!("a thread of the test panicked"));
        ensure!(process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.daemon()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *process = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    /// Waits until the daemon answers: every volume is opened, or its refusal recorded.
    ///
    /// # Errors
    /// It ended, or does not answer in time.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let mut ended = None;
        wait_until(&format!("{} answers", self.name), LIMIT, || {
            ended = self.with_process(|process| Ok(process.try_wait()?)).ok().flatten();
            ended.is_some() || self.run(&["status", "--json"]).is_ok_and(|output| output.status.success())
        })?;
        match ended {
            Some(status) => bail!("{} ended at its start with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// As [`launch`](Self::launch) and [`wait_until_it_answers`](Self::wait_until_it_answers).
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_until_it_answers()
    }

    /// SIGKILL: what a crash of the process leaves behind.
    ///
    /// # Errors
    /// It had ended before, or had panicked.
    pub fn kill(&self) -> Result<()> {
        self.with_process(|process| {
            if let Some(status) = process.try_wait()? {
                bail!("{} had already ended with {status}", self.name);
            }
            process.kill()?;
            process.wait()?;
            Ok(())
        })?;
        self.forget();
        self.check_no_panic()
    }

    fn forget(&self) {
        *self.process.lock().unwrap_or_else(|_| panic!("a thread of the test panicked")) = None;
    }

    /// SIGTERM: asks the daemon to end and checks that it does, in time and with exit code 0 (design rule P6).
    ///
    /// # Errors
    /// It does not.
    pub fn terminate(&self) -> Result<()> {
        let status = self.with_process(|process| {
            kill_process(pid_of(process), Signal::TERM)?;
            let status = wait_for_exit(process, STOP_LIMIT)?;
            if status.is_none() {
                process.kill()?;
                process.wait()?;
            }
            Ok(status)
        })?;
        self.forget();
        let status = status.with_context(|| format!("{} did not end on SIGTERM", self.name))?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        self.check_no_panic()
    }

    /// Waits until the daemon ends by itself; its exit code.
    ///
    /// # Errors
    /// It does not end in time, or by a signal.
    pub fn wait_for_end(&self) -> Result<i32> {
        let status = self.with_process(|process| wait_for_exit(process, LIMIT))?;
        let status = status.with_context(|| format!("{} still runs", self.name))?;
        self.forget();
        status.code().with_context(|| format!("{} ended with {status}", self.name))
    }

    /// SIGSTOP: the process stands still, its connections stay.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.with_process(|process| Ok(kill_process(pid_of(process), Signal::STOP)?))
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.with_process(|process| Ok(kill_process(pid_of(process), Signal::CONT)?))
    }

    /// Fails if the daemon has panicked.
    ///
    /// # Errors
    /// It has.
    pub fn check_no_panic(&self) -> Result<()> {
        ensure!(!self.log()?.contains("panicked at"), "{} panicked", self.name);
        Ok(())
    }

    /// What the daemon logged so far, over all its starts.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        match fs::read(&self.log) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The end of the log and the status, for the report of a failure.
    pub(super) fn report(&self) -> String {
        // One that stands still would not answer; fails if it does not run.
        let _ = self.resume();
        let status = match self.run_within(&["status", "--json"], REPORT_LIMIT) {
            Ok(output) => output.stdout,
            Err(error) => format!("{error:#}"),
        };
        let tail = || -> Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
            let mut bytes = Vec::new();
            file.take(SHOWN).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        format!("{status}\n{}", tail().unwrap_or_else(|error| format!("no log: {error:#}")))
    }

    /// Runs a command of `evenkeel` against this node.
    ///
    /// # Errors
    /// It could not be run, or took too long. A failing exit code is no error here.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_within(arguments, COMMAND_LIMIT)
    }

    fn run_within(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(arguments).env("EVENKEEL_RUN_DIR", &self.folders.run);
        run_within(&mut command, limit)
    }

    /// Runs a command that must succeed; what it printed.
    ///
    /// # Errors
    /// It does not.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments)?.success().with_context(|| format!("on {}", self.name))
    }

    /// Runs a command that must end with this exit code; what it printed to standard error.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn refused(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.run(arguments)?;
        ensure!(output.status.code() == Some(code), "on {}, exit code {code} was due: {output}", self.name);
        Ok(output.stderr)
    }

    /// The status of a volume.
    ///
    /// # Errors
    /// The daemon does not answer, or not in the documented form.
    pub fn volume(&self, name: &str) -> Result<VolumeStatus> {
        VolumeStatus::parse(&self.ok(&["status", "--json"])?, name)
            .with_context(|| format!("status of {}", self.name))
    }

    /// Looks at the status of a volume until it is as wanted.
    ///
    /// # Errors
    /// It is not in time; the text holds the last status.
    pub fn wait_for(
        &self,
        volume: &str,
        what: &str,
        mut wanted: impl FnMut(&VolumeStatus) -> bool,
    ) -> Result<VolumeStatus> {
        let mut last = None;
        let seen = wait_until(&format!("{}: {what}", self.name), LIMIT, || {
            last = Some(self.volume(volume));
            matches!(&last, Some(Ok(status)) if wanted(status))
        });
        match (seen, last) {
            (Ok(()), Some(Ok(status))) => Ok(status),
            (Ok(()), _) => bail!("no status"),
            (Err(error), last) => Err(error.context(format!("last status: {last:?}"))),
        }
    }

    /// `evenkeel wait`: own and every peer's disk UpToDate, and established.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_synced(&self, volume: &str) -> Result<()> {
        self.ok(&["wait", volume, "--for", "synced", "--timeout", "30s"]).map(|_| ())
    }

    /// `evenkeel primary`.
    ///
    /// # Errors
    /// It is refused.
    pub fn primary(&self, volume: &str) -> Result<()> {
        self.ok(&["primary", volume]).map(|_| ())
    }

    /// `evenkeel primary --force`.
    ///
    /// # Errors
    /// It is refused.
    pub fn force_primary(&self, volume: &str) -> Result<()> {
        self.ok(&["primary", volume, "--force", "--yes", volume]).map(|_| ())
    }

    /// `evenkeel secondary`.
    ///
    /// # Errors
    /// It is refused.
    pub fn secondary(&self, volume: &str) -> Result<()> {
        self.ok(&["secondary", volume]).map(|_| ())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(mut process) = self.process.lock()
            && let Some(mut process) = process.take()
        {
            // Both fail only if the process is already gone. SIGKILL also ends one that is stopped.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
