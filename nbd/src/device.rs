//! What the NBD server serves: the [`BlockDevice`] trait and the requests, replies and states that cross it.
//!
//! A device lives on the data thread and is never shared between threads: the trait is neither `Send` nor
//! `Sync`, and its methods take `&self` because one device serves many connections through one `Rc`.
//! `submit` must not block; a completion may come at once, from within `submit`, or later, in any order.
//!
//! What other threads may know of a device (may clients come in, how large is it) travels as [`ExportState`]
//! through a watch channel.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc, task::Waker};

use bytes::Bytes;
use tokio::sync::watch;

use crate::errno::ErrorClass;

/// A range of bytes on a device. The server has checked it against the device's size before `submit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; never zero in a request that reaches a device.
    pub len: u64,
}

impl ByteRange {
    /// The byte after the last one.
    ///
    /// # Panics
    /// If the range passes `u64::MAX`, which the server's check makes impossible.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset.checked_add(self.len).expect("range was checked against the device size")
    }
}

/// Names a request among those in flight on one connection; a device only echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One request of a client.
#[derive(Debug)]
pub struct Request {
    /// Echoed in the [`Completion`].
    pub id: RequestId,
    /// What to do.
    pub command: Command,
}

/// What a client can ask of a device.
#[derive(Clone, Debug)]
pub enum Command {
    /// Read; completed with [`Reply::Data`] of exactly `range.len` bytes.
    Read {
        /// What to read.
        range: ByteRange,
    },
    /// Write `payload` at `offset`. The payload is the device's from here on and is never changed again.
    Write {
        /// First byte on the device.
        offset: u64,
        /// The data; see [`buffer`](crate::buffer) for its alignment.
        payload: Bytes,
        /// Complete only when this write is on stable media.
        fua: bool,
    },
    /// Complete when every write that was completed before this request, on any connection, is stable.
    Flush,
    /// Discard. Reads as zeroes afterwards (design rule R7), though NBD would leave the content undefined.
    Trim {
        /// What to discard.
        range: ByteRange,
        /// Complete only when stable.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// What to zero.
        range: ByteRange,
        /// Complete only when stable.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail with [`ErrorClass::NotSupported`] at once unless this is faster than writing zeroes.
        fast: bool,
    },
    /// A hint that the range will be read soon.
    Cache {
        /// What will be read.
        range: ByteRange,
    },
    /// Describe the range in one metadata context; completed with [`Reply::Extents`].
    Map {
        /// What to describe.
        range: ByteRange,
        /// In which context.
        context: MapContext,
    },
}

/// A metadata context that a device may describe ranges in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MapContext {
    /// `base:allocation`: which ranges are holes and which read as zeroes.
    Allocation,
    /// `x-evenkeel:dirty`: blocks that a replica lacks.
    Dirty,
}

impl MapContext {
    /// All contexts, in the order in which LIST_META_CONTEXT names them.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::Dirty];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Dirty => "x-evenkeel:dirty",
        }
    }
}

/// One run of bytes with the same flags, as answered to [`Command::Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of bytes, never zero. Extents follow each other without gaps from the start of the asked range,
    /// and together cover at least its first byte and at most its last.
    pub len: u64,
    /// `base:allocation`: [`Extent::HOLE`] and [`Extent::ZERO`]. `x-evenkeel:dirty`: [`Extent::DIRTY`].
    pub flags: u32,
}

impl Extent {
    /// Not allocated.
    pub const HOLE: u32 = 1;
    /// Reads as zeroes.
    pub const ZERO: u32 = 2;
    /// At least one replica lacks this data.
    pub const DIRTY: u32 = 1;
    /// The server sends no more extents than this in one reply; a device need not find more. The client asks
    /// again for the rest (spec, NBD_REPLY_TYPE_BLOCK_STATUS; far below its limit of 2^20).
    pub const MAX_PER_REPLY: usize = 8192;
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// That of the [`Request`].
    pub id: RequestId,
    /// How it ended.
    pub outcome: Result<Reply, ErrorClass>,
}

/// What a successful request brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// For every command that only changes or hints.
    Done,
    /// For [`Command::Read`].
    Data(Bytes),
    /// For [`Command::Map`].
    Extents(Vec<Extent>),
}

