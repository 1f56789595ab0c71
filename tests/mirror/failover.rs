//! Failover beyond the rounds of `chaos`: a primary that stood still answers nothing any more (P8, F8), three nodes,
//! and a primary that was shut down in order hands its right over (P2, P6).

use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Trial, VolumeSpec},
    judge::{Permits, Promise, WriteId, convergence::images_equal, tag},
    load::LoadOptions,
    raw::{
        Handshake,
        protocol::{command, command_flag},
    },
    scale::scaled,
};

const VOLUME: u32 = 1;

fn quick(nodes: usize) -> ClusterOptions {
    let volume = VolumeSpec { lines: vec!["peer_timeout = \"2s\"".to_owned()], ..VolumeSpec::default() };
    ClusterOptions { nodes, volumes: vec![volume], ..ClusterOptions::default() }
}

#[test]
fn a_primary_that_stood_still_answers_nothing_after_another_took_over() -> Result<()> {
    for _ in 0..scaled(2) {
        Cluster::run(quick(2), |cluster| {
            let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
            alpha.wait_synced("r0")?;
            alpha.primary("r0")?;
            let mut client = Handshake::open(&alpha.nbd())?.structured()?.go("r0")?;
            let id = |number| WriteId { client: 1, number };
            client.write(0, &tag::content(VOLUME, id(1), 0, 8))?;

            alpha.pause()?;
            // These lie in the socket until alpha goes on.
            for number in 2..20 {
                let first = u64::from(number) * 8;
                let data = tag::content(VOLUME, id(number), first, 8);
                client.send(command::WRITE, command_flag::NONE, first * 512, 4096, &data)?;
            }
            beta.wait_for("r0", "alpha is lost", |status| status.peer("alpha").connection != "connected")?;
            beta.force_primary("r0")?;
            let mut other = Handshake::open(&beta.nbd())?.structured()?.go("r0")?;
            other.write(80 * 512, &tag::content(VOLUME, WriteId { client: 2, number: 1 }, 80, 8))?;
            other.flush()?;

            alpha.resume()?;
            client.set_read_limit(Duration::from_secs(20))?;
            loop {
                match client.wait_any_or_close() {
                    Ok(Some(answer)) => {
                        ensure!(answer.error.0 != 0, "P8: a deposed primary acknowledged {answer:?}");
                    }
                    Ok(None) => break,
                    // Silence is allowed as well: the client is held until it leaves.
                    Err(_) => break,
                }
            }
            drop(client);
            alpha.wait_for("r0", "alpha steps down", |status| status.role == "secondary")?;
            beta.wait_synced("r0")?;
            other.disconnect()?;
            beta.secondary("r0")?;
            images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))?;
            let image = std::fs::read(alpha.data("r0"))?;
            let held = tag::values(VOLUME, 80, &image[80 * 512..88 * 512]);
            let due = tag::Value::Written(WriteId { client: 2, number: 1 });
            ensure!(held.iter().all(|value| *value == due), "{held:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_orderly_shutdown_hands_the_right_to_be_promoted_over() -> Result<()> {
    Cluster::run(quick(2), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        let mut client = Handshake::open(&alpha.nbd())?.structured()?.go("r0")?;
        client.write(0, &tag::content(VOLUME, WriteId { client: 1, number: 1 }, 0, 8))?;
        client.disconnect()?;
        alpha.terminate()?;
        beta.wait_for("r0", "alpha has left", |status| status.peer("alpha").connection != "connected")?;
        // No force: nothing can be missing.
        beta.primary("r0")?;
        let mut client = Handshake::open(&beta.nbd())?.structured()?.go("r0")?;
        let held = tag::values(VOLUME, 0, &client.read(0, 4096)?);
        ensure!(held[0] == tag::Value::Written(WriteId { client: 1, number: 1 }), "{held:?}");
        client.disconnect()?;
        alpha.start()?;
        ensure!(alpha.volume("r0")?.role == "secondary", "P7: every daemon starts as secondary");
        beta.wait_synced("r0")
    })
}

#[test]
fn three_nodes_survive_the_death_of_each_primary_in_turn() -> Result<()> {
    Cluster::run(quick(3), |cluster| {
        let mut trial = Trial::start(cluster, LoadOptions::default())?;
        for turn in 1..=3 * scaled(1) {
            trial.load.wait_for_writes(200)?;
            let (old, next) = (trial.primary_index(), usize::try_from(turn % 3)?);
            let what = format!("{} dies, {} follows", cluster.nodes[old].name(), cluster.nodes[next].name());
            trial.fault(&what, Permits::Disconnect, |trial| {
                trial.primary().kill()?;
                trial.promote_by_force(next, Promise::Answered)?;
                trial.load.wait_for_writes(200)?;
                cluster.nodes[old].start()?;
                trial.wait_synced()
            })?;
        }
        trial.finish()?;
        Ok(())
    })
}

#[test]
fn two_of_three_nodes_go_on_without_the_third() -> Result<()> {
    Cluster::run(quick(3), |cluster| {
        let mut trial = Trial::start(cluster, LoadOptions::default())?;
        for index in [1, 2] {
            trial.fault("a secondary dies and comes back", Permits::Delay, |trial| {
                cluster.nodes[index].kill()?;
                trial.wait_until_lost(index)?;
                trial.load.wait_for_writes(200)?;
                cluster.nodes[index].start()?;
                trial.wait_synced()
            })?;
        }
        let history = trial.finish()?;
        ensure!(history.acknowledged_writes() > 400, "writes went on: {}", history.summary());
        Ok(())
    })
}
