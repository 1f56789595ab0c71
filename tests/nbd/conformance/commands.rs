//! Commands and their flags (spec: "Command flags", "Request types", "Error values").

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::raw::{
    Errno,
    pattern::pattern,
    protocol::{DEFAULT_MAX_PAYLOAD, command, command_flag, export_flag},
};

use crate::common::{
    BLOCK, EXPORT, SIZE, handshake, image_bytes, serve, serve_read_only, simple, structured, with_allocation,
};

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: usize = BLOCK as usize;

/// Spec "NBD_CMD_READ" and "NBD_CMD_WRITE": what was written is read, and is in the image at that offset: the
/// image is plain and raw.
#[test]
fn write_and_read_round_trip() -> Result<()> {
    let server = serve()?;
    for (seed, mut client) in [(1, simple(&server)?), (2, structured(&server)?)] {
        for (offset, length) in
            [(0, 512), (4096, 4096), (MIB, 1 << 20), (SIZE - 4096, 4096), (SIZE - 512, 512)]
        {
            let data = pattern(seed + offset, length);
            client.write(offset, &data)?;
            ensure!(client.read(offset, u32::try_from(length)?)? == data, "read back at {offset}");
            ensure!(image_bytes(&server, offset, length)? == data, "the image at {offset}");
        }
    }
    Ok(())
}

/// Spec "Error values": an unknown command SHOULD be EINVAL; it has no payload, so the stream stays in step.
#[test]
fn error_values_unknown_command_is_invalid_and_leaves_the_stream_in_step() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for command in [command::RESIZE, 9, 255, 256, command::UNKNOWN, u16::MAX] {
            for length in [0, BLOCK, u32::MAX] {
                client.call(command, 0, 0, length, &[])?.expect(Errno::EINVAL)?;
                client.check_in_step()?;
            }
        }
    }
    Ok(())
}

/// Spec "Error values": an unknown flag, or one that is not documented for this command, SHOULD be EINVAL. A
/// WRITE that is refused so still has its payload, which must be read and dropped.
#[test]
fn error_values_flags_of_other_commands_are_invalid() -> Result<()> {
    let server = serve()?;
    let payload = vec![0xee; BLOCK_BYTES];
    let mut client = structured(&server)?;
    let unknown = [command_flag::PAYLOAD_LEN, 1 << 6, command_flag::UNKNOWN, 1 << 15];
    let (no_hole, df) = (command_flag::NO_HOLE, command_flag::DF);
    let (req_one, fast) = (command_flag::REQ_ONE, command_flag::FAST_ZERO);
    let cases: [(u16, &[u16]); 6] = [
        (command::READ, &[no_hole, req_one, fast]),
        (command::WRITE, &[no_hole, df, req_one, fast]),
        (command::FLUSH, &[no_hole, df, req_one, fast]),
        (command::TRIM, &[no_hole, df, req_one, fast]),
        (command::CACHE, &[no_hole, df, req_one, fast]),
        (command::WRITE_ZEROES, &[df, req_one]),
    ];
    for (command, flags) in cases {
        for flags in flags.iter().chain(&unknown) {
            let (length, payload) = match command {
                command::FLUSH => (0, &[][..]),
                command::WRITE => (BLOCK, &payload[..]),
                _ => (BLOCK, &[][..]),
            };
            client
                .call(command, *flags, 0, length, payload)?
                .expect(Errno::EINVAL)
                .with_context(|| format!("command {command} with flags {flags:#x}"))?;
            client.check_in_step()?;
        }
    }
    assert_eq!(client.read(0, BLOCK)?, vec![0; BLOCK_BYTES], "a refused command changed the device");
    Ok(())
}

/// Spec "NBD_CMD_FLAG_DF": valid only if SEND_DF was advertised, which needs structured replies.
#[test]
fn command_flags_df_without_structured_replies_is_invalid() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    client.call(command::READ, command_flag::DF, 0, BLOCK, &[])?.expect(Errno::EINVAL)?;
    client.check_in_step()
}

