//! Little-endian fields, one after the other.
//!
//! Invariant: every value has one form. What a field cannot be, and what must be zero but is not, is refused.

use bytes::{BufMut, BytesMut};

use super::{error::FrameError, kind::Kind};
use crate::{
    ids::{AttachCounter, Generation, GenerationId, NodeId, Sequence, Term, WIRE_COUNTER_END},
    volume::span::ByteSpan,
};

/// An enum with numbers of its own on the wire: never those of the compiler, never zero.
pub(super) trait Numbered: Copy {
    fn number(self) -> u8;
    fn from_number(number: u8) -> Option<Self>;
}

/// Gives both directions from one table, so that they cannot differ.
macro_rules! numbered {
    ($type:ty: $([$($value:tt)+] = $number:literal),+ $(,)?) => {
        impl $crate::volume::codec::fields::Numbered for $type {
            fn number(self) -> u8 {
                match self { $($($value)+ => $number),+ }
            }

            fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some($($value)+),)+ _ => None }
            }
        }
    };
}
pub(super) use numbered;

/// Appends fields. Asserts what a [`Reader`] would refuse.
pub(super) struct Writer<'a> {
    out: &'a mut BytesMut,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut) -> Self {
        Self { out }
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.out.put_u16_le(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.put_u32_le(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.out.put_u64_le(value);
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.out.put_u128_le(value);
    }

    pub(super) fn numbered(&mut self, value: impl Numbered) {
        self.out.put_u8(value.number());
    }

    pub(super) fn zeroes(&mut self, count: usize) {
        self.out.put_bytes(0, count);
    }

    pub(super) fn count_from_one(&mut self, value: u32) {
        assert_ne!(value, 0, "reports are numbered from 1");
        self.u32(value);
    }

    pub(super) fn node(&mut self, node: NodeId) {
        assert_ne!(node.0, 0, "a node id is never zero");
        self.u64(node.0);
    }

    pub(super) fn id(&mut self, id: u128) {
        assert_ne!(id, 0, "an id is never zero");
        self.u128(id);
    }

    pub(super) fn optional_id(&mut self, id: Option<u128>) {
        match id {
            Some(id) => self.id(id),
            None => self.u128(0),
        }
    }

    pub(super) fn term(&mut self, term: Term) {
        self.u64(term.number);
        self.node(term.node);
    }

    pub(super) fn optional_term(&mut self, term: Option<Term>) {
        match term {
            Some(term) => self.term(term),
            None => self.zeroes(16),
        }
    }

    pub(super) fn generation(&mut self, generation: Generation) {
        self.id(generation.id.0);
        self.term(generation.term);
    }

    pub(super) fn span(&mut self, span: ByteSpan) {
        assert!(
            span.len != 0 && span.offset.checked_add(span.len).is_some(),
            "{span:?} was checked at its entry"
        );
        self.u64(span.offset);
        self.u64(span.len);
    }
}

/// Takes fields out of what the header says is there; every read is checked.
pub(super) struct Reader<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: Kind, fields: &'a [u8]) -> Self {
        Self { kind, rest: fields }
    }

    /// The shape of the kind was checked before, so that the fields are there.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (value, rest) = self.rest.split_first_chunk().expect("the length was compared with the shape");
        self.rest = rest;
        *value
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    /// A number that counts something.
    pub(super) fn counter(&mut self, field: &'static str) -> Result<u64, FrameError> {
        let count = self.u64();
        self.checked_counter(field, count)
    }

    /// The same of a number that was read before.
    pub(super) fn checked_counter(&self, field: &'static str, count: u64) -> Result<u64, FrameError> {
        if count < WIRE_COUNTER_END { Ok(count) } else { Err(self.value_error(field, count)) }
    }

    pub(super) fn sequence(&mut self) -> Result<Sequence, FrameError> {
        self.counter("a sequence").map(Sequence)
    }

    pub(super) fn attach_counter(&mut self) -> Result<AttachCounter, FrameError> {
        self.counter("an attach counter").map(AttachCounter)
    }

    pub(super) fn value_error(&self, field: &'static str, found: u64) -> FrameError {
        FrameError::Value { kind: self.kind, field, found }
    }

    pub(super) fn unused_error(&self, place: &'static str) -> FrameError {
        FrameError::Unused { kind: self.kind, place }
    }

    pub(super) fn numbered<T: Numbered>(&mut self, field: &'static str) -> Result<T, FrameError> {
        let [number] = self.take();
        T::from_number(number).ok_or(self.value_error(field, number.into()))
    }

    pub(super) fn zeroes<const N: usize>(&mut self, place: &'static str) -> Result<(), FrameError> {
        if self.take::<N>() == [0; N] { Ok(()) } else { Err(self.unused_error(place)) }
    }

    pub(super) fn count_from_one(&mut self, field: &'static str) -> Result<u32, FrameError> {
        match self.u32() {
            0 => Err(self.value_error(field, 0)),
            count => Ok(count),
        }
    }

    pub(super) fn optional_node(&mut self) -> Option<NodeId> {
        match self.u64() {
            0 => None,
            id => Some(NodeId(id)),
        }
    }

    pub(super) fn node(&mut self, field: &'static str) -> Result<NodeId, FrameError> {
        self.optional_node().ok_or(FrameError::ZeroId { kind: self.kind, field })
    }

    pub(super) fn optional_id(&mut self) -> Option<u128> {
        match self.u128() {
            0 => None,
            id => Some(id),
        }
    }

    pub(super) fn id(&mut self, field: &'static str) -> Result<u128, FrameError> {
        self.optional_id().ok_or(FrameError::ZeroId { kind: self.kind, field })
    }

    /// A value that was read before, if it is not zero.
    pub(super) fn not_zero<T: Default + PartialEq>(
        &self,
        id: T,
        field: &'static str,
    ) -> Result<T, FrameError> {
        if id == T::default() { Err(FrameError::ZeroId { kind: self.kind, field }) } else { Ok(id) }
    }

    pub(super) fn term(&mut self) -> Result<Term, FrameError> {
        Ok(Term { number: self.counter("a term")?, node: self.node("the node of a term")? })
    }

    pub(super) fn optional_term(&mut self) -> Result<Option<Term>, FrameError> {
        match (self.counter("a term")?, self.optional_node()) {
            (0, None) => Ok(None),
            (number, Some(node)) => Ok(Some(Term { number, node })),
            (_, None) => Err(FrameError::ZeroId { kind: self.kind, field: "the node of a term" }),
        }
    }

    pub(super) fn generation(&mut self) -> Result<Generation, FrameError> {
        Ok(Generation { id: GenerationId(self.id("a generation")?), term: self.term()? })
    }

    pub(super) fn span(&mut self) -> Result<ByteSpan, FrameError> {
        let (offset, len) = (self.u64(), self.u64());
        checked_span(self.kind, offset, len)
    }

    /// Everything that is left, as a list.
    pub(super) fn list<T>(
        mut self,
        element_bytes: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let mut elements = Vec::with_capacity(self.rest.len() / element_bytes);
        while !self.rest.is_empty() {
            elements.push(element(&mut self)?);
        }
        Ok(elements)
    }
}

/// A range of bytes that has at least one and does not pass the last possible offset.
pub(super) fn checked_span(kind: Kind, offset: u64, len: u64) -> Result<ByteSpan, FrameError> {
    if len == 0 || offset.checked_add(len).is_none() {
        return Err(FrameError::Span { kind, offset, len });
    }
    Ok(ByteSpan { offset, len })
}
