//! Runs the engine on real hardware.
//!
//! [`disk`] is raw block I/O on one file or device: an own io_uring ring, or threads where io_uring is
//! forbidden. [`device`] serves such a disk as an NBD block device, without replication. [`node`] runs the engine's
//! core on one data thread. [`link`] connects nodes over QUIC, each with its [`identity`].
//!
//! Everything here lives on the data thread (design section 9): no locks, no `Send`, one burst in, one submit
//! out. Only [`disk::DiskFile`] crosses threads, so that a disk can be opened, and refused, before it is served.

pub mod device;
pub mod disk;
pub mod identity;
pub mod link;
pub mod node;
