//! Which parts of the device some replica lacks, for whoever asks (the NBD context `x-evenkeel:dirty`).

use super::{
    span::ByteSpan,
    volume::{Stage, Volume},
};

/// A run of bytes that all replicas have, or that at least one lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyExtent {
    /// Number of bytes, never zero.
    pub len: u64,
    /// Whether a replica lacks it.
    pub dirty: bool,
}

impl Volume {
    /// What lies in `span`, in at most `limit` runs without gaps from its start; what lies behind them is left out.
    /// A block is dirty as a whole. Nothing while the metadata are not open.
    ///
    /// # Panics
    /// If the span is not on the device.
    #[must_use]
    pub fn dirty_map(&self, span: ByteSpan, limit: usize) -> Vec<DirtyExtent> {
        let mut extents: Vec<DirtyExtent> = Vec::new();
        let (mut at, end) = (span.offset, span.end());
        if !matches!(self.stage, Stage::Running) {
            return extents;
        }
        assert!(end <= self.store().size_bytes(), "{span:?} is not on the device");
        let block = self.store().block_bytes();
        while at < end {
            let from = at / block * block;
            let next = |peer| self.store().next_dirty(peer, from, u64::MAX);
            let runs = || self.peer_indices().filter_map(next);
            let clean_to = runs().map(|run| run.offset).min().unwrap_or(end).clamp(at, end);
            let dirty_to =
                runs().filter(|run| run.offset <= at).map(ByteSpan::end).max().unwrap_or(at).min(end);
            let (to, dirty) = if dirty_to > at { (dirty_to, true) } else { (clean_to, false) };
            let full = extents.len() == limit;
            match extents.last_mut() {
                Some(last) if last.dirty == dirty => last.len += to - at,
                Some(_) | None if full => return extents,
                Some(_) | None => extents.push(DirtyExtent { len: to - at, dirty }),
            }
            at = to;
        }
        extents
    }
}
