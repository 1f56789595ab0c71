//! `evenkeel connect` and `evenkeel disconnect`: links by hand.

use anyhow::Result;
use clap::Args;
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
    /// Only say what the last handshake decided; no data moves.
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
        return tell_verdicts(&client, name, peer.as_deref()).await;
    }
    order(&client, name, "connect", &json!({ "peer": peer })).await
}

pub(crate) async fn disconnect(options: &Options, Disconnect { name, peer }: &Disconnect) -> Result<()> {
    order(&Client::new(options), name, "disconnect", &json!({ "peer": peer })).await
}

/// What the last handshake with each peer came to.
async fn tell_verdicts(client: &Client, name: &str, peer: Option<&str>) -> Result<()> {
    let status = client.status().await?;
    let volume = volume_of(&status, name)?;
    let wanted: Vec<_> =
        volume.peers.iter().filter(|known| peer.is_none_or(|peer| known.name == peer)).collect();
    if let (Some(peer), true) = (peer, wanted.is_empty()) {
        return Err(Ended::error(Failure::Missing, format!("volume {name} has no peer {peer}")));
    }
    let mut text = String::new();
    for peer in wanted {
        let Some(verdict) = &peer.verdict else {
            let text = format!(
                "{}: {}, and no handshake has taken place since this daemon started",
                peer.name, peer.connection
            );
            return Err(Ended::error(Failure::Refused, text));
        };
        text += &format!("{}: {verdict}\n", peer.name);
    }
    output::print(&text)
}
