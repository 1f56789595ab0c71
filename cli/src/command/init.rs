//! `evenkeel init`: this node's identity, made once. It needs and writes no configuration.

use anyhow::Result;
use evenkeel_driver::identity::Identity;

use crate::{options::Options, output};

/// Prints the fingerprint for the configuration of every node.
pub(crate) fn run(options: &Options) -> Result<()> {
    let identity = Identity::load_or_create(&options.state_dir)?;
    output::print(&format!("{}\n", identity.fingerprint()))
}
