//! Opening an activity log: which extents may differ after a crash.
//!
//! Of each page the newest good copy counts. A torn copy was never flushed: the other one holds what was true
//! before, and the writes that the torn one was to cover were never submitted. A copy that no interrupted write
//! explains may have been the newest: then nothing is known of the page's slots, and the caller must take every
//! block as different (design D3, and G7 "if one of these cannot be read, everything is compared").
//!
//! One transaction may have evicted an extent from one page and put it into another, and only the second page may
//! be there: an extent can be found twice. It gets the first slot; the page of the other is rewritten.

use super::{
    ActivityLog, PageState, Transaction, page,
    slots::{SlotIndex, Slots},
};
use crate::{
    ids::{ExtentIndex, NodeId},
    meta::{
        header::{CopyId, Fault},
        layout::{Layout, PAGE_BYTES},
    },
};

/// What was found when an activity log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// Copies that an interrupted write left; harmless.
    pub torn: Vec<(u32, CopyId)>,
    /// Copies that no interrupted write explains.
    pub damaged: Vec<(u32, CopyId, Fault)>,
}

impl Replay {
    /// Whether the log cannot tell which extents may differ: every block must be taken as different. Set every
    /// bit of every peer, flush the bitmap pages, then call [`ActivityLog::carried_settled`].
    #[must_use]
    pub fn everything_may_differ(&self) -> bool {
        !self.damaged.is_empty()
    }
}

/// The slots of a page and its sequence, or why there are none.
type ReadCopy = Result<(Vec<Option<ExtentIndex>>, u64), Fault>;

impl ActivityLog {
    /// Takes the region of the activity log as it was read: all pages of copy A, then all pages of copy B. What
    /// could not be read may be missing at the end, or zeroes; both are damage.
    ///
    /// Every extent that was found is hot and carried: put it into the bitmap of every peer, flush those, call
    /// [`Self::carried_settled`], and then [`Self::clean`] until it has nothing to do.
    #[must_use]
    pub fn open(layout: &Layout, owner: NodeId, region: &[u8]) -> (Self, Replay) {
        let geometry = *layout.geometry();
        let mut log = Self {
            layout: layout.clone(),
            owner,
            slots: Slots::new(geometry.slots(), geometry.extents()),
            pages: Vec::with_capacity(geometry.log_pages() as usize),
            waiting: std::collections::VecDeque::new(),
            retiring: Vec::new(),
            next: Transaction::default(),
            in_flight: None,
            starved: false,
            damaged: false,
        };
        let mut replay = Replay::default();
        for index in 0..geometry.log_pages() {
            let read = |copy: CopyId| {
                let at = log.layout.log_page_at(index, copy).0 - log.layout.log().start;
                let bytes = usize::try_from(at)
                    .ok()
                    .and_then(|at| region.get(at..at + PAGE_BYTES))
                    .ok_or(Fault::Unreadable)?;
                page::decode(bytes, &geometry, index, copy, owner)
            };
            let (a, b) = (read(CopyId::A), read(CopyId::B));
            let (slots, state) = choose(index, a, b, &mut replay);
            log.pages.push(state);
            for (place, extent) in page::slots_of_page(&geometry, index).zip(slots) {
                let Some(extent) = extent else { continue };
                match log.slots.find(extent) {
                    None => log.slots.restore(place_of(place), extent),
                    Some(_) => log.pages[index as usize].rewrites = 1,
                }
            }
        }
        log.slots.collect_free();
        log.damaged = replay.everything_may_differ();
        (log, replay)
    }
}

fn place_of(slot: usize) -> SlotIndex {
    u32::try_from(slot).expect("at most MAX_SLOTS")
}

/// Which copy of a page counts, and how the page goes on.
fn choose(
    index: u32,
    a: ReadCopy,
    b: ReadCopy,
    replay: &mut Replay,
) -> (Vec<Option<ExtentIndex>>, PageState) {
    let faults = [(CopyId::A, &a), (CopyId::B, &b)]
        .map(|(copy, read)| read.as_ref().err().map(|fault| (copy, *fault)));
    // Without a good copy the other one cannot be what the last flush left: both are damage.
    let both_bad = faults.iter().all(Option::is_some);
    let mut damaged_copies = 0;
    for (copy, fault) in faults.into_iter().flatten() {
        if fault.is_torn() && !both_bad {
            replay.torn.push((index, copy));
        } else {
            replay.damaged.push((index, copy, fault));
            damaged_copies += 1;
        }
    }
    let (slots, sequence, newest) = match (a, b) {
        (Ok(a), Ok(b)) if a.1 == b.1 => {
            // No order between them: one was put there by something else. Keep what either names.
            replay.damaged.push((index, CopyId::B, Fault::Contradiction("both copies have one sequence")));
            damaged_copies = 2;
            (a.0, a.1, CopyId::A)
        }
        (Ok(a), Ok(b)) if a.1 > b.1 => (a.0, a.1, CopyId::A),
        (Ok(a), Err(_)) => (a.0, a.1, CopyId::A),
        (_, Ok(b)) => (b.0, b.1, CopyId::B),
        (Err(_), Err(_)) => (Vec::new(), 0, CopyId::B),
    };
    (slots, PageState { sequence, newest, changed: false, rewrites: damaged_copies })
}
