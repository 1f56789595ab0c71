//! A volume grows while it is served; it never shrinks.
//!
//! ```text
//!   whoever leads                                   each peer that follows, in sync
//!     room on the own disk      Grow(room) ───────>   room on its disk
//!                               <─────── Grown(room)
//!     (all have room, or nothing has changed)
//!                               Grow(size) ───────>   metadata in new places, superblock: the size is in force
//!                               <─────── Grown(size)
//!     metadata, superblock: in force; clients may use it
//! ```
//!
//! *Room* is data that reads as zeroes and a place for larger metadata. So the new part is equal on all copies before
//! anybody writes there, nothing of it is dirty, and nothing has to be copied.
//!
//! A copy that grows because it met a larger one is another matter: its peers may have written there when it was as large
//! as they are and was not set back yet (found by the simulator). So all of the new part is marked, but for those that
//! follow and grow along.
//!
//! A follower never has less than its leader: it takes the size first. A crash between the two leaves it with more. A
//! peer that was away has less. Either way two copies of different sizes meet, and the smaller one grows before they
//! conclude anything else: as far as its configuration allows, which names the same size on every node.
//!
//! Making room may take long and hinders nothing; if a peer comes or goes meanwhile, or somebody else leads, the growth
//! is given up. Taking the size is short: meanwhile no handshake is concluded, so no session begins, and it is done only
//! while none is about to, and no resync and no verify runs.

use super::{
    DiskState,
    disk_failure::Failure,
    io::{Action, Channel, CommandId, DiskError, LinkId, Notice},
    operation::Purpose,
    peer::Session,
    span::ByteSpan,
    volume::{Broken, Volume},
    wire::{Frame, GrowthStep},
};
use crate::{
    generation::verdict::{Refusal, Verdict},
    ids::PeerIndex,
};

/// What a volume knows of growing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growing {
    under_way: Option<Growth>,
    /// A peer's copy is larger than this one.
    met: Option<(PeerIndex, u64)>,
    /// A growth to so many bytes failed: it is not tried again before a link is made anew, or an operator orders it.
    failed: Option<u64>,
    /// The configuration allows more than before: larger copies that are linked are looked at again.
    allowed_more: bool,
    /// There is room up to here, as far as this run has made it.
    room_bytes: u64,
    /// Room up to here is being made. The size in force does not change meanwhile.
    making_room: Option<u64>,
    /// The leader that waits for room.
    asked: Option<(PeerIndex, LinkId, u64)>,
}

/// One growth.
#[derive(Clone, Debug)]
struct Growth {
    size_bytes: u64,
    stage: Stage,
    /// The followers that were asked for room.
    followers: Vec<PeerIndex>,
    /// Those that have not answered in this stage.
    awaited: Vec<PeerIndex>,
    /// The command that ordered it.
    id: Option<CommandId>,
    /// The leader that waits for the size.
    leader: Option<(PeerIndex, LinkId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Room is made, here and at the followers.
    Room,
    /// The followers take the size.
    Followers,
    /// This node takes it.
    Own,
}

impl Growing {
    /// Whether nothing may be concluded with a peer now: the size is being taken.
    pub(crate) fn takes_size(&self) -> bool {
        self.under_way.as_ref().is_some_and(|growth| growth.stage != Stage::Room)
    }

    /// The configuration names another size. A growth beyond it that still makes room ends.
    pub(crate) fn limit_changes(&mut self, from: u64, to: u64) {
        self.allowed_more |= to > from;
    }
}

impl Volume {
    pub(crate) fn resize(&mut self, id: CommandId, size_bytes: u64) {
        let own = self.store().size_bytes();
        let refusal = if self.disk != DiskState::UpToDate {
            Some("the copy on this node is not UpToDate: order it where it is".to_owned())
        } else if self.follows_somebody() {
            Some("this node follows another one: order it there".to_owned())
        } else if size_bytes > self.config.size_bytes_max {
            Some(format!(
                "the configuration says `size` = {} bytes: change it on every node first",
                self.config.size_bytes_max
            ))
        } else if size_bytes == own {
            // It is what one says who has changed his mind.
            if !self.growth.takes_size() {
                self.abandon_growth("another `resize` was ordered");
            }
            self.answer(id, Ok(()));
            return;
        } else if self.demotion.is_some() {
            Some("this node is leaving its role".to_owned())
        } else if self.growth.under_way.is_some() {
            Some("the volume grows already; `resize` to its present size ends that".to_owned())
        } else if let Err(error) = self.store().layout_for(size_bytes) {
            Some(error.to_string())
        } else if !self.is_calm() {
            Some("a resync, a verify or a handshake is under way: try again at its end".to_owned())
        } else {
            None
        };
        match refusal {
            Some(why) => self.answer(id, Err(&why)),
            None => self.begin_growth(size_bytes, Some(id)),
        }
    }

