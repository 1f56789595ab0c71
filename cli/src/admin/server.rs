//! The socket of the admin API in the daemon.
//!
//! Only root and the user that runs the daemon may ask (SO_PEERCRED); the socket's mode keeps out everybody else
//! already. Requests are small and few: their number, size and time are bounded.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel_nbd::{device::ClientIdentity, server::Listener};
use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::UnixStream, sync::Semaphore};

use super::{
    body::{AdminBody, Work},
    fault::{Fault, FaultCode},
    route::{Answer, Daemon, Route},
};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// For a request's head, and for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What takes longer is answered with signs of life first.
const PATIENCE: Duration = Duration::from_secs(3);
/// After an error of the system that accepting meets.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves the socket until it is dropped.
pub(crate) async fn serve(listener: Listener, daemon: Arc<Daemon>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (socket, identity) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin socket cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let ClientIdentity::Local { uid, .. } = identity else { continue };
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            tracing::warn!(uid, "the admin socket is for root and the daemon's own user");
            continue;
        }
        let Ok(stream) = UnixStream::from_std(socket.into()) else { continue };
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(Arc::clone(&daemon), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection of the admin API broke");
            }
            drop(place);
        });
    }
}

async fn respond(daemon: Arc<Daemon>, request: Request<Incoming>) -> Result<Response<AdminBody>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(READ_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Ok(whole(Err(Fault::new(FaultCode::Usage, error.to_string())))),
        Err(_) => return Ok(whole(Err(Fault::new(FaultCode::Usage, "the request's body does not come")))),
    };
    let route = match Route::parse(&head.method, &head.uri, &body) {
        Ok(route) => route,
        Err(fault) => return Ok(whole(Err(fault))),
    };
    // In a task of its own: a client that goes away does not stop what it began.
    let mut work = tokio::spawn(async move { daemon.carry_out(route).await });
    Ok(match tokio::time::timeout(PATIENCE, &mut work).await {
        Ok(answer) => whole(answer.unwrap_or_else(|error| Err(failed(&error)))),
        Err(_) => {
            let work: Work =
                Box::pin(async move { json(&work.await.unwrap_or_else(|error| Err(failed(&error)))) });
            response(http::StatusCode::OK, AdminBody::working(work))
        }
    })
}

fn failed(error: &tokio::task::JoinError) -> Fault {
    Fault::new(FaultCode::Failed, error.to_string())
}

fn whole(answer: Answer) -> Response<AdminBody> {
    let status = answer.as_ref().map_or_else(|fault| fault.code.status(), |_| http::StatusCode::OK);
    response(status, AdminBody::Whole(Some(json(&answer))))
}

/// `{"done": …}` or `{"error": {"code", "text"}}`.
fn json(answer: &Answer) -> Bytes {
    let value = match answer {
        Ok(done) => serde_json::json!({ "done": done }),
        Err(fault) => serde_json::json!({ "error": fault }),
    };
    format!("{value}\n").into()
}

fn response(status: http::StatusCode, body: AdminBody) -> Response<AdminBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
