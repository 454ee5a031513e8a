//! Checking the values of topic settings, and what is in force on a topic.
//!
//! A value comes from the topic itself, else from what was set at run time on the broker or on all brokers, else from
//! the broker's configuration, else from the table.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::BrokerId;

use crate::config_table::{
    ConfigKind, Support, TOPIC_CONFIGS, TopicConfig, Valid, topic_config, topic_config_of_broker,
};
use crate::image::Image;
use crate::names::is_internal_topic;

/// Why a topic setting is refused. All of them are INVALID_CONFIG to a client.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("there is no topic setting {0:?}")]
    Unknown(String),
    #[error("topic setting {0} has no value")]
    Null(String),
    #[error("topic setting {0} is given twice")]
    Twice(String),
    #[error("the value of topic setting {name} has {bytes} bytes: the limit is {MAX_CONFIG_VALUE_BYTES}")]
    TooLong { name: &'static str, bytes: usize },
    #[error("min.compaction.lag.ms ({min}) is above max.compaction.lag.ms ({max})")]
    CompactionLags { min: i64, max: i64 },
    #[error("topic setting {name} cannot be {value:?}: {expected}")]
    Invalid { name: &'static str, value: String, expected: String },
    #[error(
        "topic {0:?} is the broker's own and cannot have millpond.flush=relaxed: what is acknowledged in it must \
         survive a power loss"
    )]
    InternalNotDurable(String),
    #[error("topic setting {name} cannot be {value:?}, only {only:?}: {why}")]
    Unsupported { name: &'static str, value: String, only: String, why: &'static str },
}

/// The longest value of a setting, in bytes (Kafka's `ConfigurationControlManager`): values are in memory on every
/// broker, and in every description.
pub const MAX_CONFIG_VALUE_BYTES: usize = i16::MAX as usize;

/// Where a value in force comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    Topic,
    /// Set at run time on this broker.
    RuntimeBroker,
    /// Set at run time on all brokers.
    RuntimeCluster,
    Broker,
    Default,
}

impl ConfigSource {
    /// The number in Kafka's protocol (`DescribeConfigsResponse.ConfigSource`).
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::RuntimeBroker => 2,
            Self::RuntimeCluster => 3,
            Self::Broker => 4,
            Self::Default => 5,
        }
    }
}

/// A setting as it is in force on a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveConfig {
    pub config: &'static TopicConfig,
    pub value: String,
    pub source: ConfigSource,
}

/// The setting that a topic has from its creation on: a default that changes must not change how safe the writes of
/// existing topics are. It is written into each new topic instead of being inherited.
const FIXED_AT_CREATION: &str = "millpond.flush";

/// What brokers say about settings that topics inherit, by the settings' names on topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicDefaults {
    /// By the broker's own configuration.
    configured: BTreeMap<&'static str, String>,
    /// Set at run time on all brokers.
    cluster: BTreeMap<&'static str, String>,
    /// Set at run time on this broker.
    broker: BTreeMap<&'static str, String>,
}

