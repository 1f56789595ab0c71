//! Requests, simple replies and the end of a connection (spec: "Transmission", "Request message", "Simple reply
//! message", "Terminating the transmission phase", "Transmission flags").

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Errno, Request,
        pattern::pattern,
        protocol::{EXTENDED_REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, command, command_flag, export_flag},
    },
    tools::wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{BLOCK, EXPORT, SIZE, handshake, image_bytes, serve, simple, structured};

/// Spec "Request message": after a wrong magic nothing can be in step; the server closes (a hard disconnect
/// "if it detects a violation of a mandatory condition"), without a reply. Historic and extended magics are
/// wrong too.
#[test]
fn request_message_wrong_magic_closes_the_connection() -> Result<()> {
    let server = serve()?;
    for magic in [0, 0x1256_0953, EXTENDED_REQUEST_MAGIC, 0x2560_9514, SIMPLE_REPLY_MAGIC, u32::MAX] {
        let mut client = simple(&server)?;
        let request = Request { command: command::READ, length: BLOCK, cookie: 1, ..Request::default() };
        client.stream().write_all(&request.encode_with_magic(magic))?;
        client.stream().expect_close().with_context(|| format!("magic {magic:#x}"))?;
    }
    simple(&server)?.check_in_step()
}

/// Spec "Request message": requests before a wrong magic were right, so a write among them that was replied to
/// is on the device.
#[test]
fn request_message_wrong_magic_does_not_undo_what_was_replied() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    let data = pattern(5, 4096);
    client.write(8192, &data)?;
    client.stream().write_all(&Request::default().encode_with_magic(0))?;
    client.stream().expect_close()?;
    assert_eq!(simple(&server)?.read(8192, BLOCK)?, data);
    Ok(())
}

/// Spec "Simple reply message": the format of a reply to READ and to WRITE, byte for byte.
#[test]
fn simple_reply_message_has_the_documented_format() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    let cookie = 0x0123_4567_89ab_cdef_u64;
    let data = pattern(9, 512);
    let write = Request { command: command::WRITE, cookie, offset: 1024, length: 512, flags: 0 };
    client.stream().write_all(&[&write.encode()[..], &data].concat())?;
    let mut expected = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    expected.extend_from_slice(&0u32.to_be_bytes());
    expected.extend_from_slice(&cookie.to_be_bytes());
    assert_eq!(client.stream().read_bytes(16)?, expected);
    client.stream().write_all(&Request { command: command::READ, ..write }.encode())?;
    expected.extend_from_slice(&data);
    assert_eq!(client.stream().read_bytes(16 + 512)?, expected);
    Ok(())
}

/// Spec "Simple reply message": MUST be used for all requests if structured replies were not negotiated, for
/// errors too; after an error no payload follows. (The raw client refuses anything else.)
#[test]
fn simple_reply_message_is_used_without_negotiation() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    for command in [command::READ, command::FLUSH, command::TRIM, command::WRITE_ZEROES, command::CACHE] {
        let length = if command == command::FLUSH { 0 } else { BLOCK };
        let completion = client.call(command, 0, 0, length, &[])?.expect(Errno::OK)?;
        ensure!(completion.is_simple(), "a structured reply to command {command}");
    }
    client.call(command::READ, 0, SIZE, BLOCK, &[])?.expect(Errno::EINVAL)?;
    client.check_in_step()
}

/// Spec "Transmission": the cookie is opaque and comes back unchanged; it may be used again once its request
/// is complete.
#[test]
fn transmission_cookies_come_back_unchanged() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for cookie in [0, 1, u64::MAX, 1 << 63, 0x2560_9513, 0] {
            let request = Request { command: command::READ, cookie, length: BLOCK, ..Request::default() };
            client.send_request(request, &[])?;
            assert_eq!(client.wait(cookie)?.expect(Errno::OK)?.data.len(), BLOCK as usize);
        }
    }
    Ok(())
}