    /// A peer's copy has another size than this one.
    pub(crate) fn note_size(&mut self, peer: PeerIndex, verdict: Verdict) {
        if let Verdict::Refused(Refusal::Size { mine, theirs }) = verdict
            && mine < theirs
            && theirs <= self.config.size_bytes_max
            && self.growth.failed.is_none_or(|failed| theirs < failed)
            && self.store().layout_for(theirs).is_ok()
        {
            self.growth.met = Some((peer, theirs));
        }
    }

    /// Whether every session is one that a growth can take along, or has not begun.
    fn is_calm(&self) -> bool {
        let calm = self.peers.iter().all(|peer| match &peer.session {
            Session::Down | Session::Greeting | Session::Comparing(_) | Session::Apart(_) => true,
            Session::Leading(leading) => leading.in_sync(),
            Session::Starting(_) | Session::Following(_) => false,
        });
        calm && self.verify.is_none() && self.demotion.is_none() && self.disk != DiskState::Failed
    }

    fn followers(&self) -> impl Iterator<Item = PeerIndex> + '_ {
        self.peer_indices().filter(|&peer| self.peer(peer).receives())
    }

    /// Whether everybody who follows was asked for room.
    fn all_were_asked(&self, followers: &[PeerIndex]) -> bool {
        self.followers().all(|peer| followers.contains(&peer))
    }

    fn begin_growth(&mut self, size_bytes: u64, id: Option<CommandId>) {
        let followers = self.send_step(GrowthStep::Room, size_bytes);
        let (stage, awaited) = (Stage::Room, followers.clone());
        self.growth.under_way = Some(Growth { size_bytes, stage, followers, awaited, id, leader: None });
    }

    /// Tells every follower to take a step; who they are.
    fn send_step(&mut self, step: GrowthStep, size_bytes: u64) -> Vec<PeerIndex> {
        let followers: Vec<PeerIndex> = self.followers().collect();
        for &peer in &followers {
            self.send(peer, Channel::Control, Frame::Grow { step, size_bytes });
        }
        followers
    }

    pub(crate) fn advance_growth(&mut self) {
        if self.is_closing() {
            return;
        }
        if std::mem::take(&mut self.growth.allowed_more) {
            self.growth.failed = None;
            self.report_everywhere_again();
        }
        if let Some((_, size_bytes)) = self.growth.met {
            if size_bytes <= self.store().size_bytes() {
                self.growth.met = None;
            } else if self.growth.under_way.is_none() && self.is_calm() {
                self.begin_growth(size_bytes, None);
            }
        }
        let max = self.config.size_bytes_max;
        if self.growth.under_way.as_ref().is_some_and(|g| g.stage == Stage::Room && g.size_bytes > max) {
            self.abandon_growth("the configuration does not allow it any more");
        }
        self.make_room();
        let own_room = self.growth.making_room.is_none().then_some(self.growth.room_bytes);
        let Some(growth) = &self.growth.under_way else { return };
        let (size_bytes, all_answered) = (growth.size_bytes, growth.awaited.is_empty());
        match growth.stage {
            Stage::Room if self.follows_somebody() => self.abandon_growth("another node leads now"),
            Stage::Room if all_answered && own_room >= Some(size_bytes) => {
                if !self.is_calm() || !self.all_were_asked(&growth.followers) {
                    self.give_growth_up("a peer came meanwhile, or a resync or verify began; try again");
                    return;
                }
                let awaited = self.send_step(GrowthStep::Size, size_bytes);
                let growth = self.growth.under_way.as_mut().expect("just looked at");
                (growth.stage, growth.awaited) = (Stage::Followers, awaited);
                self.take_size();
            }
            Stage::Followers => self.take_size(),
            Stage::Room | Stage::Own => {}
        }
    }

