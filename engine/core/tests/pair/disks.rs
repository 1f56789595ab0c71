//! What is on the disks; and disks that are not what their node thinks: copied, replaced, or damaged.

use evenkeel_core::{
    ids::{GenerationId, NodeId},
    meta::{geometry::Geometry, report::inspect, superblock::Superblock},
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
    /// What the metadata of a node say on stable media.
    pub(crate) fn superblock(&self, node: usize) -> Superblock {
        let meta = self.meta(node);
        let report = inspect(meta.len() as u64, &mut |offset, bytes: &mut [u8]| {
            let start = usize::try_from(offset).expect("small");
            bytes.copy_from_slice(&meta[start..start + bytes.len()]);
            Ok(())
        });
        report.superblock().expect("one is whole").clone()
    }

    /// Changes the metadata of a node that is down; its data stay as they are in the cache.
    pub(crate) fn damage(&mut self, node: usize, change: impl FnOnce(&mut [u8])) {
        let mut meta = self.meta(node).to_vec();
        change(&mut meta);
        let data = self.data(node).to_vec();
        self.put_back(node, &(data, meta));
    }
}
