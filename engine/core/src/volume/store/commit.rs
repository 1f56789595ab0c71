//! The one commit between memory and disk: what goes into it, and what follows from it.
//!
//! Order: bits of an extent are in an earlier commit than the transaction of the activity log that lets the
//! extent go (D8; the log asks before it evicts). Everything else may be together in one.

use bytes::Bytes;

use super::{Commit, Committed, Need, Store, Then, piece};
use crate::{
    ids::{ExtentIndex, Sequence},
    meta::{activity_log::Step, dirty_bitmap::FlushScope},
    volume::slab::Key,
};

/// Idle extents that one transaction lets go at most.
const CLEAN_EXTENTS_PER_COMMIT: usize = 1024;

impl Store {
    /// Something happens once everything that is in the superblock now is stable.
    pub(crate) fn after_commit(&mut self, then: Then) {
        self.waiting.push((Need::Superblock, then));
    }

    /// Something happens once every bit that is set now is stable too.
    pub(crate) fn after_bitmaps(&mut self, then: Then) {
        self.waiting.push((Need::Bitmaps, then));
    }

    /// Something happens once the activity log is empty, and bits and superblock are stable.
    pub(crate) fn after_quiet(&mut self, then: Then) {
        self.waiting.push((Need::Quiet, then));
    }

    /// Begins the next commit if something is to be committed: its pieces. Pieces of writes that got their
    /// extents without one are appended to `admitted`.
    pub(crate) fn begin_commit(
        &mut self,
        stable: Sequence,
        admitted: &mut Vec<Key>,
    ) -> Option<Vec<(u64, Bytes)>> {
        let idle = !self.changed
            && !self.copy_due
            && !self.flush_bits
            && self.waiting.is_empty()
            && self.idle_since.is_none()
            && self.growth.is_none()
            && self.activity.waiting() == 0;
        if idle || self.commit.is_some() {
            return None;
        }
        if self.condemned {
            return self.begin_last_commit();
        }
        let moved = self.move_bitmaps();
        let moves = moved.is_some();
        let quiet_wanted = self.waiting.iter().any(|(need, _)| *need == Need::Quiet);
        let scope = if quiet_wanted { FlushScope::All } else { FlushScope::Sets };
        let mut pieces = self.activity_writes(stable, quiet_wanted, admitted);
        let activity = !pieces.is_empty();
        pieces.extend(moved.into_iter().flatten());
        let bits_wanted = self.flush_bits
            || self.activity.needs_flush()
            || self.waiting.iter().any(|(need, _)| *need != Need::Superblock);
        let mut bitmaps = vec![false; self.bitmaps.len()];
        if bits_wanted && !moves {
            self.flush_bits = false;
            for (bitmap, flushing) in self.bitmaps.iter_mut().zip(&mut bitmaps) {
                if bitmap.needs_flush(scope) {
                    pieces.extend(bitmap.begin_flush(scope, usize::MAX).into_iter().map(piece));
                    *flushing = true;
                }
            }
        }
        let quiet = quiet_wanted
            && !moves
            && !activity
            && self.activity.is_clean()
            && !self.bitmaps.iter().any(|bitmap| bitmap.needs_flush(FlushScope::All));
        let ready = |need: Need| match need {
            Need::Superblock => true,
            Need::Bitmaps => !moves,
            Need::Quiet => quiet,
        };
        let then: Vec<Then> =
            self.waiting.iter().filter(|(need, _)| ready(*need)).map(|(_, then)| *then).collect();
        self.waiting.retain(|(need, _)| !ready(*need));
        let news = self.changed || !then.is_empty();
        let superblock = news || self.copy_due;
        if superblock {
            self.changed = false;
            self.copy_due = news;
            pieces.push(piece(self.pair.update(self.wanted.clone())));
        }
        if pieces.is_empty() {
            return None;
        }
        self.commit = Some(Commit { then, superblock, activity, bitmaps });
        Some(pieces)
    }

    /// Of a failed disk only its superblock is still written, to both copies.
    fn begin_last_commit(&mut self) -> Option<Vec<(u64, Bytes)>> {
        if self.waiting.is_empty() && !self.copy_due {
            return None;
        }
        self.copy_due = !self.waiting.is_empty();
        let then = self.waiting.drain(..).map(|(_, then)| then).collect();
        self.changed = false;
        let bitmaps = vec![false; self.bitmaps.len()];
        self.commit = Some(Commit { then, superblock: true, activity: false, bitmaps });
        Some(vec![piece(self.pair.update(self.wanted.clone()))])
    }

    /// The commit could not be made stable: what was to follow from it, and the pieces whose extents were in it.
    pub(crate) fn commit_failed(&mut self) -> Committed {
        let commit = self.commit.take().expect("a commit was under way");
        if commit.superblock {
            self.pair.failed();
            self.copy_due = false;
        }
        let admitted = self.activity.failed().into_iter().map(|piece| Key::from_u64(piece.0)).collect();
        Committed { then: commit.then, admitted }
    }

    fn activity_writes(
        &mut self,
        stable: Sequence,
        quiet: bool,
        admitted: &mut Vec<Key>,
    ) -> Vec<(u64, Bytes)> {
        let geometry = *self.wanted.layout.geometry();
        let bitmaps = &self.bitmaps;
        let flushed = |extent: ExtentIndex| {
            let bytes = geometry.extent_range(extent);
            bitmaps.iter().all(|bitmap| bitmap.is_flushed(&bytes))
        };
        let mut hot = Vec::new();
        let mut step = self.activity.advance(stable, flushed, &mut hot);
        let idle_since = if quiet { Some(stable) } else { self.idle_since.take() };
        if step == Step::Idle
            && let Some(idle_since) = idle_since
        {
            step = self.activity.clean(idle_since, stable, flushed, CLEAN_EXTENTS_PER_COMMIT);
        }
        admitted.extend(hot.into_iter().map(|piece| Key::from_u64(piece.0)));
        match step {
            Step::Write(writes) => writes.into_iter().map(piece).collect(),
            Step::Idle | Step::InFlight | Step::NeedsFlush => Vec::new(),
        }
    }

    /// The commit is stable.
    pub(crate) fn committed(&mut self) -> Committed {
        let commit = self.commit.take().expect("a commit was under way");
        if commit.superblock {
            self.pair.committed();
        }
        let mut admitted = Vec::new();
        if commit.activity {
            self.activity.committed(&mut admitted);
        }
        for (bitmap, flushing) in self.bitmaps.iter_mut().zip(commit.bitmaps) {
            if flushing {
                bitmap.flushed();
            }
        }
        if commit.then.contains(&Then::Attached) || commit.then.contains(&Then::Carried) {
            // Every bit for what the log carries is stable: its extents need not be carried any more.
            self.activity.carried_settled();
            self.activity_damaged = false;
        }
        let admitted = admitted.into_iter().map(|piece| Key::from_u64(piece.0)).collect();
        Committed { then: commit.then, admitted }
    }
}
