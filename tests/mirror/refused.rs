//! Peers that are refused: a wrong key, another cluster, a volume that only one has, data that have nothing in common.
//! Both values are named and a problem code is shown on both sides, and no metadata change (design section 8, F33).
//!
//! What happens on the wire (no byte of ours is read, replayed datagrams, spliced sessions) is tested in
//! `engine/driver/src/link`.

use std::fs;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::cluster::{Cluster, ClusterOptions, Links, Node, VolumeStatus};

/// Two nodes that have never met: the cable is cut while they start. `change` makes the configuration of beta.
fn strangers(
    change: impl FnOnce(&Cluster, String) -> Result<String>,
    test: impl FnOnce(&Node, &Node) -> Result<()>,
) -> Result<()> {
    let options = ClusterOptions { links: Links::Namespaces, ..ClusterOptions::default() };
    Cluster::prepare(options, |cluster| {
        let network = cluster.network.as_ref().context("there are namespaces")?;
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        beta.configure(&change(cluster, cluster.config())?)?;
        network.cut(0)?;
        alpha.start()?;
        beta.start()?;
        let before = [fs::read(alpha.meta("r0"))?, fs::read(beta.meta("r0"))?];
        network.mend(0)?;
        test(alpha, beta)?;
        let after = [fs::read(alpha.meta("r0"))?, fs::read(beta.meta("r0"))?];
        ensure!(before == after, "a refused peer must not change metadata");
        Ok(())
    })
}

/// Waits until the peer is shown as refused, with this code and these texts.
fn is_refused(node: &Node, peer: &str, code: &str, texts: &[&str]) -> Result<()> {
    let wanted =
        |status: &VolumeStatus| status.peer(peer).connection == "refused" && status.has_problem(code);
    let status = node.wait_for("r0", &format!("{peer} is refused with {code}"), wanted)?;
    let shown = status.problem_texts();
    for text in texts {
        ensure!(shown.contains(text), "{}: {text} must be named: {shown}", node.name());
    }
    Ok(())
}

#[test]
fn another_cluster() -> Result<()> {
    strangers(
        |_, config| Ok(config.replace("cluster = \"test\"", "cluster = \"prod\"")),
        |alpha, beta| {
            is_refused(alpha, "beta", "peer-cluster", &["test", "prod"])?;
            is_refused(beta, "alpha", "peer-cluster", &["test", "prod"])
        },
    )
}

#[test]
fn an_unknown_key() -> Result<()> {
    strangers(
        // Beta expects another key of alpha than alpha has.
        |cluster, config| {
            let known = cluster.nodes[0].fingerprint();
            let flip = |digit: char| if digit == '0' { '1' } else { '0' };
            let wrong: String = known[..8].chars().chain(known[8..].chars().map(flip)).collect();
            Ok(config.replace(known, &wrong))
        },
        |alpha, beta| {
            is_refused(beta, "alpha", "peer-identity", &[alpha.fingerprint()])?;
            is_refused(alpha, "beta", "peer-identity", &[])
        },
    )
}

#[test]
fn data_that_have_nothing_in_common() -> Result<()> {
    let options = ClusterOptions { links: Links::Namespaces, ..ClusterOptions::default() };
    Cluster::prepare(options, |cluster| {
        let network = cluster.network.as_ref().context("there are namespaces")?;
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        network.cut(0)?;
        // Each adopts data of its own: two volumes, both taken for good.
        for (node, byte) in [(alpha, 1), (beta, 2)] {
            fs::write(node.data("r0"), vec![byte; 64 << 20])?;
            node.start()?;
            node.ok(&["volume", "create", "r0", "--adopt"])?;
        }
        network.mend(0)?;
        for (node, peer) in [(alpha, "beta"), (beta, "alpha")] {
            let refused = |status: &VolumeStatus| status.peer(peer).connection == "refused";
            let status = node.wait_for("r0", &format!("{peer} is refused"), refused)?;
            ensure!(!status.problems.is_empty(), "{}: a problem must say so", node.name());
        }
        for (node, byte) in [(alpha, 1), (beta, 2)] {
            ensure!(fs::read(node.data("r0"))?.iter().all(|&found| found == byte), "no byte moved (G6)");
        }
        let generation = |node: &Node| -> Result<String> {
            node.volume("r0")?.generation.context("an adopted copy has a generation")
        };
        // The ids come from the first generation: both are named, on both sides.
        let (one, other) = (generation(alpha)?, generation(beta)?);
        for (node, peer) in [(alpha, "beta"), (beta, "alpha")] {
            is_refused(node, peer, "unrelated", &[&one, &other, "resolve"])?;
        }
        let shown = beta.ok(&["resolve", "r0", "--discard", "beta", "--dry-run"])?;
        ensure!(shown.contains("64 MiB") && shown.contains("beta"), "{shown}");
        alpha.refused(&["resolve", "r0", "--discard", "beta", "--yes", "r1"], 4)?;
        alpha.ok(&["resolve", "r0", "--discard", "beta"])?;
        for node in [alpha, beta] {
            node.wait_synced("r0")?;
            ensure!(fs::read(node.data("r0"))?.iter().all(|&found| found == 1), "alpha's data were kept");
        }
        // They belong together from now on.
        beta.terminate()?;
        beta.start()?;
        alpha.wait_synced("r0")?;
        alpha.primary("r0")
    })
}

#[test]
fn a_volume_that_only_the_other_has() -> Result<()> {
    strangers(
        |_, config| Ok(config.replace("volume.r0", "volume.r1")),
        |alpha, beta| {
            let lacks = |node: &Node, volume: &str, other: &str| -> Result<()> {
                let what = format!("the peer has no {volume}");
                let status = node.wait_for(volume, &what, |status| status.has_problem("peer-volume"))?;
                let shown = status.problem_texts();
                ensure!(shown.contains(volume) && shown.contains(other), "{shown}");
                Ok(())
            };
            lacks(alpha, "r0", "r1")?;
            lacks(beta, "r1", "r0")
        },
    )
}

#[test]
fn one_node_id_twice() -> Result<()> {
    Cluster::run(ClusterOptions::default(), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        alpha.terminate()?;
        beta.terminate()?;
        // Beta's machine is set up anew, with a copy of alpha's disk.
        for file in [Node::data as fn(&Node, &str) -> std::path::PathBuf, Node::meta] {
            fs::copy(file(alpha, "r0"), file(beta, "r0"))?;
        }
        fs::remove_dir_all(beta.state_folder().join("volumes"))?;
        let hashes =
            || -> Result<[Vec<u8>; 2]> { Ok([fs::read(alpha.meta("r0"))?, fs::read(beta.meta("r0"))?]) };
        alpha.start()?;
        beta.start()?;
        let before = hashes()?;
        for (node, peer) in [(alpha, "beta"), (beta, "alpha")] {
            is_refused(node, peer, "peer-disk", &["alpha", "beta", "node "])?;
        }
        ensure!(before == hashes()?, "a refused peer must not change metadata");
        // What the remedy says.
        beta.terminate()?;
        fs::remove_file(beta.data("r0"))?;
        fs::remove_file(beta.meta("r0"))?;
        fs::remove_dir_all(beta.state_folder().join("volumes"))?;
        beta.start()?;
        alpha.wait_synced("r0")
    })
}
