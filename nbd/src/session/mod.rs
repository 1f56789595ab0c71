//! The protocol without I/O: bytes go in, requests and bytes come out.
//!
//! A connection is first a [`Handshake`], which ends in [`Negotiated`] parameters, and then a [`Transmission`].
//! Neither knows a socket, a clock or a device: the [`server`](crate::server) moves the bytes and tells when
//! time is up, tests and fuzzers do the same without any of it.

mod allowance;
mod check;
mod handshake;
mod in_flight;
mod negotiated;
mod option_data;
mod outbox;
mod reply;
mod slots;
mod transmission;
mod zeroes;

pub use allowance::{Blocked, PayloadMemory};
pub use handshake::{Answer, Ask, Catalogue, Handshake, Purpose, Step};
pub use negotiated::Negotiated;
pub(crate) use transmission::EXTENTS_BYTES;
pub use transmission::{Debt, Transmission, Violation};
