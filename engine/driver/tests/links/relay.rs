//! A wire with a listener on it: carries datagrams between two nodes, keeps a copy of each, and can send the copies
//! again, or stop carrying.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Datagrams that went one way.
type Copies = Arc<Mutex<Vec<Vec<u8>>>>;

/// One direction's end: what arrives here is for `to`, and leaves from the other end.
struct End {
    socket: UdpSocket,
    copies: Copies,
    to: SocketAddr,
}

/// See the head of this file.
pub(crate) struct Relay {
    ends: [Arc<End>; 2],
    carries: [Arc<AtomicBool>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Between these two; what `between[0]` is to send to `between[1]` goes to `address(0)`, and the other way round.
    pub(crate) fn new(between: [SocketAddr; 2]) -> Self {
        let end = |to| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
            Arc::new(End { socket, copies: Copies::default(), to })
        };
        let ends = [end(between[1]), end(between[0])];
        let stop = Arc::new(AtomicBool::new(false));
        let carries = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
        let threads = [(0, 1), (1, 0)].map(|(from, through)| {
            let (from, through, stop, carries) =
                (ends[from].clone(), ends[through].clone(), stop.clone(), carries[from].clone());
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(len) = from.socket.recv(&mut buffer) else { continue };
                    if carries.load(Ordering::Relaxed) {
                        from.copies.lock().expect("no panic").push(buffer[..len].to_vec());
                        // A port that nobody has any more is what some tests are about.
                        let _ = through.socket.send_to(&buffer[..len], from.to);
                    }
                }
            })
        });
        Self { ends, carries, stop, threads: threads.into() }
    }

    /// Where the node `which` finds the other one.
    pub(crate) fn address(&self, which: usize) -> SocketAddr {
        self.ends[which].socket.local_addr().expect("bound")
    }

    /// Stops or starts carrying what node `which` sends.
    pub(crate) fn carry(&self, which: usize, carries: bool) {
        self.carries[which].store(carries, Ordering::Relaxed);
    }

    /// Sends everything again that was carried so far, from where it came the first time; returns how many
    /// datagrams that were.
    pub(crate) fn replay(&self) -> usize {
        let mut count = 0;
        for (from, through) in [(0, 1), (1, 0)] {
            let copies = self.ends[from].copies.lock().expect("no panic").clone();
            for (index, datagram) in copies.iter().enumerate() {
                self.ends[through].socket.send_to(datagram, self.ends[from].to).expect("sent");
                if index % 16 == 15 {
                    // Slowly enough that the receiver's buffer holds all of it.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            count += copies.len();
        }
        count
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
