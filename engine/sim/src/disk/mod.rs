//! The disk of a node: two files, actions under way, and everything that disks do wrong.
//!
//! An action takes effect when it ends, so overlapping actions that are under way together end in an order of
//! the disk's own choosing. A process that dies leaves its caches (the kernel has them) and any part of what was
//! under way; a machine that loses power leaves any part of what was not flushed. One armed fault hits one
//! action, the next that it fits.

mod area;

use bytes::Bytes;
use evenkeel_core::volume::{
    io::{Action, Area as AreaName, DiskError, DiskTag, Event},
    span::ByteSpan,
};

use self::area::{Area, Content};
use crate::{decision::Stream, payload::SECTOR};

/// A fault that waits for an action that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// The next read of this file fails.
    Read(AreaName),
    /// The next write fails; any part of it is there.
    Write(DiskError),
    /// The next flush fails; half of what it should have saved never reaches the media.
    Flush,
    /// The next commit fails; any part of it is there.
    Commit(DiskError),
    /// The next write is answered and never done.
    Lost,
    /// The next write goes somewhere else in the same file.
    Misdirected,
    /// The next write goes into the metadata file.
    MisdirectedToMeta,
}

#[derive(Debug)]
enum Job {
    Read { area: AreaName, span: ByteSpan },
    Write { offset: usize, content: Content, through: bool, place: Place },
    Flush { issued: u64 },
    Commit { pieces: Vec<(u64, Bytes)> },
    Extend { span: ByteSpan },
}

/// Where a write really goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Right,
    Nowhere,
    Elsewhere,
    Meta,
}

#[derive(Debug)]
struct UnderWay {
    tag: DiskTag,
    job: Job,
    failure: Option<DiskError>,
}

/// A copy of both files, taken at some time.
#[derive(Debug)]
struct Snapshot {
    data: Vec<u8>,
    meta: Vec<u8>,
    /// What counted the attaches when it was taken.
    attach: u64,
}

/// A node's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    data: Area,
    /// How long the data file is; what lies behind is only the simulator's.
    data_len: usize,
    meta: Area,
    jobs: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    answered: u64,
    armed: Vec<DiskFault>,
    /// Whether an armed fault may strike now: the atlas wants another good copy at that moment.
    may_strike: bool,
    /// An armed fault has struck since that was last asked.
    struck: bool,
    snapshot: Option<Snapshot>,
    /// Actions that begin before this time (global, nanoseconds) end after it.
    pub(crate) stalled_until: u64,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("simulated disks are small")
}

impl Disk {
    /// A disk with room for files of these lengths, and nothing on it.
    pub(crate) fn empty(data_len_max: u64, meta_len: u64) -> Self {
        Self { data_len: 0, ..Self::new(data_len_max, meta_len) }
    }

    /// A disk with files of these lengths, all zeroes.
    fn new(data_len: u64, meta_len: u64) -> Self {
        Self {
            data: Area::new(index(data_len)),
            data_len: index(data_len),
            meta: Area::new(index(meta_len)),
            jobs: Vec::new(),
            free: Vec::new(),
            answered: 0,
            armed: Vec::new(),
            may_strike: true,
            struck: false,
            snapshot: None,
            stalled_until: 0,
        }
    }

    /// Makes both files anew: data of this length, all zeroes, metadata from these pieces.
    pub(crate) fn create(&mut self, pieces: &[(u64, Bytes)], data_len: u64) {
        let mut meta = vec![0; self.meta.cache().len()];
        for (offset, bytes) in pieces {
            meta[index(*offset)..index(*offset) + bytes.len()].copy_from_slice(bytes);
        }
        self.meta.replace(&meta);
        self.data.replace(&vec![0; self.data.cache().len()]);
        // What is restored later may need what was there before.
        self.data_len = self.data_len.max(index(data_len));
    }

    /// Length of the data file.
    pub(crate) fn data_len(&self) -> u64 {
        self.data_len as u64
    }

    /// The data as its reader sees it; zeroes behind the end of the file.
    pub(crate) fn data(&self) -> &[u8] {
        self.data.cache()
    }

    /// The data on media.
    pub(crate) fn stable_data(&self) -> &[u8] {
        self.data.stable()
    }

    /// The data that a power loss leaves at least.
    pub(crate) fn certain_data(&self) -> Vec<u8> {
        self.data.certain()
    }

    /// The metadata on media.
    pub(crate) fn stable_meta(&self) -> &[u8] {
        self.meta.stable()
    }

    /// The metadata as its reader sees it.
    pub(crate) fn meta(&self) -> &[u8] {
        self.meta.cache()
    }

