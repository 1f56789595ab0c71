//! Disks that are not what their node thinks: copied, or replaced.

use evenkeel_core::{
    ids::{GenerationId, NodeId},
    meta::geometry::Geometry,
    volume::{CreateSpec, Origin, create},
};

use super::{META, Pair, SIZE, put};

impl Pair {
    /// The second node's disk is a copy of the first one's.
    pub(crate) fn twins() -> Self {
        let mut pair = Self::of([Origin::Adopted(GenerationId(0xa1)); 2]);
        pair.nodes[1].volume = None;
        pair.nodes[1].meta = pair.nodes[0].meta.clone();
        pair.events.clear();
        pair.restart(1);
        pair
    }

    /// The disk of a node that is down is replaced by one of this origin, with another node id.
    pub(crate) fn replace_disk(&mut self, node: usize, id: u64, origin: Origin) {
        assert!(self.nodes[node].volume.is_none(), "the node is down");
        let geometry = Geometry::new(SIZE as u64, 4096, 64 << 10, 16).expect("valid");
        let spec = CreateSpec { node: NodeId(id), geometry, peers: 1, origin };
        self.nodes[node].meta = vec![0; META];
        for (offset, bytes) in create(&spec).expect("valid").into_iter().flatten() {
            put(&mut self.nodes[node].meta, offset, &bytes);
        }
    }
}
