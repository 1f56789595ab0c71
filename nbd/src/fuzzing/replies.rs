//! The server's bytes as a client reads them; strict, it panics where the server breaks the protocol.

use std::collections::HashMap;

use crate::wire::{
    MAX_STRING_BYTES, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    transmission::{CHUNK_HEADER_BYTES, Cookie, SIMPLE_REPLY_BYTES, chunk},
};

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that it answers.
    pub option: u32,
    /// Its type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// A simple reply or a chunk of a structured one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyPart {
    /// Simple.
    Simple {
        /// Whose reply.
        cookie: Cookie,
        /// Zero or an error.
        error: u32,
        /// For a READ.
        data: Vec<u8>,
    },
    /// Structured.
    Chunk {
        /// Whose reply.
        cookie: Cookie,
        /// DONE or not.
        flags: u16,
        /// Its type.
        kind: u16,
        /// Its payload.
        payload: Vec<u8>,
    },
}

impl ReplyPart {
    /// Whose reply this is part of.
    #[must_use]
    pub fn cookie(&self) -> Cookie {
        match self {
            Self::Simple { cookie, .. } | Self::Chunk { cookie, .. } => *cookie,
        }
    }

    /// Whether the reply ends here.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Simple { .. } => true,
            Self::Chunk { flags, .. } => flags & chunk::FLAG_DONE != 0,
        }
    }

    /// The error that this part reports, zero if none.
    #[must_use]
    pub fn error(&self) -> u32 {
        match self {
            Self::Simple { error, .. } => *error,
            Self::Chunk { kind, payload, .. } if kind & (1 << 15) != 0 => be(&payload[..4]),
            Self::Chunk { .. } => 0,
        }
    }
}

fn be(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads option replies until the bytes end; they end with a whole one.
#[must_use]
pub fn option_replies(mut bytes: &[u8]) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(be64(&bytes[..8]), OPTION_REPLY_MAGIC, "an option reply begins with its magic");
        let len = be(&bytes[16..20]) as usize;
        let data = bytes[20..20 + len].to_vec();
        let reply = OptionReply { option: be(&bytes[8..12]), kind: be(&bytes[12..16]), data };
        if reply.kind & (1 << 31) != 0 {
            assert!(len <= MAX_STRING_BYTES && !reply.data.contains(&0), "an error text is a string");
            assert!(str::from_utf8(&reply.data).is_ok_and(|text| !text.is_empty()), "an error has a text");
        }
        replies.push(reply);
        bytes = &bytes[20 + len..];
    }
    replies
}

/// Reads replies until the bytes end; they end with a whole one. `reads` knows the length of each READ that may
/// be answered by simple replies.
#[must_use]
pub fn reply_parts(mut bytes: &[u8], reads: &HashMap<Cookie, usize>) -> Vec<ReplyPart> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let magic = be(&bytes[..4]);
        if magic == SIMPLE_REPLY_MAGIC {
            let (error, cookie) = (be(&bytes[4..8]), Cookie(be64(&bytes[8..16])));
            let len = if error == 0 { reads.get(&cookie).copied().unwrap_or(0) } else { 0 };
            let data = bytes[SIMPLE_REPLY_BYTES..SIMPLE_REPLY_BYTES + len].to_vec();
            parts.push(ReplyPart::Simple { cookie, error, data });
            bytes = &bytes[SIMPLE_REPLY_BYTES + len..];
        } else {
            assert_eq!(magic, STRUCTURED_REPLY_MAGIC, "a reply begins with a magic");
            let len = be(&bytes[16..20]) as usize;
            let payload = bytes[CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + len].to_vec();
            let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let (flags, kind, cookie) = (word(4), word(6), Cookie(be64(&bytes[8..16])));
            check_chunk(flags, kind, &payload);
            parts.push(ReplyPart::Chunk { cookie, flags, kind, payload });
            bytes = &bytes[CHUNK_HEADER_BYTES + len..];
        }
    }
    parts
}

/// The spec's rules for each type of chunk.
fn check_chunk(flags: u16, kind: u16, payload: &[u8]) {
    assert_eq!(flags & !chunk::FLAG_DONE, 0, "only DONE is a flag");
    match kind {
        chunk::OFFSET_DATA => assert!(payload.len() > 8),
        chunk::OFFSET_HOLE => assert!(payload.len() == 12 && be(&payload[8..]) > 0),
        chunk::BLOCK_STATUS => {
            assert!(payload.len() >= 12 && (payload.len() - 4).is_multiple_of(8));
            assert!(payload[4..].chunks(8).all(|extent| be(&extent[..4]) > 0), "no extent is empty");
        }
        chunk::ERROR | chunk::ERROR_OFFSET => {
            let tail = if kind == chunk::ERROR { 0 } else { 8 };
            assert!(be(&payload[..4]) > 0, "an error is not zero");
            let text_len = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            assert_eq!(payload.len(), 6 + text_len + tail);
            assert!(str::from_utf8(&payload[6..6 + text_len]).is_ok());
        }
        other => panic!("the server sent a chunk of type {other}"),
    }
}
