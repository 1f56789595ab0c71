//! Ranges and sizes of requests (spec: "Size constraints", "Error values"): the ends of the device, overflow,
//! alignment, the largest payload, and what happens to the payload of a WRITE that is refused.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Errno, Handshake, Request, Transmission,
        pattern::pattern,
        protocol::{DEFAULT_MAX_PAYLOAD, command, command_flag, info},
    },
    serve::{ServeOptions, Server},
};

use crate::common::{
    BLOCK, EXPORT, SIZE, address, handshake, image_bytes, options, serve, simple, structured,
};

/// Ranges that are not on the device, among them those whose end passes 2^64 or 2^32.
const BEYOND: [(u64, u32); 9] = [
    (SIZE, 1),
    (SIZE, BLOCK),
    (SIZE - 1, 2),
    (SIZE - 512, 1024),
    (SIZE + (1 << 32), BLOCK),
    (1 << 63, BLOCK),
    (u64::MAX, 1),
    (u64::MAX - 4095, BLOCK),
    (u64::MAX - 100, BLOCK),
];

/// Spec "Error values": READ, TRIM (and CACHE) beyond the end SHOULD be EINVAL; offset + length may overflow.
#[test]
fn error_values_read_and_trim_beyond_the_end_are_invalid() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for (offset, length) in BEYOND {
            for command in [command::READ, command::TRIM, command::CACHE] {
                client
                    .call(command, 0, offset, length, &[])?
                    .expect(Errno::EINVAL)
                    .with_context(|| format!("command {command} {offset}+{length}"))?;
            }
            client.check_in_step()?;
        }
    }
    Ok(())
}

/// Spec "Error values": WRITE and WRITE_ZEROES beyond the end SHOULD be ENOSPC; the payload of the WRITE is
/// read and dropped, not even the part on the device is written.
#[test]
fn error_values_write_beyond_the_end_is_no_space() -> Result<()> {
    let server = serve()?;
    let payload = vec![0xee; BLOCK as usize];
    for mut client in [simple(&server)?, structured(&server)?] {
        for (offset, length) in BEYOND {
            let payload = &payload[..length as usize];
            for flags in [command_flag::NONE, command_flag::FUA] {
                client.call(command::WRITE, flags, offset, length, payload)?.expect(Errno::ENOSPC)?;
                client.call(command::WRITE_ZEROES, flags, offset, length, &[])?.expect(Errno::ENOSPC)?;
                client.check_in_step()?;
            }
        }
        assert_eq!(client.read(SIZE - 4096, BLOCK)?, vec![0; BLOCK as usize], "a refused write left bytes");
    }
    assert_eq!(std::fs::metadata(server.image())?.len(), SIZE, "a refused write made the image longer");
    Ok(())
}

/// Spec "NBD_CMD_WRITE": the payload of a refused WRITE is drained, whatever its size and however many follow
/// each other in one burst; the requests behind them are answered.
#[test]
fn write_refused_payload_is_drained() -> Result<()> {
    let server = serve()?;
    // The payload looks like requests: a server that does not skip it would carry them out.
    let bait = Request { command: command::TRIM, cookie: 1, length: BLOCK, ..Request::default() }.encode();
    for mut client in [simple(&server)?, structured(&server)?] {
        client.write(0, &pattern(1, 4096))?;
        let mut cookies = Vec::new();
        for length in [1, 27, 28, 4096, 65_536, 1 << 20, DEFAULT_MAX_PAYLOAD] {
            let payload: Vec<u8> = bait.iter().copied().cycle().take(length as usize).collect();
            cookies.push((client.send(command::WRITE, 0, SIZE, length, &payload)?, Errno::ENOSPC));
            cookies.push((
                client.send(command::WRITE, command_flag::UNKNOWN, 0, length, &payload)?,
                Errno::EINVAL,
            ));
            cookies.push((client.send(command::READ, 0, 0, BLOCK, &[])?, Errno::OK));
        }
        for (cookie, error) in cookies {
            client.wait(cookie)?.expect(error)?;
        }
        ensure!(client.read(0, BLOCK)? == pattern(1, 4096), "a payload was taken for requests");
    }
    Ok(())
}

/// Spec "Size constraints": a payload of 2^25 bytes is always served: written, read and kept.
#[test]
fn size_constraints_32_mib_are_written_and_read() -> Result<()> {
    let server = serve()?;
    let data = pattern(32, DEFAULT_MAX_PAYLOAD as usize);
    for (offset, mut client) in [(0, simple(&server)?), (12_345, structured(&server)?)] {
        client.write(offset, &data)?;
        ensure!(client.read(offset, DEFAULT_MAX_PAYLOAD)? == data, "32 MiB at {offset}");
        ensure!(image_bytes(&server, offset, data.len())? == data, "32 MiB at {offset} in the image");
    }
    Ok(())
}

