//! Two nodes on this machine: a temporary folder with a configuration, and a daemon for each, a child process of ours.
//!
//! Whatever way the demonstration ends, the daemons end and the folder goes, unless [`Cluster::keep`] was called.

use std::{
    fs::{self, File},
    net::UdpSocket,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use evenkeel_driver::identity::Identity;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{SIZE_TEXT, VOLUME};
use crate::{
    admin::{client::Client, document::VolumeDocument},
    command::volume_of,
    options::Options,
};

/// Nothing that is waited for takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(30);
/// The end of a log that a failure shows.
const SHOWN_LINES: usize = 15;

/// The folder and the nodes.
pub(super) struct Cluster {
    folder: TempDir,
    pub(super) alpha: Node,
    pub(super) beta: Node,
}

/// One node.
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) options: Options,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Makes folders, identities and configuration; starts nothing.
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("evenkeel-demo-").tempdir()?;
        // Both ports are held at once, so that they differ.
        let ports = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
        let mut config = "cluster = \"demo\"\n".to_owned();
        for (name, port) in ["alpha", "beta"].iter().zip(&ports) {
            let identity = Identity::load_or_create(&folder.path().join(name))?;
            let (address, fingerprint) = (port.local_addr()?, identity.fingerprint());
            config += &format!("[node.{name}]\naddress = \"{address}\"\nfingerprint = \"{fingerprint}\"\n");
        }
        config += &format!("[volume.{VOLUME}]\nsize = \"{SIZE_TEXT}\"\npeer_timeout = \"2s\"\n");
        let file = folder.path().join("evenkeel.toml");
        fs::write(&file, config)?;
        let node = |name: &'static str| Node::new(name, folder.path(), &file);
        let (alpha, beta) = (node("alpha"), node("beta"));
        Ok(Self { folder, alpha, beta })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the daemons running and the folder in place.
    pub(super) fn keep(mut self) {
        self.alpha.child = None;
        self.beta.child = None;
        self.folder.disable_cleanup(true);
    }
}

impl Node {
    fn new(name: &'static str, folder: &Path, config: &Path) -> Self {
        let state_dir = folder.join(name);
        let options = Options {
            config: config.to_owned(),
            run_dir: state_dir.join("run"),
            state_dir,
            node: Some(name.to_owned()),
        };
        Self { name, options, log: folder.join(format!("{name}.log")), child: None }
    }

    /// Starts the daemon and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let Options { config, state_dir, run_dir, .. } = &self.options;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("daemon").arg("--node").arg(self.name).arg("--config").arg(config);
        command.arg("--state-dir").arg(state_dir).arg("--run-dir").arg(run_dir);
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for us; we end the daemons.
        command.process_group(0);
        self.child = Some(command.spawn().context("cannot start a daemon")?);
        let until = Instant::now() + PATIENCE;
        while Client::new(&self.options).status().await.is_err() {
            let ended = self.child.as_mut().context("just started")?.try_wait()?;
            if ended.is_some() || Instant::now() >= until {
                bail!(
                    "the daemon of {} does not answer; the end of its log:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL: the daemon gets no chance to save anything.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: the daemon leaves cleanly.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it runs")?;
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= until => bail!("the daemon of {} does not end", self.name),
                None => sleep(PAUSE).await,
            }
        };
        self.child = None;
        if !status.success() {
            bail!(
                "the daemon of {} ended with {status}; the end of its log:\n{}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// What the node says of the volume.
    pub(super) async fn volume(&self) -> Result<VolumeDocument> {
        let status = Client::new(&self.options).status().await?;
        Ok(volume_of(&status, VOLUME)?.clone())
    }

    /// Looks at the volume until it is as wanted.
    pub(super) async fn wait_for(
        &self,
        what: &str,
        wanted: impl Fn(&VolumeDocument) -> bool,
    ) -> Result<VolumeDocument> {
        let until = Instant::now() + PATIENCE;
        loop {
            let volume = self.volume().await?;
            if wanted(&volume) {
                return Ok(volume);
            }
            if Instant::now() >= until {
                bail!("{}: not {what} in {} s: {volume:?}", self.name, PATIENCE.as_secs());
            }
            sleep(PAUSE).await;
        }
    }

    /// Gives the daemon a command.
    pub(super) async fn order(&self, verb: &str, body: serde_json::Value) -> Result<()> {
        Client::new(&self.options).command(VOLUME, verb, &body).await?;
        Ok(())
    }

    /// Tries a promotion that must be refused; the reason.
    pub(super) async fn refuses_primary(&self) -> Result<String> {
        match self.order("primary", json!({ "force": "no" })).await {
            Ok(()) => bail!("{} became primary though alpha may still live", self.name),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// The file with the node's copy.
    pub(super) fn image(&self) -> PathBuf {
        self.options.state_dir.join(format!("{VOLUME}.img"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
