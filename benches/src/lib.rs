//! What the comparisons with other programs share.
//!
//! A comparison starts one server at a time on one image, loads it with fio, and asks the system what that
//! cost. Rounds are interleaved: every server meets the same quiet and noisy times of the machine.

pub mod fio;
pub mod machine;
pub mod server;
pub mod table;