/// Spec "Size constraints": a READ beyond the largest payload is refused with EINVAL or EOVERFLOW, or served;
/// the connection stays.
#[test]
fn size_constraints_longer_read_is_refused_in_step() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for length in [DEFAULT_MAX_PAYLOAD + 1, 2 * DEFAULT_MAX_PAYLOAD] {
            let errors = [Errno::OK, Errno::EINVAL, Errno::EOVERFLOW];
            client.call(command::READ, 0, 0, length, &[])?.expect_one_of(&errors)?;
            client.check_in_step()?;
        }
        // Beyond the device too.
        client.call(command::READ, 0, 0, u32::MAX, &[])?.expect_one_of(&[Errno::EINVAL, Errno::EOVERFLOW])?;
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "Size constraints": a WRITE beyond the largest payload may end the connection, or is refused with its
/// payload drained. Nothing of it is written, and others are served.
#[test]
fn size_constraints_longer_write_is_refused_or_ends_the_connection() -> Result<()> {
    let server = serve()?;
    let payload = vec![0xee; DEFAULT_MAX_PAYLOAD as usize + 1];
    for mut client in [simple(&server)?, structured(&server)?] {
        let length = DEFAULT_MAX_PAYLOAD + 1;
        // An error of the socket: the server has ended the connection, which it may.
        if let Ok(completion) = client.call(command::WRITE, 0, 0, length, &payload) {
            completion.expect_one_of(&[Errno::EINVAL, Errno::EOVERFLOW, Errno::ENOMEM])?;
            client.check_in_step()?;
        }
    }
    let mut client = simple(&server)?;
    assert_eq!(client.read(0, BLOCK)?, vec![0; BLOCK as usize], "a refused write left bytes");
    Ok(())
}

/// Spec "Size constraints": commands without payload may be longer than the largest payload; the server SHOULD
/// NOT disconnect, and ours serves them, up to 2^32 - 1 bytes.
#[test]
fn size_constraints_commands_without_payload_may_be_longer() -> Result<()> {
    let size = 5 << 30;
    let server = Server::start(ServeOptions { size, ..options() })?;
    let mut client = structured(&server)?;
    for command in [command::WRITE_ZEROES, command::TRIM, command::CACHE] {
        client.write(0, &pattern(1, 4096))?;
        client.write(u64::from(u32::MAX) - 4096, &pattern(2, 4096))?;
        client.write(u64::from(u32::MAX), &pattern(3, 4096))?;
        for length in [DEFAULT_MAX_PAYLOAD + 1, 0x8000_0000, u32::MAX] {
            // A hint of this length may be refused; the others are carried out.
            let refusals = [Errno::OK, Errno::EINVAL, Errno::EOVERFLOW];
            let allowed = if command == command::CACHE { &refusals[..] } else { &refusals[..1] };
            client
                .call(command, 0, 0, length, &[])?
                .expect_one_of(allowed)
                .with_context(|| format!("command {command} of {length} bytes"))?;
        }
        if command != command::CACHE {
            ensure!(client.read(0, BLOCK)?.iter().all(|&byte| byte == 0), "the first bytes");
            ensure!(
                client.read(u64::from(u32::MAX) - 4096, BLOCK)?.iter().all(|&byte| byte == 0),
                "the last bytes"
            );
        }
        ensure!(client.read(u64::from(u32::MAX), BLOCK)? == pattern(3, 4096), "bytes behind the range");
    }
    Ok(())
}

/// Spec "Size constraints": with a minimum block of 1 any offset and length is served; the neighbours of what
/// is written stay, on both sides of sector and block borders.
#[test]
fn size_constraints_unaligned_requests_leave_their_neighbours() -> Result<()> {
    let server = serve()?;
    let mut model = pattern(1, 64 << 10);
    let mut client = simple(&server)?;
    client.write(0, &model)?;
    for (offset, length) in [
        (0, 1),
        (511, 1),
        (511, 2),
        (512, 1),
        (4095, 2),
        (4097, 4096),
        (1, 8191),
        (100, 30_000),
        (8191, 1),
        (12_288, 4097),
        (65_535, 1),
    ] {
        let data = pattern(offset as u64 + length as u64, length);
        client.write(offset as u64, &data)?;
        model[offset..offset + length].copy_from_slice(&data);
        ensure!(client.read(offset as u64, u32::try_from(length)?)? == data, "{offset}+{length}");
        ensure!(client.read(0, 64 << 10)? == model, "neighbours of {offset}+{length}");
    }
    Ok(())
}

