//! The source of a resync: telling its bits, answering pulls, and the end (R2, R6).
//!
//! `read_at` is the last sequence issued when the read entered the range lock: every overlapping write up to it
//! has left the lock before the read begins, so the answer shows all of them. It may show parts of later ones
//! too; the target lets those win anyway.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    codec::limits,
    io::{Channel, DiskError, LinkId, Notice},
    lead::Phase,
    pace::HeldPull,
    progress::Progress,
    span::ByteSpan,
    store::Then,
    volume::{Broken, Volume},
    wire::{BlockContent, Frame, Retained},
};
use crate::{
    ids::{PeerIndex, Sequence},
    meta::stable_proof::{SessionId, StableProof},
};

/// The longest span that a peer may ask for at once.
const PULL_BYTES_LIMIT: u64 = 1 << 20;

/// Questions of one peer that may wait for their answer; a target has 16 under way, and some of a resync that it has broken off.
const PULLS_OPEN_MAX: usize = 64;

/// The checksum by which a block of the target is compared with the source's.
pub(crate) fn digest(block: &[u8]) -> u128 {
    xxh3_128(block)
}

impl Volume {
    /// Tells the target which blocks it may lack.
    pub(crate) fn send_runs(&mut self, peer: PeerIndex) {
        let mut runs = Vec::new();
        let mut from = 0;
        while let Some(run) = self.store().next_dirty(peer, from, u64::MAX) {
            from = run.end();
            runs.push(run);
            if runs.len() == limits::RUNS_MAX {
                self.send(peer, Channel::Resync, Frame::Runs(std::mem::take(&mut runs)));
            }
        }
        if !runs.is_empty() {
            self.send(peer, Channel::Resync, Frame::Runs(runs));
        }
        self.send(peer, Channel::Resync, Frame::RunsEnd);
    }

