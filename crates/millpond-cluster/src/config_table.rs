//! Every topic setting: Kafka's names, types and defaults (Kafka 4, `TopicConfig` and `LogConfig`), and two of ours.
//!
//! A setting is honoured, recorded or refused; it is never silently ignored. *Recorded* settings are accepted although
//! what they ask for is not built yet, because doing nothing keeps more data than asked for and loses none; the
//! answer carries a sentence that says so, for the broker's log.

/// The type of a setting, as `DescribeConfigs` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigKind {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
}

impl ConfigKind {
    /// The number of the type in Kafka's protocol (`DescribeConfigsResponse.ConfigType`).
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }
}

/// Which values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Valid {
    Boolean,
    /// A whole number in this range, ends included.
    Whole(i64, i64),
    /// -1, or a whole number in this range, ends included.
    DefaultOrWhole(i64, i64),
    /// A number in this range, ends included.
    Number(f64, f64),
    OneOf(&'static [&'static str]),
    /// Some of these, separated by commas, or nothing.
    Some(&'static [&'static str]),
    /// `partition:broker` pairs separated by commas, `*`, or nothing.
    Throttle,
}

/// What this broker does with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Works.
    Honoured,
    /// Accepted and kept; the sentence says what does not happen yet.
    Recorded(&'static str),
    /// Only the default is accepted; the sentence says why.
    Refused(&'static str),
}

/// One topic setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicConfig {
    /// The name on a topic.
    pub name: &'static str,
    /// The name of the broker setting that a topic inherits it from (the synonym in `DescribeConfigs`).
    pub broker_name: &'static str,
    pub kind: ConfigKind,
    pub default: &'static str,
    pub(crate) valid: Valid,
    pub support: Support,
    /// What it does, for people.
    pub documentation: &'static str,
}

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: &str = "9223372036854775807";

const NO_COMPACTION: &str = "this version of millpond does not compact yet, so more is kept than asked for";
const NO_TIERS: &str = "millpond has no tiered storage";
const NO_LEVELS: &str = "millpond compresses at each codec's default level";
const NO_THROTTLE: &str = "replicas are not throttled one by one; millpond.catch.up.bytes.per.second limits how fast \
     those of a broker are filled";
const FLUSH: &str = "when a write is synced is decided by millpond.flush";

macro_rules! topic_configs {
    ($($name:literal < $broker:literal: $kind:ident = $default:expr, $valid:expr, $support:expr, $doc:literal;)*) => {
        &[$(TopicConfig {
            name: $name,
            broker_name: $broker,
            kind: ConfigKind::$kind,
            default: $default,
            valid: $valid,
            support: $support,
            documentation: $doc,
        }),*]
    };
}

use Support::{Honoured, Recorded, Refused};
use Valid::{DefaultOrWhole, Number, OneOf, Throttle, Whole};

