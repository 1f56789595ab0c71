//! Sizes as people write them: `64MiB`, `1GiB`, `1000000`, in options and in the configuration.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Units of 1024, smallest first; a bare number counts bytes.
const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// A size that cannot be understood.
#[derive(Debug, Error)]
#[error("'{0}' is not a size: write bytes, or whole KiB, MiB, GiB or TiB, as in 64MiB")]
pub(crate) struct SizeError(String);

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), *shift)))
            .unwrap_or((text, 0));
        let refuse = || SizeError(text.to_owned());
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let count: u64 = digits.parse().map_err(|_| refuse())?;
        count.checked_mul(1 << shift).map(Self).ok_or_else(refuse)
    }
}

/// In the largest unit in which it is a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, shift): &&(&str, u32)| self.0 > 0 && self.0.is_multiple_of(1 << shift);
        match UNITS.iter().rev().find(fits) {
            Some((unit, shift)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl ByteSize {
    /// For progress and statistics: at most four digits, rounded down.
    pub(crate) fn rounded(self) -> String {
        let fits = |&&(_, shift): &&(&str, u32)| self.0 >> shift >= 10;
        match UNITS.iter().rev().find(fits) {
            Some((unit, shift)) => format!("{} {unit}", self.0 >> shift),
            None => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood_and_shown() {
        for (text, bytes, shown) in [
            ("1000000", 1_000_000, "1000000 bytes"),
            ("64MiB", 64 << 20, "64 MiB"),
            ("1536 MiB", 1536 << 20, "1536 MiB"),
            ("1GiB", 1 << 30, "1 GiB"),
            ("4096", 4096, "4 KiB"),
            ("2TiB", 2 << 40, "2 TiB"),
            ("0", 0, "0 bytes"),
        ] {
            let size: ByteSize = text.parse().expect("a size");
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
        }
    }

    #[test]
    fn statistics_are_short() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (12_345, "12 KiB"),
            (9 << 20, "9216 KiB"),
            ((10 << 20) + 1, "10 MiB"),
            (100 << 30, "100 GiB"),
        ] {
            assert_eq!(ByteSize(bytes).rounded(), shown);
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "-1", "+1", "1.5GiB", "1GB", "1 apple", "99999999TiB", "99999999999999999999"]
        {
            let error = text.parse::<ByteSize>().expect_err(text).to_string();
            assert!(error.contains("64MiB"), "{error}");
        }
    }
}
