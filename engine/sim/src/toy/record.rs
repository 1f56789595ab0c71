//! What the toy keeps on disk, and what two nodes that meet conclude from it.

use bytes::Bytes;
use evenkeel_core::{
    generation::view::{Power, Replies},
    ids::{Generation, GenerationId, NodeId, Sequence, Term},
    volume::{
        Role,
        wire::{Frame, Retained},
    },
};

use super::Bug;

/// Two copies of a record, alternately written.
pub(super) const META_BYTES: u64 = 2 * COPY as u64;
const COPY: usize = 1024;
const MAGIC: u64 = 0x746F_7921_746F_7921;
/// So many heads are remembered; the toy's runs are short.
const HISTORY: usize = 48;

/// The toy's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) node: u64,
    pub(super) sequence: u64,
    pub(super) term: u64,
    /// A copy into this disk has begun and not ended.
    pub(super) inconsistent: bool,
    /// This node is, or was when it died, primary.
    pub(super) active: bool,
    /// The machine lost power, and nothing has made this copy sure since.
    pub(super) lost_power: bool,
    pub(super) boot: u128,
    /// Heads, newest last; zero heads are the common beginning.
    pub(super) heads: Vec<u64>,
}

impl Record {
    pub(super) fn new(node: u64) -> Self {
        Self {
            node,
            sequence: 0,
            term: 0,
            inconsistent: false,
            active: false,
            lost_power: false,
            boot: 0,
            heads: vec![1],
        }
    }

    pub(super) fn next(mut self) -> Self {
        self.sequence += 1;
        self
    }

    pub(super) fn with_head(mut self, id: u128, term: u64) -> Self {
        self.heads.push(u64::try_from(id).expect("the toy's heads are small"));
        if self.heads.len() > HISTORY {
            self.heads.remove(0);
        }
        self.term = self.term.max(term);
        self.next()
    }

    pub(super) fn head_id(&self) -> GenerationId {
        GenerationId(u128::from(*self.heads.last().expect("never empty")))
    }

    pub(super) fn head(&self) -> Generation {
        Generation { id: self.head_id(), term: Term { number: self.term, node: NodeId(self.node) } }
    }

