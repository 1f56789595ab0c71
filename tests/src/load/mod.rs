//! A load on one volume for the judge: several connections that read, write, zero, trim and flush the same places at
//! the same time, and write down what they were told.
//!
//! ```text
//!             to(address)                     pause()
//!  waiting ----------------> connected ----------------> waiting      all answered, DISC
//!     ^                       |  ^   |
//!     |        connection lost|  |   | away(): what is in flight is given up
//!     +-----------------------+  +---+---> waiting
//! ```
//!
//! Invariants: a client that lost its connection tries the same address again until it is told another, so a
//! restart of the server needs no word from the test; nobody waits longer than [`PATIENCE`] for anything.

mod client;

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    judge::{Clock, Operation},
    raw::{Address, Stream},
    tools::wait_until,
};

/// How long a client tries to be served again, and how long the test waits for clients.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often each kind of request comes, in parts of the sum of all.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// READ.
    pub read: u32,
    /// WRITE.
    pub write: u32,
    /// WRITE with FUA.
    pub write_fua: u32,
    /// WRITE_ZEROES.
    pub zero: u32,
    /// TRIM.
    pub trim: u32,
    /// FLUSH.
    pub flush: u32,
}

impl Mix {
    /// Everything, mostly writes.
    pub const ALL: Self = Self { read: 20, write: 60, write_fua: 4, zero: 4, trim: 3, flush: 3 };
    /// Only writes, without a flush.
    pub const WRITES: Self = Self { read: 0, write: 1, write_fua: 0, zero: 0, trim: 0, flush: 0 };
}

/// How a [`Load`] works.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Written into every sector.
    pub volume: u32,
    /// The export's name.
    pub export: String,
    /// Number of connections.
    pub connections: u32,
    /// Requests in flight on each.
    pub depth: usize,
    /// The parts of the device that are touched, in sectors.
    pub places: Vec<Range<u64>>,
    /// The longest request, in sectors.
    pub longest: u32,
    /// What is asked for.
    pub mix: Mix,
    /// Chooses places and kinds.
    pub seed: u64,
    /// Each client waits so long after every answer: a load that does not take the whole machine.
    pub pause: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            volume: 1,
            export: "r0".to_owned(),
            connections: 3,
            depth: 4,
            // Small enough that requests overlap all the time, in three places far apart.
            places: vec![0..2048, 40_000..42_048, 129_024..131_072],
            longest: 32,
            mix: Mix::ALL,
            seed: 1,
            pause: Duration::ZERO,
        }
    }
}

/// Where the clients go; each change has a number, so that a client notices two of them.
#[derive(Debug)]
struct Target {
    number: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// Nowhere for now; what is in flight is answered first.
    Nowhere,
    Server(Address),
    /// The load is over.
    End,
}

/// What clients and test share.
#[derive(Debug)]
struct Shared {
    options: LoadOptions,
    clock: Clock,
    target: Mutex<Target>,
    changed: Condvar,
    /// Answered changes.
    acknowledged: AtomicU64,
    /// Clients that have a connection, or try to get one.
    busy: AtomicU64,
    /// All connections, by client: to be cut from outside.
    sockets: Mutex<Vec<Option<Stream>>>,
    /// The last refusal that a client met, for the report.
    refusal: Mutex<String>,
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(|_| panic!("a client panicked"))
    }

    /// Whether the target is still the one with this number.
    fn is_current(&self, number: u64) -> bool {
        self.target().number == number
    }
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<Vec<Operation>>>>,
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Load {
    /// Makes clients; they wait for [`to`](Self::to).
    #[must_use]
    pub fn new(options: LoadOptions, clock: Clock) -> Self {
        let connections = options.connections;
        let shared = Arc::new(Shared {
            options,
            clock,
            target: Mutex::new(Target { number: 0, place: Place::Nowhere }),
            changed: Condvar::new(),
            acknowledged: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            sockets: Mutex::new((0..connections).map(|_| None).collect()),
            refusal: Mutex::new(String::new()),
        });
        let clients = (1..=connections)
            .map(|number| {
                let shared = shared.clone();
                thread::spawn(move || client::run(&shared, number))
            })
            .collect();
        Self { shared, clients }
    }

    fn set(&self, place: Place) {
        let mut target = self.shared.target();
        target.number += 1;
        target.place = place;
        self.shared.changed.notify_all();
    }

    /// Sends the clients to a server. Those that are connected elsewhere finish there first.
    pub fn to(&self, address: Address) {
        self.set(Place::Server(address));
    }

    /// Lets the clients finish what is in flight and leave.
    ///
    /// # Errors
    /// They do not leave in time, or one has failed.
    pub fn pause(&self) -> Result<()> {
        self.set(Place::Nowhere);
        self.wait("the clients leave", |load| load.shared.busy.load(Ordering::SeqCst) == 0)
    }

    /// Lets the clients give up what is in flight: their server does not answer any more.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn away(&self) -> Result<()> {
        self.set(Place::Nowhere);
        self.wait("the clients give up", |load| {
            // Again and again: a client may have just connected.
            for socket in load.shared.sockets.lock().iter().flat_map(|sockets| sockets.iter()).flatten() {
                // Fails if the server has closed it already.
                let _ = socket.shutdown();
            }
            load.shared.busy.load(Ordering::SeqCst) == 0
        })
    }

    /// Number of changes that were answered with success so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until `count` more changes are answered: the volume serves now, whatever happened before.
    ///
    /// # Errors
    /// They are not in time, or a client has failed.
    pub fn wait_for_writes(&self, count: u64) -> Result<()> {
        let goal = self.acknowledged() + count;
        self.wait("writes are acknowledged", |load| load.acknowledged() >= goal)
    }

    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let ended = |load: &Self| load.clients.iter().any(JoinHandle::is_finished);
        wait_until(what, PATIENCE, || ended(self) || condition(self)).with_context(|| self.refusal())?;
        ensure!(
            !ended(self),
            "a client of the load has failed while it was waited until {what}: see finish()"
        );
        Ok(())
    }

    fn refusal(&self) -> String {
        format!("last refusal: {}", self.shared.refusal.lock().map(|text| text.clone()).unwrap_or_default())
    }

    /// Ends the load when all that is in flight is answered; what the clients did.
    ///
    /// # Errors
    /// A client met something that breaks the protocol, or was not served for [`PATIENCE`].
    pub fn finish(mut self) -> Result<Vec<Operation>> {
        self.end()
    }

    fn end(&mut self) -> Result<Vec<Operation>> {
        self.set(Place::End);
        let mut operations = Vec::new();
        let mut first_error = None;
        for client in self.clients.drain(..) {
            match client.join().map_err(|_| anyhow!("a client panicked")).and_then(|result| result) {
                Ok(done) => operations.extend(done),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) => Err(error.context("a client of the load")),
            None => Ok(operations),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if !self.clients.is_empty() {
            // The test has failed already: nobody waits for an answer any more.
            self.set(Place::End);
            for socket in self.shared.sockets.lock().iter().flat_map(|sockets| sockets.iter()).flatten() {
                let _ = socket.shutdown();
            }
            let _ = self.end();
        }
    }
}
