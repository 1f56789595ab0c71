//! Requests in flight, by the [`RequestId`] that a device echoes.
//!
//! Invariant: an id is given out once. It is a place in a table, plus how often that place has been used, so
//! that completing a request twice is noticed at once.

use crate::device::RequestId;

const COMPLETED_TWICE: &str = "a device completes each request once";

/// A table of requests in flight.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    uses: u32,
    content: Option<T>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Requests in flight.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, content: T) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { uses: 0, content: None });
            u32::try_from(self.places.len() - 1).expect("requests in flight are limited")
        });
        let place = &mut self.places[index as usize];
        place.uses = place.uses.wrapping_add(1);
        assert!(place.content.replace(content).is_none(), "a free place is empty");
        RequestId(u64::from(place.uses) << 32 | u64::from(index))
    }

    /// Takes out what an id stands for.
    ///
    /// # Panics
    /// If the id is not in flight: a device completed something twice, or that was never submitted.
    pub(super) fn remove(&mut self, id: RequestId) -> T {
        let index = id.0 & u64::from(u32::MAX);
        let content = self.place(id).content.take().expect(COMPLETED_TWICE);
        self.free.push(u32::try_from(index).expect("masked"));
        content
    }

    /// What an id stands for.
    ///
    /// # Panics
    /// As [`Slots::remove`].
    pub(super) fn get_mut(&mut self, id: RequestId) -> &mut T {
        self.place(id).content.as_mut().expect(COMPLETED_TWICE)
    }

    fn place(&mut self, id: RequestId) -> &mut Place<T> {
        let index = usize::try_from(id.0 & u64::from(u32::MAX)).expect("masked");
        let place = self.places.get_mut(index).filter(|place| u64::from(place.uses) == id.0 >> 32);
        place.expect(COMPLETED_TWICE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reused_and_ids_are_not() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        let second = slots.insert('b');
        assert_eq!((slots.remove(first), slots.len()), ('a', 1));
        let third = slots.insert('c');
        assert_ne!(first, third);
        assert_eq!((slots.remove(third), slots.remove(second), slots.len()), ('c', 'b', 0));
    }

    #[test]
    #[should_panic(expected = "completes each request once")]
    fn completing_twice_is_a_bug() {
        let mut slots = Slots::new();
        let id = slots.insert(());
        slots.remove(id);
        slots.insert(());
        slots.remove(id);
    }
}
