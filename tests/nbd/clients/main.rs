//! Real NBD clients against `evenkeel serve`: every program that an operator may point at it, with its real
//! output checked. One module for each family of clients.
//!
//! What these tests prove is listed by option, command and flag in `docs/nbd.md`.

mod filesystem;
mod fio;
mod image;
mod libnbd;
mod nbd_client;
mod qemu;
