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
//! | `data_thread`, `reload` | the thread: start, end, and what is asked of it |
//! | `slot` | the place of a configured volume, open or not |
//! | `files`, `memory` | opening and making data and metadata; what is remembered beside them |
//! | `runner` | an open volume: the core, its disks, its clients, its time |
//! | `device` | a volume as an NBD block device |
//! | `summary` | what an operator is told of a volume, from all that is known |
//! | `clock`, `alarm` | time and randomness; the time at which a volume is woken |
//! | `abort` | a panic on the data thread ends the process |

pub(crate) mod abort;
mod alarm;
mod clock;
mod command;
mod data_thread;
mod device;
mod events;
mod files;
mod handle;
mod memory;
mod problem;
mod reload;
mod runner;
mod settings;
mod slot;
mod status;
mod summary;

pub use command::{CommandError, CommandResult, VolumeCommand};
pub use data_thread::{Node, StartError};
pub use events::{EventBatch, Events, NodeEvent};
pub use handle::{CreateOrigin, NodeEnded, NodeHandle, ReloadError, Reloaded, ShutdownReport};
pub use problem::{Problem, ProblemCode};
pub use settings::{NodeSettings, PeerSettings, VolumeSettings};
pub use status::{
    BranchStatus, Connection, LastResync, NodeStatus, PartedStatus, PeerStatus, ResyncStatus, VolumeStatus,
};