/// What an export promises for as long as a client is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Text for people, sent as NBD_INFO_DESCRIPTION.
    pub description: String,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// The disk below turns.
    pub rotational: bool,
    /// [`Command::WriteZeroes`] with `fast` works; if false the flag is not advertised and is refused.
    pub fast_zero: bool,
    /// The contexts that [`Command::Map`] answers.
    pub contexts: Vec<MapContext>,
}

/// Whether an export takes clients, for the handshake and for connections that are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// Clients are served.
    Serving {
        /// Size in bytes.
        size: u64,
    },
    /// For a while nothing is answered: GO waits and requests are held by the device.
    Held,
    /// GO is refused with NBD_REP_ERR_POLICY and this text; connections that are open are closed after what is
    /// in flight has been answered and the rest has failed with ESHUTDOWN.
    Refused(Arc<str>),
}

/// Who is at the other end, for messages to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIdentity {
    /// A process on this machine, from the socket's peer credentials.
    Local {
        /// Process id.
        pid: u32,
        /// User id.
        uid: u32,
    },
    /// A TCP client.
    Remote(std::net::SocketAddr),
}

impl fmt::Display for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Self::Remote(address) => write!(f, "{address}"),
        }
    }
}

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// One connection as a device sees it: who it is, where its completions go, and how to end it.
pub struct Client {
    id: ClientId,
    identity: ClientIdentity,
    inbox: RefCell<Inbox>,
}

/// What a device has told a connection and the connection has not picked up yet.
#[derive(Default)]
struct Inbox {
    completions: Vec<Completion>,
    revoked: Option<Arc<str>>,
    /// The connection has read `revoked`: it is no news any more.
    revocation_seen: bool,
    waker: Option<Waker>,
}

impl Client {
    /// A connection with nothing in flight.
    #[must_use]
    pub fn new(id: ClientId, identity: ClientIdentity) -> Rc<Self> {
        Rc::new(Self { id, identity, inbox: RefCell::default() })
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// Who is at the other end.
    #[must_use]
    pub fn identity(&self) -> &ClientIdentity {
        &self.identity
    }

    /// Hands one finished request to the connection; it wakes once for a burst of them. After the connection
    /// has closed this does nothing.
    pub fn complete(&self, completion: Completion) {
        let mut inbox = self.inbox.borrow_mut();
        inbox.completions.push(completion);
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }

    /// Ends the connection: what the device still completes is answered, every other request fails with
    /// ESHUTDOWN, then the socket is closed. `reason` goes to the log.
    pub fn revoke(&self, reason: &str) {
        let mut inbox = self.inbox.borrow_mut();
        inbox.revoked.get_or_insert_with(|| reason.into());
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }

    /// Moves all completions into `into`, whose content is kept; for the server.
    pub fn take_completions(&self, into: &mut Vec<Completion>) {
        into.append(&mut self.inbox.borrow_mut().completions);
    }

    /// The reason given to [`Client::revoke`], if it was called; for the server.
    #[must_use]
    pub fn revoked(&self) -> Option<Arc<str>> {
        let mut inbox = self.inbox.borrow_mut();
        inbox.revocation_seen = inbox.revoked.is_some();
        inbox.revoked.clone()
    }

    /// Registers who is to be woken by the next completion or revocation, and tells whether one is there
    /// already that the connection has not taken or read (then nothing is registered); for the server.
    pub fn poll_inbox(&self, waker: &Waker) -> bool {
        let mut inbox = self.inbox.borrow_mut();
        if !inbox.completions.is_empty() || (inbox.revoked.is_some() && !inbox.revocation_seen) {
            return true;
        }
        match &mut inbox.waker {
            Some(registered) => registered.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        false
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A block device that NBD clients may use. See the module's head for the rules.
pub trait BlockDevice {
    /// What the device promises; does not change while it exists.
    fn features(&self) -> Features;

    /// Whether clients are served, and the size, as it changes.
    fn state(&self) -> watch::Receiver<ExportState>;

    /// A connection begins. Requests follow, all with this same `client`.
    fn connected(&self, client: &Rc<Client>);

    /// Takes all requests out of `batch`, in order. Each is completed exactly once through
    /// [`Client::complete`], unless the connection closes first. The batch is one burst from the socket: what
    /// it needs from disks and links is to be handed over in one go.
    fn submit(&self, client: &Rc<Client>, batch: &mut Vec<Request>);

    /// The connection is gone. Its requests that the device has not begun are to be dropped; what has begun
    /// goes on to its end (design rule W1).
    fn disconnected(&self, client: &Rc<Client>);
}
