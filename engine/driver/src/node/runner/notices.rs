//! What a volume says that an operator should know: into the event stream, the log, and what `status` adds to the
//! core's own state.

use std::collections::BTreeMap;

use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        Replication, Role,
        io::{Area, DiskError, Notice},
    },
};

use super::{Inner, Runner, primaries::Reign};
use crate::{
    link::{Cause, Ending, Problem as LinkProblem},
    node::{files, memory::Memory, problem::Problem},
};

/// What is remembered of it for `status`.
#[derive(Debug, Default)]
pub(in crate::node) struct Remarks {
    /// Why the volume could not be opened.
    pub(super) not_opened: Option<Problem>,
    /// How the own disk failed.
    pub(in crate::node) disk_failed: Option<String>,
    /// Damage in the metadata that the volume has got over.
    pub(in crate::node) damage: Vec<String>,
    /// An older state of the copy was put back: how that was seen.
    pub(in crate::node) older: Option<String>,
    /// When this node was primary.
    pub(in crate::node) reign: Reign,
    /// Of each peer.
    pub(in crate::node) peers: BTreeMap<PeerIndex, PeerRemarks>,
}

/// What is remembered of one peer.
#[derive(Debug, Default)]
pub(in crate::node) struct PeerRemarks {
    /// When it was primary.
    pub(in crate::node) reign: Reign,
    /// The last conclusion of a handshake, in words.
    pub(in crate::node) verdict: Option<String>,
    /// What the peer did that the protocol forbids; until the next verdict.
    pub(in crate::node) broken: Option<String>,
    /// What stands between the two nodes, as the links see it.
    pub(in crate::node) link: Option<LinkProblem>,
    /// How the last link ended; until the next one.
    pub(in crate::node) ended: Option<String>,
    /// The operator has disconnected it.
    pub(in crate::node) disconnected: bool,
}

impl Runner {
    pub(super) fn on_notice(&self, inner: &mut Inner, notice: Notice) {
        inner.export_may_change = true;
        let name = self.name();
        let mut remarks = self.remarks.borrow_mut();
        let (peer, kind, text) = match notice {
            Notice::Role(role) => (None, "role", format!("this node is {} now", role_word(role))),
            Notice::Disk(disk) => {
                self.settled.send_replace(true);
                (None, "disk", format!("the own disk is {disk:?} now"))
            }
            Notice::Peer(peer, replication) => {
                (Some(peer), "peer", format!("replication is {} now", replication_word(replication)))
            }
            Notice::Verdict(peer, text) => {
                let remarks = remarks.peers.entry(peer).or_default();
                (remarks.broken, remarks.ended) = (None, None);
                remarks.verdict = Some(text.clone());
                (Some(peer), "verdict", text)
            }
            Notice::Stranger(peer, text) => (Some(peer), "stranger", text),
            Notice::ResyncDone { peer, compared_bytes, moved_bytes } => {
                let text = format!("a resync ended: {compared_bytes} bytes compared, {moved_bytes} moved");
                (Some(peer), "resync-done", text)
            }
            Notice::ProtocolError(peer, text) => {
                remarks.peers.entry(peer).or_default().broken = Some(text.to_owned());
                (Some(peer), "protocol-error", text.to_owned())
            }
            Notice::MetadataDamaged(text) => {
                remarks.damage.push(text.clone());
                (None, "metadata-damaged", text)
            }
            Notice::Older(text) if self.made => (None, "made-anew", text),
            Notice::Older(text) => {
                remarks.older = Some(text.clone());
                (None, "older", text)
            }
            Notice::SetBack { peer } => {
                let text = "the peer has seen a later state of this copy: an older one was put back; it is compared whole";
                (Some(peer), "set-back", text.to_owned())
            }
            Notice::NotOpened(error) => {
                let problem = files::meta_problem(&self.settings.borrow(), &error);
                let text = problem.text.clone();
                remarks.not_opened = Some(problem);
                self.settled.send_replace(true);
                (None, "not-opened", text)
            }
            Notice::DiskFailed(area, error) => {
                let text = disk_failure(area, error);
                remarks.disk_failed = Some(text.clone());
                self.settled.send_replace(true);
                (None, "disk-failed", text)
            }
            Notice::ServedByPeer(peer) => {
                let text =
                    "the own disk failed: this primary goes on through the peer, which has the only copy";
                (Some(peer), "served-by-peer", text.to_owned())
            }
            Notice::Grown(size_bytes) => (None, "grown", format!("the volume has {size_bytes} bytes now")),
            Notice::NotGrown(text) => (None, "not-grown", text),
            Notice::Unreadable(span) => {
                let text =
                    format!("{} bytes from byte {} of the own disk cannot be read", span.len, span.offset);
                (None, "unreadable", text)
            }
        };
        let peer = peer.map(|peer| self.peer_name(peer));
        tracing::info!(volume = name, peer, kind, "{text}");
        self.events.push(Some(&name), peer, kind, text);
    }

    /// Replaces what the state directory remembers by what is stable on the disk, if that has changed.
    pub(super) fn remember(&self, inner: &mut Inner) {
        let Some(stable) = inner.volume.stable_superblock() else { return };
        let known = &inner.memory;
        if (stable.node, stable.cluster, stable.volume) == (known.node, known.cluster, known.volume)
            && (stable.attach_counter, stable.highest_term) == (known.attach, known.term)
        {
            return;
        }
        let memory = Memory {
            node: stable.node,
            cluster: stable.cluster,
            volume: stable.volume,
            attach: stable.attach_counter,
            term: stable.highest_term,
            peers: inner.memory.peers.clone(),
        };
        inner.memory = memory.clone();
        self.memory_writer.write(memory);
    }

    pub(super) fn note_link_end(&self, peer: PeerIndex, end: &Ending) {
        if end.cause != Cause::Closed {
            self.remarks.borrow_mut().peers.entry(peer).or_default().ended = Some(end.text.clone());
        }
    }

    pub(super) fn note_link_problem(&self, peer: PeerIndex, problem: Option<LinkProblem>) {
        if let Some(problem) = &problem {
            let (name, peer) = (self.name(), self.peer_name(peer));
            tracing::warn!(volume = name, peer, code = %problem.code, "{}", problem.text);
            self.events.push(Some(&name), Some(peer), "link-problem", problem.text.clone());
        }
        self.remarks.borrow_mut().peers.entry(peer).or_default().link = problem;
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
}

fn replication_word(replication: Replication) -> &'static str {
    match replication {
        Replication::Off => "off",
        Replication::Established => "established",
        Replication::SyncSource => "sync-source",
        Replication::SyncTarget => "sync-target",
        Replication::Verify => "verify",
        Replication::SplitBrain => "split-brain",
    }
}

fn disk_failure(area: Area, error: DiskError) -> String {
    let what = match area {
        Area::Data => "data",
        Area::Meta => "metadata",
    };
    match error {
        DiskError::Io => format!("the disk with the {what} failed"),
        DiskError::NoSpace => format!("the disk with the {what} has no room left"),
    }
}
