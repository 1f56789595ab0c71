//! The commands, one file each. Those that talk to the daemon are thin over its admin API.

mod completions;
mod create;
mod events;
mod init;
mod links;
mod meta;
mod reload;
mod resize;
mod resolve;
mod resync;
mod role;
mod serve;
pub(crate) mod status;
mod verify;
mod wait;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::Value;

use crate::{
    admin::{
        client::Client,
        document::{StatusDocument, VolumeDocument},
    },
    daemon, demo,
    exit::{Ended, Failure},
    options::Options,
    output,
};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve one file or block device over NBD, without replication.
    Serve(serve::Arguments),
    /// Make this node's identity in the state directory, and print its fingerprint.
    Init,
    /// Run this node in the foreground.
    Daemon,
    /// Show a mirror of two nodes on this machine: writes, a killed primary, a promotion, the data intact.
    Demo(demo::Arguments),
    /// Make the daemon read its configuration again: all of it is applied, or nothing.
    Reload,
    /// List the volumes, or take existing data as one.
    #[command(subcommand)]
    Volume(create::Action),
    /// Show roles, disks, connections, resyncs, and what is wrong.
    Status(status::Arguments),
    /// Print what happened on this node.
    Events(events::Arguments),
    /// Make this node primary: it serves clients.
    Primary(role::Primary),
    /// Make this node secondary: it keeps a copy.
    Secondary(role::Secondary),
    /// Allow the link to a peer, or to all.
    Connect(links::Connect),
    /// Close the link to a peer, or to all, and keep it closed.
    Disconnect(links::Disconnect),
    /// Pause or limit resyncs.
    Resync(resync::Arguments),
    /// Declare this node's copy bad: it is filled from a peer.
    Invalidate(resync::Invalidate),
    /// Compare the replicas online; exit code 1 if they differ.
    Verify(verify::Arguments),
    /// Let a volume grow while it is served.
    Resize(resize::Arguments),
    /// End a split brain: what one node wrote since the copies parted is discarded.
    Resolve(resolve::Arguments),
    /// Wait until a volume is in a state; exit code 1 if it is not in time.
    Wait(wait::Arguments),
    /// Look at a replica's metadata, without a daemon.
    Meta(meta::Arguments),
    /// Print the completions for a shell.
    Completions(completions::Arguments),
}

impl Command {
    pub(crate) fn run(self, options: &Options, commands: clap::Command) -> Result<()> {
        match self {
            Self::Serve(arguments) => serve::run(arguments),
            Self::Init => init::run(options),
            Self::Daemon => block_on(daemon::run(options)),
            Self::Demo(arguments) => block_on(demo::run(&arguments)),
            Self::Reload => block_on(reload::run(options)),
            Self::Volume(action) => block_on(create::run(options, &action)),
            Self::Status(arguments) => block_on(status::run(options, &arguments)),
            Self::Events(arguments) => block_on(events::run(options, &arguments)),
            Self::Primary(arguments) => block_on(role::primary(options, &arguments)),
            Self::Secondary(arguments) => block_on(role::secondary(options, &arguments)),
            Self::Connect(arguments) => block_on(links::connect(options, &arguments)),
            Self::Disconnect(arguments) => block_on(links::disconnect(options, &arguments)),
            Self::Resync(arguments) => block_on(resync::run(options, &arguments)),
            Self::Invalidate(arguments) => block_on(resync::invalidate(options, &arguments)),
            Self::Verify(arguments) => block_on(verify::run(options, &arguments)),
            Self::Resize(arguments) => block_on(resize::run(options, &arguments)),
            Self::Resolve(arguments) => block_on(resolve::run(options, &arguments)),
            Self::Wait(arguments) => block_on(wait::run(options, &arguments)),
            Self::Meta(arguments) => meta::run(&arguments),
            Self::Completions(arguments) => completions::run(&arguments, commands),
        }
    }
}

/// Runs to its end on a runtime of this thread.
fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the control thread")?;
    let result = runtime.block_on(work);
    // What still blocks is left behind: the process ends.
    runtime.shutdown_background();
    result
}

/// A volume of the daemon's.
pub(crate) fn volume_of<'s>(status: &'s StatusDocument, name: &str) -> Result<&'s VolumeDocument> {
    status.volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
        let names: Vec<&str> = status.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let known =
            if names.is_empty() { "it has none".to_owned() } else { format!("it has: {}", names.join(", ")) };
        Ended::error(Failure::Missing, format!("node {} has no volume {name}; {known}", status.node))
    })
}

/// Prints what would be lost, and ends the command unless it was confirmed by the volume's name.
fn confirm(volume: &str, yes: Option<&str>, loss: &str) -> Result<()> {
    output::print(&format!("{loss}\n"))?;
    if yes == Some(volume) {
        return Ok(());
    }
    let text = match yes {
        Some(other) => format!("--yes {other} names another volume; to do it, add --yes {volume}"),
        None => format!("nothing was done; to do it, add --yes {volume}"),
    };
    Err(Ended::error(Failure::Refused, text))
}

/// A command without an answer of its own.
async fn order(client: &Client, volume: &str, verb: &str, body: &Value) -> Result<()> {
    client.command(volume, verb, body).await?;
    Ok(())
}