impl TopicDefaults {
    /// Sets the value that topics inherit, by the setting's name on a topic.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let config = topic_config(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
        check_supported(config, value, config.default)?;
        self.configure(config, value);
        Ok(())
    }

    /// Sets the value that a setting has for all topics of this broker and that no topic can change: by the setting's
    /// name on a topic. `value` is a valid one.
    pub fn fix(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let config = topic_config(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
        check_value(config, value)?;
        self.configure(config, value);
        Ok(())
    }

    fn configure(&mut self, config: &'static TopicConfig, value: &str) {
        if same_value(value, config.default) {
            self.configured.remove(config.name);
        } else {
            self.configured.insert(config.name, value.trim().to_owned());
        }
    }

    /// What a setting that cannot be changed is on this broker.
    pub(crate) fn fixed(&self, config: &'static TopicConfig) -> &str {
        self.configured.get(config.name).map_or(config.default, String::as_str)
    }

    /// These defaults together with what the image says was set at run time, by the names of broker settings.
    pub fn with_runtime(&self, image: &Image, broker: BrokerId) -> TopicDefaults {
        let of = |settings: Option<&BTreeMap<String, String>>| {
            let settings = settings.into_iter().flatten();
            settings.filter_map(|(name, value)| Some((topic_config_of_broker(name)?.name, value.clone()))).collect()
        };
        TopicDefaults {
            configured: self.configured.clone(),
            cluster: of(image.broker_settings(None)),
            broker: of(image.broker_settings(Some(broker))),
        }
    }

    /// The values that a setting has on the broker, the one in force first; the last is the built-in default.
    pub fn values<'a>(&'a self, config: &'static TopicConfig) -> impl Iterator<Item = (&'a str, ConfigSource)> {
        let layers = [
            (&self.broker, ConfigSource::RuntimeBroker),
            (&self.cluster, ConfigSource::RuntimeCluster),
            (&self.configured, ConfigSource::Broker),
        ];
        let can_change = !matches!(config.support, Support::Refused(_));
        let layers = layers.into_iter().filter(move |(_, source)| can_change || *source == ConfigSource::Broker);
        let set = layers.filter_map(|(layer, source)| Some((layer.get(config.name)?.as_str(), source)));
        set.chain([(config.default, ConfigSource::Default)])
    }

    /// The settings that a new topic gets of its own although nobody set them.
    pub(crate) fn written_into_topics(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let config = topic_config(FIXED_AT_CREATION).into_iter();
        config.filter_map(|config| {
            let (value, source) = self.values(config).next()?;
            (source != ConfigSource::Default).then_some((config.name, value))
        })
    }
}

/// A value that a setting has or would have, and under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    pub name: &'static str,
    pub value: String,
    pub source: ConfigSource,
}

/// Where a topic's setting comes from: the value in force first, then what would be in force without it.
pub fn topic_synonyms(
    config: &'static TopicConfig,
    own: &BTreeMap<String, String>,
    defaults: &TopicDefaults,
) -> Vec<Synonym> {
    let own = own_value(config, own, defaults).map(|value| (config.name, value, ConfigSource::Topic));
    let fixed = config.name == FIXED_AT_CREATION;
    let inherited = defaults.values(config).filter(|(_, source)| !fixed || *source == ConfigSource::Default);
    let inherited = inherited.map(|(value, source)| (config.broker_name, value, source));
    let all = own.into_iter().chain(inherited);
    all.map(|(name, value, source)| Synonym { name, value: value.to_owned(), source }).collect()
}

impl TopicDefaults {
    fn in_force(&self, config: &'static TopicConfig) -> (&str, ConfigSource) {
        if config.name == FIXED_AT_CREATION {
            return (config.default, ConfigSource::Default);
        }
        self.values(config).next().unwrap_or((config.default, ConfigSource::Default))
    }
}

/// What a topic says itself of a setting. One that cannot be changed may have changed since, with the broker's
/// configuration: then that counts.
fn own_value<'a>(
    config: &'static TopicConfig,
    own: &'a BTreeMap<String, String>,
    defaults: &TopicDefaults,
) -> Option<&'a str> {
    let value = own.get(config.name)?.as_str();
    let can_change = !matches!(config.support, Support::Refused(_));
    (can_change || same_value(value, defaults.fixed(config))).then_some(value)
}

/// Checks what a client wants to set on a topic. The notices are sentences on what is accepted but does not happen yet.
pub fn check_topic_configs(
    wanted: &[(String, Option<String>)],
    defaults: &TopicDefaults,
) -> Result<(BTreeMap<String, String>, Vec<String>), ConfigError> {
    let mut configs = BTreeMap::new();
    let mut notices = Vec::new();
    for (name, value) in wanted {
        let config = topic_config(name).ok_or_else(|| ConfigError::Unknown(name.clone()))?;
        let value = value.as_deref().ok_or_else(|| ConfigError::Null(name.clone()))?;
        check_supported(config, value, defaults.fixed(config))?;
        if let Support::Recorded(sentence) = config.support
            && !same_value(value, config.default)
        {
            notices.push(format!("{name}={value} is accepted, but {sentence}"));
        }
        if configs.insert(name.clone(), normalized(config, value)).is_some() {
            return Err(ConfigError::Twice(name.clone()));
        }
    }
    check_together(&configs)?;
    Ok((configs, notices))
}

