//! The least of an NBD client: GO, requests one after the other, simple replies. It blocks.

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;

/// Flag of a command: stable before the reply.
pub(crate) const FUA: u16 = 1;
/// Flag of WRITE_ZEROES: keep the space.
pub(crate) const NO_HOLE: u16 = 2;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

/// A connection in the transmission phase.
pub(crate) struct Client {
    stream: UnixStream,
    cookie: u64,
    pub(crate) size: u64,
}

/// Why there is no connection, or no success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// GO was refused with this type and text.
    Refused(u32, String),
    /// The request failed with this NBD error number.
    Errno(u32),
    /// The connection is gone.
    Gone(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(kind, text) => write!(f, "refused ({kind:x}): {text}"),
            Self::Errno(errno) => write!(f, "error {errno}"),
            Self::Gone(error) => write!(f, "gone: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl Client {
    /// Connects and enters an export.
    pub(crate) fn enter(socket: &Path, export: &str) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket)?;
        // No test waits longer for one reply.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        // Fixed newstyle, no zeroes.
        stream.write_all(&3_u32.to_be_bytes())?;
        let mut data = u32::try_from(export.len()).expect("short").to_be_bytes().to_vec();
        data.extend_from_slice(export.as_bytes());
        data.extend_from_slice(&0_u16.to_be_bytes());
        let mut option = OPTION_MAGIC.to_be_bytes().to_vec();
        option.extend_from_slice(&GO.to_be_bytes());
        option.extend_from_slice(&u32::try_from(data.len()).expect("short").to_be_bytes());
        option.extend_from_slice(&data);
        stream.write_all(&option)?;
        let mut size = 0;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
            let (kind, len) = (word(12), word(16));
            let mut data = vec![0; len as usize];
            stream.read_exact(&mut data)?;
            match kind {
                REPLY_ACK => return Ok(Self { stream, cookie: 0, size }),
                REPLY_INFO if data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().expect("eight"));
                }
                REPLY_INFO => {}
                kind if kind & REPLY_ERROR != 0 => {
                    return Err(Failure::Refused(kind, String::from_utf8_lossy(&data).into_owned()));
                }
                kind => panic!("an unknown reply to GO: {kind:x}"),
            }
        }
    }

    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        self.cookie += 1;
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&self.cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes)?;
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes(), "a simple reply");
        assert_eq!(head[8..], self.cookie.to_be_bytes(), "the reply to this request");
        match u32::from_be_bytes(head[4..8].try_into().expect("four")) {
            0 if command == READ => {
                let mut data = vec![0; len as usize];
                self.stream.read_exact(&mut data)?;
                Ok(data)
            }
            0 => Ok(Vec::new()),
            errno => Err(Failure::Errno(errno)),
        }
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        self.request(READ, 0, offset, u32::try_from(len).expect("short"), &[])
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.write_with(0, offset, data)
    }

    pub(crate) fn write_with(&mut self, flags: u16, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.request(WRITE, flags, offset, u32::try_from(data.len()).expect("short"), data).map(drop)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.request(FLUSH, 0, 0, 0, &[]).map(drop)
    }

    pub(crate) fn trim(&mut self, offset: u64, len: u32) -> Result<(), Failure> {
        self.request(TRIM, 0, offset, len, &[]).map(drop)
    }

    pub(crate) fn zero(&mut self, flags: u16, offset: u64, len: u32) -> Result<(), Failure> {
        self.request(WRITE_ZEROES, flags, offset, len, &[]).map(drop)
    }
}
