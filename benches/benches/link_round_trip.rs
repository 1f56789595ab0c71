//! What a replicated write costs on the link: a 4 KiB write one way, its acknowledgement the other, with so many
//! writes under way. Both nodes are on one thread, so the CPU time is that of both sides together; no disk, no
//! engine. `wall` is the time that passed meanwhile: on one thread it is the same work, plus waiting for the kernel.
//!
//! Loopback carries datagrams of 8,952 bytes. For those of an ordinary network, in a network namespace:
//! `unshare -n sh -c 'ip link set lo mtu 1500 up; cargo bench -p evenkeel-benches --bench link_round_trip'`.

mod cpu_time;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cpu_time::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main, measurement::Measurement};
use evenkeel_core::{
    ids::Sequence,
    volume::{
        codec::PayloadChecksum,
        io::{Channel, LinkId},
        wire::Frame,
    },
};
use evenkeel_driver::{
    identity::Identity,
    link::{Endpoint, EndpointConfig, LinkEvent, PeerAddress, PeerKey, VolumeKey},
};
use evenkeel_nbd::buffer::BufferPool;
use tokio::{runtime, task::LocalSet};

const PEER: PeerKey = PeerKey(0);
const VOLUME: VolumeKey = VolumeKey(0);
const LEN: usize = 4096;

/// Two nodes with a link between them.
struct Pair {
    runtime: runtime::Runtime,
    local: LocalSet,
    primary: Rc<Endpoint>,
    replica: Rc<Endpoint>,
    /// The primary's name of the link, and the replica's.
    links: [LinkId; 2],
    payload: Bytes,
    checksum: PayloadChecksum,
    sequence: u64,
}

fn bind(name: &str) -> (Rc<Endpoint>, PeerAddress) {
    let identity = Identity::ephemeral().expect("an identity");
    let fingerprint = identity.fingerprint();
    let endpoint = Endpoint::bind(EndpointConfig {
        cluster: "bench".into(),
        node: name.into(),
        identity: identity.into(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        idle_timeout: Duration::from_secs(30),
        window_bytes: 64 << 20,
        buffers: BufferPool::new(256 << 20),
    })
    .expect("bound");
    let address = endpoint.local_address();
    (Rc::new(endpoint), PeerAddress { name: name.into(), address, fingerprint })
}

fn meet(endpoint: &Endpoint, peer: PeerAddress) {
    endpoint.add_peer(PEER, peer, &[(VOLUME, "r0")]).expect("a good peer");
    endpoint.enable(PEER, VOLUME);
}

async fn up(endpoint: &Endpoint) -> LinkId {
    let mut events = Vec::new();
    loop {
        endpoint.events(&mut events).await;
        for event in events.drain(..) {
            if let LinkEvent::Up { link, .. } = event {
                return link;
            }
        }
    }
}

/// Answers each burst of writes with one acknowledgement.
async fn apply(replica: Rc<Endpoint>, link: LinkId) {
    let mut events = Vec::new();
    loop {
        replica.events(&mut events).await;
        let mut applied = None;
        for event in events.drain(..) {
            if let LinkEvent::Frame { frame: Frame::Write { sequence, .. }, .. } = event {
                applied = Some(sequence);
            }
        }
        if let Some(upto) = applied {
            replica.send(link, Channel::Data, &Frame::Applied { upto, also: Vec::new() }, None);
        }
    }
}

impl Pair {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = LocalSet::new();
        let (primary, replica, links) = local.block_on(&runtime, async {
            let (primary, at_primary) = bind("alpha");
            let (replica, at_replica) = bind("beta");
            meet(&primary, at_replica);
            meet(&replica, at_primary);
            let links = [up(&primary).await, up(&replica).await];
            tokio::task::spawn_local(apply(replica.clone(), links[1]));
            (primary, replica, links)
        });
        let payload = Bytes::from_owner(vec![0xA5; LEN]);
        let checksum = PayloadChecksum::of(&payload);
        let mut pair = Self { runtime, local, primary, replica, links, payload, checksum, sequence: 0 };
        // Until the path's datagram size is found.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            pair.write(1000, 8);
        }
        pair
    }

    /// So many writes, so many of them under way at a time.
    fn write(&mut self, count: u64, depth: u64) {
        let (primary, link, checksum) = (self.primary.clone(), self.links[0], self.checksum);
        let first = self.sequence;
        self.sequence += count;
        let (last, payload) = (self.sequence, self.payload.clone());
        self.local.block_on(&self.runtime, async move {
            let (mut sent, mut applied) = (first, first);
            let mut events = Vec::new();
            while applied < last {
                while sent < last && sent - applied < depth {
                    sent += 1;
                    let (sequence, after) = (Sequence(sent), Sequence::ZERO);
                    let frame =
                        Frame::Write { sequence, after, offset: 0, payload: payload.clone(), fua: false };
                    primary.send(link, Channel::Data, &frame, Some(checksum));
                }
                primary.events(&mut events).await;
                for event in events.drain(..) {
                    match event {
                        LinkEvent::Frame { frame: Frame::Applied { upto, .. }, .. } => applied = upto.0,
                        LinkEvent::Frame { .. } | LinkEvent::Up { .. } | LinkEvent::Problem { .. } => {}
                        LinkEvent::Down { reason, .. } => panic!("the link ended: {reason:?}"),
                    }
                }
            }
        });
    }
}

fn round_trips(criterion: &mut Criterion<CpuTime>) {
    let mut pair = Pair::new();
    let mut group = criterion.benchmark_group("write 4KiB and its acknowledgement, both sides");
    group.throughput(Throughput::Elements(1));
    for depth in [1, 8, 32, 128] {
        group.bench_function(format!("depth {depth} cpu"), |bencher| {
            bencher.iter_custom(|count| {
                let started = CpuTime.start();
                pair.write(count, depth);
                CpuTime.end(started)
            });
        });
        group.bench_function(format!("depth {depth} wall"), |bencher| {
            bencher.iter_custom(|count| {
                let started = Instant::now();
                pair.write(count, depth);
                started.elapsed()
            });
        });
    }
    group.finish();
    assert!(pair.replica.status(PEER).is_some(), "the replica lived to the end");
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = round_trips
}
criterion_main!(benches);