/// Spec "Transmission": replies may come in any order; with many requests in flight, each reply carries the
/// cookie and the data of its own request.
#[test]
fn transmission_many_requests_in_flight_are_told_apart() -> Result<()> {
    let server = serve()?;
    let content = pattern(77, 8 << 20);
    for mut client in [simple(&server)?, structured(&server)?] {
        client.write(0, &content)?;
        let mut expected = std::collections::HashMap::new();
        for index in 0..500_u64 {
            // Large and small ones mixed, so that the later can overtake the earlier.
            let length = if index % 50 == 0 { 1 << 20 } else { 512 };
            let offset = (index * 15_000) % (7 << 20);
            let cookie = client.send(command::READ, 0, offset, length, &[])?;
            expected.insert(cookie, offset as usize..offset as usize + length as usize);
        }
        while client.in_flight() > 0 || !expected.is_empty() {
            let completion = client.wait_any()?.expect(Errno::OK)?;
            let range = expected.remove(&completion.cookie).context("a cookie of ours")?;
            ensure!(completion.data == content[range.clone()], "wrong data for {range:?}");
        }
    }
    Ok(())
}

/// Spec "Transmission flags": HAS_FLAGS MUST be set; flags of experimental extensions that were not negotiated
/// are clear; FAST_ZERO only with WRITE_ZEROES; what Evenkeel promises is set.
#[test]
fn transmission_flags_are_consistent() -> Result<()> {
    let server = serve()?;
    for client in [simple(&server)?, structured(&server)?, handshake(&server)?.export_name(EXPORT)?] {
        ensure!(client.has(export_flag::HAS_FLAGS), "HAS_FLAGS");
        ensure!(!client.has(export_flag::SEND_RESIZE | export_flag::BIT_12_AND_UP), "flags of extensions");
        ensure!(!client.has(export_flag::READ_ONLY), "READ_ONLY on a writable export");
        if client.has(export_flag::SEND_FAST_ZERO) {
            ensure!(client.has(export_flag::SEND_WRITE_ZEROES), "FAST_ZERO without WRITE_ZEROES");
        }
        for (flag, name) in [
            (export_flag::SEND_FLUSH, "SEND_FLUSH"),
            (export_flag::SEND_FUA, "SEND_FUA"),
            (export_flag::SEND_TRIM, "SEND_TRIM"),
            (export_flag::SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES"),
            (export_flag::CAN_MULTI_CONN, "CAN_MULTI_CONN"),
            (export_flag::SEND_CACHE, "SEND_CACHE"),
        ] {
            ensure!(client.has(flag), "{name} is promised and not set");
        }
    }
    Ok(())
}

/// Spec "Transmission flags": SEND_DF MUST be clear if structured replies were not negotiated, and set if READ
/// supports DF.
#[test]
fn transmission_flags_df_depends_on_structured_replies() -> Result<()> {
    let server = serve()?;
    ensure!(!simple(&server)?.has(export_flag::SEND_DF), "SEND_DF without structured replies");
    ensure!(structured(&server)?.has(export_flag::SEND_DF), "no SEND_DF with structured replies");
    ensure!(!handshake(&server)?.export_name(EXPORT)?.has(export_flag::SEND_DF), "SEND_DF by EXPORT_NAME");
    Ok(())
}

/// Spec "NBD_CMD_DISC": the server MUST handle all outstanding requests and close; there is no reply to DISC.
#[test]
fn disc_outstanding_requests_are_handled_and_nothing_answers_it() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        let data = pattern(3, 256 << 10);
        for (index, piece) in data.chunks(4096).enumerate() {
            client.send(command::WRITE, 0, index as u64 * 4096, BLOCK, piece)?;
        }
        client.send(command::READ, 0, 32 << 20, 1 << 20, &[])?;
        // Reads the replies that are due, then expects the end of the stream.
        client.disconnect()?;
        ensure!(simple(&server)?.read(0, 256 << 10)? == data, "writes before DISC are lost");
    }
    Ok(())
}

