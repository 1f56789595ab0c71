//! Durations as people write them: `500ms`, `5s`, `2m`, `1h`.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

/// Units and their length in milliseconds, so ordered that no unit ends like one before it.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

/// A duration that cannot be understood.
#[derive(Debug, Error)]
#[error("'{0}' is not a duration: write whole ms, s, m or h, as in 5s")]
pub(crate) struct DurationError(String);

impl FromStr for Span {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let refuse = || DurationError(text.to_owned());
        let (digits, millis) = UNITS
            .iter()
            .find_map(|(unit, millis)| Some((text.strip_suffix(unit)?.trim_end(), *millis)))
            .ok_or_else(refuse)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let count: u64 = digits.parse().map_err(|_| refuse())?;
        count.checked_mul(millis).map(|millis| Self(Duration::from_millis(millis))).ok_or_else(refuse)
    }
}

/// In the largest unit in which it is a whole number; two parts from a minute on.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let seconds = self.0.as_secs();
        match seconds {
            _ if seconds < 60 && !millis.is_multiple_of(1000) => write!(f, "{millis}ms"),
            0..60 => write!(f, "{seconds}s"),
            60..3600 if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            60..3600 => write!(f, "{}m {}s", seconds / 60, seconds % 60),
            _ if (seconds / 60).is_multiple_of(60) => write!(f, "{}h", seconds / 3600),
            _ => write!(f, "{}h {}m", seconds / 3600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_understood_and_shown() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("0s", 0, "0s"),
            ("5s", 5000, "5s"),
            ("120s", 120_000, "2m"),
            ("95 s", 95_000, "1m 35s"),
            ("2m", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("90m", 5_400_000, "1h 30m"),
        ] {
            let span: Span = text.parse().expect("a duration");
            assert_eq!((span.0.as_millis(), span.to_string().as_str()), (millis, shown));
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "s", "5", "-5s", "1.5s", "5 seconds", "99999999999999999999s", "9999999999999999999h"]
        {
            let error = text.parse::<Span>().expect_err(text).to_string();
            assert!(error.contains("as in 5s"), "{error}");
        }
    }
}
