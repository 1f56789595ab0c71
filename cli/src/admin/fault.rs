//! How a request of the admin API fails: as JSON, as HTTP status, and as the exit code of the command.

use evenkeel_driver::node::{CommandError, NodeEnded, ReloadError};
use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Fault {
    /// What kind of reason.
    pub(crate) code: FaultCode,
    /// The reason and what helps.
    pub(crate) text: String,
}

/// What kind of reason; part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FaultCode {
    /// The request makes no sense.
    Usage,
    /// There is no such thing.
    Missing,
    /// The state of things forbids it.
    Refused,
    /// A peer that was asked does not answer.
    Unanswered,
    /// The daemon is ending.
    Ending,
    /// It was tried and failed.
    Failed,
}

impl FaultCode {
    /// The HTTP status of a response with it.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Usage => StatusCode::BAD_REQUEST,
            Self::Missing => StatusCode::NOT_FOUND,
            Self::Refused => StatusCode::CONFLICT,
            Self::Unanswered => StatusCode::GATEWAY_TIMEOUT,
            Self::Ending => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Fault {
    pub(crate) fn new(code: FaultCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<NodeEnded> for Fault {
    fn from(error: NodeEnded) -> Self {
        Self::new(FaultCode::Ending, error.to_string())
    }
}

impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        let code = match &error {
            CommandError::NoSuchVolume(_) | CommandError::NoSuchPeer { .. } => FaultCode::Missing,
            CommandError::WhichPeer { .. } => FaultCode::Usage,
            CommandError::NotOpen { .. } | CommandError::Refused(_) => FaultCode::Refused,
            CommandError::Unanswered(_) => FaultCode::Unanswered,
            CommandError::Ending => FaultCode::Ending,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReloadError> for Fault {
    fn from(error: ReloadError) -> Self {
        let code = match &error {
            ReloadError::Fixed { .. } | ReloadError::Refused(_) => FaultCode::Refused,
            ReloadError::Ending => FaultCode::Ending,
        };
        Self::new(code, error.to_string())
    }
}
