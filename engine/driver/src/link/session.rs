//! A control connection at work: each node lists the volumes that it wants links for, and the caller makes those
//! that both want.
//!
//! ```text
//!   caller                            the other
//!     Greeting            ──>                        first stream: stays, carries lists and beats
//!                         <──         Greeting
//!     Volumes             <─>         Volumes        whenever something changes
//!     Link(number, name)  ──>                        a stream of its own: becomes the control channel
//!                         <──         Expecting      the ticket is known now
//!     Join(data, ticket)  ──>                        a connection of its own
//!     Join(resync, ticket)──>                        another
//!                         <──         Up             on the control channel; then frames, both ways
//! ```
//!
//! Session number and ticket of a link come from the TLS session of this connection (RFC 8446 section 7.5), so
//! both nodes have them, nobody else does, and no other link ever has the same.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use evenkeel_core::volume::{codec::SessionNumber, io::Channel};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    backoff::Backoff,
    call,
    closing::Broken,
    event::{Problem, ProblemCode, VolumeKey},
    live::{Established, Joined, Links},
    message::{Greeting, LinkNumber, Message, Messages, Ticket, Wish},
    peer::Peer,
    probe::Probe,
    shared::Shared,
    task::{self, Task},
    transport::HANDSHAKE_TIMEOUT,
};

/// The least time that a peer has to acknowledge a beat, when its kernel says that it is gone.
const BEAT_TIMEOUT: Duration = Duration::from_millis(50);

/// A greeted control connection.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) connection: quinn::Connection,
    pub(super) send: SendStream,
    pub(super) messages: Messages,
    pub(super) theirs: Greeting,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Session {
    shared: Rc<Shared>,
    peer: Rc<Peer>,
    control: Control,
    caller: bool,
    /// What the peer wants, once it has said so.
    theirs: Option<BTreeMap<String, Wish>>,
    /// The caller's: one for each volume that both want.
    keepers: BTreeMap<VolumeKey, Task>,
    /// The other's: links that are being made.
    makers: Vec<Task>,
    numbers: Rc<Cell<LinkNumber>>,
}

impl Session {
    pub(super) fn new(shared: Rc<Shared>, peer: Rc<Peer>, control: Control) -> Self {
        let caller = peer.is_called_from_here(&shared);
        Self {
            shared,
            peer,
            control,
            caller,
            theirs: None,
            keepers: BTreeMap::new(),
            makers: Vec::new(),
            numbers: Rc::default(),
        }
    }

    /// Runs until the connection breaks, and says why it did. The links are still there then.
    pub(super) async fn run(&mut self) -> Broken {
        let Err(broken) = self.work().await;
        broken
    }

    async fn work(&mut self) -> Result<std::convert::Infallible, Broken> {
        let probe = Probe::new(self.shared.local, self.control.connection.remote_address());
        self.tell().await?;
        loop {
            let Control { connection, messages, .. } = &mut self.control;
            tokio::select! {
                message = messages.next() => match message? {
                    Message::Volumes(list) => {
                        self.theirs = Some(list.into_iter().collect());
                        self.reconcile();
                    }
                    Message::Beat => {}
                    message => return Err(Broken::protocol(format!("{message:?} on a greeted connection"))),
                },
                () = self.peer.changed.notified() => {
                    self.tell().await?;
                    self.reconcile();
                }
                stream = connection.accept_bi() => {
                    let (send, receive) = stream?;
                    self.begin(send, receive)?;
                }
                () = probe.refused(&self.shared.links.sent, &self.peer.talked) => {
                    if !self.answers().await? {
                        return Err(Broken::gone("its process is gone: nobody listens at its port"));
                    }
                }
            }
        }
    }

    /// Says something on the first stream.
    async fn say(&mut self, message: &Message) -> Result<(), Broken> {
        match timeout(HANDSHAKE_TIMEOUT, self.control.send.write_all(&message.encode())).await {
            Ok(written) => written.map_err(Broken::from),
            Err(_) => Err(Broken::silent("it does not read the control connection")),
        }
    }

