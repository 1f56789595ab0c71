//! The handshake: who speaks, what each has, what both conclude, and the start of what was agreed (section 5).
//!
//! ```text
//!   leader                                   follower
//!     Hello ──────────────────────────────────> <── Hello
//!     Report 1 ───────────────────────────────> <── Report 1
//!     Agree(1,1,verdict) ─────────────────────> <── Agree(1,1,mirror)
//!     Begin ─────────────────────────────────>     (see `start`)
//! ```
//!
//! A report is a snapshot. When it stops being true before the end of the handshake, a new one with a higher
//! number replaces it and both conclude again; a `Begin` that names older reports than the follower's last is
//! refused, and the link starts anew. So both always act on the same two snapshots, which are still true.

use super::{
    DiskState, Role,
    io::{Channel, Notice},
    operator::Discard,
    peer::{Peer, Session, Starting, Told},
    status::Suspended,
    stranger::Stranger,
    volume::{Broken, Volume},
    wire::{Frame, Hello, PROTOCOL_VERSION},
};
use crate::{
    generation::{
        course::{Course, course},
        decide::{decide, must_suspend, was_set_back},
        record::Dirty,
        verdict::{Extent, Names, Side, Verdict, Which},
        view::{self, Copy, NodeView, Unsettled, Wish},
    },
    ids::{AttachCounter, PeerIndex, Term},
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
        if !matches!(self.session(peer), Session::Greeting) || self.peer(peer).hello.is_some() {
            return Err(Broken("a second hello"));
        }
        match self.check_hello(peer, &hello)? {
            None => {
                self.peer_mut(peer).stranger = None;
                self.begin_comparing(peer, &hello);
            }
            Some(stranger @ (Stranger::Unrelated { .. } | Stranger::SameNode(_))) => {
                self.meet_stranger(peer, hello, stranger);
            }
            Some(stranger @ (Stranger::NodeOf(..) | Stranger::OtherNode { .. })) => {
                self.meet_stranger(peer, hello, stranger);
                return Err(Broken("the peer has the id of another peer: one of the disks is a copy"));
            }
        }
        Ok(())
    }

    /// Whether the peer's disk is one that belongs here, as far as its hello tells.
    pub(crate) fn check_hello(&self, peer: PeerIndex, hello: &Hello) -> Result<Option<Stranger>, Broken> {
        if hello.version_max < PROTOCOL_VERSION || hello.version_min > PROTOCOL_VERSION {
            return Err(Broken("the peer speaks other versions of the protocol"));
        }
        if hello.from.0 == 0 {
            return Err(Broken("the peer's node id is zero"));
        }
        let store = self.store();
        if hello.from == store.node() {
            return Ok(Some(Stranger::SameNode(hello.from)));
        }
        for other in self.peer_indices() {
            if other != peer && store.peer_node(other) == Some(hello.from) {
                return Ok(Some(Stranger::NodeOf(hello.from, other)));
            }
        }
        // A node without ids gets them with its first generation, never from a mere greeting: three new nodes
        // would agree on different ones in pairs (found by the simulator).
        if differ(store.cluster(), hello.cluster) || differ(store.volume(), hello.volume) {
            let own = (store.cluster(), store.volume());
            return Ok(Some(Stranger::Unrelated { own, theirs: (hello.cluster, hello.volume) }));
        }
        Ok(None)
    }

    /// What this node is, as one peer is to know it.
    pub(crate) fn view_for(&self, peer: PeerIndex) -> NodeView {
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
            power: store.evidence().power,
            replies: store.evidence().replies,
            // The activity log was replayed into bits at attach, and the loss of the last link put what was
            // not stable there into bits too.
            unsettled: Unsettled::Nothing,
            attach: store.shown_counter(peer),
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
        self.on_strangers_report(peer, view.wish);
        let mut had_begun = false;
        let comparing = match std::mem::replace(&mut self.peer_mut(peer).session, Session::Down) {
            Session::Comparing(comparing) => comparing,
            Session::Starting(starting) => {
                had_begun = starting.begun;
                Box::new(starting.comparing)
            }
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
        let given_up = view.wish == Wish::Discard || self.peer(peer).resolve.is_some();
        if let Some(known) = bound.filter(|&bound| bound != comparing.peer_node)
            && view.history.key().is_some()
            && !given_up
        {
            let shown = comparing.peer_node;
            self.peer_mut(peer).stranger = Some(Stranger::OtherNode { known, shown });
            return Err(Broken("the peer's disk belongs to another node, and it is not new"));
        }
        let peer_node = comparing.peer_node;
        let mut comparing = comparing;
        let suspends = must_suspend(&comparing.own_view, &view);
        comparing.theirs = Some((number, *view));
        comparing.concluded = None;
        self.peer_mut(peer).session = Session::Comparing(comparing);
        if bound != Some(peer_node) {
            self.store_mut().bind_peer(peer, peer_node);
            self.hear_words_again();
            if bound.is_some() {
                // What was reported about the old disk is not about this one.
                self.report_again(peer);
            }
        }
        self.store_mut().note_attach_counter(peer, attach);
        if let Some(term) = term {
            self.note_term(term);
        }
        if suspends {
            self.depose();
        }
        self.on_term_told(peer);
        if had_begun {
            // What was begun may have changed what this node is.
            self.report_again(peer);
        }
        self.conclude(peer);
        Ok(())
    }

    /// Concludes from the two newest reports and says so.
    fn conclude(&mut self, peer: PeerIndex) {
        if self.growth.takes_size() {
            return;
        }
        let Session::Comparing(comparing) = &mut self.peer_mut(peer).session else { return };
        let Some((theirs, view)) = &comparing.theirs else { return };
        if comparing.concluded.is_some() {
            return;
        }
        if was_set_back(&comparing.own_view, view) {
            let (seen, told) = (view.record.seen, comparing.own_view.attach);
            if self.store().shown_counter(peer) > told {
                // The peer was shown a later value since that report.
                self.report_again(peer);
                return;
            }
            self.on_set_back(peer, seen);
            return;
        }
        let verdict = decide(&comparing.own_view, view);
        let (own, theirs) = (comparing.own_number, *theirs);
        comparing.concluded = Some((own, theirs, verdict));
        self.note_size(peer, verdict);
        self.foretold_verdict(peer, verdict);
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
        if self.growth.takes_size() {
            return;
        }
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

    pub(crate) fn on_mark(
        &mut self,
        peer: PeerIndex,
        role: Role,
        disk: DiskState,
        term: Term,
        attach: AttachCounter,
    ) -> Result<(), Broken> {
        self.peer_mut(peer).told = Some(Told { role, disk });
        self.store_mut().note_attach_counter(peer, attach);
        self.note_term(term);
        self.reconsider_disk();
        Ok(())
    }

    /// Whether the own copy may call itself the newest (P1).
    pub(crate) fn reconsider_disk(&mut self) {
        if matches!(self.disk, DiskState::Diskless | DiskState::Failed) {
            return;
        }
        let flags = self.store().flags();
        if !flags.consistent || flags.fresh {
            return;
        }
        // One that goes on without us, or leaves, vouches for nothing any more.
        let is_old = |peer: &Peer| peer.link.is_none() && self.store().is_known_to_be_old(peer.index);
        let all_met = self
            .peers
            .iter()
            .all(|peer| peer.is_in_sync() && !peer.leaving || flags.entitled && is_old(peer));
        let follows_primary = self.peers.iter().any(|peer| {
            matches!(&peer.session, Session::Following(following) if following.in_sync() && !peer.leaving)
                && peer.told.is_some_and(|told| told.role == Role::Primary)
        });
        if self.disk == DiskState::UpToDate {
            if self.role == Role::Secondary && (all_met || follows_primary) && self.resumption.is_none() {
                // It did not take the role up again that its process died in, and that is over now (P7).
                self.store_mut().end_crashed_role();
            }
        } else if self.role == Role::Primary || all_met || follows_primary {
            let keep_crashed = self.role == Role::Primary;
            self.store_mut().set_up_to_date(keep_crashed);
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
