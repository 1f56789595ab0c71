//! The peer that serves for a primary whose disk failed, and keeps the only copy: the *host* (W7).
//!
//! ```text
//!   No ──Host──> Asked ──all applied──> Flushing ──> Recording ──Adopted sent──> Serving
//! ```
//!
//! A host is a follower in sync whose leader has no copy. What follows from that:
//! - it takes the generation that the primary made, and with it the right to be promoted (P2), before the first
//!   answer under it; its data are stable before that (G1);
//! - each write that it applies marks the primary's blocks, and lies in the activity log first, as if it were written
//!   here by a primary alone (D7, D8): so it gets a sequence of the own write log beside the primary's. A crash of the
//!   host costs the failed disk no block;
//! - when the primary is gone it stays UpToDate: everything that was answered is here, nobody else went on.

use super::{
    DiskState, Role,
    disk_failure::Failure,
    follow,
    io::{Action, Channel, DiskError, LinkId},
    operation::{Kind, Purpose},
    peer::Session,
    slab::Key,
    store::Then,
    volume::{Broken, Volume},
    wire::Frame,
    write_log::{Place, Places},
};
use crate::{
    generation::verdict::{Side, Verdict, Which},
    ids::{Generation, GenerationId, PeerIndex, Sequence},
};

/// How far a follower is on its way to being the host; see the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosting {
    No,
    Asked { generation: Generation, after: Sequence },
    Flushing { generation: Generation },
    Recording { generation: Generation },
    Serving,
}

impl Volume {
    /// The primary's disk failed: take its generation, and keep for it what it lacks from now on.
    pub(crate) fn on_host(
        &mut self,
        peer: PeerIndex,
        generation: Generation,
        parent: GenerationId,
        after: Sequence,
    ) -> Result<(), Broken> {
        let head = self.store().head().map(|head| head.id);
        let good = self.store().flags().consistent && self.disk != DiskState::Failed;
        if self.role == Role::Primary || !good || (head != Some(parent) && head != Some(generation.id)) {
            return Err(Broken("a primary without a disk cannot be served from this copy"));
        }
        if self.store().term().is_some_and(|seen| seen > generation.term) {
            return Err(Broken("a generation of a term that has passed"));
        }
        match self.session(peer) {
            Session::Following(following) if following.in_sync() && following.hosting == Hosting::No => {}
            Session::Apart(apart) if apart.verdict == Verdict::NoCopy(Which::One(Side::Theirs)) => {
                self.begin_following(peer, follow::Phase::InSync, None);
            }
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Following(_)
            | Session::Apart(_) => return Err(Broken("served by a node that is not in sync")),
        }
        self.cancel_promotion("the peer is primary");
        self.following_mut(peer)?.hosting = Hosting::Asked { generation, after };
        self.advance_hosting(peer);
        Ok(())
    }

    /// Everything that the primary had sent is applied: make it stable.
    pub(crate) fn advance_hosting(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let Ok(following) = self.following_mut(peer) else { return };
        let Hosting::Asked { generation, after } = following.hosting else { return };
        // On a new link nothing was sent yet: what was not acknowledged on the old one comes again.
        if following.received().is_some() && following.applied < after {
            return;
        }
        following.hosting = Hosting::Flushing { generation };
        let tag = self.tag(Purpose::HostFlush { peer, link });
        self.out.push(Action::Flush { tag });
    }

    pub(crate) fn on_host_flush_done(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        result: Result<(), DiskError>,
    ) {
        if let Err(error) = result {
            self.fail_disk(Failure::Flush(error));
            return;
        }
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Ok(following) = self.following_mut(peer) else { return };
        let Hosting::Flushing { generation } = following.hosting else { return };
        following.hosting = Hosting::Recording { generation };
        self.store_mut().become_host(peer, generation);
        self.store_mut().set_up_to_date(false);
        self.store_mut().after_commit(Then::HostReady { peer, link });
    }

    /// The generation is stable here: the primary may answer.
    pub(crate) fn on_host_ready(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Ok(following) = self.following_mut(peer) else { return };
        let Hosting::Recording { generation } = following.hosting else { return };
        following.hosting = Hosting::Serving;
        self.set_disk(DiskState::UpToDate);
        // One that is met again was UpToDate all the time, and has not said so on this link: the primary would show it as
        // Consistent for good (found by the simulator).
        self.send_mark(peer);
        self.send(peer, Channel::Control, Frame::Adopted(generation.id));
    }

    /// Whether this node serves for a primary.
    pub(crate) fn is_host(&self) -> bool {
        self.peers
            .iter()
            .any(|peer| matches!(&peer.session, Session::Following(following) if following.is_host()))
    }

    /// A write of the primary that the host is to apply holds its place in the order: its extents first (D7).
    pub(crate) fn begin_hosted_write(&mut self, key: Key) {
        let span = self.operations.get_mut(key).expect("an operation in the lock exists").span;
        if self.store_mut().hold(span, key) {
            self.issue_or_park(key);
        }
    }

    /// Its extents are hot and the own log has room: mark what the peers lack, and write.
    pub(crate) fn issue_hosted(&mut self, key: Key) {
        let operation = self.operations.get_mut(key).expect("an operation in the lock exists");
        let span = operation.span;
        let own = self.log.issue(span, Places::NONE, false, key);
        let Kind::Replica { hosted: Some(given), content, fua, .. } = &mut operation.kind else {
            panic!("only what a host applies is issued so")
        };
        *given = own;
        let (content, fua) = (content.clone(), *fua);
        self.store_mut().assigned(span, own);
        for peer in self.peer_indices() {
            self.store_mut().mark_dirty(peer, span, own);
        }
        self.write_own(key, span, content, fua);
    }

    /// A hosted write is on the own disk.
    pub(crate) fn on_hosted_applied(&mut self, own: Sequence) {
        self.log
            .applied(Place::Own, own, &mut self.answerable)
            .expect("the own disk acknowledges what was issued");
    }
}