    pub(crate) fn on_pull(
        &mut self,
        peer: PeerIndex,
        pull: u64,
        span: ByteSpan,
        after: Sequence,
        digests: Vec<u128>,
    ) -> Result<(), Broken> {
        let block_bytes = self.store().block_bytes();
        let leading = self.leading_mut(peer)?;
        if leading.phase != Phase::Supplying {
            return Err(Broken("a pull outside a resync"));
        }
        if !self.is_valid(span) || span.len > PULL_BYTES_LIMIT || !span.offset.is_multiple_of(block_bytes) {
            return Err(Broken("a pull of an impossible span"));
        }
        let blocks = span.len.div_ceil(block_bytes);
        if !digests.is_empty() && digests.len() as u64 != blocks {
            return Err(Broken("a pull with a wrong number of digests"));
        }
        let read_at = self.log.issued();
        if after > read_at {
            return Err(Broken("a pull from the future"));
        }
        let leading = self.leading_mut(peer)?;
        if leading.pulls >= PULLS_OPEN_MAX {
            return Err(Broken("too many pulls at once"));
        }
        leading.pulls += 1;
        let link = self.peer(peer).link.expect("a frame came on it");
        self.pace_pull(HeldPull { peer, link, pull, span, digests });
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all of it is the operation that has just been taken apart"
    )]
    pub(crate) fn on_source_read(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        id: u64,
        read_at: Sequence,
        span: ByteSpan,
        digests: &[u128],
        result: Result<Bytes, DiskError>,
    ) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let data = match result {
            Ok(data) => data,
            Err(_) => {
                // The copy around it may be the only good one: the target asks again on its next link.
                self.close_link(peer, "the source cannot read what is to be copied");
                return;
            }
        };
        let block_bytes = usize::try_from(self.store().block_bytes()).expect("a block is in memory");
        let mut moved = 0;
        let mut blocks = Vec::with_capacity(data.len().div_ceil(block_bytes));
        for (at, block) in data.chunks(block_bytes).enumerate() {
            blocks.push(if digests.get(at).is_some_and(|&theirs| theirs == digest(block)) {
                BlockContent::Same
            } else if block.iter().all(|&byte| byte == 0) {
                BlockContent::Zero
            } else {
                moved += block.len() as u64;
                let start = at * block_bytes;
                BlockContent::Data(data.slice(start..start + block.len()))
            });
        }
        let Ok(leading) = self.leading_mut(peer) else { return };
        // It may have been asked for in a session before this one.
        leading.pulls = leading.pulls.saturating_sub(1);
        if let Some(progress) = &mut leading.progress {
            progress.compared(span.len, moved);
        }
        self.send(peer, Channel::Resync, Frame::Part { id, read_at, blocks });
    }

    /// The target has these blocks stable, as this source read them in this session: the one way to clear a
    /// bit (D11).
    pub(crate) fn on_settled(
        &mut self,
        peer: PeerIndex,
        spans: &[(ByteSpan, Sequence)],
    ) -> Result<(), Broken> {
        let leading = self.leading_mut(peer)?;
        if leading.phase != Phase::Supplying {
            return Err(Broken("settled outside a resync"));
        }
        let session = SessionId(self.peer(peer).link.expect("a frame came on it").0);
        for &(span, read_at) in spans {
            if !self.is_valid(span) || read_at > self.log.issued() {
                return Err(Broken("settled what cannot be"));
            }
            let proof = StableProof::from_acknowledgement(peer, session, span.offset..span.end(), read_at);
            if !self.store_mut().clear_dirty(peer, &proof) {
                return Err(Broken("settled outside a session"));
            }
        }
        let now = self.now;
        if let Some(progress) = &mut self.leading_mut(peer)?.progress {
            progress.settled(spans.iter().map(|(span, _)| span.len).sum(), now);
        }
        Ok(())
    }

    /// The target has no bits left (R6).
    pub(crate) fn on_finish(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let leading = self.leading_mut(peer)?;
        if leading.phase != Phase::Supplying {
            return Err(Broken("the end of a resync that is not under way"));
        }
        if self.store().dirty_blocks(peer) > 0 {
            return Err(Broken("the end of a resync with blocks left"));
        }
        self.leading_mut(peer)?.phase = Phase::Announcing;
        let link = self.peer(peer).link.expect("a frame came on it");
        self.store_mut().offer_head(peer);
        self.store_mut().after_commit(Then::CountPeer { peer, link });
        Ok(())
    }

    /// The window allows the target to have our head: count it (R6, first step).
    pub(crate) fn on_count_peer(&mut self, peer: PeerIndex, link: LinkId) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        let Ok(leading) = self.leading_mut(peer) else { return };
        if leading.phase != Phase::Announcing {
            return;
        }
        if self.store().is_head_unstable() || !self.store().window_offers_head(peer) {
            // A new generation began meanwhile: the window has to allow that one.
            self.store_mut().offer_head(peer);
            self.store_mut().after_commit(Then::CountPeer { peer, link });
            return;
        }
        let head = self.store().head().expect("a source has a generation");
        let ancestors = self.store().history().ancestors().to_vec();
        let after = self.log.issued();
        let leading = self.leading_mut(peer).expect("just looked at");
        leading.phase = Phase::Counting;
        let evidence = self.store().evidence();
        let kept = Retained { power: evidence.power, replies: evidence.replies };
        self.send(peer, Channel::Control, Frame::Counted { after, head, ancestors, kept });
    }

    /// A resync with this peer has ended; one that had nothing to copy is none.
    pub(crate) fn note_resync_done(&mut self, peer: PeerIndex, progress: Option<Progress>) {
        let Some(last) = progress.map(|progress| progress.finish(peer, self.now)) else { return };
        self.last_resync = Some(last);
        if self.peer(peer).receives() {
            let (compared_bytes, moved_bytes) = (last.compared_bytes, last.moved_bytes);
            self.notice(Notice::ResyncDone { peer, compared_bytes, moved_bytes });
        }
    }

    /// The target has taken the head, durably (R6, last step: close its window).
    pub(crate) fn on_finished(&mut self, peer: PeerIndex) -> Result<(), Broken> {
        let leading = self.leading_mut(peer)?;
        if leading.phase != Phase::Counting {
            return Err(Broken("finished without having been counted"));
        }
        leading.phase = Phase::InSync;
        let progress = leading.progress.take();
        self.note_resync_done(peer, progress);
        self.notice(Notice::Peer(peer, super::Replication::Established));
        self.store_mut().set_outdated_confirmed(peer, false);
        // The head is still the one that was counted: a new one does not begin between the two (R6).
        self.store_mut().close_window(peer);
        self.reconsider_disk();
        self.tell_mark();
        self.resume_answers();
        Ok(())
    }
}
