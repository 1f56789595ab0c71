//! A small abstract cluster: block versions, who acknowledged them, and the metadata of design section 5.
//!
//! Why: `decide` is right only with respect to what the nodes did before they meet. This model lets a cluster do
//! everything that it can do, one atomic step at a time, and knows independently of generations which write is
//! where, who vouched for it, and which losses the contract (design section 2) allows.
//!
//! The metadata side uses the real `History` and `Standing`; the data side knows nothing of them.

#![allow(
    clippy::cast_possible_truncation,
    reason = "every number here is below 256, but for parts of a digest"
)]

mod canonical;
mod effects;
pub(crate) mod oracle;
pub(crate) mod search;
pub(crate) mod steps;

use evenkeel_core::generation::history::{History, Window};
use evenkeel_core::generation::record::{Dirty, PeerRecord, Standing};
use evenkeel_core::generation::view::{Bond, Copy, NodeView, Power, Replies, Role, Unsettled, Wish};
use evenkeel_core::ids::{AttachCounter, Generation, GenerationId, NodeId, Term};

/// Most nodes, blocks, generations and writes that a world has room for.
pub(crate) const NODES: usize = 3;
pub(crate) const BLOCKS: usize = 3;
pub(crate) const GENERATIONS: usize = 8;
pub(crate) const WRITES: usize = 6;

/// What a search varies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) blocks: usize,
    /// Generations and writes that may matter at the same time; how many are made in all is not limited.
    pub(crate) generations: u8,
    pub(crate) writes: u8,
    pub(crate) replies: Replies,
    /// Whether disks may be blanked, invalidated, set back to a snapshot.
    pub(crate) blanking: bool,
    pub(crate) snapshots: bool,
    /// Steps from the start; none for full closure.
    pub(crate) depth: Option<usize>,
}

/// A write, by what the contract says about it. `below` are the writes to the same block that its primary had
/// under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Write {
    pub(crate) used: bool,
    pub(crate) block: u8,
    pub(crate) below: u8,
    pub(crate) acked: bool,
    /// Covered by a flush that was replied to.
    pub(crate) durable: bool,
    /// The operator or the loss of a disk gave it up.
    pub(crate) forfeited: bool,
    /// Its primary.
    pub(crate) writer: u8,
    /// Nodes that vouch for it: they had it when it was replied to, or were brought in sync since.
    pub(crate) crew: u8,
    /// Nodes that lost power since.
    pub(crate) unlucky: u8,
}

/// A link between two nodes. The source of a resync is the first or the second of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Link {
    Down,
    Synced,
    /// Blocks are being copied.
    Copying {
        from: u8,
    },
    /// R6, first step: the target is counted for every new write.
    Counted {
        from: u8,
    },
    /// R6, second step: the target has the source's head.
    Taken {
        from: u8,
    },
}

/// A write of which not every node that must have it has it yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pending {
    pub(crate) write: u8,
    pub(crate) primary: u8,
    pub(crate) applied: u8,
}

/// What a node is about a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct About {
    /// 0 never, 1 in sync, 2 behind (then `base` and `offered` count).
    pub(crate) standing: u8,
    pub(crate) base: u8,
    pub(crate) offered: u8,
    pub(crate) bits: u8,
    pub(crate) seen: u8,
    /// For the oracle: set out to go on without this peer since the two were last in sync.
    pub(crate) solo: bool,
}

const NEVER: About = About { standing: 0, base: 0, offered: 0, bits: 0, seen: 0, solo: false };

/// One node. Generations and writes go by number from 1; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    pub(crate) copy: Copy,
    /// Newest first.
    pub(crate) chain: [u8; GENERATIONS],
    pub(crate) toward: u8,
    pub(crate) serving: bool,
    /// A peer was lost that may have our head: no reply before a new generation (G1).
    pub(crate) must_begin: bool,
    pub(crate) crashed: bool,
    pub(crate) power: Power,
    /// As source, and not primary, it made all stable and noted that: a power loss costs it nothing.
    pub(crate) noted: bool,
    pub(crate) term: (u8, u8),
    pub(crate) attach: u8,
    pub(crate) log: u8,
    pub(crate) about: [About; NODES],
    pub(crate) cache: [u8; BLOCKS],
    pub(crate) stable: [u8; BLOCKS],
    /// For the oracle: a resync into it has begun and not ended, or it was never written as a whole.
    pub(crate) torn: bool,
}

