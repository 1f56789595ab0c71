//! Notices that a peer's process is gone although it could not say so.
//!
//! A killed process closes no QUIC connection. But its kernel answers datagrams to a port that nobody has with
//! ICMP "port unreachable", which a *connected* UDP socket reports as an error. So a socket of its own, connected
//! to the peer's port, sends one byte now and then (no QUIC endpoint takes it for anything), and waits for the error.
//! It does so often while writes are sent, which somebody waits for, and seldom otherwise: a node that has nothing to
//! do should cost nothing.
//!
//! Such an answer can be forged. It is only a reason to ask at once: the peer is believed to be gone if it then
//! acknowledges nothing either (see `session`).

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, sleep_until},
};

/// Between two probes while writes are sent.
const BUSY: Duration = Duration::from_millis(100);

/// Between two probes otherwise. Each wakes both nodes: twice as many made an idle node cost a thousandth of a core on
/// some machines, which is all that it may.
const IDLE: Duration = Duration::from_secs(1);

/// What is sent: not the beginning of any QUIC packet.
const PROBE: [u8; 1] = [0];

/// A socket connected to a peer's port.
#[derive(Debug)]
pub(super) struct Probe {
    /// None if it could not be had: then only silence tells.
    socket: Option<UdpSocket>,
    next: Cell<Instant>,
    /// How much had been sent at the last probe.
    sent: Cell<u64>,
}

impl Probe {
    /// From this address of the node (its port is not used) to that of the peer.
    pub(super) fn new(local: IpAddr, peer: SocketAddr) -> Self {
        let connect = || -> io::Result<UdpSocket> {
            let socket = std::net::UdpSocket::bind((local, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(peer)?;
            UdpSocket::from_std(socket)
        };
        Self { socket: connect().ok(), next: Cell::new(Instant::now() + BUSY), sent: Cell::new(0) }
    }

    /// Returns when the peer's kernel says that nobody listens. `sent` grows while there is somebody who waits.
    /// May be dropped and called again at any time.
    pub(super) async fn refused(&self, sent: &Cell<u64>) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            tokio::select! {
                _ = socket.ready(Interest::ERROR) => {
                    if matches!(socket.take_error(), Ok(Some(error)) if is_refusal(&error)) {
                        return;
                    }
                    // The error is taken: the readiness for it has to go as well.
                    let _ = socket.try_io(Interest::ERROR, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
                }
                () = sleep_until(self.next.get()) => {
                    let busy = self.sent.replace(sent.get()) != sent.get();
                    self.next.set(Instant::now() + if busy { BUSY } else { IDLE });
                    if matches!(socket.try_send(&PROBE), Err(error) if is_refusal(&error)) {
                        return;
                    }
                }
            }
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_has_any_more_is_noticed() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("known");
        let probe = Probe::new(address.ip(), address);
        let sent = Cell::new(0);
        let quiet = tokio::time::timeout(IDLE * 3, probe.refused(&sent)).await;
        assert!(quiet.is_err(), "somebody listens");
        drop(listener);
        for _ in 0..3 {
            let noticed = tokio::time::timeout(Duration::from_secs(20), probe.refused(&sent)).await;
            noticed.expect("the kernel says so, each time");
        }
    }
}
