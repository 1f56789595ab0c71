//! What each sector of 512 bytes says about itself: which write put it there, and where it belongs.
//!
//! Every byte follows from volume, write and sector, so a sector that is torn, misdirected, damaged or of another
//! volume cannot pass for a good one. A sector of zeroes was trimmed, zeroed or never written.

use std::fmt;

/// Bytes of a sector: the smallest unit that a disk writes as a whole.
pub const SECTOR: usize = 512;

/// First bytes of every sector that a [`WriteId`] names.
const MAGIC: [u8; 8] = *b"EvkJudge";

/// Bytes before the filling: magic, volume, client, number, sector.
const HEAD: usize = 32;

/// Names one write of one run: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId {
    /// The connection of the load that sent it, from 1.
    pub client: u32,
    /// Counted by the client, from 1.
    pub number: u32,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.number)
    }
}

/// What a sector was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Only zeroes.
    Zero,
    /// All that this write put there.
    Written(WriteId),
    /// Something that no write of this run put there; the text says what.
    Wrong(Box<str>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => write!(f, "zeroes"),
            Self::Written(id) => write!(f, "write {id}"),
            Self::Wrong(text) => write!(f, "WRONG ({text})"),
        }
    }
}

/// The bytes of `count` sectors from `first`, as this write leaves them.
#[must_use]
pub fn content(volume: u32, id: WriteId, first: u64, count: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count as usize * SECTOR);
    for sector in first..first + u64::from(count) {
        bytes.extend_from_slice(&sector_of(volume, id, sector));
    }
    bytes
}

/// Reads back what [`content`] made: what a sector of this volume at this place holds.
///
/// # Panics
/// If `bytes` is not one sector.
#[must_use]
pub fn value(volume: u32, sector: u64, bytes: &[u8]) -> Value {
    assert_eq!(bytes.len(), SECTOR, "one sector");
    if bytes.iter().all(|&byte| byte == 0) {
        return Value::Zero;
    }
    let wrong = |text: String| Value::Wrong(text.into_boxed_str());
    if bytes[..8] != MAGIC {
        return wrong(format!("no tag, it begins with {:02x?}", &bytes[..16]));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let id = WriteId { client: word(12), number: word(16) };
    let place = u64::from(word(20)) | u64::from(word(24)) << 32;
    if word(8) != volume {
        return wrong(format!("write {id} of volume {}", word(8)));
    }
    if place != sector {
        return wrong(format!("write {id}, but what it put into sector {place}"));
    }
    let due = sector_of(volume, id, sector);
    match bytes.iter().zip(&due).position(|(found, due)| found != due) {
        Some(at) => wrong(format!("write {id} up to byte {at}, then something else")),
        None => Value::Written(id),
    }
}

/// The values of several sectors in a row.
#[must_use]
pub fn values(volume: u32, first: u64, bytes: &[u8]) -> Vec<Value> {
    (first..).zip(bytes.chunks(SECTOR)).map(|(sector, bytes)| value(volume, sector, bytes)).collect()
}

fn sector_of(volume: u32, id: WriteId, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&volume.to_le_bytes());
    bytes[12..16].copy_from_slice(&id.client.to_le_bytes());
    bytes[16..20].copy_from_slice(&id.number.to_le_bytes());
    bytes[20..28].copy_from_slice(&sector.to_le_bytes());
    // xorshift64* over all that names the sector; the odd constants keep neighbours apart.
    let mut state = (u64::from(id.client) << 32 | u64::from(id.number)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ sector.wrapping_mul(0xD1B5_4A32_D192_ED03)
        ^ u64::from(volume) << 17
        | 1;
    for word in bytes[HEAD..].chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: WriteId = WriteId { client: 3, number: 77 };

    #[test]
    fn what_was_written_is_read_back() {
        let bytes = content(1, ID, 40, 3);
        assert_eq!(bytes.len(), 3 * SECTOR);
        assert_eq!(values(1, 40, &bytes), vec![Value::Written(ID); 3]);
        assert_eq!(value(1, 9, &[0; SECTOR]), Value::Zero);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = content(1, ID, 40, 1);
        for at in 0..SECTOR {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert_ne!(value(1, 40, &bytes), Value::Written(ID), "byte {at}");
        }
    }

    #[test]
    fn torn_misdirected_and_foreign_sectors_are_named() {
        let wrong = |value: Value| match value {
            Value::Wrong(text) => text,
            Value::Zero | Value::Written(_) => panic!("{value} is wrong"),
        };
        let good = content(1, ID, 40, 1);
        assert!(wrong(value(1, 41, &good)).contains("sector 40"));
        assert!(wrong(value(2, 40, &good)).contains("volume 1"));
        assert!(wrong(value(1, 40, &[7; SECTOR])).contains("no tag"));
        let mut torn = good.clone();
        torn[256..].copy_from_slice(&content(1, WriteId { client: 3, number: 78 }, 40, 1)[256..]);
        assert!(wrong(value(1, 40, &torn)).contains("up to byte 256"));
    }
}
