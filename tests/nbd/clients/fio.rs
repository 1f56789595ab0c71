//! fio with `ioengine=nbd`: random writes at queue depth 32 over several jobs and connections, each block
//! with a checksum that fio reads back and verifies.

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    scale::scaled,
    serve::{DiskBackend, ServeOptions, Server},
    tools::{run, tool},
};
use serde_json::Value;

const JOBS: u64 = 4;

/// Each job has a part of the device to itself, so that no job overwrites what another will verify.
fn part() -> u64 {
    scaled(16 << 20)
}

/// Runs fio with verification and checks its report: every job wrote its part, read it back, and found no error.
fn verify(backend: DiskBackend, extra: &[&str]) -> Result<()> {
    let part = part();
    let mut server = Server::start(ServeOptions { size: JOBS * part, backend, ..ServeOptions::default() })?;
    let mut fio = tool("fio")?;
    fio.current_dir(server.folder()).args(["--name=verify", "--ioengine=nbd", "--rw=randwrite"]);
    fio.args(["--output-format=json", "--iodepth=32", "--randseed=2026"]);
    fio.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"]);
    fio.arg(format!("--uri={}", server.uri())).arg(format!("--numjobs={JOBS}"));
    fio.arg(format!("--size={part}")).arg(format!("--offset_increment={part}")).args(extra);
    let stdout = run(&mut fio)?.success()?;
    // fio prints notes before the report.
    let report = stdout.find('{').map(|at| &stdout[at..]).with_context(|| stdout.clone())?;
    let report: Value = serde_json::from_str(report).with_context(|| stdout.clone())?;
    let jobs = report["jobs"].as_array().context("jobs")?;
    ensure!(jobs.len() as u64 == JOBS, "{} jobs in {report:#}", jobs.len());
    for job in jobs {
        assert_eq!(job["error"], 0, "{job:#}");
        assert!(job["write"]["io_bytes"].as_u64() >= Some(part), "{:#}", job["write"]);
        assert!(job["read"]["io_bytes"].as_u64() >= Some(part), "{:#}", job["read"]);
    }
    server.stop()
}

#[test]
fn fio_verifies_4k_blocks_with_io_uring() -> Result<()> {
    verify(DiskBackend::IoUring, &["--bs=4k", "--verify_backlog=512", "--fsync=256"])
}

#[test]
fn fio_verifies_4k_blocks_with_pread() -> Result<()> {
    verify(DiskBackend::Pread, &["--bs=4k", "--verify_backlog=512", "--fsync=256"])
}

#[test]
fn fio_verifies_mixed_sizes_with_io_uring() -> Result<()> {
    verify(DiskBackend::IoUring, &["--bsrange=512-256k", "--bs_unaligned=0", "--blockalign=512"])
}

#[test]
fn fio_verifies_mixed_sizes_with_pread() -> Result<()> {
    verify(DiskBackend::Pread, &["--bsrange=512-256k", "--bs_unaligned=0", "--blockalign=512"])
}

#[test]
fn fio_detects_a_changed_byte() -> Result<()> {
    // The judge is able to fail: what fio wrote is changed behind its back, and it says so.
    let mut server = Server::start(ServeOptions { size: part(), ..ServeOptions::default() })?;
    let uri = format!("--uri={}", server.uri());
    let job = ["--name=verify", "--ioengine=nbd", "--rw=write", "--bs=4k", "--iodepth=32", "--verify=crc32c"];
    let size = format!("--size={}", part());
    let fio = |phase: &str| -> Result<_> {
        run(tool("fio")?.current_dir(server.folder()).args(job).args([
            phase,
            &uri,
            &size,
            "--verify_fatal=1",
            "--verify_state_save=0",
        ]))
    };
    fio("--do_verify=0")?.success()?;
    fio("--verify_only=1")?.success()?;
    run(tool("qemu-io")?.args(["-f", "raw", "-c", "write -P 0 4097000 1", &server.uri()]))?.success()?;
    let stderr = fio("--verify_only=1")?.failure()?;
    ensure!(stderr.contains("verify"), "{stderr}");
    server.stop()
}
