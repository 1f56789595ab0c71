//! One file of a node: what its reader sees, and what a power loss leaves of it.
//!
//! The *cache* is what reads return. The *stable* image is what is on media. Between the two lie the pending
//! writes, in the order in which they were answered. A power loss keeps any subset of them, sector by sector;
//! since they are applied in order and each sector of each is kept or not on its own, every sector can end as
//! any of the versions written since it was last made stable: that is "any subset in any order".

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{decision::Stream, payload::SECTOR};

/// More pending writes than this, and the kernel writes the older half back by itself.
const WRITEBACK_LIMIT: usize = 1024;

/// What a write puts somewhere.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// These bytes.
    Data(Bytes),
    /// So many zeroes.
    Zero(usize),
}

impl Content {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Zero(len) => *len,
        }
    }

    fn copy_to(&self, from: usize, target: &mut [u8]) {
        match self {
            Self::Data(bytes) => target.copy_from_slice(&bytes[from..from + target.len()]),
            Self::Zero(_) => target.fill(0),
        }
    }
}

/// How a power loss treats what was not yet stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tear {
    /// Nothing of it is kept.
    Nothing,
    /// All of it is kept.
    All,
    /// Whole writes are kept or not.
    Writes,
    /// Every sector is kept or not.
    Sectors,
    /// Every 4 KiB page is kept or not.
    Pages,
}

impl Tear {
    fn draw(draws: &mut Stream) -> Self {
        match draws.below(8) {
            0 => Self::Nothing,
            1 => Self::All,
            2 | 3 => Self::Writes,
            4 | 5 => Self::Sectors,
            _ => Self::Pages,
        }
    }

    fn unit(self) -> usize {
        match self {
            Self::Nothing | Self::All | Self::Writes => usize::MAX,
            Self::Sectors => SECTOR,
            Self::Pages => 4096,
        }
    }

    fn keeps(self, draws: &mut Stream) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Writes | Self::Sectors | Self::Pages => draws.chance(1, 2),
        }
    }
}

#[derive(Debug)]
struct Pending {
    offset: usize,
    content: Content,
    answered: u64,
    fate: Fate,
}

/// What becomes of a pending write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A power loss may take it.
    Open,
    /// It was written through (FUA): it stays.
    Certain,
    /// A failed flush marked its page clean: it will never reach the media.
    Doomed,
}

/// A file with its cache.
#[derive(Debug)]
pub(crate) struct Area {
    cache: Vec<u8>,
    stable: Vec<u8>,
    pending: VecDeque<Pending>,
}

impl Area {
    pub(crate) fn new(len: usize) -> Self {
        Self { cache: vec![0; len], stable: vec![0; len], pending: VecDeque::new() }
    }

    /// What a reader sees.
    pub(crate) fn cache(&self) -> &[u8] {
        &self.cache
    }

    /// What is on media.
    pub(crate) fn stable(&self) -> &[u8] {
        &self.stable
    }

    /// What a power loss leaves at least: what is on media, and what was written through since.
    pub(crate) fn certain(&self) -> Vec<u8> {
        let mut image = self.stable.clone();
        for write in self.pending.iter().filter(|write| write.fate == Fate::Certain) {
            write.content.copy_to(0, &mut image[write.offset..write.offset + write.content.len()]);
        }
        image
    }

    /// Applies a write that was answered as the `answered`-th action of the disk.
    pub(crate) fn write(&mut self, offset: usize, content: Content, answered: u64, through: bool) {
        content.copy_to(0, &mut self.cache[offset..offset + content.len()]);
        let fate = if through { Fate::Certain } else { Fate::Open };
        self.pending.push_back(Pending { offset, content, answered, fate });
        if self.pending.len() > WRITEBACK_LIMIT {
            self.persist(WRITEBACK_LIMIT / 2);
        }
    }

    /// Makes the `count` oldest pending writes stable; doomed ones stay where they are: in the cache only.
    fn persist(&mut self, count: usize) {
        let mut doomed = Vec::new();
        for pending in self.pending.drain(..count) {
            match pending.fate {
                Fate::Open | Fate::Certain => {
                    let end = pending.offset + pending.content.len();
                    pending.content.copy_to(0, &mut self.stable[pending.offset..end]);
                }
                Fate::Doomed => doomed.push(pending),
            }
        }
        for pending in doomed.into_iter().rev() {
            self.pending.push_front(pending);
        }
    }

    /// A flush that began as the `issued`-th action ends well.
    pub(crate) fn flush(&mut self, issued: u64) {
        let count = self.pending.partition_point(|pending| pending.answered < issued);
        self.persist(count);
    }

    /// A flush that began as the `issued`-th action fails: what it should have written is marked clean.
    pub(crate) fn fail_flush(&mut self, issued: u64, draws: &mut Stream) {
        for pending in &mut self.pending {
            if pending.answered < issued && pending.fate == Fate::Open && draws.chance(1, 2) {
                pending.fate = Fate::Doomed;
            }
        }
    }

