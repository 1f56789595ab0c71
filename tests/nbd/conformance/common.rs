//! What the conformance tests share: a server with one writable export, and the two ways into it.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::Result;
use evenkeel_tests::{
    raw::{Address, Handshake, Transmission},
    serve::{ServeOptions, Server},
};

/// Name of the export.
pub(crate) const EXPORT: &str = "disk";

/// Size of the export: more than the largest payload, so that limits of size and of payload are told apart.
pub(crate) const SIZE: u64 = 64 << 20;

/// 4 KiB as a length: the block that a server prefers.
pub(crate) const BLOCK: u32 = 4096;

/// A server as most tests want it: the export [`EXPORT`] of [`SIZE`] bytes, all of them a hole.
pub(crate) fn options() -> ServeOptions {
    ServeOptions { size: SIZE, export: EXPORT.to_owned(), backend: crate::BACKEND, ..ServeOptions::default() }
}

/// Starts the server of [`options`].
pub(crate) fn serve() -> Result<Server> {
    Server::start(options())
}

/// The same, read-only; the image holds `content` at its start.
pub(crate) fn serve_read_only(content: &[u8]) -> Result<(Server, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    let file = File::create_new(&image)?;
    file.set_len(SIZE)?;
    file.write_all_at(content, 0)?;
    let server = Server::start(ServeOptions { read_only: true, image: Some(image), ..options() })?;
    Ok((server, folder))
}

/// Where its unix socket is.
pub(crate) fn address(server: &Server) -> Address {
    Address::Unix(server.socket())
}

/// A connection in the handshake phase.
pub(crate) fn handshake(server: &Server) -> Result<Handshake> {
    Handshake::open(&address(server))
}

/// A connection that gets simple replies.
pub(crate) fn simple(server: &Server) -> Result<Transmission> {
    handshake(server)?.go(EXPORT)
}

/// A connection that gets structured replies.
pub(crate) fn structured(server: &Server) -> Result<Transmission> {
    handshake(server)?.structured()?.go(EXPORT)
}

/// A connection that may send BLOCK_STATUS: `base:allocation` is selected.
pub(crate) fn with_allocation(server: &Server) -> Result<Transmission> {
    let mut handshake = handshake(server)?.structured()?;
    handshake.set_meta_context(EXPORT, &["base:allocation"])?;
    handshake.go(EXPORT)
}

/// Bytes of the image, read beside the server.
pub(crate) fn image_bytes(server: &Server, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open(server.image())?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
