//! Disks that are not what they were: stale, blank, swapped, truncated, foreign, missing. They are refused with the
//! reason, or become target of a resync; the good copy is never touched (design D2 to D6, G3, F33 to F42).

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Node, VolumeSpec},
    judge::{WriteId, convergence::images_equal, tag},
};

use crate::data::{VOLUME, established, write};

const SIZE: u64 = 64 << 20;

fn two_volumes() -> ClusterOptions {
    let volume = |name: &str| VolumeSpec { name: name.to_owned(), ..VolumeSpec::default() };
    ClusterOptions { volumes: vec![volume("r0"), volume("r1")], ..ClusterOptions::default() }
}

/// Beta comes back with the files as they are now, is refused r0 for this reason, and serves the rest.
fn is_refused(beta: &Node, code: &str) -> Result<()> {
    beta.start()?;
    let status = beta.volume("r0")?;
    ensure!(status.has_problem(code), "{code} was due: {}", status.problem_texts());
    ensure!(status.disk == "Diskless", "{}", status.disk);
    for problem in &status.problems {
        ensure!(!problem.text.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    }
    beta.refused(&["primary", "r0"], 4)?;
    beta.refused(&["primary", "r0", "--force", "--yes", "r0"], 4)?;
    ensure!(beta.volume("r1")?.disk != "Diskless", "the other volume is served");
    Ok(())
}

/// After a repair of its files, beta comes back into sync; nothing was lost.
fn comes_back(cluster: &Cluster, alpha: &Node, beta: &Node) -> Result<()> {
    beta.start()?;
    alpha.wait_synced("r0")?;
    write(alpha, "r0", 9, 5000)?;
    alpha.secondary("r0")?;
    images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))?;
    let value = tag::value(VOLUME, 0, &fs::read(beta.data("r0"))?[..512]);
    ensure!(value == tag::Value::Written(WriteId { client: 1, number: 1 }), "{value}");
    for node in &cluster.nodes {
        node.terminate()?;
    }
    Ok(())
}

fn truncate(path: &Path, bytes: u64) -> Result<()> {
    Ok(fs::File::options().write(true).open(path)?.set_len(bytes)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[test]
fn one_of_two_files_missing_is_refused() -> Result<()> {
    for (missing, code) in [("data", "data-missing"), ("meta", "meta-missing")] {
        Cluster::run(two_volumes(), |cluster| {
            let (alpha, beta) = established(cluster)?;
            beta.terminate()?;
            let file = if missing == "data" { beta.data("r0") } else { beta.meta("r0") };
            let kept = cluster.folder().join("kept");
            fs::rename(&file, &kept)?;
            is_refused(beta, code)?;
            ensure!(!file.exists(), "D2: an unmounted disk must not become an empty volume");
            beta.terminate()?;
            fs::rename(&kept, &file)?;
            comes_back(cluster, alpha, beta)
        })
        .with_context(|| format!("{missing} missing"))?;
    }
    Ok(())
}

#[test]
fn a_blank_disk_under_an_old_identity_is_filled_anew() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        beta.terminate()?;
        fs::remove_file(beta.data("r0"))?;
        fs::remove_file(beta.meta("r0"))?;
        // D2: the state folder remembers the volume, so the new files are Inconsistent, not fresh.
        alpha.terminate()?;
        beta.start()?;
        let status = beta.volume("r0")?;
        ensure!(status.disk == "Inconsistent", "{}", status.disk);
        beta.refused(&["primary", "r0"], 4)?;
        beta.refused(&["primary", "r0", "--force", "--yes", "r0"], 4)?;
        alpha.start()?;
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        let resync = beta.volume("r0")?.last_resync.context("a resync ended")?;
        ensure!(resync.compared_bytes >= SIZE, "all of it is compared (F38): {resync:?}");
        beta.terminate()?;
        comes_back(cluster, alpha, beta)
    })
}

#[test]
fn truncated_files_are_refused() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        beta.terminate()?;
        let kept = cluster.folder().join("kept");
        for (file, bytes, codes) in [
            (beta.data("r0"), SIZE / 2, ["truncated", "size-differs"]),
            (beta.meta("r0"), 8192, ["truncated", "meta-damaged"]),
            (beta.meta("r0"), 100, ["truncated", "meta-damaged"]),
        ] {
            copy(&file, &kept)?;
            truncate(&file, bytes)?;
            let code = codes[usize::from(is_refused(beta, codes[0]).is_err())];
            let status = beta.volume("r0")?;
            ensure!(status.has_problem(code), "{codes:?} were due: {}", status.problem_texts());
            ensure!(file.metadata()?.len() == bytes, "F35: the file is left as it is");
            beta.terminate()?;
            copy(&kept, &file)?;
        }
        comes_back(cluster, alpha, beta)
    })
}

