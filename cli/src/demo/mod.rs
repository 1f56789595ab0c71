//! `evenkeel demo`: a mirror of two nodes on this machine, told in plain words. Everything that it says it has checked.
//!
//! ```text
//!   start ──> write ──> beta leaves, alpha writes on ──> sync ──> alpha killed while it writes ──> beta takes over
//!         ──> every write checked ──> alpha back, resynced by bitmap ──> both copies compared ──> end, or kept running
//! ```

mod cluster;
mod ledger;
mod nbd;

use std::{
    io::{IsTerminal, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};

use self::{
    cluster::{Cluster, Node},
    ledger::{BLOCK, Ledger},
    nbd::Disk,
};
use crate::{
    admin::document::VolumeDocument,
    command::status::progress,
    exit::{Ended, Failure},
    output,
    units::ByteSize,
};

/// The volume of the demonstration.
const VOLUME: &str = "demo";
/// Its size, for the configuration.
const SIZE_TEXT: &str = "1GiB";
/// Its size in bytes.
const SIZE: u64 = 1 << 30;
/// Blocks of one large request.
const PIECE: usize = 64;
/// Connections that write while alpha is killed.
const WRITERS: usize = 4;
/// Blocks of a MiB.
const MIB: usize = (1 << 20) / BLOCK;
/// The writers write here, so that little has to be compared afterwards.
const BUSY: Range<usize> = 128 * MIB..160 * MIB;
/// So many replies, then the kill.
const REPLIES_BEFORE_KILL: u64 = 2000;

/// Show a mirror of two nodes on this machine: writes, a killed primary, a promotion, the data intact.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Leave both nodes running at the end, and say how to attach a client.
    #[arg(long)]
    keep: bool,
}

/// Runs the demonstration; everything that was started ends with it.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        result = story(arguments.keep) => result,
        _ = interrupt.recv() => Err(Ended::error(Failure::Other, "interrupted; the nodes were ended")),
        _ = terminate.recv() => Err(Ended::error(Failure::Other, "ended by SIGTERM; the nodes were ended")),
    }
}

type Shared = Arc<Mutex<Ledger>>;

async fn story(keep: bool) -> Result<()> {
    let start = Instant::now();
    say(
        "Evenkeel keeps a disk identical on several machines. Here are two of them, alpha and beta, as two\n\
         processes on this one, with a disk of 1 GiB.",
    )?;
    let mut cluster = Cluster::new()?;
    let ledger: Shared = Arc::new(Mutex::new(Ledger::new(SIZE)?));
    start_both(&mut cluster).await?;
    write_to_both(&cluster, &ledger).await?;
    sync_after_absence(&mut cluster, &ledger).await?;
    kill_while_writing(&mut cluster, &ledger).await?;
    take_over(&cluster, &ledger).await?;
    come_back(&mut cluster, &ledger).await?;
    if keep {
        return leave_running(cluster);
    }
    compare(&mut cluster).await?;
    say(&format!(
        "Done in {} s. Nothing is left behind. To keep the two nodes and use the disk: evenkeel demo --keep",
        start.elapsed().as_secs()
    ))
}

async fn start_both(cluster: &mut Cluster) -> Result<()> {
    say(
        "1. Both start. The disks are new, so there is nothing to copy. Alpha becomes primary: it serves the disk\n   \
         over NBD, and every write goes to both.",
    )?;
    cluster.alpha.start().await?;
    cluster.beta.start().await?;
    cluster.alpha.wait_for("in sync", synced).await?;
    command("alpha", "primary demo")?;
    cluster.alpha.order("primary", json!({})).await?;
    show(&cluster.alpha.volume().await?, "alpha")
}

async fn write_to_both(cluster: &Cluster, ledger: &Shared) -> Result<()> {
    say("2. A client writes 64 MiB to alpha. A write is replied to when both copies have it.")?;
    write_range(&cluster.alpha, ledger, 0..64 * MIB).await
}

async fn sync_after_absence(cluster: &mut Cluster, ledger: &Shared) -> Result<()> {
    say("3. Beta is shut down for maintenance. Alpha goes on alone and notes which blocks beta lacks.")?;
    cluster.beta.stop().await?;
    write_range(&cluster.alpha, ledger, 64 * MIB..128 * MIB).await?;
    note("beta comes back and gets what it missed:")?;
    cluster.beta.start().await?;
    let volume = watch_sync(&cluster.alpha).await?;
    let moved = volume.last_resync.context("a resync has ended")?.moved_bytes;
    note(&format!("{} moved, of a volume of {}.", ByteSize(moved).rounded(), ByteSize(SIZE)))
}