    /// Lays a fault in wait.
    pub(crate) fn arm(&mut self, fault: DiskFault) {
        self.armed.push(fault);
    }

    /// Takes every waiting fault away.
    pub(crate) fn disarm(&mut self) {
        self.armed.clear();
        self.stalled_until = 0;
    }

    /// Whether armed faults may strike from now on, or wait for a better moment.
    pub(crate) fn may_strike(&mut self, may: bool) {
        self.may_strike = may;
    }

    /// Whether an armed fault has struck since this was last asked.
    pub(crate) fn has_struck(&mut self) -> bool {
        std::mem::take(&mut self.struck)
    }

    fn take_fault<T>(&mut self, fits: impl Fn(DiskFault) -> Option<T>) -> Option<T> {
        if !self.may_strike {
            return None;
        }
        let place = self.armed.iter().position(|fault| fits(*fault).is_some())?;
        self.struck = true;
        fits(self.armed.remove(place))
    }

    /// Begins an action; the answer is asked for with [`Disk::finish`]. Anything but a disk action is a mistake
    /// of the caller.
    pub(crate) fn begin(&mut self, action: Action) -> usize {
        let (tag, job, failure) = match action {
            Action::Read { tag, area, span } => {
                let failure =
                    self.take_fault(|fault| (fault == DiskFault::Read(area)).then_some(DiskError::Io));
                (tag, Job::Read { area, span }, failure)
            }
            Action::Write { tag, offset, payload, fua } => {
                self.begin_write(tag, index(offset), Content::Data(payload), fua)
            }
            Action::Zero { tag, span, mode: _, fua } => {
                self.begin_write(tag, index(span.offset), Content::Zero(index(span.len)), fua)
            }
            Action::Flush { tag } => {
                let failure = self.take_fault(|fault| (fault == DiskFault::Flush).then_some(DiskError::Io));
                (tag, Job::Flush { issued: self.answered }, failure)
            }
            Action::Commit { tag, pieces } => {
                let failure = self.take_fault(|fault| match fault {
                    DiskFault::Commit(error) => Some(error),
                    _ => None,
                });
                (tag, Job::Commit { pieces }, failure)
            }
            Action::Extend { tag, data, meta } => {
                assert!(index(data.end()) <= self.data.cache().len(), "a volume that grew too large");
                assert!(index(meta.end()) <= self.meta.cache().len(), "metadata that grew too large");
                let no_space = DiskFault::Write(DiskError::NoSpace);
                let failure = self.take_fault(|fault| (fault == no_space).then_some(DiskError::NoSpace));
                (tag, Job::Extend { span: data }, failure)
            }
            other => unreachable!("not a disk action: {other:?}"),
        };
        let job = Some(UnderWay { tag, job, failure });
        match self.free.pop() {
            Some(slot) => {
                self.jobs[slot] = job;
                slot
            }
            None => {
                self.jobs.push(job);
                self.jobs.len() - 1
            }
        }
    }

    fn begin_write(
        &mut self,
        tag: DiskTag,
        offset: usize,
        content: Content,
        through: bool,
    ) -> (DiskTag, Job, Option<DiskError>) {
        assert!(offset + content.len() <= self.data_len, "the engine wrote past the end of the data");
        let failure = self.take_fault(|fault| match fault {
            DiskFault::Write(error) => Some(error),
            _ => None,
        });
        let place = self
            .take_fault(|fault| match fault {
                DiskFault::Lost => Some(Place::Nowhere),
                DiskFault::Misdirected => Some(Place::Elsewhere),
                DiskFault::MisdirectedToMeta => Some(Place::Meta),
                _ => None,
            })
            .unwrap_or(Place::Right);
        (tag, Job::Write { offset, content, through, place }, failure)
    }

    /// Whether the action in this slot is a commit of metadata.
    pub(crate) fn is_commit(&self, slot: usize) -> bool {
        matches!(&self.jobs[slot], Some(UnderWay { job: Job::Commit { .. }, .. }))
    }

