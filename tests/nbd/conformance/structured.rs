//! Structured replies (spec: "Structured reply chunk message", "Structured reply flags", "Structured reply
//! types", and the structured part of "NBD_CMD_READ").
//!
//! The raw client checks the form of every chunk in every test: lengths, DONE on the last and only there,
//! content within the request, without overlap, complete on success, no unknown flags or types.

use anyhow::{Context, Result, ensure};
use evenkeel_tests::raw::{
    Errno, Transmission,
    pattern::pattern,
    protocol::{chunk, command, command_flag},
};

use crate::common::{BLOCK, SIZE, serve, structured, with_allocation};

const MIB: u64 = 1 << 20;

/// Data, a hole, data, a hole: returns what the first 4 MiB read as.
fn write_islands(client: &mut Transmission) -> Result<Vec<u8>> {
    let mut model = vec![0; 4 << 20];
    for (index, start) in [0, 2 << 20, (3 << 20) + 4096].into_iter().enumerate() {
        let data = pattern(index as u64, 300_000);
        client.write(start as u64, &data)?;
        model[start..start + data.len()].copy_from_slice(&data);
    }
    client.flush()?;
    Ok(model)
}

/// Spec "Structured reply chunk message": READ MUST be answered by structured replies once negotiated; data and
/// holes together make up exactly what was asked for.
#[test]
fn structured_read_of_data_and_holes_is_complete() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let model = write_islands(&mut client)?;
    let ranges =
        [(0, 4 << 20), (1, 4095), (299_999, 2), (511, 1 << 20), ((2 << 20) - 1, 300_002), (3 << 20, 4097)];
    for (start, length) in ranges {
        let data = client.read(start as u64, u32::try_from(length)?)?;
        ensure!(data == model[start..start + length], "wrong data at {start}+{length}");
    }
    Ok(())
}

/// Spec "Structured reply chunk message": a READ that fails, even for bad flags, MUST NOT be answered by a
/// simple reply (the raw client refuses one); the error SHOULD have a text.
#[test]
fn structured_read_error_is_a_chunk_with_a_text() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    for (flags, offset) in [(0, SIZE), (0, u64::MAX), (command_flag::UNKNOWN, 0), (command_flag::NO_HOLE, 0)]
    {
        let completion = client.call(command::READ, flags, offset, BLOCK, &[])?.expect(Errno::EINVAL)?;
        ensure!(!completion.is_simple(), "a simple reply");
        ensure!(!completion.message.is_empty(), "an error chunk without a text");
        ensure!(!completion.chunks.iter().any(|one| one.is_content()), "content before an early error");
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "Structured reply chunk message": other requests may be answered either way; errors SHOULD be
/// structured, with a text.
#[test]
fn structured_errors_of_other_commands_have_a_text() -> Result<()> {
    let server = serve()?;
    let mut client = with_allocation(&server)?;
    for command in [command::TRIM, command::WRITE_ZEROES, command::BLOCK_STATUS, command::UNKNOWN] {
        let completion = client.call(command, 0, SIZE, BLOCK, &[])?;
        ensure!(completion.error != Errno::OK, "command {command} beyond the end succeeded");
        ensure!(!completion.is_simple(), "command {command}: a simple reply for an error");
        ensure!(!completion.message.is_empty(), "command {command}: an error chunk without a text");
    }
    client.check_in_step()
}

/// Spec "Structured reply types": the format of an OFFSET_DATA chunk and of what ends the reply.
#[test]
fn structured_reply_types_offset_data_has_the_documented_format() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let data = pattern(4, 4096);
    client.write(MIB, &data)?;
    let completion = client.call(command::READ, command_flag::DF, MIB, BLOCK, &[])?.expect(Errno::OK)?;
    let first = &completion.chunks[0];
    assert_eq!(first.kind, chunk::OFFSET_DATA);
    assert_eq!(first.payload[..8], MIB.to_be_bytes());
    assert_eq!(first.payload[8..], data);
    let last = completion.chunks.last().context("at least one chunk")?;
    ensure!(last.done && (last.kind == chunk::NONE || completion.chunks.len() == 1), "{:?}", last.kind);
    Ok(())
}

/// Spec "NBD_CMD_READ", structured: with DF at most one content chunk; over data and holes it MUST be
/// OFFSET_DATA with the zeroes explicitly present. At least up to 65,536 bytes DF MUST be supported.
#[test]
fn df_brings_one_content_chunk() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let model = write_islands(&mut client)?;
    // Each range holds data and a hole.
    for (start, length) in [(262_144, 65_536), (299_000, 60_000), ((2 << 20) - 4096, 8192), (299_999, 2)] {
        let reply = client
            .call(command::READ, command_flag::DF, start as u64, u32::try_from(length)?, &[])?
            .expect(Errno::OK)?;
        let content: Vec<_> = reply.chunks.iter().filter(|one| one.is_content()).collect();
        assert_eq!(content.len(), 1);
        assert_eq!(content[0].kind, chunk::OFFSET_DATA, "data and hole at {start}+{length}");
        ensure!(reply.data == model[start..start + length], "wrong data at {start}+{length}");
    }
    Ok(())
}

/// Spec "NBD_CMD_READ", structured: a long read with DF is served in one chunk or refused with EOVERFLOW and
/// no content.
#[test]
fn df_of_a_long_read_is_one_chunk_or_overflow() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let model = write_islands(&mut client)?;
    for length in [65_537, 1 << 20, 4 << 20] {
        let reply = client
            .call(command::READ, command_flag::DF, 0, u32::try_from(length)?, &[])?
            .expect_one_of(&[Errno::OK, Errno::EOVERFLOW])?;
        if reply.error == Errno::OK {
            ensure!(reply.data == model[..length], "wrong data");
        } else {
            ensure!(!reply.chunks.iter().any(|one| one.is_content()), "content beside EOVERFLOW");
        }
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_REPLY_TYPE_OFFSET_HOLE": a read of nothing but holes: zeroes, however they are sent.
#[test]
fn structured_reply_types_holes_read_as_zeroes() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    for flags in [command_flag::NONE, command_flag::DF] {
        for (offset, length) in [(0, 1), (511, 2), (0, 65_536), (SIZE - 65_536, 65_536), (12_345, 50_000)] {
            let reply = client.call(command::READ, flags, offset, length, &[])?.expect(Errno::OK)?;
            ensure!(reply.data.iter().all(|&byte| byte == 0), "no zeroes at {offset}+{length}");
        }
    }
    Ok(())
}

/// Spec "Structured reply chunk message": chunks of one reply may be mixed with others' replies, but each
/// carries its own cookie: many sparse reads at once.
#[test]
fn structured_replies_of_many_reads_are_told_apart() -> Result<()> {
    let server = serve()?;
    let mut client = structured(&server)?;
    let model = write_islands(&mut client)?;
    let mut cookies = std::collections::HashMap::new();
    for index in 0..200_usize {
        let start = (index * 19_999) % (3 << 20);
        let length = 1 + (index * 7_919) % 900_000;
        let cookie = client.send(command::READ, 0, start as u64, u32::try_from(length)?, &[])?;
        cookies.insert(cookie, start..start + length);
    }
    while !cookies.is_empty() {
        let completion = client.wait_any()?.expect(Errno::OK)?;
        let range = cookies.remove(&completion.cookie).context("a cookie of ours")?;
        ensure!(completion.data == model[range.clone()], "wrong data for {range:?}");
    }
    Ok(())
}
