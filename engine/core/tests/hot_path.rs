//! The hot path of a write allocates nothing: counted, not promised (design section 9).

#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use bytes::Bytes;
use evenkeel_core::{
    ids::{BootId, InstanceId, NodeId, Timestamp},
    meta::geometry::Geometry,
    volume::{
        CreateSpec, FileFacts, Origin, Remembered, Volume,
        config::{OnPeerLoss, Protocol, RunInfo, VolumeConfig},
        create,
        io::{Action, Area, ClientId, ClientOperation, CommandId, DiskTag, Event, RequestId},
        operator::{Force, OperatorCommand},
    },
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated now.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        LIVE.with(|live| live.set(live.get() + signed(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.with(|live| live.set(live.get() - signed(layout.size())));
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).expect("memory is smaller")
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: u64 = 1 << 30;
const DEPTH: u64 = 32;

/// A primary without peers whose disk answers at once.
struct Alone {
    volume: Volume,
    meta: Vec<u8>,
    now: Timestamp,
}

impl Alone {
    /// Opens a new volume with so many peers, none of which is there.
    fn open(size: u64, slots: u32, peers: usize) -> Self {
        let geometry = Geometry::new(size, 4096, 4 << 20, slots).expect("valid");
        let spec = CreateSpec { node: NodeId(1), geometry, peers, origin: Origin::New };
        let pieces: Vec<(u64, Bytes)> = create(&spec).expect("valid").into_iter().flatten().collect();
        let end = pieces.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max().expect("some");
        let mut meta = vec![0; usize::try_from(end).expect("small")];
        for (offset, bytes) in pieces {
            let at = usize::try_from(offset).expect("small");
            meta[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let config = VolumeConfig {
            name: "r0".to_owned(),
            node_name: "alpha".to_owned(),
            peer_names: vec!["beta".to_owned(); peers],
            size_bytes_max: 1 << 40,
            protocol: Protocol::C,
            on_peer_loss: OnPeerLoss::Continue,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            max_inflight_bytes: 64 << 20,
            max_inflight_writes: 1024,
        };
        let run = RunInfo { boot: BootId(1), instance: InstanceId(1), boot_clock_nanos: 0, entropy: 7 };
        let files = FileFacts {
            meta_bytes: end,
            data_bytes: size,
            reads_media: false,
            remembered: Remembered::default(),
        };
        let now = Timestamp(1);
        let mut actions = Vec::new();
        let volume = Volume::attach(config, run, files, now, &mut actions);
        let mut alone = Self { volume, meta, now };
        alone.settle(&mut actions);
        alone
    }

    fn primary() -> Self {
        let mut alone = Self::open(SIZE, 4096, 0);
        let (now, mut actions) = (alone.now, Vec::new());
        let command = OperatorCommand::Primary(Force::No);
        alone.volume.handle(now, Event::Command { id: CommandId(1), command }, &mut actions);
        alone.settle(&mut actions);
        alone
    }

    /// Carries out actions until none are left; returns how many replies there were.
    fn settle(&mut self, actions: &mut Vec<Action>) -> u64 {
        let mut replies = 0;
        while let Some(action) = actions.pop() {
            let done = |tag: DiskTag| Event::DiskDone { tag, result: Ok(()) };
            let event = match action {
                Action::Read { tag, area, span } => {
                    assert_eq!(area, Area::Meta, "nothing reads data here");
                    let at = usize::try_from(span.offset).expect("small");
                    let end = usize::try_from(span.end()).expect("small");
                    Event::ReadDone { tag, result: Ok(Bytes::copy_from_slice(&self.meta[at..end])) }
                }
                Action::Write { tag, .. } | Action::Zero { tag, .. } | Action::Flush { tag } => done(tag),
                Action::Commit { tag, pieces } => {
                    for (offset, bytes) in pieces {
                        let at = usize::try_from(offset).expect("small");
                        self.meta[at..at + bytes.len()].copy_from_slice(&bytes);
                    }
                    done(tag)
                }
                Action::Reply { result, .. } => {
                    result.expect("nothing fails here");
                    replies += 1;
                    continue;
                }
                Action::WakeAt(_) | Action::Notice(_) | Action::Answer { .. } => continue,
                Action::Send { .. } | Action::CloseLink { .. } => panic!("there are no peers"),
                Action::Extend { .. } => panic!("nothing grows here"),
            };
            self.volume.handle(self.now, event, actions);
        }
        replies
    }

    /// One burst of writes at a queue depth of [`DEPTH`], into extents that earlier rounds made hot.
    fn burst(&mut self, round: u64, payload: &Bytes, actions: &mut Vec<Action>) -> u64 {
        let mut replies = 0;
        for at in 0..DEPTH {
            let offset = (round * DEPTH + at) % 4096 * 4096;
            let operation = ClientOperation::Write { offset, payload: payload.clone(), fua: false };
            let event = Event::Request { client: ClientId(1), id: RequestId(at), operation };
            self.volume.handle(self.now, event, actions);
        }
        replies += self.settle(actions);
        let flush =
            Event::Request { client: ClientId(1), id: RequestId(99), operation: ClientOperation::Flush };
        self.volume.handle(self.now, flush, actions);
        replies + self.settle(actions)
    }
}

#[test]
fn a_hot_write_allocates_nothing() {
    let mut alone = Alone::primary();
    let payload = Bytes::from(vec![7; 4096]);
    let mut actions = Vec::with_capacity(1024);
    for round in 0..256 {
        assert_eq!(alone.burst(round, &payload, &mut actions), DEPTH + 1);
    }
    let before = ALLOCATIONS.with(Cell::get);
    for round in 0..256 {
        assert_eq!(alone.burst(round, &payload, &mut actions), DEPTH + 1);
    }
    let allocated = ALLOCATIONS.with(Cell::get) - before;
    assert_eq!(allocated, 0, "allocations in {} hot writes", 256 * DEPTH);
}

/// Issue bound: 4 MiB for a clean volume of 1 TiB with one peer (the activity log of 65,536 slots included).
#[test]
fn a_clean_tebibyte_with_a_peer_costs_at_most_4_mib() {
    let before = LIVE.with(Cell::get);
    let alone = Alone::open(1 << 40, 65_536, 1);
    let meta = signed(alone.meta.capacity());
    let live = LIVE.with(Cell::get) - before - meta;
    assert!(meta > 32 << 20, "the metadata of a tebibyte were read");
    assert!(live <= 4 << 20, "{live} bytes for a clean tebibyte");
    assert_eq!(alone.volume.status().peers.len(), 1);
}
