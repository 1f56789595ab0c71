//! Links between nodes: reliable ordered streams that can be cut anywhere, as QUIC's.
//!
//! A link has three channels each way. Frames of one channel arrive in order or not at all; between channels
//! nothing is promised. QUIC does not lose a frame within a stream, so "dropping" one means that its stream
//! stands still from there until the connection is cut. A direction that is cut holds what is sent and delivers
//! it when it heals, unless somebody gives the connection up first. The two ends learn of a connection's birth
//! and death at different times. Scheduling is the world's: this module says what arrives when.

use std::collections::VecDeque;

use evenkeel_core::volume::{
    codec::SessionNumber,
    io::{Channel, LinkId},
    wire::Frame,
};

use crate::wire::ByteChannel;

/// The channels, by number.
pub(crate) const CHANNELS: [Channel; 3] = [Channel::Control, Channel::Data, Channel::Resync];

/// A connection, by its place in the list of all connections of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkIndex(pub(crate) usize);

impl LinkIndex {
    /// The name under which both ends know it.
    pub(crate) fn id(self) -> LinkId {
        LinkId(self.0 as u64 + 1)
    }

    /// The number of its session, in the headers of its frames.
    pub(crate) fn session(self) -> SessionNumber {
        let number = u32::try_from(self.0 + 1).expect("few links");
        SessionNumber::new(number).expect("counted from one")
    }

    /// The connection with this name.
    pub(crate) fn of(id: LinkId) -> Self {
        Self(usize::try_from(id.0).expect("few links") - 1)
    }
}

/// Where one end of a connection is in its life.
///
/// ```text
/// Coming --LinkUp--> Up --LinkDown, CloseLink, crash, replaced--> Gone
///    \______________________crash______________________________/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The engine has not been told yet.
    Coming,
    /// The engine knows it.
    Up,
    /// Over for this end.
    Gone,
}

/// One channel in one direction.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    queue: VecDeque<(u64, Frame)>,
    /// The same frames as bytes, in the runs whose frames travel as bytes.
    pub(crate) bytes: Option<ByteChannel>,
    /// A delivery is on the world's agenda.
    pub(crate) scheduled: bool,
    /// Nothing arrives before this time.
    pub(crate) clogged_until: u64,
    /// Nothing arrives any more.
    pub(crate) stuck: bool,
    /// Nothing that is sent from now on will arrive: the connection is broken, and a stream has no holes.
    broken: bool,
    last: u64,
}

impl Stream {
    /// Takes a frame that would arrive at `arrival`, behind what was sent before; says when it arrives.
    pub(crate) fn push(&mut self, arrival: u64, frame: Frame) -> u64 {
        if self.broken {
            return self.last;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.push(&frame);
        }
        self.last = self.last.max(arrival);
        self.queue.push_back((self.last, frame));
        self.last
    }

    /// When the next frame arrives.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.queue.front().map(|(at, _)| (*at).max(self.clogged_until))
    }

    /// Takes the next frame.
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.queue.pop_front().map(|(_, frame)| frame)
    }

    /// Number of frames on their way.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Only the first `keep` of the frames on their way will arrive, and none that is sent later.
    pub(crate) fn cut(&mut self, keep: usize) {
        self.broken = true;
        self.queue.truncate(keep);
        if let Some(bytes) = &mut self.bytes {
            bytes.cut(keep);
        }
    }
}

/// A connection between two nodes.
#[derive(Debug)]
pub(crate) struct Link {
    /// The two nodes.
    pub(crate) nodes: [usize; 2],
    /// Each node's end.
    pub(crate) ends: [End; 2],
    /// `streams[d][c]`: what the node of end `d` sends on channel `c`.
    pub(crate) streams: [[Stream; 3]; 2],
}

impl Link {
    /// Which end is this node's.
    pub(crate) fn end_of(&self, node: usize) -> usize {
        usize::from(self.nodes[1] == node)
    }
}

