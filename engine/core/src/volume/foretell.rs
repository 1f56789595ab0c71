//! `connect --dry-run`: what the handshake with a peer would conclude now, without anything being agreed or moved.
//!
//! - Linked, and the reports are there: concluded from them, anew.
//! - In sync, or a resync under way: that is the conclusion.
//! - Not linked, but allowed: the next handshake is waited for; it takes place anyway.
//! - Disconnected by the operator: the next link is a *probe*. Both say hello, the peer reports, this node concludes
//!   and closes the link. It sends no report itself, so that the peer concludes nothing, and it notes nothing of what
//!   it has heard: metadata stay as they are on both sides.

use super::{
    io::{Action, Channel, CommandId, LinkId},
    operator::OperatorAnswer,
    peer::Session,
    volume::{Broken, Volume},
    wire::Frame,
};
use crate::{
    generation::{
        decide::decide,
        verdict::{Names, Verdict},
        view::NodeView,
    },
    ids::{PeerIndex, Timestamp},
};

/// Somebody waits for the conclusion with a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foretelling {
    id: CommandId,
    /// Nobody waits any more from then on.
    until: Timestamp,
    /// The link that is there only for this.
    probe: Option<LinkId>,
}

impl Volume {
    pub(crate) fn foretell(&mut self, id: CommandId, peer: PeerIndex, until: Timestamp) {
        self.stop_foretelling(peer, "another dry run with this peer was begun");
        if !self.may_link_without_disk(peer) {
            self.answer(id, Err("this node has no working disk"));
            return;
        }
        self.peer_mut(peer).foretelling = Some(Foretelling { id, until, probe: None });
        if let Some(refusal) = self.peer(peer).stranger.filter(|_| self.peer(peer).link.is_some()) {
            let text = refusal.explain(self.names(peer));
            self.foretold(peer, text);
        } else if let Some(comparing) = self.peer(peer).comparing() {
            if let Some((_, theirs)) = &comparing.theirs {
                let verdict = decide(&self.view_for(peer), theirs);
                self.foretold_verdict(peer, verdict);
            }
        } else {
            let both = self.names(peer).both();
            let progress = self.peer(peer).progress_of_resync().map(|progress| progress.at(self.now).why);
            match (self.session(peer), progress) {
                (Session::Leading(_) | Session::Following(_), Some(why)) => {
                    let text = format!("A resync is under way: {}", why.explain(self.names(peer)));
                    self.foretold(peer, text);
                }
                (Session::Leading(_) | Session::Following(_), None) => {
                    self.foretold(peer, format!("{both} are connected and in sync: nothing to copy (G4)."));
                }
                (Session::Starting(starting), _) => {
                    let verdict = starting.verdict;
                    self.foretold_verdict(peer, verdict);
                }
                (Session::Down | Session::Greeting | Session::Comparing(_) | Session::Apart(_), _) => {}
            }
        }
    }

    /// The two names, for sentences.
    pub(crate) fn names(&self, peer: PeerIndex) -> Names<'_> {
        Names { mine: &self.config.node_name, theirs: &self.config.peer_names[peer.as_usize()] }
    }

    /// Answers whoever waits for the conclusion.
    pub(crate) fn foretold_verdict(&mut self, peer: PeerIndex, verdict: Verdict) {
        if self.peer(peer).foretelling.is_some() {
            let text = verdict.explain(self.names(peer));
            self.foretold(peer, text);
        }
    }

    /// The same, with a sentence that is no verdict.
    pub(crate) fn foretold(&mut self, peer: PeerIndex, text: String) {
        if let Some(waiting) = self.peer_mut(peer).foretelling.take() {
            self.out.push(Action::Answer { id: waiting.id, answer: OperatorAnswer::Foretold(text) });
        }
    }

    fn stop_foretelling(&mut self, peer: PeerIndex, why: &str) {
        if let Some(waiting) = self.peer_mut(peer).foretelling.take() {
            self.answer(waiting.id, Err(why));
        }
    }

    /// Whether a link to a peer that the operator has disconnected may stay as a probe.
    pub(crate) fn admits_probe(&mut self, peer: PeerIndex, link: LinkId) -> bool {
        let now = self.now;
        let state = self.peer_mut(peer);
        match &mut state.foretelling {
            Some(waiting) if now < waiting.until => {
                waiting.probe = Some(link);
                true
            }
            Some(_) | None => {
                state.foretelling = None;
                false
            }
        }
    }

    /// Whether the peer's link is there only for a dry run.
    pub(crate) fn is_probe(&self, peer: PeerIndex) -> bool {
        let state = self.peer(peer);
        !state.allowed
            && state.link.is_some()
            && state.foretelling.is_some_and(|waiting| waiting.probe == state.link)
    }

    /// On a probe only the peer's hello and its report count; nothing is sent but our hello.
    pub(crate) fn on_probe_frame(&mut self, peer: PeerIndex, frame: Frame) -> Result<(), Broken> {
        if let Frame::Hello(hello) = frame {
            if let Some(stranger) = self.check_hello(peer, &hello)? {
                let text = stranger.explain(self.names(peer));
                self.end_probe(peer, text);
            }
        } else if let Frame::Report { view, .. } = frame {
            let text = self.probe_verdict(peer, &view);
            self.end_probe(peer, text);
        } else if let Frame::Ping(time) = frame {
            self.send(peer, Channel::Control, Frame::Pong(time));
        }
        // What else a peer says at the start of a session is about one that will not begin.
        Ok(())
    }

    fn probe_verdict(&self, peer: PeerIndex, theirs: &NodeView) -> String {
        decide(&self.view_for(peer), theirs).explain(self.names(peer))
    }

    fn end_probe(&mut self, peer: PeerIndex, text: String) {
        self.foretold(peer, text);
        self.close_link(peer, "it was a dry run: nothing was agreed");
    }
}
