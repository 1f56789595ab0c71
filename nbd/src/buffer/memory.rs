//! The memory behind a pool: blocks of a few sizes, cut out of slabs.
//!
//! An allocator needs up to twice the memory for small blocks that must be aligned to their own size. So small
//! blocks are cut out of slabs of [`SLAB_BYTES`]. Memory is what counts against the limit: a slab counts whole
//! as long as one of its blocks is out, or it is kept for reuse.
//!
//! Invariant: `held_bytes` is the sum of all slabs and single blocks, handed out or kept.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

use super::ALIGNMENT;

/// Small blocks are cut out of pieces of this size.
const SLAB_BYTES: usize = 256 << 10;

/// A pool with less memory than this cuts no slabs: one of them would be too large a part of it.
const SLABS_FROM_BYTES: usize = 16 << 20;

/// At most this much memory that nobody uses is kept for each class.
const KEPT_BYTES_PER_CLASS: usize = 8 << 20;

/// Aligned memory from the allocator, freed on drop.
#[derive(Debug)]
struct Allocation {
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an allocation owns its memory exclusively, like a `Box<[u8]>`.
unsafe impl Send for Allocation {}

impl Allocation {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, ALIGNMENT).expect("at most a payload")
    }

    fn new(bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(ALIGNMENT));
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is not zero (asserted above).
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        Self { pointer, bytes }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and freed only here.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.bytes)) }
    }
}

/// Where a block comes from, and goes back to.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// A slab of a class.
    Slab { class: usize, slab: usize },
    /// The allocator, as a block of no class.
    Single,
}

/// A block that is handed out. It must go back with [`Memory::give_back`]; else its memory is never freed.
#[derive(Debug)]
pub(super) struct Block {
    pointer: NonNull<u8>,
    capacity: usize,
    home: Home,
}

// SAFETY: a block is the only one that names its part of an allocation, like a `Box<[u8]>`.
unsafe impl Send for Block {}
// SAFETY: shared access to a block only reads its memory.
unsafe impl Sync for Block {}

impl Block {
    /// The first byte; aligned.
    pub(super) fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Number of bytes.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

#[derive(Debug)]
struct Slab {
    memory: Allocation,
    /// Numbers of its blocks that are not handed out.
    free: Vec<u32>,
}

/// All blocks of one size.
#[derive(Debug)]
struct Class {
    block_bytes: usize,
    /// Slabs, or with `blocks_per_slab` 1 single blocks; a place without a slab may be used again.
    slabs: Vec<Option<Slab>>,
    /// Slabs with a free block; the last one is used first. Each is listed once.
    with_room: Vec<usize>,
    blocks_per_slab: u32,
    /// Slabs of which nothing is handed out.
    unused: usize,
}

impl Class {
    fn slab_bytes(&self) -> usize {
        self.block_bytes * self.blocks_per_slab as usize
    }

