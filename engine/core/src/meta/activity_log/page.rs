//! A page of the activity log on disk: a header and 1008 slots, each an extent or free.
//!
//! Each sector of 512 bytes ends with a checksum of its own. A write that was interrupted leaves whole sectors, of this
//! write or of an earlier one: then the page's checksum is wrong and each sector's is right. Any other page with a wrong
//! checksum is damaged. Without that a bit that flips in the newest copy would look like an interrupted write, and an
//! extent that was written to would be forgotten (found by the simulator).

use bytes::Bytes;

use super::super::{
    geometry::Geometry,
    header::{CopyId, Fault, HEADER_BYTES, Kind, Place, Unsealed, seal, unseal},
    layout::PAGE_BYTES,
};
use crate::ids::{ExtentIndex, NodeId};

/// Slots of one page.
pub const SLOTS_PER_PAGE: u32 = 1008;

const SLOTS: usize = SLOTS_PER_PAGE as usize;
const SLOT_BYTES: usize = 4;
const SECTOR_BYTES: usize = 512;
/// Where a sector's checksum begins.
const CHECKSUM_AT: usize = SECTOR_BYTES - 4;
const _: () = assert!(HEADER_BYTES + SLOTS * SLOT_BYTES + (PAGE_BYTES / SECTOR_BYTES) * 4 == PAGE_BYTES);

/// In a slot that holds no extent.
const FREE: u32 = u32::MAX;

/// Where the slots of a page begin, in order: all over the page, but for the header and the sectors' checksums.
fn slot_places() -> impl Iterator<Item = usize> {
    (HEADER_BYTES..PAGE_BYTES).step_by(SLOT_BYTES).filter(|at| at % SECTOR_BYTES != CHECKSUM_AT)
}

/// A page as it is stored. `slots` are those of this page, from its first; the rest of the page is free.
pub(super) fn encode(
    slots: impl Iterator<Item = Option<ExtentIndex>>,
    index: u32,
    copy: CopyId,
    owner: NodeId,
    sequence: u64,
) -> Bytes {
    let mut bytes = vec![0; PAGE_BYTES];
    for (at, slot) in slot_places().zip(slots.chain(std::iter::repeat(None))) {
        let value = slot.map_or(FREE, |extent| extent.0);
        bytes[at..at + SLOT_BYTES].copy_from_slice(&value.to_le_bytes());
    }
    seal_page(&mut bytes, place(index, copy, owner), sequence);
    Bytes::from(bytes)
}

/// The page's checksum is made while those of the sectors are zero. (Were they part of it, it would depend on no sector
/// but the first: a CRC over data and their own CRC is always the same.)
fn seal_page(bytes: &mut [u8], place: Place, sequence: u64) {
    seal(bytes, place, sequence);
    bytes.chunks_exact_mut(SECTOR_BYTES).for_each(seal_sector);
}

fn seal_sector(sector: &mut [u8]) {
    let crc = crc32fast::hash(&sector[..CHECKSUM_AT]);
    sector[CHECKSUM_AT..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sector_whole(sector: &[u8]) -> bool {
    crc32fast::hash(&sector[..CHECKSUM_AT]).to_le_bytes() == sector[CHECKSUM_AT..]
}

/// The header of a page that was read, if it is what one write left.
fn unseal_page(bytes: &[u8; PAGE_BYTES], place: Place) -> Result<Unsealed, Fault> {
    let mut sealed = *bytes;
    sealed.chunks_exact_mut(SECTOR_BYTES).for_each(|sector| sector[CHECKSUM_AT..].fill(0));
    let header = unseal(&sealed, place);
    let whole = bytes.chunks_exact(SECTOR_BYTES).all(is_sector_whole);
    match header {
        Ok(_) | Err(Fault::Torn) if !whole => Err(Fault::Damaged),
        header => header,
    }
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
    let header = unseal_page(bytes, place(index, copy, owner))?;
    let capacity = slots_of_page(geometry, index).len();
    let mut slots = Vec::with_capacity(capacity);
    for (at, start) in slot_places().enumerate() {
        let value = bytes[start..start + SLOT_BYTES].try_into().expect("a slot is four bytes");
        match u32::from_le_bytes(value) {
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
