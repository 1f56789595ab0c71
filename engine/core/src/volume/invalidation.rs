//! A copy that an operator declares bad: this node's, or, ordered from here, that of a peer.
//!
//! It becomes Inconsistent, durably, and every block is marked; the links are made anew, and the next handshake has it
//! compared and copied whole. That must never take the last good copy: the node that gives its copy up has a peer in
//! sync, and the one that orders it is UpToDate itself.

use super::{
    DiskState, Role,
    io::{Channel, CommandId, LinkId},
    store::Then,
    volume::{Broken, Volume},
    wire::{Frame, InvalidateRefusal},
};
use crate::ids::PeerIndex;

impl Volume {
    pub(crate) fn invalidate(&mut self, id: CommandId) {
        if self.role == Role::Primary {
            self.answer(id, Err("this node is primary; its copy cannot be declared bad"));
            return;
        }
        if !self.peer_indices().any(|peer| self.has_copy(peer)) {
            let why =
                "no peer is in sync with this node: its copy may be the only good one; connect a peer first";
            self.answer(id, Err(why));
            return;
        }
        self.give_up_copy();
        self.store_mut().after_commit(Then::Answered(id));
        for peer in self.peer_indices() {
            self.close_link(peer, "the own copy was declared bad");
        }
    }

    pub(crate) fn invalidate_peer(&mut self, id: CommandId, peer: PeerIndex) {
        let refusal = if self.disk != DiskState::UpToDate {
            Some("the copy on this node is not UpToDate: that of the peer may be the only good one")
        } else if !self.has_copy(peer) {
            Some(
                "the peer is not in sync with this node: connect it first; a resync under way fills it anyway, and a \
                 split brain is ended by `resolve`",
            )
        } else if self.peer(peer).invalidating.is_some() {
            Some("the peer has been told already and has not answered")
        } else {
            None
        };
        if let Some(why) = refusal {
            self.answer(id, Err(why));
            return;
        }
        self.peer_mut(peer).invalidating = Some(id);
        self.send(peer, Channel::Control, Frame::Invalidate);
    }

    /// The operator has declared this copy bad at the sender, which has a good one.
    pub(crate) fn on_invalidate(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let refusal = if self.role == Role::Primary {
            InvalidateRefusal::IAmPrimary
        } else if !self.has_copy(peer) {
            InvalidateRefusal::NotInSync
        } else {
            let link = self.peer(peer).link.expect("a frame came on it");
            self.give_up_copy();
            self.store_mut().after_commit(Then::Invalidated { peer, link });
            return Ok(());
        };
        self.send(peer, Channel::Control, Frame::InvalidateAnswer(Some(refusal)));
        Ok(())
    }

    fn give_up_copy(&mut self) {
        self.cancel_promotion("the own copy was declared bad");
        self.store_mut().invalidate();
        self.set_disk(DiskState::Inconsistent);
    }

    /// That is stable: whoever ordered it is told, and the handshakes begin anew.
    pub(crate) fn on_invalidated(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link == Some(link) {
            self.send(peer, Channel::Control, Frame::InvalidateAnswer(None));
        }
        for other in self.peer_indices() {
            self.close_link(other, "the own copy was declared bad at a peer");
        }
    }

    pub(crate) fn on_invalidate_answer(
        &mut self,
        peer: PeerIndex,
        refusal: Option<InvalidateRefusal>,
    ) -> Result<(), Broken> {
        let Some(id) = self.peer_mut(peer).invalidating.take() else {
            return Err(Broken("an answer to an invalidate that was not asked for"));
        };
        let result = match refusal {
            None => Ok(()),
            Some(InvalidateRefusal::IAmPrimary) => {
                Err("the peer is primary; its copy cannot be declared bad before it is secondary")
            }
            Some(InvalidateRefusal::NotInSync) => {
                Err("the peer is not in sync with this node; `status` shows how the copies stand")
            }
        };
        self.answer(id, result);
        Ok(())
    }

    pub(crate) fn on_invalidate_peer_gone(&mut self, peer: PeerIndex) {
        if let Some(id) = self.peer_mut(peer).invalidating.take() {
            let why = "the connection was lost before the peer had answered; look at `status`, and try again";
            self.answer(id, Err(why));
        }
    }
}
