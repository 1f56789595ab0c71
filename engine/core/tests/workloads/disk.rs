//! A node's disk: three blocks of data that matter, and the metadata.
//!
//! An action takes effect when it ends. A process that dies leaves any of the writes that were under way; a machine
//! that loses power leaves, of what no flush covered, any subset. Both are enumerated, not drawn.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use evenkeel_core::volume::{
    io::{Action, Area, DiskTag, Event},
    span::ByteSpan,
};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a block, of the dirty bitmap and of the workloads.
pub(crate) const BLOCK: u64 = 4096;
/// The same in memory, and a page of the metadata.
const PAGE: usize = 4096;
/// Blocks that are written to.
pub(crate) const BLOCKS: usize = 3;
/// Where they are: two in one extent of the activity log, one in another.
pub(crate) const PLACES: [u64; BLOCKS] = [0, BLOCK, 64 << 10];
/// Bytes of the device; all but the three blocks stay zero.
pub(crate) const SIZE: u64 = 128 << 10;
/// Bytes of the metadata.
pub(crate) const META: u64 = 160 << 10;
/// So many lost writes are enumerated in every combination; of more, each alone and each but one.
const EXHAUSTIVE: usize = 5;

/// What a block holds: the name of its write, zero for zeroes.
pub(crate) type Name = u8;

/// The three blocks.
pub(crate) type Image = [Name; BLOCKS];

/// A page of the metadata.
#[derive(Clone, Debug)]
struct Page {
    bytes: Arc<[u8; PAGE]>,
    hash: u64,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Crash {
    /// The process dies; the kernel keeps its cache.
    Process,
    /// The machine loses power.
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Change {
    block: usize,
    name: Name,
    /// A power loss does not take it.
    through: bool,
}

#[derive(Clone, Debug)]
enum Job {
    Read { area: Area, span: ByteSpan },
    Write(Vec<Change>),
    Flush { issued: u64 },
    Commit(Vec<(u64, Bytes)>),
}

/// What an action under way is, for the order in which such end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Read,
    Write,
    Flush,
    Commit,
}

/// An action that was begun and has not ended.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    /// When it was begun, among everything that waits.
    pub(crate) stamp: u64,
    tag: DiskTag,
    job: Job,
}

impl UnderWay {
    pub(crate) fn sort(&self) -> Sort {
        match self.job {
            Job::Read { .. } => Sort::Read,
            Job::Write(_) => Sort::Write,
            Job::Flush { .. } => Sort::Flush,
            Job::Commit(_) => Sort::Commit,
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// What a reader sees.
    pub(crate) cache: Image,
    /// What is on media.
    pub(crate) stable: Image,
    /// Answered and not known to be on media, in order, with the number of the answer.
    pending: Vec<(u64, Change)>,
    answered: u64,
    meta: Vec<Page>,
    pub(crate) under_way: Vec<UnderWay>,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("small")
}

fn block_at(offset: u64) -> Option<usize> {
    PLACES.iter().position(|&place| place == offset)
}

impl Disk {
    /// A new disk with this data, all of it stable.
    pub(crate) fn new(pieces: impl IntoIterator<Item = (u64, Bytes)>) -> Self {
        let zero = Page { bytes: Arc::new([0; PAGE]), hash: 0 };
        let mut disk = Self {
            cache: [0; BLOCKS],
            stable: [0; BLOCKS],
            pending: Vec::new(),
            answered: 0,
            meta: vec![zero; index(META / BLOCK)],
            under_way: Vec::new(),
        };
        for (offset, bytes) in pieces {
            disk.put_meta(offset, &bytes);
        }
        disk
    }

    fn put_meta(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = index(offset);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, start) = (at / PAGE, at % PAGE);
            let len = rest.len().min(PAGE - start);
            let page = &mut self.meta[page];
            Arc::make_mut(&mut page.bytes)[start..start + len].copy_from_slice(&rest[..len]);
            page.hash = xxh3_64(&page.bytes[..]);
            (at, rest) = (at + len, &rest[len..]);
        }
    }