/// All topic settings in order of their names.
pub const TOPIC_CONFIGS: &[TopicConfig] = topic_configs! {
    "cleanup.policy" < "log.cleanup.policy": List = "delete", Valid::Some(&["compact", "delete"]),
        Recorded("delete is honoured; on a compacted topic records without a key are refused, but this version of \
                  millpond does not compact yet"),
        "What happens to old data: 'delete' drops it by age or size, 'compact' keeps the last record of each key, both \
         may be combined, and nothing keeps all. A compacted topic takes no record without a key.";
    "compression.gzip.level" < "compression.gzip.level": Int = "-1", DefaultOrWhole(1, 9), Refused(NO_LEVELS),
        "The gzip level where the broker compresses; -1 is the codec's default.";
    "compression.lz4.level" < "compression.lz4.level": Int = "9", Whole(1, 17), Refused(NO_LEVELS),
        "The lz4 level where the broker compresses.";
    "compression.type" < "compression.type": String = "producer",
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Honoured,
        "The codec that batches are stored in; 'producer' keeps what the producer chose.";
    "compression.zstd.level" < "compression.zstd.level": Int = "3", Whole(-131_072, 22), Refused(NO_LEVELS),
        "The zstd level where the broker compresses.";
    "delete.retention.ms" < "log.cleaner.delete.retention.ms": Long = "86400000", Whole(0, i64::MAX),
        Recorded(NO_COMPACTION),
        "How long a tombstone stays after compaction, in milliseconds.";
    "file.delete.delay.ms" < "log.segment.delete.delay.ms": Long = "60000", Whole(0, i64::MAX),
        Refused("millpond deletes a file when nobody reads it any more, whatever the time"),
        "How long a file waits before it is deleted, in milliseconds.";
    "flush.messages" < "log.flush.interval.messages": Long = LONG_MAX, Whole(1, i64::MAX), Refused(FLUSH),
        "After how many records the log is synced.";
    "flush.ms" < "log.flush.interval.ms": Long = LONG_MAX, Whole(0, i64::MAX), Refused(FLUSH),
        "After how many milliseconds the log is synced.";
    "follower.replication.throttled.replicas" < "follower.replication.throttled.replicas": List = "", Throttle,
        Refused(NO_THROTTLE),
        "Replicas whose fetching from leaders is throttled.";
    "index.interval.bytes" < "log.index.interval.bytes": Int = "4096", Whole(0, INT_MAX),
        Refused("the distance of index entries is one setting for the whole broker, log.index.interval.bytes"),
        "How many bytes of log lie between two index entries.";
    "leader.replication.throttled.replicas" < "leader.replication.throttled.replicas": List = "", Throttle,
        Refused(NO_THROTTLE),
        "Replicas whose sending to followers is throttled.";
    "local.retention.bytes" < "log.local.retention.bytes": Long = "-2", Whole(-2, i64::MAX), Refused(NO_TIERS),
        "Bytes of a partition that stay local once they are in remote storage.";
    "local.retention.ms" < "log.local.retention.ms": Long = "-2", Whole(-2, i64::MAX), Refused(NO_TIERS),
        "Milliseconds that data stays local once it is in remote storage.";
    "max.compaction.lag.ms" < "log.cleaner.max.compaction.lag.ms": Long = LONG_MAX, Whole(1, i64::MAX),
        Recorded(NO_COMPACTION),
        "The longest that a record waits for compaction, in milliseconds.";
    "max.message.bytes" < "message.max.bytes": Int = "1048588", Whole(0, INT_MAX), Honoured,
        "The largest record batch, in bytes as it comes from the producer.";
    "message.timestamp.after.max.ms" < "log.message.timestamp.after.max.ms": Long = "3600000", Whole(0, i64::MAX),
        Honoured,
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds.";
    "message.timestamp.before.max.ms" < "log.message.timestamp.before.max.ms": Long = LONG_MAX, Whole(0, i64::MAX),
        Honoured,
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds.";
    "message.timestamp.type" < "log.message.timestamp.type": String = "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]), Honoured,
        "Whether records carry the producer's time or the time of the append.";
    "millpond.flush" < "millpond.flush": String = "durable", OneOf(&["durable", "relaxed"]), Honoured,
        "When a write counts as flushed: 'durable' after a sync to disk, 'relaxed' when the operating system has it.";
    "millpond.validation" < "millpond.validation": String = "header", OneOf(&["header", "deep"]), Honoured,
        "How far produce looks into compressed batches: 'header' trusts what the CRC covers, 'deep' checks every \
         record.";
    "min.cleanable.dirty.ratio" < "log.cleaner.min.cleanable.ratio": Double = "0.5", Number(0.0, 1.0),
        Recorded(NO_COMPACTION),
        "How much of a log must be new since the last compaction before the next.";
    "min.compaction.lag.ms" < "log.cleaner.min.compaction.lag.ms": Long = "0", Whole(0, i64::MAX),
        Recorded(NO_COMPACTION),
        "How long a record is safe from compaction, in milliseconds.";
    "min.insync.replicas" < "min.insync.replicas": Int = "1", Whole(1, INT_MAX), Honoured,
        "How many replicas must have a write with acks=all before it is acknowledged, at most all there are.";
    "preallocate" < "log.preallocate": Boolean = "false", Valid::Boolean,
        Refused("millpond preallocates its journal and never a segment"),
        "Whether segment files are preallocated.";
    "remote.log.copy.disable" < "remote.log.copy.disable": Boolean = "false", Valid::Boolean, Refused(NO_TIERS),
        "Whether data is no longer copied to remote storage.";
    "remote.log.delete.on.disable" < "remote.log.delete.on.disable": Boolean = "false", Valid::Boolean,
        Refused(NO_TIERS),
        "Whether remote data is deleted when remote storage is disabled.";
    "remote.storage.enable" < "remote.storage.enable": Boolean = "false", Valid::Boolean, Refused(NO_TIERS),
        "Whether closed segments go to remote storage.";
    "retention.bytes" < "log.retention.bytes": Long = "-1", Whole(-1, i64::MAX), Honoured,
        "How many bytes of a partition are kept; -1 is no limit.";
    "retention.ms" < "log.retention.ms": Long = "604800000", Whole(-1, i64::MAX), Honoured,
        "How long records are kept, in milliseconds; -1 is for ever.";
    "segment.bytes" < "log.segment.bytes": Int = "1073741824", Whole(1 << 20, INT_MAX), Honoured,
        "A segment is closed when the next batch would take it beyond this many bytes.";
    "segment.index.bytes" < "log.index.size.max.bytes": Int = "10485760", Whole(4, INT_MAX),
        Refused("millpond's indexes grow with their segment and are not preallocated"),
        "The size of a segment's index, in bytes.";
    "segment.jitter.ms" < "log.roll.jitter.ms": Long = "0", Whole(0, i64::MAX), Honoured,
        "By how much segment.ms is shortened at random, in milliseconds.";
    "segment.ms" < "log.roll.ms": Long = "604800000", Whole(1, i64::MAX), Honoured,
        "A segment is closed by the first append after this time, even if it is not full, in milliseconds.";
    "unclean.leader.election.enable" < "unclean.leader.election.enable": Boolean = "false", Valid::Boolean,
        Refused("millpond never elects a replica that may lack acknowledged records; an operator can, by command"),
        "Whether a replica that lacks acknowledged records may lead when no other is left.";
};

/// The row of a topic setting, by its name on a topic.
pub fn topic_config(name: &str) -> Option<&'static TopicConfig> {
    let at = TOPIC_CONFIGS.binary_search_by(|config| config.name.cmp(name)).ok()?;
    TOPIC_CONFIGS.get(at)
}

/// The row of the topic setting that inherits from a broker setting, by that one's name.
pub fn topic_config_of_broker(name: &str) -> Option<&'static TopicConfig> {
    TOPIC_CONFIGS.iter().find(|config| config.broker_name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_value;

    #[test]
    fn the_table_is_in_order_of_names_so_that_it_can_be_searched() {
        assert!(TOPIC_CONFIGS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for config in TOPIC_CONFIGS {
            assert_eq!(topic_config(config.name), Some(config));
            assert!(!config.documentation.is_empty());
        }
        assert_eq!(topic_config("no.such.config"), None);
    }

    #[test]
    fn every_default_is_a_valid_value() {
        for config in TOPIC_CONFIGS {
            assert_eq!(check_value(config, config.default), Ok(()), "{}", config.name);
        }
    }
}
