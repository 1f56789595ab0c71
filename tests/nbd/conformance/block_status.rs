//! NBD_CMD_BLOCK_STATUS (spec: "Request types", "NBD_REPLY_TYPE_BLOCK_STATUS", "`base:allocation` metadata
//! context").

use anyhow::{Result, ensure};
use evenkeel_tests::{
    raw::{
        Completion, Errno, Transmission,
        handshake::meta_data,
        pattern::pattern,
        protocol::{allocation, command, command_flag, option},
        reply::Extent,
    },
    serve::{ServeOptions, Server},
};

use crate::common::{BLOCK, EXPORT, SIZE, handshake, options, serve, simple, structured, with_allocation};

const MIB: u64 = 1 << 20;

fn status(client: &mut Transmission, flags: u16, offset: u64, length: u32) -> Result<Completion> {
    client.call(command::BLOCK_STATUS, flags, offset, length, &[])
}

/// The extents of the one context that was selected.
fn extents(client: &mut Transmission, flags: u16, offset: u64, length: u32) -> Result<Vec<Extent>> {
    let mut contexts = status(client, flags, offset, length)?.expect(Errno::OK)?.extents()?;
    ensure!(contexts.len() == 1, "expected one chunk for the one context, got {contexts:?}");
    Ok(contexts.remove(0).1)
}

/// Spec "NBD_CMD_BLOCK_STATUS": exactly one chunk for each selected context, with the id that SET gave out.
#[test]
fn block_status_answers_in_the_selected_context() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let selected = client.set_meta_context(EXPORT, &["base:allocation"])?;
    let mut client = client.go(EXPORT)?;
    let contexts = status(&mut client, 0, 0, BLOCK)?.expect(Errno::OK)?.extents()?;
    assert_eq!(contexts.len(), 1);
    assert_eq!(contexts[0].0, selected[0].0);
    Ok(())
}

/// Spec "Metadata querying": without a context selected the server SHOULD reply EINVAL; also when only simple
/// replies were negotiated.
#[test]
fn block_status_without_context_is_invalid() -> Result<()> {
    let server = serve()?;
    for mut client in [simple(&server)?, structured(&server)?] {
        for flags in [command_flag::NONE, command_flag::REQ_ONE] {
            status(&mut client, flags, 0, BLOCK)?.expect(Errno::EINVAL)?;
            client.check_in_step()?;
        }
    }
    Ok(())
}

/// Spec "NBD_CMD_BLOCK_STATUS": at least one extent, each with a positive length, so that a client that asks
/// again where the answer ended walks the whole export. (The raw client checks the form of each answer.)
#[test]
fn block_status_walk_covers_the_export() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    for index in 0..8 {
        client.write(index * 7 * MIB, &pattern(index, 64 << 10))?;
    }
    for flags in [command_flag::NONE, command_flag::REQ_ONE] {
        let mut offset = 0;
        let mut requests = 0;
        while offset < SIZE {
            let length = u32::try_from(SIZE - offset)?;
            for extent in extents(&mut client, flags, offset, length)? {
                offset += u64::from(extent.length);
            }
            requests += 1;
            ensure!(requests < 10_000, "no progress");
        }
        ensure!(offset == SIZE, "the walk ended at {offset}, beyond the export");
    }
    Ok(())
}

/// Spec "`base:allocation` metadata context": data is never said to be a hole or zero; what is said to be zero
/// reads as zeroes.
#[test]
fn base_allocation_tells_data_from_zeroes() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    let data = pattern(1, 256 << 10);
    client.write(4 * MIB, &data)?;
    client.flush()?;
    let length = u32::try_from(12 * MIB)?;
    let mut offset = 0;
    let mut zeroes = 0;
    for extent in extents(&mut client, 0, 0, length)? {
        let end = offset + u64::from(extent.length);
        let has_data = offset < 4 * MIB + data.len() as u64 && end > 4 * MIB;
        ensure!(
            !has_data || extent.flags & (allocation::HOLE | allocation::ZERO) == 0,
            "{extent:?} at {offset}"
        );
        ensure!(extent.flags & !(allocation::HOLE | allocation::ZERO) == 0, "reserved flags in {extent:?}");
        if extent.flags & allocation::ZERO != 0 {
            zeroes += u64::from(extent.length);
            let mut at = offset;
            while at < end.min(SIZE) {
                let piece = u32::try_from((end.min(SIZE) - at).min(8 * MIB))?;
                ensure!(client.read(at, piece)?.iter().all(|&byte| byte == 0), "no zeroes at {at}");
                at += u64::from(piece);
            }
        }
        offset = end;
    }
    // The server "SHOULD return additional status values when they can be easily detected": a hole in a file.
    ensure!(zeroes > 0, "in a sparse file nothing was said to be zero");
    Ok(())
}

