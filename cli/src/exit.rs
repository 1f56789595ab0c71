//! Exit codes (design section 8): scripts rely on them.

use std::process::ExitCode;

use evenkeel_driver::disk::OpenError;
use evenkeel_nbd::server::ListenError;

/// How a command that failed ends. (0 is success, 2 wrong usage, which clap reports itself.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no such thing.
    Missing = 3,
    /// Refused by the state of things: in use, or not what was said.
    Refused = 4,
    /// Failed otherwise.
    Other = 6,
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure as u8)
    }
}

/// The exit code that the cause of `error` calls for.
pub(crate) fn code_of(error: &anyhow::Error) -> Failure {
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return match error {
            OpenError::Missing { .. } => Failure::Missing,
            OpenError::SizeDiffers { .. }
            | OpenError::Empty { .. }
            | OpenError::Unsuitable { .. }
            | OpenError::InUse { .. } => Failure::Refused,
            OpenError::System { .. } => Failure::Other,
        };
    }
    if let Some(error) = error.downcast_ref::<ListenError>() {
        return match error {
            ListenError::InUse(_) | ListenError::NotASocket(_) => Failure::Refused,
            ListenError::Unix { .. } => Failure::Other,
            ListenError::Tcp { error, .. } => match error.kind() {
                std::io::ErrorKind::AddrInUse => Failure::Refused,
                _ => Failure::Other,
            },
        };
    }
    Failure::Other
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_cause_decides_also_below_context() {
        let missing = OpenError::Missing { path: "x".into() };
        let error = Err::<(), _>(missing).context("while starting").expect_err("an error");
        assert_eq!(code_of(&error), Failure::Missing);
        let in_use = ListenError::InUse("x".into());
        assert_eq!(code_of(&in_use.into()), Failure::Refused);
        assert_eq!(code_of(&anyhow::anyhow!("anything")), Failure::Other);
    }
}
