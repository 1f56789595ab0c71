//! Notices that a peer's process is gone although it could not say so.
//!
//! A killed process closes no QUIC connection. But its kernel answers datagrams to a port that nobody has with
//! ICMP "port unreachable", which a *connected* UDP socket reports as an error. So a socket of its own, connected
//! to the peer's port, sends one byte now and then (no QUIC endpoint takes it for anything), and waits for the error.
//! It does so often while writes are sent, which somebody waits for. Otherwise it goes with what is sent anyway, pings
//! above all: a node that has nothing to do should cost nothing, and a byte that comes with a ping wakes nobody.
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
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Between two probes while writes are sent.
const BUSY: Duration = Duration::from_millis(100);

/// Between two probes otherwise, at least: less than between two pings.
const IDLE: Duration = Duration::from_millis(800);

/// What is sent: not the beginning of any QUIC packet.
const PROBE: [u8; 1] = [0];

/// A socket connected to a peer's port.
#[derive(Debug)]
pub(super) struct Probe {
    /// None if it could not be had: then only silence tells.
    socket: Option<UdpSocket>,
    last: Cell<Instant>,
    /// How much had been sent at the last probe.
    sent: Cell<u64>,
    /// Whether writes were sent between the last two probes.
    busy: Cell<bool>,
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
        Self {
            socket: connect().ok(),
            last: Cell::new(Instant::now()),
            sent: Cell::new(0),
            busy: Cell::new(true),
        }
    }

    /// Returns when the peer's kernel says that nobody listens. `sent` grows while there is somebody who waits; `talked`
    /// is notified of whatever else is said to the peer. May be dropped and called again at any time.
    pub(super) async fn refused(&self, sent: &Cell<u64>, talked: &Notify) {
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
                () = self.due(talked) => {
                    self.busy.set(self.sent.replace(sent.get()) != sent.get());
                    self.last.set(Instant::now());
                    if matches!(socket.try_send(&PROBE), Err(error) if is_refusal(&error)) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for the time of the next probe.
    async fn due(&self, talked: &Notify) {
        if self.busy.get() {
            return sleep_until(self.last.get() + BUSY).await;
        }
        loop {
            talked.notified().await;
            if self.last.get().elapsed() >= IDLE {
                return;
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
        let talked = Notify::new();
        let quiet = tokio::time::timeout(IDLE, probe.refused(&sent, &talked)).await;
        assert!(quiet.is_err(), "somebody listens");
        drop(listener);
        for _ in 0..3 {
            let pings = async {
                loop {
                    talked.notify_one();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                () = probe.refused(&sent, &talked) => {}
                () = pings => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the kernel says so, each time"),
            }
        }
    }

    #[tokio::test]
    async fn while_writes_are_sent_it_needs_no_pings() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("known");
        let probe = Probe::new(address.ip(), address);
        let (sent, talked) = (Cell::new(0_u64), Notify::new());
        drop(listener);
        let writes = async {
            loop {
                sent.set(sent.get() + 1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = probe.refused(&sent, &talked) => {}
            () = writes => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the kernel says so"),
        }
    }
}
