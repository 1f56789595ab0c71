//! Random ids without randomness of one's own: a stream derived from the seed that the driver gave.
//!
//! The ids name generations; they must differ between runs and nodes, nobody has to be unable to guess them.

/// A deterministic stream of ids.
#[derive(Clone, Debug)]
pub(crate) struct Entropy {
    state: u128,
}

impl Entropy {
    pub(crate) fn new(seed: u128) -> Self {
        Self { state: seed }
    }

    /// The next id; never zero, so that zero can mean "none" on disk.
    pub(crate) fn next_id(&mut self) -> u128 {
        loop {
            // A counter with an odd stride visits every state once; mixing both halves spreads each seed bit.
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let [low, high] = halves(self.state).map(mix);
            let high = mix(high ^ low);
            let id = (u128::from(high) << 64) | u128::from(mix(low ^ high.rotate_left(32)));
            if id != 0 {
                return id;
            }
        }
    }
}

/// The low and the high half.
fn halves(value: u128) -> [u64; 2] {
    let half = |part: u128| u64::try_from(part & u128::from(u64::MAX)).expect("64 bits");
    [half(value), half(value >> 64)]
}

/// The finaliser of splitmix64: a bijection in which every input bit reaches every output bit.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_differ_within_a_run_and_between_neighbouring_seeds() {
        let mut seen = BTreeSet::new();
        for seed in [0, 1, 2, u128::MAX, 1 << 64] {
            let mut entropy = Entropy::new(seed);
            for _ in 0..1000 {
                assert!(seen.insert(entropy.next_id()), "repeated under seed {seed}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let (mut one, mut two) = (Entropy::new(7), Entropy::new(7));
        assert_eq!(one.next_id(), two.next_id());
        assert_eq!(one.next_id(), two.next_id());
    }
}
