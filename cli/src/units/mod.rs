//! Quantities as people write them, in options and in the configuration: sizes, durations, rates.

mod duration;
mod rate;
mod size;

pub(crate) use duration::Span;
pub(crate) use rate::{RateError, RateLimit, rate_per_second};
pub(crate) use size::ByteSize;
