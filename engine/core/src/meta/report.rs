//! A metadata file for people: everything it says, and every problem it has (`evenkeel meta dump` and `check`).
//!
//! It only reads, and goes on after a problem as far as anything can be trusted. Memory is bounded by the volume
//! that a superblock with a right checksum describes, and the file must be as long as that superblock says.

use std::fmt;

use super::{
    activity_log::ActivityLog,
    dirty_bitmap::{DirtyBitmap, LoadReport, Loader},
    geometry::Geometry,
    header::CopyId,
    layout::{Layout, PAGE_BYTES, SUPERBLOCK_BYTES},
    superblock::Superblock,
    superblock_pair::{Expectations, SuperblockPair},
};
use crate::{
    generation::view::{Power, Replies},
    ids::{ExtentIndex, Generation, PeerIndex},
};

/// Reads exactly the bytes at an offset of the metadata file, or says why not.
pub type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<(), String>;

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where, in words.
    pub place: String,
    /// What is wrong, what that means and what mends it.
    pub text: String,
}

/// One peer's dirty bitmap in a report.
#[derive(Clone, Debug)]
struct BitmapReport {
    peer: PeerIndex,
    dirty_blocks: u64,
    dirty_bytes: u64,
    runs: u64,
}

/// See the module documentation. `Display` is the dump, with the problems at its end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    superblock: Option<Superblock>,
    sequence: u64,
    extents: Vec<ExtentIndex>,
    bitmaps: Vec<BitmapReport>,
    problems: Vec<Problem>,
}

impl Report {
    /// Every problem that was found; none means that the file is whole.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What the superblock says, if one can be used.
    #[must_use]
    pub fn superblock(&self) -> Option<&Superblock> {
        self.superblock.as_ref()
    }

    fn problem(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), text: text.into() });
    }
}

/// Looks at the whole of a metadata file of `len` bytes.
pub fn inspect(len: u64, read: Read<'_>) -> Report {
    let mut report = Report::default();
    let mut copy = |copy: CopyId| {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        match read(Layout::superblock_at(copy).0, &mut bytes) {
            Ok(()) => Some(bytes),
            Err(text) => {
                report.problem(format!("superblock copy {copy}"), text);
                None
            }
        }
    };
    let (a, b) = (copy(CopyId::A), copy(CopyId::B));
    let expectations = Expectations { metadata_bytes: len, ..Expectations::default() };
    let opened = match SuperblockPair::open(a.as_deref(), b.as_deref(), &expectations) {
        Ok(opened) => opened,
        Err(error) => {
            report.problem("superblock", error.to_string());
            return report;
        }
    };
    if let Some(fault) = opened.other {
        let consequence = if opened.may_be_old() {
            "it may have been the newer one: the replica is taken as one that was set back"
        } else {
            "the next update writes it anew"
        };
        report.problem("superblock, the older copy", format!("{fault}; {consequence}"));
    }
    let superblock = opened.pair.current().clone();
    report.sequence = opened.pair.sequence();
    inspect_log(&superblock, read, &mut report);
    for peer in PeerIndex::all() {
        inspect_bitmap(&superblock, peer, read, &mut report);
    }
    report.superblock = Some(superblock);
    report
}

fn inspect_log(superblock: &Superblock, read: Read<'_>, report: &mut Report) {
    let layout = &superblock.layout;
    let mut region = Vec::new();
    for index in 0..u32::try_from(layout.log().pages).expect("MAX_SLOTS") {
        let mut page = vec![0; PAGE_BYTES];
        if let Err(text) = read(layout.log().page_at(index).0, &mut page) {
            report.problem(format!("activity log, page {index} of the region"), text);
        }
        region.extend_from_slice(&page);
    }
    let (log, replay) = ActivityLog::open(layout, superblock.node, &region);
    for (page, copy) in replay.torn {
        report.problem(
            format!("activity log, page {page}, copy {copy}"),
            "a write of it was interrupted; the other copy counts, nothing is lost",
        );
    }
    for (page, copy, fault) in replay.damaged {
        report.problem(
            format!("activity log, page {page}, copy {copy}"),
            format!("{fault}; every block will be compared with the peers"),
        );
    }
    report.extents = log.extents().collect();
    report.extents.sort_unstable();
}

fn inspect_bitmap(superblock: &Superblock, peer: PeerIndex, read: Read<'_>, report: &mut Report) {
    let Some(region) = superblock.layout.bitmap(peer) else { return };
    let geometry = *superblock.layout.geometry();
    let mut loader = Loader::new(geometry, region, superblock.node, peer);
    for index in 0..geometry.bitmap_pages() {
        let mut page = vec![0; PAGE_BYTES];
        let bytes = read(region.page_at(index).0, &mut page).is_ok().then_some(page);
        loader.page(bytes.as_deref());
    }
    let (bitmap, loaded) = loader.finish();
    report_bad_pages(peer, &loaded, report);
    report.bitmaps.push(BitmapReport {
        peer,
        dirty_blocks: bitmap.dirty_blocks(),
        dirty_bytes: bitmap.dirty_bytes(),
        runs: count_runs(&bitmap),
    });
}

