//! One peer: what is wanted with it, how things stand, and the task that keeps a control connection to it.
//!
//! ```text
//!                  call answered (caller) / called (the other)
//!   Connecting ───────────────────────────────────────────────> Connected
//!    ▲  │  ▲                                                        │
//!    │  │  └─────────── it breaks, a newer one, a new process ──────┘
//!    │  └── either side refuses ──> Refused
//!    └───────── next attempt ─────────┘
//! ```
//!
//! One of two nodes calls, the one with the lower fingerprint, so that there are never two connections for the
//! same purpose to choose from. The other one *knocks* when it has no connection: it calls, says "call me", and
//! hangs up. So a node that was started again is called at once, whichever of the two it is.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use evenkeel_core::volume::io::Channel;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    call,
    closing::{self, Broken, CloseCode},
    endpoint::{Connection, PeerAddress, PeerStatus},
    event::{LinkEvent, PeerKey, Problem, ProblemCode, VolumeKey},
    live::{Joined, Links},
    message::{Ticket, Wish},
    session::{Control, Session},
    shared::Shared,
};
use crate::identity::Fingerprint;

/// A call younger than this is not given up for a knock: the two may have crossed.
const CROSSING: Duration = Duration::from_millis(300);

/// Something from the peer that its task has to know.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It has called.
    Control(Box<Control>),
    /// It wants to be called; its process.
    Knock(u64),
}

/// A volume that is shared with the peer.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) name: String,
    pub(super) wish: Wish,
}

/// Where the other two connections of an expected link are handed over.
pub(super) type Joining = mpsc::UnboundedSender<(Channel, Joined)>;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: PeerKey,
    pub(super) name: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) address: Cell<SocketAddr>,
    pub(super) volumes: RefCell<BTreeMap<VolumeKey, Own>>,
    /// The volumes or the wishes for them changed.
    pub(super) changed: Notify,
    /// Something was said on the control channel of a link.
    pub(super) talked: Rc<Notify>,
    pub(super) arrivals: mpsc::UnboundedSender<Arrival>,
    /// Links that the peer has begun, by their ticket.
    pub(super) expected: RefCell<BTreeMap<Ticket, Joining>>,
    /// Its authenticated connections that have not said yet what they are for.
    pub(super) unannounced: Cell<usize>,
    connection: Cell<Connection>,
    control: RefCell<Option<quinn::Connection>>,
    problem: RefCell<Option<Problem>>,
    volume_problems: RefCell<BTreeMap<VolumeKey, Problem>>,
}

impl Peer {
    pub(super) fn new(key: PeerKey, address: PeerAddress, arrivals: mpsc::UnboundedSender<Arrival>) -> Self {
        Self {
            key,
            name: address.name,
            fingerprint: address.fingerprint,
            address: Cell::new(address.address),
            volumes: RefCell::default(),
            changed: Notify::new(),
            talked: Rc::default(),
            arrivals,
            expected: RefCell::default(),
            unannounced: Cell::new(0),
            connection: Cell::new(Connection::Connecting),
            control: RefCell::default(),
            problem: RefCell::default(),
            volume_problems: RefCell::default(),
        }
    }

    /// Whether this node calls the peer, rather than being called.
    pub(super) fn is_called_from_here(&self, shared: &Shared) -> bool {
        shared.fingerprint < self.fingerprint
    }

    /// The volume of this name, if its link is wanted.
    pub(super) fn wanted(&self, name: &str) -> Option<VolumeKey> {
        let volumes = self.volumes.borrow();
        volumes.iter().find(|(_, own)| own.name == name && own.wish == Wish::Wanted).map(|(key, _)| *key)
    }

