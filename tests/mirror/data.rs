//! Data in a volume that can be recognised afterwards: each block names its write.

use anyhow::Result;
use evenkeel_tests::{
    cluster::{Cluster, Node},
    judge::{WriteId, tag},
    raw::Handshake,
};

/// What blocks say of the volume that they belong to.
pub(crate) const VOLUME: u32 = 1;

/// Writes blocks that name this number, and flushes.
pub(crate) fn write(node: &Node, volume: &str, number: u32, first: u64) -> Result<()> {
    let mut connection = Handshake::open(&node.nbd())?.structured()?.go(volume)?;
    let id = WriteId { client: 1, number };
    connection.write(first * 512, &tag::content(VOLUME, id, first, 64))?;
    connection.flush()?;
    connection.disconnect()
}

/// Alpha is primary of r0 with data in it, and in sync with beta.
pub(crate) fn established(cluster: &Cluster) -> Result<(&Node, &Node)> {
    let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
    alpha.wait_synced("r0")?;
    alpha.primary("r0")?;
    write(alpha, "r0", 1, 0)?;
    Ok((alpha, beta))
}
