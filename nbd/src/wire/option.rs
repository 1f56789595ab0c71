//! Layouts of the handshake: greeting, options and option replies (spec, "Fixed newstyle negotiation").

use super::{
    EXPORT_NAME_PADDING_BYTES, GREETING_MAGIC, MAX_STRING_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    handshake_flag,
};

/// Choose an export and start; has no error reply.
pub const EXPORT_NAME: u32 = 1;
/// End the session in good order.
pub const ABORT: u32 = 2;
/// Name the exports.
pub const LIST: u32 = 3;
/// Start TLS.
pub const STARTTLS: u32 = 5;
/// Describe an export.
pub const INFO: u32 = 6;
/// Describe an export and start.
pub const GO: u32 = 7;
/// Use structured replies.
pub const STRUCTURED_REPLY: u32 = 8;
/// Name the metadata contexts of an export.
pub const LIST_META_CONTEXT: u32 = 9;
/// Select metadata contexts.
pub const SET_META_CONTEXT: u32 = 10;
/// Use 64-bit headers (experimental in the spec).
pub const EXTENDED_HEADERS: u32 = 11;

/// Types of option reply.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export.
    pub const SERVER: u32 = 2;
    /// One piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// The option is understood, but not allowed now.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// The option is malformed, or comes at the wrong time.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The server is stopping.
    pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    /// The option is too large.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Types of information in INFO and GO.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Bytes of the header of an option.
pub const HEADER_BYTES: usize = 16;

/// The header of an option; its data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Reads a header; none if the magic is wrong, after which the stream means nothing.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>().expect("16 bytes");
        if u64::from_be_bytes(*magic) != OPTION_MAGIC {
            return None;
        }
        let (option, length) = rest.split_first_chunk::<4>().expect("8 bytes are left");
        let length = length.first_chunk::<4>().expect("4 bytes are left");
        Some(Self { option: u32::from_be_bytes(*option), length: u32::from_be_bytes(*length) })
    }

    /// Writes a header, as a client does.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.option.to_be_bytes());
        bytes[12..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// Appends the server's greeting: both magics, FIXED_NEWSTYLE and NO_ZEROES.
pub fn put_greeting(out: &mut Vec<u8>) {
    out.extend_from_slice(&GREETING_MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
}

/// Appends an option reply whose data is made of `parts`.
pub fn put_reply(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("replies hold a few strings of at most 4 KiB");
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends an option reply of type SERVER: an export's name and a text for people.
pub fn put_server(out: &mut Vec<u8>, name: &str, details: &str) {
    let length = u32::try_from(name.len()).expect("names are at most 4 KiB");
    let parts = [&length.to_be_bytes()[..], name.as_bytes(), clip(details).as_bytes()];
    put_reply(out, LIST, reply::SERVER, &parts);
}

/// Appends the data of a successful EXPORT_NAME.
pub fn put_export(out: &mut Vec<u8>, size: u64, flags: u16, padded: bool) {
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    if padded {
        out.extend_from_slice(&[0; EXPORT_NAME_PADDING_BYTES]);
    }
}

/// The longest beginning of `text` that the protocol allows in a string.
#[must_use]
pub fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_STRING_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_is_the_one_of_the_specification() {
        let mut out = Vec::new();
        put_greeting(&mut out);
        assert_eq!(out, b"NBDMAGICIHAVEOPT\x00\x03");
    }

    #[test]
    fn option_header_bytes() {
        let bytes = *b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x01\x02";
        let header = OptionHeader { option: GO, length: 0x102 };
        assert_eq!(OptionHeader::parse(&bytes), Some(header));
        assert_eq!(header.encode(), bytes);
        assert_eq!(OptionHeader::parse(b"IHAVEOPX\x00\x00\x00\x07\x00\x00\x01\x02"), None);
    }

    #[test]
    fn option_reply_bytes() {
        let mut out = Vec::new();
        put_reply(&mut out, LIST, reply::ERR_UNSUP, &[b"a", b"bc"]);
        assert_eq!(
            out,
            b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x03\x80\x00\x00\x01\x00\x00\x00\x03abc"
        );
    }

    #[test]
    fn server_reply_bytes() {
        let mut out = Vec::new();
        put_server(&mut out, "r0", "hi");
        let expected = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x08\x00\x00\x00\x02r0hi";
        assert_eq!(out, expected);
    }

    #[test]
    fn export_name_reply_bytes() {
        let mut out = Vec::new();
        put_export(&mut out, 0x1234, 0x0103, true);
        assert_eq!(out[..10], [0, 0, 0, 0, 0, 0, 0x12, 0x34, 1, 3]);
        assert_eq!(out[10..], [0; 124]);
        out.clear();
        put_export(&mut out, 1, 1, false);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn texts_are_clipped_between_characters() {
        let text = "é".repeat(3000);
        assert_eq!(clip(&text).len(), 4096);
        let odd = format!("a{text}");
        assert_eq!(clip(&odd).len(), 4095);
        assert_eq!(clip("short"), "short");
    }
}
