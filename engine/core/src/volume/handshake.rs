//! The handshake: who speaks, what each has, what both conclude, and the start of what was agreed (section 5).
//!
//! ```text
//!   leader                                   follower
//!     Hello ──────────────────────────────────> <── Hello
//!     Report 1 ───────────────────────────────> <── Report 1
//!     Agree(1,1,verdict) ─────────────────────> <── Agree(1,1,mirror)
//!     window stable
//!     Begin ─────────────────────────────────>
//!                                               flushed, bits stable, then Inconsistent stable
//!     <──────────────────────────────────────── Ready
//!     Start (data), Runs (resync) ───────────>
//! ```
//!
//! A report is a snapshot. When it stops being true before the end of the handshake, a new one with a higher
//! number replaces it and both conclude again; a `Begin` that names older reports than the follower's last is
//! refused, and the link starts anew. So both always act on the same two snapshots, which are still true.

use super::{
    DiskState, Role,
    config::Protocol,
    disk_failure::Failure,
    follow,
    io::{Action, Channel, DiskError, LinkId, Notice},
    lead,
    operation::Purpose,
    operator::Discard,
    peer::{Comparing, Session, Starting, Told},
    pull::Pulling,
    status::Suspended,
    store::Then,
    volume::{Broken, Volume},
    wire::{Frame, Hello, PROTOCOL_VERSION},
};
use crate::{
    generation::{
        course::{Course, course},
        decide::decide,
        record::Dirty,
        verdict::{Extent, Names, Side, Verdict, Which},
        view::{self, Copy, NodeView, Replies, Unsettled, Wish},
    },
    ids::{PeerIndex, Term},
};

