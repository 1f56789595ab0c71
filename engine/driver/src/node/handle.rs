//! The control side of a node: what other threads hold to talk to the data thread.
//!
//! Everything goes through one channel; answers come back through one-shot channels. Only the event ring, the
//! directory of exports and the watch of the end are read without asking.

use std::{net::SocketAddr, time::Duration};

use evenkeel_nbd::server::{Directory, Handover};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    command::{CommandError, CommandResult, VolumeCommand},
    events::Events,
    settings::NodeSettings,
    status::NodeStatus,
};

/// What can be asked of the data thread.
#[derive(Debug)]
pub(super) enum Control {
    Status(oneshot::Sender<NodeStatus>),
    Command { volume: String, command: VolumeCommand, reply: oneshot::Sender<CommandResult> },
    Create { volume: String, origin: CreateOrigin, reply: oneshot::Sender<Result<(), CommandError>> },
    Reload { settings: Box<NodeSettings>, reply: oneshot::Sender<Result<Reloaded, ReloadError>> },
    HandOver(Handover),
    Shutdown { within: Duration, reply: oneshot::Sender<ShutdownReport> },
    Abandon,
}

/// What existing data are taken for (design D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOrigin {
    /// They are good (`--adopt`).
    Adopt,
    /// They are to be overwritten (`--blank`).
    Blank,
}

/// What a reload has changed, in words: one entry for each thing.
pub type Reloaded = Vec<String>;

/// Why a changed configuration was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReloadError {
    /// Something that cannot be changed while the node runs.
    #[error("{what} cannot be changed while the node runs: stop the daemon (SIGTERM) and start it again")]
    Fixed {
        /// What it is.
        what: String,
    },
    /// The state of a volume forbids it.
    #[error("{0}")]
    Refused(String),
    /// The node is ending.
    #[error("the node is ending")]
    Ending,
}

/// How a shutdown went (P6): what an operator must know of each volume that did not end cleanly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Volume and reason. Empty: all are stable and recorded as left cleanly.
    pub unclean: Vec<(String, String)>,
}

/// The data thread is gone, or going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the data thread has ended")]
pub struct NodeEnded;

/// Talks to a node; see the module's head. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    pub(super) control: mpsc::UnboundedSender<Control>,
    pub(super) events: Events,
    pub(super) directory: Directory,
    /// Where the node listens for its peers.
    pub(super) address: SocketAddr,
    /// Whether every configured volume is open, or its refusal recorded.
    pub(super) opened: watch::Receiver<bool>,
    /// True when the data thread has ended.
    pub(super) ended: watch::Receiver<bool>,
}

impl NodeHandle {
    /// Waits until every configured volume is open or its refusal recorded (at most for about 10 s: a disk that
    /// hangs is a problem of its volume, not of the node).
    pub async fn opened(&self) {
        // An error means that the thread has ended: then nothing more will be opened.
        let _ = self.opened.clone().wait_for(|opened| *opened).await;
    }

    /// Waits until the data thread has ended.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// What the node is now.
    ///
    /// # Errors
    /// If the data thread has ended.
    pub async fn status(&self) -> Result<NodeStatus, NodeEnded> {
        self.ask(Control::Status).await
    }

    /// Carries out a command and returns when it is done.
    ///
    /// # Errors
    /// [`CommandError`] says why nothing was done. A refusal by the volume itself is an answer.
    pub async fn command(&self, volume: &str, command: VolumeCommand) -> CommandResult {
        let volume = volume.to_owned();
        self.ask(|reply| Control::Command { volume, command, reply })
            .await
            .unwrap_or(Err(CommandError::Ending))
    }

    /// Makes metadata for data that exist (`volume create`), and opens the volume.
    ///
    /// # Errors
    /// [`CommandError`] says why nothing was done.
    pub async fn create(&self, volume: &str, origin: CreateOrigin) -> Result<(), CommandError> {
        let volume = volume.to_owned();
        self.ask(|reply| Control::Create { volume, origin, reply }).await.unwrap_or(Err(CommandError::Ending))
    }

    /// Takes over changed settings, all of them or none.
    ///
    /// # Errors
    /// [`ReloadError`] names what cannot be changed.
    pub async fn reload(&self, settings: NodeSettings) -> Result<Reloaded, ReloadError> {
        let settings = Box::new(settings);
        self.ask(|reply| Control::Reload { settings, reply }).await.unwrap_or(Err(ReloadError::Ending))
    }

    /// Leaves cleanly within this time (P6), and ends the data thread.
    ///
    /// # Errors
    /// If the data thread has ended already.
    pub async fn shutdown(&self, within: Duration) -> Result<ShutdownReport, NodeEnded> {
        self.ask(|reply| Control::Shutdown { within, reply }).await
    }

    /// Ends the data thread at once, as a crash of the process would: nothing is said to anybody, nothing is
    /// recorded. For tests, which cannot kill a process that they are in.
    #[doc(hidden)]
    pub async fn abandon(&self) {
        // If it has ended already, nothing is left to end.
        let _ = self.control.send(Control::Abandon);
        self.ended().await;
    }

    /// Gives a connection past its handshake to the data thread. After the end it is closed.
    pub fn hand_over(&self, handover: Handover) {
        // Nobody left to serve it: dropping closes its socket.
        let _ = self.control.send(Control::HandOver(handover));
    }

    /// Where the node listens for its peers (the port is the real one, if 0 was asked for).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The event stream.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The NBD exports, for the door.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    async fn ask<T>(&self, control: impl FnOnce(oneshot::Sender<T>) -> Control) -> Result<T, NodeEnded> {
        let (reply, answer) = oneshot::channel();
        self.control.send(control(reply)).map_err(|_| NodeEnded)?;
        answer.await.map_err(|_| NodeEnded)
    }
}
