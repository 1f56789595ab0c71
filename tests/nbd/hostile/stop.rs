//! SIGTERM while hostile clients are attached: the server ends within 10 s, with exit code 0 (`Server::stop`
//! checks both).

use std::io::Write;

use anyhow::{Result, ensure};
use evenkeel_tests::raw::{
    Handshake, Request,
    handshake::{BOTH_FLAGS, info_data, option_bytes, option_header},
    pattern::pattern,
    protocol::{DEFAULT_MAX_PAYLOAD, command, command_flag, option},
    stream::Stream,
};
use std::{fs::File, os::unix::fs::FileExt};

use crate::{
    siege::{ATTACKED, EXPORT, Siege},
    slow::push_until_full,
};

/// Attaches `count` clients of every hostile kind and leaves them attached.
pub(crate) fn attach_every_kind(siege: &Siege, count: u64) -> Result<Vec<Stream>> {
    let mut attached = Vec::new();
    for index in 0..count {
        let address = if index % 2 == 0 { siege.unix() } else { siege.tcp()? };
        // Half-open ones: silent, in their flags, in an option, with a reply unread.
        attached.push(Stream::connect(&address)?);
        let scripts = [
            BOTH_FLAGS.to_be_bytes()[..3].to_vec(),
            [&BOTH_FLAGS.to_be_bytes()[..], &option_header(option::GO, 1000)].concat(),
            [&BOTH_FLAGS.to_be_bytes()[..], &option_bytes(option::LIST, &[]).repeat(20)].concat(),
            [&BOTH_FLAGS.to_be_bytes()[..], &option_bytes(option::INFO, &info_data(b"disk", &[3]))].concat(),
        ];
        for script in scripts {
            let mut stream = Stream::connect(&address)?;
            stream.write_all(&script)?;
            attached.push(stream);
        }
        // Past the handshake: idle, in a header, in a payload, with requests running, deaf.
        let write = Request {
            command: command::WRITE,
            cookie: 1,
            offset: ATTACKED,
            length: DEFAULT_MAX_PAYLOAD,
            flags: command_flag::FUA,
        };
        let read = Request { command: command::READ, length: 1 << 20, ..Request::default() };
        let flush = Request { command: command::FLUSH, ..Request::default() };
        let scripts = [
            Vec::new(),
            write.encode()[..20].to_vec(),
            [&write.encode()[..], &[0xee; 10_000]].concat(),
            [flush.encode(), read.encode()].concat().repeat(20),
            read.encode().repeat(1000),
        ];
        for script in scripts {
            let mut client = Handshake::open(&address)?.structured()?.go(EXPORT)?;
            push_until_full(&mut client, &script)?;
            attached.push(client.stream().try_clone()?);
        }
    }
    Ok(attached)
}

/// Every hostile kind at once; SIGTERM ends the server all the same.
#[test]
fn sigterm_with_every_hostile_kind_attached_ends_in_time() -> Result<()> {
    let siege = Siege::begin()?;
    let attached = attach_every_kind(&siege, 6)?;
    siege.good_client_works()?;
    let mut server = siege.into_server()?;
    server.stop()?;
    drop(attached);
    Ok(())
}

/// What was replied before SIGTERM is in the image, though hostile clients hold the server's attention.
#[test]
fn sigterm_keeps_what_was_replied() -> Result<()> {
    let siege = Siege::begin()?;
    let attached = attach_every_kind(&siege, 2)?;
    let data = pattern(1, 1 << 20);
    let mut client = siege.client()?;
    client.write(8 << 20, &data)?;
    client.flush()?;
    let mut server = siege.into_server()?;
    server.stop()?;
    drop(attached);
    let mut found = vec![0; data.len()];
    File::open(server.image())?.read_exact_at(&mut found, 8 << 20)?;
    ensure!(found == data, "a write that was replied to is not in the image");
    Ok(())
}