    /// Tells the peer which volumes are wanted.
    async fn tell(&mut self) -> Result<(), Broken> {
        let list = self.peer.list();
        let streams = u32::try_from(2 * list.len() + 4).expect("the number of volumes is bounded");
        if !self.caller {
            self.control.connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        }
        self.say(&Message::Volumes(list)).await
    }

    /// Whether the peer still acknowledges anything.
    async fn answers(&mut self) -> Result<bool, Broken> {
        for _ in 0..2 {
            let before = self.control.connection.stats().udp_rx.datagrams;
            self.say(&Message::Beat).await?;
            sleep(BEAT_TIMEOUT.max(self.control.connection.rtt() * 3)).await;
            if self.control.connection.stats().udp_rx.datagrams != before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings keepers and links to what both nodes want now.
    fn reconcile(&mut self) {
        let Some(theirs) = &self.theirs else { return };
        let volumes = self.peer.volumes.borrow();
        for (&volume, own) in volumes.iter() {
            let both = own.wish == Wish::Wanted && theirs.get(&own.name) == Some(&Wish::Wanted);
            if both && self.caller {
                self.keepers.entry(volume).or_insert_with(|| {
                    let keeper = Keeper {
                        shared: self.shared.clone(),
                        peer: self.peer.clone(),
                        control: self.control.connection.clone(),
                        volume,
                        name: own.name.clone(),
                        numbers: self.numbers.clone(),
                    };
                    task::spawn(keeper.run())
                });
            }
            if !both {
                self.keepers.remove(&volume);
                let reason = match (&own.wish, theirs.get(&own.name)) {
                    (Wish::HeldBack(reason), _) => Broken::closed(reason),
                    (Wish::Wanted, Some(Wish::HeldBack(reason))) => Broken::by_peer(reason),
                    (Wish::Wanted, _) => Broken::by_peer("it does not have the volume any more"),
                };
                Links::end_all(&self.shared, self.peer.key, Some(volume), &reason);
            }
            if theirs.contains_key(&own.name) {
                self.peer.mend_volume_problem(&self.shared, volume, ProblemCode::Volume);
            } else {
                let problem = Problem { code: ProblemCode::Volume, text: self.missing(&own.name, theirs) };
                self.peer.set_volume_problem(&self.shared, volume, Some(problem));
            }
        }
        self.keepers.retain(|volume, _| volumes.contains_key(volume));
    }

    fn missing(&self, name: &str, theirs: &BTreeMap<String, Wish>) -> String {
        let (peer, node) = (&self.peer.name, &self.shared.node);
        let shared: Vec<&str> = theirs.keys().map(String::as_str).take(20).collect();
        let shared = if shared.is_empty() { "none".to_owned() } else { shared.join(", ") };
        format!(
            "{node} shares volume '{name}' with {peer}, but by {peer}'s configuration the two share: {shared}; \
             the file must be the same on both"
        )
    }

    /// The caller begins a link.
    fn begin(&mut self, send: SendStream, receive: RecvStream) -> Result<(), Broken> {
        if self.caller {
            return Err(Broken::protocol("a stream from the side that is called".to_owned()));
        }
        self.makers.retain(|maker| !maker.has_ended());
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        let connection = self.control.connection.clone();
        self.makers.push(task::spawn(async move {
            let name = peer.name.clone();
            let control = Joined { connection, send, receive };
            match timeout(HANDSHAKE_TIMEOUT, serve(shared, peer, control)).await {
                Ok(Ok(())) => {}
                Ok(Err(broken)) => debug!("a link that {name} began came to nothing: {}", broken.text),
                Err(_) => debug!("a link that {name} began came to nothing: it took too long"),
            }
        }));
        Ok(())
    }
}

/// What both nodes derive for a link.
fn derive(
    control: &quinn::Connection,
    number: LinkNumber,
    volume: &str,
) -> Result<(SessionNumber, Ticket), Broken> {
    let context = [&number.to_le_bytes(), volume.as_bytes()].concat();
    let mut secret = [0; 20];
    control
        .export_keying_material(&mut secret, b"EXPORTER-evenkeel-link", &context)
        .map_err(|_| Broken::closed("the TLS session is not complete"))?;
    let (session, ticket) = secret.split_at(4);
    let session = u32::from_le_bytes(session.try_into().expect("4 bytes"));
    let session = SessionNumber::new(session.max(1)).expect("not zero");
    Ok((session, ticket.try_into().expect("16 bytes")))
}

/// The other side of a link that the caller has begun.
async fn serve(shared: Rc<Shared>, peer: Rc<Peer>, control: Joined) -> Result<(), Broken> {
    let Joined { connection, mut send, receive } = control;
    let mut messages = Messages::new(receive);
    let Message::Link { number, volume: name } = messages.next().await? else {
        return Err(Broken::protocol("a stream does not begin with a link".to_owned()));
    };
    // Not wanted, or not any more: the list says so too. The stream ends, and the caller tries again later.
    let Some(volume) = peer.wanted(&name) else { return Err(Broken::closed("the volume is not wanted")) };
    let (session, ticket) = derive(&connection, number, &name)?;
    let (sender, mut joining) = mpsc::unbounded_channel();
    peer.expected.borrow_mut().insert(ticket, sender);
    let _expected = Expected { peer: &peer, ticket };
    send.write_all(&Message::Expecting.encode()).await?;
    let (mut data, mut resync) = (None, None);
    while data.is_none() || resync.is_none() {
        let (channel, joined) = joining.recv().await.ok_or_else(|| Broken::closed("the session ended"))?;
        let slot = match channel {
            Channel::Control => return Err(Broken::protocol("the control channel joined".to_owned())),
            Channel::Data => &mut data,
            Channel::Resync => &mut resync,
        };
        if slot.replace(joined).is_some() {
            return Err(Broken::protocol(format!("the {channel:?} channel joined twice")));
        }
    }
    let (Some(data), Some(resync)) = (data, resync) else { return Ok(()) };
    send.write_all(&Message::Up.encode()).await?;
    if peer.wanted(&name) != Some(volume) {
        return Err(Broken::closed("the volume is not wanted any more"));
    }
    let control = Joined { connection, send, receive: messages.into_stream() };
    drop(Links::establish(&shared, &peer, volume, Established { session, control, data, resync }));
    Ok(())
}

/// Takes a ticket back.
struct Expected<'a> {
    peer: &'a Peer,
    ticket: Ticket,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.peer.expected.borrow_mut().remove(&self.ticket);
    }
}

