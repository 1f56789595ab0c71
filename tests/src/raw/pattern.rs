//! Data that tells where it belongs, and repeatable choices, both from a seed: a failure can be run again.

/// A small generator of numbers (xorshift64*): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A generator; every seed is allowed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // The state must not be zero; the multiplication spreads seeds that lie close together.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    ///
    /// # Panics
    /// If `limit` is zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next_u64() >> 16) % limit
    }
}

/// `len` bytes that differ for each seed and hold no long run of zeroes.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&numbers.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_repeat_and_differ() {
        assert_eq!(pattern(7, 1000), pattern(7, 1000));
        assert_ne!(pattern(7, 1000), pattern(8, 1000));
        assert_eq!(pattern(7, 13).len(), 13);
        assert!(!pattern(0, 4096).chunks(16).any(|run| run.iter().all(|&byte| byte == 0)));
    }
}
