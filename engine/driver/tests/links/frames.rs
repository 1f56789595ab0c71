//! Frames arrive whole, in order within their channel, and payloads at aligned addresses.

use bytes::Bytes;
use evenkeel_core::{
    ids::{Sequence, Timestamp},
    volume::{
        io::Channel,
        span::ByteSpan,
        wire::{BlockContent, Frame},
    },
};
use evenkeel_driver::link::{Cause, LinkEvent, PeerAddress, VolumeKey};
use evenkeel_nbd::buffer::ALIGNMENT;

use crate::node::{PEER, Pair, Runtime, Setup, VOLUME, assert_ended};

/// A source of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let start = self.next(251);
        (0..len as u64).map(|i| u8::try_from((start + i) % 251).expect("below 251")).collect()
    }

    fn frame(&mut self, channel: Channel, index: u64) -> Frame {
        match channel {
            Channel::Control => Frame::Ping(Timestamp(index)),
            Channel::Data => {
                let len = match self.next(20) {
                    0 => 1 << 20,
                    1 => usize::try_from(self.next(1 << 20)).expect("small") + 1,
                    2..=9 => 4096,
                    _ => usize::try_from(self.next(64 << 10)).expect("small") + 1,
                };
                let (sequence, after) = (Sequence(index + 1), Sequence::ZERO);
                Frame::Write {
                    sequence,
                    after,
                    offset: index * 4096,
                    payload: self.bytes(len),
                    fua: index.is_multiple_of(2),
                }
            }
            Channel::Resync => {
                let block = |numbers: &mut Self| match numbers.next(3) {
                    0 => BlockContent::Same,
                    1 => BlockContent::Zero,
                    _ => BlockContent::Data(numbers.bytes(4096)),
                };
                let blocks = (0..self.next(200) + 1).map(|_| block(self)).collect();
                Frame::Part { id: index, read_at: Sequence(index), blocks }
            }
        }
    }
}

const CHANNELS: [Channel; 3] = [Channel::Control, Channel::Data, Channel::Resync];

fn exchange(runtimes: [Runtime; 2]) {
    let mut pair = Pair::new(runtimes);
    let mut numbers = Numbers(7);
    let mut sent: [Vec<Frame>; 3] = Default::default();
    for _ in 0..40 {
        let mut burst = Vec::new();
        for _ in 0..=numbers.next(30) {
            let channel = usize::try_from(numbers.next(3)).expect("small");
            let frame = numbers.frame(CHANNELS[channel], sent[channel].len() as u64);
            sent[channel].push(frame.clone());
            burst.push((CHANNELS[channel], frame));
        }
        let link = pair.at_alpha;
        pair.alpha.call(move |endpoint| {
            for (channel, frame) in burst {
                endpoint.send(link, channel, &frame, None);
            }
        });
    }
    let total: usize = sent.iter().map(Vec::len).sum();
    let mut next = [0; 3];
    for _ in 0..total {
        let (link, channel, frame) = pair.beta.frame();
        assert_eq!(link, pair.at_beta);
        let index = CHANNELS.iter().position(|known| *known == channel).expect("one of three");
        assert_eq!(frame, sent[index][next[index]], "frame {} of {channel:?}", next[index]);
        if let Frame::Write { payload, .. } = &frame {
            assert_eq!(payload.as_ptr() as usize % ALIGNMENT, 0, "a payload that O_DIRECT cannot use");
        }
        next[index] += 1;
    }
    let link = pair.at_alpha;
    let queued: usize =
        CHANNELS.iter().map(|&channel| pair.alpha.call(move |e| e.queued_bytes(link, channel))).sum();
    assert_eq!(queued, 0, "everything was sent");
    pair.works();
}

#[test]
fn frames_arrive_whole_and_in_order_on_a_plain_runtime() {
    exchange([Runtime::Plain; 2]);
}

#[test]
fn frames_arrive_whole_and_in_order_on_tokio_uring() {
    exchange([Runtime::Uring; 2]);
}

#[test]
fn the_two_runtimes_talk_to_each_other() {
    Pair::new([Runtime::Plain, Runtime::Uring]).works();
}

