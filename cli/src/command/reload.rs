//! `evenkeel reload`: the daemon reads its configuration again.

use anyhow::Result;
use serde_json::json;

use crate::{admin::client::Client, options::Options, output};

/// Prints what has changed, one thing a line.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let value = Client::new(options).post("/v1/reload", &json!({})).await?;
    let changed: Vec<String> = serde_json::from_value(value)?;
    if changed.is_empty() {
        return output::print("nothing has changed\n");
    }
    output::print(&format!("{}\n", changed.join("\n")))
}
