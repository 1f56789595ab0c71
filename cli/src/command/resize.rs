//! `evenkeel resize`: a volume that grows, on all its nodes.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{order, volume_of};
use crate::{
    admin::client::Client,
    exit::{Ended, Failure},
    options::Options,
    units::ByteSize,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The volume.
    name: String,
    /// Its size from now on, as 20GiB: at most what the configuration of every node says.
    size: ByteSize,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let Arguments { name, size: ByteSize(size) } = arguments;
    let client = Client::new(options);
    let status = client.status().await?;
    let has = volume_of(&status, name)?.size;
    if *size < has {
        let text = format!(
            "{name} has {}, and a volume never shrinks: copy its data to a smaller one",
            ByteSize(has)
        );
        return Err(Ended::error(Failure::Refused, text));
    }
    order(&client, name, "resize", &json!({ "size": size })).await
}
