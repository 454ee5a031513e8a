//! The HTTP port: `/live` (the process answers), `/ready` (it takes requests), `/metrics` (figures for Prometheus).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millpond_runtime::{Listener, Stream};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::broker::Shared;

/// Connections at once. Who scrapes needs one.
const MAX_CONNECTIONS: usize = 64;
/// A connection is closed after this time, whatever it does.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(300);
/// A pause after a failed accept: the reason (too many open files) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the broker stops.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Listener) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without room the connection is closed: it is dropped here.
                if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                    let shared_here = Arc::clone(&shared);
                    shared.runtime.spawn(async move {
                        connection(shared_here, stream).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                debug!("HTTP connection not accepted: {error}");
                shared.runtime.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: Stream) {
    let runtime = shared.runtime.clone();
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request| {
        let response = respond(&shared, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        served = runtime.timeout(MAX_CONNECTION_TIME, served) => {
            if let Ok(Err(error)) = served {
                debug!("HTTP connection ended: {error}");
            }
        }
        () = stopping.cancelled() => {}
    }
}

fn respond(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".into());
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n".into()),
        "/ready" if shared.is_ready() => text(StatusCode::OK, "ready\n".into()),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into()),
        "/metrics" => text(StatusCode::OK, shared.render_metrics()),
        _ => text(StatusCode::NOT_FOUND, "served are /live, /ready and /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
