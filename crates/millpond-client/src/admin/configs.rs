//! Settings of topics and brokers: describe, and alter one by one (KIP-339).

use std::collections::BTreeMap;

use millpond_wire::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
};
use millpond_wire::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::{Admin, Outcomes, judge_parts};
use crate::cluster::Target;
use crate::error::{Error, Result};

/// What has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ResourceKind {
    /// A topic, by its name.
    Topic,
    /// A broker, by its id; the empty name is what all brokers inherit.
    Broker,
}

impl ResourceKind {
    /// Kafka's number (`ConfigResource.Type`).
    fn number(self) -> i8 {
        match self {
            ResourceKind::Topic => 2,
            ResourceKind::Broker => 4,
        }
    }

    fn from_number(number: i8) -> Option<ResourceKind> {
        [ResourceKind::Topic, ResourceKind::Broker].into_iter().find(|kind| kind.number() == number)
    }
}

/// A topic or a broker, as something that has settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigResource {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
}

impl ConfigResource {
    /// A topic.
    pub fn topic(name: impl Into<String>) -> ConfigResource {
        ConfigResource { kind: ResourceKind::Topic, name: name.into() }
    }

    /// A broker.
    pub fn broker(id: i32) -> ConfigResource {
        ConfigResource { kind: ResourceKind::Broker, name: id.to_string() }
    }

    /// What all brokers inherit.
    pub fn all_brokers() -> ConfigResource {
        ConfigResource { kind: ResourceKind::Broker, name: String::new() }
    }

    /// The settings of one broker are known to that broker.
    fn target(&self, otherwise: Target) -> Target {
        match (self.kind, self.name.parse()) {
            (ResourceKind::Broker, Ok(id)) => Target::Broker(id),
            _ => otherwise,
        }
    }

    fn said(&self) -> String {
        match (self.kind, self.name.is_empty()) {
            (ResourceKind::Topic, _) => format!("the topic {}", self.name),
            (ResourceKind::Broker, true) => "all brokers".to_owned(),
            (ResourceKind::Broker, false) => format!("broker {}", self.name),
        }
    }
}

/// Where a value comes from, by Kafka's numbers (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it runs.
    Broker,
    /// Set on all brokers while they run.
    AllBrokers,
    /// From the broker's configuration file or command line.
    Configuration,
    /// Nobody said anything else.
    Default,
    /// A number that this client does not know.
    Other(i8),
}

impl ConfigSource {
    fn from_number(number: i8) -> ConfigSource {
        match number {
            1 => ConfigSource::Topic,
            2 => ConfigSource::Broker,
            3 => ConfigSource::AllBrokers,
            4 => ConfigSource::Configuration,
            5 => ConfigSource::Default,
            other => ConfigSource::Other(other),
        }
    }
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its value; `None` when it is kept secret, or not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be altered.
    pub is_read_only: bool,
    /// Whether its value is kept secret.
    pub is_sensitive: bool,
    /// What it means, if the broker says so.
    pub documentation: Option<String>,
}

impl ConfigEntry {
    fn from_wire(entry: &DescribeConfigsResourceResult) -> ConfigEntry {
        let owned = |text: &Option<millpond_wire::Str>| text.as_ref().map(|text| text.as_str().to_owned());
        ConfigEntry {
            value: owned(&entry.value),
            source: ConfigSource::from_number(entry.config_source),
            is_read_only: entry.read_only,
            is_sensitive: entry.is_sensitive,
            documentation: owned(&entry.documentation),
        }
    }
}

/// What happens to one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// It gets this value.
    Set(String),
    /// It goes back to what it inherits.
    Reset,
    /// A list gets these further values, separated by commas.
    Append(String),
    /// A list loses these values, separated by commas.
    Subtract(String),
}

impl ConfigChange {
    /// Kafka's number (`AlterConfigOp.OpType`) and value.
    fn to_wire(&self) -> (i8, Option<&str>) {
        match self {
            ConfigChange::Set(value) => (0, Some(value)),
            ConfigChange::Reset => (1, None),
            ConfigChange::Append(value) => (2, Some(value)),
            ConfigChange::Subtract(value) => (3, Some(value)),
        }
    }
}

/// Changes to the settings of one resource; all of them are made, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConfig {
    /// Whose settings.
    pub resource: ConfigResource,
    /// By the setting's name.
    pub changes: BTreeMap<String, ConfigChange>,
}

