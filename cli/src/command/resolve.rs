//! `evenkeel resolve`: the end of a split brain (design G6).

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{confirm, order, volume_of};
use crate::{
    admin::{client::Client, document::VolumeDocument},
    exit::{Ended, Failure},
    options::Options,
    output,
    units::ByteSize,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The volume.
    name: String,
    /// The node whose changes since the copies parted are discarded.
    #[arg(long, value_name = "NODE")]
    discard: String,
    /// Only show what would be lost.
    #[arg(long)]
    dry_run: bool,
    /// The volume's name again; not needed, but checked if given.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let Arguments { name, discard, dry_run, yes } = arguments;
    let client = Client::new(options);
    let status = client.status().await?;
    let volume = volume_of(&status, name)?;
    if *discard != status.node && !volume.peers.iter().any(|peer| peer.name == *discard) {
        let text = format!("volume {name} has no node {discard}");
        return Err(Ended::error(Failure::Missing, text));
    }
    let loss = loss(&status.node, volume, discard);
    if *dry_run {
        return output::print(&format!("{loss}\n"));
    }
    // The node is named: that is the confirmation. A --yes that names another volume is a mistake.
    confirm(name, yes.as_deref().or(Some(name)), &loss)?;
    order(&client, name, "resolve", &json!({ "discard": discard })).await
}

/// What is discarded, as far as this node knows.
fn loss(own: &str, volume: &VolumeDocument, discard: &str) -> String {
    let name = &volume.name;
    let peers = volume.peers.iter().filter(|peer| discard == own || peer.name == discard);
    let parted: Vec<_> = peers.filter(|peer| peer.replication == "split-brain").collect();
    let mut text = format!("What node {discard} wrote to {name} since the copies parted will be lost");
    for peer in &parted {
        if let Some(dirty) = peer.dirty_bytes {
            let other = if discard == own { &peer.name } else { own };
            text += &format!(
                "; blocks that {own} has changed since {} was last in sync: {}; afterwards {discard} is equal to {other}",
                peer.name,
                ByteSize(dirty)
            );
        }
    }
    if parted.is_empty() {
        text += " (no split brain is known now)";
    }
    text.push('.');
    text
}
