//! Resync: under load, only what can differ, and over the death of either side (design R1 to R6, O5).

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Trial, VolumeSpec},
    judge::{Moment, Permits, convergence::moved_at_most},
    load::{LoadOptions, Mix},
    scale::scaled,
};

/// Size of an extent of the activity log (design D7).
const EXTENT: u64 = 4 << 20;
/// Size of a block of the dirty bitmap (design D10).
const BLOCK: u64 = 4 << 10;

/// Large and sparse, with a load that stays in a few small places far apart: what must be resynced is far less than
/// all.
fn large() -> (ClusterOptions, LoadOptions) {
    let volume = VolumeSpec { size: "8GiB".to_owned(), ..VolumeSpec::default() };
    let sectors_per_gib = 1 << 21;
    let places = (0..8).map(|gib| gib * sectors_per_gib + 1000).map(|first| first..first + 512).collect();
    let options = ClusterOptions { volumes: vec![volume], ..ClusterOptions::default() };
    (options, LoadOptions { places, ..LoadOptions::default() })
}

/// Kills the secondary and lets it come back; `under_load`, or while nobody writes.
fn only_dirty_blocks(under_load: bool) -> Result<()> {
    let (options, load) = large();
    Cluster::run(options, |cluster| {
        let mut trial = Trial::start(cluster, load)?;
        trial.load.wait_for_writes(scaled(500))?;
        let mut since = Moment::START;
        trial.fault("kill -9 of the secondary", Permits::Delay, |trial| {
            since = trial.clock().now();
            trial.secondary().kill()?;
            trial.wait_until_lost(1)?;
            trial.load.wait_for_writes(200)?;
            if !under_load {
                trial.load.pause()?;
            }
            trial.secondary().start()?;
            // Under load the resync must come to its end while writes go on.
            trial.wait_synced()
        })?;
        let status = cluster.nodes[1].volume("r0")?;
        let resync = status.last_resync.context("a resync ended")?;
        trial.load.to(trial.primary().nbd());
        trial.load.wait_for_writes(100)?;
        let history = trial.finish()?;
        // Not yet stable on the secondary was at most what no flush had covered.
        let limit = history.touched_bytes(history.last_flush_before(since), BLOCK);
        let at_most = |what: &str, bytes: u64, limit: u64| {
            moved_at_most(what, bytes, limit).map_err(|violation| anyhow::anyhow!("{}", violation.text))
        };
        at_most("moved", resync.moved_bytes, limit)?;
        // Under load a block that a write has partly replaced is compared again (R4).
        at_most("compared", resync.compared_bytes, if under_load { 2 * limit } else { limit })?;
        ensure!(resync.compared_bytes > 0, "something was resynced: {resync:?}");
        Ok(())
    })
}

#[test]
fn after_the_death_of_the_secondary_only_dirty_blocks_are_resynced() -> Result<()> {
    only_dirty_blocks(false)
}

#[test]
fn a_resync_under_load_comes_to_its_end() -> Result<()> {
    only_dirty_blocks(true)
}

#[test]
fn after_the_death_of_the_primary_only_the_activity_log_is_resynced() -> Result<()> {
    let (options, load) = large();
    Cluster::run(options, |cluster| {
        let mut trial = Trial::start(cluster, load)?;
        trial.load.wait_for_writes(scaled(500))?;
        trial.fault("kill -9 of the primary, which starts again", Permits::Disconnect, |trial| {
            trial.primary().kill()?;
            trial.primary().start()?;
            trial.load.wait_for_writes(1)?;
            trial.wait_synced()
        })?;
        let resyncs = [cluster.nodes[0].volume("r0")?, cluster.nodes[1].volume("r0")?].map(|s| s.last_resync);
        let history = trial.finish()?;
        let limit = history.touched_bytes(Moment::START, EXTENT);
        ensure!(limit <= 9 * EXTENT, "the load stays in few extents: {limit}");
        for resync in resyncs.into_iter().flatten() {
            // The load goes on: a block that a write has partly replaced is compared again (R4).
            for (what, bytes, limit) in
                [("moved", resync.moved_bytes, limit), ("compared", resync.compared_bytes, 2 * limit)]
            {
                moved_at_most(what, bytes, limit)
                    .map_err(|violation| anyhow::anyhow!("{}", violation.text))?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_resync_goes_on_after_the_death_of_either_side() -> Result<()> {
    let volume = VolumeSpec {
        size: "1GiB".to_owned(),
        // Slow enough to be met in the midst of it.
        lines: vec!["resync_limit = \"40MiB/s\"".to_owned()],
        ..VolumeSpec::default()
    };
    let options = ClusterOptions { volumes: vec![volume], ..ClusterOptions::default() };
    Cluster::run(options, |cluster| {
        let sectors = (256 << 20) / 512;
        let load = LoadOptions {
            places: std::iter::once(0..sectors).collect(),
            longest: 1024,
            mix: Mix { read: 5, ..Mix::WRITES },
            ..LoadOptions::default()
        };
        let mut trial = Trial::start(cluster, load)?;
        trial.fault("the secondary is away", Permits::Delay, |trial| {
            trial.secondary().kill()?;
            trial.wait_until_lost(1)?;
            trial.load.wait_for_writes(scaled(1500))
        })?;
        let resyncing = |trial: &Trial<'_>| -> Result<()> {
            trial.secondary().start()?;
            trial
                .primary()
                .wait_for("r0", "the resync runs", |s| s.peer("beta").replication == "sync-source")?;
            let status = trial.secondary().volume("r0")?;
            ensure!(status.disk == "Inconsistent", "R1: the target is Inconsistent, not {}", status.disk);
            Ok(())
        };
        for _ in 0..3 {
            trial.fault("kill -9 of the target of a resync", Permits::Delay, |trial| {
                resyncing(trial)?;
                trial.secondary().kill()?;
                trial.wait_until_lost(1)?;
                Ok(())
            })?;
        }
        trial.fault("kill -9 of the source of a resync", Permits::Disconnect, |trial| {
            resyncing(trial)?;
            trial.primary().kill()?;
            // F21, F25: an Inconsistent node is not promoted, not even by plain force.
            trial
                .secondary()
                .wait_for("r0", "alpha is gone", |s| s.peer("alpha").connection != "connected")?;
            trial.secondary().refused(&["primary", "r0"], 4)?;
            trial.secondary().refused(&["primary", "r0", "--force", "--yes", "r0"], 4)?;
            trial.primary().start()?;
            trial.load.wait_for_writes(1)?;
            let status = trial.primary().volume("r0")?;
            let replication = &status.peer("beta").replication;
            ensure!(
                replication == "sync-source",
                "P7: a source serves before the resync ends: {replication}"
            );
            Ok(())
        })?;
        trial.wait_synced()?;
        trial.finish()?;
        Ok(())
    })
}