/// A peer that is not read from any more runs out of its window; what waits is seen, and bounded.
#[test]
fn what_waits_is_seen_and_bounded() {
    let small = |name: &str| Setup { window_bytes: 1 << 20, ..Setup::new(name) };
    let (alpha, beta) = (small("alpha").start(), small("beta").start());
    alpha.meet("beta", beta.fingerprint, beta.address);
    beta.meet("alpha", alpha.fingerprint, alpha.address);
    let mut pair = Pair::linked(alpha, beta);
    let link = pair.at_alpha;
    let queued = pair.alpha.call(move |endpoint| {
        let payload = Bytes::from(vec![0; 1 << 20]);
        (0..8_u64)
            .map(|index| {
                let (sequence, after) = (Sequence(index + 1), Sequence::ZERO);
                let frame = Frame::Write { sequence, after, offset: 0, payload: payload.clone(), fua: false };
                endpoint.send(link, Channel::Data, &frame, None);
                endpoint.queued_bytes(link, Channel::Data)
            })
            .collect::<Vec<_>>()
    });
    assert!(queued[..3].is_sorted() && queued[2] > 3 << 20, "{queued:?}");
    assert_eq!(queued[7], 0, "the link is gone");
    let ending = pair.alpha.down(link);
    assert_ended(&ending, Cause::Overflow, "does not read");
    // It is made anew, and works.
    pair.at_alpha = pair.alpha.up();
    pair.beta.down(pair.at_beta);
    pair.at_beta = pair.beta.up();
    pair.works();
}

#[test]
fn volumes_have_links_of_their_own() {
    let pair = Pair::new([Runtime::Plain; 2]);
    let Pair { mut alpha, mut beta, at_alpha, .. } = pair;
    let second = VolumeKey(5);
    for (node, other) in [(&alpha, &beta), (&beta, &alpha)] {
        let peer =
            PeerAddress { name: other.name.clone(), address: other.address, fingerprint: other.fingerprint };
        node.call(move |endpoint| {
            endpoint.add_peer(PEER, peer, &[(VOLUME, "r0"), (second, "r1")]).expect("a good peer");
            endpoint.enable(PEER, second);
        });
    }
    let up = |event: &LinkEvent| match event {
        LinkEvent::Up { volume, link, .. } => Some((*volume, *link)),
        LinkEvent::Down { .. } => panic!("the first volume's link is not touched: {event:?}"),
        LinkEvent::Frame { .. } | LinkEvent::Problem { .. } => None,
    };
    let (volume, link) = alpha.wait("the second link", up);
    assert_eq!(volume, second);
    assert_eq!(beta.wait("the second link", up).0, second);
    let runs = Frame::Runs(vec![ByteSpan { offset: 0, len: 4096 }]);
    alpha.send(link, Channel::Resync, runs.clone());
    alpha.send(at_alpha, Channel::Control, Frame::Ping(Timestamp(9)));
    let mut frames = [beta.frame(), beta.frame()];
    frames.sort_by_key(|(_, channel, _)| *channel);
    assert_eq!(frames.map(|(_, _, frame)| frame), [Frame::Ping(Timestamp(9)), runs]);
}

/// More at once than a stranger may have.
#[test]
fn many_volumes_come_up_together() {
    const COUNT: u32 = 40;
    let alpha = Setup::new("alpha").start();
    let beta = Setup::new("beta").start();
    let names: Vec<String> = (0..COUNT).map(|index| format!("r{index}")).collect();
    for (node, other) in [(&alpha, &beta), (&beta, &alpha)] {
        let peer =
            PeerAddress { name: other.name.clone(), address: other.address, fingerprint: other.fingerprint };
        let names = names.clone();
        node.call(move |endpoint| {
            let volumes: Vec<_> = (0..COUNT).map(VolumeKey).zip(names.iter().map(String::as_str)).collect();
            endpoint.add_peer(PEER, peer, &volumes).expect("a good peer");
            volumes.iter().for_each(|(volume, _)| endpoint.enable(PEER, *volume));
        });
    }
    let mut nodes = [alpha, beta];
    for node in &mut nodes {
        let mut up = std::collections::BTreeSet::new();
        while up.len() < COUNT as usize {
            up.insert(node.wait("a link", |event| match event {
                LinkEvent::Up { volume, .. } => Some(*volume),
                LinkEvent::Down { .. } => panic!("a link that does not last: {event:?}"),
                LinkEvent::Frame { .. } | LinkEvent::Problem { .. } => None,
            }));
        }
    }
}
