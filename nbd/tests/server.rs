//! The server over real sockets, with a device in memory and a raw client.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use evenkeel_nbd::{
    device::{BlockDevice, ExportState},
    fuzzing::{info_option, option, request},
    limits::Limits,
    memory::MemoryDevice,
    server::{Directory, Door, Export, Hall, ListenError, Listener},
    wire::{command, option as code},
};
use tokio::sync::mpsc as tokio_mpsc;

const SIZE: usize = 64 << 20;
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something to do on the server's thread.
type Job = Box<dyn FnOnce(&Running) + Send>;

/// What a job can reach.
struct Running {
    device: Rc<MemoryDevice>,
    hall: Rc<Hall>,
    door: Arc<Door>,
}

/// A server on a thread of its own, with the export `r0`; stopped on drop.
struct Server {
    folder: PathBuf,
    tcp: std::net::SocketAddr,
    jobs: tokio_mpsc::UnboundedSender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(name: &str, limits: Limits) -> Self {
        let folder = std::env::temp_dir().join(format!("evenkeel-nbd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let socket = folder.join("nbd.sock");
        let (jobs, receiver) = tokio_mpsc::unbounded_channel();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(serve(socket, limits, receiver, ready)));
        });
        let tcp = started.recv().expect("the server starts");
        Self { folder, tcp, jobs, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    /// Runs `job` on the server's thread and returns what it returned.
    fn on_thread<T: Send + 'static>(&self, job: impl FnOnce(&Running) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move |running| sender.send(job(running)).expect("the test waits"));
        assert!(self.jobs.send(job).is_ok(), "the server runs");
        receiver.recv().expect("the job ran")
    }

    /// Waits until a condition on the server's thread holds.
    fn until(&self, what: &str, condition: impl Fn(&Running) -> bool + Send + Sync + 'static) {
        let condition = Arc::new(condition);
        let start = Instant::now();
        loop {
            let condition = Arc::clone(&condition);
            if self.on_thread(move |running| condition(running)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn connect(&self) -> Client {
        Client::new(UnixStream::connect(self.path()).expect("the server listens"))
    }

    /// A client in the transmission phase.
    fn enter(&self) -> Client {
        let mut client = self.connect();
        client.go("r0").expect("GO is answered");
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stop = |running: &Running| {
            running.door.stop();
            running.hall.close("the test is over");
        };
        // If the server's thread has failed, joining it says so.
        let _ = self.jobs.send(Box::new(stop));
        let (closed, _) = tokio_mpsc::unbounded_channel();
        self.jobs = closed;
        let ended = self.thread.take().expect("stopped once").join();
        if !std::thread::panicking() {
            ended.expect("the server's thread ends well");
            assert!(!self.path().exists(), "the socket is removed");
        }
        std::fs::remove_dir_all(&self.folder).expect("the folder is ours");
    }
}

async fn serve(
    socket: PathBuf,
    limits: Limits,
    mut jobs: tokio_mpsc::UnboundedReceiver<Job>,
    ready: mpsc::Sender<std::net::SocketAddr>,
) {
    let device = MemoryDevice::new(SIZE, MemoryDevice::full_features());
    let directory = Directory::default();
    let features = Arc::new(device.features());
    directory.publish("r0", Export { features, state: device.state(), hold: Duration::from_secs(60) });
    let (door, mut handovers) = Door::new(directory, limits.clone());
    let unix = Listener::unix(&socket).expect("the socket can be made");
    let tcp = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
    ready.send(tcp.tcp_address().expect("it is bound")).expect("the test waits");
    let doors = [unix, tcp].map(|listener| tokio::spawn(Arc::clone(&door).run(listener)));
    let running = Running { device, hall: Hall::new(limits), door };
    loop {
        tokio::select! {
            Some(handover) = handovers.recv() => {
                let device: Rc<dyn BlockDevice> = Rc::clone(&running.device) as _;
                tokio::task::spawn_local(Rc::clone(&running.hall).serve(handover, device));
            }
            job = jobs.recv() => match job {
                Some(job) => job(&running),
                None => break,
            }
        }
    }
    for door in doors {
        door.await.expect("a door ends well");
    }
    running.hall.emptied().await;
    assert_eq!(running.hall.memory().used_bytes(), 0, "all memory came back");
    assert!(running.device.clients().is_empty(), "every client was seen off");
}

/// A blocking client.
struct Client<S = UnixStream> {
    socket: S,
}

trait Patient: Read + Write {
    fn be_patient(&self);
}

impl Patient for UnixStream {
    fn be_patient(&self) {
        self.set_read_timeout(Some(PATIENCE)).expect("not zero");
        self.set_write_timeout(Some(PATIENCE)).expect("not zero");
    }
}

impl Patient for TcpStream {
    fn be_patient(&self) {
        self.set_read_timeout(Some(PATIENCE)).expect("not zero");
        self.set_write_timeout(Some(PATIENCE)).expect("not zero");
    }
}

impl<S: Patient> Client<S> {
    fn new(socket: S) -> Self {
        socket.be_patient();
        Self { socket }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.socket.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        bytes
    }

    /// Greets, and goes; the error text if the server refuses.
    fn go(&mut self, export: &str) -> Result<(), String> {
        assert!(self.receive(18).starts_with(b"NBDMAGICIHAVEOPT"));
        self.send(&[0, 0, 0, 3]);
        self.send(&info_option(code::GO, export, &[]));
        self.go_reply()
    }

    fn go_reply(&mut self) -> Result<(), String> {
        loop {
            let header = self.receive(20);
            let word = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().expect("20 bytes"));
            let data = self.receive(word(16) as usize);
            match word(12) {
                code::reply::INFO => {}
                code::reply::ACK => return Ok(()),
                _ => return Err(String::from_utf8(data).expect("texts are UTF-8")),
            }
        }
    }

    fn write(&mut self, cookie: u64, offset: u64, data: &[u8]) {
        let length = u32::try_from(data.len()).expect("small");
        self.send(&request(0, command::WRITE, cookie, offset, length));
        self.send(data);
    }

    /// A simple reply without data: cookie and error.
    fn reply(&mut self) -> (u64, u32) {
        let reply = self.receive(16);
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98]);
        let error = u32::from_be_bytes(*reply[4..].first_chunk().expect("16 bytes"));
        (u64::from_be_bytes(*reply.last_chunk().expect("16 bytes")), error)
    }

