//! Puts overlapping operations in one order (design W2), cheaply when nothing overlaps.
//!
//! Every operation enters with [`RangeLock::enter`], in the order in which it was admitted, and has to wait for
//! the operations before it that it overlaps and conflicts with. [`RangeLock::leave`] names those that need
//! wait no longer. Since an operation waits only for earlier ones, there is no deadlock and no overtaking.
//!
//! ```text
//!   enter ──> waiting (blockers > 0) ──last blocker left──> held ──leave──> gone
//!         └─> held (no blockers) ────────────────────────────────┘
//! ```
//!
//! Spans are filed by cells of 64 KiB in a hashed table of linked lists, all in two slabs that stop growing once
//! they are as large as the number of operations in flight; then no call allocates. Spans above 1 MiB are few
//! and are kept in a list that everybody looks at.
//!
//! Invariants:
//! - an entry's `blockers` is the number of entries with a lower ticket that overlap and conflict with it;
//! - an operation is held if and only if its `blockers` is zero.

use std::collections::VecDeque;

use super::{slab::Key, span::ByteSpan};

/// Spans are filed in cells of this size.
const CELL_BYTES: u64 = 64 << 10;
/// A span longer than this is filed as wide.
const WIDE_BYTES: u64 = 1 << 20;
/// Number of lists in the table; a power of two.
const BUCKETS: usize = 1024;
/// End of a list.
const NONE: u32 = u32::MAX;

/// What an operation does to the bytes of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Waits for earlier changes; later changes wait for it, so that it shows nothing that only this disk has (W3).
    Read,
    /// Waits for earlier changes; later operations wait for it.
    Change,
    /// Waits for earlier changes; later changes wait for it, reads do not.
    Fence,
    /// A resync's read: waits only for changes that are issued and not yet on the disk. Those that are not issued
    /// get later sequences than the read names, and those that only lack their answer are on the disk.
    Copy,
    /// A change that is on the disk and not answered yet: only reads of clients wait for it (W3). Nobody enters
    /// so; see [`RangeLock::settle`].
    Unanswered,
}

/// Names an operation while it is in the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockId(u32);

impl LockId {
    /// Of an operation that has not entered yet.
    pub(crate) const NONE: Self = Self(NONE);
}

#[derive(Clone, Debug)]
struct Entry {
    span: ByteSpan,
    access: Access,
    ticket: u64,
    /// The last ticket given before this change was issued; not yet: the maximum.
    issued_at: u64,
    blockers: u32,
    /// Of the user of the lock; returned when the operation becomes held.
    owner: Key,
    /// First node in `nodes`, or `NONE` when wide.
    first_node: u32,
    used: bool,
}

impl Entry {
    fn earlier(&self) -> Earlier {
        Earlier { ticket: self.ticket, access: self.access, issued_at: self.issued_at }
    }

    fn later(&self) -> Later {
        Later { ticket: self.ticket, access: self.access }
    }
}

/// An entry as one that others may wait for.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    ticket: u64,
    access: Access,
    issued_at: u64,
}

/// An entry as one that may wait.
#[derive(Clone, Copy, Debug)]
struct Later {
    ticket: u64,
    access: Access,
}

impl Later {
    fn waits_for(self, earlier: &Earlier) -> bool {
        let since = match self.access {
            Access::Copy => earlier.issued_at,
            Access::Read | Access::Change | Access::Fence | Access::Unanswered => earlier.ticket,
        };
        self.ticket > since && must_wait(earlier.access, self.access)
    }
}