    /// Part of a write that was under way when its process died.
    pub(crate) fn write_partly(
        &mut self,
        offset: usize,
        content: &Content,
        answered: u64,
        draws: &mut Stream,
    ) {
        let tear = Tear::draw(draws);
        for_each_kept(tear, offset, content.len(), draws, |start, end| {
            let mut piece = vec![0; end - start];
            content.copy_to(start - offset, &mut piece);
            self.cache[start..end].copy_from_slice(&piece);
            let content = Content::Data(Bytes::from(piece));
            self.pending.push_back(Pending { offset: start, content, answered, fate: Fate::Open });
        });
    }

    /// The machine loses power: some of what was pending is on media, the cache is gone.
    pub(crate) fn lose_power(&mut self, draws: &mut Stream) {
        let tear = Tear::draw(draws);
        let pending = std::mem::take(&mut self.pending);
        for write in &pending {
            let kept = match write.fate {
                Fate::Open => tear,
                Fate::Certain => Tear::All,
                Fate::Doomed => Tear::Nothing,
            };
            for_each_kept(kept, write.offset, write.content.len(), draws, |start, end| {
                write.content.copy_to(start - write.offset, &mut self.stable[start..end]);
            });
        }
        for write in &pending {
            let range = write.offset..write.offset + write.content.len();
            self.cache[range.clone()].copy_from_slice(&self.stable[range]);
        }
    }

    /// Replaces the whole file, on media and in cache.
    pub(crate) fn replace(&mut self, image: &[u8]) {
        self.pending.clear();
        self.cache.copy_from_slice(image);
        self.stable.copy_from_slice(image);
    }

    /// Flips a bit on media and in the cache.
    pub(crate) fn flip_bit(&mut self, bit: usize) {
        self.cache[bit / 8] ^= 1 << (bit % 8);
        self.stable[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Calls `keep(start, end)` for the parts of a write that a torn persist keeps.
fn for_each_kept(
    tear: Tear,
    offset: usize,
    len: usize,
    draws: &mut Stream,
    mut keep: impl FnMut(usize, usize),
) {
    let unit = tear.unit();
    let end = offset + len;
    let mut start = offset;
    while start < end {
        let stop = if unit == usize::MAX { end } else { ((start / unit + 1) * unit).min(end) };
        if tear.keeps(draws) {
            keep(start, stop);
        }
        start = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn data(byte: u8, len: usize) -> Content {
        Content::Data(Bytes::from(vec![byte; len]))
    }

    #[test]
    fn a_power_loss_can_leave_any_version_and_any_mixture() {
        let mut seen = BTreeSet::new();
        for key in 0..400 {
            let mut area = Area::new(4096);
            area.write(0, data(1, 1024), 0, false);
            area.write(0, data(2, 1024), 1, false);
            area.lose_power(&mut Stream::of_key(key));
            assert_eq!(area.cache(), area.stable());
            seen.insert((area.stable()[0], area.stable()[512]));
        }
        assert_eq!(seen.len(), 9, "old, first and second version, each sector on its own: {seen:?}");
    }

    #[test]
    fn what_a_flush_covered_stays() {
        for key in 0..200 {
            let mut area = Area::new(4096);
            area.write(0, data(1, 512), 0, false);
            area.flush(1);
            area.write(512, data(2, 512), 2, true);
            area.lose_power(&mut Stream::of_key(key));
            assert_eq!((area.stable()[0], area.stable()[512]), (1, 2));
        }
    }

    #[test]
    fn what_was_written_through_is_certain_and_what_came_later_is_not() {
        let mut area = Area::new(4096);
        area.write(0, data(1, 512), 0, false);
        area.write(512, data(2, 512), 1, true);
        area.write(512, data(3, 512), 2, false);
        let certain = area.certain();
        assert_eq!((certain[0], certain[512]), (0, 2));
    }

    #[test]
    fn a_failed_flush_forgets_pages_that_a_later_one_does_not_save() {
        let mut lost = 0;
        for key in 0..200 {
            let mut area = Area::new(4096);
            area.write(0, data(1, 512), 0, false);
            area.fail_flush(1, &mut Stream::of_key(key));
            area.flush(2);
            assert_eq!(area.cache()[0], 1, "the cache still shows it");
            area.lose_power(&mut Stream::of_key(key));
            lost += usize::from(area.stable()[0] == 0);
        }
        assert!(lost > 50, "{lost}");
    }

    #[test]
    fn a_write_under_way_tears_between_sectors_only() {
        for key in 0..200 {
            let mut area = Area::new(4096);
            area.write_partly(512, &data(7, 2048), 0, &mut Stream::of_key(key));
            for sector in area.cache().chunks_exact(SECTOR) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
            }
            assert_eq!((area.cache()[0], area.cache()[2560]), (0, 0));
        }
    }
}
