//! NBD_OPT_INFO and NBD_OPT_GO (spec: "Option types", "NBD_REP_INFO", "Size constraints").

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Handshake,
        handshake::info_data,
        protocol::{DEFAULT_MAX_PAYLOAD, STRING_LIMIT, handshake_flag, info, option, option_reply},
    },
    serve::{ServeOptions, Server},
};

use crate::common::{EXPORT, SIZE, address, handshake, options, serve};

const BOTH: [u32; 2] = [option::INFO, option::GO];

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": INFO_EXPORT MUST be sent before ACK, also when nothing was asked for
/// (nbd-client asks for nothing).
#[test]
fn info_and_go_without_requests_send_info_export() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?;
        let told = client.option(option, &info_data(EXPORT.as_bytes(), &[]))?.export_info()?;
        assert_eq!(told.size, SIZE);
    }
    Ok(())
}

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": INFO_EXPORT comes as well when only others were asked for.
#[test]
fn info_and_go_with_other_requests_send_info_export() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?;
        let data = info_data(EXPORT.as_bytes(), &[info::BLOCK_SIZE]);
        assert_eq!(client.option(option, &data)?.export_info()?.size, SIZE);
    }
    Ok(())
}

/// Spec "NBD_REP_INFO": name, description and block size are told when they are asked for.
#[test]
fn info_types_name_description_and_block_size_are_told() -> Result<()> {
    let server =
        Server::start(ServeOptions { description: Some("a disk for tests".to_owned()), ..options() })?;
    let requests = [info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
    for option in BOTH {
        let mut client = handshake(&server)?;
        let told = client.option(option, &info_data(EXPORT.as_bytes(), &requests))?.export_info()?;
        assert_eq!(told.name.as_deref(), Some(EXPORT));
        assert_eq!(told.description.as_deref(), Some("a disk for tests"));
        ensure!(told.block_size.is_some(), "no INFO_BLOCK_SIZE");
    }
    Ok(())
}

/// Spec "NBD_INFO_NAME": the canonical name, also when the client used the empty one.
#[test]
fn info_types_name_is_the_canonical_one() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let told = client.option(option::INFO, &info_data(b"", &[info::NAME]))?.export_info()?;
    assert_eq!(told.name.as_deref(), Some(EXPORT));
    Ok(())
}

/// Spec "Size constraints": the minimum is a power of two of at most 65,536, the preferred size a power of two
/// of at least 512 and at least the minimum, the maximum payload at least the preferred size. We promise
/// minimum 1, preferred 4096, maximum 32 MiB: the defaults that every client may assume.
#[test]
fn size_constraints_are_the_defaults() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let told = client.option(option::INFO, &info_data(EXPORT.as_bytes(), &[info::BLOCK_SIZE]))?;
    let (minimum, preferred, maximum) = told.export_info()?.block_size.context("asked for")?;
    ensure!(minimum.is_power_of_two() && minimum <= 1 << 16, "minimum {minimum}");
    ensure!(preferred.is_power_of_two() && preferred >= minimum.max(512), "preferred {preferred}");
    ensure!(maximum >= preferred, "maximum {maximum}");
    ensure!(SIZE.is_multiple_of(u64::from(minimum)), "the size is no multiple of the minimum {minimum}");
    assert_eq!((minimum, preferred, maximum), (1, 4096, DEFAULT_MAX_PAYLOAD));
    Ok(())
}

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": the server MUST ignore information requests that it does not know.
#[test]
fn info_and_go_unknown_requests_are_ignored() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?;
        let requests = [info::UNKNOWN, info::BLOCK_SIZE, u16::MAX, 4, 5];
        let told = client.option(option, &info_data(EXPORT.as_bytes(), &requests))?.export_info()?;
        ensure!(told.block_size.is_some(), "the known request among unknown ones was lost");
    }
    Ok(())
}

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": a list may be long; unknown ones in it are still to be ignored. A
/// server may find it too big, but then says so and stays in step.
#[test]
fn info_and_go_many_requests_are_answered() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?;
        let requests: Vec<u16> = (100..2100).collect();
        let answer = client.option(option, &info_data(EXPORT.as_bytes(), &requests))?;
        if answer.last.is_error() {
            answer.refused(&[option_reply::ERR_TOO_BIG, option_reply::ERR_INVALID])?;
            client.check_in_step()?;
        } else {
            answer.export_info()?;
        }
    }
    Ok(())
}

/// Spec "NBD_REP_ERR_UNKNOWN": an export that does not exist, without INFO replies; the session goes on.
#[test]
fn info_and_go_unknown_export_is_refused() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?;
        let answer = client.option(option, &info_data(b"no such export", &[info::BLOCK_SIZE]))?;
        ensure!(answer.parts.is_empty(), "INFO replies for an unknown export");
        answer.refused(&[option_reply::ERR_UNKNOWN])?;
        client.go(EXPORT)?.check_in_step()?;
    }
    Ok(())
}

