//! A connection to one broker whose versions are known.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_wire::{Chunks, Decoder, Message, Request, ResponseHeader, Str, encode_request};

use crate::address::Address;
use crate::clock;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::link::Link;
use crate::transport::Transport;
use crate::versions::{self, Versions};

/// A connection to a broker. Clones share it; it closes when the last one is dropped. Any number of calls may be under
/// way: they are sent one behind the other without waiting, and the broker answers in that order.
#[derive(Clone)]
pub struct Connection {
    link: Link,
    versions: Arc<Versions>,
    client_id: Str,
}

impl Connection {
    /// Connects and agrees on versions, within the configuration's limit for that.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nobody listens there, [`Error::Untrusted`], [`Error::TimedOut`],
    /// [`Error::Disconnected`], and [`Error::Protocol`] for what is no Kafka broker.
    pub async fn open(transport: &dyn Transport, address: &Address, config: &ClientConfig) -> Result<Connection> {
        let limit = config.connect_limit;
        let opened = async {
            let connected = transport.connect(address).await;
            let stream = connected.map_err(|error| match error.kind() {
                ErrorKind::InvalidData => Error::Untrusted { broker: address.clone(), reason: error.to_string() },
                _ => Error::Unreachable { broker: address.clone(), source: Arc::new(error) },
            })?;
            let link = Link::start(transport, address.clone(), stream, config.max_response_bytes, config.max_in_flight);
            let client_id = Str::from(config.client_id.as_str());
            let negotiated = versions::negotiate(&link, &client_id, limit).await;
            // By TLS 1.3 a client hears that it is not let in when it is through with its own part of the handshake.
            let versions = Arc::new(negotiated.map_err(|error| match link.mistrust() {
                Some(reason) => Error::Untrusted {
                    broker: address.clone(),
                    reason: format!(
                        "it has ended TLS ({reason}); if it asks for a certificate, it must be shown one that it \
                         trusts"
                    ),
                },
                None => error,
            })?);
            Ok(Connection { link, versions, client_id })
        };
        let in_time = clock::by(clock::now() + limit, opened).await;
        let late = || Error::TimedOut { broker: address.clone(), what: "connecting".to_owned(), after: limit };
        in_time.unwrap_or_else(|| Err(late()))
    }

    /// The broker's address, as it was connected to.
    pub fn broker(&self) -> &Address {
        self.link.broker()
    }

    /// What the broker told of its APIs.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Whether it is of no use any more: closed by the broker, lost, or ended by an answer that came too late.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// The newest version of `R`, from `least` on, that both sides speak.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is none.
    pub fn version<R: Request>(&self, least: i16) -> Result<i16> {
        self.versions.newest::<R>(least, R::MAX).ok_or_else(|| Error::Unsupported {
            broker: self.broker().clone(),
            api: R::KEY,
            asked: match self.versions.of(R::KEY) {
                Some((first, last)) => {
                    format!("it serves {first} to {last}, and {} to {} are spoken here", least.max(R::MIN), R::MAX)
                }
                None => "it serves none".to_owned(),
            },
        })
    }

    /// Sends a request in this version and gives its answer. When none comes within `limit`, the connection ends.
    ///
    /// # Errors
    /// [`Error::Request`] when the version cannot say the request, [`Error::TimedOut`], [`Error::Disconnected`],
    /// [`Error::Protocol`]. Error codes inside of the answer are the caller's to judge.
    pub async fn call<R: Request>(&self, version: i16, request: &R, limit: Duration) -> Result<R::Response> {
        let correlation = self.link.correlation();
        let frame = self.frame(correlation, version, request)?;
        let answer = self.link.exchange(correlation, frame, R::NAME, limit).await?;
        read_answer::<R>(&self.link, version, answer)
    }

    /// Puts a request into the queue at once, behind those that are in it, and gives the future of its answer. For
    /// callers whose requests must keep their order, and who bound how many are on the way.
    ///
    /// # Errors
    /// At once, and then nothing of it was sent: [`Error::Request`], and why the connection is gone. Of the future:
    /// those of [`call`](Connection::call).
    pub(crate) fn post<R: Request>(
        &self,
        version: i16,
        request: &R,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<R::Response>> + Send + use<R>> {
        let correlation = self.link.correlation();
        let frame = self.frame(correlation, version, request)?;
        let answer = self.link.post(correlation, frame, R::NAME, limit)?;
        let link = self.link.clone();
        Ok(async move { read_answer::<R>(&link, version, answer.await?) })
    }

    /// As [`post`](Connection::post), for a request that is not answered: the future is there when it is written.
    ///
    /// # Errors
    /// As of [`post`](Connection::post).
    pub(crate) fn post_unanswered<R: Request>(
        &self,
        version: i16,
        request: &R,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<R>> {
        let frame = self.frame(self.link.correlation(), version, request)?;
        self.link.post_unanswered(frame, R::NAME, limit)
    }

    fn frame<R: Request>(&self, correlation: i32, version: i16, request: &R) -> Result<Chunks> {
        encode_request(correlation, Some(self.client_id.clone()), version, request)
            .map_err(|error| Error::Request { reason: error.to_string() })
    }
}

fn read_answer<R: Request>(link: &Link, version: i16, answer: Bytes) -> Result<R::Response> {
    let mut decoder = Decoder::new(answer);
    let decoded = ResponseHeader::decode(&mut decoder, R::KEY, version)
        .and_then(|_| <R::Response as Message>::decode(&mut decoder, version))
        .and_then(|response| decoder.finish().map(|()| response));
    decoded.map_err(|error| link.broken(format!("its answer to {}: {error}", R::NAME)))
}
