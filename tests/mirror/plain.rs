//! A mirror under load without faults: on every protocol, with three nodes, with two volumes at once; and planned
//! changes of role.

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Trial, VolumeSpec},
    load::LoadOptions,
    raw::{Handshake, protocol::option, protocol::option_reply},
    scale::scaled,
};

fn one_volume(protocol: char) -> ClusterOptions {
    let volume = VolumeSpec { protocol, ..VolumeSpec::default() };
    ClusterOptions { volumes: vec![volume], ..ClusterOptions::default() }
}

#[test]
fn both_images_are_equal_after_load_on_every_protocol() -> Result<()> {
    for protocol in ['A', 'B', 'C'] {
        Cluster::run(one_volume(protocol), |cluster| {
            let trial = Trial::start(cluster, LoadOptions::default())?;
            trial.load.wait_for_writes(scaled(3000))?;
            let history = trial.finish()?;
            ensure!(history.acknowledged_writes() >= 3000);
            Ok(())
        })
        .with_context(|| format!("protocol {protocol}"))?;
    }
    Ok(())
}

#[test]
fn three_nodes_hold_the_same() -> Result<()> {
    let options = ClusterOptions { nodes: 3, ..ClusterOptions::default() };
    Cluster::run(options, |cluster| {
        let trial = Trial::start(cluster, LoadOptions::default())?;
        trial.load.wait_for_writes(scaled(2000))?;
        trial.finish()?;
        Ok(())
    })
}

#[test]
fn two_volumes_do_not_mix() -> Result<()> {
    let volume =
        |name: &str, protocol| VolumeSpec { name: name.to_owned(), protocol, ..VolumeSpec::default() };
    let volumes = vec![volume("r0", 'C'), volume("r1", 'A')];
    Cluster::run(ClusterOptions { volumes, ..ClusterOptions::default() }, |cluster| {
        let trial = |volume: u32, export: &str| {
            let options = LoadOptions { volume, export: export.to_owned(), ..LoadOptions::default() };
            Trial::start(cluster, options)
        };
        // The tag of a sector names its volume: the judge finds what went into the wrong one.
        let (one, other) = (trial(1, "r0")?, trial(2, "r1")?);
        one.load.wait_for_writes(scaled(2000))?;
        other.load.wait_for_writes(scaled(2000))?;
        one.finish()?;
        other.finish()?;
        Ok(())
    })
}

#[test]
fn the_roles_change_hands_by_command() -> Result<()> {
    Cluster::run(one_volume('C'), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        // P4: on a primary it returns 0. P3: a peer that answers as primary refuses, also by force.
        alpha.primary("r0")?;
        beta.refused(&["primary", "r0"], 4)?;
        beta.refused(&["primary", "r0", "--force", "--yes", "r0"], 4)?;
        // A secondary names the primary to clients.
        let mut handshake = Handshake::open(&beta.nbd())?;
        let data = evenkeel_tests::raw::handshake::info_data(b"r0", &[]);
        let text = handshake.option(option::GO, &data)?.refused(&[option_reply::ERR_POLICY])?;
        ensure!(text.contains("alpha"), "{text}");
        let text = handshake
            .option(option::GO, &evenkeel_tests::raw::handshake::info_data(b"r9", &[]))?
            .refused(&[option_reply::ERR_UNKNOWN]);
        ensure!(text.is_ok(), "{text:?}");

        for _ in 0..scaled(5) {
            for (from, to) in [(alpha, beta), (beta, alpha)] {
                from.secondary("r0")?;
                to.primary("r0")?;
                ensure!(from.volume("r0")?.role == "secondary" && to.volume("r0")?.role == "primary");
            }
        }
        // P5: a client that stays is named.
        let client = Handshake::open(&alpha.nbd())?.go("r0")?;
        let refusal = alpha.refused(&["secondary", "r0"], 4)?;
        ensure!(refusal.contains(&format!("{}", std::process::id())), "the client must be named: {refusal}");
        drop(client);
        alpha.secondary("r0")?;
        alpha.terminate()?;
        beta.terminate()
    })
}
