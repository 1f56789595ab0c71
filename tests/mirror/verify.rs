//! Online verify: no false report under load, and damage behind our back is found and repaired (design R7, F14, F40).

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Trial},
    judge::convergence::images_equal,
    load::LoadOptions,
};

#[test]
fn equal_replicas_are_found_equal_under_load() -> Result<()> {
    Cluster::run(ClusterOptions::default(), |cluster| {
        let trial = Trial::start(cluster, LoadOptions::default())?;
        for _ in 0..3 {
            trial.primary().ok(&["verify", "r0"])?;
            trial.load.wait_for_writes(100)?;
        }
        trial.finish()?;
        Ok(())
    })
}

#[test]
fn damage_is_found_and_repaired_from_the_primary() -> Result<()> {
    Cluster::run(ClusterOptions::default(), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        beta.terminate()?;
        File::options().write(true).open(beta.data("r0"))?.write_all_at(&[0xee; 100], 5 << 20)?;
        beta.start()?;
        alpha.wait_synced("r0")?;
        alpha.refused(&["verify", "r0"], 1)?;
        // It found a difference, so it may say so again: what counts is that there is none any more.
        let repair = alpha.run(&["verify", "r0", "--repair"])?;
        ensure!(matches!(repair.status.code(), Some(0 | 1)), "{repair}");
        alpha.wait_synced("r0")?;
        alpha.ok(&["verify", "r0"])?;
        alpha.secondary("r0")?;
        images_equal(0, &alpha.data("r0"), &beta.data("r0"))?;
        let mut repaired = [1; 100];
        File::open(beta.data("r0"))?.read_exact_at(&mut repaired, 5 << 20)?;
        ensure!(repaired == [0; 100], "the secondary was repaired from the primary, not the other way round");
        Ok(())
    })
}
