//! The UDP socket under all connections of a node, as quinn wants it.
//!
//! Two things differ from quinn's own:
//! - a batch that the kernel is to cut into datagrams (GSO) stays below 64 KiB. quinn makes batches of ten
//!   datagrams whatever their size; above 6,550 bytes each such a batch is too long for the kernel, which
//!   refuses it whole, and quinn takes that for loss;
//! - the kernel's buffers are asked to be 4 MiB: with the usual 208 KiB bursts of writes are lost. It is said
//!   in the log when less was given.
//!
//! Everything that depends on quinn's socket interface, which changes between versions, is in this file.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use rustix::net::sockopt;
use tokio::io::Interest;
use tracing::warn;

/// What is asked for in each direction.
const BUFFER_BYTES: usize = 4 << 20;

/// The kernel takes at most 65,507 bytes of payload in one call.
const BATCH_BYTES_MAX: usize = 65_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    receive_segments: usize,
}

impl Socket {
    /// Takes the port. `datagram_bytes` is the largest datagram that may arrive.
    pub(super) fn bind(address: SocketAddr, datagram_bytes: usize) -> io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(address)?;
        ask_for_buffers(&socket);
        let state = UdpSocketState::new((&socket).into())?;
        // What the kernel merges on receipt is below 64 KiB: quinn need not have room for 64 large datagrams.
        let receive_segments = state.gro_segments().min((1 << 16) / datagram_bytes + 1);
        Ok(Arc::new(Self { io: tokio::net::UdpSocket::from_std(socket)?, state, receive_segments }))
    }

    fn send_one(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }
}

/// Asks for large buffers; the kernel's limits (`net.core.rmem_max`, `wmem_max`) may give less.
fn ask_for_buffers(socket: &UdpSocket) {
    let asked = [
        sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES),
        sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES),
    ];
    let given = [sockopt::socket_recv_buffer_size(socket), sockopt::socket_send_buffer_size(socket)];
    for ((direction, limit), (asked, given)) in
        [("receive", "net.core.rmem_max"), ("send", "net.core.wmem_max")]
            .into_iter()
            .zip(asked.into_iter().zip(given))
    {
        let given = asked.and(given).unwrap_or(0);
        if given < BUFFER_BYTES {
            warn!(
                "the UDP {direction} buffer has {given} bytes instead of {BUFFER_BYTES}: bursts of writes will be \
                 lost and sent again; `sysctl -w {limit}={BUFFER_BYTES}` mends it"
            );
        }
    }
}

/// How a batch is cut so that each piece is a call that the kernel takes: whole segments, below the limit.
fn pieces(contents: &[u8], segment: Option<usize>) -> impl Iterator<Item = (&[u8], Option<usize>)> {
    let segment = segment.filter(|_| contents.len() > BATCH_BYTES_MAX);
    let piece = segment.map_or(contents.len(), |segment| (BATCH_BYTES_MAX / segment).max(1) * segment);
    contents.chunks(piece.max(1)).map(move |piece| (piece, segment.filter(|segment| piece.len() > *segment)))
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit.contents.len() <= BATCH_BYTES_MAX {
            return self.send_one(transmit);
        }
        // If a later piece has to wait, quinn sends the whole again: datagrams that come twice do no harm.
        for (contents, segment_size) in pieces(transmit.contents, transmit.segment_size) {
            self.send_one(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size,
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(context))?;
            // An error is that of an earlier datagram to somebody else, or "nothing there": both say to ask again.
            if let Ok(count) =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), buffers, meta))
            {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits until the socket can be written to; allocates only if it cannot now.
struct Poller {
    socket: Arc<Socket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("waiting", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            // The socket remembers one waiting task only, and there are several connections: so this is asked
            // without waiting, and each connection waits by a future of its own.
            let mut idle = Context::from_waker(std::task::Waker::noop());
            if let Poll::Ready(result) = self.socket.io.poll_send_ready(&mut idle) {
                return Poll::Ready(result);
            }
            let socket = self.socket.clone();
            self.waiting = Some(Box::pin(async move { socket.io.writable().await }));
        }
        let waiting = self.waiting.as_mut().expect("just made");
        let result = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_between_datagrams_and_below_64_kib() {
        let contents: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
        for (len, segment) in
            [(100_000, 8952), (89_520, 8952), (65_001, 65_000), (65_001, 1452), (70_000, 40_000)]
        {
            let cut: Vec<_> = pieces(&contents[..len], Some(segment)).collect();
            assert_eq!(
                cut.iter().flat_map(|(piece, _)| *piece).copied().collect::<Vec<_>>(),
                contents[..len]
            );
            for (index, (piece, size)) in cut.iter().enumerate() {
                assert!(piece.len() <= BATCH_BYTES_MAX, "{} bytes in one call", piece.len());
                assert!(index + 1 == cut.len() || piece.len() % segment == 0, "a datagram was cut");
                assert_eq!(
                    *size,
                    (piece.len() > segment).then_some(segment),
                    "segments only where there are several"
                );
            }
        }
    }

    #[tokio::test]
    async fn the_buffers_are_as_large_as_the_kernel_allows() {
        let socket = Socket::bind("127.0.0.1:0".parse().expect("an address"), 9000).expect("bound");
        let limit = |name: &str| -> usize {
            let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).expect("Linux");
            text.trim().parse().expect("a number")
        };
        let received = sockopt::socket_recv_buffer_size(&socket.io).expect("asked");
        let sent = sockopt::socket_send_buffer_size(&socket.io).expect("asked");
        // The kernel doubles what was asked for, to have room for its own bookkeeping.
        assert!(received >= BUFFER_BYTES.min(limit("rmem_max")), "{received}");
        assert!(sent >= BUFFER_BYTES.min(limit("wmem_max")), "{sent}");
        assert!(socket.max_receive_segments() * 9000 < 128 << 10, "quinn makes 32 buffers of this size");
    }
}
