//! The fields of a hello, and the rule by which versions meet.
//!
//! ```text
//!   0  u16  oldest version        8  u64   from        32  u128  cluster, 0: not agreed yet
//!   2  u16  newest version       16  u64   to, 0: any  48  u128  volume, 0: not agreed yet
//!   4  u32  zero                 24  u64   size
//! ```
//!
//! What comes first is the same in all versions for all time: magic, kind and length of the header, then the two
//! versions. So a hello of any later version is understood as such, and if the two nodes have no version in
//! common it is refused for that reason, before anything else in it is looked at. If they have one in common,
//! the fields above are as described here, and what a newer sender put after them is passed over.

use super::{
    error::FrameError,
    fields::{Reader, Writer},
};
use crate::{
    ids::{ClusterId, VolumeId},
    volume::wire::{Hello, PROTOCOL_VERSION},
};

/// Bytes of fields in a hello of this version.
pub(super) const HELLO_BYTES: usize = 64;

/// Whether a hello that begins with these versions comes from a newer peer, whose hello may be longer.
pub(super) fn is_newer(versions: [u8; 4]) -> Result<bool, FrameError> {
    let [a, b, c, d] = versions;
    let (min, max) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if min == 0 || min > max {
        return Err(FrameError::VersionRange { min, max });
    }
    if !(min..=max).contains(&PROTOCOL_VERSION) {
        return Err(FrameError::Version { theirs_min: min, theirs_max: max });
    }
    Ok(max > PROTOCOL_VERSION)
}

pub(super) fn write(hello: &Hello, out: &mut Writer<'_>) {
    out.u16(hello.version_min);
    out.u16(hello.version_max);
    out.zeroes(4);
    out.node(hello.from);
    match hello.to {
        Some(node) => out.node(node),
        None => out.u64(0),
    }
    out.u64(hello.size_bytes);
    out.optional_id(hello.cluster.map(|id| id.0));
    out.optional_id(hello.volume.map(|id| id.0));
}

pub(super) fn read(fields: &mut Reader<'_>) -> Result<Hello, FrameError> {
    let (version_min, version_max) = (fields.u16(), fields.u16());
    fields.zeroes::<4>("what follows the versions")?;
    Ok(Hello {
        version_min,
        version_max,
        from: fields.node("the sender")?,
        to: fields.optional_node(),
        size_bytes: fields.u64(),
        cluster: fields.optional_id().map(ClusterId),
        volume: fields.optional_id().map(VolumeId),
    })
}
