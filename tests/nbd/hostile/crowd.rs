//! Crowds: more connections than the server takes, in every state before and after the handshake.

use std::{collections::VecDeque, io::Write, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    raw::{
        Handshake,
        handshake::{BOTH_FLAGS, info_data, option_header},
        protocol::{option, option_reply},
        stream::Stream,
    },
    scale::scaled,
    tools::wait_until,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::siege::{EXPORT, Siege};

/// Half-open connections in all.
const CROWD: usize = 10_000;
/// They come in steps of this many; after each the good client must get on.
const STEP: usize = 1_000;
/// File descriptors that the other tests of this process may need at the same time.
const OTHER_FILES: u64 = 2_000;
/// The server's limit on connections past the handshake, with its default limits.
const CONNECTIONS: usize = 100;

/// Raises this process's limit on open files as far as it may; returns how many half-open connections it can
/// hold at once. If that is fewer than the crowd, the oldest of them make room.
fn room_for_sockets() -> Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(most > 2 * OTHER_FILES, "only {most} open files are allowed: raise `ulimit -Hn`");
    Ok(usize::try_from(most - OTHER_FILES)?.min(CROWD))
}

/// 10,000 connections that never finish their handshake, over both sockets, while a good client works. A new
/// good client gets in at any time.
#[test]
fn ten_thousand_half_open_connections() -> Result<()> {
    let room = room_for_sockets()?;
    let siege = Siege::begin()?;
    let mut held = VecDeque::new();
    for number in 0..CROWD {
        let address = if number % 2 == 0 { siege.unix() } else { siege.tcp()? };
        let mut stream = Stream::connect(&address)?;
        // Some have already been turned away: then the write fails, and that is all right.
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stream.write_all(&BOTH_FLAGS.to_be_bytes()[..2]),
            2 => stream.write_all(&BOTH_FLAGS.to_be_bytes()),
            _ => stream.write_all(&[&BOTH_FLAGS.to_be_bytes()[..], &option_header(option::GO, 100)].concat()),
        };
        held.push_back(stream);
        if held.len() > room {
            held.pop_front();
        }
        if (number + 1) % STEP == 0 {
            siege.good_client_works()?;
            // Among so many it may have to knock more than once.
            wait_until("a new good client gets in", Duration::from_secs(20), || {
                siege.client().is_ok_and(|mut newcomer| newcomer.check_in_step().is_ok())
            })?;
        }
    }
    drop(held);
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// More clients than the server takes past the handshake: those beyond the limit are refused, with a text or by
/// closing; those that are in are served; a place that becomes free is given away.
#[test]
fn connections_beyond_the_limit_are_refused_and_the_others_served() -> Result<()> {
    let siege = Siege::begin()?;
    let mut inside = Vec::new();
    let mut refused = 0;
    for _ in 0..CONNECTIONS + 50 {
        // Turned away before the greeting, within the handshake, or at GO.
        let Ok(mut client) = siege.handshake() else {
            refused += 1;
            continue;
        };
        match client.option(option::GO, &info_data(EXPORT.as_bytes(), &[])) {
            Ok(answer) if answer.last.kind == option_reply::ACK => inside.push(client),
            Ok(answer) => {
                let kinds = [option_reply::ERR_POLICY, option_reply::ERR_SHUTDOWN, option_reply::ERR_TOO_BIG];
                ensure!(!answer.refused(&kinds)?.is_empty(), "a refusal without a text");
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    // The good client has a place too.
    ensure!(inside.len() < CONNECTIONS, "{} clients are in", inside.len());
    ensure!(inside.len() + 1 >= CONNECTIONS, "only {} clients are in", inside.len());
    ensure!(refused >= 50, "only {refused} were refused");
    siege.good_client_works()?;
    inside.truncate(CONNECTIONS / 2);
    wait_until("a place becomes free", Duration::from_secs(30), || {
        siege.client().is_ok_and(|mut client| client.check_in_step().is_ok())
    })?;
    siege.good_client_works()?;
    drop(inside);
    wait_until("all places are free", Duration::from_secs(30), || siege.client().is_ok())?;
    siege.end()?;
    Ok(())
}

/// Thousands of clients that come, do a whole handshake and some I/O, and go: nothing is left of them.
#[test]
fn coming_and_going_leaves_nothing_behind() -> Result<()> {
    let siege = Siege::begin()?;
    for round in 0..scaled(1500) {
        let address = if round % 2 == 0 { siege.unix() } else { siege.tcp()? };
        let mut client = Handshake::open(&address)?.structured()?.go(EXPORT)?;
        client.check_in_step()?;
        if round % 3 == 0 {
            client.disconnect()?;
        }
    }
    siege.good_client_works()?;
    siege.check_memory()?;
    siege.end()?;
    Ok(())
}
