//! Notices that a peer's process is gone although it could not say so.
//!
//! A killed process closes no QUIC connection. But its kernel answers datagrams to a port that nobody has with
//! ICMP "port unreachable", which a *connected* UDP socket reports as an error. So a socket of its own, connected
//! to the peer's port, sends one byte now and then (no QUIC endpoint takes it for anything), and asks for the error.
//!
//! Such an answer can be forged. It is only a reason to ask at once: the peer is believed to be gone if it then
//! acknowledges nothing either (see `session`).

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

/// Between two probes.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is sent: not the beginning of any QUIC packet.
const PROBE: [u8; 1] = [0];

/// A socket connected to a peer's port.
#[derive(Debug)]
pub(super) struct Probe {
    /// None if it could not be had: then only silence tells.
    socket: Option<UdpSocket>,
}

impl Probe {
    /// From this address of the node (its port is not used) to that of the peer.
    pub(super) fn new(local: IpAddr, peer: SocketAddr) -> Self {
        let connect = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((local, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(peer)?;
            Ok(socket)
        };
        Self { socket: connect().ok() }
    }

    /// Returns when the peer's kernel says that nobody listens.
    pub(super) async fn refused(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if self.is_refused() {
                return;
            }
        }
    }

    /// Sends a probe; true if an earlier one was refused.
    fn is_refused(&self) -> bool {
        let Some(socket) = &self.socket else { return false };
        matches!(socket.send(&PROBE), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_has_any_more_is_noticed() {
        let listener = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("known");
        let probe = Probe::new(address.ip(), address);
        let quiet = tokio::time::timeout(INTERVAL * 5, probe.refused()).await;
        assert!(quiet.is_err(), "somebody listens");
        drop(listener);
        tokio::time::timeout(Duration::from_secs(20), probe.refused()).await.expect("the kernel says so");
    }
}
