//! `connect --dry-run`: what the handshake with a peer would conclude now.

use std::time::Duration;

use evenkeel_core::{
    ids::PeerIndex,
    volume::operator::{OperatorAnswer, OperatorCommand},
};

use super::Runner;
use crate::node::{
    clock,
    command::{CommandError, CommandResult},
};

/// A peer that is tried again and again is tried at least once within this time: a link that was just refused is made
/// anew after 3 s at the latest.
const PATIENCE: Duration = Duration::from_secs(5);

impl Runner {
    pub(super) async fn foretell(&self, peer: PeerIndex) -> CommandResult {
        let until = clock::now().after(PATIENCE);
        let answer =
            tokio::time::timeout(PATIENCE, self.order(OperatorCommand::Foretell { peer, until })).await;
        match answer {
            Ok(answer @ OperatorAnswer::Foretold(_)) => Ok(answer),
            // A link that breaks in the middle is no conclusion.
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.no_conclusion(peer)),
        }
    }

    /// Why a handshake did not take place: the peer is refused, refuses, or does not answer.
    fn no_conclusion(&self, peer: PeerIndex) -> CommandError {
        let name = self.peer_name(peer);
        let remarks = self.remarks.borrow();
        let remarks = remarks.peers.get(&peer);
        let problem = remarks.and_then(|remarks| remarks.link.clone());
        let problem = problem.or_else(|| {
            self.endpoint.status(self.peer_keys[peer.as_usize()]).and_then(|status| status.problem)
        });
        if let Some(problem) = problem {
            return CommandError::Refused(format!("no handshake with {name} is possible: {}", problem.text));
        }
        match remarks.and_then(|remarks| remarks.ended.as_ref()) {
            Some(ended) => CommandError::Unanswered(format!(
                "{name} did not go through with a handshake within {} s; the last connection: {ended}",
                PATIENCE.as_secs()
            )),
            None => {
                CommandError::Unanswered(format!("{name} does not answer within {} s", PATIENCE.as_secs()))
            }
        }
    }
}
