//! `evenkeel resolve`: the end of a split brain (design G6).

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{confirm, order, volume_of};
use crate::{
    admin::{
        client::Client,
        document::{BranchDocument, PeerDocument, VolumeDocument},
    },
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

/// What is discarded, as far as this node and the peers that it is connected with know.
fn loss(own: &str, volume: &VolumeDocument, discard: &str) -> String {
    let name = &volume.name;
    let mut peers: Vec<&PeerDocument> =
        volume.peers.iter().filter(|peer| discard == own || peer.name == discard).collect();
    let has_parted = |peer: &&PeerDocument| {
        peer.parted.is_some()
            || volume.problems.iter().any(|p| is_unrelated(&p.code) && p.peer.as_ref() == Some(&peer.name))
    };
    peers.retain(has_parted);
    if peers.is_empty() {
        return format!(
            "What node {discard} wrote to {name} since the copies parted would be lost; but no split brain is known \
             now, on no connection of this node."
        );
    }
    let mut text = String::new();
    for peer in peers {
        let kept = if discard == own { peer.name.as_str() } else { own };
        text += &loss_with(own, volume, peer, discard, kept);
    }
    text
}

fn is_unrelated(code: &str) -> bool {
    code == "unrelated"
}

fn loss_with(own: &str, volume: &VolumeDocument, peer: &PeerDocument, discard: &str, kept: &str) -> String {
    let name = &volume.name;
    let Some(parted) = &peer.parted else {
        return format!(
            "The copies of {name} on {own} and {} never had anything in common. The whole copy on {discard} ({}) will \
             be lost; afterwards it is equal to that of {kept}.\n",
            peer.name,
            ByteSize(volume.size)
        );
    };
    let (lost, left) =
        if discard == own { (&parted.mine, &parted.theirs) } else { (&parted.theirs, &parted.mine) };
    let mut text = match &parted.common {
        Some(_) => format!(
            "What node {discard} wrote to {name} since the copies parted will be lost: {}.",
            changed(lost)
        ),
        None => format!(
            "The copies have nothing in common: all of the copy of {name} on {discard} ({}) will be lost.",
            ByteSize(volume.size)
        ),
    };
    // Writing to a string does not fail.
    let _ =
        write!(text, " Afterwards {discard} is equal to {kept}.\n  discarded  {}\n", branch(discard, lost));
    let _ = writeln!(text, "  kept       {}", branch(kept, left));
    match &parted.common {
        Some(common) => {
            let _ = writeln!(text, "  in common  generation {common}");
        }
        None => text += "  in common  nothing\n",
    }
    text
}

fn changed(branch: &BranchDocument) -> String {
    match (branch.dirty_bytes, branch.dirty_blocks) {
        (Some(bytes), Some(blocks)) => format!("{} in {blocks} changed blocks", ByteSize(bytes)),
        (_, _) => "how much is not known".to_owned(),
    }
}

fn branch(node: &str, branch: &BranchDocument) -> String {
    let unknown = || "unknown".to_owned();
    let reign = match (&branch.last_primary, branch.role.as_str()) {
        (_, "primary") => "primary now".to_owned(),
        (Some(time), _) => format!("last primary at {time}"),
        (None, _) => "last primary: unknown".to_owned(),
    };
    format!(
        "{node}: {}, generation {}, term {}, {reign}",
        changed(branch),
        branch.generation.as_deref().unwrap_or("none"),
        branch.term.map_or_else(unknown, |term| term.to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch_of(dirty_bytes: Option<u64>, role: &str) -> BranchDocument {
        BranchDocument {
            generation: Some("0123456789abcdef0123456789abcdef".to_owned()),
            term: Some(7),
            role: role.to_owned(),
            last_primary: None,
            dirty_bytes,
            dirty_blocks: dirty_bytes.map(|bytes| bytes / 4096),
        }
    }

    #[test]
    fn both_sides_are_told_with_what_is_known() {
        let shown = branch("beta", &branch_of(Some(64 << 10), "primary"));
        for part in [
            "beta",
            "64 KiB in 16 changed blocks",
            "0123456789abcdef0123456789abcdef",
            "term 7",
            "primary now",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let shown = branch("beta", &branch_of(None, "secondary"));
        assert!(
            shown.contains("how much is not known") && shown.contains("last primary: unknown"),
            "{shown}"
        );
    }
}
