//! Clocks and randomness: what the core must be told because it has none of its own.

use std::time::Duration;

use evenkeel_core::{
    ids::{BootId, InstanceId, Timestamp},
    volume::config::RunInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

/// Where the kernel shows its boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Something about this run cannot be found out.
#[derive(Debug, Error)]
pub(super) enum RunError {
    /// The kernel's boot id.
    #[error("the kernel's boot id cannot be read from {BOOT_ID} ({0}): is /proc mounted?")]
    BootId(String),
    /// Randomness.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// Monotonic time, which goes on while the machine sleeps: a node that slept must see the gap (P8), and the core adds
/// it to the boot clock (D6).
pub(super) fn now() -> Timestamp {
    Timestamp(nanos(ClockId::Boottime))
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).expect("these clocks begin at the boot");
    Duration::from_secs(part(time.tv_sec))
        .as_nanos()
        .try_into()
        .map_or(u64::MAX, |seconds: u64| seconds.saturating_add(part(time.tv_nsec)))
}

/// 128 random bits, never zero, so that zero can mean "none" on disk.
pub(super) fn random_u128() -> Result<u128, RunError> {
    loop {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| RunError::NoRandomness)?;
        let value = u128::from_le_bytes(bytes);
        if value != 0 {
            return Ok(value);
        }
    }
}

/// 64 random bits, never zero.
pub(super) fn random_u64() -> Result<u64, RunError> {
    loop {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes).map_err(|_| RunError::NoRandomness)?;
        let value = u64::from_le_bytes(bytes);
        if value != 0 {
            return Ok(value);
        }
    }
}

/// What is true of one run on one disk.
pub(super) fn run_info() -> Result<RunInfo, RunError> {
    let text = std::fs::read_to_string(BOOT_ID).map_err(|error| RunError::BootId(error.to_string()))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let boot = u128::from_str_radix(&digits, 16).map_err(|error| RunError::BootId(error.to_string()))?;
    Ok(RunInfo {
        boot: BootId(boot),
        instance: InstanceId(random_u128()?),
        boot_clock_nanos: nanos(ClockId::Boottime),
        entropy: random_u128()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_share_the_boot_and_nothing_else() {
        let (one, two) = (run_info().expect("linux"), run_info().expect("linux"));
        assert_eq!(one.boot, two.boot);
        assert_ne!((one.instance, one.entropy), (two.instance, two.entropy));
        assert!(one.boot_clock_nanos <= two.boot_clock_nanos);
        let before = now();
        assert!(before <= now());
    }
}