/// All settings of a topic with their values in force, in order of their names.
pub fn effective_configs(own: &BTreeMap<String, String>, defaults: &TopicDefaults) -> Vec<EffectiveConfig> {
    TOPIC_CONFIGS.iter().map(|config| effective(config, own, defaults)).collect()
}

fn effective(
    config: &'static TopicConfig,
    own: &BTreeMap<String, String>,
    defaults: &TopicDefaults,
) -> EffectiveConfig {
    let own = own_value(config, own, defaults).map(|value| (value, ConfigSource::Topic));
    let (value, source) = own.unwrap_or_else(|| defaults.in_force(config));
    EffectiveConfig { config, value: value.to_owned(), source }
}

/// What happens to old data (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// The codec that batches are stored in (`compression.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As they come.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Whose time records carry (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// When a write counts as flushed (`millpond.flush`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushSetting {
    Durable,
    Relaxed,
}

/// How far produce looks into compressed batches (`millpond.validation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    Header,
    Deep,
}

/// The settings that the broker acts on, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    pub cleanup: CleanupPolicy,
    pub compression: CompressionType,
    /// Bytes of a batch as it comes: 0 to 2^31 - 1.
    pub max_message_bytes: u32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// At least 1; counts up to the number of a partition's replicas, as in Kafka (`Partition.effectiveMinIsr`). So a
    /// partition with one replica always has enough of them.
    pub min_insync_replicas: u32,
    /// 1 MiB to 2^31 - 1 bytes.
    pub segment_bytes: u32,
    /// At least 1 millisecond.
    pub segment_ms: u64,
    /// Milliseconds by which `segment_ms` is shortened at most.
    pub segment_jitter_ms: u64,
    /// Milliseconds; `None` keeps records for ever.
    pub retention_ms: Option<u64>,
    /// Bytes of a partition; `None` is no limit.
    pub retention_bytes: Option<u64>,
    pub flush: FlushSetting,
    pub validation: Validation,
}

