//! What went wrong in other NBD servers, each as a test named after its number.
//!
//! Not here, because they concern clients or the kernel: CVE-2022-0485, CVE-2021-20286, CVE-2023-5215,
//! CVE-2023-5871, CVE-2019-14842, CVE-2024-7383, CVE-2025-40080.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Errno, Handshake, Request,
        handshake::{info_data, meta_data, option_bytes, option_header},
        pattern::Numbers,
        protocol::{STRING_LIMIT, command, command_flag, option, option_reply},
        stream::Stream,
    },
    scale::scaled,
    serve::Server,
};

use crate::{
    siege::{ATTACKED, EXPORT, SIZE, Siege},
    stop::attach_every_kind,
};

/// Options that carry the name of an export at the beginning of their data.
const NAMED: [u32; 4] = [option::INFO, option::GO, option::LIST_META_CONTEXT, option::SET_META_CONTEXT];

/// nbd-server: a length of 0xffffffff wrapped when one was added to it. Lengths near 2^32 and 2^31, of options
/// and of names in them: the option is refused, or the connection closed.
#[test]
fn cve_2022_26495_lengths_that_wrap() -> Result<()> {
    let siege = Siege::begin()?;
    let lengths = [0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fff0, u32::MAX - 4, u32::MAX - 1, u32::MAX];
    for option in [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, option::UNKNOWN] {
        for length in lengths {
            // The option's own length.
            let mut client = siege.handshake()?;
            client.send(&option_header(option, length))?;
            // The server may have closed already.
            let _ = client.send(&[0; 64]);
            client.stream().shutdown_write().ok();
            client.stream().read_to_close()?;
        }
    }
    for option in NAMED {
        let mut client = siege.handshake()?.structured()?;
        for length in lengths {
            let mut data = info_data(EXPORT.as_bytes(), &[]);
            data[..4].copy_from_slice(&length.to_be_bytes());
            client.option(option, &data)?.refused(&[option_reply::ERR_INVALID])?;
        }
        client.check_in_step()?;
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// nbd-server: what INFO and GO had left over after the name went into a buffer of 1024 bytes.
#[test]
fn cve_2022_26496_leftover_data_of_info_and_go() -> Result<()> {
    let siege = Siege::begin()?;
    for option in NAMED {
        for leftover in [1, 1023, 1024, 1025, 4096, 8000, 32_000, 65_000] {
            let mut client = siege.handshake()?.structured()?;
            let mut data = info_data(EXPORT.as_bytes(), &[]);
            data.extend(std::iter::repeat_n(b'x', leftover));
            let refusals = [option_reply::ERR_INVALID, option_reply::ERR_TOO_BIG];
            match client.option(option, &data) {
                Ok(answer) => {
                    answer.refused(&refusals)?;
                    client.check_in_step()?;
                    client.go(EXPORT)?.check_in_step()?;
                }
                // More than the server takes for one option: it may close.
                Err(_) => ensure!(data.len() > 8192, "closed after {} bytes of data", data.len()),
            }
        }
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// nbd-server: a client that closed during negotiation, or asked for an export that does not exist, ended the
/// root process. (Every byte offset: `disconnect.rs`.)
#[test]
fn cve_2013_7441_closing_during_negotiation() -> Result<()> {
    let siege = Siege::begin()?;
    for round in 0..200 {
        let address = if round % 2 == 0 { siege.unix() } else { siege.tcp()? };
        match round % 5 {
            0 => drop(Stream::connect(&address)?),
            1 => drop(Handshake::silent(&address)?),
            2 => drop(Handshake::open(&address)?),
            3 => Handshake::open(&address)?.send(&option_bytes(option::EXPORT_NAME, b"no such export"))?,
            _ => Handshake::open(&address)?
                .send(&option_bytes(option::GO, &info_data(EXPORT.as_bytes(), &[])))?,
        }
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// qemu: an export name of more than 256 bytes overflowed the stack. Lengths around every likely limit, in
/// every option that takes a name.
#[test]
fn cve_2017_15118_long_names() -> Result<()> {
    let siege = Siege::begin()?;
    let refusals = [option_reply::ERR_UNKNOWN, option_reply::ERR_INVALID, option_reply::ERR_TOO_BIG];
    for limit in [128, 256, 512, 1024, 4096, 8192] {
        for length in limit - 8..=limit + 8 {
            let name = vec![b'n'; length];
            let mut client = siege.handshake()?.structured()?;
            for option in [option::INFO, option::GO] {
                client.option(option, &info_data(&name, &[]))?.refused(&refusals)?;
            }
            for option in [option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
                client.option(option, &meta_data(&name, &["base:allocation"]))?.refused(&refusals)?;
            }
            client.check_in_step()?;
            client.send(&option_bytes(option::EXPORT_NAME, &name))?;
            client.expect_close()?;
        }
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// qemu: a flood of large options. The server bounds their number and size; then it closes.
#[test]
fn cve_2017_15119_flood_of_large_options() -> Result<()> {
    let siege = Siege::begin()?;
    for (option, length) in [
        (option::UNKNOWN, 0),
        (option::UNKNOWN, 8000),
        (option::UNKNOWN, 60_000),
        (option::UNKNOWN, 32 << 20),
        (option::LIST, 8000),
        (option::STRUCTURED_REPLY, 0),
        (option::SET_META_CONTEXT, 8000),
        (option::INFO, 60_000),
    ] {
        let mut client = siege.handshake()?;
        let flood = option_bytes(option, &vec![0; length]);
        let mut sent = 0_u64;
        // Until the server has had enough and closes. Its answers are read away.
        let mut replies = [0; 65_536];
        while let Ok(count) = client.stream().write_some(&flood[usize::try_from(sent)? % flood.len()..]) {
            sent += count as u64;
            if count == 0
                && client.stream().wait_for_either()?
                && !client.stream().read(&mut replies).is_ok_and(|count| count > 0)
            {
                break;
            }
            ensure!(sent < 256 << 20, "the server took {sent} bytes of options of {length} bytes");
        }
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// qemu (CVE-2017-7539 and CVE-2017-9524): the client went away while its requests were running.
#[test]
fn cve_2017_7539_disconnect_with_requests_in_flight() -> Result<()> {
    let siege = Siege::begin()?;
    let data = vec![0xaa; 256 << 10];
    for round in 0..scaled(60) {
        let address = if round % 2 == 0 { siege.unix() } else { siege.tcp()? };
        let mut client = Handshake::open(&address)?.structured()?.go(EXPORT)?;
        for index in 0..16 {
            let offset = ATTACKED + index * (256 << 10);
            match (index + round) % 4 {
                0 => client.send(command::WRITE, 0, offset, 256 << 10, &data)?,
                1 => client.send(command::READ, 0, offset, 1 << 20, &[])?,
                2 => client.send(command::WRITE_ZEROES, command_flag::FUA, offset, 1 << 20, &[])?,
                _ => client.send(command::FLUSH, 0, 0, 0, &[])?,
            };
        }
        // Dropped with all of them in flight: unread replies make TCP send a reset.
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// qemu: an error message that repeated a name near the limit became longer than a string may be. (The raw
/// client refuses such a text.) Also names that grow when they are escaped for display.
#[test]
fn cve_2020_10761_names_in_error_messages() -> Result<()> {
    let siege = Siege::begin()?;
    let refusals = [option_reply::ERR_UNKNOWN, option_reply::ERR_INVALID];
    for filler in ["n", "\"", "\\", "\u{1b}[31m", "\n", "\u{7f}", "é", "\u{202e}", "\u{1F600}", "{}%s%n"] {
        for length in [STRING_LIMIT, STRING_LIMIT - 1, STRING_LIMIT - 40, 1000, 257] {
            let name: String = filler.repeat(length / filler.len());
            let mut client = siege.handshake()?.structured()?;
            for option in NAMED {
                let data = if option == option::INFO || option == option::GO {
                    info_data(name.as_bytes(), &[])
                } else {
                    meta_data(name.as_bytes(), &[])
                };
                let text = client.option(option, &data)?.refused(&refusals)?;
                // What people read is no place for a stranger's escape sequences.
                ensure!(!text.contains(['\u{1b}', '\n', '\u{7f}']), "control characters in {text:?}");
            }
            client.check_in_step()?;
        }
    }
    siege.good_client_works()?;
    let server = siege.end()?;
    let log = server.log()?;
    // tracing may colour its own lines; a name's own sequences must not get there.
    ensure!(!log.contains("\u{1b}[31m\u{1b}[31m"), "escape sequences of a client are in the log");
    Ok(())
}

/// qemu: sockets held open while the server stopped ended in a crash.
#[test]
fn cve_2024_7409_stop_with_sockets_held_open() -> Result<()> {
    let siege = Siege::begin()?;
    let attackers = attach_every_kind(&siege, 8)?;
    let mut server: Server = siege.into_server()?;
    server.stop()?;
    drop(attackers);
    Ok(())
}

/// nbdkit: the device was opened for clients that had not got through their handshake. Thousands of strangers
/// that come and go, and the log does not grow by a line for each.
#[test]
fn cve_2019_14850_no_work_before_the_handshake_is_done() -> Result<()> {
    let siege = Siege::begin()?;
    for round in 0..2000 {
        let address = if round % 2 == 0 { siege.unix() } else { siege.tcp()? };
        drop(Stream::connect(&address)?);
    }
    siege.good_client_works()?;
    let server = siege.end()?;
    let lines = server.log()?.lines().count();
    ensure!(lines < 1000, "{lines} lines of log for 2000 strangers");
    Ok(())
}

/// nbdkit: an assertion could be reached by an unusual order of options. Random orders of options and then of
/// commands, good and bad ones, repeatable by their seeds.
#[test]
fn cve_2019_14851_any_order_of_options_and_commands() -> Result<()> {
    let siege = Siege::begin()?;
    for seed in 0..scaled(150) {
        any_order(&siege, seed).with_context(|| format!("seed {seed}"))?;
    }
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

fn any_order(siege: &Siege, seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    let mut client = siege.handshake()?;
    let mut structured = false;
    let names: [&[u8]; 4] = [EXPORT.as_bytes(), b"", b"no such export", b"\xff"];
    for _ in 0..numbers.below(20) {
        let name = names[usize::try_from(numbers.below(4))?];
        match numbers.below(8) {
            0 => drop(client.option(option::LIST, &[])?.exports()?),
            1 => drop(client.option(option::INFO, &info_data(name, &[3, 1, 2]))?),
            2 => drop(client.option(option::STARTTLS, &[])?),
            3 if !structured => {
                client = client.structured()?;
                structured = true;
            }
            4 => drop(client.option(option::SET_META_CONTEXT, &meta_data(name, &["base:allocation"]))?),
            5 => drop(client.option(option::LIST_META_CONTEXT, &meta_data(name, &[]))?),
            6 => drop(client.option(option::UNKNOWN, name)?),
            _ => drop(client.option(option::GO, &info_data(b"no such export", &[]))?),
        }
    }
    let mut client = if numbers.below(2) == 0 { client.go(EXPORT)? } else { client.export_name(EXPORT)? };
    let mut cookies = Vec::new();
    for _ in 0..numbers.below(60) {
        let wanted = u16::try_from(numbers.below(11))?;
        // DISC would end it.
        let command = if wanted == command::DISC { command::READ } else { wanted };
        let flags = if numbers.below(4) == 0 { 1 << numbers.below(16) } else { 0 };
        let length = [0, 1, 511, 4096, 100_000][usize::try_from(numbers.below(5))?];
        let offset = [ATTACKED, ATTACKED + 1, SIZE - 1, SIZE, u64::MAX][usize::try_from(numbers.below(5))?];
        let payload = vec![0x77; if command == command::WRITE { length as usize } else { 0 }];
        cookies.push(client.send(command, flags, offset, length, &payload)?);
    }
    for cookie in cookies {
        let completion = client.wait(cookie)?;
        ensure!(completion.error != Errno::EIO && completion.error != Errno::ENOMEM, "{completion:?}");
    }
    client.check_in_step()?;
    client.disconnect()
}

/// nbdkit: what was injected in plain text before STARTTLS survived it. We have no TLS: STARTTLS is refused,
/// what was injected behind it is answered in plain text in its turn, and nobody is told that TLS is on.
#[test]
fn cve_2021_3716_starttls_with_injected_options() -> Result<()> {
    let siege = Siege::begin()?;
    let mut client = siege.handshake()?;
    let mut burst = option_bytes(option::STARTTLS, &[]);
    burst.extend(option_bytes(option::LIST, &[]));
    burst.extend(option_bytes(option::STARTTLS, b"injected"));
    burst.extend(option_bytes(option::INFO, &info_data(EXPORT.as_bytes(), &[])));
    client.send(&burst)?;
    client.answer(option::STARTTLS)?.refused(&[option_reply::ERR_UNSUP, option_reply::ERR_POLICY])?;
    client.answer(option::LIST)?.exports()?;
    ensure!(client.answer(option::STARTTLS)?.last.is_error(), "STARTTLS with data was accepted");
    client.answer(option::INFO)?.export_info()?;
    client.go(EXPORT)?.check_in_step()?;
    siege.end()?;
    Ok(())
}

/// nbdkit (CVE-2025-47711 and CVE-2025-47712): BLOCK_STATUS over lengths near 2^32 ran into an assertion. Every
/// command at the borders of 31, 32 and 64 bits, on a device that is larger than 4 GiB.
#[test]
fn cve_2025_47711_huge_lengths_and_offsets() -> Result<()> {
    let size = 6 << 30;
    let siege = Siege::begin_on(size)?;
    let mut client = siege.handshake()?.structured()?;
    client.set_meta_context(EXPORT, &["base:allocation"])?;
    let mut client = client.go(EXPORT)?;
    let lengths = [1, 512, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, u32::MAX - 1, u32::MAX];
    let borders = [ATTACKED, 1 << 31, 1 << 32, size, 1 << 63, u64::MAX];
    for border in borders {
        for offset in [border.saturating_sub(4096), border - 1, border, border.saturating_add(1)] {
            // The good client's part is not ours.
            let offset = offset.max(ATTACKED);
            for length in lengths {
                let fits = offset.checked_add(u64::from(length)).is_some_and(|end| end <= size);
                for command in [command::BLOCK_STATUS, command::TRIM, command::WRITE_ZEROES, command::CACHE] {
                    let wrong = if command == command::WRITE_ZEROES { Errno::ENOSPC } else { Errno::EINVAL };
                    // A hint of such a length may be refused.
                    let expected = match (fits, command) {
                        (true, command::CACHE) => &[Errno::OK, Errno::EINVAL, Errno::EOVERFLOW][..],
                        (true, _) => &[Errno::OK],
                        (false, _) => &[wrong],
                    };
                    client
                        .call(command, 0, offset, length, &[])?
                        .expect_one_of(expected)
                        .with_context(|| format!("command {command} {offset}+{length}"))?;
                }
                for flags in [command_flag::REQ_ONE, command_flag::REQ_ONE | command_flag::FUA] {
                    let expected = if fits { Errno::OK } else { Errno::EINVAL };
                    client.call(command::BLOCK_STATUS, flags, offset, length, &[])?.expect(expected)?;
                }
            }
        }
    }
    client.check_in_step()?;
    // Requests that announce a payload of 4 GiB: refused by closing, or drained for ever; never stored.
    let mut greedy = siege.client()?;
    let request =
        Request { command: command::WRITE, offset: ATTACKED, length: u32::MAX, ..Request::default() };
    greedy.stream().write_all(&request.encode())?;
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}
