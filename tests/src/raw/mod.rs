//! A raw NBD client, written from the specification alone and sharing no code with the `evenkeel-nbd` crate: a
//! mistake in our reading of the protocol must not hide on both sides of the socket.
//!
//! [`Handshake`] speaks the option phase, [`Transmission`] what follows. Both can send well-formed messages by
//! name and any bytes at all; what the server sends is always checked against the rules that bind a server
//! (magics, lengths, cookies, coverage of structured reads), and a breach is an error. Every wait is bounded
//! by [`stream::PATIENCE`].

pub mod handshake;
pub mod pattern;
pub mod protocol;
pub mod reply;
pub mod stream;
pub mod transmission;
pub mod verifier;

pub use handshake::{Answer, ExportInfo, Handshake, OptionReply};
pub use protocol::Errno;
pub use reply::{Chunk, Completion};
pub use stream::{Address, Stream};
pub use transmission::{Request, Transmission};
