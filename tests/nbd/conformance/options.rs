//! Options one by one (spec: "Option types" and "Option reply types"), without INFO, GO and metadata contexts.

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{
        Handshake,
        handshake::option_bytes,
        protocol::{STRING_LIMIT, option, option_reply},
    },
    serve::{ServeOptions, Server},
};

use crate::common::{EXPORT, SIZE, address, handshake, options, serve};

/// Spec "NBD_OPT_EXPORT_NAME": chooses the export and enters transmission; size and flags are those of GO.
#[test]
fn export_name_enters_transmission() -> Result<()> {
    let server = serve()?;
    let by_name = handshake(&server)?.export_name(EXPORT)?;
    let by_go = handshake(&server)?.go(EXPORT)?;
    assert_eq!(by_name.size(), SIZE);
    assert_eq!(by_name.info().flags, by_go.info().flags);
    by_name.disconnect()?;
    by_go.disconnect()
}

/// Spec "NBD_OPT_EXPORT_NAME": for an export that does not exist the server MUST terminate the session; there
/// is no error reply. Also for names at and beyond the limits of a string.
#[test]
fn export_name_unknown_closes_the_connection() -> Result<()> {
    let server = serve()?;
    let long = vec![b'n'; STRING_LIMIT];
    let too_long = vec![b'n'; STRING_LIMIT + 1];
    let names: [&[u8]; 6] = [b"no such export", b"disk ", b"disk\0", b"\xff\xfe", &long, &too_long];
    for name in names {
        let mut client = handshake(&server)?;
        client.send(&option_bytes(option::EXPORT_NAME, name))?;
        client.expect_close().with_context(|| format!("name of {} bytes", name.len()))?;
    }
    handshake(&server)?.check_in_step()
}

/// Spec "NBD_OPT_EXPORT_NAME" and "NBD_OPT_GO": the empty name is the default export; with one export it is
/// that one.
#[test]
fn export_name_empty_is_the_default_export() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.export_name("")?;
    assert_eq!(client.size(), SIZE);
    client.check_in_step()?;
    let mut client = handshake(&server)?.go("")?;
    assert_eq!(client.size(), SIZE);
    client.check_in_step()
}

/// Spec "NBD_OPT_ABORT": the server MUST reply with ACK; then the session is over.
#[test]
fn abort_is_acknowledged() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    client.option(option::ABORT, &[])?.accepted()?;
    client.expect_close()
}

/// Spec "NBD_OPT_ABORT": a server SHOULD ignore data rather than reject the option.
#[test]
fn abort_with_data_is_acknowledged() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    client.option(option::ABORT, b"goodbye")?.accepted()?;
    client.expect_close()
}

/// Spec "NBD_OPT_ABORT": the server SHOULD bear with a client that closes without waiting for the reply.
#[test]
fn abort_without_waiting_is_harmless() -> Result<()> {
    let mut server = serve()?;
    for _ in 0..20 {
        let mut client = handshake(&server)?;
        client.send(&option_bytes(option::ABORT, &[]))?;
    }
    handshake(&server)?.check_in_step()?;
    server.stop()
}

/// Spec "NBD_OPT_LIST" and "NBD_REP_SERVER": each export by the name that the other options take, then its
/// description, then ACK.
#[test]
fn list_names_the_exports() -> Result<()> {
    let server =
        Server::start(ServeOptions { description: Some("for the test of LIST".to_owned()), ..options() })?;
    let mut client = handshake(&server)?;
    let exports = client.option(option::LIST, &[])?.exports()?;
    assert_eq!(exports, [(EXPORT.to_owned(), "for the test of LIST".to_owned())]);
    // "zero or more": it may be asked again, and the answer is the same.
    assert_eq!(client.option(option::LIST, &[])?.exports()?, exports);
    Ok(())
}

/// Spec "NBD_OPT_LIST": a request with data SHOULD be rejected with ERR_INVALID.
#[test]
fn list_with_data_is_invalid() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    client.option(option::LIST, b"x")?.refused(&[option_reply::ERR_INVALID])?;
    client.check_in_step()
}

/// Spec "Conventions": names of 256 bytes and names that are not ASCII are served like any other.
#[test]
fn conventions_long_and_foreign_export_names_are_served() -> Result<()> {
    for name in ["n".repeat(256), "größe/日本 語".to_owned()] {
        let server = Server::start(ServeOptions { export: name.clone(), ..options() })?;
        let mut client = Handshake::open(&address(&server))?;
        let exports = client.option(option::LIST, &[])?.exports()?;
        ensure!(exports.iter().any(|(listed, _)| *listed == name), "{name} is not in {exports:?}");
        client.go(&name)?.check_in_step()?;
        Handshake::open(&address(&server))?.export_name(&name)?.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_OPT_STRUCTURED_REPLY": ACK means that READ is answered by structured replies from then on.
#[test]
fn structured_reply_option_switches_reads() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?.go(EXPORT)?;
    // The raw client refuses a simple reply to READ on such a connection.
    client.check_in_step()
}

/// Spec "NBD_OPT_STRUCTURED_REPLY": a request with data SHOULD be rejected with ERR_INVALID; nothing is
/// negotiated then.
#[test]
fn structured_reply_option_with_data_is_invalid() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    client.option(option::STRUCTURED_REPLY, &[0])?.refused(&[option_reply::ERR_INVALID])?;
    // The raw client refuses a structured reply on such a connection.
    client.go(EXPORT)?.check_in_step()
}

/// Spec "Option reply types": every error reply has a text for people, or none; ours always has one.
#[test]
fn option_reply_types_errors_carry_a_text() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let text = client.option(option::UNKNOWN, &[])?.refused(&[option_reply::ERR_UNSUP])?;
    ensure!(!text.is_empty(), "ERR_UNSUP without a text");
    let text = client.option(option::LIST, b"x")?.refused(&[option_reply::ERR_INVALID])?;
    ensure!(!text.is_empty(), "ERR_INVALID without a text");
    let data = evenkeel_tests::raw::handshake::info_data(b"no such export", &[]);
    let text = client.option(option::INFO, &data)?.refused(&[option_reply::ERR_UNKNOWN])?;
    ensure!(!text.is_empty(), "ERR_UNKNOWN without a text");
    Ok(())
}
