//! A slab whose keys are not used twice, so that a late or repeated answer cannot be taken for another.
//!
//! A key is the place in the slab (20 bits) and how often that place was used (44 bits; at a million uses a
//! second that takes half a year to come round, and no answer is that late). Once the slab is as large as the
//! number of things under way, no call allocates.

/// Bits of a key that name the place.
const PLACE_BITS: u32 = 20;

/// Names one entry for as long as the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// As a number, for tags that go out.
    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    /// From a number that came back.
    pub(crate) fn from_u64(number: u64) -> Self {
        Self(number)
    }

    fn new(used: u64, place: u32) -> Self {
        Self(used << PLACE_BITS | u64::from(place))
    }

    fn place(self) -> u32 {
        u32::try_from(self.0 & ((1 << PLACE_BITS) - 1)).expect("20 bits")
    }

    fn used(self) -> u64 {
        self.0 >> PLACE_BITS
    }
}

#[derive(Clone, Debug)]
struct Slot<T> {
    used: u64,
    content: Option<T>,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, content: T) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { used: 0, content: None });
            let place = u32::try_from(self.slots.len() - 1).expect("places are few");
            assert!(place < 1 << PLACE_BITS, "what is under way is limited far below this");
            place
        });
        let slot = &mut self.slots[place as usize];
        assert!(slot.content.is_none(), "a free place is empty");
        slot.content = Some(content);
        slot.used = (slot.used + 1) % (1 << (u64::BITS - PLACE_BITS));
        Key::new(slot.used, place)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.place() as usize)?;
        if slot.used != key.used() {
            return None;
        }
        slot.content.as_mut()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.place() as usize)?;
        if slot.used != key.used() {
            return None;
        }
        let content = slot.content.take()?;
        self.free.push(key.place());
        Some(content)
    }

    /// All entries with their keys, in the order of their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0_u32..).zip(&self.slots).filter_map(|(place, slot)| {
            let content = slot.content.as_ref()?;
            Some((Key::new(slot.used, place), content))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_dies_with_its_entry() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second, "the place is the same, the key is not");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.iter().map(|(key, _)| key).collect::<Vec<_>>(), [second]);
        assert_eq!(slab.get_mut(Key::from_u64(u64::MAX)), None);
        assert_eq!(Key::from_u64(second.as_u64()), second);
    }
}
