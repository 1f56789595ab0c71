//! Layouts of the transmission phase: requests, simple replies and structured reply chunks.

use super::{REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

/// Bytes of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply without data.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of the header of a structured reply chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;

/// Types of structured reply chunk.
pub mod chunk {
    /// Nothing but the end.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// Flag: this is the last chunk of the reply.
    pub const FLAG_DONE: u16 = 1;
}

/// The client's name for a request, echoed in the reply and never looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// The header of a request; the payload of a WRITE follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// See [`command_flag`](super::command_flag).
    pub flags: u16,
    /// See [`command`](super::command).
    pub command: u16,
    /// Echoed in the reply.
    pub cookie: Cookie,
    /// First byte on the export.
    pub offset: u64,
    /// Bytes on the export, and of payload if this is a WRITE.
    pub length: u32,
}

/// What stood where a request's magic should be; the stream means nothing from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongMagic(pub u32);

impl RequestHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// If the magic is wrong.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, WrongMagic> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        if word(0) != REQUEST_MAGIC {
            return Err(WrongMagic(word(0)));
        }
        Ok(Self {
            flags: u16::from_be_bytes([bytes[4], bytes[5]]),
            command: u16::from_be_bytes([bytes[6], bytes[7]]),
            cookie: Cookie(long(8)),
            offset: long(16),
            length: word(24),
        })
    }

    /// Writes a header, as a client does.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// A simple reply; data follows if it answers a READ without error.
#[must_use]
pub fn simple_reply(error: u32, cookie: Cookie) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut bytes = [0; SIMPLE_REPLY_BYTES];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.0.to_be_bytes());
    bytes
}

/// The header of a chunk; `length` bytes of payload follow.
#[must_use]
pub fn chunk_header(flags: u16, kind: u16, cookie: Cookie, length: u32) -> [u8; CHUNK_HEADER_BYTES] {
    let mut bytes = [0; CHUNK_HEADER_BYTES];
    bytes[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.0.to_be_bytes());
    bytes[16..].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{command, command_flag};

    #[test]
    fn request_bytes() {
        let bytes = *b"\x25\x60\x95\x13\x00\x01\x00\x06\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24";
        let header = RequestHeader {
            flags: command_flag::FUA,
            command: command::WRITE_ZEROES,
            cookie: Cookie(0x0102_0304_0506_0708),
            offset: 0x1112_1314_1516_1718,
            length: 0x2122_2324,
        };
        assert_eq!(RequestHeader::parse(&bytes), Ok(header));
        assert_eq!(header.encode(), bytes);
        let mut wrong = bytes;
        wrong[3] = 0x14;
        assert_eq!(RequestHeader::parse(&wrong), Err(WrongMagic(0x2560_9514)));
    }

    #[test]
    fn reply_bytes() {
        assert_eq!(
            simple_reply(22, Cookie(3)),
            *b"\x67\x44\x66\x98\x00\x00\x00\x16\x00\x00\x00\x00\x00\x00\x00\x03"
        );
        assert_eq!(
            chunk_header(chunk::FLAG_DONE, chunk::ERROR_OFFSET, Cookie(0xff), 14),
            *b"\x66\x8e\x33\xef\x00\x01\x80\x02\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x0e"
        );
    }
}
