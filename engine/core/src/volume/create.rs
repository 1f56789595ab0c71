//! Making the metadata of a new replica (design D2, G3).

use bytes::Bytes;

use crate::{
    generation::{
        history::History,
        view::{Power, Replies},
    },
    ids::{AttachCounter, ClusterId, Generation, GenerationId, MAX_PEERS, NodeId, PeerIndex, Term, VolumeId},
    meta::{
        activity_log::ActivityLog,
        dirty_bitmap::DirtyBitmap,
        geometry::Geometry,
        layout::{Layout, LayoutError},
        superblock::{Evidence, Flags, Superblock},
        superblock_pair::SuperblockPair,
    },
};

/// What the data of a new replica are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The data file was made together with the metadata and is all zeroes.
    New,
    /// The data exist and are good (`--adopt`); the id names their first generation and must be random.
    Adopted(GenerationId),
    /// The data exist, or existed, and are to be overwritten (`--blank`).
    Blank,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Random, never zero.
    pub node: NodeId,
    /// How the volume is divided.
    pub geometry: Geometry,
    /// Number of configured peers; there is room for as many bitmaps.
    pub peers: usize,
    /// What the data are worth.
    pub origin: Origin,
}

/// The stages of a creation: each is written and flushed before the next is begun.
///
/// # Errors
/// [`LayoutError`] if there are more peers than a volume can have.
pub fn create(spec: &CreateSpec) -> Result<Vec<Vec<(u64, Bytes)>>, LayoutError> {
    let layout = Layout::new(spec.geometry, PeerIndex::all().take(spec.peers))?;
    let piece = |write: crate::meta::layout::MetaWrite| (write.offset.0, write.bytes);
    let mut regions: Vec<(u64, Bytes)> = ActivityLog::format(&layout, spec.node).map(piece).collect();
    for peer in PeerIndex::all() {
        if let Some(region) = layout.bitmap(peer) {
            regions.extend(DirtyBitmap::format(region, spec.node, peer).map(piece));
        }
    }
    // It has data, unlike one of the first term.
    let generation = |id| Generation { id, term: Term { number: Term::FIRST + 1, node: spec.node } };
    let (history, good) = match spec.origin {
        Origin::Adopted(id) => {
            let mut history = History::empty();
            history.push(generation(id), &[]);
            (history, true)
        }
        Origin::New | Origin::Blank => (History::empty(), false),
    };
    let superblock = Superblock {
        cluster: history.head().map(|head| ClusterId(head.id.0)),
        volume: history.head().map(|head| VolumeId(head.id.0)),
        node: spec.node,
        highest_term: history.head().map(|head| head.term),
        history,
        layout,
        boot: None,
        instance: None,
        attach_counter: AttachCounter(0),
        given_up_at: AttachCounter::default(),
        counted_at_boot_nanos: 0,
        clean_shutdown: None,
        flags: Flags {
            fresh: spec.origin == Origin::New,
            consistent: good,
            was_up_to_date: good,
            crashed_primary: false,
            entitled: good,
        },
        // Nothing was replied to under this head, and what was adopted is as stable as its owner left it.
        evidence: Evidence { power: Power::SameRun, settled: true, replies: Replies::Together },
        cache_in_doubt: false,
        peers: [const { None }; MAX_PEERS],
    };
    let (_, [first, second]) = SuperblockPair::create(superblock);
    let blank = SuperblockPair::blank().map(piece).to_vec();
    Ok(vec![blank, regions, vec![piece(first)], vec![piece(second)]])
}
