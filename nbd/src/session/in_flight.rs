//! What is remembered of a request from its header to its reply.
//!
//! ```text
//! header ──WRITE──> Filling ──payload whole──> InFlight ──device done──> the outbox
//!   |  └──others────────────────────────────────^                          ^
//!   └──refused──> Skipping ──payload dropped───────────────────────────────┘
//! ```

use super::{allowance::Held, check::Refusal, outbox::Released};
use crate::{
    buffer::AlignedBuffer,
    device::{ByteRange, MapContext, RequestId},
    errno::ErrorClass,
    wire::transmission::Cookie,
};

/// What is remembered of a request that a device has.
#[derive(Debug)]
pub(super) enum InFlight {
    Read {
        cookie: Cookie,
        range: ByteRange,
        whole: bool,
        charged: Released,
    },
    Write {
        cookie: Cookie,
        length: usize,
        held: Held,
    },
    Plain {
        cookie: Cookie,
    },
    /// One context of a BLOCK_STATUS; `status` is the place of what all its contexts share.
    Map {
        context: MapContext,
        range: ByteRange,
        one: bool,
        status: RequestId,
    },
}

/// What the contexts of one BLOCK_STATUS share.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) cookie: Cookie,
    pub(super) contexts_left: usize,
    pub(super) failed: Option<ErrorClass>,
    pub(super) charged: Released,
}

/// The payload of a WRITE that is arriving.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) cookie: Cookie,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) fua: bool,
    pub(super) buffer: AlignedBuffer,
    pub(super) held: Held,
}

impl Filling {
    pub(super) fn missing(&self) -> usize {
        self.length - self.buffer.len()
    }
}

/// The payload of a refused WRITE that is being dropped. The reply comes when it is gone: clients look for
/// replies only to requests that they have sent completely.
#[derive(Debug)]
pub(super) struct Skipping {
    pub(super) cookie: Cookie,
    pub(super) refusal: Refusal,
    pub(super) missing: usize,
}
