//! The server: from a listening socket to requests at a device.
//!
//! Two sides, which may be two threads or one:
//!
//! ```text
//! control side                                 data side (one thread, owns the devices)
//! Listener -> Door: accept, handshake  ==>  Handover  ==>  Hall::serve(handover, device)
//!              ^ Directory: names, states
//! ```
//!
//! The control side knows of exports only what the [`Directory`] says. A [`Handover`] is a socket past its
//! handshake, with what was negotiated; it travels through a channel to the data side, where a connection
//! lives in one future that moves bytes between the socket, the session and the device.
//! Any tokio runtime serves either side, also the one of `tokio_uring`: sockets are watched by epoll.

mod connection;
mod directory;
mod door;
mod hall;
mod listener;
mod lobby;
mod socket;

pub use directory::{Directory, Export};
pub use door::{Door, Handover};
pub use hall::Hall;
pub use listener::{ListenError, Listener};
