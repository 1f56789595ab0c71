//! The conformance tests again (see `main.rs`), on a server that does its disk I/O with `pread` and `pwrite`.

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

/// How the server under test does its disk I/O.
const BACKEND: DiskBackend = DiskBackend::Pread;