/// The whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) nodes: [Node; NODES],
    /// 0-1, 0-2, 1-2.
    pub(crate) links: [Link; NODES],
    pub(crate) pending: Option<Pending>,
    /// Maker (from 1) and term number of each.
    pub(crate) generations: [(u8, u8); GENERATIONS],
    pub(crate) writes: [Write; WRITES],
    pub(crate) snapshot: Option<(u8, Node)>,
    pub(crate) snapshot_used: bool,
}

pub(crate) fn bit(index: usize) -> u8 {
    1 << index
}

/// The place of the link between two nodes.
pub(crate) fn link_place(a: usize, b: usize) -> usize {
    assert_ne!(a, b, "a link to oneself");
    a + b - 1
}

impl Node {
    pub(crate) const FRESH: Self = Self {
        copy: Copy::Fresh,
        chain: [0; GENERATIONS],
        toward: 0,
        serving: false,
        must_begin: false,
        crashed: false,
        power: Power::SameRun,
        noted: false,
        term: (0, 0),
        attach: 0,
        log: 0,
        about: [NEVER; NODES],
        cache: [0; BLOCKS],
        stable: [0; BLOCKS],
        torn: false,
    };

    pub(crate) fn head(&self) -> u8 {
        self.chain[0]
    }
}

impl World {
    /// Nodes with fresh disks, except those named in `adopted`: each of these has a generation of its own and a
    /// durable write of its own in block 0.
    pub(crate) fn start(adopted: &[usize]) -> Self {
        let mut world = Self {
            nodes: [Node::FRESH; NODES],
            links: [Link::Down; NODES],
            pending: None,
            generations: [(0, 0); GENERATIONS],
            writes: [Write::default(); WRITES],
            snapshot: None,
            snapshot_used: false,
        };
        for &n in adopted {
            let generation = world.mint(n, 2);
            let write = world.new_write(n, 0);
            world.writes[usize::from(write) - 1] =
                Write { acked: true, durable: true, crew: bit(n), ..world.writes[usize::from(write) - 1] };
            let node = &mut world.nodes[n];
            node.copy = Copy::Good;
            node.term = (2, n as u8);
            node.chain[0] = generation;
            node.cache[0] = write;
            node.stable[0] = write;
        }
        world
    }

    pub(crate) fn link(&self, a: usize, b: usize) -> Link {
        self.links[link_place(a, b)]
    }

    pub(crate) fn set_link(&mut self, a: usize, b: usize, link: Link) {
        self.links[link_place(a, b)] = link;
    }

    /// A number for a new generation.
    pub(crate) fn mint(&mut self, maker: usize, term: u8) -> u8 {
        let place = self.generations.iter().position(|(maker, _)| *maker == 0).expect("room for generations");
        self.generations[place] = (maker as u8 + 1, term);
        place as u8 + 1
    }

    /// A number for a new write by `primary`.
    pub(crate) fn new_write(&mut self, primary: usize, block: usize) -> u8 {
        let under = self.nodes[primary].cache[block];
        let below = if under == 0 {
            0
        } else {
            self.writes[usize::from(under) - 1].below | bit(usize::from(under) - 1)
        };
        let place = self.writes.iter().position(|write| !write.used).expect("room for writes");
        self.writes[place] =
            Write { used: true, writer: primary as u8, block: block as u8, below, ..Write::default() };
        place as u8 + 1
    }

    /// Whether a block that holds `version` shows `write`, or something that was written over it.
    pub(crate) fn shows(&self, version: u8, write: usize) -> bool {
        version != 0
            && (usize::from(version) - 1 == write
                || self.writes[usize::from(version) - 1].below & bit(write) != 0)
    }