    /// Frees one slab of which nothing is handed out; returns its bytes.
    fn free_unused(&mut self) -> Option<usize> {
        if self.unused == 0 {
            return None;
        }
        let full = self.blocks_per_slab as usize;
        let at = self
            .with_room
            .iter()
            .position(|&slab| self.slabs[slab].as_ref().is_some_and(|slab| slab.free.len() == full))?;
        let slab = self.with_room.swap_remove(at);
        self.slabs[slab] = None;
        self.unused -= 1;
        Some(self.slab_bytes())
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Memory {
    classes: Vec<Class>,
    held_bytes: usize,
}

impl Memory {
    /// Memory with blocks of these sizes, for a pool of this budget.
    pub(super) fn new(class_bytes: &[usize], budget_bytes: usize) -> Self {
        let class = |&block_bytes: &usize| Class {
            block_bytes,
            slabs: Vec::new(),
            with_room: Vec::new(),
            blocks_per_slab: if budget_bytes < SLABS_FROM_BYTES {
                1
            } else {
                u32::try_from((SLAB_BYTES / block_bytes).max(1)).expect("few")
            },
            unused: 0,
        };
        Self { classes: class_bytes.iter().map(class).collect(), held_bytes: 0 }
    }

    /// A block of the class, or one of `capacity` bytes that is of none; `None` if more than `limit` bytes would
    /// be held.
    pub(super) fn take(&mut self, class: Option<usize>, capacity: usize, limit: usize) -> Option<Block> {
        let Some(index) = class else {
            self.make_room(capacity, limit)?;
            self.held_bytes += capacity;
            let memory = std::mem::ManuallyDrop::new(Allocation::new(capacity));
            return Some(Block { pointer: memory.pointer, capacity, home: Home::Single });
        };
        if self.classes[index].with_room.is_empty() {
            let bytes = self.classes[index].slab_bytes();
            self.make_room(bytes, limit)?;
            self.held_bytes += bytes;
            let class = &mut self.classes[index];
            let slab = Slab { memory: Allocation::new(bytes), free: (0..class.blocks_per_slab).collect() };
            let place = class.slabs.iter().position(Option::is_none).unwrap_or_else(|| {
                class.slabs.push(None);
                class.slabs.len() - 1
            });
            class.slabs[place] = Some(slab);
            class.with_room.push(place);
            class.unused += 1;
        } else if self.held_bytes > limit && !self.shrink_to(limit) {
            return None;
        }
        let class = &mut self.classes[index];
        let place = *class.with_room.last()?;
        let slab = class.slabs[place].as_mut().expect("a listed slab is there");
        if slab.free.len() == class.blocks_per_slab as usize {
            class.unused -= 1;
        }
        let block = slab.free.pop().expect("a listed slab has room");
        if slab.free.is_empty() {
            class.with_room.pop();
        }
        let offset = block as usize * class.block_bytes;
        // SAFETY: block numbers are below `blocks_per_slab`, so the offset lies within the slab's memory.
        let pointer = unsafe { slab.memory.pointer.add(offset) };
        Some(Block { pointer, capacity: class.block_bytes, home: Home::Slab { class: index, slab: place } })
    }

    /// Takes a block back.
    pub(super) fn give_back(&mut self, block: Block) {
        match block.home {
            Home::Single => {
                self.held_bytes -= block.capacity;
                drop(Allocation { pointer: block.pointer, bytes: block.capacity });
            }
            Home::Slab { class, slab: place } => {
                let class = &mut self.classes[class];
                let slab = class.slabs[place].as_mut().expect("a slab stays while a block of it is out");
                let offset = block.pointer.as_ptr() as usize - slab.memory.pointer.as_ptr() as usize;
                slab.free.push(u32::try_from(offset / class.block_bytes).expect("block numbers are small"));
                if slab.free.len() == 1 {
                    class.with_room.push(place);
                }
                if slab.free.len() == class.blocks_per_slab as usize {
                    class.unused += 1;
                    if class.unused * class.slab_bytes() > KEPT_BYTES_PER_CLASS {
                        self.held_bytes -= class.free_unused().expect("one is unused");
                    }
                }
            }
        }
    }

    /// Frees what is only kept until at most `limit` bytes are held; false if that is not enough.
    pub(super) fn shrink_to(&mut self, limit: usize) -> bool {
        while self.held_bytes > limit {
            match self.classes.iter_mut().rev().find_map(Class::free_unused) {
                Some(bytes) => self.held_bytes -= bytes,
                None => return false,
            }
        }
        true
    }

    fn make_room(&mut self, bytes: usize, limit: usize) -> Option<()> {
        let before = limit.checked_sub(bytes)?;
        self.shrink_to(before).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [usize; 2] = [4 << 10, 64 << 10];

    #[test]
    fn blocks_do_not_overlap_and_memory_is_what_is_counted() {
        let mut memory = Memory::new(&CLASSES, 64 << 20);
        let mut blocks: Vec<Block> =
            (0..100).map(|_| memory.take(Some(0), 4096, 1 << 20).expect("room")).collect();
        assert_eq!(memory.held_bytes, 2 * SLAB_BYTES, "64 blocks to a slab");
        blocks.sort_by_key(|block| block.pointer.as_ptr() as usize);
        for pair in blocks.windows(2) {
            assert!(pair[0].pointer.as_ptr() as usize + 4096 <= pair[1].pointer.as_ptr() as usize);
        }
        for block in blocks {
            memory.give_back(block);
        }
        assert_eq!(memory.held_bytes, 2 * SLAB_BYTES, "kept for reuse");
        assert!(memory.shrink_to(0));
        assert_eq!(memory.held_bytes, 0);
    }

    #[test]
    fn the_limit_holds_however_the_blocks_are_spread() {
        let mut memory = Memory::new(&CLASSES, 64 << 20);
        let limit = 4 * SLAB_BYTES;
        let mut kept = Vec::new();
        for _ in 0..4 {
            let mut slab: Vec<Block> =
                (0..64).map(|_| memory.take(Some(0), 4096, limit).expect("room")).collect();
            kept.push(slab.pop().expect("one stays out of each slab"));
            kept.append(&mut slab);
        }
        assert!(memory.take(Some(0), 4096, limit).is_none());
        let mut out = Vec::new();
        for (at, block) in kept.into_iter().enumerate() {
            if at % 64 == 0 { out.push(block) } else { memory.give_back(block) }
        }
        assert_eq!(memory.held_bytes, limit, "one block holds its slab");
        assert!(memory.take(Some(1), 64 << 10, limit).is_none());
        assert!(memory.take(None, 8 << 20, limit).is_none());
        assert!(memory.take(Some(0), 4096, limit).is_some(), "but its own size has room");
        for block in out {
            memory.give_back(block);
        }
        assert!(memory.take(Some(1), 64 << 10, limit).is_some(), "what is unused gives way");
    }
}
