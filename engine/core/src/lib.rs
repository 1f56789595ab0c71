//! The replication engine as pure state machines: no sockets, files, clocks, threads or randomness of its own.
//!
//! An event goes in, one synchronous call changes state, actions come out. The driver carries them out in
//! production, the simulator in tests; everything that can go wrong can therefore be made to happen.

pub mod generation;
pub mod ids;
pub mod meta;
pub mod volume;