impl TopicSettings {
    /// The settings in force. Fails only for values that never passed [`check_topic_configs`].
    pub fn resolve(own: &BTreeMap<String, String>, defaults: &TopicDefaults) -> Result<TopicSettings, ConfigError> {
        let value = |name: &str| -> Result<String, ConfigError> {
            let config = topic_config(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
            let effective = effective(config, own, defaults);
            check_value(config, &effective.value)?;
            Ok(effective.value)
        };
        let whole = |name: &str| -> Result<i64, ConfigError> {
            Ok(value(name)?.trim().parse().expect("check_value accepts whole numbers only"))
        };
        let small = |name: &str| -> Result<u32, ConfigError> {
            Ok(u32::try_from(whole(name)?).expect("the table limits this setting to 0..2^31"))
        };
        let cleanup = value("cleanup.policy")?;
        let policies = || cleanup.split(',').map(str::trim);
        Ok(TopicSettings {
            cleanup: CleanupPolicy {
                delete: policies().any(|policy| policy == "delete"),
                compact: policies().any(|policy| policy == "compact"),
            },
            compression: match value("compression.type")?.as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            max_message_bytes: small("max.message.bytes")?,
            timestamp_type: match value("message.timestamp.type")?.as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: whole("message.timestamp.before.max.ms")?,
            timestamp_after_max_ms: whole("message.timestamp.after.max.ms")?,
            min_insync_replicas: small("min.insync.replicas")?,
            segment_bytes: small("segment.bytes")?,
            segment_ms: u64::try_from(whole("segment.ms")?).expect("the table limits this setting to 1 and above"),
            segment_jitter_ms: u64::try_from(whole("segment.jitter.ms")?)
                .expect("the table keeps it from falling below 0"),
            // -1 is no limit.
            retention_ms: u64::try_from(whole("retention.ms")?).ok(),
            retention_bytes: u64::try_from(whole("retention.bytes")?).ok(),
            flush: match value("millpond.flush")?.as_str() {
                "relaxed" => FlushSetting::Relaxed,
                _ => FlushSetting::Durable,
            },
            validation: match value("millpond.validation")?.as_str() {
                "deep" => Validation::Deep,
                _ => Validation::Header,
            },
        })
    }
}

/// A checked value as it is kept: a list has each item once.
pub(crate) fn normalized(config: &'static TopicConfig, value: &str) -> String {
    if config.kind != ConfigKind::List {
        return value.trim().to_owned();
    }
    let mut seen = BTreeSet::new();
    let items: Vec<&str> = value.split(',').map(str::trim).filter(|item| seen.insert(*item)).collect();
    items.join(",")
}

/// Checks what a client sent as a value, or as a part of one.
pub(crate) fn check_length(config: &'static TopicConfig, value: &str) -> Result<(), ConfigError> {
    let (name, bytes) = (config.name, value.len());
    if bytes > MAX_CONFIG_VALUE_BYTES { Err(ConfigError::TooLong { name, bytes }) } else { Ok(()) }
}

/// Checks that settings of a topic go together (Kafka's `LogConfig.validateValues`).
pub(crate) fn check_together(own: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let value = |name: &str| -> Option<i64> {
        own.get(name).map(String::as_str).or_else(|| Some(topic_config(name)?.default))?.trim().parse().ok()
    };
    match (value("min.compaction.lag.ms"), value("max.compaction.lag.ms")) {
        (Some(min), Some(max)) if min > max => Err(ConfigError::CompactionLags { min, max }),
        _ => Ok(()),
    }
}

/// Checks that a topic which coordinators keep for themselves stays durable, whatever other topics are.
pub(crate) fn check_durable_if_internal(topic: &str, own: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let relaxed = own.get(FIXED_AT_CREATION).is_some_and(|value| !same_value(value, "durable"));
    if relaxed && is_internal_topic(topic) {
        return Err(ConfigError::InternalNotDurable(topic.to_owned()));
    }
    Ok(())
}

/// Checks a value, and that the broker acts on it.
pub(crate) fn check_supported(config: &'static TopicConfig, value: &str, fixed: &str) -> Result<(), ConfigError> {
    check_length(config, value)?;
    check_value(config, value)?;
    match config.support {
        Support::Refused(why) if !same_value(value, fixed) => {
            Err(ConfigError::Unsupported { name: config.name, value: value.to_owned(), only: fixed.to_owned(), why })
        }
        _ => Ok(()),
    }
}

/// Whether two values mean the same, written this way or that.
pub(crate) fn same_value(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(_), Ok(_)) if a.parse::<i64>().is_ok() && b.parse::<i64>().is_ok() => a.parse::<i64>() == b.parse::<i64>(),
        (Ok(a), Ok(b)) => a == b,
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// Checks a value against the table; whether it is supported is another question.
pub(crate) fn check_value(config: &'static TopicConfig, value: &str) -> Result<(), ConfigError> {
    let trimmed = value.trim();
    let expected = match config.valid {
        Valid::Boolean if matches!(trimmed.to_ascii_lowercase().as_str(), "true" | "false") => return Ok(()),
        Valid::Boolean => "true or false".to_owned(),
        Valid::Whole(min, max) | Valid::DefaultOrWhole(min, max) => {
            let or_default = matches!(config.valid, Valid::DefaultOrWhole(..));
            match trimmed.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) || or_default && number == -1 => return Ok(()),
                _ => format!("a whole number from {min} to {max}{}", if or_default { ", or -1" } else { "" }),
            }
        }
        Valid::Number(min, max) => match trimmed.parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => return Ok(()),
            _ => format!("a number from {min} to {max}"),
        },
        Valid::OneOf(words) if words.contains(&trimmed) => return Ok(()),
        Valid::OneOf(words) => format!("one of {}", words.join(", ")),
        Valid::Some(words) => {
            let mut parts = trimmed.split(',').map(str::trim);
            if trimmed.is_empty() || parts.all(|part| words.contains(&part)) {
                return Ok(());
            }
            format!("some of {}, separated by commas, or nothing", words.join(", "))
        }
        Valid::Throttle if is_throttle_list(trimmed) => return Ok(()),
        Valid::Throttle => "'*', or partition:broker pairs separated by commas".to_owned(),
    };
    Err(ConfigError::Invalid { name: config.name, value: value.to_owned(), expected })
}