/// Spec "NBD_CMD_DISC": a client MUST NOT send anything after it; what it sends is not carried out.
#[test]
fn disc_what_follows_is_ignored() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    let disc = Request { command: command::DISC, cookie: 1, ..Request::default() };
    let write = Request { command: command::WRITE, cookie: 2, length: BLOCK, ..Request::default() };
    let payload = vec![0xee; BLOCK as usize];
    client.stream().write_all(&[&disc.encode()[..], &write.encode(), &payload].concat())?;
    client.stream().expect_close()?;
    assert_eq!(simple(&server)?.read(0, BLOCK)?, vec![0; BLOCK as usize]);
    Ok(())
}

/// Spec "NBD_CMD_DISC": length, offset and flags MUST be zero; with others the connection ends all the same.
#[test]
fn disc_with_odd_fields_closes_the_connection() -> Result<()> {
    let server = serve()?;
    for (flags, offset, length) in [(command_flag::FUA, 0, 0), (0, 4096, 512), (0, u64::MAX, u32::MAX)] {
        let mut client = simple(&server)?;
        let disc = Request { command: command::DISC, flags, offset, length, cookie: 7 };
        client.stream().write_all(&disc.encode())?;
        client.stream().expect_close()?;
    }
    simple(&server)?.check_in_step()
}

/// Spec "Terminating the transmission phase": on shutdown the server SHOULD wait for requests in flight, or
/// answer them with ESHUTDOWN: no other error, and what was answered with success is on the device.
#[test]
fn terminating_transmission_shutdown_answers_what_is_in_flight() -> Result<()> {
    let mut server = serve()?;
    let mut client = structured(&server)?;
    client.check_in_step()?;
    let data = pattern(11, 8 << 20);
    let mut sent = std::collections::HashMap::new();
    for (index, piece) in data.chunks(64 << 10).enumerate() {
        let offset = index * (64 << 10);
        sent.insert(client.send(command::WRITE, 0, offset as u64, 64 << 10, piece)?, offset);
    }
    let pid = Pid::from_raw(server.pid().cast_signed()).context("a process id is positive")?;
    kill_process(pid, Signal::TERM)?;
    let mut written = Vec::new();
    while let Some(completion) = client.wait_any_or_close()? {
        let completion = completion.expect_one_of(&[Errno::OK, Errno::ESHUTDOWN])?;
        let offset = sent.remove(&completion.cookie).context("a cookie of ours")?;
        if completion.error == Errno::OK {
            written.push(offset);
        }
    }
    server.stop()?;
    for offset in written {
        let found = image_bytes(&server, offset as u64, 64 << 10)?;
        ensure!(found == data[offset..offset + (64 << 10)], "the write at {offset} was answered and is lost");
    }
    Ok(())
}

/// Spec "Terminating the transmission phase": requests that the server has received and not begun when it is
/// shut down SHOULD be answered with ESHUTDOWN. Here they wait because their client reads no replies at first.
#[test]
fn terminating_transmission_shutdown_refuses_what_has_not_begun() -> Result<()> {
    let mut server = serve()?;
    let mut client = structured(&server)?;
    let mut burst = Vec::new();
    for cookie in 0..3000 {
        let request = Request { command: command::READ, cookie, length: 512, ..Request::default() };
        client.expect_reply_to(request)?;
        burst.extend(request.encode());
    }
    let sent = client.stream().write_some(&burst)?;
    ensure!(sent == burst.len(), "the socket took only {sent} bytes");
    let pid = Pid::from_raw(server.pid().cast_signed()).context("a process id is positive")?;
    kill_process(pid, Signal::TERM)?;
    wait_until("the server lets nobody in any more", Duration::from_secs(10), || simple(&server).is_err())?;
    while let Some(completion) = client.wait_any_or_close()? {
        completion.expect_one_of(&[Errno::OK, Errno::ESHUTDOWN])?;
    }
    server.stop()
}