    /// Ends an action: it takes effect now, and this is what the engine hears.
    pub(crate) fn finish(&mut self, slot: usize, draws: &mut Stream) -> Event {
        let UnderWay { tag, job, failure } = self.jobs[slot].take().expect("an action ends once");
        self.free.push(slot);
        // What was to fail may have become the last good copy since the action began.
        let failure = failure.filter(|_| self.may_strike);
        self.struck |= failure.is_some();
        let answered = self.answered;
        self.answered += 1;
        match job {
            Job::Read { area, span } => {
                let result = match failure {
                    Some(error) => Err(error),
                    None => Ok(self.read(area, span)),
                };
                Event::ReadDone { tag, result }
            }
            Job::Write { offset, content, through, place } => {
                if failure.is_some() {
                    self.data.write_partly(offset, &content, answered, draws);
                } else {
                    self.apply(offset, content, answered, through, place, draws);
                }
                Event::DiskDone { tag, result: failure.map_or(Ok(()), Err) }
            }
            Job::Flush { issued } => {
                match failure {
                    Some(_) => self.data.fail_flush(issued, draws),
                    None => self.data.flush(issued),
                }
                Event::DiskDone { tag, result: failure.map_or(Ok(()), Err) }
            }
            Job::Commit { pieces } => {
                for (offset, bytes) in pieces {
                    if failure.is_some() {
                        self.meta.write_partly(index(offset), &Content::Data(bytes), answered, draws);
                    } else {
                        self.meta.write(index(offset), Content::Data(bytes), answered, true);
                    }
                }
                if failure.is_none() {
                    self.meta.flush(answered + 1);
                }
                Event::DiskDone { tag, result: failure.map_or(Ok(()), Err) }
            }
            Job::Extend { span } => {
                if failure.is_none() {
                    let content = Content::Zero(index(span.len));
                    self.data.write(index(span.offset), content, answered, true);
                    self.data_len = self.data_len.max(index(span.end()));
                }
                Event::DiskDone { tag, result: failure.map_or(Ok(()), Err) }
            }
        }
    }

    fn apply(
        &mut self,
        offset: usize,
        content: Content,
        answered: u64,
        through: bool,
        place: Place,
        draws: &mut Stream,
    ) {
        match place {
            Place::Right => self.data.write(offset, content, answered, through),
            Place::Nowhere => {}
            Place::Elsewhere => {
                let places = (self.data_len - content.len()) / SECTOR + 1;
                self.data.write(draws.index(places) * SECTOR, content, answered, through);
            }
            Place::Meta => {
                let places = self.meta.cache().len().saturating_sub(content.len()) / SECTOR;
                if places > 0 {
                    self.meta.write(draws.index(places) * SECTOR, content, answered, through);
                }
            }
        }
    }

    fn read(&self, area: AreaName, span: ByteSpan) -> Bytes {
        let bytes = match area {
            AreaName::Data => self.data.cache(),
            AreaName::Meta => self.meta.cache(),
        };
        Bytes::copy_from_slice(&bytes[index(span.offset)..index(span.end())])
    }

    /// The process dies: what was under way is there in part, what was answered is in the kernel's cache.
    pub(crate) fn kill(&mut self, draws: &mut Stream) {
        self.free.clear();
        let answered = self.answered;
        for job in std::mem::take(&mut self.jobs).into_iter().flatten() {
            match job.job {
                Job::Read { .. } | Job::Flush { .. } | Job::Extend { .. } => {}
                Job::Write { offset, content, .. } => {
                    self.data.write_partly(offset, &content, answered, draws);
                }
                Job::Commit { pieces } => {
                    for (offset, bytes) in pieces {
                        self.meta.write_partly(index(offset), &Content::Data(bytes), answered, draws);
                    }
                }
            }
        }
        self.answered += 1;
    }

    /// The machine loses power.
    pub(crate) fn lose_power(&mut self, draws: &mut Stream) {
        self.kill(draws);
        self.data.lose_power(draws);
        self.meta.lose_power(draws);
    }

    /// Keeps a copy of what is on media, to be put back later.
    pub(crate) fn take_snapshot(&mut self, attach: u64) {
        let (data, meta) = (self.data.stable().to_vec(), self.meta.stable().to_vec());
        self.snapshot = Some(Snapshot { data, meta, attach });
    }