fn report_bad_pages(peer: PeerIndex, loaded: &LoadReport, report: &mut Report) {
    let place = |page: &u32| format!("dirty bitmap of peer {}, page {page}", peer.as_usize());
    for (page, fault) in &loaded.first {
        report.problem(place(page), format!("{fault}; all its blocks count as dirty"));
    }
    let unnamed = loaded.bad_pages() - loaded.first.len() as u64;
    if unnamed > 0 {
        report.problem(
            format!("dirty bitmap of peer {}", peer.as_usize()),
            format!("{unnamed} more pages are unusable; all their blocks count as dirty"),
        );
    }
}

fn count_runs(bitmap: &DirtyBitmap) -> u64 {
    let mut runs = 0;
    let mut at = crate::ids::BlockIndex(0);
    while let Some(run) = bitmap.next_dirty(at, u64::MAX) {
        runs += 1;
        at = run.end;
    }
    runs
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(superblock) = &self.superblock {
            writeln!(f, "superblock        update {}", self.sequence)?;
            superblock.fmt(f)?;
            let slots = superblock.layout.geometry().slots();
            writeln!(f, "activity log      {} of {slots} slots hold an extent", self.extents.len())?;
            write_extents(f, superblock.layout.geometry(), &self.extents)?;
            for bitmap in &self.bitmaps {
                writeln!(
                    f,
                    "dirty bitmap {}    {} blocks, {} bytes, in {} runs",
                    bitmap.peer.as_usize(),
                    bitmap.dirty_blocks,
                    bitmap.dirty_bytes,
                    bitmap.runs
                )?;
            }
        }
        if self.problems.is_empty() {
            return writeln!(f, "no problems");
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM  {}: {}", problem.place, problem.text)?;
        }
        Ok(())
    }
}

/// The extents as runs of bytes, one a line.
fn write_extents(f: &mut fmt::Formatter<'_>, geometry: &Geometry, sorted: &[ExtentIndex]) -> fmt::Result {
    for run in sorted.chunk_by(|one, next| one.0 + 1 == next.0) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let (start, end) = (geometry.extent_range(first).start, geometry.extent_range(last).end);
        writeln!(f, "  extents {} to {}: bytes {start} to {end}", first.0, last.0)?;
    }
    Ok(())
}