    fn read(&mut self, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
        self.send(&request(0, command::READ, cookie, offset, length));
        assert_eq!(self.reply(), (cookie, 0));
        self.receive(length as usize)
    }
}

#[test]
fn unix_and_tcp_serve_the_same_device() {
    let server = Server::start("both", Limits::default());
    let mode = std::fs::metadata(server.path()).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut unix = server.enter();
    let mut tcp = Client::new(TcpStream::connect(server.tcp).expect("the server listens"));
    tcp.go("").expect("the default export");
    unix.write(1, 12345, b"over unix");
    assert_eq!(unix.reply(), (1, 0));
    assert_eq!(tcp.read(2, 12345, 9), b"over unix");
    tcp.send(&request(0, command::DISC, 0, 0, 0));
    assert!(tcp.rest().is_empty());
    server.until("the TCP client leaves", |running| running.hall.connections() == 1);
}

#[test]
fn a_large_write_arrives_whole() {
    let server = Server::start("large", Limits::default());
    let mut client = server.enter();
    let data: Vec<u8> = (0..32_u32 << 20).map(|at| (at % 251) as u8).collect();
    client.write(1, 777, &data);
    assert_eq!(client.reply(), (1, 0));
    assert!(client.read(2, 777, 32 << 20) == data);
}

#[test]
fn requests_sent_with_the_last_option_are_not_lost() {
    let server = Server::start("eager", Limits::default());
    let mut client = server.connect();
    let go = option(code::EXPORT_NAME, b"r0");
    let eager = [&[0, 0, 0, 3][..], &go, &request(0, command::READ, 5, 0, 3)].concat();
    client.send(&eager);
    assert_eq!(client.receive(18 + 10).len(), 28);
    assert_eq!(client.reply(), (5, 0));
    assert_eq!(client.receive(3), [0; 3]);
}

#[test]
fn a_flush_covers_writes_of_other_connections_that_were_answered() {
    let server = Server::start("flush", Limits::default());
    let (mut one, mut other) = (server.enter(), server.enter());
    one.write(1, 0, b"data");
    assert_eq!(one.reply(), (1, 0));
    other.send(&request(0, command::FLUSH, 2, 0, 0));
    assert_eq!(other.reply(), (2, 0));
    assert_eq!(server.on_thread(|running| running.device.flushes()), 1);
}

#[test]
fn a_refused_export_drains_its_clients_and_tells_new_ones() {
    let server = Server::start("refused", Limits::default());
    let mut client = server.enter();
    server.on_thread(|running| running.device.defer());
    client.write(1, 0, b"data");
    server.until("the write is at the device", |running| running.device.deferred() == 1);
    let away = ExportState::Refused("the primary is on node beta".into());
    server.on_thread(move |running| running.device.set_state(away));
    assert_eq!(server.connect().go("r0"), Err("the primary is on node beta".to_owned()));
    assert_eq!(server.on_thread(|running| running.hall.connections()), 1, "what is in flight is awaited");
    server.on_thread(|running| running.device.complete_deferred());
    assert_eq!(client.reply(), (1, 0));
    assert!(client.rest().is_empty());
}

