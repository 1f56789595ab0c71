//! A volume that grows while it is served (docs/setup.md, "Growing a volume").

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Node},
    judge::{WriteId, convergence::images_equal, tag},
    raw::Handshake,
};

use crate::data::{VOLUME, established, write};

const OLD: u64 = 64 << 20;
const NEW: u64 = 80 << 20;
/// The first sector behind the old end.
const BEHIND: u64 = OLD / 512;

/// Nodes with a configuration of their own each, so that it can change on one alone.
fn run(test: impl FnOnce(&Cluster, &Node, &Node) -> Result<()>) -> Result<()> {
    Cluster::prepare(ClusterOptions::default(), |cluster| {
        cluster.nodes.iter().try_for_each(|node| {
            node.configure(&cluster.config())?;
            node.start()
        })?;
        let (alpha, beta) = established(cluster)?;
        test(cluster, alpha, beta)
    })
}

/// The configuration of these nodes allows another size from now on; those that run are told.
fn allow(cluster: &Cluster, nodes: &[&Node], size: &str) -> Result<()> {
    let text = cluster.config().replace("size = \"64MiB\"", &format!("size = \"{size}\""));
    nodes.iter().try_for_each(|node| {
        node.configure(&text)?;
        node.ok(&["reload"]).map(drop)
    })
}

/// The file may have room for more, after a growth that was given up.
fn shows(node: &Node, size: u64) -> Result<()> {
    let shown = node.volume("r0")?.size;
    ensure!(shown == size, "{} shows {shown}", node.name());
    Ok(())
}

fn has_size(node: &Node, size: u64) -> Result<()> {
    let shown = node.volume("r0")?.size;
    let file = fs::metadata(node.data("r0"))?.len();
    ensure!((shown, file) == (size, size), "{}: {shown} shown, and the file has {file}", node.name());
    Ok(())
}

#[test]
fn a_volume_grows_under_its_clients_and_stays_so() -> Result<()> {
    run(|cluster, alpha, beta| {
        let mut client = Handshake::open(&alpha.nbd())?.structured()?.go("r0")?;
        ensure!(client.size() == OLD, "{}", client.size());
        allow(cluster, &[alpha, beta], "80MiB")?;
        [alpha, beta].into_iter().try_for_each(|node| has_size(node, OLD))?;
        alpha.ok(&["resize", "r0", "80MiB"])?;
        [alpha, beta].into_iter().try_for_each(|node| has_size(node, NEW))?;
        // Who was connected may use the new part, and who comes is told of it.
        let id = WriteId { client: 1, number: 2 };
        client.write(OLD, &tag::content(VOLUME, id, BEHIND, 64))?;
        client.flush()?;
        let later = Handshake::open(&alpha.nbd())?.structured()?.go("r0")?;
        ensure!(later.size() == NEW, "{}", later.size());
        later.disconnect()?;
        client.disconnect()?;
        alpha.wait_synced("r0")?;
        alpha.ok(&["resize", "r0", "80MiB"])?;
        for node in [alpha, beta] {
            node.terminate()?;
            node.start()?;
            has_size(node, NEW)?;
        }
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        write(alpha, "r0", 3, NEW / 512 - 64)?;
        let outcome = alpha.ok(&["verify", "r0"])?;
        ensure!(outcome.contains("80 MiB compared, 0 bytes differ"), "{outcome}");
        alpha.secondary("r0")?;
        images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))
    })
}

#[test]
fn a_node_that_was_away_grows_when_it_is_back_and_allowed_to() -> Result<()> {
    run(|cluster, alpha, beta| {
        beta.kill()?;
        alpha.wait_for("r0", "that beta is gone", |status| status.peer("beta").connection != "connected")?;
        allow(cluster, &[alpha], "80MiB")?;
        alpha.ok(&["resize", "r0", "80MiB"])?;
        write(alpha, "r0", 2, BEHIND)?;
        beta.start()?;
        let sizes = |status: &evenkeel_tests::cluster::VolumeStatus| status.problem_texts().contains("size");
        beta.wait_for("r0", "the problem that the sizes differ", sizes)?;
        shows(beta, OLD)?;
        allow(cluster, &[beta], "80MiB")?;
        alpha.wait_synced("r0")?;
        [alpha, beta].into_iter().try_for_each(|node| has_size(node, NEW))?;
        alpha.secondary("r0")?;
        images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))
    })
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() -> Result<()> {
    run(|cluster, alpha, beta| {
        let refused = |node: &Node, size: &str, code: i32, words: &str| -> Result<()> {
            let text = node.refused(&["resize", "r0", size], code)?;
            ensure!(text.contains(words), "{size}: {text}");
            Ok(())
        };
        refused(alpha, "80MiB", 4, "change it on every node first")?;
        refused(alpha, "32MiB", 4, "never shrinks")?;
        refused(alpha, "80 megabytes", 2, "not a size")?;
        alpha.refused(&["resize", "r9", "80MiB"], 3)?;
        allow(cluster, &[alpha], "80MiB")?;
        let before = fs::metadata(alpha.meta("r0"))?;
        refused(alpha, "80MiB", 4, "beta cannot")?;
        // Room for metadata is no hole: when they are written it is too late to find the disk full.
        let after = fs::metadata(alpha.meta("r0"))?;
        let (longer, more) = (after.len() - before.len(), (after.blocks() - before.blocks()) * 512);
        ensure!(longer > 0 && more >= longer, "{longer} bytes longer, {more} allocated");
        refused(beta, "80MiB", 4, "order it there")?;
        refused(alpha, &(OLD + 700).to_string(), 4, "multiple of")?;
        let text = cluster.config().replace("size = \"64MiB\"", "size = \"32MiB\"");
        alpha.configure(&text)?;
        let refusal = alpha.refused(&["reload"], 4)?;
        ensure!(refusal.contains("never shrinks"), "{refusal}");
        [alpha, beta].into_iter().try_for_each(|node| shows(node, OLD))?;
        alpha.wait_synced("r0")?;
        // The room that alpha has made is no reason to refuse its file, while the configuration allows it.
        allow(cluster, &[alpha], "80MiB")?;
        alpha.terminate()?;
        alpha.start()?;
        shows(alpha, OLD)?;
        alpha.wait_synced("r0")
    })
}