/// Spec "Size constraints": the server does read-modify-write for small requests, and this must not lose
/// concurrent neighbours: single bytes of one block, in flight together over two connections, are all there.
#[test]
fn size_constraints_concurrent_writes_within_one_block_are_all_kept() -> Result<()> {
    let server = serve()?;
    for round in 0..10_u64 {
        let data = pattern(round, 2048);
        let mut clients = [simple(&server)?, structured(&server)?];
        let mut cookies = Vec::new();
        for (index, byte) in data.iter().enumerate() {
            let which = index % 2;
            let offset = 4096 * round + index as u64;
            cookies.push((which, clients[which].send(command::WRITE, 0, offset, 1, &[*byte])?));
        }
        for (which, cookie) in cookies {
            clients[which].wait(cookie)?.expect(Errno::OK)?;
        }
        let found = clients[0].read(4096 * round, 2048)?;
        let lost = found.iter().zip(&data).filter(|(found, wanted)| found != wanted).count();
        ensure!(lost == 0, "round {round}: {lost} of 2048 single-byte writes were lost");
    }
    Ok(())
}

/// Spec "Size constraints": small writes that share blocks with a large one beside them, all in flight
/// together, touch only their own bytes.
#[test]
fn size_constraints_concurrent_unaligned_writes_keep_their_borders() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    for round in 0..10_u64 {
        // Pieces of odd lengths, end to end, over 256 KiB.
        let data = pattern(round, 256 << 10);
        let mut cookies = Vec::new();
        let mut start = 0;
        while start < data.len() {
            let length = (1 + (start * 31 + 977) % 9000).min(data.len() - start);
            let piece = &data[start..start + length];
            cookies.push(client.send(command::WRITE, 0, 77 + start as u64, u32::try_from(length)?, piece)?);
            start += length;
        }
        for cookie in cookies {
            client.wait(cookie)?.expect(Errno::OK)?;
        }
        ensure!(client.read(77, 256 << 10)? == data, "round {round}: borders were lost");
    }
    Ok(())
}

/// Spec "Size constraints": an export whose size is no multiple of the preferred block is usable to its last
/// byte, and no further.
#[test]
fn size_constraints_odd_size_is_usable_to_the_last_byte() -> Result<()> {
    for size in [(1 << 20) + 512, (1 << 20) + 4096 + 512] {
        let server = Server::start(ServeOptions { size, ..options() })?;
        let mut client: Transmission = handshake(&server)?.go_with(EXPORT, &[info::BLOCK_SIZE])?;
        assert_eq!(client.size(), size);
        let data = pattern(size, 1000);
        client.write(size - 1000, &data)?;
        ensure!(client.read(size - 1000, 1000)? == data, "the last 1000 bytes");
        client.write(size - 1, &[0x5a])?;
        assert_eq!(client.read(size - 1, 1)?, [0x5a]);
        client.call(command::WRITE_ZEROES, 0, size - 512, 512, &[])?.expect(Errno::OK)?;
        client.call(command::TRIM, 0, size - 700, 700, &[])?.expect(Errno::OK)?;
        ensure!(client.read(size - 700, 700)?.iter().all(|&byte| byte == 0), "zeroes at the end");
        client.call(command::READ, 0, size - 1, 2, &[])?.expect(Errno::EINVAL)?;
        client.call(command::WRITE, 0, size - 1, 2, &[0; 2])?.expect(Errno::ENOSPC)?;
        assert_eq!(std::fs::metadata(server.image())?.len(), size, "the image has another size");
        client.disconnect()?;
    }
    Ok(())
}

/// Spec "Request message": a request may arrive in any pieces: its header byte by byte, its payload in halves.
#[test]
fn request_message_in_pieces_is_one_request() -> Result<()> {
    let server = serve()?;
    let mut client = Handshake::open(&address(&server))?.go(EXPORT)?;
    let data = pattern(6, 4096);
    let request = Request { command: command::WRITE, cookie: 99, offset: 512, length: BLOCK, flags: 0 };
    client.expect_reply_to(request)?;
    for byte in request.encode() {
        client.stream().write_all(&[byte])?;
    }
    let (first, second) = data.split_at(1000);
    client.stream().write_all(first)?;
    client.stream().write_all(second)?;
    client.wait(99)?.expect(Errno::OK)?;
    assert_eq!(client.read(512, BLOCK)?, data);
    Ok(())
}
