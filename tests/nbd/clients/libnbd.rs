//! libnbd's programs: nbdinfo, nbdcopy, nbdsh.

use std::{ffi::OsStr, fs};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    serve::{DiskBackend, ServeOptions, Server},
    tools::{run, tool},
};
use serde_json::{Value, json};

use crate::image;

const MIB: u64 = 1 << 20;

fn nbdinfo_json(arguments: &[&str]) -> Result<Value> {
    let stdout = run(tool("nbdinfo")?.arg("--json").args(arguments))?.success()?;
    serde_json::from_str(&stdout).with_context(|| stdout)
}

/// Checks the members of `expected` in `actual` and ignores all others.
fn assert_members(actual: &Value, expected: &Value) {
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&actual[name], value, "{name} in {actual:#}");
    }
}

#[test]
fn nbdinfo_reports_what_the_export_can_do() -> Result<()> {
    let options = ServeOptions {
        size: 3 * MIB + 512,
        export: "data base/ü".to_owned(),
        description: Some("the books of 2026".to_owned()),
        ..ServeOptions::default()
    };
    let mut server = Server::start(options)?;
    let info = nbdinfo_json(&[&server.uri()])?;
    assert_members(&info, &json!({"protocol": "newstyle-fixed", "TLS": false, "structured": true}));
    let exports = info["exports"].as_array().context("exports")?;
    assert_eq!(exports.len(), 1, "{info:#}");
    assert_members(
        &exports[0],
        &json!({
            "export-name": "data base/ü",
            "description": "the books of 2026",
            "content": "data",
            "export-size": 3 * MIB + 512,
            "is_rotational": false,
            "is_read_only": false,
            "can_cache": true,
            "can_df": true,
            "can_flush": true,
            "can_fua": true,
            "can_multi_conn": true,
            "can_trim": true,
            "can_zero": true,
            "block_size_minimum": 1,
            "block_size_preferred": 4096,
            "block_size_maximum": 32 * MIB,
        }),
    );
    let contexts = exports[0]["contexts"].as_array().context("contexts")?;
    assert!(contexts.contains(&json!("base:allocation")), "{contexts:?}");
    server.stop()
}

#[test]
fn nbdinfo_lists_the_export() -> Result<()> {
    let options = ServeOptions {
        export: "ledger".to_owned(),
        description: Some("one of a kind".to_owned()),
        ..ServeOptions::default()
    };
    let mut server = Server::start(options)?;
    let uri = format!("nbd+unix:///?socket={}", server.socket().display());
    let exports = nbdinfo_json(&["--list", &uri])?["exports"].take();
    assert_eq!(exports.as_array().map(Vec::len), Some(1), "{exports:#}");
    assert_members(&exports[0], &json!({"export-name": "ledger", "description": "one of a kind"}));
    assert_members(&exports[0], &json!({"export-size": 64 * MIB}));
    let text = run(tool("nbdinfo")?.args(["--list", &uri]))?.success()?;
    assert!(text.contains("export=\"ledger\""), "{text}");
    server.stop()
}

#[test]
fn nbdinfo_shows_a_read_only_export() -> Result<()> {
    // The image exists before the server: a read-only server has no business creating one.
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("disk.img");
    image::create(&image, 1 << 20, 3)?;
    let options = ServeOptions { size: MIB, read_only: true, image: Some(image), ..ServeOptions::default() };
    let mut server = Server::start(options)?;
    let info = nbdinfo_json(&[&server.uri()])?;
    assert_members(&info["exports"][0], &json!({"is_read_only": true, "can_multi_conn": true}));
    run(tool("nbdinfo")?.args(["--is", "read-only", &server.uri()]))?.success()?;
    run(tool("nbdinfo")?.args(["--can", "write", &server.uri()]))?.failure()?;
    // The client is told to send the write although it knows better.
    let script =
        "h.set_strict_mode(0)\ntry:\n    h.pwrite(b'x' * 512, 0)\nexcept nbd.Error as e:\n    print(e.errno)";
    let stdout = run(tool("nbdsh")?.args(["-u", &server.uri(), "-c", script]))?.success()?;
    assert_eq!(stdout.trim(), "EPERM");
    server.stop()
}

