//! Slow clients: those that send byte by byte, those that stall, and those that never read.

use std::{
    io::{Read, Write},
    sync::mpsc::{self, RecvTimeoutError::Disconnected},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::raw::{
    Errno, Handshake, Request, Transmission,
    handshake::{BOTH_FLAGS, info_data, option_bytes, option_header},
    pattern::pattern,
    protocol::{DEFAULT_MAX_PAYLOAD, SIMPLE_REPLY_MAGIC, command, command_flag, option},
    stream::{Stream, is_closed},
};

use crate::siege::{ATTACKED, EXPORT, Siege};

/// What the server allows for a handshake, and some time for a busy machine.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10 + 15);

/// Sends each byte by a call of its own.
fn send_byte_by_byte(stream: &mut Stream, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        stream.write_all(std::slice::from_ref(byte))?;
    }
    Ok(())
}

/// Byte-by-byte clients are slow, not wrong: they are served like any other, in handshake and transmission.
#[test]
fn byte_by_byte_clients_are_served() -> Result<()> {
    let siege = Siege::begin()?;
    thread::scope(|scope| -> Result<()> {
        let mut clients = Vec::new();
        for (index, address) in
            [siege.unix(), siege.tcp()?, siege.unix(), siege.tcp()?].into_iter().enumerate()
        {
            clients.push(scope.spawn(move || -> Result<()> {
                let mut stream = Stream::connect(&address)?;
                stream.read_bytes(18)?;
                send_byte_by_byte(&mut stream, &BOTH_FLAGS.to_be_bytes())?;
                send_byte_by_byte(&mut stream, &option_bytes(option::EXPORT_NAME, EXPORT.as_bytes()))?;
                stream.read_bytes(10)?;
                let data = pattern(index as u64, 3000);
                for round in 0..3 {
                    let offset = ATTACKED + index as u64 * (1 << 20) + round * 5000;
                    let write =
                        Request { command: command::WRITE, cookie: 1, offset, length: 3000, flags: 0 };
                    send_byte_by_byte(&mut stream, &write.encode())?;
                    send_byte_by_byte(&mut stream, &data)?;
                    ensure!(stream.read_u32()? == SIMPLE_REPLY_MAGIC && stream.read_u32()? == 0, "the write");
                    ensure!(stream.read_u64()? == 1, "the cookie");
                    send_byte_by_byte(&mut stream, &Request { command: command::READ, ..write }.encode())?;
                    ensure!(stream.read_u32()? == SIMPLE_REPLY_MAGIC && stream.read_u32()? == 0, "the read");
                    ensure!(stream.read_u64()? == 1, "the cookie");
                    ensure!(stream.read_bytes(3000)? == data, "the data");
                }
                Ok(())
            }));
        }
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(())
    })?;
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// A handshake that does not end is cut off, be it silent, stuck in an option, or kept alive by a byte now and
/// then; a client past the handshake may be silent for as long as it likes.
#[test]
fn endless_handshakes_are_cut_off_and_idle_clients_are_not() -> Result<()> {
    let siege = Siege::begin()?;
    let mut idle = siege.client()?;
    let start = Instant::now();
    let mut silent = Handshake::silent(&siege.unix())?;
    let mut without_options = siege.handshake()?;
    let mut within_an_option = siege.handshake()?;
    within_an_option.send(&option_header(option::INFO, 4000))?;
    let mut dripping = Handshake::silent(&siege.tcp()?)?;
    // One byte every 200 ms; the whole would take many minutes.
    let mut script = BOTH_FLAGS.to_be_bytes().to_vec();
    script.extend(option_bytes(option::UNKNOWN, &[0; 8000]));
    let mut sent = 0;
    dripping.stream().set_read_limit(Duration::from_millis(200))?;
    loop {
        let drop = &script[sent..=sent];
        sent += 1;
        let mut reply = [0; 64];
        if dripping.stream().write_all(drop).is_err() {
            break;
        }
        match dripping.stream().read(&mut reply) {
            Ok(0) => break,
            Err(error) if is_closed(&error) => break,
            Ok(_) | Err(_) => {}
        }
        ensure!(start.elapsed() < HANDSHAKE_LIMIT, "a dripping handshake lasts for {:?}", start.elapsed());
    }
    for (client, name) in [
        (&mut silent, "silent"),
        (&mut without_options, "without options"),
        (&mut within_an_option, "in an option"),
    ] {
        client.stream().expect_close().context(name)?;
        ensure!(start.elapsed() < HANDSHAKE_LIMIT, "{name}: closed only after {:?}", start.elapsed());
    }
    idle.check_in_step()?;
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// Many clients announce a WRITE of 32 MiB and send no payload, a byte of it, or half: more than the server
/// would ever hold. They keep their connections open; the good client gets on nevertheless.
#[test]
fn stalled_writes_of_32_mib_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let half = vec![0xee; DEFAULT_MAX_PAYLOAD as usize / 2];
    let mut stalled = Vec::new();
    for index in 0..48_usize {
        let mut client = siege.client()?;
        let offset = ATTACKED + index as u64;
        let request =
            Request { command: command::WRITE, cookie: 1, offset, length: DEFAULT_MAX_PAYLOAD, flags: 0 };
        client.stream().write_all(&request.encode())?;
        let payload = &half[..[0, 1, half.len()][index % 3]];
        // The server need not take it: it may be waiting for memory.
        push_until_full(&mut client, payload)?;
        stalled.push(client);
        if index % 12 == 11 {
            siege.good_client_works()?;
        }
    }
    siege.good_client_works()?;
    drop(stalled);
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// How long an attack by dripping lasts: longer than the server lets a client stand still.
const DRIPPING: Duration = Duration::from_secs(15);

/// The same, but each sends another byte of its payload again and again: none is idle, and all together hold
/// more than the server has. The good client still gets on.
#[test]
fn dripping_writes_of_32_mib_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut dripping = Vec::new();
    for index in 0..24 {
        let mut client = siege.client()?;
        let offset = ATTACKED + index;
        let request =
            Request { command: command::WRITE, cookie: 1, offset, length: DEFAULT_MAX_PAYLOAD, flags: 0 };
        client.stream().write_all(&request.encode())?;
        dripping.push(client);
    }
    // A client that the server has closed has been found out.
    drip(&siege, dripping, |client| drop(client.stream().write_some(&[0xee])))?;
    siege.end()?;
    Ok(())
}

/// The other direction: each asks for much and takes its replies byte by byte.
#[test]
fn dripping_reads_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut dripping = Vec::new();
    for _ in 0..24 {
        let mut client = siege.client()?;
        let request = Request { command: command::READ, length: DEFAULT_MAX_PAYLOAD, ..Request::default() };
        client.stream().write_all(&request.encode().repeat(2))?;
        client.set_read_limit(Duration::from_millis(1))?;
        dripping.push(client);
    }
    drip(&siege, dripping, |client| {
        // Larger than a byte, so that the server sees its socket take some.
        let _ = client.stream().read(&mut [0; 4096]);
    })?;
    siege.end()?;
    Ok(())
}

