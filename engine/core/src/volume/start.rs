//! The start of what a handshake agreed: what has to be stable on either side before the first write or block goes
//! from the leader to the follower (G2, G5, R1).
//!
//! ```text
//!   leader                                            follower
//!     own data stable
//!     window, attach counter shown: stable
//!     Mark, Begin ─────────────────────────────────>
//!                                                       own data stable
//!                                                       bits stable
//!                                                       Inconsistent, toward, attach counter shown: stable
//!     <───────────────────────────────────────────── Mark, Ready
//!     Start (data), Runs (resync) ─────────────────>
//! ```

use super::{
    Role,
    disk_failure::Failure,
    follow,
    io::{Channel, DiskError, LinkId},
    lead,
    operation::Purpose,
    peer::Session,
    pull::Pulling,
    store::Then,
    volume::{Broken, Volume},
    wire::Frame,
};
use crate::{
    generation::verdict::{Extent, Verdict},
    ids::PeerIndex,
};

impl Volume {
    /// The leader makes its own data stable: from the moment at which the peer's copy may be overwritten this one
    /// is the only one that has what was acknowledged while both had it (found by the simulator).
    pub(crate) fn prepare_to_lead(&mut self, peer: PeerIndex) {
        let link = self.peer(peer).link.expect("a handshake has a link");
        self.flush_followed(Purpose::LeadFlush { peer, link });
    }

    /// The leader makes stable what the peer may have from now on, then begins.
    pub(crate) fn on_lead_flush_done(
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
        let Session::Starting(starting) = &self.peer(peer).session else { return };
        if !starting.leader || starting.begun {
            return;
        }
        let verdict = starting.verdict;
        let key = starting.comparing.theirs.as_ref().and_then(|(_, view)| view.history.key());
        let their_power = starting.comparing.theirs.as_ref().map(|(_, view)| view.power);
        if let (Verdict::NoSync, Some(power)) = (verdict, their_power) {
            // What either of the two kept is on both (G8).
            self.store_mut().share_evidence(power);
        }
        if self.role == Role::Secondary {
            // A power loss costs this copy nothing from here on: it may not be outdone by one that it outdid (G8).
            self.store_mut().set_settled();
        }
        if !matches!(verdict, Verdict::FreshPair { .. }) {
            self.store_mut().begin_supply(peer, key);
        }
        self.raise_counter();
        self.store_mut().show_counter(peer);
        self.store_mut().after_commit(Then::LeaderReady { peer, link });
    }

    pub(crate) fn on_leader_ready(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let clean = self.store().dirty_blocks(peer) == 0;
        let Session::Starting(starting) = &mut self.peer_mut(peer).session else { return };
        if !starting.leader || starting.begun {
            return;
        }
        if !starting.copy && !clean {
            // A write came since the report: there is something to copy after all.
            self.report_again(peer);
            return;
        }
        self.send_begin(peer);
    }

    pub(crate) fn send_begin(&mut self, peer: PeerIndex) {
        let Session::Starting(starting) = &mut self.peer_mut(peer).session else {
            panic!("only what was agreed begins")
        };
        starting.begun = true;
        let own = starting.comparing.own_number;
        let theirs = starting.comparing.theirs.as_ref().expect("it was concluded from").0;
        self.send_mark(peer);
        self.send(peer, Channel::Control, Frame::Begin { own, theirs });
    }

    /// Whether a leader has begun a session in which nothing may become dirty until the follower is ready.
    pub(crate) fn is_holding_writes(&self) -> bool {
        self.peers.iter().any(|peer| {
            matches!(&peer.session, Session::Starting(starting)
                if starting.leader && starting.begun && !starting.copy)
        })
    }

