//! A page of a dirty bitmap on disk: a header and one bit for each of 31,744 blocks.
//!
//! 31,744 is 31 times 1024, so with blocks of 4 KiB and extents of 4 MiB no extent lies in two pages, and an
//! extent leaves the activity log after at most one page write for each absent peer.

use bytes::Bytes;

use super::super::{
    codec::Reader,
    header::{CopyId, Fault, HEADER_BYTES, Kind, Place, seal, unseal},
    layout::PAGE_BYTES,
};
use crate::ids::{NodeId, PeerIndex};

/// Words of bits in a page.
pub(super) const WORDS: usize = 496;
/// Blocks of one page.
pub const BLOCKS_PER_PAGE: u64 = 31_744;
/// Where the bits begin; between the header and them is room for later.
const BITS_AT: usize = 128;

const _: () = assert!(WORDS as u64 * 64 == BLOCKS_PER_PAGE && BITS_AT + WORDS * 8 == PAGE_BYTES);

/// The bits of a page, lowest block in the lowest bit of the first word.
pub(super) type Words = [u64; WORDS];

/// A page as it is stored.
pub(super) fn encode(words: &Words, peer: PeerIndex, index: u32, owner: NodeId, sequence: u64) -> Bytes {
    let mut bytes = vec![0; PAGE_BYTES];
    for (bytes, word) in bytes[BITS_AT..].chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    seal(&mut bytes, place(peer, index, owner), sequence);
    Bytes::from(bytes)
}

/// A page that was read, with its sequence. Only the lowest `blocks` bits may be set.
pub(super) fn decode(
    bytes: &[u8],
    blocks: u64,
    peer: PeerIndex,
    index: u32,
    owner: NodeId,
) -> Result<(Words, u64), Fault> {
    let Ok(bytes) = <&[u8; PAGE_BYTES]>::try_from(bytes) else {
        return Err(Fault::Unreadable);
    };
    let header = unseal(bytes, place(peer, index, owner))?;
    let mut r = Reader::new(bytes, HEADER_BYTES);
    r.zeroes_up_to(BITS_AT)?;
    let words: Words = std::array::from_fn(|_| r.u64());
    let beyond = |(at, word): (usize, &u64)| word & !mask(at, 0..blocks) != 0;
    if words.iter().enumerate().any(beyond) {
        return Err(Fault::Contradiction("a bit behind the end of the volume"));
    }
    Ok((words, header.sequence))
}

/// The bits of word `at` that lie in `bits`, which counts from the first bit of the page.
pub(super) fn mask(at: usize, bits: std::ops::Range<u64>) -> u64 {
    let base = at as u64 * 64;
    let low = bits.start.clamp(base, base + 64) - base;
    let high = bits.end.clamp(base, base + 64) - base;
    if low >= high {
        return 0;
    }
    (u64::MAX >> (64 - (high - low))) << low
}

fn place(peer: PeerIndex, index: u32, owner: NodeId) -> Place {
    Place { kind: Kind::Bitmap(peer), copy: CopyId::A, index, owner: Some(owner) }
}
