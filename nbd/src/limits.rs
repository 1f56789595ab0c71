//! Every bound of the NBD side, in one place, fixed at start.
//!
//! What a stranger can make the process hold follows from these numbers alone:
//!
//! | what | most |
//! |---|---|
//! | handshakes | [`Limits::handshakes`] x about 16 KiB of input and output |
//! | connections | [`Limits::connections`] x a parse buffer of 256 KiB, and 1,024 short replies |
//! | payload of writes, data of reads, extents | [`Limits::pool_bytes`] for all, and [`Limits::share_bytes`] for each connection |
//! | blocks of memory that are used in part | a quarter of that |
//!
//! With the defaults that is below 370 MiB, of which an idle server uses next to nothing.

use std::time::Duration;

/// The bounds of the NBD side. [`Limits::default`] suits everybody; tests make them small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections past the handshake. A GO beyond it is refused with a text; the ones that are open are never
    /// dropped for a new one.
    pub connections: usize,
    /// Connections in the handshake. When full, one gives way to a new one, silent ones first (the rule is in
    /// `server::lobby`): half-open strangers cannot keep a good client out.
    pub handshakes: usize,
    /// For the whole handshake, not counting the time that the server itself made the client wait.
    pub handshake_time: Duration,
    /// Options in one handshake; the next one ends it.
    pub options: u32,
    /// Data of one option. Up to [`Limits::option_skip_bytes`] it is skipped and answered with ERR_TOO_BIG (or
    /// ERR_UNSUP, if the option is unknown); beyond that the connection is closed.
    pub option_bytes: u32,
    /// See [`Limits::option_bytes`].
    pub option_skip_bytes: u32,
    /// Payload of one WRITE, and data of one READ. The spec asks for 32 MiB where nothing else was agreed on.
    pub payload_bytes: u32,
    /// The payload of a refused WRITE is read and dropped up to this size; beyond it the connection is closed.
    pub payload_skip_bytes: u32,
    /// Requests of one connection whose reply has not been written to the socket yet; then it is not read.
    pub in_flight_requests: usize,
    /// Bytes of payload and data of these requests; then the connection is not read.
    pub in_flight_bytes: usize,
    /// Payload and data of one connection that have room whatever others do. A request of at most a quarter of
    /// it never waits for other connections.
    pub share_bytes: usize,
    /// Payload and data of all connections together that do not fit into their shares; then connections that
    /// need more wait for others, first come, first served.
    pub pool_bytes: usize,
    /// While some connection waits for the pool, one that holds memory of it, and whose client owes bytes (the
    /// rest of a payload does not come, or replies are not read) and has moved less than
    /// [`Limits::stall_bytes`] of them in this time, is closed.
    pub stall_time: Duration,
    /// See [`Limits::stall_time`].
    pub stall_bytes: u64,
    /// After the client, the device or the server has ended a connection: what is in flight has this long to be
    /// answered and written.
    pub drain_time: Duration,
}

impl Limits {
    /// The shares of all connections.
    #[must_use]
    pub fn shares_bytes(&self) -> usize {
        self.connections * self.share_bytes
    }

    /// Memory that a device needs for the data of reads, so that a read which the server has admitted finds
    /// room.
    #[must_use]
    pub fn read_memory_bytes(&self) -> usize {
        Self::with_slabs(self.pool_bytes + self.shares_bytes())
    }

    /// A quarter more: blocks are cut out of slabs, and one block holds its slab.
    pub(crate) fn with_slabs(bytes: usize) -> usize {
        bytes + bytes / 4
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100,
            handshakes: 256,
            handshake_time: Duration::from_secs(10),
            options: 64,
            option_bytes: 8 << 10,
            option_skip_bytes: 64 << 10,
            payload_bytes: 32 << 20,
            payload_skip_bytes: 64 << 20,
            in_flight_requests: 1024,
            in_flight_bytes: 64 << 20,
            share_bytes: 1 << 20,
            pool_bytes: 160 << 20,
            stall_time: Duration::from_secs(10),
            stall_bytes: 1 << 20,
            drain_time: Duration::from_secs(5),
        }
    }
}
