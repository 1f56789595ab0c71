//! The least of an NBD client: GO, then requests one after the other with simple replies. It blocks.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_nbd::wire::{
    OPTION_MAGIC, SIMPLE_REPLY_MAGIC, client_flag, command, option,
    transmission::{Cookie, REQUEST_BYTES, RequestHeader, SIMPLE_REPLY_BYTES},
};

/// Bytes of the server's greeting.
const GREETING_BYTES: usize = 18;
/// Bytes before the data of a reply to an option.
const OPTION_REPLY_BYTES: usize = 20;
/// The server sends no longer data with such a reply.
const OPTION_DATA_MAX: u32 = 64 << 10;
/// A reply that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an export.
pub(super) struct Disk {
    stream: UnixStream,
    cookie: u64,
}

impl Disk {
    /// Connects and enters an export.
    pub(super) fn open(socket: &Path, export: &str) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut disk = Self { stream, cookie: 0 };
        disk.stream.read_exact(&mut [0; GREETING_BYTES])?;
        disk.stream.write_all(&(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES).to_be_bytes())?;
        disk.go(export)?;
        Ok(disk)
    }

    fn go(&mut self, export: &str) -> Result<()> {
        let mut data = u32::try_from(export.len())?.to_be_bytes().to_vec();
        data.extend_from_slice(export.as_bytes());
        data.extend_from_slice(&0_u16.to_be_bytes());
        let mut request = OPTION_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&option::GO.to_be_bytes());
        request.extend_from_slice(&u32::try_from(data.len())?.to_be_bytes());
        request.extend_from_slice(&data);
        self.stream.write_all(&request)?;
        loop {
            let mut head = [0; OPTION_REPLY_BYTES];
            self.stream.read_exact(&mut head)?;
            let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let (kind, len) = (word(12), word(16));
            ensure!(len <= OPTION_DATA_MAX, "a reply to GO with {len} bytes");
            let mut data = vec![0; usize::try_from(len)?];
            self.stream.read_exact(&mut data)?;
            match kind {
                option::reply::ACK => return Ok(()),
                option::reply::INFO => {}
                _ => bail!("the export {export} is refused: {}", String::from_utf8_lossy(&data)),
            }
        }
    }

    /// Reads into all of `buffer`.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.request(command::READ, offset, buffer.len(), &[])?;
        Ok(self.stream.read_exact(buffer)?)
    }

    /// Returns when the write is replied to.
    pub(super) fn write(&mut self, offset: u64, payload: &[u8]) -> Result<()> {
        self.request(command::WRITE, offset, payload.len(), payload)
    }

    /// Returns when everything that was replied to is stable.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.request(command::FLUSH, 0, 0, &[])
    }

    /// Says goodbye.
    pub(super) fn close(mut self) -> io::Result<()> {
        let header = self.header(command::DISC, 0, 0);
        self.stream.write_all(&header)
    }

    fn header(&mut self, command: u16, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
        self.cookie += 1;
        RequestHeader { flags: 0, command, cookie: Cookie(self.cookie), offset, length }.encode()
    }

    fn request(&mut self, command: u16, offset: u64, len: usize, payload: &[u8]) -> Result<()> {
        let header = self.header(command, offset, u32::try_from(len)?);
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)?;
        let mut reply = [0; SIMPLE_REPLY_BYTES];
        self.stream.read_exact(&mut reply)?;
        ensure!(reply[..4] == SIMPLE_REPLY_MAGIC.to_be_bytes(), "this is no reply");
        ensure!(reply[8..] == self.cookie.to_be_bytes(), "the reply to another request");
        let error = u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]);
        ensure!(error == 0, "the request failed with NBD error {error}");
        Ok(())
    }
}
