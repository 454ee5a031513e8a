//! What a producer is told.

use std::time::Duration;

use millpond_record::Codec;

use crate::config::bounded;

/// The most that a request may be given room for.
const MOST_REQUEST_BYTES: usize = 1 << 30;

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// When it has left. Nobody says whether it arrived; it has no offset.
    None,
    /// When the partition's leader has it.
    Leader,
    /// When all replicas that are in sync have it.
    #[default]
    All,
}

impl Acks {
    pub(crate) fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a producer works. Every setting has a default that is safe: idempotent, acknowledged by all replicas. Values out
/// of range are taken to the nearest that is in it; no time is longer than a year.
///
/// How long one request may take and how long to wait before it is tried again is said by
/// [`ClientConfig`](crate::ClientConfig).
///
/// ```
/// use std::time::Duration;
/// use millpond_client::{Codec, ProducerConfig};
///
/// let config = ProducerConfig::default().codec(Codec::Zstd).linger(Duration::from_millis(20)).batch_bytes(1 << 20);
/// # drop(config);
/// ```
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    pub(crate) acks: Acks,
    pub(crate) idempotent: bool,
    pub(crate) codec: Codec,
    pub(crate) linger: Duration,
    pub(crate) batch_bytes: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) delivery_timeout: Duration,
    pub(crate) max_block: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) create_topics: bool,
    pub(crate) metadata_max_age: Duration,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            idempotent: true,
            codec: Codec::None,
            linger: Duration::from_millis(5),
            batch_bytes: 256 << 10,
            max_request_bytes: 1 << 20,
            buffer_memory: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(60),
            max_in_flight: 5,
            create_topics: false,
            metadata_max_age: Duration::from_secs(300),
        }
    }
}

impl ProducerConfig {
    /// When a record counts as written. Anything but [`Acks::All`] also turns idempotence off. Default: `All`.
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> ProducerConfig {
        self.acks = acks;
        self.idempotent &= acks == Acks::All;
        self
    }

    /// Whether what is sent again is recognized by the broker, so that it is there once and in order. Without it a
    /// record may be there twice after a failure; order is kept by sending one batch of a partition at a time. Can only
    /// be on with [`Acks::All`]. Default: on.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> ProducerConfig {
        self.idempotent = idempotent && self.acks == Acks::All;
        self
    }

    /// How batches are compressed. Default: not at all.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> ProducerConfig {
        self.codec = codec;
        self
    }

    /// How long a batch waits for more records before it is sent: about so long, as a timer may be 1 ms early or late.
    /// Default: 5 ms, as Kafka's `linger.ms`.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> ProducerConfig {
        self.linger = bounded(linger);
        self
    }

    /// How long a batch may get, not compressed; a longer record has a batch to itself. It is never longer than
    /// [`max_request_bytes`](ProducerConfig::max_request_bytes) and
    /// [`buffer_memory`](ProducerConfig::buffer_memory). A topic's `max.message.bytes` counts for the batch as it is
    /// sent, compressed: one that is longer is refused as a whole (`MESSAGE_TOO_LARGE`), all its records with it; it is
    /// not split. Default: 256 KiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> ProducerConfig {
        self.batch_bytes = bytes.clamp(1, MOST_REQUEST_BYTES);
        self
    }

    /// How many bytes of batches one request takes, and so the longest record; a longer one is refused before it is
    /// queued. The topic's `max.message.bytes` is a limit of its own. At most 1 GiB. Default: 1 MiB, as Kafka's
    /// `max.request.size`.
    #[must_use]
    pub fn max_request_bytes(mut self, bytes: usize) -> ProducerConfig {
        self.max_request_bytes = bytes.clamp(1, MOST_REQUEST_BYTES);
        self
    }

    /// How many bytes of records may wait for their outcome; further ones wait for these. At most 1 TiB. Default:
    /// 32 MiB, as Kafka's `buffer.memory`.
    #[must_use]
    pub fn buffer_memory(mut self, bytes: usize) -> ProducerConfig {
        self.buffer_memory = bytes.clamp(1, 1 << 40);
        self
    }

    /// How long a record may take from being queued to its outcome, whatever is tried again inside of it. Default:
    /// 120 s, as Kafka's `delivery.timeout.ms`.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> ProducerConfig {
        self.delivery_timeout = bounded(timeout);
        self
    }

    /// How long [`send`](crate::Producer::send) may wait for memory, and for what it must know of the topic. Default:
    /// 60 s, as Kafka's `max.block.ms`.
    #[must_use]
    pub fn max_block(mut self, limit: Duration) -> ProducerConfig {
        self.max_block = bounded(limit);
        self
    }

    /// How many requests may be on the way to one broker: 1 to 5, which is how many batches a broker recognizes.
    /// Default: 5.
    #[must_use]
    pub fn max_in_flight(mut self, requests: usize) -> ProducerConfig {
        self.max_in_flight = requests.clamp(1, 5);
        self
    }

    /// Whether a topic that is missing is made, if the cluster does that (`auto.create.topics.enable`). Default: no.
    #[must_use]
    pub fn create_topics(mut self, create: bool) -> ProducerConfig {
        self.create_topics = create;
        self
    }

    /// After how long what is known of a topic is asked for again, so that new partitions are found. At least 1 s.
    /// Default: 5 minutes, as Kafka's `metadata.max.age.ms`.
    #[must_use]
    pub fn metadata_max_age(mut self, age: Duration) -> ProducerConfig {
        self.metadata_max_age = bounded(age).max(Duration::from_secs(1));
        self
    }

    /// The longest batch of more than one record.
    pub(crate) fn most_batch_bytes(&self) -> usize {
        self.batch_bytes.min(self.max_request_bytes).min(self.buffer_memory)
    }

    /// The longest record that can be sent at all: it must fit into a request and into the memory.
    pub(crate) fn most_record_bytes(&self) -> usize {
        self.max_request_bytes.min(self.buffer_memory).saturating_sub(millpond_record::HEADER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotence_needs_the_acknowledgement_of_all() {
        assert!(ProducerConfig::default().idempotent);
        assert!(!ProducerConfig::default().acks(Acks::Leader).idempotent);
        assert!(!ProducerConfig::default().acks(Acks::None).idempotent(true).idempotent);
        assert!(!ProducerConfig::default().idempotent(false).acks(Acks::All).idempotent);
    }

    #[test]
    fn values_out_of_range_are_taken_to_the_nearest_that_is_in_it() {
        let config = ProducerConfig::default()
            .linger(Duration::MAX)
            .delivery_timeout(Duration::MAX)
            .max_block(Duration::MAX)
            .metadata_max_age(Duration::MAX)
            .batch_bytes(usize::MAX)
            .max_request_bytes(usize::MAX)
            .buffer_memory(usize::MAX);
        let year = Duration::from_secs(365 * 24 * 3600);
        let times = [config.linger, config.delivery_timeout, config.max_block, config.metadata_max_age];
        assert_eq!(times, [year; 4]);
        assert_eq!((config.batch_bytes, config.max_request_bytes), (1 << 30, 1 << 30));
        assert_eq!(config.buffer_memory, 1 << 40);
        let of = |request, memory| {
            let config = ProducerConfig::default().batch_bytes(5000).max_request_bytes(request).buffer_memory(memory);
            config.most_batch_bytes()
        };
        assert_eq!((of(3000, 9000), of(9000, 4000), of(9000, 9000)), (3000, 4000, 5000));
    }
}