/// Spec "NBD_CMD_FLAG_REQ_ONE": one extent for each context, not longer than the request. (The raw client
/// checks it.) Also for requests that are not aligned.
#[test]
fn req_one_brings_one_extent_within_the_request() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    client.write(MIB, &pattern(1, 4096))?;
    let ranges =
        [(0, 1), (0, 1 << 20), (1, 4095), (MIB - 1, 2), (MIB + 100, 4096), (SIZE - 1, 1), (0, 32 << 20)];
    for (offset, length) in ranges {
        let one = extents(&mut client, command_flag::REQ_ONE, offset, length)?;
        assert_eq!(one.len(), 1);
    }
    Ok(())
}

/// Spec "NBD_REPLY_TYPE_BLOCK_STATUS": extents begin at the offset asked for, and only the last may pass the
/// end of the request: byte-wise requests over a border between data and hole agree with a single one.
#[test]
fn block_status_extents_begin_at_the_offset() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    client.write(MIB, &pattern(1, 1 << 20))?;
    let flags_at = |client: &mut Transmission, offset| -> Result<u32> {
        Ok(extents(client, command_flag::REQ_ONE, offset, 1)?[0].flags)
    };
    let mut offset = MIB - 4096;
    for extent in extents(&mut client, 0, offset, 8192)? {
        let end = (offset + u64::from(extent.length)).min(MIB + 4096);
        for probe in [offset, offset + 1, end - 1] {
            if probe < end {
                assert_eq!(flags_at(&mut client, probe)?, extent.flags, "at {probe}");
            }
        }
        offset = end;
        if offset >= MIB + 4096 {
            break;
        }
    }
    Ok(())
}

/// Spec "NBD_CMD_BLOCK_STATUS": a range beyond the export SHOULD be EINVAL.
#[test]
fn block_status_beyond_the_end_is_invalid() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (0, u32::MAX), (u64::MAX, 1), (u64::MAX - 4095, 4096)]
    {
        status(&mut client, 0, offset, length)?.expect(Errno::EINVAL)?;
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_CMD_BLOCK_STATUS": length zero is unspecified, but the server SHOULD NOT disconnect; it must not
/// send an extent of no length either (the raw client checks it).
#[test]
fn block_status_of_length_zero_keeps_the_connection() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    for offset in [0, 512, SIZE] {
        status(&mut client, 0, offset, 0)?.expect_one_of(&[Errno::EINVAL, Errno::OK])?;
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_CMD_FLAG_FUA": valid on all commands; flags of other commands are EINVAL.
#[test]
fn block_status_flags_are_checked() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    status(&mut client, command_flag::FUA | command_flag::REQ_ONE, 0, BLOCK)?.expect(Errno::OK)?;
    let wrong = [command_flag::DF, command_flag::NO_HOLE, command_flag::PAYLOAD_LEN, command_flag::UNKNOWN];
    for flags in wrong {
        status(&mut client, flags, 0, BLOCK)?.expect(Errno::EINVAL)?;
    }
    client.check_in_step()
}

/// Spec "NBD_CMD_BLOCK_STATUS": many extents in one answer, and requests with lengths up to 2^32 - 1: at most
/// 2^20 extents, coverage as ever.
#[test]
fn block_status_of_a_large_export_is_bounded() -> Result<()> {
    let size = 6 << 30;
    let server = Server::start(ServeOptions { size, ..options() })?;
    let mut client = handshake(&server)?.structured()?;
    client
        .option(option::SET_META_CONTEXT, &meta_data(EXPORT.as_bytes(), &["base:allocation"]))?
        .contexts()?;
    let mut client = client.go(EXPORT)?;
    for index in 0..256 {
        client.write(index * 128 * 1024, &pattern(index, 4096))?;
    }
    for (offset, length) in [(0, u32::MAX), (size - u64::from(u32::MAX), u32::MAX), (1, 0x8000_0000)] {
        let all = extents(&mut client, 0, offset, length)?;
        ensure!(!all.is_empty(), "no extent");
        let total: u64 = all.iter().map(|extent| u64::from(extent.length)).sum();
        ensure!(offset + total <= size, "extents beyond the export");
    }
    client.check_in_step()
}
