//! The handshake phase (spec: "Newstyle negotiation", "Fixed newstyle negotiation", "Option types").
//!
//! ```text
//! connect -> greeting -> [ option -> replies ]* -> GO / EXPORT_NAME -> Transmission
//!                                               -> ABORT            -> closed
//! ```

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};

use super::{
    protocol::{
        IHAVEOPT, INIT_PASSWD, OPTION_REPLY_MAGIC, STRING_LIMIT, handshake_flag, info, option, option_reply,
    },
    stream::{Address, Stream},
    transmission::Transmission,
};

/// More replies than any honest answer to one option has.
const REPLY_LIMIT: usize = 10_000;

/// Client flags that a modern client sends: FIXED_NEWSTYLE and NO_ZEROES.
pub const BOTH_FLAGS: u32 = 3;

/// A connection in the handshake phase.
#[derive(Debug)]
pub struct Handshake {
    stream: Stream,
    server_flags: u16,
    client_flags: u32,
    structured: bool,
}

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// Reply type, see [`option_reply`].
    pub kind: u32,
    /// What follows the header.
    pub data: Vec<u8>,
}

impl OptionReply {
    /// Whether the server has refused the option.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind & option_reply::ERROR_BIT != 0
    }
}

/// All replies to one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Those before the last.
    pub parts: Vec<OptionReply>,
    /// ACK or an error.
    pub last: OptionReply,
}

/// What the server tells about an export in reply to INFO or GO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags, see [`super::protocol::export_flag`].
    pub flags: u16,
    /// INFO_NAME.
    pub name: Option<String>,
    /// INFO_DESCRIPTION.
    pub description: Option<String>,
    /// INFO_BLOCK_SIZE: minimum, preferred, maximum payload.
    pub block_size: Option<(u32, u32, u32)>,
}

impl Answer {
    /// The parts, if the server accepted the option. An ACK has no data (spec: "Option reply types").
    ///
    /// # Errors
    /// It was refused.
    pub fn accepted(self) -> Result<Vec<OptionReply>> {
        ensure!(self.last.kind == option_reply::ACK, "the option was refused: {:x?}", self.last);
        ensure!(self.last.data.is_empty(), "an ACK with data: {:x?}", self.last);
        Ok(self.parts)
    }

    /// The text of the refusal, if the server refused with one of `kinds`: valid UTF-8 for display, within the
    /// limit of strings, without NUL.
    ///
    /// # Errors
    /// It accepted, or refused otherwise, or the text is not a string as the specification wants it.
    pub fn refused(self, kinds: &[u32]) -> Result<String> {
        ensure!(
            kinds.contains(&self.last.kind),
            "expected a refusal with one of {kinds:x?}, got {:x?}",
            self.last
        );
        string(&self.last.data).context("the text of a refusal")
    }

    /// What an accepted INFO or GO told.
    ///
    /// # Errors
    /// It was refused, INFO_EXPORT is missing, or an item has a wrong length.
    pub fn export_info(self) -> Result<ExportInfo> {
        let mut result = ExportInfo::default();
        let mut seen = Vec::new();
        for part in self.accepted()? {
            ensure!(part.kind == option_reply::INFO, "INFO or GO was answered by {part:x?}");
            let mut item = Cursor(&part.data);
            let kind = item.u16()?;
            ensure!(!seen.contains(&kind), "information type {kind} was sent twice");
            seen.push(kind);
            match kind {
                info::EXPORT => {
                    ensure!(part.data.len() == 12, "INFO_EXPORT must be 12 bytes long");
                    (result.size, result.flags) = (item.u64()?, item.u16()?);
                }
                info::NAME => result.name = Some(string(item.rest())?),
                info::DESCRIPTION => result.description = Some(string(item.rest())?),
                info::BLOCK_SIZE => {
                    ensure!(part.data.len() == 14, "INFO_BLOCK_SIZE must be 14 bytes long");
                    result.block_size = Some((item.u32()?, item.u32()?, item.u32()?));
                }
                unknown => bail!("information type {unknown} is not of the specification"),
            }
        }
        ensure!(seen.contains(&info::EXPORT), "an accepted INFO or GO without INFO_EXPORT");
        Ok(result)
    }

    /// The metadata contexts (id, name) that an accepted LIST or SET_META_CONTEXT told.
    ///
    /// # Errors
    /// It was refused, or a part is malformed.
    pub fn contexts(self) -> Result<Vec<(u32, String)>> {
        self.accepted()?
            .into_iter()
            .map(|part| {
                ensure!(part.kind == option_reply::META_CONTEXT, "expected META_CONTEXT, got {part:x?}");
                let mut item = Cursor(&part.data);
                Ok((item.u32()?, string(item.rest())?))
            })
            .collect()
    }