/// The caller's side of a volume's links: makes one after the other for as long as both nodes want it.
struct Keeper {
    shared: Rc<Shared>,
    peer: Rc<Peer>,
    control: quinn::Connection,
    volume: VolumeKey,
    name: String,
    numbers: Rc<Cell<LinkNumber>>,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            backoff.wait().await;
            let made = timeout(HANDSHAKE_TIMEOUT, self.make()).await;
            match made.unwrap_or_else(|_| Err(Broken::silent("it took too long"))) {
                Ok(established) => {
                    let began = Instant::now();
                    let ended = Links::establish(&self.shared, &self.peer, self.volume, established);
                    // It is never sent to, only dropped.
                    let _ = ended.await;
                    backoff.ended_after(began.elapsed());
                }
                Err(broken) => {
                    debug!("a link to {} for {} came to nothing: {}", self.peer.name, self.name, broken.text);
                }
            }
        }
    }

    async fn make(&self) -> Result<Established, Broken> {
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        let (mut send, receive) = self.control.open_bi().await?;
        send.write_all(&Message::Link { number, volume: self.name.clone() }.encode()).await?;
        let mut messages = Messages::new(receive);
        expect(&mut messages, &Message::Expecting).await?;
        let (session, ticket) = derive(&self.control, number, &self.name)?;
        let (data, resync) = tokio::try_join!(
            call::join(&self.shared, &self.peer, Channel::Data, ticket),
            call::join(&self.shared, &self.peer, Channel::Resync, ticket),
        )?;
        expect(&mut messages, &Message::Up).await?;
        let control = Joined { connection: self.control.clone(), send, receive: messages.into_stream() };
        Ok(Established { session, control, data, resync })
    }
}

async fn expect(messages: &mut Messages, expected: &Message) -> Result<(), Broken> {
    let message = messages.next().await?;
    if message == *expected {
        return Ok(());
    }
    Err(Broken::protocol(format!("{message:?} instead of {expected:?}")))
}