/// The presence of an entry in one cell.
#[derive(Clone, Debug)]
struct Node {
    cell: u64,
    entry: u32,
    next_in_bucket: u32,
    next_of_entry: u32,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct RangeLock {
    entries: Vec<Entry>,
    free_entries: Vec<u32>,
    nodes: Vec<Node>,
    free_node: u32,
    buckets: Box<[u32; BUCKETS]>,
    wide: Vec<u32>,
    next_ticket: u64,
    live: usize,
    /// Scratch of [`RangeLock::leave`], kept for its memory.
    later: Vec<u32>,
}

fn bucket_of(cell: u64) -> usize {
    // Fibonacci hashing: neighbouring cells land far apart.
    usize::try_from(cell.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54).expect("ten bits") & (BUCKETS - 1)
}

fn cells(span: ByteSpan) -> std::ops::RangeInclusive<u64> {
    span.offset / CELL_BYTES..=(span.end() - 1) / CELL_BYTES
}

impl RangeLock {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free_entries: Vec::new(),
            nodes: Vec::new(),
            free_node: NONE,
            buckets: Box::new([NONE; BUCKETS]),
            wide: Vec::new(),
            next_ticket: 0,
            live: 0,
            later: Vec::new(),
        }
    }

    /// Files an operation behind all that entered before. Returns its name and whether it is held at once.
    pub(crate) fn enter(&mut self, span: ByteSpan, access: Access, owner: Key) -> (LockId, bool) {
        assert!(span.len > 0, "an empty span cannot conflict with anything");
        let mut blockers = 0;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let later = Later { ticket, access };
        self.for_overlapping(span, |entry| blockers += u32::from(later.waits_for(&entry.earlier())));
        let issued_at = u64::MAX;
        let entry = Entry { span, access, ticket, issued_at, blockers, owner, first_node: NONE, used: true };
        let id = match self.free_entries.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                let id = u32::try_from(self.entries.len()).expect("operations in flight are limited");
                self.entries.push(entry);
                id
            }
        };
        self.file(id, span);
        self.live += 1;
        (LockId(id), blockers == 0)
    }

    /// Whether an operation waits for nobody any more.
    pub(crate) fn is_held(&self, id: LockId) -> bool {
        let entry = &self.entries[id.0 as usize];
        assert!(entry.used, "only what is in the lock is held");
        entry.blockers == 0
    }

    /// Removes an operation, held or waiting, and appends to `held` the owners of those that were waiting for
    /// it alone.
    pub(crate) fn leave(&mut self, id: LockId, held: &mut VecDeque<Key>) {
        let entry = &mut self.entries[id.0 as usize];
        assert!(entry.used, "an operation leaves the lock once");
        entry.used = false;
        let (span, earlier) = (entry.span, entry.earlier());
        self.unfile(id.0);
        self.free_entries.push(id.0);
        self.live -= 1;
        self.unblock(span, |other| other.later().waits_for(&earlier), held);
    }

    /// A change gets its place in the order: reads of a resync that enter from now on wait for it.
    pub(crate) fn issued(&mut self, id: LockId) {
        let entry = &mut self.entries[id.0 as usize];
        assert!(entry.used, "only what is in the lock is issued");
        // A fence that becomes a write (a repair) writes what is there already: nobody has to wait for it.
        if entry.access == Access::Change {
            entry.issued_at = self.next_ticket - 1;
        }
    }

    /// A change is where it has to be, but its answer is withheld: from here on only reads of clients wait for
    /// it. Appends the owners of those that need wait no longer.
    pub(crate) fn settle(&mut self, id: LockId, held: &mut VecDeque<Key>) {
        let entry = &mut self.entries[id.0 as usize];
        assert!(entry.used && entry.blockers == 0, "only what is held settles");
        if entry.access != Access::Change {
            return;
        }
        let (span, before) = (entry.span, entry.earlier());
        entry.access = Access::Unanswered;
        let after = entry.earlier();
        let freed = |other: &Entry| {
            let later = other.later();
            later.waits_for(&before) && !later.waits_for(&after)
        };
        self.unblock(span, freed, held);
    }

    /// Takes one blocker from each overlapping entry that `freed` names.
    fn unblock(&mut self, span: ByteSpan, freed: impl Fn(&Entry) -> bool, held: &mut VecDeque<Key>) {
        // Two passes: the first may only look, the second changes what it found.
        let mut later = std::mem::take(&mut self.later);
        self.for_overlapping_ids(span, |other, entry| {
            if freed(entry) {
                later.push(other);
            }
        });
        for id in later.drain(..) {
            let entry = &mut self.entries[id as usize];
            assert!(entry.blockers > 0, "a later conflicting operation counted this one as a blocker");
            entry.blockers -= 1;
            if entry.blockers == 0 {
                held.push_back(entry.owner);
            }
        }
        self.later = later;
    }

    fn for_overlapping(&self, span: ByteSpan, mut visit: impl FnMut(&Entry)) {
        self.for_overlapping_ids(span, |_, entry| visit(entry));
    }

    /// Visits each entry that overlaps `span` exactly once.
    fn for_overlapping_ids(&self, span: ByteSpan, mut visit: impl FnMut(u32, &Entry)) {
        for &id in &self.wide {
            let entry = &self.entries[id as usize];
            if entry.span.overlaps(span) {
                visit(id, entry);
            }
        }
        if span.len > WIDE_BYTES {
            for (id, entry) in self.entries.iter().enumerate() {
                if entry.used && entry.span.len <= WIDE_BYTES && entry.span.overlaps(span) {
                    visit(u32::try_from(id).expect("ids are u32"), entry);
                }
            }
            return;
        }
        for cell in cells(span) {
            let mut at = self.buckets[bucket_of(cell)];
            while at != NONE {
                let node = &self.nodes[at as usize];
                let entry = &self.entries[node.entry as usize];
                // Both may share several cells; the first common one counts.
                let first_common = (entry.span.offset / CELL_BYTES).max(span.offset / CELL_BYTES);
                if node.cell == cell && first_common == cell && entry.span.overlaps(span) {
                    visit(node.entry, entry);
                }
                at = node.next_in_bucket;
            }
        }
    }

    fn file(&mut self, id: u32, span: ByteSpan) {
        if span.len > WIDE_BYTES {
            self.wide.push(id);
            return;
        }
        for cell in cells(span) {
            let bucket = bucket_of(cell);
            let node = Node {
                cell,
                entry: id,
                next_in_bucket: self.buckets[bucket],
                next_of_entry: self.entries[id as usize].first_node,
            };
            let at = if self.free_node == NONE {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("cells in flight are limited")
            } else {
                let at = self.free_node;
                self.free_node = self.nodes[at as usize].next_in_bucket;
                self.nodes[at as usize] = node;
                at
            };
            self.buckets[bucket] = at;
            self.entries[id as usize].first_node = at;
        }
    }

    fn unfile(&mut self, id: u32) {
        let mut at = self.entries[id as usize].first_node;
        if at == NONE {
            let place = self.wide.iter().position(|&other| other == id).expect("a wide entry is listed");
            self.wide.swap_remove(place);
            return;
        }
        while at != NONE {
            let (cell, next_in_bucket, next_of_entry) = {
                let node = &self.nodes[at as usize];
                (node.cell, node.next_in_bucket, node.next_of_entry)
            };
            let bucket = bucket_of(cell);
            if self.buckets[bucket] == at {
                self.buckets[bucket] = next_in_bucket;
            } else {
                let mut before = self.buckets[bucket];
                while self.nodes[before as usize].next_in_bucket != at {
                    before = self.nodes[before as usize].next_in_bucket;
                }
                self.nodes[before as usize].next_in_bucket = next_in_bucket;
            }
            self.nodes[at as usize].next_in_bucket = self.free_node;
            self.free_node = at;
            at = next_of_entry;
        }
        self.entries[id as usize].first_node = NONE;
    }
}

