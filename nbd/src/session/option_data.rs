//! Reading the data of options. Every inner length is checked before it is used; nothing is allocated that the
//! option's data does not itself fill (CVE-2022-26495, CVE-2022-26496, CVE-2017-15118).

use crate::wire::MAX_STRING_BYTES;

/// Why the data of an option is malformed; a text for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The data of INFO and GO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoData<'a> {
    pub(super) name: &'a str,
    /// Requested types of information.
    pub(super) wanted: Vec<u16>,
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextData<'a> {
    pub(super) name: &'a str,
    pub(super) queries: Vec<&'a str>,
}

/// What of an option's data has not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("a length inside the option's data reaches past its end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(self.bytes(2)?.iter().fold(0, |value, &byte| value << 8 | u16::from(byte)))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(self.bytes(4)?.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    /// A string behind its 32-bit length.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()?;
        text(self.bytes(usize::try_from(len).unwrap_or(usize::MAX))?)
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("the option's data is longer than its content"))
        }
    }
}

/// Checks a string by the rules of the spec's "Conventions".
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > MAX_STRING_BYTES {
        return Err(Malformed("a string is longer than 4096 bytes"));
    }
    if bytes.contains(&0) {
        return Err(Malformed("a string contains a NUL byte"));
    }
    str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))
}

pub(super) fn info(data: &[u8]) -> Result<InfoData<'_>, Malformed> {
    let mut reader = Reader(data);
    let name = reader.string()?;
    let count = reader.u16()?;
    let wanted = reader.bytes(usize::from(count) * 2)?;
    reader.end()?;
    let wanted = wanted.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect();
    Ok(InfoData { name, wanted })
}

pub(super) fn contexts(data: &[u8]) -> Result<ContextData<'_>, Malformed> {
    let mut reader = Reader(data);
    let name = reader.string()?;
    let count = reader.u32()?;
    // A lying count fails at the first query that is missing: each one takes at least four bytes of the data.
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(reader.string()?);
    }
    reader.end()?;
    Ok(ContextData { name, queries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read() {
        let data = b"\0\0\0\x02r0\0\x02\0\x03\0\x01";
        assert_eq!(info(data), Ok(InfoData { name: "r0", wanted: vec![3, 1] }));
        assert_eq!(info(b"\0\0\0\0\0\0"), Ok(InfoData { name: "", wanted: vec![] }));
    }

    #[test]
    fn every_wrong_length_is_malformed() {
        let good = b"\0\0\0\x02r0\0\x02\0\x03\0\x01";
        for len in 0..good.len() {
            assert!(info(&good[..len]).is_err(), "{len} bytes");
        }
        assert!(info(b"\0\0\0\x02r0\0\x01\0\x03\0\x01").is_err(), "bytes left over");
        assert!(info(b"\xff\xff\xff\xffr0\0\0").is_err(), "name length near 2^32");
        let context = b"\0\0\0\x02r0\0\0\0\x01\0\0\0\x05base:";
        assert_eq!(contexts(context), Ok(ContextData { name: "r0", queries: vec!["base:"] }));
        for len in 0..context.len() {
            assert!(contexts(&context[..len]).is_err(), "{len} bytes");
        }
        assert!(contexts(b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0").is_err(), "query count near 2^32");
    }

    #[test]
    fn strings_follow_the_conventions() {
        assert!(text(&[b'a'; 4096]).is_ok());
        assert!(text(&[b'a'; 4097]).is_err());
        assert!(text(b"a\0b").is_err());
        assert!(text(b"\xff").is_err());
    }
}