/// Spec "NBD_CMD_FLAG_FUA": once SEND_FUA is advertised the server MUST accept it on all commands.
#[test]
fn command_flags_fua_is_accepted_on_every_command() -> Result<()> {
    let server = serve()?;
    let data = pattern(1, BLOCK_BYTES);
    let mut client = with_allocation(&server)?;
    ensure!(client.has(export_flag::SEND_FUA), "SEND_FUA is promised");
    for command in [
        command::READ,
        command::WRITE,
        command::FLUSH,
        command::TRIM,
        command::CACHE,
        command::WRITE_ZEROES,
        command::BLOCK_STATUS,
    ] {
        let payload = if command == command::WRITE { &data[..] } else { &[] };
        let length = if command == command::FLUSH { 0 } else { BLOCK };
        client
            .call(command, command_flag::FUA, 0, length, payload)?
            .expect(Errno::OK)
            .with_context(|| format!("FUA on command {command}"))?;
    }
    client.check_in_step()
}

/// Spec "NBD_CMD_FLAG_FUA": the reply comes only when the data are stable; at the least they are in the image.
#[test]
fn command_flags_fua_data_is_in_the_image_at_the_reply() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    for round in 0..50 {
        let data = pattern(round, BLOCK_BYTES);
        client.write_with(command_flag::FUA, round * 4096, &data)?;
        ensure!(image_bytes(&server, round * 4096, BLOCK_BYTES)? == data, "round {round}");
        client.call(command::WRITE_ZEROES, command_flag::FUA, round * 4096, 512, &[])?.expect(Errno::OK)?;
        ensure!(image_bytes(&server, round * 4096, 512)?.iter().all(|&byte| byte == 0), "round {round}");
    }
    Ok(())
}

/// Spec "NBD_CMD_WRITE": length zero is unspecified for all commands, but the server SHOULD NOT disconnect.
#[test]
fn request_types_length_zero_keeps_the_connection() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for command in [command::READ, command::WRITE, command::TRIM, command::CACHE, command::WRITE_ZEROES] {
            for offset in [0, 1, SIZE] {
                client
                    .call(command, 0, offset, 0, &[])?
                    .expect_one_of(&[Errno::OK, Errno::EINVAL, Errno::ENOSPC])
                    .with_context(|| format!("command {command} at {offset}"))?;
                client.check_in_step()?;
            }
        }
    }
    Ok(())
}

/// Spec "NBD_CMD_FLUSH": success; length and offset are reserved, and with others than zero the stream stays in
/// step.
#[test]
fn flush_is_answered() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    client.flush()?;
    for (offset, length) in [(4096, 0), (0, BLOCK), (u64::MAX, u32::MAX)] {
        client.call(command::FLUSH, 0, offset, length, &[])?.expect_one_of(&[Errno::OK, Errno::EINVAL])?;
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_CMD_TRIM": succeeds, leaves neighbours alone. The content is undefined by the protocol; ours reads
/// as zeroes, from all connections and to the byte (design rule R7: replicas must stay identical).
#[test]
fn trim_reads_as_zeroes_and_leaves_the_rest() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    for (offset, length) in [(4096, 8192), (100, 7), (MIB - 1, 65_538), (511, 4098)] {
        let mut model = pattern(offset, 2 << 20);
        client.write(0, &model)?;
        client.call(command::TRIM, 0, offset, length, &[])?.expect(Errno::OK)?;
        let start = usize::try_from(offset)?;
        model[start..start + length as usize].fill(0);
        ensure!(client.read(0, 2 << 20)? == model, "after TRIM {offset}+{length}");
    }
    Ok(())
}

/// Spec "NBD_CMD_WRITE_ZEROES": the range MUST read as zeroes, with and without NO_HOLE; the rest is untouched.
#[test]
fn write_zeroes_reads_as_zeroes_and_leaves_the_rest() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    for flags in [command_flag::NONE, command_flag::NO_HOLE, command_flag::FUA] {
        for (offset, length) in [(4096, 8192), (100, 7), (0, 1), (MIB - 1, 65_538), (511, 4098)] {
            let mut model = pattern(offset, 2 << 20);
            client.write(0, &model)?;
            client.call(command::WRITE_ZEROES, flags, offset, length, &[])?.expect(Errno::OK)?;
            let start = usize::try_from(offset)?;
            model[start..start + length as usize].fill(0);
            ensure!(client.read(0, 2 << 20)? == model, "after WRITE_ZEROES {flags:#x} {offset}+{length}");
        }
    }
    Ok(())
}