fn is_throttle_list(value: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().is_ok();
    let pair = |pair: &str| pair.split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker));
    value.is_empty() || value == "*" || value.split(',').all(pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MetadataRecord;

    fn check(name: &str, value: Option<&str>) -> Result<(BTreeMap<String, String>, Vec<String>), ConfigError> {
        check_topic_configs(&[(name.to_owned(), value.map(str::to_owned))], &TopicDefaults::default())
    }

    #[test]
    fn bad_values_are_refused_as_kafka_refuses_them() {
        for (name, value) in [
            ("no.such.config", Some("1")),
            ("retention.ms", Some("abc")),
            ("retention.ms", Some("-2")),
            ("retention.ms", None),
            ("cleanup.policy", Some("shred")),
            ("cleanup.policy", Some(",")),
            ("compression.type", Some("brotli")),
            ("compression.gzip.level", Some("0")),
            ("min.insync.replicas", Some("0")),
            ("message.timestamp.type", Some("Never")),
            ("max.message.bytes", Some("-1")),
            ("max.message.bytes", Some("2147483648")),
            ("min.cleanable.dirty.ratio", Some("1.5")),
            ("min.cleanable.dirty.ratio", Some("NaN")),
            ("preallocate", Some("maybe")),
            ("leader.replication.throttled.replicas", Some("x")),
        ] {
            assert!(check(name, value).is_err(), "{name}={value:?}");
        }
    }

    #[test]
    fn good_values_of_honoured_settings_are_kept_without_a_notice() {
        for (name, value) in [
            ("max.message.bytes", "0"),
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "1000"),
            ("segment.jitter.ms", "100"),
            ("retention.ms", "-1"),
            ("retention.bytes", "12345"),
            ("cleanup.policy", "delete"),
            ("compression.gzip.level", "-1"),
            ("compression.type", "zstd"),
            ("millpond.flush", "relaxed"),
        ] {
            let (configs, notices) = check(name, Some(value)).expect("a good value");
            assert_eq!((configs.get(name).map(String::as_str), notices), (Some(value), vec![]));
        }
    }

    #[test]
    fn a_setting_that_does_nothing_yet_is_accepted_with_a_sentence_that_says_so() {
        for (name, value) in [("cleanup.policy", "delete,compact"), ("min.compaction.lag.ms", "1000")] {
            let (configs, notices) = check(name, Some(value)).expect("a good value");
            assert_eq!(configs.get(name).map(String::as_str), Some(value));
            assert!(notices.len() == 1 && notices[0].contains(name), "{notices:?}");
        }
        let (_, notices) = check("delete.retention.ms", Some("86400000")).expect("the default");
        assert_eq!(notices, Vec::<String>::new());
    }

    #[test]
    fn a_policy_may_be_none_and_names_each_one_once() {
        for (given, kept, delete, compact) in [
            ("", "", false, false),
            ("delete, delete", "delete", true, false),
            ("delete,compact,delete", "delete,compact", true, true),
        ] {
            let (configs, _) = check("cleanup.policy", Some(given)).expect("a good value");
            assert_eq!(configs.get("cleanup.policy").map(String::as_str), Some(kept));
            let settings = TopicSettings::resolve(&configs, &TopicDefaults::default()).expect("checked values");
            assert_eq!(settings.cleanup, CleanupPolicy { delete, compact });
        }
    }

    #[test]
    fn a_setting_that_cannot_be_honoured_takes_its_default_and_nothing_else() {
        assert!(check("flush.messages", Some("9223372036854775807")).is_ok());
        let refused = check("flush.messages", Some("1")).expect_err("not honoured");
        assert!(matches!(refused, ConfigError::Unsupported { name: "flush.messages", .. }), "{refused}");
        assert!(check("preallocate", Some("FALSE")).is_ok());
        assert!(check("unclean.leader.election.enable", Some("true")).is_err());
    }

    #[test]
    fn a_setting_that_only_the_broker_has_is_described_as_the_broker_has_it_and_takes_that_value() {
        let name = "index.interval.bytes";
        let config = topic_config(name).expect("a row");
        let mut defaults = TopicDefaults::default();
        defaults.fix(name, "8192").expect("a good value");
        let in_force = |own: &str| {
            let own = BTreeMap::from([(name.to_owned(), own.to_owned())]);
            let effective = effective_configs(&own, &defaults).into_iter().find(|effective| effective.config == config);
            let effective = effective.map(|effective| (effective.value, effective.source)).expect("it is among all");
            let first = topic_synonyms(config, &own, &defaults).remove(0);
            assert_eq!((first.value, first.source), effective);
            effective
        };
        assert_eq!(in_force("8192"), ("8192".to_owned(), ConfigSource::Topic));
        // It was set when the broker had another value.
        assert_eq!(in_force("4096"), ("8192".to_owned(), ConfigSource::Broker));
        let check = |value: &str| check_topic_configs(&[(name.to_owned(), Some(value.to_owned()))], &defaults);
        assert!(check("8192").is_ok());
        let refused = check("4096").expect_err("it is not so").to_string();
        assert!(refused.contains("only \"8192\"") && refused.contains("log.index.interval.bytes"), "{refused}");
    }

    #[test]
    fn the_topic_comes_before_the_broker_and_the_broker_before_the_table() {
        let mut defaults = TopicDefaults::default();
        defaults.set("millpond.validation", "deep").expect("a good default");
        defaults.set("max.message.bytes", "1000").expect("a good default");
        let own = BTreeMap::from([("max.message.bytes".to_owned(), "2000".to_owned())]);
        let all = effective_configs(&own, &defaults);
        let of = |name: &str| {
            let found = all.iter().find(|effective| effective.config.name == name).expect("known");
            (found.value.as_str(), found.source)
        };
        assert_eq!(of("max.message.bytes"), ("2000", ConfigSource::Topic));
        assert_eq!(of("millpond.validation"), ("deep", ConfigSource::Broker));
        assert_eq!(of("cleanup.policy"), ("delete", ConfigSource::Default));
        let settings = TopicSettings::resolve(&own, &defaults).expect("checked values");
        assert_eq!((settings.max_message_bytes, settings.validation), (2000, Validation::Deep));
        assert_eq!(settings.cleanup, CleanupPolicy { delete: true, compact: false });
    }

    #[test]
    fn a_default_that_changes_leaves_the_flushing_of_existing_topics_alone() {
        let mut defaults = TopicDefaults::default();
        assert_eq!(defaults.written_into_topics().next(), None);
        defaults.set("millpond.flush", "relaxed").expect("a good default");
        assert_eq!(defaults.written_into_topics().collect::<Vec<_>>(), [("millpond.flush", "relaxed")]);
        let settings = TopicSettings::resolve(&BTreeMap::new(), &defaults).expect("checked values");
        assert_eq!(settings.flush, FlushSetting::Durable);
    }

    #[test]
    fn what_is_set_at_run_time_comes_before_the_configuration_and_one_broker_before_all() {
        let settings = |value: &str| BTreeMap::from([("message.max.bytes".to_owned(), value.to_owned())]);
        let image = Image::default()
            .apply(&[
                MetadataRecord::FeatureLevel(1),
                MetadataRecord::BrokerSettings(None, settings("3000")),
                MetadataRecord::BrokerSettings(Some(BrokerId(7)), settings("4000")),
            ])
            .expect("applies");
        let mut configured = TopicDefaults::default();
        configured.set("max.message.bytes", "2000").expect("a good default");
        let config = topic_config("max.message.bytes").expect("known");
        let of = |broker| {
            let defaults = configured.with_runtime(&image, BrokerId(broker));
            topic_synonyms(config, &BTreeMap::new(), &defaults)
                .into_iter()
                .map(|synonym| (synonym.name, synonym.value, synonym.source.code()))
                .collect::<Vec<_>>()
        };
        let row = |value: &str, source| ("message.max.bytes", value.to_owned(), source);
        assert_eq!(of(7), [row("4000", 2), row("3000", 3), row("2000", 4), row("1048588", 5)]);
        assert_eq!(of(8), [row("3000", 3), row("2000", 4), row("1048588", 5)]);
    }
}
