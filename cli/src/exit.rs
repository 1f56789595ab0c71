//! Exit codes (design section 8): scripts rely on them.

use std::process::ExitCode;

use evenkeel_driver::{disk::OpenError, identity::IdentityError, link::BindError, node::StartError};
use evenkeel_nbd::server::ListenError;

use crate::{
    admin::{client::ClientError, fault::FaultCode},
    config::ConfigError,
};

/// How a command that failed ends. (0 is success; clap ends wrong usage itself, with 2.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The answer is no.
    No = 1,
    /// Wrong usage, or a configuration that cannot be used.
    Usage = 2,
    /// There is no such thing.
    Missing = 3,
    /// Refused by the state of things: in use, not what was said, or not confirmed.
    Refused = 4,
    /// The daemon is not reachable, or silent.
    Unreachable = 5,
    /// Failed otherwise.
    Other = 6,
}

/// A failure that has its exit code with it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Ended {
    pub(crate) failure: Failure,
    pub(crate) text: String,
}

impl Ended {
    pub(crate) fn error(failure: Failure, text: impl Into<String>) -> anyhow::Error {
        Self { failure, text: text.into() }.into()
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure as u8)
    }
}

/// The exit code that the cause of `error` calls for.
pub(crate) fn code_of(error: &anyhow::Error) -> Failure {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.failure;
    }
    if error.is::<ConfigError>() || error.is::<IdentityError>() {
        return Failure::Usage;
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return of_client(error);
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return match error {
            StartError::Bind(BindError::Listen { .. }) => Failure::Refused,
            StartError::Bind(BindError::Name(_)) | StartError::Peer(_) => Failure::Usage,
            StartError::Bind(BindError::Identity(_) | BindError::Randomness)
            | StartError::Backend(_)
            | StartError::Thread(_) => Failure::Other,
        };
    }
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

fn of_client(error: &ClientError) -> Failure {
    match error {
        ClientError::Unreachable { .. } | ClientError::Silent(_) => Failure::Unreachable,
        ClientError::Broken { .. } => Failure::Other,
        ClientError::Fault(fault) => match fault.code {
            FaultCode::Usage => Failure::Usage,
            FaultCode::Missing => Failure::Missing,
            FaultCode::Refused => Failure::Refused,
            FaultCode::Unanswered => Failure::No,
            FaultCode::Ending => Failure::Unreachable,
            FaultCode::Failed => Failure::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fault::Fault;
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

    #[test]
    fn what_the_daemon_says_has_its_code() {
        for (code, failure) in [
            (FaultCode::Unanswered, 1),
            (FaultCode::Usage, 2),
            (FaultCode::Missing, 3),
            (FaultCode::Refused, 4),
            (FaultCode::Ending, 5),
            (FaultCode::Failed, 6),
        ] {
            let error = ClientError::from(Fault::new(code, "why"));
            assert_eq!(code_of(&error.into()) as u8, failure);
        }
        let silent = ClientError::Silent("/run/x".into());
        assert_eq!(code_of(&silent.into()), Failure::Unreachable);
    }
}
