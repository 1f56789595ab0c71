//! Commands of an operator, as the core knows them.

use std::time::Duration;

use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        Role,
        io::{CommandId, Event},
        operator::{Discard, OperatorAnswer, OperatorCommand},
    },
};
use tokio::{sync::oneshot, time::Instant};

use super::Runner;
use crate::node::command::{CommandError, CommandResult, VolumeCommand};

/// Clients that are leaving get this long before a demotion is refused (P5).
const LEAVING: Duration = Duration::from_secs(5);

impl Runner {
    /// Gives the volume one command and waits for its answer.
    pub(in crate::node) async fn order(&self, command: OperatorCommand) -> OperatorAnswer {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut inner = self.inner.borrow_mut();
            let id = CommandId(inner.next_order);
            inner.next_order += 1;
            inner.orders.insert(id, sender);
            id
        };
        self.turn([Event::Command { id, command }]);
        answer.await.unwrap_or_else(|_| OperatorAnswer::Refused("the volume was closed meanwhile".into()))
    }

    /// Carries out a command of the operator.
    pub(in crate::node) async fn command(&self, command: VolumeCommand) -> CommandResult {
        match command {
            VolumeCommand::Primary(force) => {
                let answer = self.order(OperatorCommand::Primary(force)).await;
                Ok(self.with_reasons(answer))
            }
            VolumeCommand::Secondary { force } => self.demote(force).await,
            VolumeCommand::Connect { peer } => {
                for index in self.peers_meant(peer.as_deref())? {
                    self.remarks.borrow_mut().peers.entry(index).or_default().disconnected = false;
                    self.order(OperatorCommand::Connect(index)).await;
                }
                Ok(OperatorAnswer::Done)
            }
            VolumeCommand::Disconnect { peer } => {
                for index in self.peers_meant(peer.as_deref())? {
                    let answer = self.named(index, self.order(OperatorCommand::Disconnect(index)).await);
                    if answer != OperatorAnswer::Done {
                        return Ok(answer);
                    }
                    self.remarks.borrow_mut().peers.entry(index).or_default().disconnected = true;
                }
                Ok(OperatorAnswer::Done)
            }
            VolumeCommand::Foretell { peer } => {
                let peer = self.one_peer(peer.as_deref())?;
                self.foretell(peer).await
            }
            VolumeCommand::Invalidate { peer: None } => Ok(self.order(OperatorCommand::Invalidate).await),
            VolumeCommand::Invalidate { peer } => {
                let peer = self.one_peer(peer.as_deref())?;
                Ok(self.named(peer, self.order(OperatorCommand::InvalidatePeer(peer)).await))
            }
            VolumeCommand::PauseResync(paused) => Ok(self.order(OperatorCommand::PauseResync(paused)).await),
            VolumeCommand::LimitResync(limit) => Ok(self.order(OperatorCommand::LimitResync(limit)).await),
            VolumeCommand::Verify { peer, repair } => {
                let peer = self.one_peer(peer.as_deref())?;
                Ok(self.named(peer, self.order(OperatorCommand::Verify { peer, repair }).await))
            }
            VolumeCommand::Resize(size_bytes) => self.resize(size_bytes).await,
            VolumeCommand::Resolve { discard } => self.resolve(&discard).await,
        }
    }

    /// The core knows its peers by number; a refusal that is about one gets its name.
    fn named(&self, peer: PeerIndex, answer: OperatorAnswer) -> OperatorAnswer {
        match answer {
            OperatorAnswer::Refused(why) => {
                OperatorAnswer::Refused(why.replace("the peer", self.peer_name(peer)))
            }
            OperatorAnswer::Done | OperatorAnswer::Verified { .. } | OperatorAnswer::Foretold(_) => answer,
        }
    }

    /// The peers that a command is about: the named one, or all.
    fn peers_meant(&self, name: Option<&str>) -> Result<Vec<PeerIndex>, CommandError> {
        let configured = self.settings().peers;
        let all = PeerIndex::all().zip(&self.peer_names);
        let meant: Vec<_> = all
            .filter(|(_, peer)| configured.contains(peer) && name.is_none_or(|name| name == *peer))
            .map(|(index, _)| index)
            .collect();
        match name {
            Some(name) if meant.is_empty() => Err(CommandError::NoSuchPeer {
                volume: self.name(),
                peer: name.to_owned(),
                peers: configured,
            }),
            Some(_) | None => Ok(meant),
        }
    }

    /// The one peer that a command is about.
    fn one_peer(&self, name: Option<&str>) -> Result<PeerIndex, CommandError> {
        match self.peers_meant(name)?[..] {
            [peer] => Ok(peer),
            [] => Err(CommandError::Refused(format!("volume {} has no peers", self.name()))),
            [_, _, ..] => Err(CommandError::WhichPeer { volume: self.name(), peers: self.settings().peers }),
        }
    }

    /// P5: clients that are leaving get a while; with force they are cut off.
    async fn demote(&self, force: bool) -> CommandResult {
        if self.core_status().role == Role::Primary {
            if !force && let Some(client) = self.remaining_client().await {
                return Ok(OperatorAnswer::Refused(format!(
                    "{client} still uses the device: disconnect it (unmount first), or --force"
                )));
            }
            self.close_to_clients(Some(&format!("{} becomes secondary on this node", self.name())));
        }
        let answer = self.order(OperatorCommand::Secondary { force }).await;
        self.close_to_clients(None);
        Ok(answer)
    }

    /// Waits for clients to leave; the first of those that do not.
    async fn remaining_client(&self) -> Option<String> {
        let until = Instant::now() + LEAVING;
        loop {
            let left = self.client_left.notified();
            let client = self.clients.borrow().values().next().map(|client| client.identity().to_string())?;
            if tokio::time::timeout_at(until, left).await.is_err() {
                return Some(client);
            }
        }
    }

    /// What the core cannot know is looked at first. Of a peer's disk its own log tells.
    async fn resize(&self, size_bytes: u64) -> CommandResult {
        let block_bytes = self.data.shape().block_bytes;
        if !size_bytes.is_multiple_of(block_bytes) {
            return Ok(OperatorAnswer::Refused(format!(
                "SIZE must be a multiple of {block_bytes} bytes, the block of {}",
                self.settings().data.display()
            )));
        }
        Ok(self.order(OperatorCommand::Resize(size_bytes)).await)
    }

    /// Ends a split brain. What a peer wrote is discarded in the histories with every peer that is split.
    async fn resolve(&self, discard: &str) -> CommandResult {
        let own = discard == self.own_node;
        let meant = self.peers_meant((!own).then_some(discard))?;
        let status = self.core_status();
        let split = |index: &PeerIndex| {
            let peer = status.peers.iter().find(|peer| peer.index == *index);
            peer.is_some_and(|peer| peer.apart.is_some() || peer.stranger.is_some())
        };
        let parted: Vec<_> = meant.into_iter().filter(split).collect();
        if parted.is_empty() {
            return Ok(OperatorAnswer::Refused(format!(
                "there is no split brain to resolve: `evenkeel status {}` shows how the copies stand",
                self.name()
            )));
        }
        let discard = if own { Discard::Own } else { Discard::Peers };
        for peer in parted {
            let answer = self.named(peer, self.order(OperatorCommand::Resolve { peer, discard }).await);
            if answer != OperatorAnswer::Done {
                return Ok(answer);
            }
        }
        Ok(OperatorAnswer::Done)
    }
}