impl Volume {
    pub(crate) fn send_hello(&mut self, peer: PeerIndex) {
        let store = self.store();
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            cluster: store.cluster(),
            volume: store.volume(),
            from: store.node(),
            to: store.peer_node(peer),
            size_bytes: store.size_bytes(),
        };
        self.send(peer, Channel::Control, Frame::Hello(hello));
    }

    pub(crate) fn on_hello(&mut self, peer: PeerIndex, hello: Hello) -> Result<(), Broken> {
        if !matches!(self.session(peer), Session::Greeting) {
            return Err(Broken("a second hello"));
        }
        if hello.version_max < PROTOCOL_VERSION || hello.version_min > PROTOCOL_VERSION {
            return Err(Broken("the peer speaks other versions of the protocol"));
        }
        let own = self.store().node();
        if hello.from == own || hello.from.0 == 0 {
            return Err(Broken("the peer has this node's own id: one of the disks is a copy"));
        }
        for other in self.peer_indices() {
            if other != peer && self.store().peer_node(other) == Some(hello.from) {
                return Err(Broken("the peer has the id of another peer: one of the disks is a copy"));
            }
        }
        // A node without ids gets them with its first generation, never from a mere greeting: three new nodes
        // would agree on different ones in pairs (found by the simulator).
        if differ(self.store().cluster(), hello.cluster) {
            return Err(Broken("the peer belongs to another cluster"));
        }
        if differ(self.store().volume(), hello.volume) {
            return Err(Broken("the peer has another volume"));
        }
        self.peer_mut(peer).identity = hello.cluster.zip(hello.volume);
        let own_view = self.view_for(peer);
        self.send(peer, Channel::Control, Frame::Report { number: 1, view: Box::new(own_view.clone()) });
        self.peer_mut(peer).session = Session::Comparing(Box::new(Comparing {
            peer_node: hello.from,
            own_number: 1,
            own_view,
            theirs: None,
            concluded: None,
            peer_concluded: None,
        }));
        Ok(())
    }

    /// What this node is, as one peer is to know it.
    fn view_for(&self, peer: PeerIndex) -> NodeView {
        let store = self.store();
        let flags = store.flags();
        let copy = match self.disk {
            DiskState::Diskless | DiskState::Failed => Copy::Diskless,
            DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent | DiskState::UpToDate => {
                if flags.fresh {
                    Copy::Fresh
                } else if flags.consistent {
                    Copy::Good
                } else {
                    Copy::Inconsistent
                }
            }
        };
        let role = match (self.role, self.suspended) {
            (Role::Primary, Some(Suspended::Deposed)) => view::Role::SuspendedPrimary,
            (Role::Primary, _) => view::Role::ServingPrimary,
            (Role::Secondary, _) if flags.crashed_primary => view::Role::CrashedPrimary,
            (Role::Secondary, _) => view::Role::Secondary,
        };
        let wish = match self.peer(peer).resolve {
            Some(Discard::Own) => Wish::Discard,
            Some(Discard::Peers) | None => Wish::Nothing,
        };
        NodeView {
            node: store.node(),
            size_bytes: store.size_bytes(),
            block_bytes: u32::try_from(store.block_bytes()).expect("a block is at most 1 MiB"),
            copy,
            history: store.history().clone(),
            role,
            power: self.power,
            replies: match self.config.protocol {
                Protocol::A => Replies::Ahead,
                Protocol::B | Protocol::C => Replies::Together,
            },
            // The activity log was replayed into bits at attach, and the loss of the last link put what was
            // not stable there into bits too.
            unsettled: Unsettled::Nothing,
            attach: store.attach_counter(),
            highest_term: store.term(),
            wish,
            record: store.record_for_view(peer),
            bond: self.bond_beside(peer),
        }
    }

    /// The last report is not true any more: send another.
    pub(crate) fn report_again(&mut self, peer: PeerIndex) {
        let mut comparing = match std::mem::replace(&mut self.peer_mut(peer).session, Session::Down) {
            Session::Comparing(comparing) => comparing,
            Session::Starting(starting) => Box::new(starting.comparing),
            Session::Apart(apart) => Box::new(apart.comparing),
            other @ (Session::Down | Session::Greeting | Session::Leading(_) | Session::Following(_)) => {
                self.peer_mut(peer).session = other;
                return;
            }
        };
        comparing.own_number += 1;
        comparing.own_view = self.view_for(peer);
        comparing.concluded = None;
        let frame =
            Frame::Report { number: comparing.own_number, view: Box::new(comparing.own_view.clone()) };
        self.peer_mut(peer).session = Session::Comparing(comparing);
        self.send(peer, Channel::Control, frame);
        self.conclude(peer);
    }

    /// The own role or copy changed: reports that are out say something else.
    pub(crate) fn report_everywhere_again(&mut self) {
        for peer in self.peer_indices() {
            self.report_again(peer);
        }
    }

    pub(crate) fn on_report(
        &mut self,
        peer: PeerIndex,
        number: u32,
        view: Box<NodeView>,
    ) -> Result<(), Broken> {
        let comparing = match std::mem::replace(&mut self.peer_mut(peer).session, Session::Down) {
            Session::Comparing(comparing) => comparing,
            Session::Starting(starting) => Box::new(starting.comparing),
            Session::Apart(apart) => Box::new(apart.comparing),
            other @ (Session::Down | Session::Greeting | Session::Leading(_) | Session::Following(_)) => {
                self.peer_mut(peer).session = other;
                return Err(Broken("a report outside the handshake"));
            }
        };
        if view.node != comparing.peer_node
            || comparing.theirs.as_ref().is_some_and(|(last, _)| number <= *last)
        {
            return Err(Broken("a report out of order"));
        }
        let term = view.highest_term;
        let attach = view.attach;
        let bound = self.store().peer_node(peer);
        if bound.is_some_and(|bound| bound != comparing.peer_node) && view.history.key().is_some() {
            return Err(Broken("the peer's disk belongs to another node, and it is not new"));
        }
        let peer_node = comparing.peer_node;
        let mut comparing = comparing;
        comparing.theirs = Some((number, *view));
        comparing.concluded = None;
        self.peer_mut(peer).session = Session::Comparing(comparing);
        if bound != Some(peer_node) {
            self.store_mut().bind_peer(peer, peer_node);
            if bound.is_some() {
                // What was reported about the old disk is not about this one.
                self.report_again(peer);
            }
        }
        self.store_mut().note_attach_counter(peer, attach);
        if let Some(term) = term {
            self.note_term(term);
        }
        self.conclude(peer);
        Ok(())
    }

    /// Concludes from the two newest reports and says so.
    fn conclude(&mut self, peer: PeerIndex) {
        let Session::Comparing(comparing) = &mut self.peer_mut(peer).session else { return };
        let Some((theirs, view)) = &comparing.theirs else { return };
        if comparing.concluded.is_some() {
            return;
        }
        let verdict = decide(&comparing.own_view, view);
        let (own, theirs) = (comparing.own_number, *theirs);
        comparing.concluded = Some((own, theirs, verdict));
        self.send(peer, Channel::Control, Frame::Agree { own, theirs, verdict });
        self.act_when_agreed(peer);
    }

    pub(crate) fn on_agree(
        &mut self,
        peer: PeerIndex,
        own: u32,
        theirs: u32,
        verdict: &Verdict,
    ) -> Result<(), Broken> {
        let comparing = match &mut self.peer_mut(peer).session {
            Session::Comparing(comparing) => comparing,
            // About reports that were replaced meanwhile.
            Session::Starting(_) | Session::Apart(_) => return Ok(()),
            Session::Down | Session::Greeting | Session::Leading(_) | Session::Following(_) => {
                return Err(Broken("a conclusion outside the handshake"));
            }
        };
        comparing.peer_concluded = Some((theirs, own, verdict.mirror()));
        if let Some((a, b, concluded)) = comparing.concluded
            && (a, b) == (theirs, own)
            && concluded != verdict.mirror()
        {
            return Err(Broken("the two nodes conclude differently"));
        }
        self.act_when_agreed(peer);
        Ok(())
    }

    /// Begins to act once both have concluded the same from the same reports.
    fn act_when_agreed(&mut self, peer: PeerIndex) {
        let Session::Comparing(comparing) = &self.peer(peer).session else { return };
        let (Some(concluded), Some(other)) = (comparing.concluded, comparing.peer_concluded) else { return };
        if concluded != other {
            return;
        }
        let verdict = concluded.2;
        let (_, theirs) = comparing.theirs.as_ref().expect("it was concluded from");
        let peer_name = self.config.peer_names[peer.as_usize()].clone();
        let names = Names { mine: &self.config.node_name, theirs: &peer_name };
        let text = verdict.explain(names);
        let their_role = if theirs.role.is_primary() { Role::Primary } else { Role::Secondary };
        let their_disk = match theirs.copy {
            Copy::Diskless => DiskState::Diskless,
            Copy::Fresh | Copy::Inconsistent => DiskState::Inconsistent,
            Copy::Good => DiskState::Consistent,
        };
        let course = course(verdict, &comparing.own_view, theirs);
        let leads = leads(verdict, &comparing.own_view, theirs);
        let copy = copies(verdict, &comparing.own_view, theirs);
        let Session::Comparing(comparing) =
            std::mem::replace(&mut self.peer_mut(peer).session, Session::Down)
        else {
            panic!("just looked at")
        };
        let fellows = course == Course::Fellows;
        let starting =
            Starting { verdict, comparing: *comparing, leader: leads, copy, begun: false, fellows };
        self.peer_mut(peer).told = Some(Told { role: their_role, disk: their_disk });
        self.notice(Notice::Verdict(peer, text));
        match verdict {
            Verdict::NoSync | Verdict::FreshPair { .. } | Verdict::Resync { .. } => {
                self.take_course(peer, starting, course)
            }
            Verdict::NoCopy(_)
            | Verdict::SplitBrain { .. }
            | Verdict::Unrelated { .. }
            | Verdict::Refused(_) => {
                self.peer_mut(peer).session = Session::Apart(Box::new(starting));
                let replication = self.peer(peer).replication();
                self.notice(Notice::Peer(peer, replication));
                if suspends(verdict).has(Side::Mine) {
                    self.depose();
                }
                self.meet_host(peer);
            }
        }
    }

    /// The leader makes its own data stable: from the moment at which the peer's copy may be overwritten this one
    /// is the only one that has what was acknowledged while both had it (found by the simulator).
    pub(crate) fn prepare_to_lead(&mut self, peer: PeerIndex) {
        let link = self.peer(peer).link.expect("a handshake has a link");
        let tag = self.tag(Purpose::LeadFlush { peer, link });
        self.out.push(Action::Flush { tag });
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
        if !matches!(verdict, Verdict::FreshPair { .. }) {
            self.store_mut().begin_supply(peer, key);
        }
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
            self.send(peer, Channel::Control, Frame::Ready);
            return Ok(());
        }
        let tag = self.tag(Purpose::StartFlush { peer, link });
        self.out.push(Action::Flush { tag });
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
        let copy = starting.copy;
        let (_, theirs) = starting.comparing.theirs.as_ref().expect("it was concluded from");
        // Of a fresh pair the proposer has made its head only now; it comes with `Counted`.
        if let Some(source) = theirs.history.head() {
            self.store_mut().begin_follow(peer, source.id, copy);
        }
        if copy {
            self.set_disk(DiskState::Inconsistent);
        }
        self.store_mut().after_commit(Then::FollowerReady { peer, link });
    }

    pub(crate) fn on_follower_ready(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Session::Starting(starting) = &self.peer(peer).session else { return };
        let copy = starting.copy;
        let progress = starting.progress(self.store().dirty_bytes(peer), self.now);
        let pulling = Pulling::new(copy, self.reads_media);
        self.begin_following(peer, follow::Phase::Pulling(pulling), progress);
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

    pub(crate) fn on_mark(
        &mut self,
        peer: PeerIndex,
        role: Role,
        disk: DiskState,
        term: Term,
    ) -> Result<(), Broken> {
        self.peer_mut(peer).told = Some(Told { role, disk });
        self.note_term(term);
        self.reconsider_disk();
        Ok(())
    }

    /// Whether the own copy may call itself the newest (P1).
    pub(crate) fn reconsider_disk(&mut self) {
        if !matches!(self.disk, DiskState::Consistent | DiskState::Outdated | DiskState::Inconsistent) {
            return;
        }
        let flags = self.store().flags();
        if !flags.consistent || flags.fresh {
            return;
        }
        // One that goes on without us, or leaves, vouches for nothing any more.
        let all_met = self.peers.iter().all(|peer| peer.is_in_sync() && !peer.leaving);
        let follows_primary = self.peers.iter().any(|peer| {
            matches!(&peer.session, Session::Following(following) if following.in_sync() && !peer.leaving)
                && peer.told.is_some_and(|told| told.role == Role::Primary)
        });
        if self.role == Role::Primary || all_met || follows_primary {
            let boot = self.run.boot;
            let keep_crashed = self.role == Role::Primary;
            self.store_mut().set_up_to_date(boot, keep_crashed);
            self.power = view::Power::SameRun;
            self.set_disk(DiskState::UpToDate);
        } else if self.disk != DiskState::Outdated {
            self.set_disk(DiskState::Consistent);
        }
    }

    /// The primary that this node followed is gone: others may have gone on with it (P1).
    pub(crate) fn doubt_disk(&mut self) {
        if self.disk == DiskState::UpToDate {
            self.set_disk(DiskState::Consistent);
        }
    }
}

