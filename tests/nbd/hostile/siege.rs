//! The frame of every test here: a server, a good client at work, and the checks at the end.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    raw::{Address, Handshake, Transmission, verifier::Verifier},
    serve::{ServeOptions, Server},
};

/// The most resident memory that the server may ever have had (VmHWM), with its default limits, under any of
/// the attacks here.
const MEMORY_BOUND: u64 = 512 << 20;

/// The export.
pub(crate) const EXPORT: &str = "disk";

/// Size of the device.
pub(crate) const SIZE: u64 = 128 << 20;

/// The part in which the good client works.
const GOOD_PART: u64 = 4 << 20;

/// From here on the device belongs to the attackers, and to nobody else.
pub(crate) const ATTACKED: u64 = 32 << 20;

/// How long the good client may be kept waiting for three rounds of its work: it may be slowed down, but not for
/// the 30 s after which a kernel client would fail its requests.
const GOOD_CLIENT_LIMIT: Duration = Duration::from_secs(20);

/// A server under attack.
pub(crate) struct Siege {
    server: Server,
    good: Verifier,
}

impl Siege {
    /// Starts the server and the good client.
    pub(crate) fn begin() -> Result<Self> {
        Self::begin_on(SIZE)
    }

    /// As [`begin`](Self::begin), with a device of another size.
    pub(crate) fn begin_on(size: u64) -> Result<Self> {
        let server = Server::start(ServeOptions {
            size,
            export: EXPORT.to_owned(),
            tcp: true,
            ..ServeOptions::default()
        })?;
        let good = Verifier::start(&Address::Unix(server.socket()), EXPORT, 0, GOOD_PART)?;
        Ok(Self { server, good })
    }

    /// The unix socket.
    pub(crate) fn unix(&self) -> Address {
        Address::Unix(self.server.socket())
    }

    /// The TCP address.
    pub(crate) fn tcp(&self) -> Result<Address> {
        Ok(Address::Tcp(self.server.tcp_address()?))
    }

    /// A connection in the handshake phase.
    pub(crate) fn handshake(&self) -> Result<Handshake> {
        Handshake::open(&self.unix())
    }

    /// A connection in the transmission phase, with simple replies.
    pub(crate) fn client(&self) -> Result<Transmission> {
        self.handshake()?.go(EXPORT)
    }

    /// Waits until the good client has made progress: it works while the attack goes on.
    pub(crate) fn good_client_works(&self) -> Result<()> {
        self.good.wait_for_rounds(3, GOOD_CLIENT_LIMIT)?;
        self.check_memory()
    }

    /// Ends the good client's work, which checks all its data; then memory, the server's log, that a new client
    /// is served, and that SIGTERM ends the server with exit code 0. Returns the server, for its image.
    pub(crate) fn end(mut self) -> Result<Server> {
        self.good.finish()?;
        let mut client = Handshake::open(&Address::Unix(self.server.socket()))?.structured()?.go(EXPORT)?;
        client.check_in_step()?;
        client.disconnect()?;
        check_memory(&self.server)?;
        self.server.stop()?;
        Ok(self.server)
    }

    /// Gives up the good client's connection in order to end the server under attack.
    pub(crate) fn into_server(self) -> Result<Server> {
        self.good_client_works()?;
        self.good.finish()?;
        check_memory(&self.server)?;
        Ok(self.server)
    }

    /// The server's peak memory is within its bound.
    pub(crate) fn check_memory(&self) -> Result<()> {
        check_memory(&self.server)
    }
}

fn check_memory(server: &Server) -> Result<()> {
    let path = format!("/proc/{}/status", server.pid());
    let status = fs::read_to_string(&path).context("the server has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context(line.to_owned())?;
    eprintln!("the server's peak memory until now: {} MiB", kib >> 10);
    ensure!(kib << 10 <= MEMORY_BOUND, "the server has used {} MiB of memory", kib >> 10);
    Ok(())
}
