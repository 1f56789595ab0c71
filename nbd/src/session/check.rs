//! Whether a request may be done: ranges, flags and permissions, in one place (spec, "Request types", "Error
//! values").
//!
//! Decisions where the spec leaves the choice:
//! - length zero is EINVAL on every command that has a range;
//! - offset and length of FLUSH are ignored: doing the flush is always safe;
//! - a READ above the payload limit is EOVERFLOW with structured replies and EINVAL without, a WRITE is EINVAL;
//! - TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS may be as long as the header can say.

use super::negotiated::Negotiated;
use crate::{
    device::ByteRange,
    errno::ErrorClass,
    wire::{command, command_flag as flag, transmission::RequestHeader},
};

/// A request that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Read { range: ByteRange, whole: bool },
    Write { offset: u64, length: u32, fua: bool },
    Flush,
    Trim { range: ByteRange, fua: bool },
    WriteZeroes { range: ByteRange, fua: bool, no_hole: bool, fast: bool },
    Cache { range: ByteRange },
    BlockStatus { range: ByteRange, one: bool },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) class: ErrorClass,
    pub(super) text: &'static str,
    /// The first byte that is wrong, if it lies within the request.
    pub(super) offset: Option<u64>,
}

impl Refusal {
    pub(super) const fn new(class: ErrorClass, text: &'static str) -> Self {
        Self { class, text, offset: None }
    }
}

/// Checks everything but DISC, which has no reply.
pub(super) fn check(
    header: &RequestHeader,
    params: &Negotiated,
    size: u64,
    max_payload: u32,
) -> Result<Accepted, Refusal> {
    let fua = header.flags & flag::FUA != 0;
    let range = ByteRange { offset: header.offset, len: u64::from(header.length) };
    let past_end = |class| within(range, size, class);
    match header.command {
        command::READ => {
            let df = if params.structured { flag::DF } else { 0 };
            flags(header, df)?;
            not_empty(range)?;
            past_end(ErrorClass::Invalid)?;
            if header.length > max_payload {
                let class = if params.structured { ErrorClass::Overflow } else { ErrorClass::Invalid };
                return Err(Refusal::new(class, "the read is longer than the maximum payload"));
            }
            Ok(Accepted::Read { range, whole: header.flags & flag::DF != 0 })
        }
        command::WRITE => {
            flags(header, 0)?;
            not_empty(range)?;
            if header.length > max_payload {
                return Err(Refusal::new(
                    ErrorClass::Invalid,
                    "the write is longer than the maximum payload",
                ));
            }
            writable(params)?;
            past_end(ErrorClass::NoSpace)?;
            Ok(Accepted::Write { offset: range.offset, length: header.length, fua })
        }
        command::FLUSH => {
            flags(header, 0)?;
            Ok(Accepted::Flush)
        }
        command::TRIM => {
            flags(header, 0)?;
            not_empty(range)?;
            writable(params)?;
            past_end(ErrorClass::Invalid)?;
            Ok(Accepted::Trim { range, fua })
        }
        command::CACHE => {
            flags(header, 0)?;
            not_empty(range)?;
            past_end(ErrorClass::Invalid)?;
            Ok(Accepted::Cache { range })
        }
        command::WRITE_ZEROES => {
            let fast = if params.features.fast_zero { flag::FAST_ZERO } else { 0 };
            flags(header, flag::NO_HOLE | fast)?;
            not_empty(range)?;
            writable(params)?;
            past_end(ErrorClass::NoSpace)?;
            Ok(Accepted::WriteZeroes {
                range,
                fua,
                no_hole: header.flags & flag::NO_HOLE != 0,
                fast: header.flags & flag::FAST_ZERO != 0,
            })
        }
        command::BLOCK_STATUS => {
            flags(header, flag::REQ_ONE)?;
            if params.contexts.is_empty() {
                let text = "no metadata context was selected for this export";
                return Err(Refusal::new(ErrorClass::Invalid, text));
            }
            not_empty(range)?;
            past_end(ErrorClass::Invalid)?;
            Ok(Accepted::BlockStatus { range, one: header.flags & flag::REQ_ONE != 0 })
        }
        _unknown => Err(Refusal::new(ErrorClass::Invalid, "the command is unknown here")),
    }
}

/// FUA is accepted on every command, because it is always advertised.
fn flags(header: &RequestHeader, allowed: u16) -> Result<(), Refusal> {
    if header.flags & !(allowed | flag::FUA) == 0 {
        Ok(())
    } else {
        Err(Refusal::new(ErrorClass::Invalid, "the command has a flag that is not allowed for it here"))
    }
}

fn not_empty(range: ByteRange) -> Result<(), Refusal> {
    if range.len > 0 { Ok(()) } else { Err(Refusal::new(ErrorClass::Invalid, "the length is zero")) }
}

fn writable(params: &Negotiated) -> Result<(), Refusal> {
    if params.features.read_only {
        Err(Refusal::new(ErrorClass::NotPermitted, "the export is read-only"))
    } else {
        Ok(())
    }
}

fn within(range: ByteRange, size: u64, class: ErrorClass) -> Result<(), Refusal> {
    match range.offset.checked_add(range.len) {
        Some(end) if end <= size => Ok(()),
        _ => {
            let offset = (size > range.offset).then_some(size);
            Err(Refusal { class, text: "the range reaches past the end of the export", offset })
        }
    }
}