    /// The exports (name, description) that an accepted LIST told.
    ///
    /// # Errors
    /// It was refused, or a part is malformed.
    pub fn exports(self) -> Result<Vec<(String, String)>> {
        self.accepted()?
            .into_iter()
            .map(|part| {
                ensure!(part.kind == option_reply::SERVER, "expected SERVER, got {part:x?}");
                let mut item = Cursor(&part.data);
                let length = usize::try_from(item.u32()?)?;
                ensure!(length <= item.0.len(), "a name longer than its reply");
                let (name, description) = item.0.split_at(length);
                Ok((string(name)?, string(description)?))
            })
            .collect()
    }
}

impl Handshake {
    /// Connects as a modern client: FIXED_NEWSTYLE and NO_ZEROES.
    ///
    /// # Errors
    /// No connection, or no proper greeting.
    pub fn open(address: &Address) -> Result<Self> {
        Self::with_flags(address, BOTH_FLAGS)
    }

    /// Connects and answers the greeting with these client flags, right or wrong.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_flags(address: &Address, client_flags: u32) -> Result<Self> {
        let mut handshake = Self::silent(address)?;
        handshake.client_flags = client_flags;
        handshake.send(&client_flags.to_be_bytes())?;
        Ok(handshake)
    }

    /// Connects and reads the greeting, but sends nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn silent(address: &Address) -> Result<Self> {
        Self::greeted(Stream::connect(address)?)
    }

    /// As [`open`](Self::open), on a socket that is connected already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn over(stream: Stream) -> Result<Self> {
        let mut handshake = Self::greeted(stream)?;
        handshake.client_flags = BOTH_FLAGS;
        handshake.send(&BOTH_FLAGS.to_be_bytes())?;
        Ok(handshake)
    }

    fn greeted(mut stream: Stream) -> Result<Self> {
        ensure!(stream.read_u64()? == INIT_PASSWD, "the greeting must begin with NBDMAGIC");
        ensure!(stream.read_u64()? == IHAVEOPT, "the greeting must go on with IHAVEOPT");
        let server_flags = stream.read_u16()?;
        Ok(Self { stream, server_flags, client_flags: 0, structured: false })
    }

    /// The handshake flags of the greeting.
    #[must_use]
    pub fn server_flags(&self) -> u16 {
        self.server_flags
    }

    /// The socket, for what the protocol does not foresee.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending to the server")
    }

    /// Sends an option and reads its replies to the last.
    ///
    /// # Errors
    /// The connection is closed, or a reply breaks the format.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Result<Answer> {
        self.send(&option_bytes(option, data))?;
        self.answer(option)
    }

    /// Reads the replies to an option that was sent.
    ///
    /// # Errors
    /// As [`option`](Self::option).
    pub fn answer(&mut self, option: u32) -> Result<Answer> {
        let mut parts = Vec::new();
        loop {
            let reply = self.reply(option)?;
            if reply.kind == option_reply::ACK || reply.is_error() {
                return Ok(Answer { parts, last: reply });
            }
            parts.push(reply);
            ensure!(parts.len() <= REPLY_LIMIT, "replies to option {option} without end");
        }
    }

    /// Reads one reply, which must name `option`.
    ///
    /// # Errors
    /// As [`option`](Self::option).
    pub fn reply(&mut self, option: u32) -> Result<OptionReply> {
        let magic = self.stream.read_u64()?;
        ensure!(magic == OPTION_REPLY_MAGIC, "an option reply began with {magic:#x}");
        let echo = self.stream.read_u32()?;
        ensure!(echo == option, "a reply to option {echo} instead of {option}");
        let kind = self.stream.read_u32()?;
        let length = usize::try_from(self.stream.read_u32()?)?;
        // The longest that we know: NBD_REP_SERVER with two strings.
        ensure!(length <= 4 + 2 * STRING_LIMIT, "a reply of {length} bytes");
        Ok(OptionReply { kind, data: self.stream.read_bytes(length)? })
    }

    /// Negotiates structured replies.
    ///
    /// # Errors
    /// The server refuses.
    pub fn structured(mut self) -> Result<Self> {
        self.option(option::STRUCTURED_REPLY, &[])?.accepted()?;
        self.structured = true;
        Ok(self)
    }

    /// Selects metadata contexts and returns what was selected (id, name).
    ///
    /// # Errors
    /// The server refuses.
    pub fn set_meta_context(&mut self, export: &str, queries: &[&str]) -> Result<Vec<(u32, String)>> {
        self.option(option::SET_META_CONTEXT, &meta_data(export.as_bytes(), queries))?.contexts()
    }

    /// Checks that the server closes for what was sent last: it must not answer an option that follows. (That a
    /// connection ends would not be enough: an idle handshake ends too, after a while.)
    ///
    /// # Errors
    /// It answers, or does not close.
    pub fn expect_close(mut self) -> Result<()> {
        // Fails if the server has closed already, as it should.
        let _ = self.send(&option_bytes(option::LIST, &[]));
        self.stream.expect_close()
    }

    /// Checks that the stream is in step: an option that needs no state is answered properly.
    ///
    /// # Errors
    /// It is not.
    pub fn check_in_step(&mut self) -> Result<()> {
        self.option(option::LIST, &[])?.exports().context("after this the stream must be in step")?;
        Ok(())
    }

    /// Enters transmission by GO with no information requests, as nbd-client does.
    ///
    /// # Errors
    /// The server refuses.
    pub fn go(self, export: &str) -> Result<Transmission> {
        self.go_with(export, &[])
    }

    /// Enters transmission by GO with these information requests.
    ///
    /// # Errors
    /// The server refuses.
    pub fn go_with(mut self, export: &str, requests: &[u16]) -> Result<Transmission> {
        let info = self.option(option::GO, &info_data(export.as_bytes(), requests))?.export_info()?;
        Ok(Transmission::new(self.stream, info, self.structured))
    }

    /// Enters transmission by EXPORT_NAME, whose answer has 124 zeroes at its end unless both sides said
    /// NO_ZEROES.
    ///
    /// # Errors
    /// The server closes the connection instead, or what should be zero is not.
    pub fn export_name(mut self, export: &str) -> Result<Transmission> {
        self.send(&option_bytes(option::EXPORT_NAME, export.as_bytes()))?;
        let info = ExportInfo {
            size: self.stream.read_u64()?,
            flags: self.stream.read_u16()?,
            ..ExportInfo::default()
        };
        let no_zeroes =
            u32::from(self.server_flags) & self.client_flags & u32::from(handshake_flag::NO_ZEROES);
        if no_zeroes == 0 {
            let zeroes = self.stream.read_bytes(124)?;
            ensure!(zeroes.iter().all(|&byte| byte == 0), "the reserved 124 bytes must be zero");
        }
        Ok(Transmission::new(self.stream, info, self.structured))
    }
}

