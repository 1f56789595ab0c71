//! Runs the core for real: one node, with one data thread that carries all its volumes (design section 9).
//!
//! ```text
//!  control thread(s)                          data thread (current-thread runtime, no locks, no Send)
//!  admin API, NBD accept and handshake        volumes, disks, links, established NBD connections
//!       NodeHandle ────── channel ─────────>  Control
//!       Events, Directory <── shared ───────
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `settings` | what a node is told at its start |
//! | `handle` | what other threads hold |
//! | `command`, `status`, `problem`, `events` | what an operator says and sees |
//! | `data_thread` | the thread: start, end, and what is asked of it |
//! | `abort` | a panic on the data thread ends the process |

mod abort;
mod command;
mod data_thread;
mod events;
mod handle;
mod problem;
mod settings;
mod status;

pub use command::{CommandError, CommandResult, VolumeCommand};
pub use data_thread::{Node, StartError};
pub use events::{EventBatch, Events, NodeEvent};
pub use handle::{CreateOrigin, NodeEnded, NodeHandle, ReloadError, Reloaded, ShutdownReport};
pub use problem::{Problem, ProblemCode};
pub use settings::{NodeSettings, PeerSettings, VolumeSettings};
pub use status::{Connection, IoCounters, LastResync, NodeStatus, PeerStatus, ResyncStatus, VolumeStatus};
