//! `millpond topic`: makes topics, tells of them, changes and deletes them.

mod arguments;
mod describe;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use millpond_client::{Admin, AlterConfig, ConfigChange, ConfigResource, Error, ErrorCode, NewTopic};
use millpond_cluster::TOPIC_CONFIGS;
use serde_json::json;

use arguments::{AlterArguments, CreateArguments, DeleteArguments};
pub(crate) use arguments::{TOPIC_EXAMPLES, TopicCommand};
use describe::explained;

use crate::cluster::{Reach, connect, counted, hint};
use crate::mistakes::or_nearest;
use crate::output::{Output, quiet};

const NAMES_OF_SETTINGS: &str = "; `millpond config explain` names them all";

/// Runs a command on topics.
pub(crate) fn run(command: &TopicCommand) -> Result<ExitCode> {
    let thread = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    thread.block_on(async {
        match command {
            TopicCommand::Create(arguments) => create(arguments).await,
            TopicCommand::List(arguments) => describe::list(arguments).await,
            TopicCommand::Describe(arguments) => describe::describe(arguments).await,
            TopicCommand::Alter(arguments) => alter(arguments).await,
            TopicCommand::Delete(arguments) => delete(arguments).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Says that there is no such topic, and which one may be meant.
pub(crate) async fn missing(admin: &Admin, name: &str) -> anyhow::Error {
    let topics = match admin.list_topics().await {
        Ok(topics) => topics,
        Err(error) => return hint(error),
    };
    let names: Vec<String> = topics.into_iter().filter(|topic| !topic.is_internal).map(|topic| topic.name).collect();
    anyhow!("{}", no_such_topic(name, names.iter().map(String::as_str)))
}

/// That no topic of those that are there has this name, and which one may be meant.
pub(crate) fn no_such_topic<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> String {
    let mut there = there.peekable();
    if there.peek().is_none() {
        return format!("there is no topic '{name}', nor any other; `millpond topic create {name}` makes it");
    }
    format!("there is no topic '{name}'{}", or_nearest(name, there, "; `millpond topic list` names those there are"))
}

/// How many partitions a topic has; fails when there is no such topic.
pub(crate) async fn count_partitions(admin: &Admin, name: &str) -> Result<usize> {
    let found = admin.describe_topics(&[name]).await.map_err(hint)?;
    match found.get(name) {
        Some(Ok(topic)) => Ok(topic.partitions.len()),
        Some(Err(error)) if error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Err(hint(error.clone())),
        _ => Err(missing(admin, name).await),
    }
}

/// Fails when a topic of so many partitions has none of this number.
pub(crate) fn check_partition(name: &str, partitions: usize, wanted: i32) -> Result<()> {
    match usize::try_from(wanted).is_ok_and(|wanted| wanted < partitions) {
        true => Ok(()),
        false => bail!("{name} has no partition {wanted}; it has {}, from 0 on", counted(partitions, "partition")),
    }
}

async fn create(arguments: &CreateArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let topic = |name: &String| {
        let mut topic = NewTopic::new(name.as_str());
        topic = arguments.partitions.map_or(topic.clone(), |count| topic.partitions(count));
        topic = arguments.replication_factor.map_or(topic.clone(), |replicas| topic.replication_factor(replicas));
        arguments.set.iter().fold(topic, |topic, (name, value)| topic.config(name.as_str(), value.as_str()))
    };
    let topics: Vec<NewTopic> = arguments.topics.iter().map(topic).collect();
    let outcomes = admin.create_topics(&topics).await.map_err(hint)?;
    let outcomes = outcomes.into_iter().map(|(name, outcome)| {
        let told = outcome.map_err(|error| of_settings(error, &arguments.set)).map(|made| {
            match (made.partitions, made.replication_factor) {
                (Some(partitions), Some(replicas)) => {
                    let partitions = counted(usize::try_from(partitions).unwrap_or_default(), "partition");
                    let replicas = counted(usize::try_from(replicas).unwrap_or_default(), "replica");
                    format!("{name} is created with {partitions} of {replicas}")
                }
                _ => format!("{name} is created"),
            }
        });
        (name, told)
    });
    tell(outcomes.collect(), &arguments.reach)
}

async fn alter(arguments: &AlterArguments) -> Result<()> {
    let name = arguments.topic.as_str();
    if arguments.partitions.is_none() && arguments.set.is_empty() && arguments.reset.is_empty() {
        bail!("there is nothing to alter; --partitions, --set or --reset say what (see millpond topic alter --help)");
    }
    if let Some((both, _)) = arguments.set.iter().find(|(set, _)| arguments.reset.contains(set)) {
        bail!("{both} is both set and reset");
    }
    let admin = connect(&arguments.reach).await?;
    if !arguments.reset.is_empty() {
        check_names(&admin, name, &arguments.reset).await?;
    }
    let mut told = Vec::new();
    // First what is refused as a whole when a part of it is bad.
    let set = arguments.set.iter().map(|(name, value)| (name.clone(), ConfigChange::Set(value.clone())));
    let reset = arguments.reset.iter().map(|name| (name.clone(), ConfigChange::Reset));
    let changes: BTreeMap<String, ConfigChange> = set.chain(reset).collect();
    if !changes.is_empty() {
        let what = counted(changes.len(), "setting");
        let resource = ConfigResource::topic(name);
        let change = AlterConfig { resource: resource.clone(), changes };
        let mut outcomes = admin.alter_configs(&[change]).await.map_err(hint)?;
        if let Some(Err(error)) = outcomes.remove(&resource) {
            return Err(match error.code() {
                Some(ErrorCode::INVALID_CONFIG) => of_settings(error, &arguments.set),
                _ => explained(&admin, name, error).await,
            });
        }
        told.push(format!("{what} of {name} changed"));
    }
    if let Some(count) = arguments.partitions {
        let mut outcomes = admin.create_partitions(&[(name, count)], &[]).await.map_err(hint)?;
        if let Some(Err(error)) = outcomes.remove(name) {
            return Err(explained(&admin, name, error).await);
        }
        told.push(format!("{name} has {}", counted(usize::try_from(count).unwrap_or_default(), "partition")));
    }
    tell(vec![(name.to_owned(), Ok(told.join("; ")))], &arguments.reach)
}

/// An error about settings; when one of them has no topic's name, with the name that may be meant.
fn of_settings(error: Error, set: &[(String, String)]) -> anyhow::Error {
    let is_known = |name: &str| TOPIC_CONFIGS.iter().any(|config| config.name == name);
    match set.iter().find(|(name, _)| !is_known(name)) {
        Some((name, _)) if error.code() == Some(ErrorCode::INVALID_CONFIG) => {
            let names = TOPIC_CONFIGS.iter().map(|config| config.name);
            anyhow!("{}{}", hint(error), or_nearest(name, names, NAMES_OF_SETTINGS))
        }
        _ => hint(error),
    }
}

/// Fails when a topic has no setting of one of these names: a broker takes the reset of any name.
async fn check_names(admin: &Admin, topic: &str, names: &[String]) -> Result<()> {
    let resource = ConfigResource::topic(topic);
    let mut found = admin.describe_configs(std::slice::from_ref(&resource)).await.map_err(hint)?;
    let there = match found.remove(&resource) {
        Some(Ok(there)) => there,
        Some(Err(error)) => return Err(explained(admin, topic, error).await),
        None => return Ok(()),
    };
    match names.iter().find(|name| !there.contains_key(*name)) {
        None => Ok(()),
        Some(name) => bail!(
            "there is no topic setting '{name}'{}",
            or_nearest(name, there.keys().map(String::as_str), NAMES_OF_SETTINGS)
        ),
    }
}

async fn delete(arguments: &DeleteArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let names: Vec<&str> = arguments.topics.iter().map(String::as_str).collect();
    let outcomes = admin.delete_topics(&names).await.map_err(hint)?;
    let mut told = Vec::new();
    for (name, outcome) in outcomes {
        let outcome = match outcome {
            Ok(()) => Ok(format!("{name} is deleted")),
            Err(error) => Err(explained(&admin, &name, error).await),
        };
        told.push((name, outcome));
    }
    tell(told, &arguments.reach)
}

/// Prints what became of each topic; fails when one of them was refused, with the first reason.
fn tell(outcomes: Vec<(String, Result<String>)>, reach: &Reach) -> Result<()> {
    let mut out = Output::stdout();
    let printed = if reach.json {
        let of = |(name, outcome): &(String, Result<String>)| match outcome {
            Ok(told) => json!({ "topic": name, "outcome": told, "error": null }),
            Err(error) => json!({ "topic": name, "outcome": null, "error": error.to_string() }),
        };
        out.line(&serde_json::to_string_pretty(&outcomes.iter().map(of).collect::<Vec<_>>())?)
    } else {
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).try_for_each(|told| out.line(told))
    };
    quiet(printed.and_then(|()| out.flush()))?;
    let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let error = outcomes.into_iter().find_map(|(_, outcome)| outcome.err());
    match error {
        None => Ok(()),
        Some(error) if failed == 1 => Err(error),
        Some(error) => bail!("{error}; {} more failed", failed - 1),
    }
}