#[test]
fn an_unknown_export_is_refused_with_a_text() -> Result<()> {
    let mut server = Server::start(ServeOptions { export: "right".to_owned(), ..ServeOptions::default() })?;
    let uri = format!("nbd+unix:///wrong?socket={}", server.socket().display());
    let stderr = run(tool("nbdinfo")?.arg(uri))?.failure()?;
    assert!(stderr.contains("wrong"), "the server's answer names the export: {stderr}");
    run(tool("nbdinfo")?.args(["--size", &server.uri()]))?.success()?;
    server.stop()
}

/// `nbdinfo --map`, without the lines of equal kind being split: (offset, length, flags).
fn map(server: &Server) -> Result<Vec<(u64, u64, u64)>> {
    let stdout = run(tool("nbdinfo")?.args(["--map", "--json", &server.uri()]))?.success()?;
    let rows: Vec<Value> = serde_json::from_str(&stdout).with_context(|| stdout)?;
    let number = |row: &Value, name: &str| row[name].as_u64().with_context(|| format!("{name} in {row}"));
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for row in &rows {
        let (offset, len, flags) = (number(row, "offset")?, number(row, "length")?, number(row, "type")?);
        match runs.last_mut() {
            Some(last) if last.2 == flags && last.0 + last.1 == offset => last.1 += len,
            _ => runs.push((offset, len, flags)),
        }
    }
    Ok(runs)
}

fn nbdinfo_maps_data_and_holes(backend: DiskBackend) -> Result<()> {
    let (data, hole_and_zero) = (0, 3);
    let mut server = Server::start(ServeOptions { size: 16 * MIB, backend, ..ServeOptions::default() })?;
    assert_eq!(map(&server)?, [(0, 16 * MIB, hole_and_zero)]);

    let write = "h.pwrite(b'x' * 131072, 1048576); h.flush()";
    run(tool("nbdsh")?.args(["-u", &server.uri(), "-c", write]))?.success()?;
    let written = [
        (0, MIB, hole_and_zero),
        (MIB, 128 << 10, data),
        (MIB + (128 << 10), 15 * MIB - (128 << 10), hole_and_zero),
    ];
    assert_eq!(map(&server)?, written);

    // Text for people, on the same state.
    let text = run(tool("nbdinfo")?.args(["--map", &server.uri()]))?.success()?;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["1048576", "131072", "0", "data"]), "{text}");

    let trim = "h.trim(131072, 1048576); h.flush()";
    run(tool("nbdsh")?.args(["-u", &server.uri(), "-c", trim]))?.success()?;
    assert_eq!(map(&server)?, [(0, 16 * MIB, hole_and_zero)]);
    server.stop()
}

#[test]
fn nbdinfo_maps_data_and_holes_with_io_uring() -> Result<()> {
    nbdinfo_maps_data_and_holes(DiskBackend::IoUring)
}

#[test]
fn nbdinfo_maps_data_and_holes_with_pread() -> Result<()> {
    nbdinfo_maps_data_and_holes(DiskBackend::Pread)
}

/// nbdcopy gives each thread 128 MiB at a time, and each thread a connection: four need more than this.
const NBDCOPY_PIECE: u64 = 128 * MIB;

