//! Every random choice of a run: a pure function of the seed, the concern and how often that concern has asked.
//!
//! Each concern draws from a [`Stream`] of its own, so that taking one fault out of a run does not reshuffle the
//! disk's latencies or the client's requests: a shrunk run stays close to the run that failed. Nothing here
//! knows a clock or the system's randomness.

/// The concerns that draw. The number is part of the meaning of a seed: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// Which faults, how many of each, how large everything is.
    Swarm = 1,
    /// When which fault strikes whom.
    Plan = 2,
    /// Delays of frames and connections.
    Net = 3,
    /// Latencies of disks.
    Disk = 4,
    /// What the operator prefers.
    Operator = 5,
    /// Identities: nodes, boots, instances.
    Identity = 6,
    /// Where bytes on a link are cut, and which are damaged.
    Wire = 7,
}

/// Mixes a word so that every bit of the input moves every bit of the output (the finalizer of SplitMix64).
#[inline]
pub(crate) fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A sequence of draws for one concern: the n-th is `mix(seed, concern, n)`.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    /// The draws of `concern` under `seed`.
    pub(crate) fn new(seed: u64, concern: Concern) -> Self {
        Self { key: mix(mix(seed) ^ (concern as u64)), counter: 0 }
    }

    /// Draws that belong to one thing only (a fault, a request), named by `key`.
    pub(crate) fn of_key(key: u64) -> Self {
        Self { key: mix(key), counter: 0 }
    }

    /// The next 64 bits.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key ^ self.counter.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    /// A number below `bound`; `bound` is not zero.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits")
    }

    /// A number in `low..=high`.
    #[inline]
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index below `len`; `len` is not zero.
    #[inline]
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// True in `parts` of `whole` cases.
    #[inline]
    pub(crate) fn chance(&mut self, parts: u64, whole: u64) -> bool {
        self.below(whole) < parts
    }

    /// A number in `low..=high`, small ones far more often: each doubling is about as likely as the next.
    pub(crate) fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let span = high - low + 1;
        let bits = u64::from(64 - span.leading_zeros());
        let width = self.below(bits) + 1;
        let bound = if width >= 64 { span } else { span.min(1 << width) };
        low + self.below(bound)
    }

    /// 128 random bits, never zero.
    pub(crate) fn wide(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next() | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_is_not_moved_by_another() {
        let mut alone = Stream::new(7, Concern::Disk);
        let expected: Vec<u64> = (0..8).map(|_| alone.next()).collect();
        let mut net = Stream::new(7, Concern::Net);
        let mut disk = Stream::new(7, Concern::Disk);
        let interleaved: Vec<u64> = (0..8)
            .map(|_| {
                net.next();
                disk.next()
            })
            .collect();
        assert_eq!(expected, interleaved);
        assert_ne!(expected[0], net.next());
    }

    #[test]
    fn bounds_are_kept() {
        let mut stream = Stream::of_key(1);
        for _ in 0..10_000 {
            assert!(stream.below(3) < 3);
            assert!((5..=9).contains(&stream.between(5, 9)));
            assert!((2..=1000).contains(&stream.skewed(2, 1000)));
        }
        assert!((0..1000).filter(|_| stream.chance(1, 10)).count() < 200);
    }
}