/// What `status` says that would mend it does mend it, also where the node remembers the volume.
#[test]
fn the_remedies_that_are_shown_work() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        let blank = ["volume", "create", "r0", "--blank", "--yes", "r0"];
        type Damage = fn(&Node) -> Result<()>;
        let damages: [(&str, Damage); 4] = [
            ("truncated", |beta| truncate(&beta.data("r0"), SIZE / 2)),
            ("truncated", |beta| truncate(&beta.meta("r0"), 0)),
            ("meta-damaged", |beta| Ok(fs::write(beta.meta("r0"), vec![0x55; 1 << 20])?)),
            ("meta-missing", |beta| Ok(fs::remove_file(beta.meta("r0"))?)),
        ];
        for (code, damage) in damages {
            beta.terminate()?;
            damage(beta)?;
            beta.start()?;
            let status = beta.volume("r0")?;
            let remedies: String = status.problems.iter().map(|problem| problem.remedy.as_str()).collect();
            ensure!(status.has_problem(code), "{code} was due: {}", status.problem_texts());
            ensure!(remedies.contains(&format!("evenkeel {}", blank.join(" "))), "{code}: {remedies}");
            beta.ok(&blank)?;
            alpha.wait_synced("r0").with_context(|| code.to_owned())?;
            let status = beta.volume("r0")?;
            ensure!(status.problems.is_empty(), "{code}: {}", status.problem_texts());
        }
        // Or the data are said to be good: a copy of its own, until one of the two is given up. Beta's is kept.
        beta.terminate()?;
        alpha.secondary("r0")?;
        fs::remove_file(beta.meta("r0"))?;
        beta.start()?;
        beta.ok(&["volume", "create", "r0", "--adopt"])?;
        alpha.wait_for("r0", "the copies are unrelated", |status| status.has_problem("unrelated"))?;
        beta.ok(&["resolve", "r0", "--discard", "alpha"])?;
        beta.wait_synced("r0")?;
        let last = alpha.volume("r0")?.last_resync.context("a resync ended")?;
        ensure!(
            last.compared_bytes >= SIZE && last.reason.contains("alpha is resynced from beta"),
            "{last:?}"
        );
        alpha.primary("r0")?;
        beta.terminate()?;
        comes_back(cluster, alpha, beta)
    })
}

#[test]
fn metadata_of_another_volume_or_node_are_refused() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        beta.terminate()?;
        let (own, kept) = (beta.meta("r0"), cluster.folder().join("kept"));
        copy(&own, &kept)?;
        for (stranger, what) in
            [(beta.meta("r1"), "of another volume"), (alpha.meta("r0"), "of another node")]
        {
            copy(&stranger, &own)?;
            beta.start()?;
            let status = beta.volume("r0")?;
            let refused = status.has_problem("foreign") || status.has_problem("swapped");
            ensure!(refused && status.disk == "Diskless", "{what}: {}", status.problem_texts());
            beta.terminate()?;
        }
        copy(&kept, &own)?;
        comes_back(cluster, alpha, beta)
    })
}

#[test]
fn swapped_data_files_are_not_taken_for_good() -> Result<()> {
    let mut options = two_volumes();
    options.volumes[1].size = "32MiB".to_owned();
    Cluster::run(options, |cluster| {
        let (alpha, beta) = established(cluster)?;
        beta.terminate()?;
        let kept = cluster.folder().join("kept");
        let swap = || -> Result<()> {
            fs::rename(beta.data("r0"), &kept)?;
            fs::rename(beta.data("r1"), beta.data("r0"))?;
            Ok(fs::rename(&kept, beta.data("r1"))?)
        };
        swap()?;
        beta.start()?;
        for volume in ["r0", "r1"] {
            let status = beta.volume(volume)?;
            ensure!(status.disk == "Diskless" && !status.problems.is_empty(), "{volume}: {status:?}");
        }
        beta.terminate()?;
        swap()?;
        comes_back(cluster, alpha, beta)
    })
}

