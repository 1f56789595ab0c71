//! `evenkeel connect` and `evenkeel disconnect`: links by hand.

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::{order, volume_of};
use crate::{
    admin::client::Client,
    exit::{Ended, Failure},
    options::Options,
    output,
};

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The volume.
    name: String,
    /// The peer; all if none is named.
    peer: Option<String>,
    /// Only say what the handshake would conclude now; no data moves.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// The volume.
    name: String,
    /// The peer; all if none is named.
    peer: Option<String>,
}

pub(crate) async fn connect(options: &Options, arguments: &Connect) -> Result<()> {
    let Connect { name, peer, dry_run } = arguments;
    let client = Client::new(options);
    if *dry_run {
        return foretell(&client, name, peer.as_deref()).await;
    }
    order(&client, name, "connect", &json!({ "peer": peer })).await
}

pub(crate) async fn disconnect(options: &Options, Disconnect { name, peer }: &Disconnect) -> Result<()> {
    order(&Client::new(options), name, "disconnect", &json!({ "peer": peer })).await
}

/// What the handshake with each peer would conclude now.
async fn foretell(client: &Client, name: &str, peer: Option<&str>) -> Result<()> {
    let status = client.status().await?;
    let volume = volume_of(&status, name)?;
    let wanted: Vec<&str> = volume
        .peers
        .iter()
        .map(|known| known.name.as_str())
        .filter(|known| peer.is_none_or(|peer| *known == peer))
        .collect();
    if let (Some(peer), true) = (peer, wanted.is_empty()) {
        return Err(Ended::error(Failure::Missing, format!("volume {name} has no peer {peer}")));
    }
    let mut failed = None;
    for peer in wanted {
        match client.command(name, "connect", &json!({ "peer": peer, "dry_run": true })).await {
            Ok(answer) => {
                let Foretold { verdict } = serde_json::from_value(answer)?;
                output::print(&format!("{peer}: {verdict}\n"))?;
            }
            // The others are asked all the same.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// What the daemon says of one peer.
#[derive(Debug, Deserialize)]
struct Foretold {
    verdict: String,
}
