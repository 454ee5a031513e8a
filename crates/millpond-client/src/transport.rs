//! What a client needs of the world: connections, tasks and random numbers.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::address::Address;

/// A connection as bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How a client reaches brokers. [`Tcp`] is plain TCP; `Tls` is a transport that wraps another, and a simulation is one
/// that has no sockets at all.
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection. The caller bounds the time, and may drop the future.
    ///
    /// # Errors
    /// What the system says: the name is unknown, nobody listens, the network is down. `InvalidData` says that who
    /// answers is not who it must be: it is not asked again.
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>>;

    /// Runs the work of a connection, beside whoever calls, until it completes by itself.
    #[expect(clippy::disallowed_methods, reason = "the client stands beside the broker's runtime and has its own seam")]
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }

    /// A random number, for spreading pauses. It guards nothing, so it need not be hard to guess.
    #[expect(clippy::disallowed_methods, reason = "the client stands beside the broker's runtime and has its own seam")]
    fn random_u64(&self) -> u64 {
        static STATE: AtomicU64 = AtomicU64::new(0);
        // Different from process to process by the clock, from call to call by the counter.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| u64::from(since.subsec_nanos()));
        mix(STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ (nanos << 32) ^ u64::from(std::process::id()))
    }

    /// Milliseconds since 1970 UTC: the time of records that are given none.
    #[expect(clippy::disallowed_methods, reason = "the client stands beside the broker's runtime and has its own seam")]
    fn wall_clock_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): near inputs give far outputs.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Plain TCP, on the tokio runtime that the client is used in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Transport for Tcp {
    #[expect(clippy::disallowed_methods, reason = "the client stands beside the broker's runtime and has its own seam")]
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((address.host.as_str(), address.port)).await?;
            // A request is written whole; waiting for more before it is sent only costs time.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}