impl fmt::Display for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u128>| id.map_or_else(|| "none".to_owned(), |id| format!("{id:032x}"));
        let geometry = self.layout.geometry();
        writeln!(f, "  cluster         {}", id(self.cluster.map(|id| id.0)))?;
        writeln!(f, "  volume          {}", id(self.volume.map(|id| id.0)))?;
        writeln!(f, "  node            {:016x}", self.node.0)?;
        writeln!(f, "  size            {} bytes", geometry.size_bytes())?;
        writeln!(f, "  block           {} bytes", geometry.block_bytes())?;
        writeln!(f, "  extent          {} bytes", geometry.extent_bytes())?;
        writeln!(f, "  activity log    at {}, {} pages", self.layout.log().start, self.layout.log().pages)?;
        for peer in PeerIndex::all() {
            if let Some(region) = self.layout.bitmap(peer) {
                writeln!(
                    f,
                    "  bitmap {}        at {}, {} pages",
                    peer.as_usize(),
                    region.start,
                    region.pages
                )?;
            }
        }
        writeln!(f, "  end             at {}", self.layout.end())?;
        let flags = [
            (self.flags.fresh, "fresh"),
            (self.flags.consistent, "consistent"),
            (self.flags.was_up_to_date, "was-up-to-date"),
            (self.flags.crashed_primary, "crashed-primary"),
            (self.flags.entitled, "entitled"),
            (self.cache_in_doubt, "cache-in-doubt"),
            (self.was_shut_down_cleanly(), "clean-shutdown"),
        ];
        let set: Vec<&str> = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
        writeln!(f, "  flags           {}", if set.is_empty() { "none".to_owned() } else { set.join(" ") })?;
        let kept = match self.evidence.power {
            Power::SameRun => "all that was written under the generation",
            Power::SameBoot => "all that was written, but a process died",
            Power::Lost => "what was stable when power was lost",
        };
        let settled = if self.evidence.settled { ", all of it stable" } else { "" };
        writeln!(f, "  kept            {kept}{settled}")?;
        let replies = match self.evidence.replies {
            Replies::Ahead => "before the peers had the writes (protocol A)",
            Replies::Together => "when the peers had the writes (protocol B or C)",
        };
        writeln!(f, "  replied         {replies}")?;
        writeln!(f, "  attach counter  {}", self.attach_counter.0)?;
        writeln!(f, "  counted at      {} ns of the boot clock", self.counted_at_boot_nanos)?;
        writeln!(f, "  boot id         {}", id(self.boot.map(|id| id.0)))?;
        writeln!(f, "  instance        {}", id(self.instance.map(|id| id.0)))?;
        match self.highest_term {
            Some(term) => writeln!(f, "  highest term    {} of {:016x}", term.number, term.node.0)?,
            None => writeln!(f, "  highest term    none")?,
        }
        if let Some(toward) = self.history.toward() {
            writeln!(f, "  resync toward   {:032x}", toward.0)?;
        }
        if self.history.head().is_none() {
            writeln!(f, "  generation      none")?;
        }
        for (age, Generation { id, term }) in self.history.generations().enumerate() {
            let name = if age == 0 { "generation" } else { "before it" };
            writeln!(f, "  {name:<15} {:032x} term {} of {:016x}", id.0, term.number, term.node.0)?;
        }
        for (index, record) in self.peers.iter().enumerate() {
            let Some(record) = record else { continue };
            let outdated = if record.outdated_confirmed { ", outdated" } else { "" };
            let (seen, shown) = (record.attach_counter_seen.0, record.attach_counter_shown.0);
            writeln!(
                f,
                "  peer {index}          {:016x}, attach counter {seen}, was shown {shown}{outdated}",
                record.node.0
            )?;
            if let Some(window) = record.standing.window() {
                writeln!(f, "    since         {:032x}", window.base.0)?;
                writeln!(f, "    offered       {:032x}", window.offered.0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        generation::history::History,
        ids::{AttachCounter, MAX_PEERS, NodeId},
        meta::{
            crash::Medium,
            superblock::{Evidence, Flags},
        },
    };

    fn file() -> (Medium, Superblock) {
        let geometry = Geometry::new(300 << 20, 4096, 1 << 20, 64).unwrap();
        let layout = Layout::new(geometry, PeerIndex::all().take(1)).unwrap();
        let superblock = Superblock {
            cluster: None,
            volume: None,
            node: NodeId(7),
            layout: layout.clone(),
            history: History::empty(),
            highest_term: None,
            boot: None,
            instance: None,
            attach_counter: AttachCounter(0),
            given_up_at: AttachCounter::default(),
            counted_at_boot_nanos: 0,
            clean_shutdown: None,
            flags: Flags { fresh: true, consistent: true, ..Flags::default() },
            evidence: Evidence::of_this_run(Replies::Together),
            cache_in_doubt: false,
            peers: [None; MAX_PEERS],
        };
        let mut medium = Medium::new(layout.end());
        medium.apply(&ActivityLog::format(&layout, NodeId(7)).collect::<Vec<_>>());
        let peer = PeerIndex::new(0).unwrap();
        let region = layout.bitmap(peer).unwrap();
        medium.apply(&DirtyBitmap::format(region, NodeId(7), peer).collect::<Vec<_>>());
        medium.apply(&SuperblockPair::create(superblock.clone()).1);
        (medium, superblock)
    }

    fn look(medium: &Medium) -> Report {
        inspect(medium.len(), &mut |offset, into| {
            into.copy_from_slice(medium.read(offset, into.len()));
            Ok(())
        })
    }

    #[test]
    fn a_whole_file_has_no_problems() {
        let (medium, superblock) = file();
        let report = look(&medium);
        assert_eq!(report.problems(), []);
        assert_eq!(report.superblock(), Some(&superblock));
        let text = report.to_string();
        for part in
            ["flags           fresh consistent", "0 of 64 slots", "dirty bitmap 0    0 blocks", "no problems"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_problem_is_listed() {
        let (mut medium, superblock) = file();
        let log = superblock.layout.log_page_at(0, CopyId::A).0;
        let peer = PeerIndex::new(0).unwrap();
        let bitmap = superblock.layout.bitmap(peer).unwrap();
        medium.write(Layout::superblock_at(CopyId::A).0 + 100, &[0xEE]);
        medium.write(log + 1000, &[0xEE]);
        medium.write(bitmap.page_at(1).0, &[0; PAGE_BYTES]);
        medium.write(bitmap.page_at(2).0 + 500, &[0xEE]);
        let report = look(&medium);
        let places: Vec<&str> = report.problems().iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "superblock, the older copy",
                "activity log, page 0, copy A",
                "dirty bitmap of peer 0, page 1",
                "dirty bitmap of peer 0, page 2"
            ]
        );
        let text = report.to_string();
        assert!(text.contains("dirty bitmap 0    45056 blocks, 184549376 bytes, in 1 runs"), "{text}");
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let report = inspect(10, &mut |_, _| Err("bad sector".to_owned()));
        assert_eq!(report.problems().len(), 3);
        assert!(report.to_string().contains("bad sector"));
        let report = inspect(1 << 20, &mut |_, _| Ok(()));
        assert!(report.to_string().contains("create them again"));
    }
}
