//! Replies on their way to the socket.
//!
//! Headers and other small pieces are collected in one buffer, data stays where it is as [`Bytes`]; a burst of
//! replies goes out in one vectored write. What a reply holds of the connection's limits is given back when its
//! last byte has been written.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

use super::allowance::Held;
use crate::{
    errno::ErrorClass,
    wire::transmission::{Cookie, chunk, chunk_header, simple_reply},
};

/// Memory of the buffer for small pieces that is kept when it is empty.
const KEPT_BYTES: usize = 64 << 10;

/// What a reply gives back to the limits once it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// Requests.
    pub(super) requests: usize,
    /// Bytes charged against the connection's limit.
    pub(super) bytes: usize,
    /// Memory for its data.
    pub(super) held: Held,
}

#[derive(Debug)]
enum Segment {
    /// The next bytes of `small`.
    Small(usize),
    Data(Bytes),
}

/// The queue of replies of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    small: Vec<u8>,
    /// Bytes of `small` that are written.
    small_written: usize,
    segments: VecDeque<Segment>,
    /// All bytes ever queued and written.
    queued: u64,
    written: u64,
    /// Where each queued reply ends, and what it then gives back.
    ends: VecDeque<(u64, Released)>,
}

impl Outbox {
    /// Bytes that wait to be written.
    pub(super) fn len(&self) -> u64 {
        self.queued - self.written
    }

    /// Bytes that have been written, all in all.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends small pieces that belong together.
    fn small(&mut self, parts: &[&[u8]]) {
        let before = self.small.len();
        for part in parts {
            self.small.extend_from_slice(part);
        }
        let len = self.small.len() - before;
        self.queued += len as u64;
        match self.segments.back_mut() {
            Some(Segment::Small(last)) => *last += len,
            Some(Segment::Data(_)) | None => self.segments.push_back(Segment::Small(len)),
        }
    }

