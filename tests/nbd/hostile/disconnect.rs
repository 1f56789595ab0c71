//! Clients that go away at every byte of what they send and receive. Nothing of a request that did not arrive
//! whole may reach the image.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Handshake, Request,
        handshake::{BOTH_FLAGS, info_data, meta_data, option_bytes},
        protocol::{command, command_flag, option},
        stream::Stream,
    },
    serve::Server,
};

use crate::siege::{ATTACKED, EXPORT, SIZE, Siege};

/// All that a client says in a handshake.
fn whole_handshake() -> Vec<u8> {
    let mut bytes = BOTH_FLAGS.to_be_bytes().to_vec();
    bytes.extend(option_bytes(option::STRUCTURED_REPLY, &[]));
    bytes.extend(option_bytes(option::LIST, &[]));
    bytes.extend(option_bytes(option::SET_META_CONTEXT, &meta_data(EXPORT.as_bytes(), &["base:allocation"])));
    bytes.extend(option_bytes(option::INFO, &info_data(EXPORT.as_bytes(), &[1, 2, 3])));
    bytes.extend(option_bytes(option::GO, &info_data(EXPORT.as_bytes(), &[3])));
    bytes
}

/// The attackers' part of the image holds nothing but zeroes.
fn check_nothing_written(server: &Server) -> Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let image = File::open(server.image())?;
    for offset in (ATTACKED..SIZE).step_by(bytes.len()) {
        image.read_exact_at(&mut bytes, offset)?;
        let stray = bytes.iter().position(|&byte| byte != 0);
        ensure!(stray.is_none(), "a byte of a partial payload is at {}", offset + stray.unwrap_or(0) as u64);
    }
    Ok(())
}

/// A client goes away after each byte of its handshake: by closing, and by ending its side and waiting for the
/// server to close, which it does.
#[test]
fn disconnect_at_every_byte_of_a_handshake() -> Result<()> {
    let siege = Siege::begin()?;
    let script = whole_handshake();
    for address in [siege.unix(), siege.tcp()?] {
        for length in 0..=script.len() {
            let mut stream = Stream::connect(&address)?;
            stream.write_all(&script[..length])?;
            drop(stream);
            let mut stream = Stream::connect(&address)?;
            stream.write_all(&script[..length])?;
            stream.shutdown_write()?;
            stream.read_to_close().with_context(|| format!("after {length} bytes and the end"))?;
        }
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// A client goes away after each byte of a WRITE: in its header, and at every byte of its payload. The payload
/// is never written, not even in part, neither at aligned nor at odd offsets.
#[test]
fn disconnect_at_every_byte_of_a_write_leaves_nothing_in_the_image() -> Result<()> {
    const PAYLOAD: u32 = 1536;
    let siege = Siege::begin()?;
    for length in 0..Request::SIZE + PAYLOAD as usize {
        // Each in a place of its own, every other one at an odd offset.
        let offset = ATTACKED + length as u64 * 8192 + (length as u64 % 2) * 511;
        let request = Request { command: command::WRITE, cookie: 1, offset, length: PAYLOAD, flags: 0 };
        let mut bytes = request.encode().to_vec();
        bytes.resize(Request::SIZE + PAYLOAD as usize, 0xee);
        let mut client = siege.client()?;
        client.stream().write_all(&bytes[..length])?;
        if length % 2 == 0 {
            client.stream().shutdown_write()?;
            client.stream().expect_close().with_context(|| format!("after {length} bytes and the end"))?;
        }
    }
    siege.good_client_works()?;
    check_nothing_written(&siege.end()?)
}

/// The same in a large payload, at its borders of 4 KiB and thereabouts, with FUA, behind a whole WRITE: that
/// one may be answered, and then it is written.
#[test]
fn disconnect_within_a_large_payload_leaves_nothing_in_the_image() -> Result<()> {
    const PAYLOAD: u32 = 1 << 20;
    let siege = Siege::begin()?;
    let payload = vec![0xee; PAYLOAD as usize];
    let mut answered = false;
    let cuts = (0..PAYLOAD as usize).step_by(64 << 10).flat_map(|at| [at, at + 1, at + 4095, at + 4096]);
    for (index, cut) in cuts.enumerate() {
        let mut client = siege.client()?;
        let first = Request { command: command::WRITE, cookie: 1, offset: 8 << 20, length: 512, flags: 0 };
        let offset = ATTACKED + index as u64 * u64::from(PAYLOAD) % (SIZE - ATTACKED);
        let flags = command_flag::FUA;
        let second = Request { command: command::WRITE, cookie: 2, offset, length: PAYLOAD, flags };
        let bytes = [&first.encode()[..], &[0x11; 512], &second.encode(), &payload[..cut]].concat();
        client.stream().write_all(&bytes)?;
        client.stream().shutdown_write()?;
        // Perhaps the reply to the first, and none to the second.
        let replies = client.stream().read_to_close()?;
        ensure!([0, 16].contains(&replies.len()), "cut at {cut}: {} bytes of replies", replies.len());
        answered |= !replies.is_empty();
    }
    siege.good_client_works()?;
    let server = siege.end()?;
    let mut written = [0; 512];
    File::open(server.image())?.read_exact_at(&mut written, 8 << 20)?;
    ensure!(!answered || written == [0x11; 512], "the whole WRITE before the cut one is lost");
    check_nothing_written(&server)
}

/// A client goes away after each byte of the requests without payload.
#[test]
fn disconnect_at_every_byte_of_other_requests() -> Result<()> {
    let siege = Siege::begin()?;
    let commands =
        [command::READ, command::FLUSH, command::TRIM, command::CACHE, command::WRITE_ZEROES, command::DISC];
    for command in commands {
        let length = if matches!(command, command::FLUSH | command::DISC) { 0 } else { 4096 };
        let request = Request { command, cookie: 1, offset: 0, length, flags: 0 };
        let offset = if length == 0 { 0 } else { ATTACKED };
        let bytes = Request { offset, ..request }.encode();
        for length in 0..=bytes.len() {
            let mut client = siege.client()?;
            client.stream().write_all(&bytes[..length])?;
            if length % 2 == 0 {
                client.stream().shutdown_write()?;
                client.stream().read_to_close()?;
            }
        }
    }
    siege.good_client_works()?;
    check_nothing_written(&siege.end()?)
}

/// A client goes away while the server sends it a reply: after every byte of its head and some of its data.
#[test]
fn disconnect_while_a_reply_is_sent() -> Result<()> {
    let siege = Siege::begin()?;
    for received in (0..40).chain((4096..1 << 20).step_by(100_000)) {
        let address = if received % 2 == 0 { siege.unix() } else { siege.tcp()? };
        let mut client = Handshake::open(&address)?.structured()?.go(EXPORT)?;
        for _ in 0..4 {
            client.send(command::READ, command_flag::DF, 0, 4 << 20, &[])?;
        }
        let mut bytes = vec![0; received];
        client.stream().read_exact(&mut bytes)?;
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}