/// All links.
#[derive(Debug)]
pub(crate) struct Net {
    nodes: usize,
    links: Vec<Link>,
    /// Cuts in force from node to node; nested cuts add up.
    cuts: Vec<u32>,
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, links: Vec::new(), cuts: vec![0; nodes * nodes] }
    }

    /// Whether anything that `from` sends is held back on its way to `to`.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.nodes + to] > 0
    }

    /// Holds back what `from` sends to `to`.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from * self.nodes + to] += 1;
    }

    /// Takes one cut away.
    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        let cut = &mut self.cuts[from * self.nodes + to];
        *cut = cut.saturating_sub(1);
    }

    /// Takes every cut and every clog away; what is stuck stays so until its connection is cut.
    pub(crate) fn heal_all(&mut self) {
        self.cuts.fill(0);
        for link in &mut self.links {
            for stream in link.streams.iter_mut().flatten() {
                stream.clogged_until = 0;
            }
        }
    }

    /// A new connection between two nodes, not yet known to either; `as_bytes`: its frames travel as bytes.
    pub(crate) fn connect(&mut self, first: usize, second: usize, as_bytes: bool) -> LinkIndex {
        let index = LinkIndex(self.links.len());
        let mut streams: [[Stream; 3]; 2] = Default::default();
        if as_bytes {
            for stream in streams.iter_mut().flatten() {
                stream.bytes = Some(ByteChannel::new(index.session()));
            }
        }
        self.links.push(Link { nodes: [first, second], ends: [End::Coming; 2], streams });
        index
    }

    /// A connection.
    pub(crate) fn link(&mut self, index: LinkIndex) -> &mut Link {
        &mut self.links[index.0]
    }

    /// The newest connection that a node still has with another, known to it or coming.
    pub(crate) fn newest(&self, node: usize, peer: usize) -> Option<LinkIndex> {
        self.links
            .iter()
            .enumerate()
            .rev()
            .find(|(_, link)| {
                link.nodes.contains(&node)
                    && link.nodes.contains(&peer)
                    && link.ends[link.end_of(node)] != End::Gone
            })
            .map(|(index, _)| LinkIndex(index))
    }

    /// All connections of which this node still has its end.
    pub(crate) fn of_node(&self, node: usize) -> Vec<LinkIndex> {
        self.links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.nodes.contains(&node) && link.ends[link.end_of(node)] != End::Gone)
            .map(|(index, _)| LinkIndex(index))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::ids::{Sequence, Timestamp};

    #[test]
    fn frames_of_a_stream_arrive_in_order_whatever_their_delays() {
        let mut stream = Stream::default();
        assert_eq!(stream.push(50, Frame::Ping(Timestamp(1))), 50);
        assert_eq!(stream.push(20, Frame::FlushTo(Sequence(1))), 50);
        assert_eq!(stream.next_at(), Some(50));
        assert_eq!(stream.pop(), Some(Frame::Ping(Timestamp(1))));
        stream.clogged_until = 90;
        assert_eq!(stream.next_at(), Some(90));
        stream.cut(0);
        assert_eq!(stream.next_at(), None);
        stream.push(95, Frame::Ready);
        assert_eq!(stream.next_at(), None, "a stream has no holes");
    }

    #[test]
    fn cuts_nest_and_have_a_direction() {
        let mut net = Net::new(2);
        net.cut(0, 1);
        net.cut(0, 1);
        net.heal(0, 1);
        assert!(net.is_cut(0, 1) && !net.is_cut(1, 0));
        net.heal(0, 1);
        assert!(!net.is_cut(0, 1));
    }

    #[test]
    fn each_end_has_its_own_newest_connection() {
        let mut net = Net::new(3);
        let old = net.connect(0, 1, false);
        let new = net.connect(1, 0, false);
        net.link(old).ends[0] = End::Gone;
        assert_eq!(net.newest(0, 1), Some(new));
        let end = net.link(new).end_of(1);
        net.link(new).ends[end] = End::Gone;
        assert_eq!(net.newest(1, 0), Some(old));
        assert_eq!(net.newest(0, 2), None);
        assert_eq!(LinkIndex::of(new.id()), new);
    }
}
