//! Bits and activity log where there are more than two nodes: another leader's numbering, and what a primary says of
//! third nodes (G9).

use super::{Store, Then};
use crate::{
    generation::record::Standing,
    ids::{BlockIndex, PeerIndex, Sequence},
    meta::stable_proof::{SessionId, StableProof},
    volume::{io::LinkId, span::ByteSpan},
};

impl Store {
    /// With three nodes: from now on the writes of this leader are applied. Its sequences cannot be compared with
    /// those before, and it may say of other peers what is stable there (G9).
    pub(crate) fn begin_stream(&mut self, leader: PeerIndex, link: LinkId) {
        self.renumber();
        for peer in PeerIndex::all().take(self.bitmaps.len()).filter(|&peer| peer != leader) {
            self.bitmap_mut(peer).set_witness(Some(SessionId(link.0)));
        }
    }

    /// With three nodes: another numbering of writes begins, and what was applied in the one before is stable
    /// everywhere or in bits. What the activity log still holds of it may go when those are flushed (D8).
    pub(crate) fn renumber(&mut self) {
        self.activity.begin_term();
        for bitmap in &mut self.bitmaps {
            bitmap.renumber();
            bitmap.set_witness(None);
        }
        self.after_bitmaps(Then::Carried);
    }

    /// Whether the peer has ever been in sync, so that bits for it mean something.
    pub(crate) fn keeps_bits_for(&self, peer: PeerIndex) -> bool {
        self.record(peer).is_some_and(|record| record.standing != Standing::Never)
    }

    /// Whether every bit of this span is set for the peer, and stable.
    pub(crate) fn is_marked(&self, peer: PeerIndex, span: ByteSpan) -> bool {
        let bytes = span.offset..span.end();
        let bitmap = self.bitmap(peer);
        bitmap.is_flushed(&bytes)
            && self
                .wanted
                .layout
                .geometry()
                .blocks_touched(&bytes)
                .all(|block| bitmap.is_dirty(BlockIndex(block)))
    }

    /// G9: the primary says that this peer, which is in sync with it as this node is, has everything up to `upto`
    /// stable, and whether it has our head.
    pub(crate) fn take_word(&mut self, peer: PeerIndex, link: LinkId, upto: Sequence, equal_heads: bool) {
        if self.dirty_blocks(peer) > 0 {
            let bytes = 0..self.size_bytes();
            let proof = StableProof::from_primary(peer, SessionId(link.0), bytes, upto);
            self.clear_dirty(peer, &proof);
        }
        if equal_heads && self.record(peer).is_some_and(|record| record.standing != Standing::InSync) {
            self.close_window(peer);
        }
    }
}
