//! `evenkeel status`: what is, what is wrong, and which command mends it.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;

use crate::{
    admin::{
        client::Client,
        document::{PeerDocument, ResyncDocument, StatusDocument, VolumeDocument},
    },
    command::volume_of,
    options::Options,
    output,
    units::{ByteSize, Span, rate_per_second},
};

/// Characters of a progress bar.
const BAR: u64 = 24;

/// Show roles, disks, connections, resyncs, and what is wrong.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only this volume.
    name: Option<String>,
    /// The documented, versioned schema (docs/status.md).
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let mut status = Client::new(options).status().await?;
    if let Some(name) = &arguments.name {
        status.volumes = vec![volume_of(&status, name)?.clone()];
    }
    if arguments.json {
        return output::print(&format!("{}\n", serde_json::to_string(&status)?));
    }
    output::print(&for_people(&status))
}

/// The whole status as text.
fn for_people(status: &StatusDocument) -> String {
    let mut text =
        format!("node {} of cluster {}, disks by {}\n", status.node, status.cluster, status.disk_backend);
    if status.volumes.is_empty() {
        text += "no volumes are configured on this node\n";
    }
    for volume in &status.volumes {
        text.push('\n');
        // Writing to a String cannot fail.
        let _ = write_volume(&mut text, volume);
    }
    text
}

fn write_volume(text: &mut String, volume: &VolumeDocument) -> std::fmt::Result {
    let VolumeDocument { name, size, role, disk, protocol, .. } = volume;
    writeln!(text, "{name}  {}  {role}  {disk}  protocol {protocol}", ByteSize(*size))?;
    match (&volume.generation, volume.term) {
        (Some(generation), Some(term)) => writeln!(text, "  generation {generation}, term {term}")?,
        (Some(generation), None) => writeln!(text, "  generation {generation}")?,
        (None, _) => writeln!(text, "  no generation yet")?,
    }
    if let Some(reason) = &volume.suspended {
        writeln!(text, "  I/O is held: {reason}")?;
    }
    if volume.resuming {
        writeln!(text, "  about to be primary again, as before its process died; clients wait")?;
    }
    for client in &volume.clients {
        writeln!(text, "  client: {client}")?;
    }
    for peer in &volume.peers {
        write_peer(text, peer, volume.resync_paused)?;
    }
    if let Some(last) = &volume.last_resync {
        writeln!(
            text,
            "  last resync: with {}, ended {}, compared {}, moved {}; {}",
            last.peer,
            last.finished,
            ByteSize(last.compared_bytes).rounded(),
            ByteSize(last.moved_bytes).rounded(),
            last.reason
        )?;
    }
    for problem in &volume.problems {
        writeln!(text, "  problem {}: {}", problem.code, problem.text)?;
        writeln!(text, "    to mend it: {}", problem.remedy)?;
    }
    Ok(())
}

fn write_peer(text: &mut String, peer: &PeerDocument, paused: bool) -> std::fmt::Result {
    let PeerDocument { name, connection, role, disk, replication, .. } = peer;
    write!(text, "  {name}  {connection}  {role}  {disk}  {replication}")?;
    if let Some(dirty) = peer.dirty_bytes.filter(|dirty| *dirty > 0) {
        write!(text, "  lacks {}", ByteSize(dirty).rounded())?;
    }
    if peer.lag_bytes > 0 {
        write!(text, "  lag {}", ByteSize(peer.lag_bytes).rounded())?;
    }
    text.push('\n');
    match &peer.resync {
        Some(resync) => writeln!(text, "    {}", progress(resync, paused)),
        None => Ok(()),
    }
}

/// A resync on one line, with a bar.
pub(crate) fn progress(resync: &ResyncDocument, paused: bool) -> String {
    let ResyncDocument { done_bytes, total_bytes, moved_bytes, rate, eta_seconds } = *resync;
    // 128 bits: no volume is so large that the product wraps.
    let part = |whole: u64| {
        let share = u128::from(done_bytes) * u128::from(whole) / u128::from(total_bytes.max(1));
        u64::try_from(share).unwrap_or(whole).min(whole)
    };
    let full = usize::try_from(part(BAR)).unwrap_or_default();
    let empty = usize::try_from(BAR).unwrap_or_default() - full;
    let speed = match (paused, eta_seconds) {
        (true, _) => "paused".to_owned(),
        (false, Some(seconds)) => {
            format!("{}, {} left", rate_per_second(rate), Span(std::time::Duration::from_secs(seconds)))
        }
        (false, None) => rate_per_second(rate),
    };
    format!(
        "[{}{}] {:3} %  {} of {}, {} moved, {speed}",
        "#".repeat(full),
        ".".repeat(empty),
        part(100),
        ByteSize(done_bytes).rounded(),
        ByteSize(total_bytes).rounded(),
        ByteSize(moved_bytes).rounded(),
    )
}
