//! Opening a disk: reading the metadata, taking account of what the last run left, and what the copy is worth
//! before any peer is met (P1, P7).
//!
//! ```text
//!   flush ──> Superblocks ──> ActivityLog ──> Bitmap(peer)… ──> bits of the replayed log and the attach stable ──> data flushed ──> Running
//! ```

use bytes::Bytes;

use super::{
    DiskState, Role,
    config::{RunInfo, VolumeConfig},
    disk_failure::Failure,
    entropy::Entropy,
    flush::Flushes,
    growth::Growing,
    io::{Action, Area, DiskError, Notice},
    operation::Purpose,
    peer::Peer,
    promotion::Resumption,
    range_lock::RangeLock,
    remote_read::RemoteReads,
    slab::Slab,
    span::ByteSpan,
    status::IoCounters,
    store::{Store, Then},
    verify::CheckId,
    volume::{Stage, Volume},
    write_log::WriteLog,
};
use crate::{
    generation::view::Power,
    ids::{AttachCounter, ClusterId, NodeId, PeerIndex, Sequence, Term, Timestamp, VolumeId},
    meta::{
        activity_log::ActivityLog,
        dirty_bitmap::{DirtyBitmap, Loader},
        layout::{PAGE_BYTES, REGIONS_START},
        superblock_pair::{Expectations, OpenError, Opened, SuperblockPair},
    },
};

/// Issued writes that may wait to become stable everywhere.
const WRITE_LOG_CAPACITY: usize = 16 << 10;
/// A crashed primary takes its role up again only within this time (P7).
const RESUME_WITHIN_NANOS: u64 = 120_000_000_000;

/// What is known of the files before they are read.
#[derive(Clone, Copy, Debug)]
pub struct FileFacts {
    /// Length of the metadata.
    pub meta_bytes: u64,
    /// Length of the data.
    pub data_bytes: u64,
    /// Whether reads of the data come from the device, past the kernel's cache, which may show what a failed flush has
    /// lost (`O_DIRECT`).
    pub reads_media: bool,
    /// What the state directory remembers.
    pub remembered: Remembered,
}

/// What a node keeps about a volume outside its metadata, so that other or older metadata are found and refused (D2,
/// D6). Only what is stable in the metadata belongs there: see [`Volume::stable_superblock`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// The cluster, once agreed.
    pub cluster: Option<ClusterId>,
    /// The volume, once agreed.
    pub volume: Option<VolumeId>,
    /// The node id of the metadata.
    pub node: Option<NodeId>,
    /// The attach counter.
    pub attach_counter: Option<AttachCounter>,
    /// The highest term: a copy that was set back must not take one that was used already (P4).
    pub highest_term: Option<Term>,
}

/// How far the reading is.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    files: FileFacts,
    step: Step,
    /// What the last run left.
    left: Option<Left>,
    /// The superblock that was not taken may have been the newer one (D6).
    may_be_old: bool,
    /// Both superblocks are whole: nothing newer can be missing.
    both_good: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Superblocks,
    Log(Box<SuperblockPair>),
    Bitmaps { pair: Box<SuperblockPair>, log: Box<ActivityLog>, damaged: bool, read: Vec<DirtyBitmap> },
    Stabilising,
}

/// What the last run left, from its superblock.
#[derive(Clone, Copy, Debug)]
struct Left {
    may_resume: bool,
    sure: bool,
}

impl Volume {
    /// Begins to open a disk. The metadata are read by the returned actions; the volume answers nothing before
    /// it has a [`Notice::Disk`].
    pub fn attach(
        config: VolumeConfig,
        run: RunInfo,
        files: FileFacts,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Self {
        assert_eq!(config.peer_names.len(), config.peer_names.len().min(crate::ids::MAX_PEERS));
        let peers = PeerIndex::all().take(config.peer_names.len()).map(Peer::new).collect();
        let mut volume = Self {
            entropy: Entropy::new(run.entropy),
            config,
            run,
            now,
            stage: Stage::Opening(Box::new(Opening {
                files,
                step: Step::Superblocks,
                left: None,
                may_be_old: false,
                both_good: false,
            })),
            store: None,
            role: Role::Secondary,
            disk: DiskState::Diskless,
            suspended: None,
            generation_due: false,
            promotion: None,
            promotion_waiters: Vec::new(),
            demotion: None,
            resumption: None,
            resync_paused: false,
            pace: super::pace::Pace::default(),
            last_resync: None,
            io: IoCounters::default(),
            verify: None,
            next_check: CheckId::default(),
            growth: Growing::default(),
            stream: None,
            heir: None,
            diskless: None,
            condemn_at: None,
            remote_reads: RemoteReads::default(),
            reads_media: false,
            peers,
            lock: RangeLock::new(),
            operations: Slab::new(),
            requests: Slab::new(),
            purposes: Slab::new(),
            log: WriteLog::new(WRITE_LOG_CAPACITY, Sequence::ZERO),
            flushes: Flushes::default(),
            waiting: std::collections::VecDeque::new(),
            too_far_ahead: false,
            inflight_bytes: 0,
            confirming: Vec::new(),
            withheld_reads: Vec::new(),
            attached_at: now,
            minute: (now, Sequence::ZERO),
            quiescing: Vec::new(),
            withheld: Vec::new(),
            parked: std::collections::VecDeque::new(),
            let_through: std::collections::VecDeque::new(),
            answerable: Vec::new(),
            out: Vec::new(),
            wake_at: None,
        };
        // What is read must be on stable media before anything is built on it: the last run may have died
        // between a write and its flush, and its last words be only in a cache (D3).
        let tag = volume.tag(Purpose::AttachFlush);
        volume.out.push(Action::Commit { tag, pieces: Vec::new() });
        actions.append(&mut volume.out);
        volume
    }

    pub(crate) fn on_attach_flush_done(&mut self, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.read_meta(ByteSpan { offset: 0, len: REGIONS_START }),
            Err(error) => {
                self.stage = Stage::Closed;
                self.fail_disk(Failure::Commit(error));
            }
        }
    }