impl Admin {
    /// The settings of topics and brokers, by name, with what they inherit.
    ///
    /// # Errors
    /// For a resource: `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_REQUEST`. For the call: those of
    /// [`Cluster::call`](crate::Cluster::call).
    pub async fn describe_configs(
        &self,
        resources: &[ConfigResource],
    ) -> Result<Outcomes<ConfigResource, BTreeMap<String, ConfigEntry>>> {
        let mut outcomes = Outcomes::new();
        for (target, resources) in by_target(resources, |resource| resource.target(Target::Any)) {
            let build = |version| DescribeConfigsRequest {
                resources: resources
                    .iter()
                    .map(|resource| DescribeConfigsResource {
                        resource_type: resource.kind.number(),
                        resource_name: resource.name.as_str().into(),
                        configuration_keys: None,
                    })
                    .collect(),
                include_synonyms: false,
                include_documentation: version >= 3,
            };
            let judge = |_: &DescribeConfigsResponse| Ok(());
            let response = self.cluster.call(target, 1, build, judge).await?;
            for result in &response.results {
                let Some(resource) = resource(result.resource_type, &result.resource_name) else { continue };
                let found = Error::check(result.error_code, result.error_message.as_deref(), || {
                    format!("describing the settings of {}", resource.said())
                });
                let entries = result.configs.iter();
                let entries = entries.map(|entry| (entry.name.as_str().to_owned(), ConfigEntry::from_wire(entry)));
                outcomes.insert(resource, found.map(|()| entries.collect()));
            }
        }
        Ok(outcomes)
    }

    /// Changes single settings and leaves the others alone.
    ///
    /// # Errors
    /// For a resource: `INVALID_CONFIG`, `UNKNOWN_TOPIC_OR_PARTITION`, `POLICY_VIOLATION`. For the call: those of
    /// [`Cluster::call`](crate::Cluster::call).
    pub async fn alter_configs(&self, changes: &[AlterConfig]) -> Result<Outcomes<ConfigResource, ()>> {
        let mut outcomes = Outcomes::new();
        for (target, changes) in by_target(changes, |change| change.resource.target(Target::Controller)) {
            let build = |_| {
                let one = |(name, change): (&String, &ConfigChange)| {
                    let (config_operation, value) = change.to_wire();
                    AlterableConfig { name: name.as_str().into(), config_operation, value: value.map(Into::into) }
                };
                let resource = |alter: &&AlterConfig| AlterConfigsResource {
                    resource_type: alter.resource.kind.number(),
                    resource_name: alter.resource.name.as_str().into(),
                    configs: alter.changes.iter().map(one).collect(),
                };
                let resources = changes.iter().map(resource).collect();
                IncrementalAlterConfigsRequest { resources, validate_only: false }
            };
            let judge = |response: &IncrementalAlterConfigsResponse| {
                judge_parts("changing settings", response.responses.iter().map(|part| part.error_code))
            };
            let response = self.cluster.call(target, 0, build, judge).await?;
            for result in &response.responses {
                let Some(resource) = resource(result.resource_type, &result.resource_name) else { continue };
                let changed = Error::check(result.error_code, result.error_message.as_deref(), || {
                    format!("the settings of {} are not changed", resource.said())
                });
                outcomes.insert(resource, changed);
            }
        }
        Ok(outcomes)
    }
}

fn resource(kind: i8, name: &str) -> Option<ConfigResource> {
    Some(ConfigResource { kind: ResourceKind::from_number(kind)?, name: name.to_owned() })
}

/// What goes to the same broker, together.
fn by_target<T>(all: &[T], target: impl Fn(&T) -> Target) -> Vec<(Target, Vec<&T>)> {
    let mut groups: Vec<(Target, Vec<&T>)> = Vec::new();
    for one in all {
        let wanted = target(one);
        match groups.iter_mut().find(|(known, _)| *known == wanted) {
            Some((_, group)) => group.push(one),
            None => groups.push((wanted, vec![one])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_broker_goes_to_that_broker() {
        let all = [
            ConfigResource::topic("7"),
            ConfigResource::broker(2),
            ConfigResource::all_brokers(),
            ConfigResource::broker(2),
        ];
        let groups = by_target(&all, |resource| resource.target(Target::Any));
        let groups: Vec<_> = groups.iter().map(|(target, group)| (*target, group.len())).collect();
        assert_eq!(groups, [(Target::Any, 2), (Target::Broker(2), 2)]);
    }
}
