//! What the end-to-end tests share: the server and the cluster under test, a raw NBD client, a load and the judge of what became of
//! it, the programs of the machine that test, and how much work a test does.

pub mod cluster;
pub mod impostor;
pub mod judge;
pub mod kernel;
pub mod load;
pub mod raw;
pub mod scale;
pub mod serve;
pub mod tools;