#[test]
fn a_held_export_makes_clients_wait() {
    let server =
        Server::start("held", Limits { handshake_time: Duration::from_millis(300), ..Limits::default() });
    server.on_thread(|running| running.device.set_state(ExportState::Held));
    let mut client = server.connect();
    let waiting = std::thread::spawn(move || {
        let result = client.go("r0");
        (client, result)
    });
    server.until("the client waits at the door", |running| running.door.handshakes() == 0);
    // Longer than a handshake may take: the server's own time does not count against the client.
    std::thread::sleep(Duration::from_millis(500));
    assert!(!waiting.is_finished());
    server.on_thread(|running| running.device.set_state(ExportState::Serving { size: SIZE as u64 }));
    let (mut client, result) = waiting.join().expect("the client thread ends well");
    assert_eq!(result, Ok(()));
    assert_eq!(client.read(1, 0, 1), [0]);
}

#[test]
fn a_stopping_server_answers_what_is_in_flight() {
    let server = Server::start("stopping", Limits::default());
    let mut client = server.enter();
    server.on_thread(|running| running.device.defer());
    client.write(1, 0, b"data");
    server.until("the write is at the device", |running| running.device.deferred() == 1);
    server.on_thread(|running| running.hall.close("stopping"));
    server.on_thread(|running| running.device.complete_deferred());
    assert_eq!(client.reply(), (1, 0));
    assert!(client.rest().is_empty());
}

#[test]
fn a_device_that_never_answers_cannot_hold_up_the_end() {
    let server =
        Server::start("stuck", Limits { drain_time: Duration::from_millis(200), ..Limits::default() });
    let mut client = server.enter();
    server.on_thread(|running| running.device.defer());
    client.write(1, 0, b"data");
    server.until("the write is at the device", |running| running.device.deferred() == 1);
    server.on_thread(|running| running.hall.close("stopping"));
    assert!(client.rest().is_empty());
    server.until("the connection is gone", |running| running.hall.connections() == 0);
    assert_eq!(server.on_thread(|running| running.device.deferred()), 0, "what had not begun is dropped");
}

#[test]
fn places_are_limited_and_come_back() {
    let server = Server::start("places", Limits { connections: 2, ..Limits::default() });
    let (first, _second) = (server.enter(), server.enter());
    let refusal = server.connect().go("r0").expect_err("two places are taken");
    assert!(refusal.contains("all 2 places"), "{refusal}");
    drop(first);
    server.until("the place is free", |running| running.hall.connections() == 1);
    server.enter();
}

#[test]
fn strangers_make_way_for_clients_that_talk() {
    let server = Server::start("strangers", Limits { handshakes: 4, ..Limits::default() });
    let mut good = server.enter();
    let mut speaking = server.connect();
    speaking.receive(18);
    speaking.send(&[0, 0, 0, 3]);
    speaking.send(&option(code::LIST, b"x"));
    speaking.receive(20);
    let strangers: Vec<_> = (0..50).map(|_| server.connect()).collect();
    server.until("all were accepted", |running| running.door.handshakes() <= 4);
    server.enter();
    speaking.receive("LIST carries no data".len());
    speaking.send(&info_option(code::GO, "r0", &[]));
    assert_eq!(speaking.go_reply(), Ok(()), "one that talks outlives those that do not");
    assert_eq!(good.read(1, 0, 1), [0]);
    drop(strangers);
}

#[test]
fn a_slow_handshake_ends() {
    let server =
        Server::start("slow", Limits { handshake_time: Duration::from_millis(200), ..Limits::default() });
    let mut client = server.connect();
    client.receive(18);
    client.send(&[0, 0]);
    assert!(client.rest().is_empty());
}

/// Small shares, and a shared pool for two of the largest requests.
fn scarce(stall_time: Duration) -> Limits {
    Limits {
        payload_bytes: 1 << 20,
        share_bytes: 64 << 10,
        pool_bytes: 2 << 20,
        stall_time,
        ..Limits::default()
    }
}

/// Two clients that hold the whole shared pool: the first bytes of their payload have come.
fn two_hogs(server: &Server) -> [Client; 2] {
    let mut hogs = [server.enter(), server.enter()];
    for client in &mut hogs {
        client.send(&request(0, command::WRITE, 1, 0, 1 << 20));
        client.send(&[1; 100]);
    }
    let stuffed = |running: &Running| running.hall.memory().used_bytes() == 2 << 20;
    server.until("the pool is exhausted", stuffed);
    hogs
}

