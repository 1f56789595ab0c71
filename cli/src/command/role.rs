//! `evenkeel primary` and `evenkeel secondary` (design section 6).

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{confirm, order, volume_of};
use crate::{
    admin::{
        client::Client,
        document::{PeerDocument, VolumeDocument},
    },
    options::Options,
};

#[derive(Debug, Args)]
pub(crate) struct Primary {
    /// The volume.
    name: String,
    /// Also when this copy may not be the newest; with =inconsistent even when it is a mixture.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    force: Option<Force>,
    /// The volume's name again, to confirm --force.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

/// How far a promotion may go.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Force {
    #[value(hide = true)]
    Yes,
    Inconsistent,
}

#[derive(Debug, Args)]
pub(crate) struct Secondary {
    /// The volume.
    name: String,
    /// Do not wait for clients: they are cut off.
    #[arg(long)]
    force: bool,
    /// The volume's name again, to confirm --force.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

pub(crate) async fn primary(options: &Options, arguments: &Primary) -> Result<()> {
    let Primary { name, force, yes } = arguments;
    let client = Client::new(options);
    let word = match force {
        None => "no",
        Some(force) => {
            let status = client.status().await?;
            confirm(name, yes.as_deref(), &loss(&status.node, volume_of(&status, name)?))?;
            match force {
                Force::Yes => "yes",
                Force::Inconsistent => "inconsistent",
            }
        }
    };
    order(&client, name, "primary", &json!({ "force": word })).await
}

/// What a forced promotion may lose.
fn loss(node: &str, volume: &VolumeDocument) -> String {
    let name = &volume.name;
    if volume.role == "primary" {
        return format!("Node {node} is primary of {name} already: nothing is lost.");
    }
    let absent: Vec<&PeerDocument> =
        volume.peers.iter().filter(|peer| peer.connection != "connected").collect();
    let names: Vec<&str> = absent.iter().map(|peer| peer.name.as_str()).collect();
    let mut text = match volume.disk.as_str() {
        "Inconsistent" => format!(
            "The copy of {name} on node {node} is Inconsistent: a mixture of old and new blocks. Its filesystem may be \
             damaged."
        ),
        disk => format!(
            "The copy of {name} on node {node} is {disk}. What was written elsewhere and is not in this copy will be \
             lost."
        ),
    };
    if !names.is_empty() {
        text += &format!(
            " Not connected: {}. If one of them is still primary, the copies part (split brain) and what one side \
             writes will have to be discarded: make sure that it is off.",
            names.join(", ")
        );
    }
    text
}

pub(crate) async fn secondary(options: &Options, arguments: &Secondary) -> Result<()> {
    let Secondary { name, force, yes } = arguments;
    let client = Client::new(options);
    if *force {
        let status = client.status().await?;
        let volume = volume_of(&status, name)?;
        let clients = match volume.clients.as_slice() {
            [] => "No client is connected: nothing is lost.".to_owned(),
            clients => format!(
                "These clients are cut off, and what they have not written yet is lost: {}.",
                clients.join(", ")
            ),
        };
        confirm(name, yes.as_deref(), &clients)?;
    }
    order(&client, name, "secondary", &json!({ "force": force })).await
}
