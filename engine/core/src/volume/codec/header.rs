//! The 32 bytes at the beginning of every frame.
//!
//! ```text
//!   0  u16  magic                       16  u32  CRC-32 of the payload; 0 without one
//!   2  u8   kind                        20  u32  session number; 0 in a hello
//!   3  u8   flags                       24  u64  sequence, or 0
//!   4  u32  length of the fields
//!   8  u32  length of the payload       32       fields, then payload
//!  12  u32  CRC-32 of header (this one as zero) and fields
//! ```
//!
//! The first checksum covers the second, so the two cover everything, yet a payload is never hashed twice: its
//! own checksum is taken once, where it came in, however many peers it goes to. And the head of a frame is known
//! to be right before a buffer for its payload is taken.

use super::{
    error::FrameError,
    hello,
    kind::{Kind, Shape},
    limits::FIELDS_BYTES_MAX,
};

/// Length of the header of every frame, of all versions.
pub const HEADER_BYTES: usize = 32;

/// `EK`, in this order on the wire.
pub const MAGIC: u16 = u16::from_le_bytes(*b"EK");

/// Where the first checksum is.
const CHECKSUM: std::ops::Range<usize> = 12..16;

/// Names one session of a link, so that a frame of another one is refused. Both ends have the same; it is not
/// sent before it is known to both. See `docs/peer-protocol.md` for where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionNumber(u32);

impl SessionNumber {
    /// Any number but zero, which a hello has.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number as such.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The CRC-32 of a payload, as it was taken when the payload came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadChecksum(pub u32);

impl PayloadChecksum {
    /// Of this payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self(crc32fast::hash(payload))
    }
}

/// A header.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) fields: usize,
    pub(super) payload: usize,
    pub(super) checksum: u32,
    pub(super) payload_checksum: u32,
    pub(super) session: u32,
    pub(super) sequence: u64,
}

impl Header {
    /// The header as bytes; its checksum is set by [`seal`].
    pub(super) fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = self.kind.number();
        bytes[3] = self.flags;
        bytes[4..8].copy_from_slice(&length(self.fields).to_le_bytes());
        bytes[8..12].copy_from_slice(&length(self.payload).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.payload_checksum.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.session.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, of which it is known that a frame of its kind may look like that;
    /// `None` while there are too few bytes. Its checksum is not compared yet.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some((header, fields)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let magic = u16::from_le_bytes([header[0], header[1]]);
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let kind = Kind::from_number(header[2]).ok_or(FrameError::Kind(header[2]))?;
        let fields_length = u32_at(4);
        let mut shape = kind.shape();
        if kind == Kind::Hello {
            // The version comes before everything that may differ between versions.
            if !(4..=FIELDS_BYTES_MAX as u64).contains(&u64::from(fields_length)) {
                return Err(FrameError::HelloLength { found: fields_length });
            }
            let Some(versions) = fields.first_chunk::<4>() else { return Ok(None) };
            if hello::is_newer(*versions)? {
                shape = Shape { element: 1, elements_max: FIELDS_BYTES_MAX - shape.fixed, ..shape };
            }
        }
        let read = Self {
            kind,
            flags: header[3],
            fields: fields_length as usize,
            payload: u32_at(8) as usize,
            checksum: u32_at(12),
            payload_checksum: u32_at(16),
            session: u32_at(20),
            sequence: u64::from_le_bytes(header[24..32].try_into().expect("8 bytes")),
        };
        read.check(shape)?;
        Ok(Some(read))
    }

    /// Whether flags and lengths can be those of such a frame.
    fn check(&self, shape: Shape) -> Result<(), FrameError> {
        let Self { kind, flags, fields, payload, .. } = *self;
        if flags & !shape.flags != 0 {
            return Err(FrameError::Flags { kind, found: flags, known: shape.flags });
        }
        if !shape.admits(fields) {
            let Shape { fixed, element, elements_max, .. } = shape;
            let found = length(fields);
            return Err(FrameError::FieldsLength { kind, found, fixed, element, elements_max });
        }
        // A write without data is none; blocks of a part may all be without.
        let min = usize::from(kind == Kind::Write);
        if !(min..=shape.payload_max).contains(&payload) {
            return Err(FrameError::PayloadLength {
                kind,
                found: length(payload),
                min,
                max: shape.payload_max,
            });
        }
        Ok(())
    }

    /// Whether `head`, the header and its fields, is what was sent, in this session.
    pub(super) fn verify(&self, head: &[u8], session: SessionNumber) -> Result<(), FrameError> {
        let kind = self.kind;
        let found = checksum(head);
        if found != self.checksum {
            return Err(FrameError::HeadChecksum { kind, found, expected: self.checksum });
        }
        let expected = if kind == Kind::Hello { 0 } else { session.get() };
        if self.session != expected {
            return Err(FrameError::Session { kind, found: self.session, expected });
        }
        if self.sequence != 0 && !kind.shape().sequence {
            return Err(FrameError::Unused { kind, place: "the sequence" });
        }
        if self.payload == 0 && self.payload_checksum != 0 {
            return Err(FrameError::Unused { kind, place: "the checksum of no payload" });
        }
        Ok(())
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("within the limits of a frame")
}

/// Sets the checksum of a header and its fields.
pub(super) fn seal(head: &mut [u8]) {
    let checksum = checksum(head);
    head[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// The checksum of a header, its place counted as zero, and its fields.
fn checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CHECKSUM.start]);
    hasher.update(&[0; 4]);
    hasher.update(&head[CHECKSUM.end..]);
    hasher.finalize()
}
