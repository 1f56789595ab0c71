//! The links that are up.
//!
//! ```text
//!              establish                    a channel breaks, end, end_all
//!   (attempt) ───────────> in `Links`, Up ─────────────────────────────────> Down, out of `Links`
//!                                │ close (asked for by the node)
//!                                └──> Down, out of `Links`; what was queued goes out, then it is closed
//! ```
//!
//! Invariants: for a peer and a volume there is at most one link; each gets one `Up` and one `Down`; after `Down`
//! none of its frames is delivered.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use evenkeel_core::volume::{
    codec::{PayloadChecksum, SessionNumber},
    io::{Channel, LinkId},
    wire::Frame,
};
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, oneshot};

use super::{
    channel::{self, Outgoing},
    closing::{self, Broken},
    event::{LinkEvent, PeerKey, VolumeKey},
    peer::Peer,
    shared::Shared,
    task::{self, Task},
};

/// What was queued when a link is closed has this long to go out and be acknowledged.
const FAREWELL: Duration = Duration::from_millis(500);

/// A stream in both directions, and the connection that it is on.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) connection: quinn::Connection,
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

/// All that a link consists of.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) session: SessionNumber,
    pub(super) control: Joined,
    pub(super) data: Joined,
    pub(super) resync: Joined,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Links {
    live: RefCell<BTreeMap<LinkId, Live>>,
    last: Cell<u64>,
    /// Counts the frames that were sent on data channels: somebody waits for an answer.
    pub(super) sent: Cell<u64>,
}

/// A link that is up.
#[derive(Debug)]
struct Live {
    peer: PeerKey,
    /// The peer's, for frames of the control channel.
    talked: Rc<Notify>,
    volume: VolumeKey,
    /// By channel.
    outgoing: [Rc<Outgoing>; 3],
    /// Those that are its own: data and resync.
    connections: [quinn::Connection; 2],
    readers: Vec<Task>,
    writers: Vec<Task>,
    /// Dropped when it ends.
    _ended: oneshot::Sender<()>,
}

fn index(channel: Channel) -> usize {
    match channel {
        Channel::Control => 0,
        Channel::Data => 1,
        Channel::Resync => 2,
    }
}

impl Links {
    /// Queues a frame; returns how many bytes are queued, or nothing if the link is gone.
    pub(super) fn send(
        &self,
        link: LinkId,
        channel: Channel,
        frame: &Frame,
        checksum: Option<PayloadChecksum>,
    ) -> Option<usize> {
        let live = self.live.borrow();
        let live = live.get(&link)?;
        match channel {
            Channel::Data => self.sent.set(self.sent.get().wrapping_add(1)),
            Channel::Control => live.talked.notify_one(),
            Channel::Resync => {}
        }
        Some(live.outgoing[index(channel)].push(frame, checksum))
    }

    /// Bytes that are queued.
    pub(super) fn queued_bytes(&self, link: LinkId, channel: Channel) -> usize {
        self.live.borrow().get(&link).map_or(0, |live| live.outgoing[index(channel)].queued_bytes())
    }

    /// Brings a link up; an earlier one of the same two ends. What is returned is closed when it ends.
    pub(super) fn establish(
        shared: &Rc<Shared>,
        peer: &Rc<Peer>,
        volume: VolumeKey,
        established: Established,
    ) -> oneshot::Receiver<()> {
        Self::end_all(shared, peer.key, Some(volume), &Broken::replaced("a newer link took its place"));
        let links = &shared.links;
        links.last.set(links.last.get() + 1);
        let link = LinkId(links.last.get());
        let (sender, ended) = oneshot::channel();
        let Established { session, control, data, resync } = established;
        let outgoing = [(); 3].map(|()| Rc::new(Outgoing::new(session)));
        let mut live = Live {
            peer: peer.key,
            talked: Rc::clone(&peer.talked),
            volume,
            outgoing: outgoing.clone(),
            connections: [data.connection, resync.connection],
            readers: Vec::new(),
            writers: Vec::new(),
            _ended: sender,
        };
        let carrier = live.connections[0].clone();
        shared.inbox.push(LinkEvent::Up { peer: peer.key, volume, link });
        for (channel, send, receive) in [
            (Channel::Control, control.send, control.receive),
            (Channel::Data, data.send, data.receive),
            (Channel::Resync, resync.send, resync.receive),
        ] {
            let queue = outgoing[index(channel)].clone();
            let of_writer = shared.clone();
            live.writers.push(task::spawn(async move {
                if let Err(broken) = queue.write_to(send).await {
                    Self::end(&of_writer, link, &broken);
                }
            }));
            let (of_reader, peer, carrier) = (shared.clone(), peer.clone(), carrier.clone());
            live.readers.push(task::spawn(async move {
                let read = read(&of_reader, &peer, volume, link, (channel, receive), session).await;
                let broken = match read {
                    Err(broken) => broken,
                    // The streams end first; the connection that is closed then carries the reason.
                    Ok(()) => match tokio::time::timeout(FAREWELL, carrier.closed()).await {
                        Ok(error) => error.into(),
                        Err(_) => Broken::by_peer("it ended the link"),
                    },
                };
                peer.note_volume_problem(&of_reader, volume, &broken);
                Self::end(&of_reader, link, &broken);
            }));
        }
        links.live.borrow_mut().insert(link, live);
        ended
    }

