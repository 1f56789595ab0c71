//! Listening sockets.
//!
//! A unix socket has mode 0600 before anybody can connect to it. One that a killed process left behind is
//! replaced; one that somebody serves, and anything that is not a socket, is refused.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::device::ClientIdentity;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// A TCP client that is silent for this long is asked whether it lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After so many without an answer the connection is closed.
const KEEPALIVE_PROBES: u32 = 3;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process serves this socket.
    #[error("socket {} is in use by another process; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else stands in the way.
    #[error("{} exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The unix socket could not be made.
    #[error("cannot listen on unix socket {}: {error}", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The TCP socket could not be made.
    #[error("cannot listen on TCP address {address}: {error}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// A listening socket, registered with the runtime in which it was made.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket; its file is removed on drop.
    Unix(UnixSocket),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// A listening unix socket and the file that names it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made, so that a successor's is not removed.
    file: (u64, u64),
}

impl Listener {
    /// Listens on a unix socket with mode 0600.
    ///
    /// # Errors
    /// If another process serves it, or the system refuses.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let fail = |error: io::Error| ListenError::Unix { path: path.to_owned(), error };
        remove_stale(path)?;
        let socket = bind_unix(path).map_err(fail)?;
        let metadata = fs::symlink_metadata(path).map_err(fail)?;
        let listener = UnixListener::from_std(socket.into()).map_err(fail)?;
        let file = (metadata.dev(), metadata.ino());
        Ok(Self::Unix(UnixSocket { listener, path: path.to_owned(), file }))
    }

    /// Listens on a TCP address.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn tcp(address: SocketAddr) -> Result<Self, ListenError> {
        let fail = |error| ListenError::Tcp { address, error };
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        };
        let listen = |socket: tokio::net::TcpSocket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG.unsigned_abs())
        };
        socket.and_then(listen).map(Self::Tcp).map_err(fail)
    }

    /// The address of a TCP listener, with the port that the system chose if none was given.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// The next connection, non-blocking, and who is at its other end.
    ///
    /// # Errors
    /// If the system cannot accept any more (no file descriptors left): wait before the next attempt.
    pub async fn accept(&self) -> io::Result<(OwnedFd, ClientIdentity)> {
        loop {
            let prepared = match self {
                Self::Unix(socket) => prepare_unix(socket.listener.accept().await?.0),
                Self::Tcp(listener) => {
                    let (stream, address) = listener.accept().await?;
                    prepare_tcp(stream, address)
                }
            };
            match prepared {
                Ok(prepared) => return Ok(prepared),
                // The fault of this one connection, which is probably gone already.
                Err(error) => tracing::debug!(%error, "a connection could not be prepared"),
            }
        }
    }
}

fn prepare_unix(stream: UnixStream) -> io::Result<(OwnedFd, ClientIdentity)> {
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok((stream.into_std()?.into(), ClientIdentity::Local { pid, uid: credentials.uid() }))
}

/// No delay for small replies, and keep-alive: the machine of a client that fell silent for good must not keep
/// a place for ever.
fn prepare_tcp(stream: TcpStream, address: SocketAddr) -> io::Result<(OwnedFd, ClientIdentity)> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    Ok((stream.into_std()?.into(), ClientIdentity::Remote(address)))
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Removes a socket that nobody serves.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |error: io::Error| ListenError::Unix { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a process that is gone");
            fs::remove_file(path).map_err(fail)
        }
        // Also when the connection failed in another way: what cannot be asked is taken to live.
        Ok(_) | Err(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

/// Binds, restricts, then listens: before it listens nobody can connect.
fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
