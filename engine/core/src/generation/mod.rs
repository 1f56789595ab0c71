//! Which history of the data a node has, and what two nodes that meet do about it.
//!
//! A [`NodeView`](view::NodeView) is everything of a node that matters; both send theirs in the handshake, and
//! [`decide`](decide::decide) makes a [`Verdict`](verdict::Verdict) of the two, the same on both sides; with three nodes
//! [`course`](course::course) says whether it is acted on at once. The
//! rules are G1-G10 and D6 of the design; `docs/decisions.md` says what the enumeration changed in them.

pub mod course;
pub mod decide;
pub mod history;
pub mod record;
pub mod verdict;
pub mod view;
