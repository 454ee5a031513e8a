//! A client's connection: Kafka frames over a simulated stream, answers in the order of the requests.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use millpond_runtime::{Runtime, Stream};
use millpond_wire::{DecodeError, Decoder, EncodeError, Message, Request, ResponseHeader, Str, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The largest response that a client accepts.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Why a connection is of no use any more. Whether the requests in flight had an effect is not known.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The network failed.
    #[error("{0}")]
    Network(#[from] io::Error),
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer breaks the protocol: the broker is wrong.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

impl From<DecodeError> for ConnectionError {
    fn from(error: DecodeError) -> ConnectionError {
        ConnectionError::Protocol(error.to_string())
    }
}

impl From<EncodeError> for ConnectionError {
    fn from(error: EncodeError) -> ConnectionError {
        ConnectionError::Protocol(error.to_string())
    }
}

/// A connection with any number of requests in flight.
pub struct Connection {
    stream: Stream,
    name: Str,
    sent: i32,
    received: i32,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Refused, and whatever the network says.
    pub async fn open(runtime: &Runtime, address: SocketAddr, name: &str) -> Result<Connection, ConnectionError> {
        let stream = runtime.connect(address).await?;
        Ok(Connection { stream, name: Str::from(name), sent: 0, received: 0 })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// What the network says.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), ConnectionError> {
        let frame = encode_request(self.sent, Some(self.name.clone()), version, request)?.to_bytes();
        self.sent = self.sent.wrapping_add(1);
        self.stream.write_all(&frame).await?;
        Ok(())
    }

    /// Sends a request that is not answered (acks=0).
    ///
    /// # Errors
    /// What the network says.
    pub async fn send_unanswered<R: Request>(&mut self, version: i16, request: &R) -> Result<(), ConnectionError> {
        self.send(version, request).await?;
        self.received = self.received.wrapping_add(1);
        Ok(())
    }

    /// Receives the answer to the oldest unanswered request, which was of type `R` and this version.
    ///
    /// # Errors
    /// What the network says; [`ConnectionError::Protocol`] for anything but that answer.
    pub async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, ConnectionError> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_RESPONSE_BYTES {
            return Err(ConnectionError::Protocol(format!("a response of {length} bytes")));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await?;
        let mut decoder = Decoder::new(Bytes::from(frame));
        let header = ResponseHeader::decode(&mut decoder, R::KEY, version)?;
        if header.correlation_id != self.received {
            let text = format!("answer {} to request {}", header.correlation_id, self.received);
            return Err(ConnectionError::Protocol(text));
        }
        self.received = self.received.wrapping_add(1);
        let response = <R::Response as Message>::decode(&mut decoder, version)?;
        decoder.finish()?;
        Ok(response)
    }
}
