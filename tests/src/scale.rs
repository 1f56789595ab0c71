//! How much work a test does: `make test` runs with factor 1, `make test-long` the same code with a larger one.

/// The variable that holds the factor.
const VARIABLE: &str = "EVENKEEL_TEST_SCALE";

/// `count` rounds, kills, megabytes, … times the factor of `EVENKEEL_TEST_SCALE` (1 when it is not set).
///
/// # Panics
/// If the variable is not a number above zero: a mistyped factor must not pass for a long run.
#[must_use]
pub fn scaled(count: u64) -> u64 {
    let factor = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().ok().filter(|&factor| factor > 0).unwrap_or_else(|| {
            panic!("{VARIABLE} is {text:?}: it must be a whole number above zero");
        }),
        Err(_) => 1,
    };
    count * factor
}
