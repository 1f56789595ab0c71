//! `[volume.NAME]` and `[volume.NAME.on.NODE]`: what is replicated, how, and where its files are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use evenkeel_core::{
    meta::geometry::{DEFAULT_EXTENT_BYTES, DEFAULT_SLOTS, Geometry, MIN_BLOCK_BYTES},
    volume::config::{OnPeerLoss, Protocol},
};

use super::{
    check,
    fault::Place,
    section::{Placed, Section},
};
use crate::units::{ByteSize, RateLimit, Span};

/// Pings go once a second: a shorter timeout would drop peers that are well.
const MIN_PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// I/O would stand still for longer than anybody wants to wait.
const MAX_PEER_TIMEOUT: Duration = Duration::from_secs(600);
/// Below this the smallest disturbance would fail I/O.
const MIN_HOLD: Duration = Duration::from_secs(1);
/// Whoever waits for I/O does not wait longer.
const MAX_HOLD: Duration = Duration::from_secs(24 * 3600);
/// A write of the largest size must find room.
const MIN_MAX_LAG: u64 = 1 << 20;

/// One replicated volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Size, block and extent size.
    pub(crate) geometry: Geometry,
    /// When a write is acknowledged.
    pub(crate) protocol: Protocol,
    /// What a primary does that has lost a peer.
    pub(crate) on_peer_loss: OnPeerLoss,
    /// A peer that is silent for this long is dropped.
    pub(crate) peer_timeout: Duration,
    /// I/O that cannot go on is held this long, then fails.
    pub(crate) hold: Duration,
    /// Protocol A: writes wait when a peer is further behind than this.
    pub(crate) max_lag: ByteSize,
    /// Upper limit of a resync's speed.
    pub(crate) resync_limit: RateLimit,
    /// The nodes that hold a copy, by name. Empty: every node, in its state directory.
    pub(crate) replicas: BTreeMap<String, Replica>,
}

/// Where one node keeps its copy; what is not given lies in its state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    /// The data: a file or a block device.
    pub(crate) data: Option<PathBuf>,
    /// The metadata: a file or a block device.
    pub(crate) meta: Option<PathBuf>,
}

/// A volume as it was read, with the places of what is compared with other tables.
#[derive(Debug)]
pub(super) struct VolumeEntry {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) replicas: Vec<ReplicaEntry>,
    volume: Option<Volume>,
}

/// `[volume.NAME.on.NODE]` as it was read.
#[derive(Debug)]
pub(super) struct ReplicaEntry {
    pub(super) node: String,
    pub(super) place: Place,
    pub(super) data: Option<Placed<PathBuf>>,
    pub(super) meta: Option<Placed<PathBuf>>,
}

/// All volumes, if each is complete.
pub(super) fn all(entries: Vec<VolumeEntry>) -> Option<BTreeMap<String, Volume>> {
    entries.into_iter().map(|entry| Some((entry.name, entry.volume?))).collect()
}

impl Volume {
    pub(super) fn read((name, section): (&str, Section<'_, '_>)) -> VolumeEntry {
        check::name(&section, "volume", name, section.place());
        let geometry = read_geometry(&section);
        let protocol = section
            .choice("protocol", &[("A", Protocol::A), ("B", Protocol::B), ("C", Protocol::C)])
            .unwrap_or(Protocol::C);
        let on_peer_loss = section
            .choice("on_peer_loss", &[("continue", OnPeerLoss::Continue), ("suspend", OnPeerLoss::Suspend)])
            .unwrap_or(OnPeerLoss::Continue);
        let (peer_timeout, hold) = read_times(&section);
        let max_lag = section.size("max_lag");
        if let Some(Placed { value, place }) = max_lag
            && value.0 < MIN_MAX_LAG
        {
            section
                .faults()
                .at(place, format!("max_lag = {value}: write at least {}", ByteSize(MIN_MAX_LAG)));
        }
        let resync_limit = section.parsed("resync_limit").map_or(RateLimit(None), |limit| limit.value);
        let replicas: Vec<_> = section.tables("on").into_iter().map(ReplicaEntry::read).collect();
        let place = section.place();
        section.finish();
        let volume = geometry.map(|geometry| Self {
            geometry,
            protocol,
            on_peer_loss,
            peer_timeout,
            hold,
            max_lag: max_lag.map_or(ByteSize(64 << 20), |lag| lag.value),
            resync_limit,
            replicas: replicas.iter().map(ReplicaEntry::finish).collect(),
        });
        VolumeEntry { name: name.to_owned(), place, replicas, volume }
    }

