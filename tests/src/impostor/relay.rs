//! A wire with a listener on it: carries datagrams between two daemons, keeps a copy of each, and can send the copies
//! again.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow};

/// One direction's end: what arrives here is for `to`, and leaves from the other end.
#[derive(Debug)]
struct End {
    socket: UdpSocket,
    copies: Mutex<Vec<Vec<u8>>>,
    to: SocketAddr,
}

/// See the module's head.
#[derive(Debug)]
pub struct Relay {
    ends: [Arc<End>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Between these two; what `between[0]` is to send to `between[1]` goes to `address(0)`, and the other way round.
    ///
    /// # Errors
    /// No socket can be opened.
    pub fn new(between: [SocketAddr; 2]) -> Result<Self> {
        let end = |to| -> Result<Arc<End>> {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(Arc::new(End { socket, copies: Mutex::default(), to }))
        };
        let ends = [end(between[1])?, end(between[0])?];
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(0, 1), (1, 0)].map(|(from, through)| {
            let (from, through, stop) =
                (Arc::clone(&ends[from]), Arc::clone(&ends[through]), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(len) = from.socket.recv(&mut buffer) else { continue };
                    if let Ok(mut copies) = from.copies.lock() {
                        copies.push(buffer[..len].to_vec());
                    }
                    // Fails when the receiver is not there, which tests want.
                    let _ = through.socket.send_to(&buffer[..len], from.to);
                }
            })
        });
        Ok(Self { ends, stop, threads: threads.into() })
    }

    /// Where the node `which` finds the other one.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self, which: usize) -> Result<SocketAddr> {
        Ok(self.ends[which].socket.local_addr()?)
    }

    /// Sends everything again that was carried so far, from where it came the first time; how many datagrams that
    /// were.
    ///
    /// # Errors
    /// They cannot be sent.
    pub fn replay(&self) -> Result<usize> {
        let mut count = 0;
        for (from, through) in [(0, 1), (1, 0)] {
            let copies = self.ends[from].copies.lock().map_err(|_| anyhow!("the carrier panicked"))?.clone();
            for (index, datagram) in copies.iter().enumerate() {
                self.ends[through].socket.send_to(datagram, self.ends[from].to)?;
                if index % 16 == 15 {
                    // Slowly enough that the receiver's buffer holds all of it.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            count += copies.len();
        }
        Ok(count)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been shown already.
            let _ = thread.join();
        }
    }
}
