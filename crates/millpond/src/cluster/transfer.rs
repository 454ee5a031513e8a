//! `millpond cluster transfer-leader`: a broker becomes the preferred leader of partitions, and their leader.
//!
//! Both steps are Kafka's: the broker is put first in the partition's list of replicas, none of which moves (KIP-455),
//! and an election of the preferred leader follows (KIP-183). Without the first the cluster would soon go back to whom
//! it prefers.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use millpond_client::{Admin, ElectionType, Error, PartitionDescription, TopicDescription, TopicPartition};
use millpond_runtime::Runtime;
use serde::Serialize;

use super::arguments::{Transfer, TransferArguments};
use super::status::counted;
use super::{DEADLINE, connect, hint};
use crate::mistakes::nearest;
use crate::output::{Output, quiet};
use crate::table::Table;

/// Between two looks at whether a new order of replicas is in force.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Partitions that one request is about.
const PER_REQUEST: usize = 500;

/// What became of a partition; a line of `--json`'s list.
#[derive(Debug, Serialize)]
struct Moved {
    topic: String,
    partition: i32,
    from: Option<i32>,
    to: i32,
    /// `moved`, `already there`, or why not.
    outcome: String,
    #[serde(skip)]
    failed: bool,
}

/// A partition, with who leads it and its replicas in the order that is wanted.
struct Wanted {
    of: TopicPartition,
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_order: bool,
}

pub(super) async fn run(runtime: &Runtime, arguments: &TransferArguments) -> Result<()> {
    let transfer = arguments.transfer()?;
    let admin = connect(&arguments.reach).await?;
    let wanted = wanted(&admin, &transfer).await?;
    let mut moved = Vec::new();
    for some in wanted.chunks(PER_REQUEST) {
        moved.extend(move_leaders(runtime, &admin, transfer.broker, some).await.map_err(hint)?);
    }
    print(&moved, arguments.reach.json)?;
    let failed = moved.iter().filter(|moved| moved.failed).count();
    if failed > 0 {
        bail!("{} of {} not transferred to broker {}", failed, counted(moved.len(), "partition"), transfer.broker);
    }
    Ok(())
}

/// What is to be done, or why it cannot be.
async fn wanted(admin: &Admin, transfer: &Transfer) -> Result<Vec<Wanted>> {
    let cluster = admin.describe_cluster().await.map_err(hint)?;
    let broker = transfer.broker;
    match cluster.brokers.iter().find(|known| known.id == broker) {
        Some(known) if known.is_fenced => bail!("broker {broker} is not alive; start it, or choose another"),
        Some(_) => {}
        None => {
            let known: Vec<String> = cluster.brokers.iter().map(|broker| broker.id.to_string()).collect();
            bail!("there is no broker {broker}; there are {}", known.join(", "));
        }
    }
    let topics = admin.describe_all_topics().await.map_err(hint)?;
    let topics: Vec<TopicDescription> = topics.into_values().flatten().collect();
    let order = |topic: &TopicDescription, partition: &PartitionDescription| {
        let others = partition.replicas.iter().copied().filter(|replica| *replica != broker);
        let replicas: Vec<i32> = [broker].into_iter().chain(others).collect();
        Wanted {
            of: TopicPartition::new(topic.name.as_str(), partition.partition),
            leader: partition.leader,
            in_order: replicas == partition.replicas,
            replicas,
        }
    };
    let Some((name, number)) = &transfer.partition else {
        let held = |partition: &&PartitionDescription| partition.replicas.contains(&broker);
        let all = topics.iter();
        return Ok(all
            .flat_map(|topic| topic.partitions.iter().filter(held).map(|partition| order(topic, partition)))
            .collect());
    };
    let Some(topic) = topics.iter().find(|topic| topic.name == *name) else {
        let names: Vec<String> = topics.into_iter().map(|topic| topic.name).collect();
        match nearest(name, &names) {
            "" => bail!("there is no topic '{name}', and no other"),
            near => bail!("there is no topic '{name}'; the nearest is '{near}'"),
        }
    };
    let Some(partition) = topic.partitions.iter().find(|partition| partition.partition == *number) else {
        bail!("{name} has no partition {number}; it has 0 to {}", topic.partitions.len().saturating_sub(1));
    };
    if !partition.replicas.contains(&broker) {
        let replicas: Vec<String> = partition.replicas.iter().map(ToString::to_string).collect();
        bail!(
            "broker {broker} holds no replica of partition {number} of {name}; its replicas are on {}",
            replicas.join(", ")
        );
    }
    Ok(vec![order(topic, partition)])
}

