//! Rates as people write them: `50MiB/s`, `none`.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::size::ByteSize;

/// An upper limit in bytes per second, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit(pub(crate) Option<u64>);

/// A rate that cannot be understood.
#[derive(Debug, Error)]
#[error("'{0}' is not a rate: write a size per second, as in 50MiB/s, or none")]
pub(crate) struct RateError(String);

impl FromStr for RateLimit {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "none" {
            return Ok(Self(None));
        }
        let refuse = || RateError(text.to_owned());
        let size: ByteSize =
            text.strip_suffix("/s").ok_or_else(refuse)?.trim_end().parse().map_err(|_| refuse())?;
        // A resync that may not move is paused, not limited.
        if size.0 == 0 { Err(refuse()) } else { Ok(Self(Some(size.0))) }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => f.write_str(&rate_per_second(rate)),
            None => f.write_str("none"),
        }
    }
}

/// A measured rate for people.
pub(crate) fn rate_per_second(bytes: u64) -> String {
    format!("{}/s", ByteSize(bytes).rounded())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_understood_and_shown() {
        for (text, rate, shown) in [
            ("50MiB/s", Some(50 << 20), "50 MiB/s"),
            ("1000000/s", Some(1_000_000), "976 KiB/s"),
            ("none", None, "none"),
        ] {
            let limit: RateLimit = text.parse().expect("a rate");
            assert_eq!((limit.0, limit.to_string().as_str()), (rate, shown));
        }
        for text in ["", "50MiB", "0/s", "0MiB/s", "fast", "MiB/s", "-1MiB/s", "50MB/s"] {
            let error = text.parse::<RateLimit>().expect_err(text).to_string();
            assert!(error.contains("50MiB/s"), "{error}");
        }
    }
}