async fn kill_while_writing(cluster: &mut Cluster, ledger: &Shared) -> Result<()> {
    say("4. Four clients write as fast as they can, and alpha is killed (SIGKILL): it can save nothing.")?;
    let before = lock(ledger).replied;
    let socket = cluster.alpha.options.nbd_socket();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (socket, ledger) = (socket.clone(), Arc::clone(ledger));
            spawn_blocking(move || write_until_cut(&socket, &ledger, writer))
        })
        .collect();
    while lock(ledger).replied < before + REPLIES_BEFORE_KILL {
        if writers.iter().all(tokio::task::JoinHandle::is_finished) {
            bail!("the clients could not write");
        }
        sleep(Duration::from_millis(1)).await;
    }
    note(&format!("$ kill -KILL {}", cluster.alpha.pid()))?;
    cluster.alpha.kill()?;
    for writer in writers {
        writer.await??;
    }
    let replied = lock(ledger).replied - before;
    note(&format!("{replied} writes had been replied to; the clients lost their connection in the middle."))
}

async fn take_over(cluster: &Cluster, ledger: &Shared) -> Result<()> {
    say(
        "5. Beta is to take over. It cannot know whether alpha is dead or only out of reach, so it asks us first:",
    )?;
    cluster.beta.wait_for("without alpha", |volume| volume.peers[0].connection != "connected").await?;
    command("beta", "primary demo")?;
    note(&format!("refused: {}", cluster.beta.refuses_primary().await?))?;
    note("We know that alpha is dead:")?;
    command("beta", "primary demo --force --yes demo")?;
    let begun = Instant::now();
    cluster.beta.order("primary", json!({ "force": "yes" })).await?;
    note(&format!("beta is primary after {} ms.", begun.elapsed().as_millis()))?;
    say("6. Is every write that was replied to there?")?;
    check_all(&cluster.beta, ledger).await?;
    let replied = lock(ledger).replied;
    note(&format!("Yes: the whole disk was read, and all {replied} blocks that were written are right."))
}

async fn come_back(cluster: &mut Cluster, ledger: &Shared) -> Result<()> {
    say(
        "7. Work goes on at beta: 8 MiB more. Then alpha comes back. It sees that beta's copy is newer, and gets only\n   \
         what changed, and what may differ after its death.",
    )?;
    write_range(&cluster.beta, ledger, 160 * MIB..168 * MIB).await?;
    cluster.alpha.start().await?;
    let volume = watch_sync(&cluster.beta).await?;
    let last = volume.last_resync.clone().context("a resync has ended")?;
    ensure!(last.moved_bytes < SIZE / 2, "{} were moved, which is too much", last.moved_bytes);
    note(&format!(
        "{} compared, {} moved, of a volume of {}.",
        ByteSize(last.compared_bytes).rounded(),
        ByteSize(last.moved_bytes).rounded(),
        ByteSize(SIZE)
    ))?;
    show(&volume, "beta")
}

async fn compare(cluster: &mut Cluster) -> Result<()> {
    say("8. Both are shut down, and the two copies are compared, byte by byte.")?;
    cluster.beta.stop().await?;
    cluster.alpha.stop().await?;
    let images = (cluster.alpha.image(), cluster.beta.image());
    spawn_blocking(move || equal(&images.0, &images.1)).await??;
    note("They are equal.")
}

fn leave_running(cluster: Cluster) -> Result<()> {
    let socket = cluster.beta.options.nbd_socket();
    let uri = format!("\"nbd+unix:///{VOLUME}?socket={}\"", socket.display());
    let folder = cluster.folder().display().to_string();
    let (alpha, beta) = (cluster.alpha.pid(), cluster.beta.pid());
    say(&format!(
        "Both nodes are left running; beta is primary. Use the disk with any NBD client:\n  \
         nbdinfo {uri}\n  \
         nbd-client -N {VOLUME} -unix {} /dev/nbd0      (as root, with the kernel's nbd module)\n\
         Look at it:\n  \
         evenkeel status --run-dir {}\n  \
         evenkeel status --run-dir {}\n\
         End it and remove everything:\n  \
         kill {beta} {alpha}; rm -r {folder}",
        socket.display(),
        cluster.beta.options.run_dir.display(),
        cluster.alpha.options.run_dir.display(),
    ))?;
    cluster.keep();
    Ok(())
}

