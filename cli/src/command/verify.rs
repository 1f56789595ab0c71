//! `evenkeel verify`: the replicas compared online, block by block (design R7).

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::volume_of;
use crate::{
    admin::client::Client,
    exit::{Ended, Failure},
    options::Options,
    output,
    units::ByteSize,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The volume.
    name: String,
    /// Copy what differs from the primary to the peer.
    #[arg(long)]
    repair: bool,
}

/// What the daemon says of one peer.
#[derive(Debug, Deserialize)]
struct Outcome {
    compared_bytes: u64,
    differing_bytes: u64,
    differing: Vec<Span>,
    repaired: bool,
}

#[derive(Debug, Deserialize)]
struct Span {
    offset: u64,
    bytes: u64,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let Arguments { name, repair } = arguments;
    let client = Client::new(options);
    let status = client.status().await?;
    let volume = volume_of(&status, name)?;
    if volume.peers.is_empty() {
        return Err(Ended::error(Failure::Refused, format!("volume {name} has no peer to compare with")));
    }
    let mut different = Vec::new();
    for peer in &volume.peers {
        let body = json!({ "peer": peer.name, "repair": repair });
        let value = client.command(name, "verify", &body).await?;
        let outcome: Outcome = serde_json::from_value(value)?;
        output::print(&outcome.for_people(&peer.name))?;
        if outcome.differing_bytes > 0 && !outcome.repaired {
            different.push(peer.name.as_str());
        }
    }
    if different.is_empty() {
        return Ok(());
    }
    let text =
        format!("the copies on {} differ; evenkeel verify {name} --repair mends them", different.join(", "));
    Err(Ended::error(Failure::No, text))
}

impl Outcome {
    fn for_people(&self, peer: &str) -> String {
        let mut text = format!(
            "{peer}: {} compared, {} differ{}\n",
            ByteSize(self.compared_bytes),
            ByteSize(self.differing_bytes),
            if self.repaired { ", repaired" } else { "" }
        );
        for Span { offset, bytes } in &self.differing {
            text += &format!("  {bytes} bytes at {offset}\n");
        }
        text
    }
}
