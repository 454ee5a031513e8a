//! `millpond topic list` and `describe`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Result;
use millpond_client::{Admin, ConfigResource, ConfigSource, Error, PartitionDescription, TopicDescription};
use serde::Serialize;

use super::arguments::{DescribeArguments, ListArguments};
use super::missing;
use crate::cluster::{connect, counted, hint};
use crate::output::{Output, quiet};
use crate::table::Table;

#[derive(Serialize)]
struct Listed {
    name: String,
    id: Option<String>,
    partitions: usize,
    internal: bool,
}

pub(super) async fn list(arguments: &ListArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let topics = admin.list_topics().await.map_err(hint)?;
    let shown = topics.into_iter().filter(|topic| arguments.internal || !topic.is_internal);
    let listed: Vec<Listed> = shown
        .map(|topic| Listed {
            id: topic.id.map(|id| id.to_string()),
            name: topic.name,
            partitions: topic.partitions,
            internal: topic.is_internal,
        })
        .collect();
    let mut out = Output::stdout();
    let printed = if arguments.reach.json {
        out.line(&serde_json::to_string_pretty(&listed)?)
    } else {
        let mut table = Table::new(&["TOPIC", "PARTITIONS", "ID"]);
        for topic in listed {
            table.row([topic.name, topic.partitions.to_string(), topic.id.unwrap_or_default()]);
        }
        table.print(&mut out)
    };
    quiet(printed.and_then(|()| out.flush()))?;
    Ok(())
}

#[derive(Serialize)]
struct Described {
    name: String,
    id: Option<String>,
    internal: bool,
    partitions: Vec<Partition>,
    /// Those that the topic has of its own.
    settings: BTreeMap<String, Option<String>>,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    offline: Vec<i32>,
}

impl From<PartitionDescription> for Partition {
    fn from(of: PartitionDescription) -> Partition {
        let PartitionDescription { partition, leader, leader_epoch, replicas, in_sync, offline } = of;
        Partition { partition, leader, leader_epoch, replicas, in_sync, offline }
    }
}

pub(super) async fn describe(arguments: &DescribeArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let topics = wanted(&admin, &arguments.topics).await?;
    let resources: Vec<ConfigResource> =
        topics.iter().map(|topic| ConfigResource::topic(topic.name.as_str())).collect();
    let mut settings = admin.describe_configs(&resources).await.map_err(hint)?;
    let mut described = Vec::new();
    for topic in topics {
        let found = settings.remove(&ConfigResource::topic(topic.name.as_str()));
        // A topic that was deleted meanwhile has none.
        let entries = found.transpose().map_err(hint)?.unwrap_or_default();
        let own = entries.into_iter().filter(|(_, entry)| entry.source == ConfigSource::Topic);
        described.push(Described {
            id: topic.id.map(|id| id.to_string()),
            name: topic.name,
            internal: topic.is_internal,
            partitions: topic.partitions.into_iter().map(Partition::from).collect(),
            settings: own.map(|(name, entry)| (name, entry.value)).collect(),
        });
    }
    let mut out = Output::stdout();
    let printed = if arguments.reach.json {
        out.line(&serde_json::to_string_pretty(&described)?)
    } else {
        print(&described, &mut out)
    };
    quiet(printed.and_then(|()| out.flush()))?;
    Ok(())
}

/// The topics of these names, all of which must be there; or all but the cluster's own.
async fn wanted(admin: &Admin, names: &[String]) -> Result<Vec<TopicDescription>> {
    if names.is_empty() {
        let all = admin.describe_all_topics().await.map_err(hint)?;
        return Ok(all.into_values().flatten().filter(|topic| !topic.is_internal).collect());
    }
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut topics = Vec::new();
    for (name, topic) in admin.describe_topics(&asked).await.map_err(hint)? {
        match topic {
            Ok(topic) => topics.push(topic),
            Err(error) => return Err(explained(admin, &name, error).await),
        }
    }
    Ok(topics)
}

/// An error about a topic; when there is no such topic, with the nearest name.
pub(super) async fn explained(admin: &Admin, name: &str, error: Error) -> anyhow::Error {
    if error.code() == Some(millpond_client::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) {
        return missing(admin, name).await;
    }
    hint(error)
}

fn print(topics: &[Described], out: &mut Output) -> io::Result<()> {
    for (number, topic) in topics.iter().enumerate() {
        if number > 0 {
            out.line("")?;
        }
        let id = topic.id.as_deref().map(|id| format!(", id {id}")).unwrap_or_default();
        out.line(&format!("{}: {}{id}", topic.name, counted(topic.partitions.len(), "partition")))?;
        for (name, value) in &topic.settings {
            out.line(&format!("{name}={}", value.as_deref().unwrap_or_default()))?;
        }
        let mut table = Table::new(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "OFFLINE"]);
        for of in &topic.partitions {
            let number = |number: Option<i32>| number.map(|number| number.to_string()).unwrap_or_default();
            let ids = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            table.row([
                of.partition.to_string(),
                number(of.leader),
                number(of.leader_epoch),
                ids(&of.replicas),
                ids(&of.in_sync),
                ids(&of.offline),
            ]);
        }
        table.print(out)?;
    }
    Ok(())
}
