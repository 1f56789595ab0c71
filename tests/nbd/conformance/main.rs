//! Conformance: every rule of the NBD specification that binds a server (each MUST, and the SHOULDs that
//! Evenkeel promises) as a test that is named after the section and the rule.
//!
//! `rules.rs` is the table of rules and tests; it is checked against what the test harness really runs. The
//! client is [`evenkeel_tests::raw`], written from the specification and independent of our server.
//!
//! What cannot be seen from outside of the process is proven elsewhere: that a flush reaches the medium, in
//! the tests of the disk backend; TCP_NODELAY, in those of the listener. TLS is not offered yet, so that of
//! the TLS sections only "NOTLS mode" applies.

use evenkeel_tests::serve::DiskBackend;

mod block_status;
mod commands;
mod common;
mod handshake;
mod info;
mod meta_context;
mod options;
mod ordering;
mod ranges;
mod rules;
mod structured;
mod transmission;

/// How the server under test does its disk I/O: io_uring, where the kernel allows it. `with_pread.rs` runs the
/// same tests on the other backend.
const BACKEND: DiskBackend = DiskBackend::Auto;