/// Lets every client drip while the good client has to get on.
fn drip(
    siege: &Siege,
    mut clients: Vec<Transmission>,
    mut one: impl FnMut(&mut Transmission) + Send,
) -> Result<()> {
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        scope.spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(50)).is_err_and(|error| error != Disconnected) {
                clients.iter_mut().for_each(&mut one);
            }
        });
        let start = Instant::now();
        let mut result = Ok(());
        while result.is_ok() && start.elapsed() < DRIPPING {
            result = siege.good_client_works();
        }
        drop(stop);
        result
    })
}

/// Clients that ask for much and read nothing of it: large reads, and a flood of small requests. The server
/// stops reading from them; it does not pile up replies.
#[test]
fn clients_that_never_read_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut deaf = Vec::new();
    for index in 0..24 {
        let address = if index % 2 == 0 { siege.unix() } else { siege.tcp()? };
        let mut client = Handshake::open(&address)?.structured()?.go(EXPORT)?;
        let request = match index % 4 {
            0 => Request { command: command::READ, length: DEFAULT_MAX_PAYLOAD, ..Request::default() },
            1 => Request {
                command: command::READ,
                flags: command_flag::DF,
                length: 1 << 20,
                ..Request::default()
            },
            2 => Request { command: command::READ, offset: ATTACKED + 1, length: 9000, ..Request::default() },
            // Refused ones: an error chunk with a text for each.
            _ => Request { command: command::UNKNOWN, ..Request::default() },
        };
        // 28 MB: more than the socket buffers of TCP grow to.
        let flood: Vec<u8> = request.encode().repeat(1_000_000);
        let taken = push_until_full(&mut client, &flood)?;
        ensure!(taken < flood.len(), "the server took a million requests without a reply being read");
        deaf.push(client);
        if index % 8 == 7 {
            siege.good_client_works()?;
        }
    }
    siege.good_client_works()?;
    drop(deaf);
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// As many deaf clients as get in, with as many small reads as the server takes from each: what they hold
/// together is bounded, and the good client gets on.
#[test]
fn many_deaf_clients_with_small_reads_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut deaf = Vec::new();
    for index in 0..95 {
        let mut client = siege.client()?;
        let offset = ATTACKED + index % 2;
        let request = Request { command: command::READ, offset, length: 512, ..Request::default() };
        client.stream().write_some(&request.encode().repeat(2000))?;
        deaf.push(client);
        if index % 10 == 9 {
            siege.good_client_works()?;
        }
    }
    siege.good_client_works()?;
    drop(deaf);
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// Deaf clients that ask for maps of a device with thousands of extents: each answer is long, and none is read.
#[test]
fn deaf_clients_with_long_maps_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut writer = siege.client()?;
    let block = [0x33; 4096];
    let mut cookies = Vec::new();
    for offset in (ATTACKED..ATTACKED + (64 << 20)).step_by(16 << 10) {
        cookies.push(writer.send(command::WRITE, 0, offset, 4096, &block)?);
    }
    for cookie in cookies {
        writer.wait(cookie)?.expect(Errno::OK)?;
    }
    let mut deaf = Vec::new();
    for _ in 0..60 {
        let mut client = siege.handshake()?.structured()?;
        client.set_meta_context(EXPORT, &["base:allocation"])?;
        let mut client = client.go(EXPORT)?;
        let request = Request {
            command: command::BLOCK_STATUS,
            offset: ATTACKED,
            length: 64 << 20,
            ..Request::default()
        };
        client.stream().write_some(&request.encode().repeat(2000))?;
        deaf.push(client);
    }
    siege.good_client_works()?;
    drop(deaf);
    siege.good_client_works()?;
    siege.end()?;
    Ok(())
}