    /// What counted the attaches when the copy was taken, if there is one.
    pub(crate) fn snapshot_attach(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.attach)
    }

    /// Puts the copy back, of either file or of both.
    pub(crate) fn restore_snapshot(&mut self, data: bool, meta: bool) {
        if let Some(snapshot) = &self.snapshot {
            if data {
                self.data.replace(&snapshot.data);
            }
            if meta {
                self.meta.replace(&snapshot.meta);
            }
        }
    }

    /// Flips one bit of a file; where, is drawn.
    pub(crate) fn flip_bit(&mut self, area: AreaName, draws: &mut Stream) {
        let (area, len) = match area {
            AreaName::Data => (&mut self.data, self.data_len),
            AreaName::Meta => {
                let len = self.meta.cache().len();
                (&mut self.meta, len)
            }
        };
        let bits = len * 8;
        area.flip_bit(draws.index(bits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::volume::io::ZeroMode;

    fn write(tag: u64, offset: u64, byte: u8) -> Action {
        let payload = Bytes::from(vec![byte; SECTOR]);
        Action::Write { tag: DiskTag(tag), offset, payload, fua: false }
    }

    fn done(event: &Event) -> bool {
        matches!(event, Event::DiskDone { result: Ok(()), .. })
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_began_and_no_more() {
        let mut draws = Stream::of_key(3);
        let mut lost_later = false;
        for _ in 0..64 {
            let mut disk = Disk::new(8192, 4096);
            let first = disk.begin(write(1, 0, 1));
            assert!(done(&disk.finish(first, &mut draws)));
            let flush = disk.begin(Action::Flush { tag: DiskTag(2) });
            let second = disk.begin(write(3, 512, 2));
            assert!(done(&disk.finish(second, &mut draws)));
            assert!(done(&disk.finish(flush, &mut draws)));
            disk.lose_power(&mut draws);
            assert_eq!(disk.data()[0], 1);
            lost_later |= disk.data()[512] == 0;
        }
        assert!(lost_later);
    }

    #[test]
    fn overlapping_writes_under_way_end_in_the_order_of_the_disk() {
        let mut draws = Stream::of_key(4);
        let mut disk = Disk::new(8192, 4096);
        let first = disk.begin(write(1, 0, 1));
        let second = disk.begin(write(2, 0, 2));
        disk.finish(second, &mut draws);
        disk.finish(first, &mut draws);
        assert_eq!(disk.data()[0], 1);
    }

    #[test]
    fn faults_hit_one_action_that_they_fit() {
        let mut draws = Stream::of_key(5);
        let mut disk = Disk::new(8192, 4096);
        disk.arm(DiskFault::Flush);
        disk.arm(DiskFault::Lost);
        let lost = disk.begin(write(1, 0, 9));
        assert!(done(&disk.finish(lost, &mut draws)), "a lost write looks well");
        assert_eq!(disk.data()[0], 0);
        let flush = disk.begin(Action::Flush { tag: DiskTag(2) });
        assert!(!done(&disk.finish(flush, &mut draws)));
        let flush = disk.begin(Action::Flush { tag: DiskTag(3) });
        assert!(done(&disk.finish(flush, &mut draws)));
        disk.arm(DiskFault::Read(AreaName::Data));
        let span = ByteSpan { offset: 0, len: 512 };
        let read = disk.begin(Action::Read { tag: DiskTag(4), area: AreaName::Meta, span });
        assert!(matches!(disk.finish(read, &mut draws), Event::ReadDone { result: Ok(_), .. }));
    }

    #[test]
    fn a_commit_is_stable_when_answered_and_any_part_of_it_before() {
        let mut torn = 0;
        for key in 0..100 {
            let mut draws = Stream::of_key(key);
            let mut disk = Disk::new(4096, 8192);
            let pieces = vec![(0, Bytes::from(vec![1; 512])), (4096, Bytes::from(vec![1; 512]))];
            let commit = disk.begin(Action::Commit { tag: DiskTag(1), pieces: pieces.clone() });
            disk.finish(commit, &mut draws);
            let open = vec![(0, Bytes::from(vec![2; 512])), (4096, Bytes::from(vec![2; 512]))];
            disk.begin(Action::Commit { tag: DiskTag(2), pieces: open });
            disk.lose_power(&mut draws);
            let (first, second) = (disk.stable_meta()[0], disk.stable_meta()[4096]);
            assert!(first >= 1 && second >= 1);
            torn += usize::from(first != second);
        }
        assert!(torn > 10);
    }

    #[test]
    fn zeroing_and_snapshots() {
        let mut draws = Stream::of_key(6);
        let mut disk = Disk::new(8192, 4096);
        let write = disk.begin(write(1, 0, 7));
        disk.finish(write, &mut draws);
        let flush = disk.begin(Action::Flush { tag: DiskTag(2) });
        disk.finish(flush, &mut draws);
        disk.take_snapshot(1);
        let span = ByteSpan { offset: 0, len: 512 };
        let zero = disk.begin(Action::Zero { tag: DiskTag(3), span, mode: ZeroMode::Punch, fua: true });
        disk.finish(zero, &mut draws);
        assert_eq!(disk.data()[0], 0);
        disk.restore_snapshot(true, false);
        assert_eq!((disk.data()[0], disk.stable_data()[0]), (7, 7));
    }
}