    /// The names of the nodes that hold a copy, of all of a cluster's nodes.
    pub(crate) fn holders<'a>(&'a self, mut nodes: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        if self.replicas.is_empty() {
            return nodes.by_ref().collect();
        }
        self.replicas.keys().map(String::as_str).collect()
    }
}

fn read_geometry(section: &Section<'_, '_>) -> Option<Geometry> {
    let size = section.size("size");
    let (block, extent) = (section.size("block_size"), section.size("al_extent"));
    let Some(size) = size else {
        if section.is_absent("size") {
            section.missing("size", "\"1GiB\"");
        }
        return None;
    };
    let bytes = |given: Option<Placed<ByteSize>>, default: u32, size: Placed<ByteSize>| {
        given.map_or((u64::from(default), size.place), |given| (given.value.0, given.place))
    };
    let (block_bytes, block_place) = bytes(block, MIN_BLOCK_BYTES, size);
    let (extent_bytes, extent_place) = bytes(extent, DEFAULT_EXTENT_BYTES, size);
    // Beyond every limit in any case; the message shows what was written.
    let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    match Geometry::new(size.value.0, small(block_bytes), small(extent_bytes), DEFAULT_SLOTS) {
        Ok(geometry) => Some(geometry),
        Err(error) => {
            use evenkeel_core::meta::geometry::GeometryError as E;
            let place = match error {
                E::Size(_) | E::TooManyExtents(_) | E::Slots(_) => size.place,
                E::Block(_) => block_place,
                E::Extent(_) => extent_place,
            };
            section.faults().at(place, error.to_string());
            None
        }
    }
}

fn read_times(section: &Section<'_, '_>) -> (Duration, Duration) {
    let timeout = section.parsed::<Span>("peer_timeout");
    let hold = section.parsed::<Span>("hold");
    let peer_timeout = timeout.map_or(Duration::from_secs(5), |timeout| timeout.value.0);
    if let Some(Placed { place, .. }) = timeout
        && !(MIN_PEER_TIMEOUT..=MAX_PEER_TIMEOUT).contains(&peer_timeout)
    {
        let text = format!(
            "peer_timeout = {}: write {} to {}; a peer that is well is heard once a second",
            Span(peer_timeout),
            Span(MIN_PEER_TIMEOUT),
            Span(MAX_PEER_TIMEOUT)
        );
        section.faults().at(place, text);
    }
    let held = hold.map_or(Duration::from_secs(120), |hold| hold.value.0);
    if let Some(Placed { place, .. }) = hold
        && !(MIN_HOLD..=MAX_HOLD).contains(&held)
    {
        let text = format!("hold = {}: write {} to {}", Span(held), Span(MIN_HOLD), Span(MAX_HOLD));
        section.faults().at(place, text);
    }
    (peer_timeout, held)
}

impl ReplicaEntry {
    fn read((node, section): (&str, Section<'_, '_>)) -> Self {
        let path = |key: &'static str| {
            let Placed { value, place } = section.text(key)?;
            if !Path::new(value).is_absolute() || value.contains('\0') {
                let text = format!("{key} = \"{value}\": write a path that begins with /");
                section.faults().at(place, text);
                return None;
            }
            Some(Placed { value: PathBuf::from(value), place })
        };
        let (data, meta) = (path("data"), path("meta"));
        let place = section.place();
        section.finish();
        Self { node: node.to_owned(), place, data, meta }
    }

    fn finish(&self) -> (String, Replica) {
        let path = |placed: &Option<Placed<PathBuf>>| placed.as_ref().map(|placed| placed.value.clone());
        (self.node.clone(), Replica { data: path(&self.data), meta: path(&self.meta) })
    }
}
