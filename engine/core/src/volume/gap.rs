//! A primary that was away for a while: its process stood still, or its machine slept (P8). Somebody may have taken
//! its place meanwhile, so nothing is answered, and nothing new begun, before each peer that followed has spoken.
//!
//! ```text
//!   gap seen ──> answers withheld ──every such peer has confirmed, or its time is over──> answers go on
//!                     │ a peer's link turns out to be dead: it gets `peer_timeout` to come back and say its term
//!                     └ a higher term is met: deposed (G10)
//! ```
//!
//! A gap has to be shorter than the half second after which a silent peer may be replaced by force (P3), and an idle
//! node must not look as if it had stood still: so a primary that peers follow has a tick.
//!
//! A link that is found dead right after a gap is no evidence that the peer is: it may have given up this node, and
//! have become primary by force. So the peer is not counted as lost, and no generation made without it, before its
//! full time has passed again (found with a stopped process: it answered writes beside the new primary, and parted
//! the histories).

use std::time::Duration;

use super::{
    Role,
    io::{Action, Channel, ClientId, RequestError, RequestId, RequestOutcome},
    volume::{Stage, Volume},
    wire::Frame,
};
use crate::ids::{PeerIndex, Timestamp};

/// A primary that peers follow is woken at least this often, so that nothing but standing still makes a gap.
const TICK: Duration = Duration::from_millis(450);
/// A primary that did nothing for longer than this was away. A peer may be forced when this node has not answered it
/// for half a second (P3); a stop of so long is noticed wherever it falls.
const GAP: Duration = Duration::from_millis(490);
/// Whoever did nothing for longer than this, although it is woken once a second for its pings, gives its peers their
/// full time again. Not after each short gap: a node too busy to be woken in time would never find a dead peer.
const LONG_GAP: Duration = Duration::from_millis(1500);

/// What was read and may not be told yet.
#[derive(Clone, Debug)]
pub(crate) struct WithheldRead {
    client: ClientId,
    id: RequestId,
    outcome: RequestOutcome,
}

impl Volume {
    /// Notices that this node was away, and gives its peers their full time again.
    pub(crate) fn note_gap(&mut self, now: Timestamp) {
        let gap = now.since(self.now);
        if gap <= GAP || !matches!(self.stage, Stage::Running) {
            return;
        }
        for peer in self.peer_indices() {
            let state = self.peer_mut(peer);
            if gap > LONG_GAP {
                state.heard_at = now;
                state.owing_since = None;
            }
            let Some(link) = state.link else { continue };
            if self.is_led_from_here(peer) {
                self.confirming.retain(|&(other, _)| other != peer);
                self.confirming.push((peer, now));
                let frame = Frame::Ping(now);
                self.out.push(Action::Send { peer, link, channel: Channel::Control, frame });
            }
        }
    }

    fn is_led_from_here(&self, peer: PeerIndex) -> bool {
        self.role == Role::Primary && self.peer(peer).receives()
    }

    /// When a primary that peers follow is to be woken at the latest, so that it can tell a gap from idleness.
    pub(crate) fn next_tick(&self) -> Option<Timestamp> {
        let followed = self.peer_indices().any(|peer| self.is_led_from_here(peer));
        followed.then(|| self.now.after(TICK))
    }

    /// A peer answers a ping; one that still follows and was asked after the gap has no other primary.
    pub(crate) fn on_pong(&mut self, peer: PeerIndex, time: Timestamp) {
        if self.peer(peer).receives() {
            self.confirming.retain(|&(other, since)| other != peer || time < since);
            self.end_confirmed();
        }
    }

    /// A peer has come back and said which terms it has seen; had one been higher, this node would be deposed.
    pub(crate) fn on_term_told(&mut self, peer: PeerIndex) {
        self.confirming.retain(|&(other, _)| other != peer);
        self.end_confirmed();
    }

    /// A peer is gone. Within its time it may come back; then its report confirms.
    pub(crate) fn on_confirmation_peer_gone(&mut self, peer: PeerIndex) {
        let (now, timeout) = (self.now, self.config.peer_timeout);
        self.confirming.retain(|&(other, since)| other != peer || now < since.after(timeout));
        self.end_confirmed();
    }

    /// Peers that have not come back within their time are lost.
    pub(crate) fn expire_confirmations(&mut self) {
        let (now, timeout) = (self.now, self.config.peer_timeout);
        let peers = &self.peers;
        self.confirming
            .retain(|&(peer, since)| peers[peer.as_usize()].link.is_some() || now < since.after(timeout));
        self.end_confirmed();
    }

    /// When the next of them is over. One with a link has the time that its silence there has: to be woken for it would
    /// change nothing, and be asked for again (found by the simulator: a node that did nothing but wake).
    pub(crate) fn confirmations_end(&self) -> Option<Timestamp> {
        let absent = |peer: PeerIndex| self.peer(peer).link.is_none();
        let times = self.confirming.iter().filter(|(peer, _)| absent(*peer));
        times.map(|(_, since)| since.after(self.config.peer_timeout)).min()
    }

    /// The role ends, or cannot be kept: nobody is asked any more.
    pub(crate) fn cancel_confirmations(&mut self) {
        self.confirming.clear();
        self.end_confirmed();
    }

    fn end_confirmed(&mut self) {
        if !self.confirming.is_empty() {
            return;
        }
        let serves = self.serves();
        for WithheldRead { client, id, outcome } in std::mem::take(&mut self.withheld_reads) {
            self.reply(client, id, if serves { Ok(outcome) } else { Err(RequestError::Shutdown) });
        }
        self.flush_for_generation();
        if !self.withholds_answers() {
            self.release_withheld();
        }
    }

    /// Answers a read, or keeps the answer until it is known that this is still the primary: the data may be old.
    pub(crate) fn reply_read(
        &mut self,
        client: ClientId,
        id: RequestId,
        result: Result<RequestOutcome, RequestError>,
    ) {
        match result {
            Ok(outcome) if !self.confirming.is_empty() => {
                self.withheld_reads.push(WithheldRead { client, id, outcome });
            }
            Ok(_) | Err(_) => self.reply(client, id, result),
        }
    }
}
