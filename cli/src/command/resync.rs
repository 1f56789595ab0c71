//! `evenkeel resync` and `evenkeel invalidate`: steering what is copied, and making it necessary.

use anyhow::Result;
use clap::{ArgGroup, Args};
use serde_json::json;

use super::{confirm, order, volume_of};
use crate::{
    admin::client::Client,
    exit::{Ended, Failure},
    options::Options,
    units::{ByteSize, RateLimit},
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["pause", "resume", "limit"]).required(true))]
pub(crate) struct Arguments {
    /// The volume.
    name: String,
    /// Hold resyncs still.
    #[arg(long)]
    pause: bool,
    /// Let them go on.
    #[arg(long)]
    resume: bool,
    /// At most this much a second, as 50MiB/s, or none.
    #[arg(long, value_name = "RATE")]
    limit: Option<RateLimit>,
}

#[derive(Debug, Args)]
pub(crate) struct Invalidate {
    /// The volume.
    name: String,
    /// The peer whose copy is bad, instead of this node's.
    #[arg(long)]
    peer: Option<String>,
    /// The volume's name again, to confirm.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let client = Client::new(options);
    let body = match arguments.limit {
        Some(RateLimit(None)) => json!({ "limit": "none" }),
        Some(RateLimit(Some(bytes))) => json!({ "limit": format!("{bytes}/s") }),
        None => json!({ "pause": arguments.pause }),
    };
    order(&client, &arguments.name, "resync", &body).await
}

pub(crate) async fn invalidate(options: &Options, arguments: &Invalidate) -> Result<()> {
    let Invalidate { name, peer, yes } = arguments;
    let client = Client::new(options);
    let status = client.status().await?;
    let volume = volume_of(&status, name)?;
    // One's own name is allowed for one's own copy.
    let peer = peer.as_deref().filter(|peer| *peer != status.node);
    if let Some(peer) = peer
        && !volume.peers.iter().any(|known| known.name == peer)
    {
        return Err(Ended::error(Failure::Missing, format!("volume {name} has no peer {peer}")));
    }
    let node = peer.unwrap_or(&status.node);
    let source = if peer.is_some() { status.node.as_str() } else { "a peer" };
    let loss = format!(
        "The copy of {name} on node {node} will count as bad, and be compared and copied whole ({}) from {source}; what \
         only it holds is lost.",
        ByteSize(volume.size)
    );
    confirm(name, yes.as_deref(), &loss)?;
    order(&client, name, "invalidate", &json!({ "peer": peer })).await
}
