//! Change settings of topics and brokers (Kafka's `ConfigurationControlManager`).

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::BrokerId;

use crate::config::{
    ConfigError, TopicDefaults, check_durable_if_internal, check_length, check_supported, check_together,
    check_topic_configs, effective_configs, normalized, same_value,
};
use crate::config_table::{ConfigKind, Support, TopicConfig, topic_config, topic_config_of_broker};
use crate::image::Image;
use crate::names::{TopicNameError, check_topic_name};
use crate::record::{MetadataRecord, TopicRecord};

/// Whose settings are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    Topic(String),
    /// One broker, or all of them (`None`).
    Broker(Option<BrokerId>),
}

/// What is done to one setting (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    Set(String),
    /// Back to what is inherited.
    Delete,
    /// Adds to a list what it does not have.
    Append(String),
    /// Takes from a list what it has.
    Subtract(String),
}

/// How the settings of a resource change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigAlteration {
    /// One by one, by name.
    Each(Vec<(String, ConfigOperation)>),
    /// All of them: what is not named goes back to what is inherited.
    Replace(Vec<(String, String)>),
}

/// Why settings are not changed. All of a resource's changes are made or none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AlterConfigError {
    /// INVALID_TOPIC_EXCEPTION
    #[error(transparent)]
    InvalidName(#[from] TopicNameError),
    /// INVALID_REQUEST
    #[error("no topic is named: what all topics inherit is set on the brokers")]
    NoTopic,
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no topic {0:?}")]
    UnknownTopic(String),
    /// INVALID_REQUEST
    #[error("there is no broker {0}")]
    UnknownBroker(BrokerId),
    /// INVALID_REQUEST
    #[error("the resource is named more than once in the request")]
    ResourceTwice,
    /// INVALID_REQUEST
    #[error("setting {0} is changed more than once in the request")]
    SettingTwice(String),
    /// INVALID_CONFIG
    #[error("setting {0} is not a list: it can be set or deleted, not appended to or subtracted from")]
    NotAList(String),
    /// INVALID_CONFIG
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// INVALID_REQUEST
    #[error(transparent)]
    InvalidOnBroker(ConfigError),
    /// INVALID_REQUEST
    #[error(
        "setting {0} cannot be changed while brokers run: only those whose value topics inherit can. Change the \
         broker's configuration and start it again"
    )]
    NotAtRunTime(String),
}

/// The answer to a request to change settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConfigs {
    /// One for each resource of the request, in its order: sentences on what is accepted but does nothing yet.
    pub results: Vec<Result<Vec<String>, AlterConfigError>>,
    /// What makes the changes that succeed; empty when none does. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Decides which changes are made. `defaults` are those of the configuration alone.
///
/// A request that only wants validation is the same; the caller then appends nothing.
pub fn alter_configs(
    image: &Image,
    defaults: &TopicDefaults,
    wanted: &[(ConfigResource, ConfigAlteration)],
) -> AlterConfigs {
    let mut times: BTreeMap<&ConfigResource, usize> = BTreeMap::new();
    for (resource, _) in wanted {
        *times.entry(resource).or_default() += 1;
    }
    let mut records = Vec::new();
    let alter = |(resource, alteration): &(ConfigResource, ConfigAlteration)| {
        if times.get(resource).is_some_and(|times| *times > 1) {
            return Err(AlterConfigError::ResourceTwice);
        }
        check_named_once(alteration)?;
        let (record, notices) = match resource {
            ConfigResource::Topic(name) => alter_topic(image, defaults, name, alteration)?,
            ConfigResource::Broker(broker) => alter_broker(image, defaults, *broker, alteration)?,
        };
        records.extend(record);
        Ok(notices)
    };
    let results = wanted.iter().map(alter).collect();
    AlterConfigs { results, records }
}

fn check_named_once(alteration: &ConfigAlteration) -> Result<(), AlterConfigError> {
    let names: Vec<&String> = match alteration {
        ConfigAlteration::Each(changes) => changes.iter().map(|(name, _)| name).collect(),
        ConfigAlteration::Replace(settings) => settings.iter().map(|(name, _)| name).collect(),
    };
    let mut seen = BTreeSet::new();
    match names.into_iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(AlterConfigError::SettingTwice(name.clone())),
        None => Ok(()),
    }
}

type Altered = (Option<MetadataRecord>, Vec<String>);

