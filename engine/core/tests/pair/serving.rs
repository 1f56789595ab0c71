//! A pair that serves, as most tests begin.

#![allow(dead_code, reason = "each test file uses a part of it")]

use bytes::Bytes;
use evenkeel_core::volume::{
    io::ClientOperation,
    operator::{Force, OperatorAnswer, OperatorCommand},
};

use super::{Pair, Settings};

impl Pair {
    /// Two new nodes that have met, the first one primary.
    pub(crate) fn serving(settings: Settings) -> Self {
        let mut pair = Self::set_up(settings);
        pair.connect();
        assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
        pair
    }

    /// The same, with a block that is stable on both.
    pub(crate) fn mirrored() -> Self {
        let mut pair = Self::serving(Settings::default());
        assert!(pair.write(0, 0, &[1; 4096], true).is_ok());
        pair
    }
}

/// A write of the first block.
pub(crate) fn write(byte: u8) -> ClientOperation {
    ClientOperation::Write { offset: 0, payload: Bytes::from(vec![byte; 4096]), fua: false }
}