    /// What is told the peer about the volumes.
    pub(super) fn list(&self) -> Vec<(String, Wish)> {
        self.volumes.borrow().values().map(|own| (own.name.clone(), own.wish.clone())).collect()
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            connection: self.connection.get(),
            problem: self.problem.borrow().clone(),
            round_trip: self.control.borrow().as_ref().map(quinn::Connection::rtt),
        }
    }

    /// Sets or clears what stands between the two nodes.
    pub(super) fn set_problem(&self, shared: &Shared, problem: Option<Problem>) {
        if *self.problem.borrow() != problem {
            self.problem.replace(problem.clone());
            shared.inbox.push(LinkEvent::Problem { peer: self.key, volume: None, problem });
        }
    }

    /// Sets or clears what stands between the two nodes for one volume.
    pub(super) fn set_volume_problem(&self, shared: &Shared, volume: VolumeKey, problem: Option<Problem>) {
        let mut problems = self.volume_problems.borrow_mut();
        if problems.get(&volume) != problem.as_ref() {
            match problem.clone() {
                Some(problem) => problems.insert(volume, problem),
                None => problems.remove(&volume),
            };
            shared.inbox.push(LinkEvent::Problem { peer: self.key, volume: Some(volume), problem });
        }
    }

    /// Clears a volume's problem if it is of this kind.
    pub(super) fn mend_volume_problem(&self, shared: &Shared, volume: VolumeKey, code: ProblemCode) {
        if self.volume_problems.borrow().get(&volume).is_some_and(|problem| problem.code == code) {
            self.set_volume_problem(shared, volume, None);
        }
    }

    /// A link of the volume broke: if that is a problem, it is said.
    pub(super) fn note_volume_problem(&self, shared: &Shared, volume: VolumeKey, broken: &Broken) {
        if let Some(code) = broken.problem {
            let text = format!("{}: {}", self.name, broken.text);
            self.set_volume_problem(shared, volume, Some(Problem { code, text }));
        }
    }

    /// Sets what is known of the control connection.
    fn set_control(&self, control: Option<&quinn::Connection>) {
        self.connection.set(if control.is_some() { Connection::Connected } else { Connection::Connecting });
        self.control.replace(control.cloned());
    }

    /// Closes the control connection, as far as there is one.
    pub(super) fn hang_up(&self, broken: &Broken) {
        if let Some(control) = self.control.take() {
            closing::close(&control, broken.code, &broken.text);
        }
    }

    /// An attempt to connect with the peer failed. While another one holds, that means nothing.
    pub(super) fn failed(&self, shared: &Shared, broken: &Broken) {
        if self.control.borrow().is_some() {
            return;
        }
        match broken.problem {
            Some(code) => {
                self.connection.set(Connection::Refused);
                let problem = Problem { code, text: format!("{}: {}", self.name, broken.text) };
                if self.problem.borrow().as_ref() != Some(&problem) {
                    warn!("no connection with {}", problem.text);
                }
                self.set_problem(shared, Some(problem));
            }
            None => self.connection.set(Connection::Connecting),
        }
    }
}

/// Keeps a control connection to the peer for as long as the task lives.
pub(super) async fn supervise(
    shared: Rc<Shared>,
    peer: Rc<Peer>,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
) {
    let mut backoff = Backoff::default();
    let mut next = None;
    loop {
        let control = match next.take() {
            Some(control) => control,
            None => reach(&shared, &peer, &mut arrivals, &mut backoff).await,
        };
        let began = Instant::now();
        let connection = control.connection.clone();
        info!("connected with {} at {}", peer.name, connection.remote_address());
        peer.set_control(Some(&connection));
        peer.set_problem(&shared, None);
        let broken = hold(&shared, &peer, *control, &mut arrivals, &mut next).await;
        info!("the connection with {} ended: {}", peer.name, broken.text);
        peer.set_control(None);
        peer.expected.borrow_mut().clear();
        Links::end_all(&shared, peer.key, None, &broken);
        closing::close(&connection, broken.code, &broken.text);
        peer.failed(&shared, &broken);
        if broken.problem.is_some() {
            backoff.refused();
        }
        backoff.ended_after(began.elapsed());
    }
}

/// Runs a session until it breaks or another takes its place, which is then `next`.
async fn hold(
    shared: &Rc<Shared>,
    peer: &Rc<Peer>,
    control: Control,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    next: &mut Option<Box<Control>>,
) -> Broken {
    let their_run = control.theirs.run;
    let mut session = Session::new(shared.clone(), peer.clone(), control);
    let running = session.run();
    tokio::pin!(running);
    loop {
        tokio::select! {
            broken = &mut running => return broken,
            Some(arrival) = arrivals.recv() => match arrival {
                Arrival::Control(control) => {
                    let same = control.theirs.run == their_run;
                    *next = Some(control);
                    return if same {
                        Broken::replaced("a newer connection took its place")
                    } else {
                        Broken::gone("its process was started again")
                    };
                }
                Arrival::Knock(run) if run != their_run => {
                    return Broken::gone("its process was started again");
                }
                // It has lost the connection, and what is sent on it will say so.
                Arrival::Knock(_) => {}
            },
        }
    }
}

/// Calls, or knocks, until there is a control connection.
async fn reach(
    shared: &Rc<Shared>,
    peer: &Rc<Peer>,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    backoff: &mut Backoff,
) -> Box<Control> {
    loop {
        tokio::select! {
            () = backoff.wait() => {}
            Some(arrival) = arrivals.recv() => match arrival {
                Arrival::Control(control) => return control,
                Arrival::Knock(_) => backoff.reset(),
            },
        }
        let began = Instant::now();
        let attempt = call::attempt(shared, peer);
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                result = &mut attempt => {
                    match result {
                        Ok(Some(control)) => return control,
                        Ok(None) => {}
                        Err(broken) => {
                            if broken.problem.is_some() {
                                backoff.refused();
                            }
                            peer.failed(shared, &broken);
                        }
                    }
                    break;
                }
                Some(arrival) = arrivals.recv() => match arrival {
                    Arrival::Control(control) => return control,
                    Arrival::Knock(_) => {
                        backoff.reset();
                        if began.elapsed() > CROSSING {
                            break;
                        }
                    }
                },
            }
        }
    }
}

/// What a node that does not call is told when it calls nevertheless.
pub(super) fn not_your_turn() -> Broken {
    Broken::refused(
        ProblemCode::Protocol,
        CloseCode::Protocol,
        "the node with the lower fingerprint calls, the other one only knocks".to_owned(),
    )
}