/// A client that reads nothing for a while and then everything gets all of its replies, in step.
#[test]
fn a_client_that_reads_late_gets_every_reply() -> Result<()> {
    let siege = Siege::begin()?;
    let mut late = siege.client()?;
    let request = Request { command: command::READ, cookie: 5, offset: ATTACKED, length: 4096, flags: 0 };
    let burst = request.encode().repeat(2000);
    let mut writer = late.stream().try_clone()?;
    thread::scope(|scope| -> Result<()> {
        // Blocks until the reader below has begun to read.
        let writing = scope.spawn(move || writer.write_all(&burst));
        siege.good_client_works()?;
        for _ in 0..2000 {
            ensure!(late.stream().read_u32()? == SIMPLE_REPLY_MAGIC, "a reply");
            ensure!(late.stream().read_u32()? == 0 && late.stream().read_u64()? == 5, "no error");
            late.stream().read_bytes(4096)?;
        }
        writing.join().expect("the writer does not panic")?;
        Ok(())
    })?;
    late.check_in_step()?;
    siege.end()?;
    Ok(())
}

/// An option whose data are announced and never come, on many connections at once.
#[test]
fn stalled_options_do_not_stop_the_good_client() -> Result<()> {
    let siege = Siege::begin()?;
    let mut stalled = Vec::new();
    for index in 0..200_u32 {
        let mut client = siege.handshake()?;
        let length = [1, 8 << 10, 64 << 10, u32::MAX][index as usize % 4];
        client.send(&option_header(index % 12, length))?;
        stalled.push(client);
    }
    siege.good_client_works()?;
    Handshake::open(&siege.unix())?.go(EXPORT)?.check_in_step()?;
    let mut other = siege.handshake()?;
    other.option(option::INFO, &info_data(EXPORT.as_bytes(), &[]))?.export_info()?;
    drop(stalled);
    siege.end()?;
    Ok(())
}

/// Sends until the server has taken nothing more for a while, or all; returns how much it took. A connection
/// that the server has closed has taken enough.
pub(crate) fn push_until_full(client: &mut Transmission, bytes: &[u8]) -> Result<usize> {
    const QUIET: Duration = Duration::from_millis(300);
    let mut sent = 0;
    let mut progress = Instant::now();
    while sent < bytes.len() && progress.elapsed() < QUIET {
        match client.stream().write_some(&bytes[sent..]) {
            Ok(0) => thread::sleep(Duration::from_millis(1)),
            Ok(count) => {
                sent += count;
                progress = Instant::now();
            }
            Err(error) if is_closed(&error) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
