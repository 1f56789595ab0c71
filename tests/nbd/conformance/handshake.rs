//! The beginning of a connection and the end of option haggling (spec: "Newstyle negotiation", "Fixed newstyle
//! negotiation", "Handshake flags", "Client flags", "Termination of the session during option haggling",
//! "NOTLS mode", "Baseline").

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::raw::{
    Handshake,
    handshake::{BOTH_FLAGS, info_data, option_bytes},
    protocol::{IHAVEOPT, OPTION_REPLY_MAGIC, handshake_flag, option, option_reply},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{EXPORT, address, handshake, serve};

/// Spec "Handshake flags": FIXED_NEWSTYLE MUST be set; NO_ZEROES may; the server MUST NOT set any other.
#[test]
fn handshake_flags_are_fixed_newstyle_and_no_zeroes_and_nothing_else() -> Result<()> {
    let server = serve()?;
    let client = Handshake::silent(&address(&server))?;
    assert_eq!(client.server_flags(), handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    Ok(())
}

/// Spec "Newstyle negotiation" and "Client flags": the server MUST drop the connection on a flag that it does
/// not know.
#[test]
fn client_flags_unknown_bit_closes_the_connection() -> Result<()> {
    let server = serve()?;
    for bit in 2..32 {
        Handshake::with_flags(&address(&server), BOTH_FLAGS | 1 << bit)?.expect_close()?;
    }
    handshake(&server)?.check_in_step()
}

/// Spec "Client flags": a client that set no flag may still use EXPORT_NAME, as in non-fixed newstyle.
#[test]
fn client_flags_none_still_allows_export_name() -> Result<()> {
    let server = serve()?;
    Handshake::with_flags(&address(&server), 0)?.export_name(EXPORT)?.check_in_step()
}

/// Spec "Newstyle negotiation": with NO_ZEROES negotiated the server MUST NOT send the 124 zeroes, otherwise
/// it sends them: both ways, each followed by a request that is only answered if the count was right.
#[test]
fn newstyle_negotiation_reserved_zeroes_follow_the_client_flag() -> Result<()> {
    let server = serve()?;
    for flags in [u32::from(handshake_flag::FIXED_NEWSTYLE), BOTH_FLAGS] {
        Handshake::with_flags(&address(&server), flags)?.export_name(EXPORT)?.check_in_step()?;
    }
    Ok(())
}

/// Spec "Fixed newstyle negotiation": the format of an option reply, byte for byte.
#[test]
fn fixed_newstyle_negotiation_reply_has_the_documented_format() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    client.send(&option_bytes(option::STRUCTURED_REPLY, &[]))?;
    let mut expected = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    expected.extend_from_slice(&option::STRUCTURED_REPLY.to_be_bytes());
    expected.extend_from_slice(&option_reply::ACK.to_be_bytes());
    expected.extend_from_slice(&0u32.to_be_bytes());
    assert_eq!(client.stream().read_bytes(20)?, expected);
    Ok(())
}

/// Spec "Fixed newstyle negotiation": options are answered one after the other, also when a client breaks the
/// rule to wait for each answer.
#[test]
fn fixed_newstyle_negotiation_pipelined_options_are_answered_in_order() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let mut burst = option_bytes(option::UNKNOWN, b"data to be skipped");
    burst.extend(option_bytes(option::LIST, &[]));
    burst.extend(option_bytes(option::STRUCTURED_REPLY, &[]));
    burst.extend(option_bytes(option::INFO, &info_data(EXPORT.as_bytes(), &[])));
    client.send(&burst)?;
    client.answer(option::UNKNOWN)?.refused(&[option_reply::ERR_UNSUP])?;
    client.answer(option::LIST)?.exports()?;
    client.answer(option::STRUCTURED_REPLY)?.accepted()?;
    client.answer(option::INFO)?.export_info()?;
    Ok(())
}