/// Whether both sides have an id, and not the same.
fn differ<T: PartialEq>(own: Option<T>, theirs: Option<T>) -> bool {
    own.zip(theirs).is_some_and(|(own, theirs)| own != theirs)
}

/// Whether this node leads: the primary, else the source, else the lower id.
fn leads(verdict: Verdict, own: &NodeView, theirs: &NodeView) -> bool {
    match (own.role.is_primary(), theirs.role.is_primary()) {
        (true, false) => return true,
        (false, true) => return false,
        (true, true) | (false, false) => {}
    }
    match verdict {
        Verdict::Resync { source, .. } => source == Side::Mine,
        Verdict::FreshPair { proposer } => proposer == Side::Mine,
        Verdict::NoSync
        | Verdict::NoCopy(_)
        | Verdict::SplitBrain { .. }
        | Verdict::Unrelated { .. }
        | Verdict::Refused(_) => own.node < theirs.node,
    }
}

/// Whether blocks have to be copied; both sides come to the same answer.
fn copies(verdict: Verdict, own: &NodeView, theirs: &NodeView) -> bool {
    match verdict {
        Verdict::Resync { extent: Extent::Full(_), .. } => true,
        Verdict::Resync { extent: Extent::Bitmap, .. } => {
            let inconsistent = own.copy == Copy::Inconsistent || theirs.copy == Copy::Inconsistent;
            inconsistent || own.record.dirty != Dirty::Clean || theirs.record.dirty != Dirty::Clean
        }
        Verdict::NoSync
        | Verdict::FreshPair { .. }
        | Verdict::NoCopy(_)
        | Verdict::SplitBrain { .. }
        | Verdict::Unrelated { .. }
        | Verdict::Refused(_) => false,
    }
}

fn suspends(verdict: Verdict) -> Which {
    match verdict {
        Verdict::SplitBrain { suspends, .. } | Verdict::Unrelated { suspends } => suspends,
        Verdict::NoSync
        | Verdict::FreshPair { .. }
        | Verdict::NoCopy(_)
        | Verdict::Resync { .. }
        | Verdict::Refused(_) => Which::Neither,
    }
}