fn alter_topic(
    image: &Image,
    defaults: &TopicDefaults,
    name: &str,
    alteration: &ConfigAlteration,
) -> Result<Altered, AlterConfigError> {
    if name.is_empty() {
        return Err(AlterConfigError::NoTopic);
    }
    let Some(topic) = image.topic(name) else {
        check_topic_name(name)?;
        return Err(AlterConfigError::UnknownTopic(name.to_owned()));
    };
    let (configs, notices) = match alteration {
        ConfigAlteration::Replace(settings) => {
            let settings: Vec<_> = settings.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
            check_topic_configs(&settings, defaults)?
        }
        ConfigAlteration::Each(changes) => {
            let mut configs = topic.configs.clone();
            let mut set = Vec::new();
            for (name, operation) in changes {
                let value = match operation {
                    ConfigOperation::Delete => {
                        configs.remove(name);
                        continue;
                    }
                    ConfigOperation::Set(value) => value.clone(),
                    ConfigOperation::Append(items) | ConfigOperation::Subtract(items) => {
                        let config = topic_config(name).ok_or_else(|| ConfigError::Unknown(name.clone()))?;
                        let current = effective_configs(&topic.configs, defaults)
                            .into_iter()
                            .find(|effective| effective.config == config)
                            .map_or_else(String::new, |effective| effective.value);
                        changed_list(config, &current, operation, items)?
                    }
                };
                set.push((name.clone(), Some(value)));
            }
            let (set, notices) = check_topic_configs(&set, defaults)?;
            configs.extend(set);
            check_together(&configs)?;
            (configs, notices)
        }
    };
    check_durable_if_internal(name, &configs)?;
    let changed = configs != topic.configs;
    let record = changed.then(|| MetadataRecord::Topic(TopicRecord { configs, ..topic.record() }));
    Ok((record, notices))
}

/// A list with items added or taken away.
fn changed_list(
    config: &'static TopicConfig,
    current: &str,
    operation: &ConfigOperation,
    items: &str,
) -> Result<String, AlterConfigError> {
    if config.kind != ConfigKind::List {
        return Err(AlterConfigError::NotAList(config.name.to_owned()));
    }
    // Before anything is made of it.
    check_length(config, items)?;
    let split = |text| str::split(text, ',').map(str::trim).filter(|item| !item.is_empty());
    let list: Vec<&str> = match operation {
        ConfigOperation::Subtract(_) => {
            let taken: BTreeSet<&str> = split(items).collect();
            split(current).filter(|item| !taken.contains(item)).collect()
        }
        _ => {
            let mut seen = BTreeSet::new();
            split(current).chain(split(items)).filter(|item| seen.insert(*item)).collect()
        }
    };
    Ok(list.join(","))
}

fn alter_broker(
    image: &Image,
    defaults: &TopicDefaults,
    broker: Option<BrokerId>,
    alteration: &ConfigAlteration,
) -> Result<Altered, AlterConfigError> {
    if let Some(id) = broker.filter(|id| image.broker(*id).is_none()) {
        return Err(AlterConfigError::UnknownBroker(id));
    }
    let before = image.broker_settings(broker).cloned().unwrap_or_default();
    let mut settings = before.clone();
    let mut notices = Vec::new();
    let mut set = |settings: &mut BTreeMap<String, String>, name: &str, value: &str| {
        let config = topic_config_of_broker(name).ok_or_else(|| AlterConfigError::NotAtRunTime(name.to_owned()))?;
        check_supported(config, value, defaults.fixed(config)).map_err(AlterConfigError::InvalidOnBroker)?;
        if let Support::Recorded(sentence) = config.support
            && !same_value(value, config.default)
        {
            notices.push(format!("{name}={value} is accepted, but {sentence}"));
        }
        settings.insert(name.to_owned(), normalized(config, value));
        Ok::<(), AlterConfigError>(())
    };
    match alteration {
        ConfigAlteration::Replace(all) => {
            settings.clear();
            for (name, value) in all {
                set(&mut settings, name, value)?;
            }
        }
        ConfigAlteration::Each(changes) => {
            for (name, operation) in changes {
                match operation {
                    ConfigOperation::Delete if topic_config_of_broker(name).is_none() => {
                        return Err(AlterConfigError::NotAtRunTime(name.clone()));
                    }
                    ConfigOperation::Delete => drop(settings.remove(name)),
                    ConfigOperation::Set(value) => set(&mut settings, name, value)?,
                    ConfigOperation::Append(items) | ConfigOperation::Subtract(items) => {
                        let config =
                            topic_config_of_broker(name).ok_or_else(|| AlterConfigError::NotAtRunTime(name.clone()))?;
                        let current = settings.get(name).map_or(config.default, String::as_str);
                        let value = changed_list(config, current, operation, items)?;
                        set(&mut settings, name, &value)?;
                    }
                }
            }
        }
    }
    let record = (settings != before).then_some(MetadataRecord::BrokerSettings(broker, settings));
    Ok((record, notices))
}