    /// The piece to write: fields in the first sector, heads in the second.
    pub(super) fn encode(&self) -> (u64, Bytes) {
        let mut bytes = vec![0; COPY];
        let flags =
            u64::from(self.inconsistent) | u64::from(self.active) << 1 | u64::from(self.lost_power) << 2;
        let [low, high] = [self.boot & u128::from(u64::MAX), self.boot >> 64]
            .map(|half| u64::try_from(half).expect("64 bits"));
        let words = [MAGIC, self.node, self.sequence, self.term, flags, low, high, self.heads.len() as u64];
        for (place, word) in words.iter().enumerate() {
            bytes[place * 8..place * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        for (place, head) in self.heads.iter().enumerate() {
            bytes[512 + place * 8..520 + place * 8].copy_from_slice(&head.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes[COPY - 8..COPY - 4].copy_from_slice(&sum.to_le_bytes());
        let offset = self.sequence % 2 * COPY as u64;
        (offset, Bytes::from(bytes))
    }

    /// The newest good copy.
    pub(super) fn decode(meta: &[u8]) -> Option<Self> {
        meta.chunks_exact(COPY).filter_map(Self::decode_copy).max_by_key(|record| record.sequence)
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        let word = |place: usize| {
            u64::from_le_bytes(copy[place * 8..place * 8 + 8].try_into().expect("eight bytes"))
        };
        let mut bytes = copy.to_vec();
        bytes[COPY - 8..].fill(0);
        let sum = u32::from_le_bytes(copy[COPY - 8..COPY - 4].try_into().expect("four bytes"));
        if word(0) != MAGIC || crc32fast::hash(&bytes) != sum {
            return None;
        }
        let flags = word(4);
        let count = usize::try_from(word(7)).expect("small").min(HISTORY);
        Some(Self {
            node: word(1),
            sequence: word(2),
            term: word(3),
            inconsistent: flags & 1 != 0,
            active: flags & 2 != 0,
            lost_power: flags & 4 != 0,
            boot: u128::from(word(5)) | u128::from(word(6)) << 64,
            heads: (0..count).map(|place| word(64 + place)).collect(),
        })
    }
}

/// What a node tells its peer of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    node: u64,
    inconsistent: bool,
    active: bool,
    lost_power: bool,
    pub(super) primary: bool,
    discards_own: bool,
    pub(super) term: u64,
    pub(super) heads: Vec<u64>,
}

impl Report {
    pub(super) fn new(record: &Record, role: Role, discards_own: bool) -> Self {
        Self {
            node: record.node,
            inconsistent: record.inconsistent,
            active: record.active,
            lost_power: record.lost_power,
            primary: role == Role::Primary,
            discards_own,
            term: record.term,
            heads: record.heads.clone(),
        }
    }

    /// As a frame: the toy borrows `Counted` for it.
    pub(super) fn frame(&self) -> Frame {
        let flags = u64::from(self.inconsistent)
            | u64::from(self.active) << 1
            | u64::from(self.lost_power) << 2
            | u64::from(self.primary) << 3
            | u64::from(self.discards_own) << 4;
        let term = Term { number: self.term, node: NodeId(self.node) };
        let of = |id: &u64| Generation { id: GenerationId(u128::from(*id)), term };
        let (head, ancestors) = self.heads.split_last().expect("never empty");
        Frame::Counted {
            after: Sequence(flags),
            head: of(head),
            ancestors: ancestors.iter().map(of).collect(),
            kept: Retained { power: Power::SameRun, replies: Replies::Together },
        }
    }

    pub(super) fn of_frame(flags: Sequence, head: Generation, ancestors: &[Generation]) -> Self {
        let id = |generation: &Generation| u64::try_from(generation.id.0).expect("the toy's heads are small");
        let mut heads: Vec<u64> = ancestors.iter().map(id).collect();
        heads.push(id(&head));
        Self {
            node: head.term.node.0,
            inconsistent: flags.0 & 1 != 0,
            active: flags.0 & 2 != 0,
            lost_power: flags.0 & 4 != 0,
            primary: flags.0 & 8 != 0,
            discards_own: flags.0 & 16 != 0,
            term: head.term.number,
            heads,
        }
    }

    fn head(&self) -> u64 {
        *self.heads.last().expect("never empty")
    }
}

/// What a node does about its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    InSync,
    Source,
    Target,
    Split,
}

/// The same question on both sides, answered as in a mirror.
pub(super) fn decide(mine: &Report, theirs: &Report, bug: Option<Bug>) -> Verdict {
    let source = |i_am: bool| if i_am { Verdict::Source } else { Verdict::Target };
    if mine.head() == theirs.head() {
        let clean = |report: &Report| !report.inconsistent && !report.active && !report.lost_power;
        if clean(mine) && clean(theirs) || bug == Some(Bug::EqualGenerationsTrusted) {
            Verdict::InSync
        } else if mine.inconsistent != theirs.inconsistent {
            source(theirs.inconsistent)
        } else if mine.lost_power != theirs.lost_power && bug != Some(Bug::PowerLossForgotten) {
            source(theirs.lost_power)
        } else if mine.active != theirs.active {
            source(mine.active)
        } else {
            source(mine.node > theirs.node)
        }
    } else if theirs.heads.contains(&mine.head()) {
        Verdict::Target
    } else if mine.heads.contains(&theirs.head()) {
        Verdict::Source
    } else if mine.discards_own != theirs.discards_own {
        source(theirs.discards_own)
    } else if bug == Some(Bug::SplitBrainNotFound) {
        source(mine.term > theirs.term || mine.term == theirs.term && mine.node > theirs.node)
    } else {
        Verdict::Split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_torn_ones_are_not() {
        let record = Record::new(7).with_head(99, 3);
        let (offset, bytes) = record.encode();
        let mut meta = vec![0; usize::try_from(META_BYTES).expect("small")];
        let start = usize::try_from(offset).expect("small");
        meta[start..start + COPY].copy_from_slice(&bytes);
        assert_eq!(Record::decode(&meta), Some(record));
        meta[start + 512] ^= 1;
        assert_eq!(Record::decode(&meta), None);
    }

    #[test]
    fn the_two_sides_conclude_alike() {
        let mut reports = Vec::new();
        for node in [1, 2] {
            for flags in 0..16 {
                for heads in [vec![1], vec![1, 2], vec![1, 3], vec![1, 2, 4]] {
                    let head = Generation {
                        id: GenerationId(u128::from(*heads.last().expect("not empty"))),
                        term: Term { number: node, node: NodeId(node) },
                    };
                    let of = |id: &u64| Generation { id: GenerationId(u128::from(*id)), ..head };
                    let ancestors: Vec<_> = heads[..heads.len() - 1].iter().map(of).collect();
                    reports.push(Report::of_frame(Sequence(flags), head, &ancestors));
                }
            }
        }
        for mine in &reports {
            for theirs in reports.iter().filter(|theirs| theirs.node != mine.node) {
                let mirrored = match decide(theirs, mine, None) {
                    Verdict::Source => Verdict::Target,
                    Verdict::Target => Verdict::Source,
                    same @ (Verdict::InSync | Verdict::Split) => same,
                };
                assert_eq!(decide(mine, theirs, None), mirrored, "{mine:?} {theirs:?}");
            }
        }
    }
}
