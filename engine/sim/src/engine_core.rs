//! The real engine behind the simulator's seam: `evenkeel_core`'s volume with a small activity log, so that a
//! device of a megabyte already makes extents come and go.

use bytes::Bytes;
use evenkeel_core::{
    ids::{AttachCounter, NodeId, PeerIndex, Timestamp},
    meta::{
        geometry::{Geometry, MIN_BLOCK_BYTES, MIN_EXTENT_BYTES, MIN_SLOTS},
        layout::{Layout, PAGE_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_STRIDE},
        superblock_pair::{Expectations, SuperblockPair},
    },
    volume::{
        self, Origin, Volume,
        config::{RunInfo, VolumeConfig},
        io::{Action, Event},
        status::Status,
    },
};

use crate::engine::{CreateSpec, Engine, FileFacts, Memory, MetaFacts};

fn geometry(size_bytes: u64) -> Geometry {
    Geometry::new(size_bytes, MIN_BLOCK_BYTES, MIN_EXTENT_BYTES, MIN_SLOTS).expect("within the limits")
}

impl Engine for Volume {
    type Settings = ();

    const INSPECTS: bool = true;
    const ENCODES: bool = true;
    const LEAVES_EQUAL: bool = true;

    fn meta_len(size_bytes: u64, peers: usize, (): &()) -> u64 {
        let geometry = geometry(size_bytes);
        let layout = Layout::new(geometry, PeerIndex::all().take(peers)).expect("within the limits");
        // A growth writes every bitmap anew, beside the old one.
        layout.end() + peers as u64 * u64::from(geometry.bitmap_pages()) * PAGE_BYTES as u64
    }

    fn create(spec: &CreateSpec, (): &()) -> Vec<(u64, Bytes)> {
        let node = NodeId(spec.node_id);
        let origin = if spec.remembered { Origin::Blank } else { Origin::New };
        let peers = spec.config.peer_names.len();
        let spec = volume::CreateSpec { node, geometry: geometry(spec.size_bytes), peers, origin };
        volume::create(&spec).expect("few peers").into_iter().flatten().collect()
    }

    fn attach(
        config: VolumeConfig,
        run: RunInfo,
        files: FileFacts,
        (): &(),
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Self {
        let files = volume::FileFacts {
            meta_bytes: files.meta_len,
            data_bytes: files.data_len,
            reads_media: false,
            remembered: volume::Remembered {
                attach_counter: Some(AttachCounter(files.remembered.attach)),
                highest_term: files.remembered.term,
                ..volume::Remembered::default()
            },
        };
        Self::attach(config, run, files, now, actions)
    }

    fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) {
        Self::handle(self, now, event, actions);
    }

    fn status(&self) -> Status {
        Self::status(self)
    }

    fn to_remember(&self) -> Memory {
        self.stable_superblock().map_or_else(Memory::default, |superblock| Memory {
            attach: superblock.attach_counter.0,
            term: superblock.highest_term,
        })
    }

    fn inspect(meta: &[u8]) -> Option<MetaFacts> {
        let second = usize::try_from(SUPERBLOCK_STRIDE).expect("small");
        let expectations = Expectations {
            metadata_bytes: meta.len() as u64,
            data_bytes: None,
            cluster: None,
            volume: None,
            node: None,
            attach_counter: None,
            instance: None,
        };
        let opened = SuperblockPair::open(
            meta.get(..SUPERBLOCK_BYTES),
            meta.get(second..second + SUPERBLOCK_BYTES),
            &expectations,
        )
        .ok()?;
        let superblock = opened.pair.current();
        Some(MetaFacts {
            term: superblock.highest_term.map_or(0, |term| term.number),
            attach: superblock.attach_counter.0,
        })
    }
}
