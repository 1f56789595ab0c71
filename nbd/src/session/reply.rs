//! What replies say: data and holes of reads, extents, and the texts of errors.

use bytes::Bytes;

use super::{
    check::Refusal,
    outbox::Outbox,
    zeroes::{Run, runs},
};
use crate::{
    device::{ByteRange, Extent},
    errno::ErrorClass,
    wire::transmission::{Cookie, chunk},
};

/// The answer to every request that comes after the end.
pub(super) const SHUTDOWN: Refusal = Refusal::new(ErrorClass::Shutdown, "the export is going away");

impl Outbox {
    /// The data of a READ. Structured replies tell whole blocks of zeroes as holes, unless the client wants one
    /// chunk (`whole`, the flag DF).
    pub(super) fn read(&mut self, structured: bool, cookie: Cookie, offset: u64, data: Bytes, whole: bool) {
        if !structured {
            self.simple_data(cookie, data);
            return;
        }
        if whole {
            self.data_chunk(chunk::FLAG_DONE, cookie, offset, data);
            return;
        }
        for run in runs(offset, &data) {
            let (Run::Data(range) | Run::Zeroes(range)) = &run;
            let at = offset + range.start as u64;
            let flags = if range.end == data.len() { chunk::FLAG_DONE } else { 0 };
            match &run {
                Run::Data(range) => self.data_chunk(flags, cookie, at, data.slice(range.clone())),
                Run::Zeroes(range) => {
                    let len = u32::try_from(range.len()).expect("at most a payload");
                    self.hole_chunk(flags, cookie, at, len);
                }
            }
        }
    }

    /// An error, the last of its reply, in the form that was agreed on.
    pub(super) fn error(&mut self, structured: bool, cookie: Cookie, refusal: Refusal) {
        if structured {
            self.error_chunk(refusal.class, cookie, refusal.text, refusal.offset);
        } else {
            self.simple(Some(refusal.class), cookie);
        }
    }
}

/// The text for an error that a device reported.
pub(super) fn failure(class: ErrorClass) -> Refusal {
    let text = match class {
        ErrorClass::NotPermitted => "the device refuses to be written",
        ErrorClass::Io => "the device failed; the server's log says why",
        ErrorClass::NoMemory => "the device has no memory for this request",
        ErrorClass::Invalid => "the device refuses this request",
        ErrorClass::NoSpace => "no space is left below the device",
        ErrorClass::Overflow => "the request is too large for the device",
        ErrorClass::NotSupported => "this would not be faster than writing zeroes",
        ErrorClass::Shutdown => SHUTDOWN.text,
    };
    Refusal::new(class, text)
}

/// Extents (length, flags) as the spec wants them: neighbours with equal flags merged, limited in number, and a
/// single one if `one` is set.
pub(super) fn wire_extents(extents: &[Extent], range: ByteRange, one: bool) -> Vec<(u32, u32)> {
    let max = if one { 1 } else { Extent::MAX_PER_REPLY };
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(extents.len().min(max));
    let mut left = range.len;
    for extent in extents {
        assert!(extent.len > 0 && extent.len <= left, "a device describes only what was asked for");
        left -= extent.len;
        let len = u32::try_from(extent.len).expect("the range came from a 32-bit length");
        if let Some(last) = merged.last_mut().filter(|last| last.1 == extent.flags) {
            last.0 += len;
        } else if merged.len() < max {
            merged.push((len, extent.flags));
        } else {
            break;
        }
    }
    assert!(!merged.is_empty(), "a device describes at least the first byte");
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_merged_and_limited() {
        let extents: Vec<_> =
            [(10, 0), (20, 0), (30, 3), (40, 0)].map(|(len, flags)| Extent { len, flags }).into();
        let range = ByteRange { offset: 5, len: 100 };
        assert_eq!(wire_extents(&extents, range, false), [(30, 0), (30, 3), (40, 0)]);
        assert_eq!(wire_extents(&extents, range, true), [(30, 0)]);
        let many: Vec<_> = (0..20_000).map(|at| Extent { len: 1, flags: at % 2 }).collect();
        let range = ByteRange { offset: 0, len: 20_000 };
        assert_eq!(wire_extents(&many, range, false).len(), Extent::MAX_PER_REPLY);
    }

    #[test]
    #[should_panic(expected = "only what was asked for")]
    fn extents_past_the_range_are_a_bug_of_the_device() {
        wire_extents(&[Extent { len: 11, flags: 0 }], ByteRange { offset: 0, len: 10 }, false);
    }
}
