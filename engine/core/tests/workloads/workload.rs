//! What a client asks for: at most three operations on at most three blocks, and when it asks.

use evenkeel_core::volume::{
    io::{ClientOperation, ZeroMode},
    span::ByteSpan,
};

use crate::{
    disk::{BLOCK, BLOCKS, Name, PLACES},
    world::World,
};

/// One operation of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write(usize),
    /// A write that is stable when it is answered.
    Through(usize),
    Zero(usize),
    Read(usize),
    Flush,
}

/// When an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Together with the one before.
    AtOnce,
    /// As soon as the one before is answered.
    Answered,
}

impl Operation {
    /// Every operation that may come next when so many blocks are in use: of the unused ones only the first, the
    /// others would be the same workload with other names.
    pub(crate) fn all(used: usize) -> Vec<Self> {
        let blocks = 0..(used + 1).min(BLOCKS);
        let each: [fn(usize) -> Self; 4] = [Self::Write, Self::Through, Self::Zero, Self::Read];
        let on_blocks = each.into_iter().flat_map(|kind| blocks.clone().map(kind));
        on_blocks.chain([Self::Flush]).collect()
    }

    pub(crate) fn block(self) -> Option<usize> {
        match self {
            Self::Write(block) | Self::Through(block) | Self::Zero(block) | Self::Read(block) => Some(block),
            Self::Flush => None,
        }
    }

    /// Which block it changes, and whether to something that has a name of its own.
    pub(crate) fn changes(self) -> Option<(usize, bool)> {
        match self {
            Self::Write(block) | Self::Through(block) => Some((block, true)),
            Self::Zero(block) => Some((block, false)),
            Self::Read(_) | Self::Flush => None,
        }
    }

    /// As the engine wants it; `name` is for what is written.
    pub(crate) fn request(self, name: Name) -> ClientOperation {
        let write = |block: usize, fua| ClientOperation::Write {
            offset: PLACES[block],
            payload: World::payload(name),
            fua,
        };
        match self {
            Self::Write(block) => write(block, false),
            Self::Through(block) => write(block, true),
            Self::Zero(block) => {
                ClientOperation::Zero { span: span(block), mode: ZeroMode::Punch, fua: false }
            }
            Self::Read(block) => ClientOperation::Read(span(block)),
            Self::Flush => ClientOperation::Flush,
        }
    }
}

/// Where a block lies.
pub(crate) fn span(block: usize) -> ByteSpan {
    ByteSpan { offset: PLACES[block], len: BLOCK }
}
