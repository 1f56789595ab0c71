//! The side of a link whose writes go to the other: sending them, and taking their acknowledgements.
//!
//! ```text
//!              peer sends Finish, no bits left       Finished
//!   Supplying ─────────────────────────> Counting ───────────> InSync
//!   (its acknowledgements do not count)  (every write after `Counted` waits for it)
//! ```
//!
//! A peer that had nothing to copy goes through the same three states (R6).

use super::{
    DiskState,
    config::Protocol,
    io::{Channel, Notice},
    operation::Content,
    peer::{Peer, Session},
    progress::Progress,
    span::ByteSpan,
    verify::CheckId,
    volume::{Broken, Volume},
    wire::Frame,
    write_log::{Impossible, Place},
};
use crate::ids::{PeerIndex, Sequence};

/// The state of a link that we lead.
#[derive(Clone, Debug)]
pub(crate) struct Leading {
    pub(crate) phase: Phase,
    /// Up to where the peer was asked to flush.
    pub(crate) flush_asked: Sequence,
    /// How far the resync is, if blocks are copied.
    pub(crate) progress: Option<Progress>,
    /// Questions of the peer's resync that wait for their answer.
    pub(crate) pulls: usize,
    /// Comparisons that the peer was asked for by a verify that has ended: their answers are still to come.
    pub(crate) given_up: Vec<CheckId>,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The peer pulls.
    Supplying,
    /// Bits are gone; the window for it is on its way to stable media, then `Counted` is sent.
    Announcing,
    /// The peer counts for every new write, and takes the head.
    Counting,
    /// In sync.
    InSync,
}

impl Leading {
    pub(crate) fn new(phase: Phase, from: Sequence, progress: Option<Progress>) -> Self {
        Self { phase, flush_asked: from, progress, pulls: 0, given_up: Vec::new() }
    }

    /// Whether answers wait for the peer.
    pub(crate) fn counted(&self) -> bool {
        matches!(self.phase, Phase::Counting | Phase::InSync)
    }

    pub(crate) fn in_sync(&self) -> bool {
        self.phase == Phase::InSync
    }
}

impl Peer {
    /// Whether a flush up to here has still to be asked for; takes note of it.
    pub(crate) fn wants_flush_to(&mut self, upto: Sequence) -> bool {
        match &mut self.session {
            Session::Leading(leading) if leading.flush_asked < upto => {
                leading.flush_asked = upto;
                true
            }
            Session::Leading(_)
            | Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Following(_)
            | Session::Apart(_) => false,
        }
    }
}

impl Volume {
    /// From now on the peer gets our writes: it joins the log at once, so that no write falls between.
    pub(crate) fn begin_leading(&mut self, peer: PeerIndex, phase: Phase, progress: Option<Progress>) {
        let from = self.log.issued();
        let link = self.peer(peer).link.expect("a session has a link");
        self.log.join(Place::Peer(peer));
        if phase == Phase::Supplying {
            // Every read of this resync comes after whatever has set a bit, in whose numbering ever: this node may have
            // been the target of another leader when it did.
            self.store_mut().begin_session_of_leader(peer, link);
        } else {
            self.store_mut().begin_session(peer, link);
        }
        self.peer_mut(peer).session = Session::Leading(Box::new(Leading::new(phase, from, progress)));
        self.ask_reads_again(peer);
        self.send(peer, Channel::Data, Frame::Start(from));
        let replication = self.peer(peer).replication();
        self.notice(Notice::Peer(peer, replication));
    }

    pub(crate) fn leading_mut(&mut self, peer: PeerIndex) -> Result<&mut Leading, Broken> {
        match &mut self.peer_mut(peer).session {
            Session::Leading(leading) => Ok(leading),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Following(_)
            | Session::Apart(_) => Err(Broken("an acknowledgement from a peer that does not follow us")),
        }
    }

    /// Sends a write to a peer that follows.
    pub(crate) fn send_write(
        &mut self,
        peer: PeerIndex,
        sequence: Sequence,
        span: ByteSpan,
        content: &Content,
        fua: bool,
    ) {
        let after = match self.config.protocol {
            Protocol::A => self.flushes.replied,
            Protocol::B | Protocol::C => Sequence::ZERO,
        };
        let frame = match content {
            Content::Data(payload) => {
                Frame::Write { sequence, after, offset: span.offset, payload: payload.clone(), fua }
            }
            Content::Zero(mode) => Frame::Zero { sequence, after, span, mode: *mode, fua },
        };
        self.send(peer, Channel::Data, frame);
    }

    pub(crate) fn on_received(&mut self, peer: PeerIndex, upto: Sequence) -> Result<(), Broken> {
        self.leading_mut(peer)?;
        self.log.received(Place::Peer(peer), upto, &mut self.answerable).map_err(Broken::from)
    }

    pub(crate) fn on_applied(
        &mut self,
        peer: PeerIndex,
        upto: Sequence,
        also: &[Sequence],
    ) -> Result<(), Broken> {
        self.leading_mut(peer)?;
        let place = Place::Peer(peer);
        let mut next = self.log.applied_to(place).next();
        while next <= upto {
            self.log.applied(place, next, &mut self.answerable)?;
            next = next.next();
        }
        for &sequence in also {
            self.log.applied(place, sequence, &mut self.answerable)?;
        }
        Ok(())
    }

    pub(crate) fn on_stable_to(&mut self, peer: PeerIndex, upto: Sequence) -> Result<(), Broken> {
        self.leading_mut(peer)?;
        self.log.stable(Place::Peer(peer), upto)?;
        self.on_log_shrunk();
        Ok(())
    }

    /// The peer's disk failed: it cannot follow any more.
    pub(crate) fn on_peer_failed(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        if let Some(told) = &mut self.peer_mut(peer).told {
            told.disk = DiskState::Failed;
        }
        Err(Broken("the peer's disk failed"))
    }

    /// Takes a peer out of the log: what it did not report as stable becomes dirty (W6).
    pub(crate) fn end_leading(&mut self, peer: PeerIndex) {
        let mut lacking = Vec::new();
        self.log.leave(Place::Peer(peer), |span| lacking.push(span), &mut self.answerable);
        let at = self.log.issued();
        for span in lacking {
            self.store_mut().mark_dirty(peer, span, at);
        }
        self.store_mut().end_session(peer);
        self.on_log_shrunk();
    }
}

impl From<Impossible> for Broken {
    fn from(Impossible: Impossible) -> Self {
        Self("an acknowledgement of something that was not sent")
    }
}
