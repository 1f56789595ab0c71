//! `evenkeel wait NAME --for STATE`: ends when a volume is in a state, or says what is missing.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep};

use crate::{
    admin::{
        client::Client,
        document::{PeerDocument, VolumeDocument},
    },
    command::volume_of,
    exit::{Ended, Failure},
    options::Options,
    units::Span,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Wait until a volume is in a state.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The volume.
    name: String,
    /// The state.
    #[arg(long = "for", value_enum)]
    state: State,
    /// How long, as 30s or 2m; then the exit code is 1.
    #[arg(long, default_value = "30s")]
    timeout: Span,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// The own disk is UpToDate.
    UpToDate,
    /// Every peer is connected.
    Connected,
    /// This node is primary.
    Primary,
    /// The own and every peer's disk are UpToDate and in sync.
    Synced,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let client = Client::new(options);
    let until = Instant::now() + arguments.timeout.0;
    loop {
        let status = client.status().await?;
        let Some(missing) = missing(volume_of(&status, &arguments.name)?, arguments.state) else {
            return Ok(());
        };
        if Instant::now() >= until {
            let text = format!("{}: after {} {missing}", arguments.name, arguments.timeout);
            return Err(Ended::error(Failure::No, text));
        }
        sleep(PAUSE).await;
    }
}

/// What keeps the volume from being in a state, in words.
fn missing(volume: &VolumeDocument, state: State) -> Option<String> {
    let own_disk = || {
        (volume.disk != "UpToDate").then(|| format!("the disk of this node is {}, not UpToDate", volume.disk))
    };
    let peer = |wrong: fn(&PeerDocument) -> Option<String>| volume.peers.iter().find_map(wrong);
    match state {
        State::UpToDate => own_disk(),
        State::Primary => {
            (volume.role != "primary").then(|| "this node is secondary, not primary".to_owned())
        }
        State::Connected => peer(|peer| {
            let there = peer.connection == "connected";
            (!there).then(|| format!("peer {} is {}, not connected", peer.name, peer.connection))
        }),
        State::Synced => own_disk().or_else(|| {
            peer(|PeerDocument { name, disk, replication, connection, .. }| {
                let synced = disk == "UpToDate" && replication == "established";
                (!synced).then(|| {
                    format!("peer {name} is {connection}, its disk {disk}, replication {replication}")
                })
            })
        }),
    }
}