fn nbdcopy_both_ways(backend: DiskBackend) -> Result<()> {
    const SIZE: u64 = 3 * NBDCOPY_PIECE + 32 * MIB + 1536;
    let mut server = Server::start(ServeOptions { size: SIZE, backend, ..ServeOptions::default() })?;
    let (source, back) = (server.folder().join("source.img"), server.folder().join("back.img"));
    let uri = server.uri();
    let nbdcopy = |from: &OsStr, to: &OsStr, more: &[&str]| -> Result<()> {
        let four = ["--threads=4", "--connections=4", "--flush"];
        run(tool("nbdcopy")?.args(four).args(more).arg(from).arg(to))?.success().map(drop)
    };

    image::create_with_gaps(&source, SIZE, 1, 16 * MIB)?;
    nbdcopy(source.as_ref(), uri.as_ref(), &[])?;
    nbdcopy(uri.as_ref(), back.as_ref(), &[])?;
    image::assert_equal(&source, &back)?;

    // Over old content: what is a hole in the new source must replace data. The way back reads the holes too.
    image::create_with_gaps(&source, SIZE, 2, 20 * MIB)?;
    nbdcopy(source.as_ref(), uri.as_ref(), &["--request-size=1048576"])?;
    fs::remove_file(&back)?;
    nbdcopy(uri.as_ref(), back.as_ref(), &["--no-extents"])?;
    image::assert_equal(&source, &back)?;

    server.stop()?;
    image::assert_equal(&source, server.image())
}

#[test]
fn nbdcopy_both_ways_with_io_uring() -> Result<()> {
    nbdcopy_both_ways(DiskBackend::IoUring)
}

#[test]
fn nbdcopy_both_ways_with_pread() -> Result<()> {
    nbdcopy_both_ways(DiskBackend::Pread)
}

#[test]
fn nbdcopy_opens_four_connections() -> Result<()> {
    let mut server = Server::start(ServeOptions { size: 4 * NBDCOPY_PIECE, ..ServeOptions::default() })?;
    let arguments = ["-v", "--threads=4", "--connections=4", "--no-extents", "--request-size=33554432"];
    let copied = run(tool("nbdcopy")?.args(arguments).arg(server.uri()).arg("null:"))?;
    let log = copied.stderr.clone();
    copied.success()?;
    for connection in ["src0", "src1", "src2", "src3"] {
        ensure!(log.contains(&format!("{connection}: nbd_aio_pread")), "{connection} was not used");
    }
    server.stop()
}

/// Runs one script of `nbdsh/` with the export open as `h`; it fails by a Python exception.
fn nbdsh(server: &Server, script: &str) -> Result<()> {
    let uri = format!("uri = '{}'", server.uri());
    let mut command = tool("nbdsh")?;
    command.args(["--base-allocation", "-u", &server.uri(), "-c", &uri, "-c", script]);
    let stdout = run(&mut command)?.success()?;
    ensure!(stdout.trim_end().ends_with("done"), "the script did not come to its end: {stdout}");
    Ok(())
}

/// One test for each script and backend, so that a failure names both.
macro_rules! nbdsh_tests {
    ($($name:ident, $with_io_uring:ident, $with_pread:ident;)*) => {$(
        #[test]
        fn $with_io_uring() -> Result<()> {
            let mut server = Server::start(ServeOptions { backend: DiskBackend::IoUring, ..ServeOptions::default() })?;
            nbdsh(&server, include_str!(concat!("nbdsh/", stringify!($name), ".py")))?;
            server.stop()
        }

        #[test]
        fn $with_pread() -> Result<()> {
            let mut server = Server::start(ServeOptions { backend: DiskBackend::Pread, ..ServeOptions::default() })?;
            nbdsh(&server, include_str!(concat!("nbdsh/", stringify!($name), ".py")))?;
            server.stop()
        }
    )*};
}

nbdsh_tests! {
    commands_and_flags, nbdsh_commands_and_flags_with_io_uring, nbdsh_commands_and_flags_with_pread;
    errors, nbdsh_errors_with_io_uring, nbdsh_errors_with_pread;
    unaligned, nbdsh_unaligned_with_io_uring, nbdsh_unaligned_with_pread;
    in_flight, nbdsh_in_flight_with_io_uring, nbdsh_in_flight_with_pread;
    multi_conn, nbdsh_multi_conn_with_io_uring, nbdsh_multi_conn_with_pread;
}
