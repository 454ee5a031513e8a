//! Brokers that do as a test says, at the other end of a pipe in memory.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millpond_client::{Address, ClientConfig, Duplex, Transport};
use millpond_wire::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use millpond_wire::metadata::{MetadataRequest, MetadataResponse, MetadataResponseBroker};
use millpond_wire::{ApiKey, Decoder, Message, Request, RequestHeader, encode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bytes that a pipe holds before its writer waits.
const PIPE_BYTES: usize = 64 << 10;

type Script = Arc<dyn Fn(Peer) -> BoxFuture<'static, ()> + Send + Sync>;

/// A network of fake brokers. Where there is none, a connection is refused.
#[derive(Default)]
pub struct Network {
    brokers: Mutex<BTreeMap<Address, Script>>,
    connects: Mutex<Vec<Address>>,
    untrusted: Mutex<BTreeSet<Address>>,
}

impl Network {
    pub fn new() -> Arc<Network> {
        Arc::default()
    }

    /// From now on every connection to this address is handed to `script`.
    pub fn broker<F, W>(self: &Arc<Self>, address: &str, script: F) -> Arc<Network>
    where
        F: Fn(Peer) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |peer| Box::pin(script(peer)));
        self.brokers.lock().expect("no test panics here").insert(address.parse().expect("an address"), script);
        Arc::clone(self)
    }

    /// From now on connections to this address are refused.
    pub fn remove(&self, address: &str) {
        let address: Address = address.parse().expect("an address");
        self.brokers.lock().expect("no test panics here").remove(&address).expect("it was there");
    }

    /// From now on who answers at this address is not who it must be.
    pub fn distrust(&self, address: &str) {
        self.untrusted.lock().expect("no test panics here").insert(address.parse().expect("an address"));
    }

    /// From now on who answers there is who it must be.
    pub fn trust(&self, address: &str) {
        let address: Address = address.parse().expect("an address");
        assert!(self.untrusted.lock().expect("no test panics here").remove(&address), "it was not trusted");
    }

    /// How often somebody tried to connect to this address.
    pub fn connects(&self, address: &str) -> usize {
        let address: Address = address.parse().expect("an address");
        self.connects.lock().expect("no test panics here").iter().filter(|known| **known == address).count()
    }
}

impl Transport for Network {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        self.connects.lock().expect("no test panics here").push(address.clone());
        let script = self.brokers.lock().expect("no test panics here").get(address).cloned();
        let untrusted = self.untrusted.lock().expect("no test panics here").contains(address);
        Box::pin(async move {
            if untrusted {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its certificate is another's"));
            }
            let script = script.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            self.spawn(script(Peer(there)));
            Ok(Box::new(here) as Box<dyn Duplex>)
        })
    }

    fn random_u64(&self) -> u64 {
        200 // No spread: a pause is what it is in the configuration.
    }
}

/// A configuration for one fake broker, with limits that a paused clock makes short.
pub fn config() -> ClientConfig {
    ClientConfig::new("a:1")
        .expect("an address")
        .request_limit(Duration::from_secs(5))
        .deadline(Duration::from_secs(20))
}

/// The broker's end of a connection.
pub struct Peer(pub DuplexStream);

/// A request as it came.
pub struct Asked {
    pub header: RequestHeader,
    body: Decoder,
}

impl Asked {
    pub fn is(&self, api: ApiKey) -> bool {
        self.header.api_key == api
    }

    /// The request, which must be of this type.
    pub fn body<R: Request>(&self) -> R {
        assert_eq!(self.header.api_key, R::KEY);
        let mut body = self.body.clone();
        let request = R::decode(&mut body, self.header.api_version).expect("the client sends what can be read");
        body.finish().expect("nothing behind it");
        request
    }
}

impl Peer {
    /// The next request; `None` when the client has closed.
    pub async fn request(&mut self) -> Option<Asked> {
        let length = self.0.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).expect("a length")];
        self.0.read_exact(&mut frame).await.ok()?;
        let mut body = Decoder::new(Bytes::from(frame));
        let header = RequestHeader::decode(&mut body).expect("a header");
        Some(Asked { header, body })
    }

    pub async fn answer<M: Message>(&mut self, asked: &Asked, response: &M) {
        self.answer_as(asked.header.correlation_id, asked.header.api_version, response).await;
    }

    pub async fn answer_as<M: Message>(&mut self, correlation: i32, version: i16, response: &M) {
        let frame = encode_response(correlation, version, response).expect("it can be said").to_bytes();
        self.bytes(&frame).await;
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        // The client may have gone away.
        let _ = self.0.write_all(bytes).await;
    }

    /// Answers the question for versions, which must come first.
    pub async fn versions(&mut self, rows: &[(ApiKey, i16, i16)]) {
        let asked = self.request().await.expect("a question");
        let _: ApiVersionsRequest = asked.body();
        self.answer(&asked, &versions(rows)).await;
    }

    /// Reads until the client closes.
    pub async fn until_closed(mut self) {
        while self.request().await.is_some() {}
    }
}

pub fn versions(rows: &[(ApiKey, i16, i16)]) -> ApiVersionsResponse {
    let row = |(key, min_version, max_version): &(ApiKey, i16, i16)| ApiVersion {
        api_key: key.0,
        min_version: *min_version,
        max_version: *max_version,
    };
    ApiVersionsResponse { api_keys: rows.iter().map(row).collect(), ..Default::default() }
}

/// What a fake member of a cluster does with a request.
pub enum Reply {
    /// Answers it.
    Frame(Bytes),
    /// Closes the connection.
    Close,
    /// Never answers.
    Nothing,
}

pub fn reply<M: Message>(asked: &Asked, response: &M) -> Reply {
    let header = &asked.header;
    Reply::Frame(
        encode_response(header.correlation_id, header.api_version, response).expect("it can be said").to_bytes(),
    )
}

/// A script that serves these APIs, besides ApiVersions, with a handler.
pub async fn serve(mut peer: Peer, apis: &[(ApiKey, i16, i16)], handle: impl Fn(&Asked) -> Reply) {
    while let Some(asked) = peer.request().await {
        let reply = if asked.is(ApiKey::API_VERSIONS) { reply(&asked, &versions(apis)) } else { handle(&asked) };
        match reply {
            Reply::Frame(frame) => peer.bytes(&frame).await,
            Reply::Close => return,
            Reply::Nothing => {}
        }
    }
}

/// A metadata answer with these brokers.
pub fn metadata(controller_id: i32, brokers: &[(i32, &str, i32)]) -> MetadataResponse {
    let broker = |(node_id, host, port): &(i32, &str, i32)| MetadataResponseBroker {
        node_id: *node_id,
        host: (*host).into(),
        port: *port,
        rack: None,
    };
    MetadataResponse {
        brokers: brokers.iter().map(broker).collect(),
        cluster_id: Some("fake".into()),
        controller_id,
        ..Default::default()
    }
}

pub const METADATA: (ApiKey, i16, i16) = (ApiKey::METADATA, MetadataRequest::MIN, MetadataRequest::MAX);
