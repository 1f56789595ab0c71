//! What a handshake agreed on.

use std::sync::Arc;

use crate::{
    device::{Features, MapContext},
    wire::transmission_flag as flag,
};

/// The parameters of a connection that has entered the transmission phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The canonical name of the export.
    pub export: String,
    /// The size that the client was told.
    pub size: u64,
    /// What the export promised.
    pub features: Arc<Features>,
    /// Structured replies are used.
    pub structured: bool,
    /// The selected metadata contexts, in the order of their ids. Empty unless `structured`.
    pub contexts: Vec<MapContext>,
}

/// The transmission flags of an export. A writable export has them all, apart from what depends on the disk and
/// on the client; FLUSH, FUA and CAN_MULTI_CONN are promised always, because a
/// [`BlockDevice`](crate::device::BlockDevice) keeps them by contract.
pub(super) fn transmission_flags(features: &Features, structured: bool) -> u16 {
    let mut flags =
        flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
    if features.read_only {
        flags |= flag::READ_ONLY;
    } else {
        flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES;
        if features.fast_zero {
            flags |= flag::SEND_FAST_ZERO;
        }
    }
    if features.rotational {
        flags |= flag::ROTATIONAL;
    }
    if structured {
        flags |= flag::SEND_DF;
    }
    flags
}

/// The id of a metadata context on the wire, the same on every connection.
pub(super) fn context_id(context: MapContext) -> u32 {
    match context {
        MapContext::Allocation => 1,
        MapContext::Dirty => 2,
    }
}
