//! What the comparisons with other programs share.
//!
//! A comparison loads servers one at a time, and asks the system what that cost. Rounds are interleaved: every server
//! meets the same quiet and noisy times of the machine.

pub mod fio;
pub mod load;
pub mod machine;
pub mod mirror;
pub mod mirror_table;
pub mod process;
pub mod server;
pub mod table;
