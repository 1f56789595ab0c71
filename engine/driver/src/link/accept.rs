//! Being called: who it is, and what the connection is for.
//!
//! Bounded at every step: handshakes under way ([`HANDSHAKES_MAX`]; from [`HANDSHAKES_BEFORE_RETRY`] on a caller
//! must first show that answers reach it), the time of each, and connections of a peer that have not said what they
//! are for. Nothing that a caller sends beyond the handshake is read before its key is known.

use std::{cell::Cell, rc::Rc};

use quinn::Incoming;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    closing::{self, Broken, CloseCode},
    event::ProblemCode,
    live::Joined,
    message::{Message, Messages},
    peer::{Arrival, Peer, not_your_turn},
    session::Control,
    shared::Shared,
    task,
    tls::fingerprint_of,
    transport::{HANDSHAKE_TIMEOUT, HANDSHAKES_BEFORE_RETRY, HANDSHAKES_MAX},
};
use crate::identity::Fingerprint;

/// A peer has at most so many connections that have not said what they are for, and two for each volume.
const UNANNOUNCED_MAX: usize = 8;

/// Counts for as long as it lives.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Takes calls for as long as the task lives.
pub(super) async fn run(shared: Rc<Shared>) {
    let handshakes = Rc::new(Cell::new(0));
    while let Some(incoming) = shared.quinn.accept().await {
        if handshakes.get() >= HANDSHAKES_MAX {
            incoming.ignore();
        } else if handshakes.get() >= HANDSHAKES_BEFORE_RETRY && !incoming.remote_address_validated() {
            // It fails only for an address that is validated.
            let _ = incoming.retry();
        } else {
            let counted = Counted::new(&handshakes);
            task::spawn(answer(shared.clone(), incoming, counted)).detach();
        }
    }
}

async fn answer(shared: Rc<Shared>, incoming: Incoming, handshake: Counted) {
    let address = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let connection = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let mut broken = Broken::from(error);
            let refused = shared.tls.take_refused();
            if let Some(found) = refused {
                broken.text = unknown(&shared, found);
            }
            // It has shown no key that is known; but who calls from a peer's port is meant to be that peer.
            let peer = shared.peers.borrow().values().find(|peer| peer.address.get() == address).cloned();
            match peer {
                Some(peer) => peer.failed(&shared, &broken),
                None if refused.is_some() => warn!("refused a call from {address}: {}", broken.text),
                None => debug!("a call from {address} came to nothing: {}", broken.text),
            }
            return;
        }
        Err(_) => return,
    };
    drop(handshake);
    let Some(peer) = fingerprint_of(&connection).and_then(|key| shared.peer_of(key)) else {
        // Its key was taken out of the configuration meanwhile.
        closing::close(&connection, CloseCode::Closed, "this key is not accepted any more");
        return;
    };
    if peer.unannounced.get() >= UNANNOUNCED_MAX + 2 * peer.volumes.borrow().len() {
        closing::close(&connection, CloseCode::Limit, "too many connections that say nothing");
        return;
    }
    peer.unannounced.set(peer.unannounced.get() + 1);
    let result = timeout(HANDSHAKE_TIMEOUT, welcome(&shared, &peer, &connection)).await;
    peer.unannounced.set(peer.unannounced.get() - 1);
    if let Err(broken) = result.unwrap_or_else(|_| Err(Broken::silent("it does not say what it calls for"))) {
        closing::close(&connection, broken.code, &broken.text);
        if broken.problem.is_some() {
            peer.failed(&shared, &broken);
        }
    }
}

fn unknown(shared: &Shared, found: Fingerprint) -> String {
    format!("its key {found} is not in the configuration of {}", shared.node)
}

/// Finds out what an authenticated connection is for, and hands it over.
async fn welcome(shared: &Rc<Shared>, peer: &Rc<Peer>, connection: &quinn::Connection) -> Result<(), Broken> {
    let (mut send, receive) = connection.accept_bi().await?;
    let mut messages = Messages::new(receive);
    match messages.next().await? {
        Message::Greeting(theirs) => {
            shared.check(peer, &theirs)?;
            if peer.is_called_from_here(shared) {
                return Err(not_your_turn());
            }
            send.write_all(&Message::Greeting(shared.greeting(peer)).encode()).await?;
            let control = Control { connection: connection.clone(), send, messages, theirs };
            hand_over(peer, Arrival::Control(Box::new(control)))
        }
        Message::Knock(theirs) => {
            shared.check(peer, &theirs)?;
            closing::close(connection, CloseCode::Done, "you will be called");
            hand_over(peer, Arrival::Knock(theirs.run))
        }
        Message::Join { channel, ticket } => {
            let joined = Joined { connection: connection.clone(), send, receive: messages.into_stream() };
            let expected = peer.expected.borrow().get(&ticket).cloned();
            expected
                .and_then(|joining| joining.send((channel, joined)).ok())
                .ok_or_else(|| Broken::closed("nobody expects this connection any more"))
        }
        message => Err(Broken::refused(
            ProblemCode::Protocol,
            CloseCode::Protocol,
            format!("a connection begins with {message:?}"),
        )),
    }
}

fn hand_over(peer: &Peer, arrival: Arrival) -> Result<(), Broken> {
    peer.arrivals.send(arrival).map_err(|_| Broken::closed("this peer is not wanted any more"))
}