    /// Whether the copy of `node` shows `write`.
    pub(crate) fn has(&self, node: usize, write: usize) -> bool {
        self.shows(self.nodes[node].cache[usize::from(self.writes[write].block)], write)
    }

    pub(crate) fn generation(&self, number: u8) -> Generation {
        let (maker, term) = self.generations[usize::from(number) - 1];
        let term = Term { number: u64::from(term), node: NodeId(u64::from(maker)) };
        Generation { id: GenerationId(u128::from(number)), term }
    }

    pub(crate) fn history(&self, n: usize) -> History {
        let node = &self.nodes[n];
        let mut chain = node.chain.iter().take_while(|g| **g != 0).map(|g| self.generation(*g));
        let toward = (node.toward != 0).then_some(GenerationId(u128::from(node.toward)));
        History::from_parts(chain.next(), chain.collect(), toward).expect("the model keeps chains whole")
    }

    pub(crate) fn set_history(&mut self, n: usize, history: &History) {
        let node = &mut self.nodes[n];
        node.chain = [0; GENERATIONS];
        for (place, generation) in node.chain.iter_mut().zip(history.generations()) {
            *place = generation.id.0 as u8;
        }
        node.toward = history.toward().map_or(0, |id| id.0 as u8);
    }

    pub(crate) fn standing(&self, n: usize, peer: usize) -> Standing {
        let about = &self.nodes[n].about[peer];
        match about.standing {
            0 => Standing::Never,
            1 => Standing::InSync,
            _ => Standing::Behind(Window {
                base: GenerationId(u128::from(about.base)),
                offered: GenerationId(u128::from(about.offered)),
            }),
        }
    }

    pub(crate) fn set_standing(&mut self, n: usize, peer: usize, standing: Standing) {
        let about = &mut self.nodes[n].about[peer];
        (about.standing, about.base, about.offered) = match standing {
            Standing::Never => (0, 0, 0),
            Standing::InSync => (1, 0, 0),
            Standing::Behind(window) => (2, window.base.0 as u8, window.offered.0 as u8),
        };
    }

    pub(crate) fn windows(&self, n: usize) -> Vec<Window> {
        (0..NODES).filter(|peer| *peer != n).filter_map(|peer| self.standing(n, peer).window()).collect()
    }

    /// What `n` tells `peer` in the handshake.
    pub(crate) fn view(&self, n: usize, peer: usize, replies: Replies) -> NodeView {
        let node = &self.nodes[n];
        let about = &node.about[peer];
        let (number, holder) = node.term;
        NodeView {
            node: NodeId(n as u64 + 1),
            size_bytes: 4096 * BLOCKS as u64,
            block_bytes: 4096,
            copy: node.copy,
            history: self.history(n),
            role: match (node.serving, node.crashed) {
                (true, _) => Role::ServingPrimary,
                (false, true) => Role::CrashedPrimary,
                (false, false) => Role::Secondary,
            },
            power: node.power,
            replies,
            unsettled: if node.log == 0 { Unsettled::Nothing } else { Unsettled::Listed },
            attach: AttachCounter(u64::from(node.attach)),
            highest_term: (number != 0)
                .then_some(Term { number: u64::from(number), node: NodeId(u64::from(holder) + 1) }),
            wish: Wish::Nothing,
            record: PeerRecord {
                standing: self.standing(n, peer),
                dirty: match about.bits.count_ones() {
                    0 => Dirty::Clean,
                    blocks => Dirty::Blocks(u64::from(blocks)),
                },
                seen: AttachCounter(u64::from(about.seen)),
            },
            bond: Bond::Free,
        }
    }

    /// How many generations matter.
    pub(crate) fn live_generations(&self) -> usize {
        self.generations.iter().filter(|(maker, _)| *maker != 0).count()
    }

    /// How many writes matter.
    pub(crate) fn live_writes(&self) -> usize {
        self.writes.iter().filter(|write| write.used).count()
    }
}