    /// Appends data by reference.
    fn data(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.queued += data.len() as u64;
            self.segments.push_back(Segment::Data(data));
        }
    }

    /// Marks the end of a reply.
    pub(super) fn end_reply(&mut self, released: Released) {
        self.ends.push_back((self.queued, released));
    }

    pub(super) fn simple(&mut self, error: Option<ErrorClass>, cookie: Cookie) {
        self.small(&[&simple_reply(error.map_or(0, ErrorClass::to_wire), cookie)]);
    }

    pub(super) fn simple_data(&mut self, cookie: Cookie, data: Bytes) {
        self.small(&[&simple_reply(0, cookie)]);
        self.data(data);
    }

    /// An error chunk, the last of its reply.
    pub(super) fn error_chunk(&mut self, class: ErrorClass, cookie: Cookie, text: &str, offset: Option<u64>) {
        let text_len = u16::try_from(text.len()).expect("error texts are short");
        let at = offset.map(u64::to_be_bytes);
        let at = at.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let length = u32::from(text_len) + 6 + u32::try_from(at.len()).expect("eight or none");
        self.small(&[
            &chunk_header(chunk::FLAG_DONE, kind, cookie, length),
            &class.to_wire().to_be_bytes(),
            &text_len.to_be_bytes(),
            text.as_bytes(),
            at,
        ]);
    }

    pub(super) fn data_chunk(&mut self, flags: u16, cookie: Cookie, offset: u64, data: Bytes) {
        let length = u32::try_from(data.len()).expect("a read is at most a payload") + 8;
        self.small(&[&chunk_header(flags, chunk::OFFSET_DATA, cookie, length), &offset.to_be_bytes()]);
        self.data(data);
    }

    pub(super) fn hole_chunk(&mut self, flags: u16, cookie: Cookie, offset: u64, len: u32) {
        let header = chunk_header(flags, chunk::OFFSET_HOLE, cookie, 12);
        self.small(&[&header, &offset.to_be_bytes(), &len.to_be_bytes()]);
    }

    /// A chunk of extents (length, status) of one metadata context.
    pub(super) fn status_chunk(&mut self, flags: u16, cookie: Cookie, context: u32, extents: &[(u32, u32)]) {
        let length = u32::try_from(4 + 8 * extents.len()).expect("extents are limited");
        self.small(&[&chunk_header(flags, chunk::BLOCK_STATUS, cookie, length), &context.to_be_bytes()]);
        for (len, status) in extents {
            self.small(&[&len.to_be_bytes(), &status.to_be_bytes()]);
        }
    }

    /// The queue's beginning as slices; returns how many of `slices` are set.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut small = &self.small[self.small_written..];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = match segment {
                Segment::Small(len) => {
                    let (piece, rest) = small.split_at(*len);
                    small = rest;
                    IoSlice::new(piece)
                }
                Segment::Data(data) => IoSlice::new(data),
            };
            count += 1;
        }
        count
    }

    /// Removes the first `len` bytes, which have been written; returns what they give back.
    pub(super) fn written(&mut self, len: usize) -> Released {
        self.written += len as u64;
        assert!(self.written <= self.queued, "more was written than was queued");
        let mut left = len;
        while left > 0 {
            let segment =
                self.segments.front_mut().expect("the lengths of the segments sum up to what is queued");
            let (here, whole) = match segment {
                Segment::Small(len) => {
                    let here = left.min(*len);
                    self.small_written += here;
                    *len -= here;
                    (here, *len == 0)
                }
                Segment::Data(data) => {
                    let here = left.min(data.len());
                    bytes::Buf::advance(data, here);
                    (here, data.is_empty())
                }
            };
            left -= here;
            if whole {
                self.segments.pop_front();
            }
        }
        if self.small_written == self.small.len() {
            self.small.clear();
            self.small.shrink_to(KEPT_BYTES);
            self.small_written = 0;
        } else if self.small_written >= KEPT_BYTES {
            self.small.drain(..self.small_written);
            self.small_written = 0;
        }
        let mut released = Released::default();
        while self.ends.front().is_some_and(|(end, _)| *end <= self.written) {
            let (_, reply) = self.ends.pop_front().expect("looked at");
            released.requests += reply.requests;
            released.bytes += reply.bytes;
            released.held.share += reply.held.share;
            released.held.reserved += reply.held.reserved;
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the socket takes the bytes, they are the same, and each reply gives back once, at its end.
        #[test]
        fn any_sizes_of_writes_give_the_same_stream(
            replies in prop::collection::vec(prop::option::of(0_usize..200), 1..40),
            writes in prop::collection::vec((1_usize..300, 1_usize..5), 1..200),
        ) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            let mut ends = Vec::new();
            for (number, data) in replies.iter().enumerate() {
                let cookie = Cookie(number as u64);
                expected.extend(simple_reply(0, cookie));
                match data {
                    None => outbox.simple(None, cookie),
                    Some(len) => {
                        let data = vec![u8::try_from(number).expect("few"); *len];
                        expected.extend(&data);
                        outbox.simple_data(cookie, data.into());
                    }
                }
                ends.push(expected.len());
                outbox.end_reply(Released { requests: 1, bytes: number, held: Held::default() });
            }
            let mut taken = Vec::new();
            let mut released = 0;
            for (len, count) in writes.into_iter().chain(std::iter::repeat((1000, 4))) {
                if outbox.is_empty() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 4];
                let set = outbox.slices(&mut slices[..count.min(4)]);
                prop_assert!(set > 0);
                let bytes: Vec<u8> = slices[..set].iter().flat_map(|slice| slice.iter().copied()).take(len).collect();
                released += outbox.written(bytes.len()).requests;
                taken.extend(bytes);
                prop_assert_eq!(released, ends.iter().filter(|end| **end <= taken.len()).count());
            }
            prop_assert_eq!(taken, expected);
        }
    }
}