/// Spec "Conventions": a name has at most 4096 bytes, is UTF-8 and has no NUL. Up to the limit it is a name
/// like any other (here an unknown one); what breaks the rules is refused; both leave the stream in step.
#[test]
fn conventions_names_at_the_limits_are_refused_in_step() -> Result<()> {
    let server = serve()?;
    let wrong = [option_reply::ERR_INVALID, option_reply::ERR_UNKNOWN, option_reply::ERR_TOO_BIG];
    for option in BOTH {
        let mut client = handshake(&server)?;
        for length in [255, 256, 257, 4095, STRING_LIMIT] {
            client
                .option(option, &info_data(&vec![b'n'; length], &[]))?
                .refused(&[option_reply::ERR_UNKNOWN])
                .with_context(|| format!("a name of {length} bytes"))?;
        }
        let too_long = vec![b'n'; STRING_LIMIT + 1];
        let names: [&[u8]; 5] = [&too_long, b"\xff\xfe\x80", b"disk\0", b"\0", b"di\xc3"];
        for name in names {
            client.option(option, &info_data(name, &[]))?.refused(&wrong)?;
        }
        client.go(EXPORT)?.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": the name MUST NOT be longer than the option's data less 6, and the list
/// is as long as its count says. Lengths that lie are refused, and the stream stays in step.
#[test]
fn info_and_go_lying_lengths_are_invalid_and_leave_the_stream_in_step() -> Result<()> {
    let server = serve()?;
    let name = EXPORT.as_bytes();
    let mut lies = vec![Vec::new(), vec![0], vec![0; 3], vec![0; 5]];
    for claimed in [5, 6, 7, 100, 0x7fff_ffff, 0x8000_0000, 0xffff_fffa, u32::MAX] {
        let mut data = info_data(name, &[]);
        data[..4].copy_from_slice(&u32::to_be_bytes(claimed));
        lies.push(data);
    }
    for claimed in [1, 2, 0x7fff, u16::MAX] {
        let mut data = info_data(name, &[]);
        let count = data.len() - 2;
        data[count..].copy_from_slice(&u16::to_be_bytes(claimed));
        lies.push(data);
    }
    // More data than the lengths account for.
    let mut longer = info_data(name, &[info::BLOCK_SIZE]);
    longer.push(0);
    lies.push(longer);
    let mut shorter_count = info_data(name, &[info::BLOCK_SIZE, info::NAME]);
    shorter_count[4 + name.len() + 1] = 1;
    lies.push(shorter_count);
    for option in BOTH {
        // Below the server's limit on the number of options of one connection.
        for some in lies.chunks(8) {
            let mut client = handshake(&server)?;
            for data in some {
                client
                    .option(option, data)?
                    .refused(&[option_reply::ERR_INVALID])
                    .with_context(|| format!("option {option}, data {data:02x?}"))?;
                client.check_in_step()?;
            }
            client.go(EXPORT)?.check_in_step()?;
        }
    }
    Ok(())
}

/// Spec "NBD_OPT_INFO": gives details but does not enter transmission: options go on.
#[test]
fn info_continues_the_handshake() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    for _ in 0..3 {
        client.option(option::INFO, &info_data(EXPORT.as_bytes(), &[]))?.export_info()?;
        client.check_in_step()?;
    }
    client.go(EXPORT)?.check_in_step()
}

/// Spec "NBD_OPT_INFO and NBD_OPT_GO": GO right after a successful INFO with the same parameters MUST tell the
/// same.
#[test]
fn go_after_info_tells_the_same() -> Result<()> {
    let server = serve()?;
    for structured in [false, true] {
        for requests in
            [vec![], vec![info::BLOCK_SIZE], vec![info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]]
        {
            let mut client = handshake(&server)?;
            if structured {
                client = client.structured()?;
            }
            let data = info_data(EXPORT.as_bytes(), &requests);
            let by_info = client.option(option::INFO, &data)?.export_info()?;
            let by_go = client.option(option::GO, &data)?.export_info()?;
            assert_eq!(by_info, by_go);
        }
    }
    Ok(())
}

/// Spec "NBD_OPT_GO": the server MUST NOT send zeroes after ACK, whether or not NO_ZEROES was negotiated.
#[test]
fn go_is_never_followed_by_zeroes() -> Result<()> {
    let server = serve()?;
    let flags = u32::from(handshake_flag::FIXED_NEWSTYLE);
    Handshake::with_flags(&address(&server), flags)?.go(EXPORT)?.check_in_step()?;
    handshake(&server)?.go(EXPORT)?.check_in_step()
}

/// Spec "NBD_REP_ERR_BLOCK_SIZE_REQD": a server with default constraints SHOULD NOT refuse a client that did
/// not ask for block sizes.
#[test]
fn go_without_block_size_request_is_accepted() -> Result<()> {
    let server = serve()?;
    handshake(&server)?.go_with(EXPORT, &[info::NAME])?.check_in_step()
}
