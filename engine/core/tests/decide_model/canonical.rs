//! Worlds that differ only in what can never matter again are the same world.
//!
//! Why: only so the set of worlds that can be reached is finite, and can be visited whole. Each reduction says
//! why no later step and no check can tell the difference.

use super::{GENERATIONS, Node, Setup, WRITES, World, Write, bit};

impl World {
    /// The representative of all worlds that behave like this one.
    pub(crate) fn canonical(&self, setup: &Setup) -> Self {
        let mut world = *self;
        world.forget_generations();
        world.renumber_generations();
        world.rank_terms();
        if !setup.blanking && !setup.snapshots {
            world.forget_settled_blocks(setup);
        }
        world.renumber_writes();
        world
    }

    fn all_nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().chain(self.snapshot.iter_mut().map(|(_, node)| node))
    }

    /// Ancestors that are nobody's head, in no window and not the newest that two nodes share: `contains` is only
    /// ever asked for heads, ends of windows and `toward`, and the newest common generation stays what it is
    /// until one of the chains is replaced by the other.
    fn forget_generations(&mut self) {
        let mut needed = [false; GENERATIONS + 1];
        let nodes: Vec<Node> = self.all_nodes().map(|node| *node).collect();
        for (place, node) in nodes.iter().enumerate() {
            needed[usize::from(node.head())] = true;
            needed[usize::from(node.toward)] = true;
            for about in &node.about {
                needed[usize::from(about.base)] = true;
                needed[usize::from(about.offered)] = true;
            }
            for other in &nodes[place + 1..] {
                if let Some(common) = node.chain.iter().find(|g| **g != 0 && other.chain.contains(g)) {
                    needed[usize::from(*common)] = true;
                }
            }
        }
        for node in self.all_nodes() {
            let mut kept = [0; GENERATIONS];
            let chain = node.chain.iter().filter(|g| **g != 0 && needed[usize::from(**g)]);
            kept.iter_mut().zip(chain).for_each(|(place, generation)| *place = *generation);
            node.chain = kept;
        }
    }

    /// Generations are named in the order in which the nodes mention them. The number of a term in which one was
    /// made is not looked at by anybody.
    fn renumber_generations(&mut self) {
        let mut new_number = [0_u8; GENERATIONS + 1];
        let mut next = 0;
        let old = std::mem::take(&mut self.generations);
        let mut generations = [(0, 0); GENERATIONS];
        let mut rename = |number: &mut u8| {
            if *number == 0 {
                return;
            }
            let place = &mut new_number[usize::from(*number)];
            if *place == 0 {
                next += 1;
                *place = next;
                generations[usize::from(next) - 1] = (old[usize::from(*number) - 1].0, 0);
            }
            *number = *place;
        };
        for node in self.all_nodes() {
            node.chain.iter_mut().for_each(&mut rename);
            rename(&mut node.toward);
            for about in &mut node.about {
                rename(&mut about.base);
                rename(&mut about.offered);
            }
        }
        self.generations = generations;
    }

    /// Terms are only ever compared, and a new one is above all that its node has seen.
    fn rank_terms(&mut self) {
        let mut numbers: Vec<u8> = self.all_nodes().map(|node| node.term.0).chain([0]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for node in self.all_nodes() {
            node.term.0 = numbers.iter().position(|n| *n == node.term.0).expect("it is one of them") as u8;
        }
    }

    /// A block that is the same and stable everywhere cannot differ or be lost any more (no disk is blanked or
    /// set back in such a search): what it holds counts as what it always held.
    fn forget_settled_blocks(&mut self, setup: &Setup) {
        for block in 0..setup.blocks {
            let version = self.nodes[0].cache[block];
            let nodes = &mut self.nodes[..setup.nodes];
            let settled =
                nodes.iter().all(|node| node.cache[block] == version && node.stable[block] == version);
            let under_way = self.pending.is_some_and(|pending| pending.write == version);
            if settled && !under_way {
                nodes.iter_mut().for_each(|node| (node.cache[block], node.stable[block]) = (0, 0));
                let below = if version == 0 { 0 } else { self.writes[usize::from(version) - 1].below };
                if let Some(pending) = self.pending {
                    let over = &mut self.writes[usize::from(pending.write) - 1];
                    if version != 0 {
                        over.below &= !(below | bit(usize::from(version) - 1));
                    }
                }
            }
        }
    }

    /// Writes are named in the order in which the copies mention them; those that no copy shows are forgotten. Of
    /// one that was given up only its place matters, of one that was flushed not who lost power.
    fn renumber_writes(&mut self) {
        let mut mentioned = 0_u8;
        let mut order = Vec::with_capacity(WRITES);
        let writes = self.writes;
        let mut mention = |version: u8| {
            if version == 0 {
                return;
            }
            let all = writes[usize::from(version) - 1].below | bit(usize::from(version) - 1);
            for write in (0..WRITES).filter(|write| all & bit(*write) != 0) {
                if mentioned & bit(write) == 0 {
                    mentioned |= bit(write);
                    order.push(write);
                }
            }
        };
        for node in self.nodes.iter().chain(self.snapshot.iter().map(|(_, node)| node)) {
            node.cache.iter().chain(&node.stable).for_each(|version| mention(*version));
        }
        if let Some(pending) = &self.pending {
            mention(pending.write);
        }
        let new_number = |version: u8| -> u8 {
            order
                .iter()
                .position(|write| write + 1 == usize::from(version))
                .map_or(0, |place| place as u8 + 1)
        };
        self.writes = [Write::default(); WRITES];
        for (place, write) in order.iter().enumerate() {
            let mut moved = writes[*write];
            moved.below = (0..WRITES)
                .filter(|below| moved.below & bit(*below) != 0)
                .map(|below| bit(usize::from(new_number(below as u8 + 1)) - 1))
                .fold(0, |all, one| all | one);
            if moved.forfeited {
                (moved.acked, moved.durable, moved.crew, moved.unlucky, moved.writer) =
                    (true, false, 0, 0, 0);
            }
            if moved.durable {
                moved.unlucky = 0;
            }
            self.writes[place] = moved;
        }
        for node in self.all_nodes() {
            node.cache.iter_mut().chain(&mut node.stable).for_each(|version| *version = new_number(*version));
        }
        if let Some(pending) = &mut self.pending {
            pending.write = new_number(pending.write);
        }
    }
}
