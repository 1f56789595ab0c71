//! What an operator orders and is told: a peer's copy declared bad, a handshake foretold, refusals that name who and
//! since when (design section 8).

use std::fs;

use anyhow::{Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, VolumeSpec},
    judge::convergence::images_equal,
};

use crate::data::{VOLUME, established, write};

const SIZE: u64 = 64 << 20;

fn options() -> ClusterOptions {
    let volume = VolumeSpec { lines: vec!["peer_timeout = \"2s\"".to_owned()], ..VolumeSpec::default() };
    ClusterOptions { volumes: vec![volume], ..ClusterOptions::default() }
}

#[test]
fn a_peers_copy_declared_bad_is_filled_whole() -> Result<()> {
    Cluster::run(options(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        // A bit has rotted, of which no bitmap knows.
        beta.terminate()?;
        let mut data = fs::read(beta.data("r0"))?;
        data[100] ^= 1;
        fs::write(beta.data("r0"), data)?;
        beta.start()?;
        alpha.wait_synced("r0")?;
        let order = ["invalidate", "r0", "--peer", "beta"];
        let refusal = alpha.refused(&order, 4)?;
        ensure!(refusal.contains("--yes r0"), "{refusal}");
        alpha.refused(&["invalidate", "r0", "--peer", "gamma", "--yes", "r0"], 3)?;
        let refusal = beta.refused(&["invalidate", "r0", "--peer", "alpha", "--yes", "r0"], 4)?;
        ensure!(refusal.contains("alpha is primary"), "{refusal}");
        let shown = alpha.ok(&[&order[..], &["--yes", "r0"]].concat())?;
        ensure!(shown.contains("beta") && shown.contains("64 MiB"), "what is lost: {shown}");
        alpha.wait_synced("r0")?;
        for node in [alpha, beta] {
            let last = node.volume("r0")?.last_resync;
            ensure!(last.as_ref().is_some_and(|last| last.compared_bytes >= SIZE), "{last:?}");
            ensure!(last.is_some_and(|last| last.moved_bytes > 0), "what differed was copied");
        }
        beta.terminate()?;
        let refusal = alpha.refused(&[&order[..], &["--yes", "r0"]].concat(), 4)?;
        ensure!(refusal.contains("beta is not in sync"), "{refusal}");
        beta.start()?;
        alpha.wait_synced("r0")?;
        alpha.secondary("r0")?;
        images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))
    })
}

#[test]
fn a_handshake_is_foretold_and_nothing_moves() -> Result<()> {
    Cluster::run(options(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        let dry_run = ["connect", "r0", "beta", "--dry-run"];
        let shown = alpha.ok(&dry_run)?;
        ensure!(shown.contains("beta: ") && shown.contains("in sync"), "{shown}");
        alpha.ok(&["disconnect", "r0", "beta"])?;
        write(alpha, "r0", 2, 4000)?;
        let state =
            || -> Result<[Vec<u8>; 2]> { Ok([fs::read(beta.meta("r0"))?, fs::read(beta.data("r0"))?]) };
        let before = state()?;
        let shown = alpha.ok(&dry_run)?;
        ensure!(shown.contains("beta is resynced from alpha"), "{shown}");
        ensure!(before == state()?, "a dry run changes nothing");
        ensure!(alpha.volume("r0")?.peer("beta").connection == "disconnected", "it stays disconnected");
        alpha.refused(&["connect", "r0", "gamma", "--dry-run"], 3)?;
        // A split brain, still disconnected.
        beta.force_primary("r0")?;
        write(beta, "r0", 3, 8000)?;
        let before = state()?;
        let shown = alpha.ok(&["connect", "r0", "--dry-run"])?;
        ensure!(shown.contains("Split brain") && shown.contains("resolve"), "{shown}");
        ensure!(before == state()?, "a dry run changes nothing");
        // Beta may link, but alpha has closed its side: no answer, with the reason.
        let refusal = beta.refused(&["connect", "r0", "--dry-run"], 1)?;
        ensure!(refusal.contains("alpha did not go through with a handshake"), "{refusal}");
        beta.kill()?;
        let refusal = alpha.refused(&dry_run, 1)?;
        ensure!(refusal.contains("beta"), "{refusal}");
        Ok(())
    })
}

#[test]
fn what_a_split_brain_would_lose_is_shown_from_both_sides() -> Result<()> {
    Cluster::run(options(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        alpha.ok(&["disconnect", "r0"])?;
        beta.force_primary("r0")?;
        write(alpha, "r0", 2, 4000)?;
        write(beta, "r0", 3, 8000)?;
        write(beta, "r0", 4, 9000)?;
        let generations = [alpha.volume("r0")?.generation, beta.volume("r0")?.generation];
        alpha.ok(&["connect", "r0"])?;
        for (node, peer) in [(alpha, "beta"), (beta, "alpha")] {
            node.wait_for("r0", "the split brain is found", |status| {
                status.peer(peer).replication == "split-brain"
            })?;
            let shown = node.ok(&["resolve", "r0", "--discard", "beta", "--dry-run"])?;
            for generation in generations.iter().flatten() {
                ensure!(shown.contains(generation), "{generation} is missing: {shown}");
            }
            ensure!(shown.contains("64 KiB in 16 changed blocks"), "what beta has: {shown}");
            ensure!(shown.contains("32 KiB in 8 changed blocks"), "what alpha has: {shown}");
            ensure!(shown.contains("primary now") && shown.contains("last primary at"), "{shown}");
            node.refused(&["resolve", "r0", "--discard", "beta", "--yes", "r1"], 4)?;
            node.refused(&["resolve", "r0", "--discard", "gamma"], 3)?;
        }
        beta.secondary("r0")?;
        // To name the node is the confirmation.
        alpha.ok(&["resolve", "r0", "--discard", "beta"])?;
        alpha.wait_synced("r0")
    })
}

#[test]
fn a_refused_promotion_says_who_was_primary_and_when() -> Result<()> {
    Cluster::run(options(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        let refusal = beta.refused(&["primary", "r0"], 4)?;
        ensure!(refusal.contains("alpha is primary"), "{refusal}");
        alpha.kill()?;
        beta.wait_for("r0", "alpha is lost", |status| status.peer("alpha").connection != "connected")?;
        let refusal = beta.refused(&["primary", "r0"], 4)?;
        let who = refusal.split("alpha was primary ").nth(1).and_then(|rest| rest.split(" s ago").next());
        ensure!(who.is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{refusal}");
        ensure!(refusal.contains("make sure that it is off") && refusal.contains("--force"), "{refusal}");
        // Over a restart it is known from the metadata.
        beta.terminate()?;
        beta.start()?;
        let refusal = beta.refused(&["primary", "r0"], 4)?;
        ensure!(refusal.contains("alpha was the last primary"), "{refusal}");
        Ok(())
    })
}