/// Whether a later operation has to wait for an earlier one. (What has settled does not wait for anything.)
fn must_wait(earlier: Access, later: Access) -> bool {
    match (earlier, later) {
        (_, Access::Unanswered) => false,
        (Access::Change, Access::Change | Access::Read | Access::Fence | Access::Copy)
        | (Access::Fence | Access::Read, Access::Change)
        | (Access::Unanswered, Access::Read) => true,
        (Access::Fence, Access::Read | Access::Fence | Access::Copy)
        | (Access::Unanswered, Access::Change | Access::Fence | Access::Copy)
        | (Access::Read, Access::Read | Access::Fence | Access::Copy)
        | (Access::Copy, Access::Change | Access::Read | Access::Fence | Access::Copy) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u64) -> Key {
        Key::from_u64(number)
    }

    fn span(offset: u64, len: u64) -> ByteSpan {
        ByteSpan { offset, len }
    }

    #[test]
    fn the_second_of_two_overlapping_changes_waits() {
        let mut lock = RangeLock::new();
        let (first, held) = lock.enter(span(0, 8192), Access::Change, key(1));
        assert!(held);
        let (second, held) = lock.enter(span(4096, 4096), Access::Change, key(2));
        assert!(!held);
        let (_, held) = lock.enter(span(8192, 4096), Access::Change, key(3));
        assert!(held, "neighbours do not overlap");
        let mut woken = VecDeque::new();
        lock.leave(first, &mut woken);
        assert_eq!(woken, [key(2)]);
        woken.clear();
        lock.leave(second, &mut woken);
        assert!(woken.is_empty());
    }

    #[test]
    fn w3_a_read_waits_for_changes_and_later_changes_for_it() {
        let mut lock = RangeLock::new();
        let (read, held) = lock.enter(span(0, 512), Access::Read, key(1));
        assert!(held);
        let (change, held) = lock.enter(span(0, 512), Access::Change, key(2));
        assert!(!held, "else the read could show what only this disk has");
        let (_, held) = lock.enter(span(0, 512), Access::Read, key(3));
        assert!(!held);
        let mut woken = VecDeque::new();
        lock.leave(read, &mut woken);
        assert_eq!(woken, [key(2)]);
        woken.clear();
        lock.leave(change, &mut woken);
        assert_eq!(woken, [key(3)]);
    }

    /// The definition, written down a second time as a table.
    fn waits(earlier: Access, later: Access) -> bool {
        let table = [
            [false, true, false, false, false], // earlier Read: later Read, Change, Fence, Copy, Unanswered
            [true, true, true, true, false],    // earlier Change
            [false, true, false, false, false], // earlier Fence
            [false, false, false, false, false], // earlier Copy
            [true, false, false, false, false], // earlier Unanswered
        ];
        let place = |access| match access {
            Access::Read => 0,
            Access::Change => 1,
            Access::Fence => 2,
            Access::Copy => 3,
            Access::Unanswered => 4,
        };
        table[place(earlier)][place(later)]
    }

    /// One operation of the model: everything that the lock is told.
    #[derive(Clone, Debug)]
    struct Told {
        span: ByteSpan,
        access: Access,
    }

    fn told() -> impl Strategy<Value = Told> {
        let len = prop_oneof![1_u64..20, Just(64 << 10), Just(3 << 20)];
        let access =
            prop_oneof![Just(Access::Read), Just(Access::Change), Just(Access::Fence), Just(Access::Copy)];
        (0_u64..300, len, access)
            .prop_map(|(at, len, access)| Told { span: span(at * 4096, len * 512), access })
    }

    /// One operation of the model in the lock.
    struct Present {
        owner: u64,
        told: Told,
        id: LockId,
        held: bool,
        /// How many had entered when it was issued.
        issued: Option<u64>,
    }

    impl Present {
        fn blocks(&self, owner: u64, told: &Told) -> bool {
            let waits = match told.access {
                Access::Copy => {
                    self.told.access == Access::Change && self.issued.is_some_and(|entered| entered <= owner)
                }
                Access::Read | Access::Change | Access::Fence | Access::Unanswered => {
                    waits(self.told.access, told.access)
                }
            };
            waits && self.told.span.overlaps(told.span)
        }
    }

    proptest! {
        /// Against the definition: an operation is held when no earlier conflicting one is left.
        #[test]
        fn holds_exactly_what_the_definition_says(
            operations in prop::collection::vec((told(), any::<prop::sample::Index>(), 0..4_u8), 1..120)
        ) {
            let mut lock = RangeLock::new();
            let mut model: Vec<Present> = Vec::new();
            for (owner, (told, pick, step)) in (0_u64..).zip(operations) {
                let mut woken = VecDeque::new();
                if let Some(at) = (!model.is_empty()).then(|| pick.index(model.len())) {
                    let present = &mut model[at];
                    let issued_change = present.told.access == Access::Change && present.issued.is_some();
                    match step {
                        1 => lock.leave(model.remove(at).id, &mut woken),
                        2 if present.held && issued_change => {
                            present.told.access = Access::Unanswered;
                            lock.settle(present.id, &mut woken);
                        }
                        3 if present.held && present.told.access == Access::Change && !issued_change => {
                            present.issued = Some(owner);
                            lock.issued(present.id);
                        }
                        _ => {}
                    }
                }
                let mut expected = Vec::new();
                for at in 0..model.len() {
                    let (before, rest) = model.split_at_mut(at);
                    let present = &mut rest[0];
                    let blocked = before.iter().any(|other| other.blocks(present.owner, &present.told));
                    if !blocked && !present.held {
                        present.held = true;
                        expected.push(present.owner);
                    }
                }
                let mut woken: Vec<u64> = woken.into_iter().map(Key::as_u64).collect();
                woken.sort_unstable();
                prop_assert_eq!(woken, expected);
                let blocked = model.iter().any(|other| other.blocks(owner, &told));
                let (id, held) = lock.enter(told.span, told.access, key(owner));
                prop_assert_eq!(held, !blocked);
                model.push(Present { owner, told, id, held, issued: None });
            }
            for present in model {
                lock.leave(present.id, &mut VecDeque::new());
            }
            prop_assert_eq!(lock.live, 0);
            prop_assert!(lock.buckets.iter().all(|&bucket| bucket == NONE));
        }
    }
}