    /// This node takes the size, when all that follow it have.
    fn take_size(&mut self) {
        let Some(growth) = &mut self.growth.under_way else { return };
        if !growth.awaited.is_empty() || self.growth.making_room.is_some() {
            return;
        }
        growth.stage = Stage::Own;
        let size_bytes = growth.size_bytes;
        let met = growth.id.is_none() && growth.leader.is_none();
        let lacking = self.peer_indices().filter(|&peer| met && !self.peer(peer).receives()).collect();
        let layout = self.store().layout_for(size_bytes).expect("it was possible when it began");
        self.store_mut().begin_growth(layout, lacking);
    }

    /// Makes the room that is wanted here, one piece of work at a time.
    fn make_room(&mut self) {
        let for_own = self.growth.under_way.as_ref().map(|growth| growth.size_bytes);
        let for_leader = self.growth.asked.map(|(_, _, size_bytes)| size_bytes);
        let Some(wanted) = for_own.max(for_leader) else { return };
        let from = self.store().size_bytes();
        if self.growth.making_room.is_some() || self.growth.room_bytes >= wanted || wanted <= from {
            return;
        }
        let Ok(layout) = self.store().layout_for(wanted) else { return };
        self.growth.making_room = Some(wanted);
        let tag = self.tag(Purpose::Extend);
        let data = ByteSpan { offset: from, len: wanted - from };
        let end = self.store().layout_end();
        let meta = ByteSpan { offset: end, len: layout.end().saturating_sub(end) };
        self.out.push(Action::Extend { tag, data, meta });
    }

    pub(crate) fn on_extended(&mut self, result: Result<(), DiskError>) {
        let size_bytes = self.growth.making_room.take().expect("room was being made");
        if let Err(DiskError::Io) = result {
            // What was written before may have been under the flush that failed (W4).
            self.fail_disk(Failure::Flush(DiskError::Io));
        }
        if result.is_ok() {
            self.growth.room_bytes = self.growth.room_bytes.max(size_bytes);
        }
        if let Some((peer, link, asked)) = self.growth.asked
            && asked <= size_bytes
        {
            self.growth.asked = None;
            self.answer_leader((peer, link), GrowthStep::Room, asked, result.is_ok());
        }
        let room_bytes = self.growth.room_bytes;
        let lacks_room = |growth: &Growth| (room_bytes + 1..=size_bytes).contains(&growth.size_bytes);
        if result.is_err() && self.growth.under_way.as_ref().is_some_and(lacks_room) {
            self.growth.failed = Some(size_bytes);
            self.abandon_growth("there is no room for it on this node's disk");
        }
    }

    /// The leader wants this node to take a step.
    pub(crate) fn on_grow(
        &mut self,
        peer: PeerIndex,
        step: GrowthStep,
        size_bytes: u64,
    ) -> Result<(), Broken> {
        let link = self.peer(peer).link.expect("a frame came on it");
        let follows = matches!(self.session(peer), Session::Following(following) if following.in_sync());
        let own = self.store().size_bytes();
        let fits = size_bytes <= self.config.size_bytes_max && self.store().layout_for(size_bytes).is_ok();
        let able = follows && self.growth.under_way.is_none() && self.disk != DiskState::Failed;
        let answer = match step {
            _ if size_bytes <= own => Some(true),
            _ if !able || !fits => Some(false),
            GrowthStep::Room if self.growth.room_bytes >= size_bytes => Some(true),
            GrowthStep::Room if self.growth.asked.is_some_and(|(other, ..)| other != peer) => Some(false),
            GrowthStep::Room => {
                self.growth.asked = Some((peer, link, size_bytes));
                None
            }
            GrowthStep::Size if self.growth.room_bytes < size_bytes => {
                return Err(Broken("a size for which there is no room yet"));
            }
            GrowthStep::Size => {
                self.growth.under_way = Some(Growth {
                    size_bytes,
                    stage: Stage::Followers,
                    followers: Vec::new(),
                    awaited: Vec::new(),
                    id: None,
                    leader: Some((peer, link)),
                });
                None
            }
        };
        if let Some(done) = answer {
            self.send(peer, Channel::Control, Frame::Grown { step, size_bytes, done });
        }
        Ok(())
    }

