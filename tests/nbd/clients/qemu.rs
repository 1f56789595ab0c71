//! qemu's programs: qemu-img and qemu-io.

use std::{os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    serve::{DiskBackend, ServeOptions, Server},
    tools::{Output, run, tool},
};
use serde_json::Value;

use crate::image;

const SIZE: usize = 32 << 20;

fn start(backend: DiskBackend) -> Result<Server> {
    Server::start(ServeOptions { size: SIZE as u64, backend, ..ServeOptions::default() })
}

fn qemu_img(arguments: &[&str]) -> Result<Output> {
    run(tool("qemu-img")?.args(arguments))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("paths of the tests are UTF-8")
}

#[test]
fn qemu_img_info_shows_size_and_format() -> Result<()> {
    let mut server = start(DiskBackend::Auto)?;
    let stdout = qemu_img(&["info", "--output=json", "-f", "raw", &server.uri()])?.success()?;
    let info: Value = serde_json::from_str(&stdout).with_context(|| stdout)?;
    assert_eq!(info["virtual-size"], SIZE, "{info:#}");
    assert_eq!(info["format"], "raw", "{info:#}");
    server.stop()
}

#[test]
fn qemu_img_converts_and_compares() -> Result<()> {
    let mut server = start(DiskBackend::Auto)?;
    let uri = server.uri();
    let (source, back) = (server.folder().join("source.img"), server.folder().join("back.qcow2"));
    image::create(&source, SIZE as u64, 11)?;

    // Into the export (-n: it exists), out of order and with several requests in flight.
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", text(&source)?, &uri])?
        .success()?;
    let same = qemu_img(&["compare", "-f", "raw", "-F", "raw", text(&source)?, &uri])?.success()?;
    assert!(same.contains("Images are identical."), "{same}");

    // Out of it, into another format, which is then compared with the export.
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &uri, text(&back)?])?.success()?;
    let same = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", text(&back)?, &uri])?.success()?;
    assert!(same.contains("Images are identical."), "{same}");

    // The comparison is able to fail.
    let write = ["-f", "raw", "-c", "write -P 0xee 5M 512", &uri];
    run(tool("qemu-io")?.args(write))?.success()?;
    let different = qemu_img(&["compare", "-f", "raw", "-F", "raw", text(&source)?, &uri])?;
    assert_eq!(different.status.code(), Some(1), "{different}");

    // Over what was there: zeroes of the source must replace it (`--target-is-zero` is not given).
    image::create(&source, SIZE as u64, 12)?;
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", text(&source)?, &uri])?.success()?;
    server.stop()?;
    image::assert_equal(&source, server.image())
}

#[test]
fn qemu_img_map_tells_data_from_holes() -> Result<()> {
    let mut server = start(DiskBackend::Auto)?;
    qemu_io(&server, &["write -P 0x55 4M 1M", "flush"])?;
    let stdout = qemu_img(&["map", "--output=json", "-f", "raw", &server.uri()])?.success()?;
    let rows: Vec<Value> = serde_json::from_str(&stdout).with_context(|| stdout)?;
    let data: u64 =
        rows.iter().filter(|row| row["data"] == true).filter_map(|row| row["length"].as_u64()).sum();
    assert_eq!(data, 1 << 20, "{rows:?}");
    assert!(
        rows.iter()
            .filter(|row| row["data"] == true)
            .all(|row| { row["start"].as_u64().is_some_and(|start| (4 << 20..5 << 20).contains(&start)) }),
        "{rows:?}"
    );
    server.stop()
}

/// Runs qemu-io's commands on the export, one after the other. qemu-io fails when a `read -P` finds other bytes.
fn qemu_io(server: &Server, commands: &[&str]) -> Result<String> {
    let mut qemu_io = tool("qemu-io")?;
    qemu_io.args(["-f", "raw"]);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    let stdout = run(qemu_io.arg(server.uri()))?.success()?;
    ensure!(!stdout.contains("failed"), "{stdout}");
    Ok(stdout)
}

