//! Which request of the admin API does what (`docs/admin-api.md`).

use std::{net::SocketAddr, time::Duration};

use evenkeel_core::volume::operator::{Force, OperatorAnswer};
use evenkeel_driver::node::{CreateOrigin, NodeHandle, ReloadError, VolumeCommand};
use http::{Method, Uri};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    document::{EventDocument, EventsDocument, StatusDocument},
    fault::{Fault, FaultCode},
};
use crate::{
    daemon::Settings,
    options::Options,
    units::{RateError, RateLimit},
};

/// What a request comes to.
pub(super) type Answer = Result<Value, Fault>;

/// A request for events waits at most this long for a new one.
const EVENTS_WAIT_MAX: Duration = Duration::from_secs(60);

/// What the routes work on.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) node: NodeHandle,
    pub(crate) options: Options,
    /// The extra NBD listener that was opened at the start.
    pub(crate) nbd: Option<SocketAddr>,
}

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Events { since: u64, wait: Duration },
    Reload,
    Create { volume: String, origin: CreateOrigin },
    Command { volume: String, command: VolumeCommand },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrimaryBody {
    #[serde(default)]
    force: ForceBody,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ForceBody {
    #[default]
    No,
    Yes,
    Inconsistent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecondaryBody {
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerBody {
    peer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectBody {
    peer: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyBody {
    peer: Option<String>,
    #[serde(default)]
    repair: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeBody {
    /// Bytes.
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveBody {
    discard: String,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum ResyncBody {
    Pause {
        pause: bool,
    },
    /// As in the configuration: `50MiB/s`, or `none`.
    Limit {
        limit: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    origin: OriginBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OriginBody {
    Adopt,
    Blank,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Route {
    pub(super) fn parse(method: &Method, uri: &Uri, body: &[u8]) -> Result<Self, Fault> {
        let path: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
        match (method, path.as_slice()) {
            (&Method::GET, ["v1", "status"]) => Ok(Self::Status),
            (&Method::GET, ["v1", "events"]) => events(uri.query().unwrap_or_default()),
            (&Method::POST, ["v1", "reload"]) => parse::<Nothing>(body).map(|Nothing {}| Self::Reload),
            (&Method::POST, ["v1", "volumes", volume, "create"]) => {
                let origin = match parse::<CreateBody>(body)?.origin {
                    OriginBody::Adopt => CreateOrigin::Adopt,
                    OriginBody::Blank => CreateOrigin::Blank,
                };
                Ok(Self::Create { volume: (*volume).to_owned(), origin })
            }
            (&Method::POST, ["v1", "volumes", volume, verb]) => {
                let command = command(verb, body)?;
                Ok(Self::Command { volume: (*volume).to_owned(), command })
            }
            (method, _) => {
                Err(Fault::new(FaultCode::Missing, format!("there is no {method} {}", uri.path())))
            }
        }
    }
}

fn command(verb: &str, body: &[u8]) -> Result<VolumeCommand, Fault> {
    Ok(match verb {
        "primary" => VolumeCommand::Primary(match parse::<PrimaryBody>(body)?.force {
            ForceBody::No => Force::No,
            ForceBody::Yes => Force::Yes,
            ForceBody::Inconsistent => Force::Inconsistent,
        }),
        "secondary" => VolumeCommand::Secondary { force: parse::<SecondaryBody>(body)?.force },
        "connect" => match parse::<ConnectBody>(body)? {
            ConnectBody { peer, dry_run: true } => VolumeCommand::Foretell { peer },
            ConnectBody { peer, dry_run: false } => VolumeCommand::Connect { peer },
        },
        "disconnect" => VolumeCommand::Disconnect { peer: parse::<PeerBody>(body)?.peer },
        "invalidate" => VolumeCommand::Invalidate { peer: parse::<PeerBody>(body)?.peer },
        "resync" => match parse::<ResyncBody>(body)? {
            ResyncBody::Pause { pause } => VolumeCommand::PauseResync(pause),
            ResyncBody::Limit { limit } => {
                let RateLimit(limit) = limit
                    .parse()
                    .map_err(|error: RateError| Fault::new(FaultCode::Usage, error.to_string()))?;
                VolumeCommand::LimitResync(limit)
            }
        },
        "verify" => {
            let VerifyBody { peer, repair } = parse(body)?;
            VolumeCommand::Verify { peer, repair }
        }
        "resize" => VolumeCommand::Resize(parse::<ResizeBody>(body)?.size),
        "resolve" => VolumeCommand::Resolve { discard: parse::<ResolveBody>(body)?.discard },
        other => {
            return Err(Fault::new(FaultCode::Missing, format!("volumes have no command called '{other}'")));
        }
    })
}

/// An empty body is an empty object.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Fault::new(FaultCode::Usage, format!("the request's body: {error}")))
}

fn events(query: &str) -> Result<Route, Fault> {
    let (mut since, mut wait) = (0, Duration::ZERO);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|error| Fault::new(FaultCode::Usage, format!("{part}: {error}; write a number")))
        };
        match part.split_once('=') {
            Some(("since", text)) => since = number(text)?,
            Some(("wait", text)) => wait = Duration::from_secs(number(text)?).min(EVENTS_WAIT_MAX),
            Some(_) | None => {
                let text = format!("'{part}': events has since=NUMBER and wait=SECONDS");
                return Err(Fault::new(FaultCode::Usage, text));
            }
        }
    }
    Ok(Route::Events { since, wait })
}

impl Daemon {
    pub(super) async fn carry_out(&self, route: Route) -> Answer {
        match route {
            Route::Status => {
                let status = self.node.status().await?;
                Ok(json!(StatusDocument::from(&status)))
            }
            Route::Events { since, wait } => Ok(self.events(since, wait).await),
            Route::Reload => self.reload().await,
            Route::Create { volume, origin } => {
                self.node.create(&volume, origin).await?;
                Ok(Value::Null)
            }
            Route::Command { volume, command } => match self.node.command(&volume, command).await? {
                OperatorAnswer::Done => Ok(Value::Null),
                OperatorAnswer::Foretold(verdict) => Ok(json!({ "verdict": verdict })),
                OperatorAnswer::Refused(why) => Err(Fault::new(FaultCode::Refused, why)),
                OperatorAnswer::Verified { compared_bytes, differing_bytes, differing, repaired } => {
                    let spans: Vec<Value> = differing
                        .iter()
                        .map(|span| json!({ "offset": span.offset, "bytes": span.len }))
                        .collect();
                    Ok(json!({
                        "compared_bytes": compared_bytes,
                        "differing_bytes": differing_bytes,
                        "differing": spans,
                        "repaired": repaired,
                    }))
                }
            },
        }
    }

    async fn events(&self, since: u64, wait: Duration) -> Value {
        let mut watch = self.node.events().watch();
        let newer = watch.wait_for(|last| *last != since);
        // Nothing new in time is an answer too.
        let _ = tokio::time::timeout(wait, newer).await;
        let batch = self.node.events().since(since);
        let events = batch.events.iter().map(EventDocument::from).collect();
        json!(EventsDocument { lost: batch.lost, events })
    }

    /// Reads the configuration again and takes it over, whole or not at all.
    pub(crate) async fn reload(&self) -> Answer {
        let settings = Settings::load(&self.options)
            .map_err(|error| Fault::new(FaultCode::Usage, format!("nothing was changed: {error:#}")))?;
        if settings.nbd != self.nbd {
            let what = "the nbd listener of this node".to_owned();
            return Err(ReloadError::Fixed { what }.into());
        }
        let changed = self.node.reload(settings.node).await?;
        Ok(json!(changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str, body: &str) -> Result<Route, Fault> {
        Route::parse(&method, &uri.parse().expect("a path"), body.as_bytes())
    }

    fn command(verb: &str, body: &str) -> Result<VolumeCommand, Fault> {
        match parse(Method::POST, &format!("/v1/volumes/r0/{verb}"), body)? {
            Route::Command { volume, command } => {
                assert_eq!(volume, "r0");
                Ok(command)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_route_is_found() {
        assert_eq!(parse(Method::GET, "/v1/status", ""), Ok(Route::Status));
        let events = Route::Events { since: 7, wait: Duration::from_secs(2) };
        assert_eq!(parse(Method::GET, "/v1/events?since=7&wait=2", ""), Ok(events));
        assert_eq!(parse(Method::POST, "/v1/reload", ""), Ok(Route::Reload));
        assert_eq!(command("primary", ""), Ok(VolumeCommand::Primary(Force::No)));
        assert_eq!(
            command("primary", r#"{"force":"inconsistent"}"#),
            Ok(VolumeCommand::Primary(Force::Inconsistent))
        );
        assert_eq!(command("secondary", r#"{"force":true}"#), Ok(VolumeCommand::Secondary { force: true }));
        let peer = Some("beta".to_owned());
        assert_eq!(
            command("connect", r#"{"peer":"beta"}"#),
            Ok(VolumeCommand::Connect { peer: peer.clone() })
        );
        let foretell = command("connect", r#"{"peer":"beta","dry_run":true}"#);
        assert_eq!(foretell, Ok(VolumeCommand::Foretell { peer: peer.clone() }));
        assert_eq!(command("invalidate", ""), Ok(VolumeCommand::Invalidate { peer: None }));
        assert_eq!(command("invalidate", r#"{"peer":"beta"}"#), Ok(VolumeCommand::Invalidate { peer }));
        assert_eq!(
            command("verify", r#"{"repair":true}"#),
            Ok(VolumeCommand::Verify { peer: None, repair: true })
        );
        assert_eq!(command("resize", r#"{"size":8192}"#), Ok(VolumeCommand::Resize(8192)));
        assert_eq!(command("resync", r#"{"pause":true}"#), Ok(VolumeCommand::PauseResync(true)));
        for (body, limit) in [(r#"{"limit":"50MiB/s"}"#, Some(50 << 20)), (r#"{"limit":"none"}"#, None)] {
            assert_eq!(command("resync", body), Ok(VolumeCommand::LimitResync(limit)));
        }
        for body in ["", r#"{"limit":null}"#, r#"{"limit":"fast"}"#] {
            assert_eq!(command("resync", body).expect_err("refused").code, FaultCode::Usage);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let refused = |method, uri: &str, body: &str| parse(method, uri, body).expect_err("refused");
        assert_eq!(refused(Method::GET, "/v2/status", "").code, FaultCode::Missing);
        assert_eq!(refused(Method::POST, "/v1/volumes/r0/explode", "").code, FaultCode::Missing);
        assert_eq!(refused(Method::GET, "/v1/events?since=x", "").code, FaultCode::Usage);
        let fault = refused(Method::POST, "/v1/volumes/r0/primary", r#"{"forse":"yes"}"#);
        assert!(fault.code == FaultCode::Usage && fault.text.contains("forse"), "{fault}");
        assert_eq!(refused(Method::POST, "/v1/volumes/r0/resolve", "{}").code, FaultCode::Usage);
    }
}