    /// Tells the leader that asked, if it is still there, whether a step is taken.
    fn answer_leader(
        &mut self,
        (peer, link): (PeerIndex, LinkId),
        step: GrowthStep,
        size_bytes: u64,
        done: bool,
    ) {
        if self.peer(peer).link == Some(link) {
            self.send(peer, Channel::Control, Frame::Grown { step, size_bytes, done });
        }
    }

    /// A follower has taken a step, or cannot.
    pub(crate) fn on_grown(&mut self, peer: PeerIndex, step: GrowthStep, size_bytes: u64, done: bool) {
        let Some(growth) = &mut self.growth.under_way else { return };
        let awaited = match growth.stage {
            Stage::Room => GrowthStep::Room,
            Stage::Followers => GrowthStep::Size,
            Stage::Own => return,
        };
        if growth.size_bytes != size_bytes || step != awaited || !growth.awaited.contains(&peer) {
            // About a growth that was abandoned.
            return;
        }
        growth.awaited.retain(|&other| other != peer);
        match (step, done) {
            (_, true) => {}
            (GrowthStep::Room, false) => {
                let name = self.config.peer_names[peer.as_usize()].clone();
                if growth.id.is_none() {
                    self.growth.failed = Some(size_bytes);
                }
                self.abandon_growth(&format!(
                    "{name} cannot: its disk has no room for it, or its configuration says another `size`"
                ));
            }
            (GrowthStep::Size, false) => self.close_link(peer, "the peer did not take the volume's new size"),
        }
    }

    /// The link to a peer is gone. If it had room, nobody waits for it: it grows when it is back.
    pub(crate) fn on_growing_peer_gone(&mut self, peer: PeerIndex) {
        if let Some(growth) = &mut self.growth.under_way {
            let waited = growth.awaited.contains(&peer);
            growth.awaited.retain(|&other| other != peer);
            if waited && growth.stage == Stage::Room {
                self.give_growth_up("a peer was lost before it had room; try again");
            }
        }
        self.growth.met = self.growth.met.filter(|&(other, _)| other != peer);
        self.growth.failed = None;
        self.growth.asked = self.growth.asked.filter(|&(other, ..)| other != peer);
    }

    /// The superblock with the new size is stable.
    pub(crate) fn on_size_stable(&mut self) {
        // The next growth has another layout, and so wants other room.
        self.growth.room_bytes = self.store().size_bytes();
        // It was given up when the volume was closed.
        let Some(growth) = self.growth.under_way.take() else { return };
        let Growth { size_bytes, id, leader, .. } = growth;
        assert_eq!(self.store().size_bytes(), size_bytes, "the size that was asked for");
        self.notice(Notice::Grown(size_bytes));
        if let Some(leader) = leader {
            self.answer_leader(leader, GrowthStep::Size, size_bytes, true);
        }
        self.answer_maybe(id, Ok(()));
        if leader.is_some() && !self.has_primary() {
            // Whom this node leads itself was not asked.
            for peer in self.peer_indices() {
                if self.peer(peer).receives() {
                    self.close_link(peer, "the volume has grown");
                }
            }
        }
        self.report_everywhere_again();
    }

    /// The volume keeps its size, and is not asked again to take that of a peer.
    pub(crate) fn abandon_growth(&mut self, why: &str) {
        self.growth.met = None;
        self.give_growth_up(why);
    }

    /// The volume keeps its size for now.
    fn give_growth_up(&mut self, why: &str) {
        let Some(growth) = self.growth.under_way.take() else { return };
        if let Some(leader) = growth.leader {
            self.answer_leader(leader, GrowthStep::Size, growth.size_bytes, false);
        }
        self.notice(Notice::NotGrown(format!(
            "The volume did not grow to {} bytes: {why}.",
            growth.size_bytes
        )));
        self.answer_maybe(growth.id, Err(why));
        if self.disk != DiskState::Failed {
            self.report_everywhere_again();
        }
    }
}