/// Spec "NBD_CMD_FLAG_NO_HOLE": the server MUST support it: the area is fully provisioned. The image has at
/// least that much allocated.
#[test]
fn write_zeroes_with_no_hole_allocates() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    client
        .call(command::WRITE_ZEROES, command_flag::NO_HOLE | command_flag::FUA, 0, 4 << 20, &[])?
        .expect(Errno::OK)?;
    let allocated = std::fs::metadata(server.image())?.blocks() * 512;
    ensure!(allocated >= 4 << 20, "only {allocated} bytes are allocated");
    ensure!(client.read(0, 4 << 20)?.iter().all(|&byte| byte == 0), "no zeroes");
    Ok(())
}

/// Spec "NBD_CMD_WRITE_ZEROES" and "NBD_FLAG_SEND_FAST_ZERO": not advertised: FAST_ZERO SHOULD be EINVAL.
/// Advertised: it succeeds or fails with ENOTSUP, and then SHOULD NOT have changed anything. Without the flag
/// the server MUST NOT fail with ENOTSUP.
#[test]
fn write_zeroes_fast_zero_is_honest() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let advertised = client.has(export_flag::SEND_FAST_ZERO);
    for extra in [command_flag::NONE, command_flag::NO_HOLE, command_flag::FUA] {
        for (offset, length) in [(0, 1 << 20), (4096, 4096), (511, 5000), (0, 100)] {
            let mut model = pattern(offset, 1 << 20);
            client.write(0, &model)?;
            let reply =
                client.call(command::WRITE_ZEROES, command_flag::FAST_ZERO | extra, offset, length, &[])?;
            if advertised {
                let reply = reply.expect_one_of(&[Errno::OK, Errno::ENOTSUP])?;
                if reply.error == Errno::OK {
                    let start = usize::try_from(offset)?;
                    model[start..start + length as usize].fill(0);
                }
            } else {
                reply.expect(Errno::EINVAL)?;
            }
            ensure!(
                client.read(0, 1 << 20)? == model,
                "content after FAST_ZERO|{extra:#x} {offset}+{length}"
            );
            client.call(command::WRITE_ZEROES, extra, offset, length, &[])?.expect(Errno::OK)?;
        }
    }
    Ok(())
}

/// Spec "NBD_CMD_CACHE": MUST NOT change what reads and writes do. A length beyond the largest payload may be
/// refused.
#[test]
fn cache_changes_nothing() -> Result<()> {
    let server = serve()?;
    let mut client = simple(&server)?;
    let data = pattern(1, 1 << 20);
    client.write(0, &data)?;
    for (offset, length) in [(0, BLOCK), (1, 511), (0, 1 << 20), (0, u32::try_from(SIZE)?)] {
        let reply = client.call(command::CACHE, 0, offset, length, &[])?;
        if length <= DEFAULT_MAX_PAYLOAD {
            reply.expect(Errno::OK)?;
        } else {
            reply.expect_one_of(&[Errno::OK, Errno::EINVAL, Errno::EOVERFLOW])?;
        }
        ensure!(client.read(0, 1 << 20)? == data, "after CACHE {offset}+{length}");
    }
    Ok(())
}

/// Spec "NBD_FLAG_READ_ONLY" and "Error values": the flag is set, and WRITE, TRIM and WRITE_ZEROES are EPERM;
/// the payload of WRITE is dropped; nothing changes; everything else works.
#[test]
fn read_only_export_refuses_every_change() -> Result<()> {
    let content = pattern(1, 1 << 20);
    let (server, _folder) = serve_read_only(&content)?;
    let mut selecting = handshake(&server)?.structured()?;
    selecting.set_meta_context(EXPORT, &["base:allocation"])?;
    for mut client in [simple(&server)?, selecting.go(EXPORT)?] {
        ensure!(client.has(export_flag::READ_ONLY), "READ_ONLY is not set");
        for flags in [command_flag::NONE, command_flag::FUA] {
            let payload = vec![0xee; BLOCK_BYTES];
            client.call(command::WRITE, flags, 0, BLOCK, &payload)?.expect(Errno::EPERM)?;
            client.check_in_step()?;
            client.call(command::TRIM, flags, 0, BLOCK, &[])?.expect(Errno::EPERM)?;
            client.call(command::WRITE_ZEROES, flags, 0, BLOCK, &[])?.expect(Errno::EPERM)?;
        }
        client.flush()?;
        client.call(command::CACHE, 0, 0, BLOCK, &[])?.expect(Errno::OK)?;
        ensure!(client.read(0, 1 << 20)? == content, "the content has changed");
        client.disconnect()?;
    }
    ensure!(image_bytes(&server, 0, content.len())? == content, "the image has changed");
    Ok(())
}
