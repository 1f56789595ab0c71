//! Which parts of data that was read are all zero, for sparse replies.

use std::ops::Range;

/// Holes are told in whole blocks of this many bytes, aligned on the export.
pub(super) const BLOCK_BYTES: usize = 4096;

/// A part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Data(Range<usize>),
    Zeroes(Range<usize>),
}

/// Cuts `data`, which lies at `offset` on the export, into runs; only whole aligned blocks count as zeroes.
/// Non-zero data costs one look at the beginning of each block.
pub(super) fn runs(offset: u64, data: &[u8]) -> Runs<'_> {
    Runs { offset, data, at: 0 }
}

pub(super) struct Runs<'a> {
    offset: u64,
    data: &'a [u8],
    at: usize,
}

impl Runs<'_> {
    /// The piece of at most one block at `at`, and whether it is a whole block of zeroes.
    fn piece(&self, at: usize) -> (usize, bool) {
        let block = BLOCK_BYTES as u64;
        let to_boundary = block - (self.offset + at as u64) % block;
        let to_boundary = usize::try_from(to_boundary).expect("at most a block");
        let end = self.data.len().min(at + to_boundary);
        let piece = &self.data[at..end];
        (end, piece.len() == BLOCK_BYTES && is_zero(piece))
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.at == self.data.len() {
            return None;
        }
        let start = self.at;
        let (mut end, zeroes) = self.piece(start);
        while end < self.data.len() {
            let (next, same) = self.piece(end);
            if same != zeroes {
                break;
            }
            end = next;
        }
        self.at = end;
        Some(if zeroes { Run::Zeroes(start..end) } else { Run::Data(start..end) })
    }
}

/// Whether all bytes are zero; stops at the first 64 that are not.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_aligned_blocks_are_holes() {
        let mut data = vec![0; 3 * BLOCK_BYTES];
        assert_eq!(runs(0, &data).collect::<Vec<_>>(), [Run::Zeroes(0..12288)]);
        assert_eq!(
            runs(512, &data).collect::<Vec<_>>(),
            [Run::Data(0..3584), Run::Zeroes(3584..11776), Run::Data(11776..12288)]
        );
        data[5000] = 1;
        assert_eq!(
            runs(8192, &data).collect::<Vec<_>>(),
            [Run::Zeroes(0..4096), Run::Data(4096..8192), Run::Zeroes(8192..12288)]
        );
        assert_eq!(runs(0, &data[..100]).collect::<Vec<_>>(), [Run::Data(0..100)]);
        assert_eq!(runs(0, &[]).count(), 0);
    }

    #[test]
    fn any_single_byte_makes_a_block_data() {
        for at in 0..BLOCK_BYTES {
            let mut data = [0; BLOCK_BYTES];
            data[at] = 0x80;
            assert!(!is_zero(&data), "byte {at}");
        }
        assert!(is_zero(&[0; 77]) && !is_zero(&[0, 1]));
    }
}
