//! Self-describing data: every 512-byte sector that a client writes says which write it belongs to and where.
//!
//! The oracle therefore needs no copy of the data: a sector of an image *is* the name of the write that made it.
//! A sector is all zeroes (never written, or zeroed), exactly what one write put exactly there, or foreign.

use bytes::{Bytes, BytesMut};

use crate::decision::mix;

/// The unit of everything: writes are made of whole sectors and disks tear between them, never within one.
pub(crate) const SECTOR: usize = 512;

const MAGIC: u64 = 0x4556_454E_4B45_454C;

/// Names one write of a run; the first has 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteId(pub(crate) u32);

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Zeroes.
    Zero,
    /// What this write put here.
    Of(WriteId),
    /// Neither: garbage, or data that belongs elsewhere.
    Foreign,
}

fn words(write: WriteId, sector: u64) -> [u64; 4] {
    let id = u64::from(write.0);
    [MAGIC, id, sector, mix(id ^ (sector << 32) ^ MAGIC)]
}

/// The payload of `write` for `sectors` sectors from sector `first` on.
pub(crate) fn make(write: WriteId, first: u64, sectors: usize) -> Bytes {
    let mut buffer = BytesMut::zeroed(sectors * SECTOR);
    for (sector, chunk) in (first..).zip(buffer.chunks_exact_mut(SECTOR)) {
        let words = words(write, sector);
        for (word, place) in words.iter().zip(chunk.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        chunk[SECTOR - 8..].copy_from_slice(&words[3].to_le_bytes());
    }
    buffer.freeze()
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|chunk| *chunk == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// What the sector at place `sector` holds.
pub(crate) fn parse(bytes: &[u8], sector: u64) -> Value {
    debug_assert_eq!(bytes.len(), SECTOR);
    if word(bytes, 0) == MAGIC {
        let Ok(id) = u32::try_from(word(bytes, 1)) else { return Value::Foreign };
        let write = WriteId(id);
        let expected = words(write, sector);
        let right = word(bytes, 2) == sector
            && word(bytes, 3) == expected[3]
            && word(bytes, 63) == expected[3]
            && is_zero(&bytes[32..SECTOR - 8]);
        if right { Value::Of(write) } else { Value::Foreign }
    } else if is_zero(bytes) {
        Value::Zero
    } else {
        Value::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sector_names_its_write_and_its_place() {
        let data = make(WriteId(9), 4, 3);
        for (index, sector) in (4..).zip(data.chunks_exact(SECTOR)) {
            assert_eq!(parse(sector, index), Value::Of(WriteId(9)));
            assert_eq!(parse(sector, index + 1), Value::Foreign, "a misdirected sector is found");
        }
        assert_eq!(parse(&[0; SECTOR], 1), Value::Zero);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let data = make(WriteId(9), 4, 1);
        for bit in 0..SECTOR * 8 {
            let mut copy = data.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&copy, 4), Value::Foreign, "bit {bit}");
        }
    }
}
