//! The HTTP port: `/live` (the process answers), `/ready` (it takes requests), `/metrics` (figures for Prometheus).

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millpond_runtime::{Listener, Runtime, Stream};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::accept::{Room, accept};
use crate::broker::Shared;

/// Connections at once. Who scrapes needs one.
const MAX_CONNECTIONS: usize = 64;
/// A connection is closed after this time, whatever it does.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(300);

/// The HTTP port from before the data directory is opened, which may take a while after a kill, until the stop.
pub(crate) struct Serving {
    runtime: Runtime,
    stopping: CancellationToken,
    /// Set when the broker takes requests.
    broker: OnceLock<Arc<Shared>>,
}

impl Serving {
    /// Accepts connections until `stopping`.
    pub(crate) fn start(runtime: &Runtime, listener: Listener, stopping: CancellationToken) -> Arc<Serving> {
        let (accepting, ended) = (runtime.clone(), stopping.clone());
        let serving = Arc::new(Serving { runtime: runtime.clone(), stopping, broker: OnceLock::new() });
        let here = Arc::clone(&serving);
        let room = Room::new(MAX_CONNECTIONS, MAX_CONNECTIONS);
        let refused = |_, peer| debug!(%peer, "HTTP connection closed on arrival: {MAX_CONNECTIONS} are open");
        let serve = move |stream, _| Arc::clone(&here).connection(stream);
        runtime.spawn(accept(accepting, ended, listener, room, refused, serve));
        serving
    }

    /// The broker takes requests.
    pub(crate) fn ready(&self, broker: &Arc<Shared>) {
        // Called once; a second call would name the same broker.
        let _ = self.broker.set(Arc::clone(broker));
    }

    async fn connection(self: Arc<Serving>, stream: Stream) {
        let (runtime, stopping) = (self.runtime.clone(), self.stopping.clone());
        let service = service_fn(move |request| {
            let serving = Arc::clone(&self);
            async move { Ok::<_, Infallible>(serving.respond(&request).await) }
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

    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".into());
        }
        match (request.uri().path(), self.broker.get()) {
            ("/live", _) => text(StatusCode::OK, "live\n".into()),
            ("/ready", Some(broker)) if broker.is_ready() => text(StatusCode::OK, "ready\n".into()),
            ("/ready", _) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into()),
            ("/metrics", Some(broker)) => {
                // With thousands of partitions the page takes milliseconds, in which no connection may wait.
                let broker = Arc::clone(broker);
                text(StatusCode::OK, self.runtime.blocking(move || broker.render_metrics()).await)
            }
            ("/metrics", None) => text(StatusCode::SERVICE_UNAVAILABLE, "the broker is starting\n".into()),
            _ => text(StatusCode::NOT_FOUND, "served are /live, /ready and /metrics\n".into()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
