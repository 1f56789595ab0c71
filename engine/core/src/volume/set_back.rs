//! The attach counter: what every peer has been shown of it, and what happens when one has been shown more than this
//! copy remembers, because an older state of it was put back (D6).
//!
//! ```text
//!   counter rises ──> noted, stably, that this peer is shown it ──> Mark ──> the peer remembers it
//! ```
//!
//! It rises at every attach, at the start of every session, at every promotion, and once a minute while data change.
//! A state that is put back knows only of the values up to its own time. What it has noted as shown to a peer does
//! not rise by an attach, only by a meeting in which the peer did not know better; so however often a node is started
//! before the two meet, it is found.

use super::{DiskState, io::Notice, peer::Session, store::Then, volume::Volume};
use crate::ids::{AttachCounter, PeerIndex};

impl Volume {
    /// What the boot-time clock shows now, in nanoseconds.
    pub(crate) fn boot_clock_nanos(&self) -> u64 {
        let since_attach = u64::try_from(self.now.since(self.attached_at).as_nanos()).expect("centuries");
        self.run.boot_clock_nanos.saturating_add(since_attach)
    }

    /// The counter rises, and every peer in a session is shown it with the next [`Mark`](super::wire::Frame::Mark)
    /// after the commit.
    pub(crate) fn raise_counter(&mut self) {
        let boot_clock = self.boot_clock_nanos();
        self.store_mut().raise_counter(boot_clock);
        for peer in self.peer_indices() {
            if matches!(self.session(peer), Session::Leading(_) | Session::Following(_)) {
                self.store_mut().show_counter(peer);
            }
        }
    }

    /// The peer has seen a later state of this copy: it is an old one. Nothing of it counts any more.
    pub(crate) fn on_set_back(&mut self, peer: PeerIndex, seen: AttachCounter) {
        self.notice(Notice::SetBack { peer });
        self.depose();
        self.cancel_promotion("an older state of this copy was put back");
        self.resumption = None;
        self.store_mut().note_set_back(peer, seen);
        if !self.store().flags().fresh {
            self.set_disk(DiskState::Inconsistent);
        }
        for other in self.peer_indices() {
            if other != peer && matches!(self.session(other), Session::Leading(_) | Session::Following(_)) {
                self.close_link(other, "an older state of this copy was put back");
            }
        }
        self.store_mut().after_bitmaps(Then::SetBackNoted);
    }

    /// That is stable: now the peers may know what this copy is.
    pub(crate) fn on_set_back_noted(&mut self) {
        self.report_everywhere_again();
    }
}
