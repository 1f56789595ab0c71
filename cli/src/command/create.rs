//! `evenkeel volume list` and `evenkeel volume create`: which volumes there are, and what existing data are taken for
//! (design D2).

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::{confirm, order, volume_of};
use crate::{admin::client::Client, options::Options, output, units::ByteSize};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List the volumes of this node: name, size, role, disk.
    List,
    /// Make metadata for data that exist already.
    Create(Create),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("origin").args(["adopt", "blank"]).required(true))]
pub(crate) struct Create {
    /// A configured volume.
    name: String,
    /// The data are good: this copy is the one that peers are filled from.
    #[arg(long)]
    adopt: bool,
    /// The data are to be overwritten by a peer.
    #[arg(long)]
    blank: bool,
    /// The volume's name again, to confirm --blank.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

pub(crate) async fn run(options: &Options, action: &Action) -> Result<()> {
    let client = Client::new(options);
    let status = client.status().await?;
    let create = match action {
        Action::List => {
            let lines = status.volumes.iter().map(|volume| {
                format!("{}  {}  {}  {}\n", volume.name, ByteSize(volume.size), volume.role, volume.disk)
            });
            return output::print(&lines.collect::<String>());
        }
        Action::Create(create) => create,
    };
    let name = &create.name;
    volume_of(&status, name)?;
    if create.blank {
        let loss = format!(
            "Everything in the data of volume {name} on node {} will be overwritten by a peer's copy.",
            status.node
        );
        confirm(name, create.yes.as_deref(), &loss)?;
    }
    let origin = if create.adopt { "adopt" } else { "blank" };
    order(&client, name, "create", &json!({ "origin": origin })).await
}
