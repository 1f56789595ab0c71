//! O2 and O3: what may be missing after a loss, and that what is there is a cut.
//!
//! *Floor*: a write that a completed flush covered, or that was acknowledged with FUA, is there or replaced.
//! *Cut*: if a write is there that was submitted after a flush was answered, then everything that this flush
//! covered is there or replaced. Both come down to one question for each sector: was the value that is there
//! acknowledged before a write was submitted that must be there? On protocol A the order of replies alone counts.

use crate::payload::{Value, WriteId};

use super::journal::Journal;

#[derive(Clone, Copy, Debug)]
struct Entry {
    acknowledged: u64,
    submitted: u64,
    /// The latest submission among this entry and the earlier ones.
    latest: u64,
    write: WriteId,
    fua: bool,
}

/// The acknowledged writes of every sector and all flushes, in order of their answers.
#[derive(Debug)]
pub(crate) struct Cut {
    sectors: Vec<Vec<Entry>>,
    /// Answer and the latest submission among this flush and the earlier ones.
    flushes: Vec<(u64, u64)>,
}

/// How much must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Everything flushed, and a cut.
    Floor,
    /// A cut.
    Cut,
    /// A cut by the order of replies alone (protocol A).
    Order,
}

/// A write that must be there and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) sector: usize,
    pub(crate) write: WriteId,
    pub(crate) found: Value,
}

impl Cut {
    pub(crate) fn new(sectors: usize) -> Self {
        Self { sectors: vec![Vec::new(); sectors], flushes: Vec::new() }
    }

    /// A write of one sector is acknowledged.
    pub(crate) fn acknowledge(&mut self, sector: usize, write: WriteId, submitted: u64, fua: bool, now: u64) {
        let entries = &mut self.sectors[sector];
        let latest = entries.last().map_or(0, |entry| entry.latest).max(submitted);
        entries.push(Entry { acknowledged: now, submitted, latest, write, fua });
    }

    /// A flush that was submitted at `submitted` is answered.
    pub(crate) fn flushed(&mut self, submitted: u64, now: u64) {
        let latest = self.flushes.last().map_or(0, |(_, latest)| *latest).max(submitted);
        self.flushes.push((now, latest));
    }

    /// Writes acknowledged before this stamp are covered by a flush that was answered before `before`.
    fn covered_before(&self, before: u64) -> u64 {
        let count = self.flushes.partition_point(|(answered, _)| *answered < before);
        count.checked_sub(1).map_or(0, |place| self.flushes[place].1)
    }

    /// The first write that an image must hold and does not.
    pub(crate) fn missing(&self, image: &[Value], journal: &Journal, demand: Demand) -> Option<Missing> {
        let newest = image.iter().map(|value| journal.submitted(*value)).max().unwrap_or(0);
        let covered = match demand {
            Demand::Floor => self.covered_before(u64::MAX),
            Demand::Cut => self.covered_before(newest),
            Demand::Order => newest,
        };
        self.sectors.iter().zip(image).enumerate().find_map(|(sector, (entries, value))| {
            let known_at = journal.acknowledged(*value, sector);
            let count = entries.partition_point(|entry| entry.acknowledged < covered);
            let latest = count.checked_sub(1).map_or(0, |place| entries[place].latest);
            let owed = (latest > known_at)
                .then(|| entries[..count].iter().rev().find(|entry| entry.submitted > known_at));
            let through = (demand == Demand::Floor)
                .then(|| entries.iter().rev().find(|entry| entry.fua && entry.submitted > known_at));
            let missing = owed.flatten().or(through.flatten())?;
            Some(Missing { sector, write: missing.write, found: *value })
        })
    }

