//! What a test may choose: the volume's settings, and what of a disk fails or is slow.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use evenkeel_core::volume::{
    config::{OnPeerLoss, Protocol, Tunables},
    io::{Action, Area, Event},
};

use super::Pair;

/// Which action of a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fail {
    Read,
    Write,
    Flush,
    /// There is no room for a larger volume.
    Room,
    /// The disk fails while room is made.
    Extend,
    Commit,
}

/// What of a node's disk is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Everything that is done to the data.
    Data,
    /// Only flushes of the data.
    Flush,
    /// Only writes of the data.
    Write,
    /// The metadata.
    Meta,
}

impl Held {
    pub(crate) fn takes(self, action: &Action) -> bool {
        match action {
            Action::Read { area: Area::Data, .. } => self == Self::Data,
            Action::Write { .. } | Action::Zero { .. } | Action::Extend { .. } => {
                matches!(self, Self::Data | Self::Write)
            }
            Action::Flush { .. } => matches!(self, Self::Data | Self::Flush),
            Action::Read { area: Area::Meta, .. } | Action::Commit { .. } => self == Self::Meta,
            Action::Send { .. }
            | Action::CloseLink { .. }
            | Action::Reply { .. }
            | Action::WakeAt(_)
            | Action::Answer { .. }
            | Action::Notice(_) => false,
        }
    }
}

/// What differs between the volumes of the tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) on_peer_loss: OnPeerLoss,
    pub(crate) max_inflight_writes: usize,
    pub(crate) max_inflight_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::C,
            on_peer_loss: OnPeerLoss::Continue,
            max_inflight_writes: 1024,
            max_inflight_bytes: 64 << 20,
        }
    }
}

impl Pair {
    /// The configuration of a node that runs is changed: the volume may grow up to this.
    pub(crate) fn allow(&mut self, node: usize, size_bytes_max: u64) {
        let tunables = Tunables {
            size_bytes_max,
            on_peer_loss: self.settings.on_peer_loss,
            peer_timeout: Duration::from_secs(5),
            hold: Duration::from_secs(120),
            max_lag_bytes: 64 << 20,
            resync_limit: None,
        };
        self.nodes[node].volume.as_mut().expect("the node lives").tune(tunables);
        self.events.push_back((node, Event::Wake));
        self.run();
    }
}