fn synced(volume: &VolumeDocument) -> bool {
    let peer = |peer: &crate::admin::document::PeerDocument| {
        peer.disk == "UpToDate" && peer.replication == "established"
    };
    volume.disk == "UpToDate" && volume.peers.iter().all(peer)
}

/// Waits for the end of a sync, with a progress bar.
async fn watch_sync(source: &Node) -> Result<VolumeDocument> {
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let volume = source.volume().await?;
        if let Some(resync) = &volume.peers[0].resync {
            last = progress(resync, false);
            if terminal {
                output::print(&format!("\r   {last}\x1b[K"))?;
            }
        }
        if synced(&volume) {
            if terminal {
                output::print("\r\x1b[K")?;
            } else if !last.is_empty() {
                note(&last)?;
            }
            note(&format!("[{}] 100 %  in sync", "#".repeat(24)))?;
            return Ok(volume);
        }
        sleep(Duration::from_millis(40)).await;
    }
}

/// Writes these blocks once, in large requests, then flushes.
async fn write_range(node: &Node, ledger: &Shared, blocks: Range<usize>) -> Result<()> {
    let (socket, ledger) = (node.options.nbd_socket(), Arc::clone(ledger));
    let (count, begun) = (blocks.len(), Instant::now());
    spawn_blocking(move || -> Result<()> {
        let mut disk = Disk::open(&socket, VOLUME)?;
        for first in blocks.clone().step_by(PIECE) {
            let piece = first..(first + PIECE).min(blocks.end);
            let content = lock(&ledger).send(piece.clone());
            disk.write(offset(first), &content)?;
            lock(&ledger).reply(piece);
        }
        disk.flush()?;
        Ok(disk.close()?)
    })
    .await??;
    let bytes = (count * BLOCK) as u64;
    note(&format!("{} written and flushed in {} ms.", ByteSize(bytes), begun.elapsed().as_millis()))
}

/// Writes single blocks of its own until the connection is cut.
fn write_until_cut(socket: &Path, ledger: &Shared, writer: usize) -> Result<()> {
    let mut disk = Disk::open(socket, VOLUME)?;
    let mut step = 0_usize;
    loop {
        // Over the whole range, in an order without a pattern; each writer has blocks of its own.
        let place = step.wrapping_mul(7919) % (BUSY.len() / WRITERS);
        let block = BUSY.start + place * WRITERS + writer;
        let content = lock(ledger).send(block..block + 1);
        if disk.write(offset(block), &content).is_err() {
            return Ok(());
        }
        lock(ledger).reply(block..block + 1);
        step += 1;
    }
}

async fn check_all(node: &Node, ledger: &Shared) -> Result<()> {
    let (socket, ledger): (PathBuf, _) = (node.options.nbd_socket(), Arc::clone(ledger));
    spawn_blocking(move || -> Result<()> {
        let mut disk = Disk::open(&socket, VOLUME)?;
        let mut content = vec![0; PIECE * BLOCK];
        let blocks = usize::try_from(SIZE)? / BLOCK;
        for first in (0..blocks).step_by(PIECE) {
            disk.read(offset(first), &mut content)?;
            lock(&ledger).check(first, &content)?;
        }
        Ok(disk.close()?)
    })
    .await?
}

fn offset(block: usize) -> u64 {
    (block * BLOCK) as u64
}

fn lock(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    // A panic of another thread has ended the process before this could matter.
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn equal(one: &Path, other: &Path) -> Result<()> {
    let mut files = [std::fs::File::open(one)?, std::fs::File::open(other)?];
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    for piece in 0..SIZE >> 20 {
        for (file, buffer) in files.iter_mut().zip(&mut buffers) {
            file.read_exact(buffer)?;
        }
        ensure!(buffers[0] == buffers[1], "the copies differ within MiB {piece}");
    }
    Ok(())
}

/// A new part of the story.
fn say(text: &str) -> Result<()> {
    output::print(&format!("\n{text}\n"))
}

/// What came of it.
fn note(text: &str) -> Result<()> {
    output::print(&format!("   {}\n", text.replace('\n', "\n   ")))
}

/// A command as one would type it on a node.
fn command(node: &str, command: &str) -> Result<()> {
    note(&format!("{node}$ evenkeel {command}"))
}

/// Both sides, as the status shows them.
fn show(volume: &VolumeDocument, node: &str) -> Result<()> {
    let mut text = format!("{node}: {}, {}", volume.role, volume.disk);
    for peer in &volume.peers {
        text += &format!("   {}: {}, {}, {}", peer.name, peer.role, peer.disk, peer.replication);
    }
    note(&text)
}