    /// The leader begins: make stable what has to be, in order, then say so.
    pub(crate) fn on_begin(&mut self, peer: PeerIndex, own: u32, theirs: u32) -> Result<(), Broken> {
        let link = self.peer(peer).link.expect("a frame came on it");
        let starting = match &mut self.peer_mut(peer).session {
            Session::Starting(starting) => starting,
            // Something has changed since, and a newer report says so: the leader will conclude again.
            Session::Comparing(comparing) if comparing.own_number > theirs => return Ok(()),
            Session::Apart(apart) if apart.comparing.own_number > theirs => return Ok(()),
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Leading(_)
            | Session::Following(_)
            | Session::Apart(_) => return Err(Broken("a begin that was not agreed")),
        };
        if starting.comparing.own_number > theirs {
            return Ok(());
        }
        let current = starting.comparing.theirs.as_ref().map(|(number, _)| *number);
        if starting.leader
            || starting.begun
            || starting.comparing.own_number != theirs
            || current != Some(own)
        {
            return Err(Broken("a begin after something has changed"));
        }
        starting.begun = true;
        if starting.fellows {
            self.follow_fellow(peer);
            // The leader knows no more than the report: a good copy.
            self.send_mark(peer);
            self.send(peer, Channel::Control, Frame::Ready);
            return Ok(());
        }
        self.flush_followed(Purpose::StartFlush { peer, link });
        Ok(())
    }

    /// What this node had applied before is stable: mark what may differ, then that it is a target.
    pub(crate) fn on_start_flush_done(
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
        let Session::Starting(starting) = &self.peer(peer).session else { return };
        if starting.leader || !starting.begun {
            return;
        }
        let full = matches!(starting.verdict, Verdict::Resync { extent: Extent::Full(_), .. });
        if full && starting.copy {
            self.store_mut().mark_all_dirty(peer, crate::ids::Sequence::ZERO);
        }
        self.store_mut().after_bitmaps(Then::FollowerMarked { peer, link });
    }

    /// The bits are stable: now the flag, and the generation toward which the copy goes.
    pub(crate) fn on_follower_marked(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Session::Starting(starting) = &self.peer(peer).session else { return };
        if starting.leader || !starting.begun {
            return;
        }
        let copy = starting.copy;
        let (_, theirs) = starting.comparing.theirs.as_ref().expect("it was concluded from");
        // Of a fresh pair the proposer has made its head only now; it comes with `Counted`.
        if let Some(source) = theirs.history.head() {
            self.store_mut().begin_follow(peer, source.id, copy);
            if copy {
                self.take_identity_of(peer);
            }
        }
        self.raise_counter();
        self.store_mut().show_counter(peer);
        if copy {
            self.set_disk(super::DiskState::Inconsistent);
        }
        self.store_mut().after_commit(Then::FollowerReady { peer, link });
    }

    pub(crate) fn on_follower_ready(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Session::Starting(starting) = &self.peer(peer).session else { return };
        if starting.leader || !starting.begun {
            return;
        }
        let copy = starting.copy;
        let progress = starting.progress(self.store().dirty_bytes(peer), self.now);
        let pulling = Pulling::new(copy, self.reads_media);
        self.peer_mut(peer).resolve = None;
        self.begin_following(peer, follow::Phase::Pulling(pulling), progress);
        self.send_mark(peer);
        self.send(peer, Channel::Control, Frame::Ready);
    }

    /// The follower is ready: from now on it gets every write, and pulls what differs.
    pub(crate) fn on_ready(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let progress = match &self.peer(peer).session {
            Session::Starting(starting) if starting.leader && starting.begun => {
                starting.progress(self.store().dirty_bytes(peer), self.now)
            }
            Session::Down
            | Session::Greeting
            | Session::Comparing(_)
            | Session::Starting(_)
            | Session::Leading(_)
            | Session::Following(_)
            | Session::Apart(_) => return Err(Broken("ready for nothing")),
        };
        if matches!(&self.peer(peer).session, Session::Starting(starting) if starting.fellows) {
            self.begin_leading(peer, lead::Phase::InSync, None);
            return Ok(());
        }
        if self.is_fresh_pair(peer) && !self.propose(peer) {
            self.close_link(peer, "this node takes its first generation from another");
            return Ok(());
        }
        self.peer_mut(peer).resolve = None;
        self.begin_leading(peer, lead::Phase::Supplying, progress);
        self.send_runs(peer);
        Ok(())
    }
}
