//! A connection to the server over either kind of socket, with a bound on every wait.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SendFlags, send},
};

/// How long a read or a write may make no progress before a test gives up: far longer than any answer takes on
/// a busy machine, and longer than the server's own limit on a handshake.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The path of a unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// A connected socket. Dropping it closes it at once, without a word.
#[derive(Debug)]
pub enum Stream {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP, without Nagle's delay.
    Tcp(TcpStream),
}

impl Stream {
    /// Connects; reads and writes on the result are bounded by [`PATIENCE`].
    ///
    /// # Errors
    /// The server does not accept.
    pub fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(stream))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Another handle to the same socket, for a second thread.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Ends the connection both ways, for every handle to it: a read that waits returns.
    ///
    /// # Errors
    /// The socket is no longer connected.
    pub fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        }
    }

    /// Sends the end of the stream but keeps reading.
    ///
    /// # Errors
    /// The socket is no longer connected.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Changes how long a read may make no progress.
    ///
    /// # Errors
    /// `limit` is zero.
    pub fn set_read_limit(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
    }

    /// Changes how long a write may make no progress.
    ///
    /// # Errors
    /// `limit` is zero.
    pub fn set_write_limit(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(Some(limit)),
            Self::Tcp(stream) => stream.set_write_timeout(Some(limit)),
        }
    }

    /// Writes what the socket takes without waiting, and tells how much that was (it may be nothing).
    ///
    /// # Errors
    /// The server has closed the connection (see [`is_closed`]), or another failure of the socket.
    pub fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match send(&*self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the socket takes bytes or has some; tells whether it has some (or has ended).
    ///
    /// # Errors
    /// Neither for [`PATIENCE`].
    pub fn wait_for_either(&self) -> Result<bool> {
        let mut socket = [PollFd::new(self, PollFlags::IN | PollFlags::OUT)];
        let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut socket, Some(&limit))?;
        ensure!(ready > 0, "the server neither reads nor writes for {PATIENCE:?}");
        Ok(socket[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// The server closed the connection before, or was silent for [`PATIENCE`].
    pub fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes).with_context(|| format!("reading {count} bytes from the server"))?;
        Ok(bytes)
    }

    /// Reads a big-endian number.
    ///
    /// # Errors
    /// As [`read_bytes`](Self::read_bytes).
    pub fn read_u16(&mut self) -> Result<u16> {
        let mut bytes = [0; 2];
        self.read_exact(&mut bytes).context("reading 2 bytes from the server")?;
        Ok(u16::from_be_bytes(bytes))
    }

    /// Reads a big-endian number.
    ///
    /// # Errors
    /// As [`read_bytes`](Self::read_bytes).
    pub fn read_u32(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes).context("reading 4 bytes from the server")?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a big-endian number.
    ///
    /// # Errors
    /// As [`read_bytes`](Self::read_bytes).
    pub fn read_u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes).context("reading 8 bytes from the server")?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Waits until the server has closed the connection; what it still sent before is returned.
    ///
    /// # Errors
    /// It has not after [`PATIENCE`] without a byte, or sends without end (more than 1 GiB).
    pub fn read_to_close(&mut self) -> Result<Vec<u8>> {
        const TOO_MUCH: usize = 1 << 30;
        let mut received = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(received),
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_closed(&error) => return Ok(received),
                Err(error) => bail!("the server did not close the connection: {error}"),
            }
            ensure!(received.len() < TOO_MUCH, "the server sends without end");
        }
    }

    /// Checks that the server closes the connection and sends nothing before that.
    ///
    /// # Errors
    /// It sends something, or does not close.
    pub fn expect_close(&mut self) -> Result<()> {
        let rest = self.read_to_close()?;
        ensure!(rest.is_empty(), "the server sent {} bytes before it closed: {rest:02x?}", rest.len());
        Ok(())
    }
}

/// Whether an error of a socket says that the other side has closed it.
#[must_use]
pub fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof
    )
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}
