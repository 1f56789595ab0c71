//! A stream socket, unix or TCP, that can change its runtime.
//!
//! Readiness comes from epoll (edge-triggered). A read that did not fill its buffers has emptied the socket, so
//! the readiness is dropped without asking the kernel again: at queue depth 1 that saves a system call.

#![allow(unsafe_code, reason = "registering a descriptor with epoll is a promise not to close it meanwhile")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::unix::AsyncFd;

/// A connected, non-blocking stream socket, registered with the current runtime.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
}

impl Socket {
    /// Registers `fd`, which is non-blocking, with the current runtime.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and `OwnedFd` neither closes nor replaces it while it lives.
        Ok(Self { fd: unsafe { AsyncFd::register(fd)? } })
    }

    /// Takes the socket out of its runtime.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd.into_inner()
    }

    /// Reads into `buffers`; zero is the end of the stream.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(context))?;
            match rustix::io::readv(self.fd.as_fd(), buffers) {
                Ok(len) => {
                    if 0 < len && len < wanted {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes from `buffers`; never raises SIGPIPE.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(context))?;
            let mut ancillary = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self.fd.as_fd(), buffers, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Reads into `buffer`; zero is the end of the stream.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read(context, &mut [IoSliceMut::new(buffer)])).await
    }

    /// Writes all of `bytes`.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |context: &mut Context<'_>| self.poll_write(context, &[IoSlice::new(bytes)]);
            let len = std::future::poll_fn(write).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Ends when the peer has closed its side; data that it sent before that is not taken, and hides the end.
    pub(super) async fn closed_by_peer(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut probe = [0; 1];
            let peek = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
            match rustix::net::recv(self.fd.as_fd(), &mut probe, peek) {
                Ok((_, 0)) => return Ok(()),
                Ok(_) => std::future::pending().await,
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells the peer that nothing more will come, and reads until it closes too: closing a socket with unread
    /// data would reset the connection and could take the last replies from the peer. To be bounded in time by
    /// the caller.
    pub(super) async fn linger(&self) {
        if rustix::net::shutdown(self.fd.as_fd(), Shutdown::Write).is_ok() {
            let mut dropped = [0; 4096];
            while matches!(self.read(&mut dropped).await, Ok(1..)) {}
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
