//! NBD for Evenkeel: the protocol as a pure session, a server over unix socket and TCP, and the
//! [`BlockDevice`](device::BlockDevice) trait that the server serves.
//!
//! Nothing in this crate knows of replication. The engine implements the trait; this crate turns bytes from a
//! client into [`Request`](device::Request)s and completions into bytes.
//!
//! "Spec" below means the NBD protocol document (`doc/proto.md` of the NetworkBlockDevice project, 2026-05).

pub mod buffer;
pub mod device;
pub mod errno;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
#[doc(hidden)]
pub mod memory;
pub mod server;
pub mod session;
pub mod wire;
