//! The resources that have settings, as requests name them, and the settings of a broker as clients see them.

use std::collections::BTreeSet;

use millpond_cluster::{
    ConfigAlteration, ConfigKind, ConfigOperation, ConfigResource, ConfigSource, Synonym, TOPIC_CONFIGS, TopicConfig,
    topic_config_of_broker,
};
use millpond_record::BrokerId;
use millpond_wire::Str;
use tracing::info;

use crate::controller::{ConfigChanges, Controller};
use crate::dispatch::Call;
use crate::errors::{self, Fault};
use crate::settings::{Kind, SETTINGS, Setting};

/// Kafka's numbers for types of resources (`ConfigResource.Type`).
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
pub(crate) const BROKER_LOGGER: i8 = 8;
pub(crate) const CLIENT_METRICS: i8 = 16;
pub(crate) const GROUP: i8 = 32;

/// The resource that a request means.
pub(crate) fn resource(kind: i8, name: &str) -> Result<ConfigResource, Fault> {
    match kind {
        TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        BROKER if name.is_empty() => Ok(ConfigResource::Broker(None)),
        BROKER => match name.parse() {
            Ok(id) => Ok(ConfigResource::Broker(Some(BrokerId(id)))),
            Err(_) => Err(errors::invalid_request(format!("{name:?} is no broker id"))),
        },
        BROKER_LOGGER => Err(errors::invalid_request(
            "the log level is set when the broker starts (--log-level) and cannot be asked for or changed later",
        )),
        CLIENT_METRICS => Err(errors::invalid_request("this broker collects no metrics of clients")),
        GROUP => Err(errors::invalid_request("groups have no settings on this broker")),
        other => Err(errors::invalid_request(format!("there is no resource of type {other}"))),
    }
}

/// Kafka's numbers for operations on a setting (KIP-339).
pub(crate) fn operation(code: i8, name: &str, value: Option<&Str>) -> Result<ConfigOperation, Fault> {
    let value = || match value {
        Some(value) => Ok(value.to_string()),
        None => Err(errors::invalid_request(format!("setting {name} is given no value"))),
    };
    match code {
        0 => Ok(ConfigOperation::Set(value()?)),
        1 => Ok(ConfigOperation::Delete),
        2 => Ok(ConfigOperation::Append(value()?)),
        3 => Ok(ConfigOperation::Subtract(value()?)),
        other => Err(errors::invalid_request(format!("there is no operation {other} on a setting"))),
    }
}

/// Makes the changes that can be made of a request; an answer for each entry, in its order.
pub(crate) async fn alter(
    call: &Call,
    wanted: Vec<Result<(ConfigResource, ConfigAlteration), Fault>>,
    validate_only: bool,
) -> Vec<Result<(), Fault>> {
    let changes: ConfigChanges = wanted.iter().filter_map(|entry| entry.as_ref().ok()).cloned().collect();
    let resources: Vec<ConfigResource> = changes.iter().map(|(resource, _)| resource.clone()).collect();
    let controller: &Controller = &call.controller();
    let made = match validate_only {
        true => {
            let decided = controller.surely(|image| controller.validate_configs(image, &changes).results).await;
            decided.map_err(|error| errors::controller(&error))
        }
        false => match controller.alter_configs(changes).await {
            Ok(decided) => {
                if let Some(index) = decided.index {
                    call.shared.metadata.settled(index).await;
                }
                Ok(decided.decision.results)
            }
            Err(error) => Err(errors::controller(&error)),
        },
    };
    let mut made = made.map(|results| results.into_iter().zip(resources));
    let answer = |entry: Result<_, Fault>| {
        entry?;
        let results = made.as_mut().map_err(|fault| fault.clone())?;
        let (result, resource) = results.next().expect("each good entry of the request has its result");
        let notices = result.map_err(|error| errors::alter_config(&error))?;
        if !validate_only {
            info!(?resource, "settings changed");
            notices.iter().for_each(|notice| info!(?resource, "{notice}"));
        }
        Ok(())
    };
    wanted.into_iter().map(answer).collect()
}

/// A setting as a description tells it.
pub(crate) struct Described {
    pub(crate) name: &'static str,
    /// The value in force first.
    pub(crate) values: Vec<Synonym>,
    pub(crate) read_only: bool,
    pub(crate) kind: ConfigKind,
    pub(crate) documentation: &'static str,
}

/// Every setting of this broker: its own, and those that it has only because topics inherit them.
pub(crate) fn broker_settings(call: &Call) -> Vec<Described> {
    let defaults = call.shared.controller.topic_defaults(&call.snapshot.image);
    let inherited = |config: &'static TopicConfig| -> Vec<Synonym> {
        let values = defaults.values(config);
        let name = config.broker_name;
        values.map(|(value, source)| Synonym { name, value: value.to_owned(), source }).collect()
    };
    let own = SETTINGS.iter().map(|setting| match topic_config_of_broker(setting.name) {
        Some(config) if setting.topic.is_some() => Described {
            name: setting.name,
            values: inherited(config),
            read_only: false,
            kind: config.kind,
            documentation: setting.about,
        },
        _ => Described {
            name: setting.name,
            values: configured(call, setting),
            read_only: true,
            kind: kind(setting.kind),
            documentation: setting.about,
        },
    });
    let mut all: Vec<Described> = own.collect();
    let listed: BTreeSet<&str> = all.iter().map(|setting| setting.name).collect();
    let others = TOPIC_CONFIGS.iter().filter(|config| !listed.contains(config.broker_name));
    let others: Vec<Described> = others
        .map(|config| Described {
            name: config.broker_name,
            values: inherited(config),
            read_only: false,
            kind: config.kind,
            documentation: config.documentation,
        })
        .collect();
    all.extend(others);
    all.sort_by_key(|setting| setting.name);
    all
}

/// What was set at run time on all brokers.
pub(crate) fn cluster_settings(call: &Call) -> Vec<Described> {
    let set = call.snapshot.image.broker_settings(None).into_iter().flatten();
    let described = set.filter_map(|(name, value)| {
        let config = topic_config_of_broker(name)?;
        let name = config.broker_name;
        Some(Described {
            name,
            values: vec![Synonym { name, value: value.clone(), source: ConfigSource::RuntimeCluster }],
            read_only: false,
            kind: config.kind,
            documentation: config.documentation,
        })
    });
    described.collect()
}

fn configured(call: &Call, setting: &'static Setting) -> Vec<Synonym> {
    let name = setting.name;
    let given = call.shared.config.given.get(name);
    let given = given.map(|value| Synonym { name, value: value.clone(), source: ConfigSource::Broker });
    let default = Synonym { name, value: setting.default.to_owned(), source: ConfigSource::Default };
    given.into_iter().chain([default]).collect()
}

fn kind(kind: Kind) -> ConfigKind {
    match kind {
        Kind::Switch => ConfigKind::Boolean,
        Kind::Whole { max, .. } if max <= i64::from(i32::MAX) => ConfigKind::Int,
        Kind::Whole { .. } => ConfigKind::Long,
        Kind::Word(_) | Kind::Listener | Kind::Address | Kind::Folder | Kind::Text => ConfigKind::String,
        Kind::Addresses | Kind::Peers => ConfigKind::List,
    }
}