    /// Ends a link at once, if it is still there.
    pub(super) fn end(shared: &Shared, link: LinkId, broken: &Broken) {
        // The tasks are dropped with it, perhaps the one that this is called from: they stop when they next wait.
        let Some(live) = shared.links.take(shared, link, broken) else { return };
        live.connections.iter().for_each(|connection| closing::close(connection, broken.code, &broken.text));
    }

    /// Ends a link after what was queued has gone out.
    pub(super) fn close(shared: &Shared, link: LinkId, reason: &str) -> Option<Task> {
        let broken = Broken::closed(reason);
        let mut live = shared.links.take(shared, link, &broken)?;
        live.readers.clear();
        live.outgoing.iter().for_each(|outgoing| outgoing.close());
        Some(task::spawn(async move {
            let all = async {
                for writer in &mut live.writers {
                    writer.ended().await;
                }
            };
            // A peer that does not take it in this time has it from the code with which it is closed.
            let _ = tokio::time::timeout(FAREWELL, all).await;
            live.connections
                .iter()
                .for_each(|connection| closing::close(connection, broken.code, &broken.text));
        }))
    }

    /// Ends all links with a peer, or that of one volume.
    pub(super) fn end_all(shared: &Shared, peer: PeerKey, volume: Option<VolumeKey>, broken: &Broken) {
        shared.links.of(peer, volume).into_iter().for_each(|link| Self::end(shared, link, broken));
    }

    /// Closes all links with a peer, or that of one volume.
    pub(super) fn close_all(
        shared: &Shared,
        peer: PeerKey,
        volume: Option<VolumeKey>,
        reason: &str,
    ) -> Vec<Task> {
        shared
            .links
            .of(peer, volume)
            .into_iter()
            .filter_map(|link| Self::close(shared, link, reason))
            .collect()
    }

    fn of(&self, peer: PeerKey, volume: Option<VolumeKey>) -> Vec<LinkId> {
        let live = self.live.borrow();
        let mine = live
            .iter()
            .filter(|(_, live)| live.peer == peer && volume.is_none_or(|volume| live.volume == volume));
        mine.map(|(link, _)| *link).collect()
    }

    fn take(&self, shared: &Shared, link: LinkId, broken: &Broken) -> Option<Live> {
        let live = self.live.borrow_mut().remove(&link)?;
        let (peer, volume) = (live.peer, live.volume);
        shared.inbox.push(LinkEvent::Down { peer, volume, link, reason: broken.ending() });
        Some(live)
    }
}

/// Reads a channel until it ends.
async fn read(
    shared: &Shared,
    peer: &Peer,
    volume: VolumeKey,
    link: LinkId,
    (channel, stream): (Channel, RecvStream),
    session: SessionNumber,
) -> Result<(), Broken> {
    let mut greeted = channel != Channel::Control;
    channel::read_from(stream, session, &shared.buffers, &shared.inbox, |frame| {
        if !greeted {
            // A hello that can be read mends what an unreadable one was.
            greeted = true;
            peer.set_volume_problem(shared, volume, None);
        }
        shared.inbox.push(LinkEvent::Frame { peer: peer.key, volume, link, channel, frame });
    })
    .await
}
