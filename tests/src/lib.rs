//! What the end-to-end tests share: the server under test, a raw NBD client, the programs of the machine that
//! test it, and how much work a test does.

pub mod raw;
pub mod scale;
pub mod serve;
pub mod tools;
