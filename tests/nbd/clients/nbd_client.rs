//! `nbd-client`, the program that attaches an export to the kernel's `/dev/nbdX`. Attaching needs the kernel
//! module, which a test machine may lack; its negotiation is tested by listing.

use anyhow::{Result, ensure};
use evenkeel_tests::{
    serve::{ServeOptions, Server},
    tools::{run, tool},
};

#[test]
fn nbd_client_lists_the_export_over_tcp() -> Result<()> {
    let options = ServeOptions { export: "ledger".to_owned(), tcp: true, ..ServeOptions::default() };
    let mut server = Server::start(options)?;
    let address = server.tcp_address()?;
    let listed =
        run(tool("nbd-client")?.args(["-l", "127.0.0.1", &address.port().to_string()]))?.success()?;
    // It prints "Negotiation: .." and then one name a line.
    let names: Vec<&str> = listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(names, ["ledger"], "{listed}");
    server.stop()
}

#[test]
fn nbd_client_lists_the_export_over_a_unix_socket() -> Result<()> {
    let mut server = Server::start(ServeOptions { export: "ledger".to_owned(), ..ServeOptions::default() })?;
    let listed = run(tool("nbd-client")?.arg("-l").arg("-unix").arg(server.socket()))?.success()?;
    ensure!(listed.lines().any(|line| line.trim() == "ledger"), "{listed}");
    server.stop()
}

#[test]
fn both_listeners_serve_the_same_export() -> Result<()> {
    let mut server = Server::start(ServeOptions { tcp: true, ..ServeOptions::default() })?;
    let write = ["-f", "raw", "-c", "write -P 0x5a 64k 64k", &server.tcp_uri()?];
    run(tool("qemu-io")?.args(write))?.success()?;
    let read = ["-f", "raw", "-c", "read -P 0x5a 64k 64k", &server.uri()];
    run(tool("qemu-io")?.args(read))?.success()?;
    server.stop()
}