    fn read_meta(&mut self, span: ByteSpan) {
        let tag = self.tag(Purpose::Attach);
        self.out.push(Action::Read { tag, area: Area::Meta, span });
    }

    /// The next part of the metadata is here.
    pub(crate) fn on_attach_read(&mut self, result: Result<Bytes, DiskError>) {
        let Stage::Opening(opening) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            panic!("metadata are read only while opening")
        };
        // What cannot be read is damage, and each part knows what to do about that.
        let bytes = result.unwrap_or_default();
        match self.open_next(*opening, &bytes) {
            Ok(opening) => self.stage = Stage::Opening(Box::new(opening)),
            Err(error) => self.notice(Notice::NotOpened(error)),
        }
    }

    fn open_next(&mut self, opening: Opening, bytes: &[u8]) -> Result<Opening, OpenError> {
        let Opening { files, step, left, mut may_be_old, mut both_good } = opening;
        let step = match step {
            Step::Superblocks => {
                let expectations = Expectations {
                    metadata_bytes: files.meta_bytes,
                    data_bytes: Some(files.data_bytes),
                    cluster: files.remembered.cluster,
                    volume: files.remembered.volume,
                    node: files.remembered.node,
                    ..Expectations::default()
                };
                let stride = usize::try_from(REGIONS_START / 2).expect("64 KiB");
                let copy = |at: usize| {
                    let from = at * stride;
                    bytes.get(from..from + crate::meta::layout::SUPERBLOCK_BYTES)
                };
                let opened = SuperblockPair::open(copy(0), copy(1), &expectations)?;
                may_be_old |= opened.may_be_old();
                // A flipped bit looks like a torn write: then this copy may be the older one after all.
                both_good = opened.other.is_none();
                if let Some(fault) = opened.other {
                    self.notice(Notice::MetadataDamaged(format!("one copy of the superblock: {fault}")));
                }
                let Opened { pair, .. } = opened;
                let found = pair.current().attach_counter;
                if let Some(remembered) = files.remembered.attach_counter.filter(|&counter| found < counter) {
                    may_be_old = true;
                    let text = format!(
                        "an older state was put back (attach {found}, and {remembered} was reached here): every block \
                         will be compared",
                        found = found.0,
                        remembered = remembered.0
                    );
                    self.notice(Notice::Older(text));
                }
                let region = pair.current().layout.log().bytes();
                self.read_meta(ByteSpan { offset: region.start, len: region.end - region.start });
                Step::Log(Box::new(pair))
            }
            Step::Log(pair) => {
                let (log, replay) = ActivityLog::open(&pair.current().layout, pair.current().node, bytes);
                let damaged = replay.everything_may_differ();
                if !replay.damaged.is_empty() {
                    let text = format!(
                        "{} pages of the activity log: every block will be compared",
                        replay.damaged.len()
                    );
                    self.notice(Notice::MetadataDamaged(text));
                }
                self.open_bitmaps(Step::Bitmaps { pair, log: Box::new(log), damaged, read: Vec::new() })
            }
            Step::Bitmaps { pair, log, damaged, mut read } => {
                let peer = PeerIndex::new(read.len()).expect("bitmaps are read peer by peer");
                let (layout, node) = (&pair.current().layout, pair.current().node);
                let region = layout.bitmap(peer).expect("only bitmaps of the layout are read");
                let mut loader = Loader::new(*layout.geometry(), region, node, peer);
                for page in bytes.chunks_exact(PAGE_BYTES) {
                    loader.page(Some(page));
                }
                let (bitmap, report) = loader.finish();
                if report.bad_pages() > 0 {
                    let text = format!(
                        "{} pages of a dirty bitmap: their blocks will be compared",
                        report.bad_pages()
                    );
                    self.notice(Notice::MetadataDamaged(text));
                }
                read.push(bitmap);
                self.open_bitmaps(Step::Bitmaps { pair, log, damaged, read })
            }
            Step::Stabilising => panic!("nothing is read after the bitmaps"),
        };
        let left = match (&self.store, left) {
            (Some(_), None) => Some(self.begin_run(files, may_be_old, both_good)),
            (_, left) => left,
        };
        Ok(Opening { files, step, left, may_be_old, both_good })
    }

    /// Reads the next bitmap, or goes on when all are there.
    fn open_bitmaps(&mut self, step: Step) -> Step {
        let Step::Bitmaps { pair, log, damaged, read } = step else { panic!("bitmaps are being read") };
        let next = PeerIndex::new(read.len()).and_then(|peer| pair.current().layout.bitmap(peer));
        if let Some(region) = next {
            let bytes = region.bytes();
            self.read_meta(ByteSpan { offset: bytes.start, len: bytes.end - bytes.start });
            return Step::Bitmaps { pair, log, damaged, read };
        }
        self.store = Some(Store::new(*pair, *log, damaged, read));
        Step::Stabilising
    }

    /// Takes account of what the last run left, before anything of it is overwritten.
    fn begin_run(&mut self, files: FileFacts, may_be_old: bool, both_good: bool) -> Left {
        let (run, peers) = (self.run, self.peers.len());
        let store = self.store_mut();
        let superblock = store.superblock();
        let flags = superblock.flags;
        let clean = superblock.was_shut_down_cleanly();
        let same_boot = superblock.boot == Some(run.boot);
        let recently = run
            .boot_clock_nanos
            .checked_sub(superblock.counted_at_boot_nanos)
            .is_some_and(|elapsed| elapsed < RESUME_WITHIN_NANOS);
        // What the kernel's cache shows is what the media have in another boot, or if every run of this one ended well: the
        // flush of a later run hides that one failed before (found by the simulator). (Such a failure may not have come as
        // far as the metadata, and older metadata know nothing of later runs.)
        let cache_is_new = !same_boot || superblock.instance.is_none();
        let ended_well = clean && !superblock.cache_in_doubt;
        let believed = (cache_is_new || ended_well) && !may_be_old;
        let reads_media = files.reads_media || believed;
        store.doubt_cache(!believed);
        store.begin_run(run, files.remembered.attach_counter);
        if let Some(term) = files.remembered.highest_term {
            store.raise_term(term);
        }
        let lost = store.evidence().power == Power::Lost;
        let others_are_old = PeerIndex::all().take(peers).all(|peer| store.is_known_to_be_old(peer));
        let left = Left {
            may_resume: flags.crashed_primary && same_boot && !lost && recently && both_good,
            // What a power loss took from this copy nobody has, if all others are older than its head.
            sure: both_good
                && flags.was_up_to_date
                && flags.entitled
                && ((clean || same_boot) && !lost || others_are_old),
        };
        if may_be_old {
            // As a disk that was set back (D6): never a source, compared whole.
            store.invalidate();
            store.give_up_past();
        }
        // G7: what the crash left open may differ on every peer; its bits are stable before the log lets go.
        self.store_mut().replay_log();
        self.store_mut().mark_unbelievable();
        self.store_mut().after_bitmaps(Then::Attached);
        self.reads_media = reads_media;
        left
    }

    /// Bits and attach are stable; now the data that a crashed process may have left in the kernel's cache.
    pub(crate) fn on_attached(&mut self) {
        let tag = self.tag(Purpose::FirstFlush);
        self.out.push(Action::Flush { tag });
    }

    pub(crate) fn on_first_flush_done(&mut self, result: Result<(), DiskError>) {
        if let Err(error) = result {
            self.stage = Stage::Closed;
            self.fail_disk(Failure::Flush(error));
            return;
        }
        if self.disk == DiskState::Failed {
            // The metadata failed meanwhile (W4; found by the simulator: it ran on a disk on which nothing is recorded).
            self.stage = Stage::Closed;
            return;
        }
        let Stage::Opening(opening) = std::mem::replace(&mut self.stage, Stage::Running) else {
            panic!("the first flush ends the opening")
        };
        let left = opening.left.expect("the superblock was read");
        let flags = self.store().flags();
        let alone = self.peers.is_empty();
        if alone && flags.fresh {
            let (id, replies) = (self.entropy.next_id(), self.replies());
            self.store_mut().make_first_generation(id, replies);
        }
        let good = flags.consistent || alone;
        let disk = match (good, left.sure || alone) {
            (false, _) => DiskState::Inconsistent,
            (true, true) => DiskState::UpToDate,
            (true, false) if !flags.was_up_to_date && !flags.fresh => DiskState::Outdated,
            (true, false) => DiskState::Consistent,
        };
        self.set_disk(disk);
        if left.may_resume {
            self.resumption = Some(Resumption::new(self.now, flags.entitled));
        }
    }
}