#[test]
fn a_client_that_stalls_on_memory_others_need_is_closed() {
    let server = Server::start("stalls", scarce(Duration::from_millis(300)));
    let mut hogs = two_hogs(&server);
    let mut good = server.enter();
    good.write(1, 0, &[7; 100_000]);
    assert_eq!(good.reply(), (1, 0));
    assert!(hogs.iter_mut().all(|client| client.rest().is_empty()));
}

#[test]
fn a_client_that_drips_on_memory_others_need_is_closed() {
    let server = Server::start("drips", scarce(Duration::from_millis(300)));
    let mut hogs = two_hogs(&server);
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
                for hog in &mut hogs {
                    // One that was closed has been found out.
                    let _ = hog.socket.write(&[1]);
                }
            }
            assert!(hogs.iter_mut().all(|client| client.rest().is_empty()), "both are closed");
        });
        let mut good = server.enter();
        good.write(1, 0, &[7; 1 << 20]);
        assert_eq!(good.reply(), (1, 0));
        good.write(2, 0, &[7; 1 << 20]);
        assert_eq!(good.reply(), (2, 0));
        drop(stop);
    });
}

#[test]
fn small_requests_do_not_wait_for_stalled_clients() {
    let server = Server::start("share", scarce(Duration::from_secs(3600)));
    let mut hogs = two_hogs(&server);
    let mut large = server.enter();
    large.write(1, 0, &[5; 100_000]);
    let mut good = server.enter();
    for cookie in 0..100 {
        good.write(cookie, 4096 * cookie, &[7; 16 << 10]);
    }
    let mut replies: Vec<_> = (0..100).map(|_| good.reply()).collect();
    replies.sort_unstable();
    assert!(replies.iter().enumerate().all(|(cookie, reply)| *reply == (cookie as u64, 0)));
    assert_eq!(good.read(200, 0, 16 << 10), [7; 16 << 10]);
    let only_hogs = |running: &Running| running.hall.memory().used_bytes() == 2 << 20;
    server.until("only the hogs hold memory", only_hogs);
    for hog in &mut hogs {
        hog.send(&vec![1; (1 << 20) - 100]);
        assert_eq!(hog.reply(), (1, 0));
    }
    assert_eq!(large.reply(), (1, 0), "it got on as soon as there was room");
}

#[test]
fn a_client_that_announces_and_sends_nothing_holds_no_memory() {
    let server = Server::start("announce", Limits::default());
    let mut client = server.enter();
    client.send(&request(0, command::READ, 1, 0, 1));
    client.send(&request(0, command::WRITE, 2, 0, 32 << 20));
    assert_eq!(client.reply(), (1, 0));
    client.receive(1);
    server.until("nothing is held", |running| running.hall.memory().used_bytes() == 0);
    client.send(&vec![9; 32 << 20]);
    assert_eq!(client.reply(), (2, 0));
}

#[test]
fn a_client_that_does_not_read_replies_is_not_read() {
    let limits = Limits { in_flight_bytes: 4 << 20, ..Limits::default() };
    let server = Server::start("deaf", limits);
    let mut client = server.enter();
    for cookie in 0..64 {
        client.send(&request(0, command::READ, cookie, 0, 1 << 20));
    }
    let mut good = server.enter();
    assert_eq!(good.read(1, 0, 1), [0]);
    assert!(server.on_thread(|running| running.hall.memory().used_bytes()) <= 5 << 20);
    for cookie in 0..64 {
        assert_eq!(client.reply(), (cookie, 0));
        client.receive(1 << 20);
    }
}

#[test]
fn sockets_are_replaced_when_dead_and_refused_when_live() {
    let server = Server::start("stale", Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let live = Listener::unix(&server.path()).expect_err("somebody serves it");
    assert!(matches!(live, ListenError::InUse(_)), "{live}");
    let stale = server.folder.join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a new path"));
    assert!(stale.exists(), "as after a kill");
    let listener = Listener::unix(&stale).expect("a dead socket is replaced");
    UnixStream::connect(&stale).expect("it listens");
    drop(listener);
    assert!(!stale.exists());
    std::fs::write(&stale, "a file").expect("writable");
    let file = Listener::unix(&stale).expect_err("a file is in the way");
    assert!(matches!(file, ListenError::NotASocket(_)), "{file}");
    let long = Listener::unix(Path::new(&"x".repeat(200))).expect_err("too long");
    assert!(matches!(long, ListenError::Unix { .. }), "{long}");
}