fn qemu_io_commands(backend: DiskBackend) -> Result<()> {
    let mut server = start(backend)?;
    let stdout = qemu_io(
        &server,
        &[
            // Vectored, with FUA.
            "writev -f -P 0x11 0 4k 8k 512",
            "read -P 0x11 0 12800",
            "read -P 0 12800 1k",
            // At odd offsets: qemu reads, modifies and writes by itself only above the minimum block size.
            "write -P 0x22 1000001 777",
            "read -P 0x22 1000001 777",
            "read -P 0 1000000 1",
            // Zeroes: allocated, unmapped, and unmapped with FUA.
            "write -P 0x33 1M 1M",
            "write -z 1M 64k",
            "write -zu 1088k 64k",
            "write -zuf 1152k 64k",
            "read -P 0 1M 192k",
            "read -P 0x33 1216k 832k",
            // Discard reads back as zeroes.
            "write -P 0x44 4M 1M",
            "discard 4M 512k",
            "read -P 0 4M 512k",
            "read -P 0x44 4608k 512k",
            // Several in flight, then a flush.
            "aio_write -P 0x55 8M 1M",
            "aio_write -P 0x66 9M 1M",
            "aio_write -zu 10M 1M",
            "aio_flush",
            "aio_read -P 0x55 8M 1M",
            "aio_read -P 0x66 9M 1M",
            "aio_read -P 0 10M 1M",
            "aio_flush",
            "flush",
            // The last bytes of the device.
            "write -f -P 0x77 33553920 512",
            "read -P 0x77 33553920 512",
        ],
    )?;
    assert!(stdout.contains("wrote 12800/12800 bytes at offset 0"), "{stdout}");
    assert!(stdout.contains("discard 524288/524288 bytes at offset 4194304"), "{stdout}");

    // The judge is able to fail.
    let wrong = run(tool("qemu-io")?.args(["-f", "raw", "-c", "read -P 0x12 0 4k", &server.uri()]))?;
    assert_eq!(wrong.status.code(), Some(1), "{wrong}");

    // All of it is in the image, not only in what the server says.
    server.stop()?;
    let file = std::fs::read(server.image())?;
    let all = |range: std::ops::Range<usize>, byte: u8| file[range].iter().all(|&b| b == byte);
    assert!(all(0..12_800, 0x11));
    assert!(all(1_000_001..1_000_778, 0x22));
    assert!(all(1 << 20..(1 << 20) + (192 << 10), 0));
    assert!(all((4 << 20)..(4 << 20) + (512 << 10), 0));
    assert!(all(8 << 20..9 << 20, 0x55) && all(9 << 20..10 << 20, 0x66) && all(10 << 20..11 << 20, 0));
    assert!(all(SIZE - 512..SIZE, 0x77));
    Ok(())
}

#[test]
fn qemu_io_commands_with_io_uring() -> Result<()> {
    qemu_io_commands(DiskBackend::IoUring)
}

#[test]
fn qemu_io_commands_with_pread() -> Result<()> {
    qemu_io_commands(DiskBackend::Pread)
}

/// WRITE_ZEROES with NO_HOLE (`write -z`) takes space, without it (`write -zu`) and TRIM (`discard`) give it back.
fn zeroes_take_and_give_back_space(backend: DiskBackend) -> Result<()> {
    let mut server = start(backend)?;
    let used = |server: &Server| -> Result<u64> { Ok(std::fs::metadata(server.image())?.blocks() * 512) };
    let mib = 1 << 20;
    let empty = used(&server)?;
    qemu_io(&server, &["write -z 12M 2M", "flush"])?;
    let zeroed = used(&server)?;
    assert!(zeroed >= empty + 2 * mib, "NO_HOLE must allocate: {empty} bytes before, {zeroed} after");
    qemu_io(&server, &["write -zu 12M 2M", "flush"])?;
    let unmapped = used(&server)?;
    assert!(unmapped < empty + mib, "the space was not given back: {empty}, {zeroed}, {unmapped}");
    qemu_io(&server, &["write -P 1 20M 2M", "flush", "discard 20M 2M", "flush"])?;
    let discarded = used(&server)?;
    assert!(discarded < empty + mib, "the space was not given back: {empty}, {discarded}");
    server.stop()
}

#[test]
fn zeroes_take_and_give_back_space_with_io_uring() -> Result<()> {
    zeroes_take_and_give_back_space(DiskBackend::IoUring)
}

#[test]
fn zeroes_take_and_give_back_space_with_pread() -> Result<()> {
    zeroes_take_and_give_back_space(DiskBackend::Pread)
}

fn flushed_data_survive_a_killed_server(backend: DiskBackend) -> Result<()> {
    let mut server = start(backend)?;
    qemu_io(
        &server,
        &["write -P 0xa1 0 1M", "write -P 0xa2 1234567 4321", "flush", "write -f -P 0xa3 3M 4k"],
    )?;
    server.kill()?;
    server.restart()?;
    qemu_io(&server, &["read -P 0xa1 0 1M", "read -P 0xa2 1234567 4321", "read -P 0xa3 3M 4k"])?;
    server.stop()
}

#[test]
fn flushed_data_survive_a_killed_server_with_io_uring() -> Result<()> {
    flushed_data_survive_a_killed_server(DiskBackend::IoUring)
}

#[test]
fn flushed_data_survive_a_killed_server_with_pread() -> Result<()> {
    flushed_data_survive_a_killed_server(DiskBackend::Pread)
}
