//! Calling a peer: a connection with its key, and what is said first on it.

use std::{rc::Rc, sync::Arc};

use evenkeel_core::volume::io::Channel;
use quinn::{ClientConfig, VarInt};
use tokio::time::timeout;

use super::{
    closing::{self, Broken, CloseCode},
    event::ProblemCode,
    live::Joined,
    message::{Message, Messages, Ticket},
    peer::Peer,
    session::Control,
    shared::Shared,
    tls::SERVER_NAME,
    transport::HANDSHAKE_TIMEOUT,
};

/// A new connection with the peer, authenticated by both (but see [`greet`]: whether the peer accepts this node's
/// key shows only when it answers).
async fn dial(shared: &Shared, peer: &Peer) -> Result<quinn::Connection, Broken> {
    let (tls, expected) = shared.tls.client(peer.fingerprint);
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(shared.transport.clone());
    let connecting = shared
        .quinn
        .connect_with(config, peer.address.get(), SERVER_NAME)
        .map_err(|error| Broken::closed(&format!("{} cannot be called: {error}", peer.address.get())))?;
    match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(match expected.found_instead() {
            Some(found) => Broken::refused(
                ProblemCode::Identity,
                CloseCode::Done,
                format!(
                    "the node at {} has key {found}, the configuration says {}",
                    peer.address.get(),
                    peer.fingerprint
                ),
            ),
            None => error.into(),
        }),
        Err(_) => Err(Broken::silent("it does not answer")),
    }
}

/// One attempt: a control connection if it is this node that calls, else a knock.
pub(super) async fn attempt(shared: &Rc<Shared>, peer: &Rc<Peer>) -> Result<Option<Box<Control>>, Broken> {
    let connection = dial(shared, peer).await?;
    let result = if peer.is_called_from_here(shared) {
        timeout(HANDSHAKE_TIMEOUT, greet(shared, peer, &connection)).await.map(|result| result.map(Some))
    } else {
        timeout(HANDSHAKE_TIMEOUT, knock(shared, peer, &connection)).await.map(|result| result.map(|()| None))
    };
    let result = result.unwrap_or_else(|_| Err(Broken::silent("it does not greet")));
    if let Err(broken) = &result {
        closing::close(&connection, broken.code, &broken.text);
    }
    result
}

async fn greet(shared: &Shared, peer: &Peer, connection: &quinn::Connection) -> Result<Box<Control>, Broken> {
    let (mut send, receive) = connection.open_bi().await?;
    send.write_all(&Message::Greeting(shared.greeting(peer)).encode()).await?;
    let mut messages = Messages::new(receive);
    let Message::Greeting(theirs) = messages.next().await? else {
        return Err(Broken::protocol("it does not answer a greeting with one".to_owned()));
    };
    shared.check(peer, &theirs)?;
    Ok(Box::new(Control { connection: connection.clone(), send, messages, theirs }))
}

async fn knock(shared: &Shared, peer: &Peer, connection: &quinn::Connection) -> Result<(), Broken> {
    let (mut send, _receive) = connection.open_bi().await?;
    send.write_all(&Message::Knock(shared.greeting(peer)).encode()).await?;
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => Ok(()),
        error => Err(error.into()),
    }
}

/// One of the two other connections of a link.
pub(super) async fn join(
    shared: &Shared,
    peer: &Peer,
    channel: Channel,
    ticket: Ticket,
) -> Result<Joined, Broken> {
    let connection = dial(shared, peer).await?;
    let (mut send, receive) = connection.open_bi().await?;
    send.write_all(&Message::Join { channel, ticket }.encode()).await?;
    Ok(Joined { connection, send, receive })
}
