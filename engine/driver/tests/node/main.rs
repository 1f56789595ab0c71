//! Nodes as the daemon runs them, several in one process, on files in temporary folders, with NBD clients.

mod alone;
mod client;
mod pair;
mod refused;
mod rig;
