//! What a consumer is told.

use std::time::Duration;

use super::group::Assignor;
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

/// By which protocol a consumer is a member of its group. Kafka's `group.protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The consumer protocol where the coordinator serves it, unless the group is a classic one that stays so.
    #[default]
    Newest,
    /// The classic protocol: members share the partitions out among themselves.
    Classic,
    /// The consumer protocol (KIP-848): the coordinator shares out.
    Consumer,
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
    pub(crate) group_id: Option<String>,
    pub(crate) group_protocol: GroupProtocol,
    pub(crate) group_instance_id: Option<String>,
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) max_poll_interval: Duration,
    pub(crate) auto_commit: Option<Duration>,
    pub(crate) assignors: Vec<Assignor>,
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
            group_id: None,
            group_protocol: GroupProtocol::Newest,
            group_instance_id: None,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
            max_poll_interval: Duration::from_secs(300),
            auto_commit: Some(Duration::from_secs(5)),
            assignors: vec![Assignor::CooperativeSticky],
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

    /// The group in which it keeps its offsets, and which it may be a member of
    /// ([`subscribe`](crate::Consumer::subscribe)). Default: none, as Kafka's `group.id`.
    #[must_use]
    pub fn group(mut self, id: impl Into<String>) -> ConsumerConfig {
        self.group_id = Some(id.into());
        self
    }

    /// By which protocol it is a member of its group. Default: [`GroupProtocol::Newest`]; Kafka's `group.protocol` is
    /// `classic` if it is not set.
    #[must_use]
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> ConsumerConfig {
        self.group_protocol = protocol;
        self
    }

    /// A name that stays when the member starts again: it gets back what it had, and nobody else gets it meanwhile
    /// (KIP-345). No two members may have the same. Default: none, as Kafka's `group.instance.id`.
    #[must_use]
    pub fn group_instance_id(mut self, id: impl Into<String>) -> ConsumerConfig {
        self.group_instance_id = Some(id.into());
        self
    }

    /// After how long without a heartbeat the coordinator takes a member for dead. Brokers have limits of their own, 6
    /// s to 30 minutes if nobody changed them. By the consumer protocol it is the group's to say. Default: 45 s, as
    /// Kafka's `session.timeout.ms`.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> ConsumerConfig {
        self.session_timeout = bounded(timeout);
        self
    }

    /// How often a member tells that it lives; it should be a third of the session's timeout at most. By the consumer
    /// protocol it is the group's to say. Default: 3 s, as Kafka's `heartbeat.interval.ms`.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> ConsumerConfig {
        self.heartbeat_interval = bounded(interval).max(Duration::from_millis(10));
        self
    }

    /// How long the coordinator waits in a rebalance for this member to join again. Kafka's consumers say their
    /// `max.poll.interval.ms` here; this one joins without waiting for its caller. Default: 60 s.
    #[must_use]
    pub fn rebalance_timeout(mut self, timeout: Duration) -> ConsumerConfig {
        self.rebalance_timeout = bounded(timeout);
        self
    }

    /// How long the caller may not ask for records before the group is left for it, so that others read what it had; it
    /// is a member again when it asks for more. It is looked at with each heartbeat, so that less than two of their
    /// intervals counts as two. A caller that waits for records counts as there, and one that asks for
    /// [rebalances](crate::Consumer::rebalances) or is done with one has come. Default: 5 minutes, as Kafka's
    /// `max.poll.interval.ms`.
    #[must_use]
    pub fn max_poll_interval(mut self, interval: Duration) -> ConsumerConfig {
        self.max_poll_interval = bounded(interval);
        self
    }

    /// How often the group is told what the caller is done with, which is also done when a partition goes to another
    /// member and at the end; `None` leaves it to [`commit`](crate::Consumer::commit). A record counts as done when the
    /// caller has asked for another one. Default: every 5 s, as Kafka's `enable.auto.commit` and
    /// `auto.commit.interval.ms`.
    #[must_use]
    pub fn auto_commit(mut self, every: Option<Duration>) -> ConsumerConfig {
        self.auto_commit = every.map(|every| bounded(every).max(Duration::from_millis(10)));
        self
    }

    /// How partitions are shared out by the classic protocol, the preferred way first; the members of a group agree on
    /// one that all of them have. With [`Assignor::Range`] among them, a member gives up everything before each
    /// rebalance. An empty list changes nothing. Default: [`Assignor::CooperativeSticky`], which consumers in Java
    /// have, too, if nobody changed that.
    #[must_use]
    pub fn assignors(mut self, assignors: &[Assignor]) -> ConsumerConfig {
        if !assignors.is_empty() {
            self.assignors = assignors.to_vec();
        }
        self
    }
}
