//! A whole cluster in one thread, all of it faulty, judged by an oracle: the deterministic simulator.
//!
//! One seed is one run: [`Plan`] spells it out, [`run::run`] carries it out, [`shrink::shrink`] makes a failing
//! one short, [`report::Report`] adds many up. The engine under test is anything that is an [`engine::Engine`]:
//! the core's volume, or the [`toy`] that proves the simulator. `docs/simulator.md` describes the fault model and
//! what each rule of the oracle checks.
//!
//! Invariant: a run is a pure function of its plan. No threads within a run, no clocks, no iteration over hash
//! maps, no randomness but [`decision`](self)'s.

mod client;
mod clock;
mod coverage;
mod decision;
mod disk;
pub mod engine;
mod engine_core;
mod legal;
mod net;
mod oracle;
mod payload;
mod plan;
pub mod report;
pub mod run;
pub mod shrink;
pub mod toy;
mod wire;
mod world;

pub use coverage::Coverage;
pub use oracle::Violation;
pub use plan::{Allowed, FaultKind, Load, Plan, Planned};
pub use world::Counts;