async fn move_leaders(runtime: &Runtime, admin: &Admin, broker: i32, wanted: &[Wanted]) -> Result<Vec<Moved>, Error> {
    let mut failures = put_first(runtime, admin, wanted).await?;
    let ready: Vec<TopicPartition> =
        wanted.iter().map(|wanted| &wanted.of).filter(|of| !failures.contains_key(of)).cloned().collect();
    let mut elected = BTreeMap::new();
    if !ready.is_empty() {
        for (of, outcome) in admin.elect_leaders(ElectionType::Preferred, Some(&ready)).await? {
            match outcome {
                Ok(moved) => drop(elected.insert(of, moved)),
                Err(error) => drop(failures.insert(of, error.to_string())),
            }
        }
    }
    let became = |wanted: &Wanted| {
        let (outcome, failed) = match (failures.get(&wanted.of), elected.get(&wanted.of)) {
            (Some(why), _) => (why.clone(), true),
            (None, Some(true)) => ("moved".to_owned(), false),
            (None, Some(false)) => ("already there".to_owned(), false),
            (None, None) => ("the cluster did not say what became of it".to_owned(), true),
        };
        let TopicPartition { topic, partition } = wanted.of.clone();
        Moved { topic, partition, from: wanted.leader, to: broker, outcome, failed }
    };
    Ok(wanted.iter().map(became).collect())
}

/// Puts the broker first where it is not, and waits until that is in force. Gives the partitions where it failed.
async fn put_first(
    runtime: &Runtime,
    admin: &Admin,
    wanted: &[Wanted],
) -> Result<BTreeMap<TopicPartition, String>, Error> {
    let mut failures = BTreeMap::new();
    let out_of_order: Vec<TopicPartition> =
        wanted.iter().filter(|wanted| !wanted.in_order).map(|wanted| wanted.of.clone()).collect();
    if out_of_order.is_empty() {
        return Ok(failures);
    }
    // A new target would cancel a move that somebody else wanted.
    for of in admin.list_reassignments(Some(&out_of_order)).await?.into_keys() {
        failures.insert(of, "its replicas are on the move; try again when they have arrived".to_owned());
    }
    let targets = wanted.iter().filter(|wanted| !wanted.in_order && !failures.contains_key(&wanted.of));
    let targets: BTreeMap<_, _> = targets.map(|wanted| (wanted.of.clone(), Some(wanted.replicas.clone()))).collect();
    if targets.is_empty() {
        return Ok(failures);
    }
    for (of, outcome) in admin.alter_reassignments(&targets).await? {
        if let Err(error) = outcome {
            failures.insert(of, error.to_string());
        }
    }
    let deadline = runtime.now() + DEADLINE;
    loop {
        let names: Vec<&str> = targets.keys().map(|of| of.topic.as_str()).collect();
        let topics = admin.describe_topics(&names).await?;
        let is_first = |of: &TopicPartition, replicas: &[i32]| {
            let topic = topics.get(&of.topic).and_then(|topic| topic.as_ref().ok());
            let found = topic.and_then(|topic| topic.partitions.iter().find(|found| found.partition == of.partition));
            found.is_some_and(|found| found.replicas == replicas)
        };
        let waits = |(of, replicas): &(&TopicPartition, &Option<Vec<i32>>)| {
            !failures.contains_key(of) && !is_first(of, replicas.as_deref().unwrap_or_default())
        };
        let late: Vec<TopicPartition> = targets.iter().filter(waits).map(|(of, _)| of.clone()).collect();
        if late.is_empty() {
            return Ok(failures);
        }
        if runtime.now() >= deadline {
            let why = format!("the new order of its replicas is not in force after {} s", DEADLINE.as_secs());
            failures.extend(late.into_iter().map(|of| (of, why.clone())));
            return Ok(failures);
        }
        runtime.sleep(LOOK_AGAIN).await;
    }
}

fn print(moved: &[Moved], json: bool) -> Result<()> {
    let mut out = Output::stdout();
    let printed = if json {
        out.line(&serde_json::to_string_pretty(moved).map_err(|error| anyhow!("{error}"))?)
    } else if moved.is_empty() {
        out.line("the broker holds no replica of any partition")
    } else {
        let mut table = Table::new(&["TOPIC", "PARTITION", "FROM", "TO", "OUTCOME"]);
        for one in moved {
            let from = one.from.map(|from| from.to_string()).unwrap_or_default();
            table.row([one.topic.clone(), one.partition.to_string(), from, one.to.to_string(), one.outcome.clone()]);
        }
        table.print(&mut out)
    };
    quiet(printed.and_then(|()| out.flush()))?;
    Ok(())
}