/// An option as it goes over the wire.
///
/// # Panics
/// If the data are longer than 4 GiB.
#[must_use]
pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = option_header(option, u32::try_from(data.len()).expect("option data below 4 GiB"));
    bytes.extend_from_slice(data);
    bytes
}

/// The header of an option that announces `length` bytes of data, which may be a lie.
#[must_use]
pub fn option_header(option: u32, length: u32) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// The data of INFO and GO.
///
/// # Panics
/// If a length does not fit its field.
#[must_use]
pub fn info_data(export: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut bytes = u32::try_from(export.len()).expect("name below 4 GiB").to_be_bytes().to_vec();
    bytes.extend_from_slice(export);
    bytes.extend_from_slice(&u16::try_from(requests.len()).expect("below 65536").to_be_bytes());
    for request in requests {
        bytes.extend_from_slice(&request.to_be_bytes());
    }
    bytes
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
///
/// # Panics
/// If a length does not fit its field.
#[must_use]
pub fn meta_data(export: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut bytes = u32::try_from(export.len()).expect("name below 4 GiB").to_be_bytes().to_vec();
    bytes.extend_from_slice(export);
    bytes.extend_from_slice(&u32::try_from(queries.len()).expect("below 2^32").to_be_bytes());
    for query in queries {
        bytes.extend_from_slice(&u32::try_from(query.len()).expect("query below 4 GiB").to_be_bytes());
        bytes.extend_from_slice(query.as_bytes());
    }
    bytes
}

/// A string as the specification wants it (spec: "Conventions").
fn string(bytes: &[u8]) -> Result<String> {
    ensure!(bytes.len() <= STRING_LIMIT, "a string of {} bytes", bytes.len());
    ensure!(!bytes.contains(&0), "a string with NUL");
    Ok(std::str::from_utf8(bytes).context("a string that is not UTF-8")?.to_owned())
}

/// Takes big-endian numbers off the front of a reply.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().context("a reply that is too short")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}
