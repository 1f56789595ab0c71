//! What FLUSH, FUA and CAN_MULTI_CONN promise (spec: "Ordering of messages and writes", "Transmission flags").
//!
//! From outside of the process one sees that effects are visible to every connection and to other readers of
//! the image. That they are on the medium is proven by the tests of the disk backend.

use anyhow::{Result, ensure};
use evenkeel_tests::{
    raw::{
        Address, Errno, Handshake, Transmission,
        pattern::pattern,
        protocol::{command, command_flag, export_flag},
    },
    scale::scaled,
    serve::{ServeOptions, Server},
};

use crate::common::{BLOCK, EXPORT, address, image_bytes, options, serve, simple, structured};

const COUNT: u64 = 100;

/// Spec "NBD_FLAG_CAN_MULTI_CONN": the effects of FLUSH MUST be visible across all connections when its reply
/// is sent: write-reply on one, flush-reply on another, read on a third (the wording of nbdkit's manual).
#[test]
fn ordering_flush_covers_replied_writes_of_other_connections() -> Result<()> {
    let server = serve()?;
    let (mut writer, mut flusher, mut reader) =
        (simple(&server)?, structured(&server)?, structured(&server)?);
    ensure!(writer.has(export_flag::CAN_MULTI_CONN), "CAN_MULTI_CONN is promised");
    for round in 0..scaled(COUNT) {
        let data = pattern(round, 8192);
        let offset = (round % 7) * 12_288 + 512 * (round % 3);
        writer.write(offset, &data)?;
        flusher.flush()?;
        ensure!(reader.read(offset, 8192)? == data, "round {round}: another connection reads something else");
        ensure!(image_bytes(&server, offset, 8192)? == data, "round {round}: the image holds something else");
    }
    Ok(())
}

/// Spec "NBD_FLAG_CAN_MULTI_CONN": the same for FUA.
#[test]
fn ordering_fua_is_visible_on_other_connections() -> Result<()> {
    let server = serve()?;
    let (mut writer, mut reader) = (structured(&server)?, simple(&server)?);
    for round in 0..scaled(COUNT) {
        let data = pattern(round, 4096);
        let offset = round % 1000 * 4096 + 512 * (round % 3);
        writer.write_with(command_flag::FUA, offset, &data)?;
        ensure!(
            reader.read(offset, BLOCK)? == data,
            "round {round}: another connection reads something else"
        );
        ensure!(image_bytes(&server, offset, 4096)? == data, "round {round}: the image holds something else");
    }
    Ok(())
}

/// Spec "Ordering of messages and writes": a write that was replied to is seen by every later read, on any
/// connection, without a flush: the cache, if any, is shared.
#[test]
fn ordering_replied_writes_are_read_everywhere() -> Result<()> {
    let server = serve()?;
    let mut clients = (0..4).map(|_| simple(&server)).collect::<Result<Vec<Transmission>>>()?;
    for round in 0..scaled(COUNT) {
        let data = pattern(round, 4096);
        let writer = usize::try_from(round)? % clients.len();
        clients[writer].write(4096, &data)?;
        for client in &mut clients {
            ensure!(client.read(4096, BLOCK)? == data, "round {round}: a stale read");
        }
    }
    Ok(())
}

/// Spec "Ordering of messages and writes": FLUSH counts for TRIM and WRITE_ZEROES too.
#[test]
fn ordering_flush_covers_trim_and_write_zeroes() -> Result<()> {
    let server = serve()?;
    let (mut writer, mut flusher, mut reader) = (simple(&server)?, simple(&server)?, simple(&server)?);
    for command in [command::TRIM, command::WRITE_ZEROES] {
        writer.write(0, &pattern(1, 1 << 20))?;
        writer.call(command, 0, 4096, 64 << 10, &[])?.expect(Errno::OK)?;
        flusher.flush()?;
        let data = reader.read(4096, 64 << 10)?;
        assert_eq!(data, image_bytes(&server, 4096, 64 << 10)?);
        // WRITE_ZEROES must; TRIM does by our design (rule R7), so that replicas stay identical.
        ensure!(data.iter().all(|&byte| byte == 0), "command {command} left other bytes than zeroes");
    }
    Ok(())
}

/// Spec "Ordering of messages and writes": a flush while writes are in flight on the same connection and on
/// others completes, and so do they.
#[test]
fn ordering_flush_amid_writes_completes() -> Result<()> {
    let server = serve()?;
    let mut clients = (0..3).map(|_| structured(&server)).collect::<Result<Vec<Transmission>>>()?;
    let data = pattern(1, 4096);
    for client in &mut clients {
        for index in 0..200 {
            client.send(command::WRITE, 0, index * 4096, BLOCK, &data)?;
            if index % 10 == 0 {
                client.send(command::FLUSH, 0, 0, 0, &[])?;
            }
        }
    }
    for client in &mut clients {
        for _ in 0..220 {
            client.wait_any()?.expect(Errno::OK)?;
        }
    }
    Ok(())
}

/// Spec "Ordering of messages and writes": an in-order pair on one connection (write replied, then read) over
/// TCP and unix socket at once: both kinds of connections serve the same device.
#[test]
fn ordering_holds_between_tcp_and_unix_socket() -> Result<()> {
    let server = Server::start(ServeOptions { tcp: true, ..options() })?;
    let tcp = Address::Tcp(server.tcp_address()?);
    let mut by_tcp = Handshake::open(&tcp)?.structured()?.go(EXPORT)?;
    let mut by_unix = Handshake::open(&address(&server))?.go(EXPORT)?;
    for round in 0..scaled(COUNT) {
        let data = pattern(round, 4096);
        by_tcp.write(0, &data)?;
        by_unix.flush()?;
        ensure!(by_unix.read(0, BLOCK)? == data, "round {round}: unix socket after TCP");
        let data = pattern(round + scaled(COUNT), 4096);
        by_unix.write_with(command_flag::FUA, 0, &data)?;
        ensure!(by_tcp.read(0, BLOCK)? == data, "round {round}: TCP after unix socket");
    }
    Ok(())
}
