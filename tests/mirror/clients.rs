//! Real clients on a mirrored volume: what they write is on both nodes, readable without us (design D1).

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::Cluster,
    judge::convergence::images_equal,
    raw::pattern::pattern,
    tools::{run, tool},
};

#[test]
fn what_real_clients_write_is_on_both_nodes() -> Result<()> {
    Cluster::run(evenkeel_tests::cluster::ClusterOptions::default(), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        let uri = alpha.uri("r0");

        let source = cluster.folder().join("source.img");
        std::fs::write(&source, pattern(5, 64 << 20))?;
        run(tool("nbdcopy")?.arg("--flush").arg(&source).arg(&uri))?.success()?;
        run(tool("qemu-io")?
            .args(["-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "discard 2M 1M"])
            .args([
                "-c",
                "write -z 4M 1M",
                "-c",
                "flush",
                "-c",
                "read -P 0x5a 1M 64k",
                "-c",
                "read -P 0 2M 1M",
            ])
            .arg(&uri))?
        .success()?;
        run(tool("fio")?
            .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16"])
            .args(["--offset=16M", "--size=16M", "--io_size=8M", "--verify=crc32c", "--do_verify=1"])
            .args(["--verify_fatal=1", "--verify_state_save=0", "--randseed=1", "--output-format=terse"])
            .arg(format!("--uri={uri}")))?
        .success()?;
        let info = run(tool("nbdinfo")?.arg("--json").arg(&uri))?.success()?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        ensure!(info["exports"][0]["can_multi_conn"] == true, "{info}");

        alpha.secondary("r0")?;
        images_equal(0, &alpha.data("r0"), &beta.data("r0"))?;
        let image = std::fs::read(beta.data("r0"))?;
        let source = std::fs::read(&source)?;
        ensure!(image[..1 << 20] == source[..1 << 20], "the first MiB is as nbdcopy wrote it");
        ensure!(
            image[1 << 20..(1 << 20) + (64 << 10)].iter().all(|&byte| byte == 0x5a),
            "what qemu-io wrote"
        );
        ensure!(
            image[2 << 20..3 << 20].iter().all(|&byte| byte == 0),
            "what was discarded reads as zeroes (R7)"
        );
        ensure!(image[4 << 20..5 << 20].iter().all(|&byte| byte == 0), "what was zeroed");

        // The other way round, from the other node.
        beta.primary("r0")?;
        let copy = cluster.folder().join("copy.img");
        run(tool("nbdcopy")?.arg(beta.uri("r0")).arg(&copy))?.success()?;
        ensure!(std::fs::read(&copy)? == image, "nbdcopy reads what the image holds");
        run(tool("qemu-img")?.args(["compare", "-f", "raw", "-F", "raw"]).arg(&copy).arg(beta.uri("r0")))?
            .success()
            .context("qemu-img compare")?;
        Ok(())
    })
}
