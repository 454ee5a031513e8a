//! What a client is told before it connects.

use std::time::Duration;

use crate::address::Address;
use crate::error::{Error, Result};

/// The longest time that anything is configured to take, in seconds (a year): a point in time that far away can still
/// be said.
const LONGEST_SECS: u64 = 365 * 24 * 3600;

/// A configured time, no longer than a year.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(Duration::from_secs(LONGEST_SECS))
}

/// How a client finds its cluster, and how patient it is. A time of more than a year counts as a year.
///
/// ```
/// use std::time::Duration;
/// use millpond_client::ClientConfig;
///
/// let config = ClientConfig::new("127.0.0.1:9092,127.0.0.1:9192")?.deadline(Duration::from_secs(10));
/// assert_eq!(config.bootstrap().len(), 2);
/// # Ok::<(), millpond_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) client_id: String,
    pub(crate) connect_limit: Duration,
    pub(crate) request_limit: Duration,
    pub(crate) deadline: Duration,
    pub(crate) backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) max_response_bytes: usize,
    pub(crate) max_in_flight: usize,
}

impl ClientConfig {
    /// A client of the cluster that any of these addresses belongs to: `HOST:PORT`, separated by commas.
    ///
    /// # Errors
    /// [`Error::Address`] for a part that is no address, and for an empty list.
    pub fn new(bootstrap: &str) -> Result<ClientConfig> {
        let parts = bootstrap.split(',').map(str::trim).filter(|part| !part.is_empty());
        let bootstrap: Vec<Address> = parts.map(str::parse).collect::<Result<_>>()?;
        if bootstrap.is_empty() {
            return Err(Error::Address { text: String::new() });
        }
        Ok(ClientConfig {
            bootstrap,
            client_id: "millpond-client".to_owned(),
            connect_limit: Duration::from_secs(5),
            request_limit: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            max_response_bytes: 100 << 20,
            max_in_flight: 100,
        })
    }

    /// The addresses that the cluster is looked for at.
    pub fn bootstrap(&self) -> &[Address] {
        &self.bootstrap
    }

    /// What the brokers call this client in logs and quotas. Default: `millpond-client`.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> ClientConfig {
        self.client_id = id.into();
        self
    }

    /// How long a connection may take to be usable: looking up the name, connecting, agreeing on versions. Default:
    /// 5 s.
    #[must_use]
    pub fn connect_limit(mut self, limit: Duration) -> ClientConfig {
        self.connect_limit = bounded(limit);
        self
    }

    /// How long one request may be without its answer, after which its connection is closed. Default: 30 s, as Kafka's
    /// `request.timeout.ms`.
    #[must_use]
    pub fn request_limit(mut self, limit: Duration) -> ClientConfig {
        self.request_limit = bounded(limit);
        self
    }

    /// How long one call may take in all, whatever is tried again inside of it. Default: 60 s, as Kafka's
    /// `default.api.timeout.ms`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> ClientConfig {
        self.deadline = bounded(deadline);
        self
    }

    /// The pause before the second try, and the longest; each further one is twice as long, give or take a fifth.
    /// Default: 50 ms and 1 s.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> ClientConfig {
        self.backoff = bounded(first);
        self.max_backoff = bounded(longest.max(first));
        self
    }

    /// The longest answer that is read, in bytes; a longer one ends its connection. Default: 100 MiB.
    #[must_use]
    pub fn max_response_bytes(mut self, bytes: usize) -> ClientConfig {
        self.max_response_bytes = bytes;
        self
    }

    /// How many requests may be on the way on one connection; further ones wait. At least 1. Default: 100.
    #[must_use]
    pub fn max_in_flight(mut self, requests: usize) -> ClientConfig {
        self.max_in_flight = requests.max(1);
        self
    }

    /// The pause after so many failures in a row, spread by `chance` from four to six fifths of it.
    pub(crate) fn pause_after(&self, failures: u32, chance: u64) -> Duration {
        let doubled = self.backoff.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        // 0.8 to 1.2 in steps of 1/1000.
        let spread = 800 + u32::try_from(chance % 401).unwrap_or(0);
        doubled.min(self.max_backoff).saturating_mul(spread) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_spread_by_a_fifth() {
        let config = ClientConfig::new("a:1").expect("an address");
        let middle = |failures| config.pause_after(failures, 200);
        assert_eq!([middle(1), middle(2), middle(3)], [50, 100, 200].map(Duration::from_millis));
        assert_eq!(middle(1000), Duration::from_secs(1));
        assert_eq!(config.pause_after(1, 0), Duration::from_millis(40));
        assert_eq!(config.pause_after(1, 400), Duration::from_millis(60));
        for chance in [u64::MAX, 1 << 40] {
            assert!((40..=60).contains(&config.pause_after(1, chance).as_millis()));
        }
    }

    #[test]
    fn a_list_with_a_bad_part_or_without_any_is_refused() {
        assert!(matches!(ClientConfig::new("a:1,b"), Err(Error::Address { text }) if text == "b"));
        assert!(matches!(ClientConfig::new(" , "), Err(Error::Address { .. })));
    }
}
