//! Two nodes promoted by force while they do not see each other: found on both, no byte moved, and resolved either way
//! (design G6, F37).

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Links, Node, VolumeSpec},
    judge::{WriteId, convergence::images_equal, tag},
    raw::{Handshake, Transmission},
};

/// The tag of this test's writes.
const VOLUME: u32 = 1;

fn connect(node: &Node) -> Result<Transmission> {
    Handshake::open(&node.nbd())?.structured()?.go("r0")
}

/// Writes a number of blocks that name this write.
fn write(node: &Node, client: u32, first: u64, count: u32) -> Result<()> {
    let mut connection = connect(node)?;
    let id = WriteId { client, number: 1 };
    connection.write(first * 512, &tag::content(VOLUME, id, first, count))?;
    connection.flush()?;
    connection.disconnect()
}

fn hash(node: &Node) -> Result<Vec<u8>> {
    std::fs::read(node.data("r0")).with_context(|| node.name().to_owned())
}

fn split(loser: usize) -> Result<()> {
    let volume = VolumeSpec { lines: vec!["peer_timeout = \"2s\"".to_owned()], ..VolumeSpec::default() };
    let options =
        ClusterOptions { volumes: vec![volume], links: Links::Namespaces, ..ClusterOptions::default() };
    Cluster::run(options, |cluster| {
        let network = cluster.network.as_ref().context("there are namespaces")?;
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        write(alpha, 1, 0, 64)?;

        network.cut(0)?;
        alpha.wait_for("r0", "beta is lost", |status| status.peer("beta").connection != "connected")?;
        beta.wait_for("r0", "alpha is lost", |status| status.peer("alpha").connection != "connected")?;
        // Without force: beta is not entitled (P2), and the refusal says what would do it (P3).
        let refusal = beta.refused(&["primary", "r0"], 4)?;
        ensure!(refusal.contains("--force"), "{refusal}");
        beta.refused(&["primary", "r0", "--force"], 4).context("--yes is missing")?;
        beta.force_primary("r0")?;
        write(alpha, 2, 1000, 64)?;
        write(beta, 3, 2000, 128)?;
        let before = [hash(alpha)?, hash(beta)?];
        ensure!(before[0] != before[1], "the copies have parted");

        network.mend(0)?;
        for (node, peer) in [(alpha, "beta"), (beta, "alpha")] {
            let status = node.wait_for("r0", "the split brain is found", |status| {
                status.peer(peer).replication == "split-brain"
            })?;
            ensure!(status.has_problem("split-brain"), "{}", status.problem_texts());
            ensure!(status.problem_texts().contains("resolve"), "{}", status.problem_texts());
            node.ok(&["status"])?;
        }
        ensure!(before == [hash(alpha)?, hash(beta)?], "data moved in a split brain");

        let (loser, winner) = (&cluster.nodes[loser], &cluster.nodes[1 - loser]);
        let shown = winner.ok(&["resolve", "r0", "--discard", loser.name(), "--dry-run"])?;
        ensure!(shown.contains(loser.name()), "what would be lost: {shown}");
        ensure!(before == [hash(alpha)?, hash(beta)?], "data moved before it was resolved");
        if loser.volume("r0")?.role == "primary" {
            // Its clients must leave before their data are discarded.
            let refusal = winner.refused(&["resolve", "r0", "--discard", loser.name(), "--yes", "r0"], 4)?;
            ensure!(refusal.contains("secondary"), "{refusal}");
            loser.secondary("r0")?;
        }
        winner.ok(&["resolve", "r0", "--discard", loser.name(), "--yes", "r0"])?;
        for node in [winner, loser] {
            node.wait_synced("r0")?;
        }
        let status = loser.volume("r0")?;
        let resync = status.last_resync.context("a resync ended")?;
        // 64 and 128 sectors, on block boundaries of their own, and at most one extent of 4 MiB each.
        ensure!(resync.moved_bytes <= 2 * (4 << 20), "{resync:?}");
        for node in [winner, loser] {
            if node.volume("r0")?.role == "primary" {
                node.secondary("r0")?;
            }
        }
        images_equal(VOLUME, &winner.data("r0"), &loser.data("r0"))?;
        let kept = if winner.name() == "alpha" { 0 } else { 1 };
        ensure!(hash(winner)? == before[kept], "the winner's data must not change");
        Ok(())
    })
}

#[test]
fn found_on_both_and_ended_in_favour_of_the_one() -> Result<()> {
    split(1)
}

#[test]
fn found_on_both_and_ended_in_favour_of_the_other() -> Result<()> {
    split(0)
}