/// Spec "Fixed newstyle negotiation": a message that changes the state may be repeated; the server MAY fail it
/// with ERR_INVALID. It stays in step, and structured replies stay negotiated.
#[test]
fn fixed_newstyle_negotiation_repeated_state_change_is_harmless() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let answer = client.option(option::STRUCTURED_REPLY, &[])?;
    ensure!(
        [option_reply::ACK, option_reply::ERR_INVALID].contains(&answer.last.kind),
        "a second STRUCTURED_REPLY was answered by {answer:x?}"
    );
    client.go(EXPORT)?.check_in_step()
}

/// Spec "Newstyle negotiation": each option begins with IHAVEOPT. After anything else the stream cannot be in
/// step, so the server closes ("Termination of the session": a hard disconnect after a breach).
#[test]
fn newstyle_negotiation_wrong_option_magic_closes_the_connection() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let mut bytes = option_bytes(option::LIST, &[]);
    bytes[..8].copy_from_slice(&(IHAVEOPT ^ 1).to_be_bytes());
    client.send(&bytes)?;
    client.expect_close()?;
    handshake(&server)?.check_in_step()
}

/// Spec "Termination of the session during option haggling": the server MUST simply error inbound options
/// until the client gets the hint; it does not close.
#[test]
fn termination_of_haggling_refused_options_do_not_end_the_session() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    for number in 0..20 {
        client.option(option::UNKNOWN + number, &[])?.refused(&[option_reply::ERR_UNSUP])?;
        client
            .option(option::GO, &info_data(b"no such export", &[]))?
            .refused(&[option_reply::ERR_UNKNOWN])?;
    }
    client.go(EXPORT)?.check_in_step()
}

/// Spec "Termination of the session during option haggling": a server that is shut down SHOULD answer further
/// options with ERR_SHUTDOWN, and may close; it ends although a client is in the middle of its handshake.
#[test]
fn termination_of_haggling_shutdown_refuses_or_closes() -> Result<()> {
    let mut server = serve()?;
    let mut client = handshake(&server)?;
    client.check_in_step()?;
    let pid = Pid::from_raw(server.pid().cast_signed()).expect("a process id is positive");
    kill_process(pid, Signal::TERM)?;
    for _ in 0..100 {
        // Until the signal has been handled, the answer may still be the ordinary one.
        let Ok(answer) = client.option(option::LIST, &[]) else { break };
        if answer.last.kind != option_reply::ACK {
            answer.refused(&[option_reply::ERR_SHUTDOWN])?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    server.stop()
}

/// Spec "NOTLS mode": STARTTLS MUST be answered with ERR_POLICY, ERR_UNSUP or another permitted error, and no
/// option is ever answered with ERR_TLS_REQD.
#[test]
fn notls_mode_starttls_is_refused_and_never_required() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let refusals = [option_reply::ERR_UNSUP, option_reply::ERR_POLICY];
    client.option(option::STARTTLS, &[])?.refused(&refusals)?;
    let refusals = [option_reply::ERR_UNSUP, option_reply::ERR_POLICY, option_reply::ERR_INVALID];
    client.option(option::STARTTLS, b"no data is allowed")?.refused(&refusals)?;
    for option in 3..=12 {
        let answer = client.option(option, &info_data(b"no such export", &[]))?;
        ensure!(answer.last.kind != option_reply::ERR_TLS_REQD, "option {option} requires TLS");
    }
    client.go(EXPORT)?.check_in_step()
}

/// Spec "Baseline": an option that the server does not implement MUST be answered with ERR_UNSUP, and the
/// next message must be parsed rightly, whatever data the option had.
#[test]
fn baseline_unknown_option_is_unsupported_and_leaves_the_stream_in_step() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    // The data look like options: a server that does not skip them would answer them.
    let bait = option_bytes(option::ABORT, &[]);
    let numbers = [0, option::PEEK_EXPORT, option::EXTENDED_HEADERS, 12, option::UNKNOWN, u32::MAX];
    for (number, length) in numbers.into_iter().zip([0, 1, 16, 4096, 8192, 1000]) {
        let data: Vec<u8> = bait.iter().copied().cycle().take(length).collect();
        client.option(number, &data)?.refused(&[option_reply::ERR_UNSUP])?;
        client.check_in_step()?;
    }
    client.go(EXPORT)?.check_in_step()
}
