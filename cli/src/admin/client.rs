//! The client of the admin API, for the commands.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{document::StatusDocument, fault::Fault};
use crate::options::Options;

/// A daemon that says nothing for this long counts as not reachable.
const SILENCE: Duration = Duration::from_secs(15);

/// Why there is no answer, or which.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {} ({error}): is it running (`evenkeel daemon`), with the same --run-dir?",
        socket.display()
    )]
    Unreachable { socket: PathBuf, error: io::Error },
    /// It does not answer.
    #[error("the daemon on {} has been silent for {} s", .0.display(), SILENCE.as_secs())]
    Silent(PathBuf),
    /// The connection broke, or this is no answer.
    #[error("the daemon on {}: {error}", socket.display())]
    Broken { socket: PathBuf, error: String },
    /// It says no.
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Deserialize)]
enum Outcome {
    #[serde(rename = "done")]
    Done(Value),
    #[serde(rename = "error")]
    Error(Fault),
}

/// Talks to the daemon; each request has a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(options: &Options) -> Self {
        Self { socket: options.admin_socket() }
    }

    /// What the daemon's node is now.
    pub(crate) async fn status(&self) -> Result<StatusDocument, ClientError> {
        let value = self.get("/v1/status").await?;
        serde_json::from_value(value).map_err(|error| self.broken(error))
    }

    /// A command for a volume.
    pub(crate) async fn command(&self, volume: &str, verb: &str, body: &Value) -> Result<Value, ClientError> {
        // A name that could not stand in a path is the name of nothing.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if volume.is_empty() || !volume.chars().all(plain) {
            let text = format!("no volume is called '{volume}': `evenkeel volume list` shows them");
            return Err(Fault::new(super::fault::FaultCode::Missing, text).into());
        }
        self.request(Method::POST, &format!("/v1/volumes/{volume}/{verb}"), Some(body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.request(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.request(Method::POST, path, Some(body)).await
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let unreachable = |error: io::Error| ClientError::Unreachable { socket: self.socket.clone(), error };
        let connecting = UnixStream::connect(&self.socket);
        let stream = self.in_time(connecting).await?.map_err(unreachable)?;
        let handshake = self.in_time(http1::handshake(TokioIo::new(stream))).await?;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        let driving = tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "evenkeel")
            .header(http::header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let response =
            self.in_time(sender.send_request(request)).await?.map_err(|error| self.broken(error))?;
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = self.in_time(body.frame()).await? {
            if let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() {
                text.extend_from_slice(&data);
            }
        }
        driving.abort();
        match serde_json::from_slice(&text).map_err(|error| self.broken(error))? {
            Outcome::Done(value) => Ok(value),
            Outcome::Error(fault) => Err(fault.into()),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ClientError> {
        let timeout = tokio::time::timeout(SILENCE, work).await;
        timeout.map_err(|_| ClientError::Silent(self.socket.clone()))
    }

    fn broken(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), error: error.to_string() }
    }
}
