//! Births and deaths of connections, and frames on their way.

use evenkeel_core::volume::{
    codec::FrameError,
    io::{Channel, Event, LinkId},
    wire::Frame,
};

use super::{World, agenda::Due, node::peer_index};
use crate::{
    decision::Stream as Draws,
    engine::Engine,
    net::{CHANNELS, End, LinkIndex},
    plan::{MILLISECOND, SECOND},
    wire::{Arrived, refusal},
};

/// Delivered frames that are kept for a replay.
const KEPT_FRAMES: usize = 64;

impl<E: Engine> World<'_, E> {
    fn delay(&mut self) -> u64 {
        let typical = self.plan.net_latency;
        let delay = typical / 2 + self.net_draws.below(typical + 1);
        if self.net_draws.chance(1, 128) { delay * 10 } else { delay }
    }

    fn may_connect(&self, from: usize, to: usize) -> bool {
        let fit = |node: usize| self.nodes[node].runs() && !self.nodes[node].paused;
        fit(from) && fit(to) && !self.net.is_cut(from, to) && !self.net.is_cut(to, from)
    }

    /// Connects every pair of which an end has no connection, if the network lets it.
    pub(super) fn dial(&mut self) {
        for from in 0..self.plan.nodes {
            for to in from + 1..self.plan.nodes {
                let pair = from * self.plan.nodes + to;
                let lacking = self.net.newest(from, to).is_none() || self.net.newest(to, from).is_none();
                if lacking && self.now >= self.dial_at[pair] && self.may_connect(from, to) {
                    self.connect(from, to);
                }
            }
        }
    }

    /// Makes a new connection; each end learns of it in its own time.
    pub(super) fn connect(&mut self, from: usize, to: usize) {
        let pair = from.min(to) * self.plan.nodes + from.max(to);
        self.dial_at[pair] = self.now + self.net_draws.skewed(200, 3_000) * MILLISECOND;
        let link = self.net.connect(from, to, self.plan.frames_as_bytes && E::ENCODES);
        for end in 0..2 {
            let at = self.now + self.delay();
            self.agenda.put(at, Due::LinkUp { link, end });
        }
    }

    /// Whether an event is a frame of a connection that is over for this node: it is ignored in every state.
    pub(super) fn is_late(&mut self, node: usize, event: &Event) -> bool {
        let Event::Frame { link, .. } = event else { return false };
        let link = self.net.link(LinkIndex::of(*link));
        link.ends[link.end_of(node)] != End::Up
    }

    pub(super) fn link_up(&mut self, link: LinkIndex, end: usize) {
        let nodes = self.net.link(link).nodes;
        let (node, peer) = (nodes[end], nodes[1 - end]);
        if self.net.link(link).ends[end] != End::Coming {
            return;
        }
        if !self.nodes[node].runs() {
            self.net.link(link).ends[end] = End::Gone;
            self.break_other_end(link, end);
            return;
        }
        for older in self.net.of_node(node) {
            if older.0 < link.0 && self.net.link(older).nodes.contains(&peer) {
                let own = self.net.link(older).end_of(node);
                self.net.link(older).ends[own] = End::Gone;
            }
        }
        self.net.link(link).ends[end] = End::Up;
        self.feed(node, Event::LinkUp { peer: peer_index(node, peer), link: link.id() });
        self.kick(link, 1 - end);
    }

    /// Puts the next frames of all channels from an end on the agenda.
    fn kick(&mut self, link: LinkIndex, from: usize) {
        for channel in 0..CHANNELS.len() {
            self.schedule(link, from, channel);
        }
    }

    /// Lets everything go on that a cut from one node to another held back.
    pub(super) fn kick_all(&mut self, from: usize, to: usize) {
        for link in self.net.of_node(to) {
            if self.net.link(link).nodes.contains(&from) {
                let end = self.net.link(link).end_of(from);
                self.kick(link, end);
            }
        }
    }

    fn schedule(&mut self, link: LinkIndex, from: usize, channel: usize) {
        let nodes = self.net.link(link).nodes;
        if self.net.is_cut(nodes[from], nodes[1 - from]) {
            return;
        }
        let now = self.now;
        let this = self.net.link(link);
        if this.ends[1 - from] != End::Up {
            return;
        }
        let stream = &mut this.streams[from][channel];
        if stream.scheduled || stream.stuck {
            return;
        }
        if let Some(at) = stream.next_at() {
            stream.scheduled = true;
            self.agenda.put(at.max(now), Due::Deliver { link, from, channel });
        }
    }

    pub(super) fn deliver(&mut self, link: LinkIndex, from: usize, channel: usize) {
        let now = self.now;
        let nodes = self.net.link(link).nodes;
        let cut = self.net.is_cut(nodes[from], nodes[1 - from]);
        let this = self.net.link(link);
        let up = this.ends[1 - from] == End::Up;
        let stream = &mut this.streams[from][channel];
        stream.scheduled = false;
        if cut || !up || stream.stuck {
            return;
        }
        match stream.next_at() {
            None => return,
            Some(at) if at > now => {
                self.schedule(link, from, channel);
                return;
            }
            Some(_) => {}
        }
        let sent = stream.pop().expect("there is a next one");
        let arrived = match &mut stream.bytes {
            Some(bytes) => bytes.arrive(&sent, &mut self.wire_draws),
            None => Arrived::Frame(sent),
        };
        self.schedule(link, from, channel);
        let frame = match arrived {
            Arrived::Frame(frame) => frame,
            Arrived::Nothing => return,
            Arrived::Refused(error) => return self.refuse(link, from, &error),
            Arrived::Wrong(text) => return self.oracle.broken("codec", text),
        };
        let (sender, node) = (nodes[from], nodes[1 - from]);
        if self.keeps_delivered {
            if self.delivered.len() == KEPT_FRAMES {
                self.delivered.pop_front();
            }
            self.delivered.push_back((node, sender, link.id(), CHANNELS[channel], frame.clone()));
        }
        let peer = peer_index(node, sender);
        self.feed(node, Event::Frame { peer, link: link.id(), channel: CHANNELS[channel], frame });
    }

    /// The parser of an end has refused what came: its driver gives the connection up.
    fn refuse(&mut self, link: LinkIndex, from: usize, error: &FrameError) {
        self.note(|| format!("refused: {error}"));
        self.link_down(link, 1 - from);
        self.break_other_end(link, 1 - from);
    }

    pub(super) fn send(&mut self, node: usize, peer: usize, link: LinkId, channel: Channel, frame: Frame) {
        let link = LinkIndex::of(link);
        let arrival = self.now + self.delay();
        let this = self.net.link(link);
        let end = this.end_of(node);
        assert_eq!(this.nodes[1 - end], peer, "the engine sends to the wrong peer of a link");
        if this.ends[end] != End::Up {
            return;
        }
        let channel = CHANNELS.iter().position(|known| *known == channel).expect("all are known");
        this.streams[end][channel].push(arrival, frame);
        self.schedule(link, end, channel);
    }

    /// An engine gives a connection up; the other end learns it after what was sent has arrived.
    pub(super) fn close_link(&mut self, node: usize, link: LinkId) {
        let link = LinkIndex::of(link);
        let this = self.net.link(link);
        let end = this.end_of(node);
        if this.ends[end] == End::Gone {
            return;
        }
        this.ends[end] = End::Gone;
        self.break_other_end(link, end);
    }

    /// The other end of a connection learns that it is over: soon, or when it has been silent for long.
    pub(super) fn break_other_end(&mut self, link: LinkIndex, end: usize) {
        let nodes = self.net.link(link).nodes;
        let silent = self.net.is_cut(nodes[end], nodes[1 - end]) || self.net_draws.chance(1, 4);
        for channel in 0..CHANNELS.len() {
            let waiting = self.net.link(link).streams[end][channel].len();
            let keep = self.net_draws.index(waiting + 1);
            self.net.link(link).streams[end][channel].cut(keep);
        }
        let after = if silent {
            10 * SECOND + self.net_draws.below(20 * SECOND)
        } else {
            self.delay() + self.net_draws.skewed(1, 50) * MILLISECOND
        };
        self.agenda.put(self.now + after, Due::LinkDown { link, end: 1 - end });
    }

    pub(super) fn link_down(&mut self, link: LinkIndex, end: usize) {
        let this = self.net.link(link);
        let (node, peer) = (this.nodes[end], this.nodes[1 - end]);
        let before = std::mem::replace(&mut this.ends[end], End::Gone);
        if before == End::Up {
            self.feed(node, Event::LinkDown { peer: peer_index(node, peer), link: link.id() });
        }
    }

    /// A connection breaks: part of what was on its way arrives, both ends learn it in their own time.
    pub(super) fn break_link(&mut self, node: usize, peer: usize) {
        let Some(link) = self.net.newest(node, peer) else { return };
        for end in 0..2 {
            self.break_other_end(link, end);
        }
    }

    /// A bit of a frame is wrong when it arrives: as bytes the parser finds it, else the connection just breaks.
    pub(super) fn corrupt(&mut self, node: usize, peer: usize, draws: &mut Draws) {
        let Some(link) = self.net.newest(node, peer) else { return };
        let end = self.net.link(link).end_of(node);
        match &mut self.net.link(link).streams[end][draws.index(CHANNELS.len())].bytes {
            Some(bytes) => bytes.damage(draws),
            None => self.break_link(node, peer),
        }
    }

    /// Everything that a dead process had open is closed.
    pub(super) fn break_links_of(&mut self, node: usize) {
        for link in self.net.of_node(node) {
            let end = self.net.link(link).end_of(node);
            self.net.link(link).ends[end] = End::Gone;
            self.break_other_end(link, end);
        }
    }

    /// Frames of an older connection come in again.
    pub(super) fn replay(&mut self, node: usize, count: usize) {
        let newest: Vec<Option<LinkId>> =
            (0..self.plan.nodes).map(|peer| self.net.newest(node, peer).map(LinkIndex::id)).collect();
        let old: Vec<_> = self
            .delivered
            .iter()
            .filter(|(to, from, link, ..)| *to == node && newest[*from] != Some(*link))
            .take(count)
            .cloned()
            .collect();
        for (node, peer, link, channel, frame) in old {
            if self.plan.frames_as_bytes && E::ENCODES {
                // As bytes it does not get as far as the engine; a hello, which has no session, never comes twice.
                let newest = newest[peer].map(|link| LinkIndex::of(link).session());
                let own = LinkIndex::of(link).session();
                let taken = newest.is_some_and(|newest| refusal(&frame, own, newest).is_none());
                if taken && !matches!(frame, Frame::Hello(_)) {
                    self.oracle.broken("codec", format!("a frame of an older session was taken: {frame:?}"));
                }
                continue;
            }
            self.feed(node, Event::Frame { peer: peer_index(node, peer), link, channel, frame });
        }
    }
}
