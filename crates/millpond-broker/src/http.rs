//! The HTTP port: `/live` (the process answers), `/ready` (clients are to be sent here), `/metrics` (figures for
//! Prometheus), and below `/groups` and `/admin/` what operators ask for that the Kafka protocol has no words for.

mod groups;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millpond_record::BrokerId;
use millpond_runtime::{Listener, Runtime, Stream};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::accept::{Room, accept};
use crate::broker::Shared;
use crate::cluster::admin::{self, Said, Wish};

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
        if request.method() == Method::POST {
            return self.post(request).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are served\n".into());
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
            ("/admin/status", Some(broker)) => {
                let broker = Arc::clone(broker);
                json(StatusCode::OK, &self.runtime.blocking(move || admin::status(&broker)).await)
            }
            ("/admin/status", None) => text(StatusCode::SERVICE_UNAVAILABLE, "the broker is starting\n".into()),
            ("/groups", Some(broker)) => answer(groups::list(broker).await),
            ("/groups", None) => text(StatusCode::SERVICE_UNAVAILABLE, "the broker is starting\n".into()),
            (path, Some(broker)) if let Some(name) = groups::named(path) => answer(groups::one(broker, &name).await),
            (path, None) if groups::named(path).is_some() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the broker is starting\n".into())
            }
            (path, _) if let Some(Wish::Decommission(leaving)) = wish(path) => self.left_to_move(leaving).await,
            _ => {
                let served = "served are /live, /ready, /metrics, /groups, /groups/NAME, /admin/status and \
                              /admin/decommission/ID\n";
                text(StatusCode::NOT_FOUND, served.into())
            }
        }
    }

    /// How far a decommission is.
    async fn left_to_move(&self, leaving: BrokerId) -> Response<Full<Bytes>> {
        self.asked(Wish::LeftToMove(leaving), |said| {
            json(StatusCode::OK, &json!({ "message": said.sentence, "replicas": said.moves }))
        })
        .await
    }

    /// What changes the cluster.
    async fn post(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        // A browser says where the page comes from that makes it post: no page has any business here.
        if request.headers().contains_key(ORIGIN) {
            return text(StatusCode::FORBIDDEN, "requests of web pages are not served\n".into());
        }
        let Some(wish) = wish(request.uri().path()) else {
            return text(
                StatusCode::NOT_FOUND,
                "POST serves /admin/decommission/ID, /admin/decommission/ID/cancel and /admin/rebalance\n".into(),
            );
        };
        self.asked(wish, |said| json(StatusCode::ACCEPTED, &json!({ "message": said.sentence, "moves": said.moves })))
            .await
    }

    /// Asks the controller; `told` makes an answer of what it says, if that is no refusal.
    async fn asked(&self, wish: Wish, told: impl FnOnce(Said) -> Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let Some(broker) = self.broker.get() else {
            return json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": "the broker is starting" }));
        };
        match admin::ask(broker, wish).await {
            Ok(said) if said.refused => json(StatusCode::CONFLICT, &json!({ "error": said.sentence })),
            Ok(said) => told(said),
            Err(error) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error.to_string() })),
        }
    }
}

/// What a path asks for.
fn wish(path: &str) -> Option<Wish> {
    match path.strip_prefix("/admin/")? {
        "rebalance" => Some(Wish::Rebalance),
        other => {
            let of = other.strip_prefix("decommission/")?;
            let (of, wish): (_, fn(BrokerId) -> Wish) = match of.strip_suffix("/cancel") {
                Some(of) => (of, Wish::CancelDecommission),
                None => (of, Wish::Decommission),
            };
            Some(wish(BrokerId(of.parse().ok()?)))
        }
    }
}

fn answer((status, body): (StatusCode, Value)) -> Response<Full<Bytes>> {
    json(status, &body)
}

fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = text(status, format!("{body}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_asks_for_one_thing_or_for_nothing() {
        assert_eq!(wish("/admin/rebalance"), Some(Wish::Rebalance));
        assert_eq!(wish("/admin/decommission/3"), Some(Wish::Decommission(BrokerId(3))));
        assert_eq!(wish("/admin/decommission/3/cancel"), Some(Wish::CancelDecommission(BrokerId(3))));
        for path in [
            "/",
            "/admin/",
            "/admin/decommission",
            "/admin/decommission/",
            "/admin/decommission/x",
            "/admin/decommission/cancel",
            "/admin/decommission/3/cancel/",
            "/rebalance",
        ] {
            assert_eq!(wish(path), None, "{path}");
        }
    }
}
