//! A page of the activity log on disk: a header and 1016 slots, each an extent or free.

use bytes::Bytes;

use super::super::{
    codec::{Reader, Writer},
    geometry::Geometry,
    header::{CopyId, Fault, HEADER_BYTES, Kind, Place, seal, unseal},
    layout::PAGE_BYTES,
};
use crate::ids::{ExtentIndex, NodeId};

/// Slots of one page.
pub const SLOTS_PER_PAGE: u32 = 1016;

const SLOTS: usize = SLOTS_PER_PAGE as usize;
const SLOT_BYTES: usize = 4;
const _: () = assert!(HEADER_BYTES + SLOTS * SLOT_BYTES == PAGE_BYTES);

/// In a slot that holds no extent.
const FREE: u32 = u32::MAX;

/// A page as it is stored. `slots` are those of this page, from its first; the rest of the page is free.
pub(super) fn encode(
    slots: impl Iterator<Item = Option<ExtentIndex>>,
    index: u32,
    copy: CopyId,
    owner: NodeId,
    sequence: u64,
) -> Bytes {
    let mut bytes = vec![0; PAGE_BYTES];
    let mut w = Writer::new(&mut bytes, HEADER_BYTES);
    for slot in slots.chain(std::iter::repeat(None)).take(SLOTS) {
        w.u32(slot.map_or(FREE, |extent| extent.0));
    }
    seal(&mut bytes, place(index, copy, owner), sequence);
    Bytes::from(bytes)
}

/// A page that was read, with its sequence. Only slots of the geometry hold extents, and only extents of it.
pub(super) fn decode(
    bytes: &[u8],
    geometry: &Geometry,
    index: u32,
    copy: CopyId,
    owner: NodeId,
) -> Result<(Vec<Option<ExtentIndex>>, u64), Fault> {
    let Ok(bytes) = <&[u8; PAGE_BYTES]>::try_from(bytes) else {
        return Err(Fault::Unreadable);
    };
    let header = unseal(bytes, place(index, copy, owner))?;
    if header.sequence == u64::MAX {
        return Err(Fault::Contradiction("its sequence has ended"));
    }
    let mut r = Reader::new(bytes, HEADER_BYTES);
    let capacity = slots_of_page(geometry, index).len();
    let mut slots = Vec::with_capacity(capacity);
    for at in 0..SLOTS {
        match r.u32() {
            FREE if at < capacity => slots.push(None),
            FREE => {}
            _ if at >= capacity => return Err(Fault::Contradiction("an extent behind the last slot")),
            extent if extent < geometry.extents() => slots.push(Some(ExtentIndex(extent))),
            _ => return Err(Fault::Contradiction("an extent behind the end of the volume")),
        }
    }
    Ok((slots, header.sequence))
}

/// The numbers of the slots that lie in a page.
pub(super) fn slots_of_page(geometry: &Geometry, index: u32) -> std::ops::Range<usize> {
    let first = index as usize * SLOTS;
    first..(first + SLOTS).min(geometry.slots() as usize)
}

fn place(index: u32, copy: CopyId, owner: NodeId) -> Place {
    Place { kind: Kind::ActivityLog, copy, index, owner: Some(owner) }
}
