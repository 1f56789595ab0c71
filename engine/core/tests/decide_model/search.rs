//! Visits every world that can be reached, and prints the shortest way to one in which something is wrong.

use super::oracle::{Tally, check};
use super::steps::{Step, all_steps};
use super::{Setup, World};
use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// What a search has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    pub(crate) tally: Tally,
    /// Whether every state that can be reached was visited.
    pub(crate) closed: bool,
}

/// A fixed hash of 128 bits: a state whose digest is known was visited.
fn digest(setup: &Setup, world: &World) -> u128 {
    let mut hasher = Mixer::default();
    world.nodes[..setup.nodes].hash(&mut hasher);
    (world.links, world.pending, world.generations, world.snapshot, world.snapshot_used).hash(&mut hasher);
    world.writes.iter().filter(|write| write.used).for_each(|write| write.hash(&mut hasher));
    hasher.flush();
    u128::from(hasher.first) << 64 | u128::from(hasher.second)
}

/// Two independent lanes over the bytes of a world, eight at a time. Lengths and tags of enums are small numbers.
#[derive(Default)]
struct Mixer {
    first: u64,
    second: u64,
    word: u64,
    filled: u32,
}

impl Mixer {
    fn flush(&mut self) {
        let mix = |state: u64, key: u64| {
            let wide = u128::from(state ^ self.word ^ key) * u128::from(key);
            (wide >> 64) as u64 ^ wide as u64
        };
        self.first = mix(self.first.rotate_left(23), 0x9E37_79B9_7F4A_7C15);
        self.second = mix(self.second.rotate_left(31), 0xD6E8_FEB8_6659_FD93);
        (self.word, self.filled) = (0, 0);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.first
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.filled += 1;
        if self.filled == 8 {
            self.flush();
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }
}

/// Digests are already mixed.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only digests are looked up")
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
}

/// Visits breadth first all worlds that can be reached from `starts`, and panics with the shortest trace to the
/// first one that is wrong.
pub(crate) fn search(setup: &Setup, starts: &[World]) -> Seen {
    let steps = all_steps(setup);
    let mut known: HashMap<u128, u32, BuildHasherDefault<Ready>> = HashMap::default();
    let mut origin: Vec<(u32, u16)> = Vec::new();
    let mut layer: Vec<(u32, World)> = Vec::new();
    let mut seen = Seen { states: 0, steps: 0, tally: BTreeMap::new(), closed: true };
    let mut roots = Vec::new();
    for world in starts {
        let world = world.canonical(setup);
        if let Entry::Vacant(place) = known.entry(digest(setup, &world)) {
            let number = origin.len() as u32;
            place.insert(number);
            origin.push((number, u16::MAX));
            roots.push(world);
            layer.push((number, world));
        }
    }
    let mut depth = 0;
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (number, world) in &layer {
            if let Err(what) = check(setup, world, &mut seen.tally) {
                panic!("{}", story(setup, &steps, &origin, &roots, *number, world, &what));
            }
            if setup.depth.is_some_and(|limit| depth >= limit) {
                seen.closed = false;
                continue;
            }
            for (place, step) in steps.iter().enumerate() {
                let Some(after) = world.after(setup, *step) else { continue };
                seen.steps += 1;
                let after = after.canonical(setup);
                if let Entry::Vacant(slot) = known.entry(digest(setup, &after)) {
                    let child = u32::try_from(origin.len()).expect("fewer than 2^32 states");
                    slot.insert(child);
                    origin.push((*number, u16::try_from(place).expect("few steps")));
                    next.push((child, after));
                }
            }
        }
        layer = next;
        depth += 1;
    }
    seen.states = origin.len();
    seen
}

/// The way from a start to the world that is wrong.
fn story(
    setup: &Setup,
    steps: &[Step],
    origin: &[(u32, u16)],
    roots: &[World],
    mut number: u32,
    world: &World,
    what: &str,
) -> String {
    let mut way = Vec::new();
    loop {
        let (parent, step) = origin[number as usize];
        if step == u16::MAX {
            way.push(format!("start {number} of {}", roots.len()));
            break;
        }
        way.push(format!("{:?}", steps[usize::from(step)]));
        number = parent;
    }
    way.reverse();
    let nodes: Vec<String> = world.nodes[..setup.nodes].iter().map(|node| format!("{node:?}")).collect();
    let writes: Vec<String> =
        world.writes.iter().filter(|w| w.used).map(|write| format!("{write:?}")).collect();
    format!("{what}\n{setup:?}\n  {}\n{}\n{}", way.join("\n  "), nodes.join("\n"), writes.join("\n"))
}
