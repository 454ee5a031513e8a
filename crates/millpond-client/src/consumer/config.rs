//! What a consumer is told.

use std::time::Duration;

use crate::admin::OffsetAt;
use crate::config::bounded;

/// The most bytes that are ever asked for at once.
const MOST_FETCH_BYTES: usize = 1 << 30;

/// Where a partition begins for which there is no offset: a new one, one of which nothing is committed, or one whose
/// offset is no longer (or not yet) in the log. Kafka's `auto.offset.reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// With the first record that can be read.
    Earliest,
    /// With the next record that is written.
    #[default]
    Latest,
    /// Nowhere: the consumer is told ([`Error::NoOffset`](crate::Error::NoOffset)), and the partition stands still
    /// until it is sought.
    None,
}

impl OffsetReset {
    pub(crate) fn offset(self) -> Option<OffsetAt> {
        match self {
            OffsetReset::Earliest => Some(OffsetAt::Earliest),
            OffsetReset::Latest => Some(OffsetAt::Latest),
            OffsetReset::None => None,
        }
    }
}

/// Which records of transactions are given. Kafka's `isolation.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// All that are written, also those of transactions that are open or were aborted.
    #[default]
    ReadUncommitted,
    /// Those of transactions that were committed, up to the first that is open.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn level(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// How a consumer works. Values out of range are taken to the nearest that is in it; no time is longer than a year.
///
/// How long one request may take and how long to wait before it is tried again is said by
/// [`ClientConfig`](crate::ClientConfig).
///
/// ```
/// use std::time::Duration;
/// use millpond_client::{ConsumerConfig, Isolation, OffsetReset};
///
/// let config = ConsumerConfig::default()
///     .offset_reset(OffsetReset::Earliest)
///     .isolation(Isolation::ReadCommitted)
///     .fetch_max_wait(Duration::from_millis(100));
/// # drop(config);
/// ```
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub(crate) offset_reset: OffsetReset,
    pub(crate) isolation: Isolation,
    pub(crate) fetch_min_bytes: usize,
    pub(crate) fetch_max_wait: Duration,
    pub(crate) fetch_max_bytes: usize,
    pub(crate) max_partition_fetch_bytes: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) check_crcs: bool,
    pub(crate) client_rack: String,
    pub(crate) metadata_max_age: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            offset_reset: OffsetReset::Latest,
            isolation: Isolation::ReadUncommitted,
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            buffer_memory: 64 << 20,
            check_crcs: true,
            client_rack: String::new(),
            metadata_max_age: Duration::from_secs(300),
        }
    }
}

impl ConsumerConfig {
    /// Where a partition begins for which there is no offset. Default: [`OffsetReset::Latest`], as Kafka's
    /// `auto.offset.reset`.
    #[must_use]
    pub fn offset_reset(mut self, reset: OffsetReset) -> ConsumerConfig {
        self.offset_reset = reset;
        self
    }

    /// Which records of transactions are given. Default: all, as Kafka's `isolation.level`.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> ConsumerConfig {
        self.isolation = isolation;
        self
    }

    /// How many bytes a broker waits for before it answers. Default: 1, as Kafka's `fetch.min.bytes`.
    #[must_use]
    pub fn fetch_min_bytes(mut self, bytes: usize) -> ConsumerConfig {
        self.fetch_min_bytes = bytes.clamp(1, MOST_FETCH_BYTES);
        self
    }

    /// How long a broker waits for that. It is also how long the brokers may take to hear of a seek. Default: 500 ms,
    /// as Kafka's `fetch.max.wait.ms`.
    #[must_use]
    pub fn fetch_max_wait(mut self, wait: Duration) -> ConsumerConfig {
        self.fetch_max_wait = bounded(wait);
        self
    }

    /// How many bytes one broker gives at once; a batch that is longer comes all the same. At most 1 GiB. Default:
    /// 50 MiB, as Kafka's `fetch.max.bytes`.
    #[must_use]
    pub fn fetch_max_bytes(mut self, bytes: usize) -> ConsumerConfig {
        self.fetch_max_bytes = bytes.clamp(1, MOST_FETCH_BYTES);
        self
    }

    /// How many bytes of one partition a broker gives at once; a batch that is longer comes all the same. While less
    /// than that is here and not yet given out, more is fetched. At most 1 GiB. Default: 1 MiB, as Kafka's
    /// `max.partition.fetch.bytes`.
    #[must_use]
    pub fn max_partition_fetch_bytes(mut self, bytes: usize) -> ConsumerConfig {
        self.max_partition_fetch_bytes = bytes.clamp(1, MOST_FETCH_BYTES);
        self
    }

    /// How many bytes of all partitions are fetched ahead, compressed as they come; one batch from each broker may be
    /// beyond it. At most 1 TiB. Default: 64 MiB.
    #[must_use]
    pub fn buffer_memory(mut self, bytes: usize) -> ConsumerConfig {
        self.buffer_memory = bytes.clamp(1, 1 << 40);
        self
    }

    /// Whether the checksum of each batch is looked at. Default: yes, as Kafka's `check.crcs`.
    #[must_use]
    pub fn check_crcs(mut self, check: bool) -> ConsumerConfig {
        self.check_crcs = check;
        self
    }

    /// The rack that the consumer is in: brokers may send it to a replica there (KIP-392). Default: none, as Kafka's
    /// `client.rack`.
    #[must_use]
    pub fn client_rack(mut self, rack: impl Into<String>) -> ConsumerConfig {
        self.client_rack = rack.into();
        self
    }

    /// After how long what is known of a topic is asked for again. At least 1 s. Default: 5 minutes, as Kafka's
    /// `metadata.max.age.ms`.
    #[must_use]
    pub fn metadata_max_age(mut self, age: Duration) -> ConsumerConfig {
        self.metadata_max_age = bounded(age).max(Duration::from_secs(1));
        self
    }
}
