//! What the demonstration wrote and which writes were replied to, so that afterwards every one of them can be checked.
//!
//! Each block holds its number and the version that was written, all over. A write that was sent and not replied to
//! may be there or not; one that was replied to must be.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Ledger {
    blocks: Vec<Versions>,
    /// Writes of one block that were replied to.
    pub(super) replied: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    /// The last one that was sent.
    sent: u64,
    /// The last one that was replied to; 0 for the zeroes of a new disk.
    replied: u64,
}

impl Ledger {
    pub(super) fn new(bytes: u64) -> Result<Self> {
        let blocks = usize::try_from(bytes)? / BLOCK;
        Ok(Self { blocks: vec![Versions::default(); blocks], replied: 0 })
    }

    /// The next content of these blocks, which is about to be sent.
    pub(super) fn send(&mut self, blocks: Range<usize>) -> Vec<u8> {
        let mut content = Vec::with_capacity(blocks.len() * BLOCK);
        for block in blocks {
            let versions = &mut self.blocks[block];
            versions.sent += 1;
            content.extend_from_slice(&fill(block, versions.sent));
        }
        content
    }

    /// What was sent last to these blocks was replied to.
    pub(super) fn reply(&mut self, blocks: Range<usize>) {
        self.replied += blocks.len() as u64;
        for block in blocks {
            let versions = &mut self.blocks[block];
            versions.replied = versions.sent;
        }
    }

    /// Whether these blocks hold what they must. What is read then counts: it stays.
    pub(super) fn check(&mut self, first: usize, content: &[u8]) -> Result<()> {
        for (block, content) in (first..).zip(content.chunks_exact(BLOCK)) {
            let versions = &mut self.blocks[block];
            let found = (versions.replied..=versions.sent).find(|&version| content == fill(block, version));
            ensure!(found.is_some(), "block {block} lost a write that had been replied to");
            versions.replied = found.unwrap_or_default();
        }
        Ok(())
    }
}

/// A block's content in a version.
fn fill(block: usize, version: u64) -> [u8; BLOCK] {
    let mut content = [0; BLOCK];
    if version > 0 {
        let tag = [(block as u64).to_be_bytes(), version.to_be_bytes()].concat();
        for part in content.chunks_exact_mut(tag.len()) {
            part.copy_from_slice(&tag);
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_is_found() {
        let mut ledger = Ledger::new(4 * BLOCK as u64).expect("small");
        let first = ledger.send(1..3);
        ledger.reply(1..3);
        let second = ledger.send(1..2);
        ledger.check(0, &[0; BLOCK]).expect("never written");
        ledger.check(1, &first).expect("the second write was not replied to");
        ledger.check(1, &second).expect("it may be there all the same");
        ledger.check(1, &first[..BLOCK]).expect_err("once it was seen it must stay");
        ledger.check(2, &[0; BLOCK]).expect_err("a write that was replied to is missing");
        ledger.check(2, &first[..BLOCK]).expect_err("the content of another block");
        assert_eq!(ledger.replied, 2);
    }
}