    /// Names everything that a restart can see.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut pages: Vec<u8> = Vec::new();
        for page in &self.meta {
            pages.extend_from_slice(&page.hash.to_le_bytes());
        }
        pages.extend(self.cache.iter().chain(&self.stable));
        pages.extend(self.pending.iter().flat_map(|(_, change)| {
            [u8::try_from(change.block).expect("few"), change.name, u8::from(change.through)]
        }));
        xxh3_64(&pages)
    }

    /// Begins an action of the engine; what is none of a disk is the caller's.
    pub(crate) fn begin(&mut self, stamp: u64, action: Action) -> Option<Action> {
        let (tag, job) = match action {
            Action::Read { tag, area, span } => (tag, Job::Read { area, span }),
            Action::Write { tag, offset, payload, fua } => {
                let changes = payload.chunks(PAGE).zip((offset..).step_by(PAGE));
                (tag, Job::Write(changes.filter_map(|(data, at)| change(at, data, fua)).collect()))
            }
            Action::Zero { tag, span, mode: _, fua } => {
                let blocks = (span.offset..span.end()).step_by(PAGE).filter_map(block_at);
                (tag, Job::Write(blocks.map(|block| Change { block, name: 0, through: fua }).collect()))
            }
            Action::Flush { tag } => (tag, Job::Flush { issued: self.answered }),
            Action::Commit { tag, pieces } => (tag, Job::Commit(pieces)),
            Action::Extend { .. } => panic!("nothing grows here"),
            Action::Send { .. }
            | Action::CloseLink { .. }
            | Action::Reply { .. }
            | Action::WakeAt(_)
            | Action::Answer { .. }
            | Action::Notice(_) => return Some(action),
        };
        self.under_way.push(UnderWay { stamp, tag, job });
        None
    }

    /// Ends an action: it takes effect now.
    pub(crate) fn finish(&mut self, at: usize) -> Event {
        let UnderWay { tag, job, .. } = self.under_way.remove(at);
        match job {
            Job::Read { area, span } => return Event::ReadDone { tag, result: Ok(self.read(area, span)) },
            Job::Write(changes) => {
                for change in changes {
                    self.cache[change.block] = change.name;
                    self.pending.push((self.answered, change));
                }
            }
            Job::Flush { issued } => {
                let covered = self.pending.partition_point(|(answered, _)| *answered < issued);
                for (_, change) in self.pending.drain(..covered) {
                    self.stable[change.block] = change.name;
                }
            }
            Job::Commit(pieces) => {
                for (offset, bytes) in pieces {
                    self.put_meta(offset, &bytes);
                }
            }
        }
        self.answered += 1;
        Event::DiskDone { tag, result: Ok(()) }
    }

    fn read(&self, area: Area, span: ByteSpan) -> Bytes {
        let mut bytes = Vec::with_capacity(index(span.len));
        let mut at = span.offset;
        while at < span.end() {
            let page = at / BLOCK * BLOCK;
            let end = span.end().min(page + BLOCK);
            match area {
                Area::Meta => {
                    bytes.extend_from_slice(
                        &self.meta[index(page / BLOCK)].bytes[index(at - page)..index(end - page)],
                    );
                }
                Area::Data => {
                    let name = block_at(page).map_or(0, |block| self.cache[block]);
                    bytes.resize(bytes.len() + index(end - at), name);
                }
            }
            at = end;
        }
        bytes.into()
    }

    /// Every disk that a crash can leave.
    pub(crate) fn crashed(&self, crash: Crash) -> Vec<Self> {
        let mut base = self.clone();
        base.under_way.clear();
        let writes = self.under_way.iter().filter_map(|action| match &action.job {
            Job::Write(changes) => Some(changes),
            Job::Read { .. } | Job::Flush { .. } | Job::Commit(_) => None,
        });
        let begun: Vec<Change> =
            writes.flatten().map(|change| Change { through: false, ..*change }).collect();
        let mut disks = Vec::new();
        let mut seen = BTreeSet::new();
        match crash {
            Crash::Process => {
                for kept in subsets(begun.len()) {
                    let mut disk = base.clone();
                    for (change, _) in begun.iter().zip(&kept).filter(|(_, kept)| **kept) {
                        disk.cache[change.block] = change.name;
                        disk.pending.push((disk.answered, *change));
                    }
                    disk.answered += 1;
                    disks.push(disk);
                }
            }
            Crash::Power => {
                let open: Vec<Change> = base.pending.iter().map(|(_, change)| *change).chain(begun).collect();
                let free = open.iter().filter(|change| !change.through).count();
                for kept in subsets(free) {
                    let mut disk = base.clone();
                    let mut kept = kept.into_iter();
                    for change in &open {
                        if change.through || kept.next().expect("one for each") {
                            disk.stable[change.block] = change.name;
                        }
                    }
                    disk.pending.clear();
                    disk.cache = disk.stable;
                    if seen.insert(disk.stable) {
                        disks.push(disk);
                    }
                }
            }
        }
        self.with_commit(disks)
    }

    /// The same with every part of a commit that was under way: nothing, all, its first or its last piece.
    fn with_commit(&self, disks: Vec<Self>) -> Vec<Self> {
        let commit = self.under_way.iter().find_map(|action| match &action.job {
            Job::Commit(pieces) => Some(pieces),
            Job::Read { .. } | Job::Write(_) | Job::Flush { .. } => None,
        });
        let Some(pieces) = commit.filter(|pieces| !pieces.is_empty()) else { return disks };
        let parts = if pieces.len() == 1 {
            vec![&pieces[..]]
        } else {
            vec![&pieces[..], &pieces[..1], &pieces[pieces.len() - 1..]]
        };
        let mut all = disks.clone();
        for disk in disks {
            for part in &parts {
                let mut disk = disk.clone();
                for (offset, bytes) in *part {
                    disk.put_meta(*offset, bytes);
                }
                all.push(disk);
            }
        }
        all
    }
}

/// What a write does to the block at `offset`, if it is one that matters.
fn change(offset: u64, data: &[u8], through: bool) -> Option<Change> {
    let name = data[0];
    assert!(data.len() == PAGE && data.iter().all(|&byte| byte == name), "whole blocks are written");
    let block = block_at(offset);
    assert!(block.is_some() || name == 0, "a block was written that no client has written");
    block.map(|block| Change { block, name, through })
}

/// Which of `count` things are kept: every combination, or a bounded number of them.
fn subsets(count: usize) -> Vec<Vec<bool>> {
    if count <= EXHAUSTIVE {
        return (0..1_u32 << count).map(|set| (0..count).map(|at| set & 1 << at != 0).collect()).collect();
    }
    let one =
        |keep: bool| (0..count).map(move |chosen| (0..count).map(|at| (at == chosen) == keep).collect());
    [false, true].into_iter().map(|all| vec![all; count]).chain(one(true)).chain(one(false)).collect()
}