    /// The acknowledged writes that an image neither holds nor has replaced.
    pub(crate) fn lost(&self, image: &[Value], journal: &Journal) -> Vec<WriteId> {
        let mut lost = Vec::new();
        for (sector, (entries, value)) in self.sectors.iter().zip(image).enumerate() {
            let known_at = journal.acknowledged(*value, sector);
            let newer = entries.iter().rev().take_while(|entry| entry.latest > known_at);
            lost.extend(newer.filter(|entry| entry.submitted > known_at).map(|entry| entry.write));
        }
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// Two lines have become one, that of this image. What else was acknowledged on either cannot be told apart: only
    /// what is there is owed from now on.
    pub(crate) fn join(&mut self, image: &[Value]) {
        for (entries, value) in self.sectors.iter_mut().zip(image) {
            entries.retain(|entry| Value::Of(entry.write) == *value);
            if let [entry] = entries.as_mut_slice() {
                entry.latest = entry.submitted;
            }
        }
    }

    /// Settles the truth anew: what this image lacks is owed no longer.
    pub(crate) fn settle(&mut self, image: &[Value], journal: &Journal) {
        for (sector, (entries, value)) in self.sectors.iter_mut().zip(image).enumerate() {
            let known_at = journal.acknowledged(*value, sector);
            if entries.last().is_some_and(|entry| entry.latest > known_at) {
                entries.retain(|entry| entry.submitted <= known_at);
                let mut latest = 0;
                for entry in entries {
                    latest = entry.submitted.max(latest);
                    entry.latest = latest;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sectors; write 1 to the first, a flush, write 2 to the second, write 3 to the first.
    fn history() -> (Journal, Cut) {
        let mut journal = Journal::new(2);
        let mut cut = Cut::new(2);
        for (write, sector, start) in [(1, 0, 1), (2, 1, 5), (3, 0, 7)] {
            let id = journal.submit(sector, 1, false, false, None, start);
            assert_eq!(id, WriteId(write));
            journal.acknowledge(id, start + 1);
            cut.acknowledge(usize::try_from(sector).expect("small"), id, start, false, start + 1);
            if write == 1 {
                cut.flushed(3, 4);
            }
        }
        (journal, cut)
    }

    fn image(first: u32, second: u32) -> [Value; 2] {
        [first, second].map(|write| if write == 0 { Value::Zero } else { Value::Of(WriteId(write)) })
    }

    #[test]
    fn the_floor_is_what_was_flushed() {
        let (journal, cut) = history();
        assert!(cut.missing(&image(0, 0), &journal, Demand::Floor).is_some());
        assert_eq!(cut.missing(&image(1, 0), &journal, Demand::Floor), None);
        assert_eq!(cut.missing(&image(3, 0), &journal, Demand::Floor), None, "replaced is as good");
    }

    #[test]
    fn a_cut_has_no_write_without_what_was_flushed_before_it() {
        let (journal, cut) = history();
        assert_eq!(cut.missing(&image(0, 0), &journal, Demand::Cut), None, "an old cut is a cut");
        assert!(cut.missing(&image(0, 2), &journal, Demand::Cut).is_some());
        assert_eq!(cut.missing(&image(3, 0), &journal, Demand::Cut), None, "no flush between 2 and 3");
        assert!(cut.missing(&image(3, 0), &journal, Demand::Order).is_some(), "but an order of replies");
    }

    #[test]
    fn of_two_lines_that_join_only_what_is_there_is_owed() {
        let (mut journal, mut cut) = history();
        // The line that stays never had write 1 in the first sector, and has replaced what it had there.
        cut.join(&image(3, 0));
        assert_eq!(cut.missing(&image(0, 2), &journal, Demand::Cut), None, "from before, and of that line");
        let later = journal.submit(1, 1, false, false, None, 20);
        cut.flushed(10, 11);
        let values = [Value::Zero, Value::Of(later)];
        assert!(cut.missing(&values, &journal, Demand::Cut).is_some(), "what is there is owed");
    }

    #[test]
    fn losses_are_named_and_settled() {
        let (journal, mut cut) = history();
        assert_eq!(cut.lost(&image(1, 0), &journal), vec![WriteId(2), WriteId(3)]);
        cut.settle(&image(1, 0), &journal);
        assert!(cut.lost(&image(1, 0), &journal).is_empty());
        assert_eq!(cut.lost(&image(0, 0), &journal), vec![WriteId(1)], "what was there is still owed");
    }
}