#[test]
fn foreign_files_are_refused_and_left_alone() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, beta) = established(cluster)?;
        beta.terminate()?;
        let (own, kept) = (beta.meta("r0"), cluster.folder().join("kept"));
        copy(&own, &kept)?;
        // A file of something else where the metadata should be.
        let stranger = vec![0x55; usize::try_from(own.metadata()?.len())?];
        fs::write(&own, &stranger)?;
        beta.start()?;
        let status = beta.volume("r0")?;
        ensure!(status.disk == "Diskless" && !status.problems.is_empty(), "{status:?}");
        beta.terminate()?;
        ensure!(fs::read(&own)? == stranger, "D3: a foreign file is left as it is");
        copy(&kept, &own)?;
        comes_back(cluster, alpha, beta)
    })
}

#[test]
fn a_restored_snapshot_is_never_source() -> Result<()> {
    // Of the secondary first, then of the node that was primary: it must not overwrite the newer copy.
    for of_primary in [false, true] {
        Cluster::run(two_volumes(), |cluster| {
            let (alpha, beta) = established(cluster)?;
            let kept = |name: &str| cluster.folder().join(name);
            let node = if of_primary { alpha } else { beta };
            node.terminate()?;
            copy(&node.data("r0"), &kept("data"))?;
            copy(&node.meta("r0"), &kept("meta"))?;
            for number in 2..5 {
                node.start()?;
                alpha.wait_synced("r0")?;
                alpha.primary("r0")?;
                write(alpha, "r0", number, u64::from(number) * 1000)?;
                alpha.wait_synced("r0")?;
                node.terminate()?;
            }
            copy(&kept("data"), &node.data("r0"))?;
            copy(&kept("meta"), &node.meta("r0"))?;
            let newer = fs::read(if of_primary { beta.data("r0") } else { alpha.data("r0") })?;
            node.start()?;
            beta.wait_synced("r0")?;
            for node in [alpha, beta] {
                ensure!(fs::read(node.data("r0"))? == newer, "{}: the newer copy must win", node.name());
            }
            Ok(())
        })
        .with_context(|| format!("snapshot of the primary: {of_primary}"))?;
    }
    Ok(())
}

#[test]
fn existing_data_are_taken_only_on_command() -> Result<()> {
    for command in
        [&["volume", "create", "r0", "--adopt"][..], &["volume", "create", "r0", "--blank", "--yes", "r0"]]
    {
        let adopt = command.contains(&"--adopt");
        Cluster::prepare(two_volumes(), |cluster| {
            let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
            let id = WriteId { client: 7, number: 7 };
            let mut data = tag::content(VOLUME, id, 0, 4096);
            data.resize(usize::try_from(SIZE)?, 0);
            fs::write(alpha.data("r0"), &data)?;
            alpha.start()?;
            let status = alpha.volume("r0")?;
            ensure!(status.has_problem("meta-missing") && status.disk == "Diskless", "{status:?}");
            ensure!(fs::read(alpha.data("r0"))? == data && !alpha.meta("r0").exists(), "nothing is touched");
            if !adopt {
                let refusal = alpha.refused(&command[..4], 4).context("--yes is missing")?;
                ensure!(refusal.contains("r0"), "{refusal}");
            }
            alpha.ok(command)?;
            beta.start()?;
            if adopt {
                // G3: the fresh one is target.
                beta.wait_synced("r0")?;
                ensure!(fs::read(beta.data("r0"))? == data, "the adopted data are on both nodes");
                alpha.primary("r0")?;
            } else {
                alpha.wait_for("r0", "it may not be promoted", |status| status.disk == "Inconsistent")?;
                alpha.refused(&["primary", "r0"], 4)?;
            }
            Ok(())
        })
        .with_context(|| format!("{command:?}"))?;
    }
    Ok(())
}

#[test]
fn a_second_daemon_on_the_same_disk_is_refused() -> Result<()> {
    Cluster::run(two_volumes(), |cluster| {
        let (alpha, _) = established(cluster)?;
        // The same folders: the sockets are in use.
        let second = evenkeel_tests::tools::run(&mut alpha.daemon()?)?;
        ensure!(second.status.code() == Some(4), "F41: {second}");
        ensure!(second.stderr.contains("in use"), "{second}");
        write(alpha, "r0", 2, 100)
    })
}
