//! `millpond cluster transfer-leader`: a broker becomes the preferred leader of partitions, and their leader.
//!
//! Both steps are Kafka's: the broker is put first in the partition's list of replicas, none of which moves (KIP-455),
//! and an election of the preferred leader follows (KIP-183). Without the first the cluster would soon go back to whom
//! it prefers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use millpond_client::{Admin, ElectionType, Error, PartitionDescription, TopicDescription, TopicPartition};
use millpond_runtime::Runtime;
use serde::Serialize;

use super::arguments::{Transfer, TransferArguments};
use super::status::counted;
use super::{DEADLINE, connect, hint};
use crate::output::{Output, quiet};
use crate::table::Table;
use crate::topic::no_such_topic;

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

/// A partition, with who led it and where its replicas were when all were looked at.
struct Wanted {
    of: TopicPartition,
    leader: Option<i32>,
    replicas: BTreeSet<i32>,
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
    let order = |topic: &TopicDescription, partition: &PartitionDescription| Wanted {
        of: TopicPartition::new(topic.name.as_str(), partition.partition),
        leader: partition.leader,
        replicas: partition.replicas.iter().copied().collect(),
    };
    let Some((name, number)) = &transfer.partition else {
        let held = |partition: &&PartitionDescription| partition.replicas.contains(&broker);
        let all = topics.iter();
        return Ok(all
            .flat_map(|topic| topic.partitions.iter().filter(held).map(|partition| order(topic, partition)))
            .collect());
    };
    let (topic, partition) = find(&topics, name, *number)?;
    if !partition.replicas.contains(&broker) {
        let replicas: Vec<String> = partition.replicas.iter().map(ToString::to_string).collect();
        bail!(
            "broker {broker} holds no replica of partition {number} of {name}; its replicas are on {}",
            replicas.join(", ")
        );
    }
    Ok(vec![order(topic, partition)])
}

/// A partition, or in a sentence what there is instead.
pub(super) fn find<'a>(
    topics: &'a [TopicDescription],
    name: &str,
    number: i32,
) -> Result<(&'a TopicDescription, &'a PartitionDescription)> {
    let Some(topic) = topics.iter().find(|topic| topic.name == name) else {
        bail!("{}", no_such_topic(name, topics.iter().map(|topic| topic.name.as_str())));
    };
    let Some(partition) = topic.partitions.iter().find(|partition| partition.partition == number) else {
        bail!("{name} has no partition {number}; it has 0 to {}", topic.partitions.len().saturating_sub(1));
    };
    Ok((topic, partition))
}

async fn move_leaders(runtime: &Runtime, admin: &Admin, broker: i32, wanted: &[Wanted]) -> Result<Vec<Moved>, Error> {
    let mut failures = put_first(runtime, admin, broker, wanted).await?;
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

/// The replicas of a partition in the order that is wanted; `None` where they are in it, and an error where they must
/// be left alone. `moving`: whether they were on the move just before they were found as they are.
fn order(
    broker: i32,
    wanted: &Wanted,
    moving: bool,
    found: Option<&PartitionDescription>,
) -> Result<Option<Vec<i32>>, String> {
    let found = found.ok_or("it is not there any more")?;
    if found.replicas.first() == Some(&broker) {
        return Ok(None);
    }
    // A new target would cancel a move that somebody else wants, or turn back one that is over.
    if moving {
        return Err("its replicas are on the move; try again when they have arrived".to_owned());
    }
    if found.replicas.iter().copied().collect::<BTreeSet<i32>>() != wanted.replicas {
        return Err("its replicas have moved meanwhile; try again".to_owned());
    }
    let others = found.replicas.iter().copied().filter(|replica| *replica != broker);
    Ok(Some([broker].into_iter().chain(others).collect()))
}

/// Puts the broker first where it is not, and waits until that is in force. Gives the partitions where it failed.
async fn put_first(
    runtime: &Runtime,
    admin: &Admin,
    broker: i32,
    wanted: &[Wanted],
) -> Result<BTreeMap<TopicPartition, String>, Error> {
    let (mut failures, mut targets) = (BTreeMap::new(), BTreeMap::new());
    let all: Vec<TopicPartition> = wanted.iter().map(|wanted| wanted.of.clone()).collect();
    let names: BTreeSet<&str> = all.iter().map(|of| of.topic.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    // In this order: a move that is over when they are listed is seen in where the replicas are.
    let moving = admin.list_reassignments(Some(&all)).await?;
    let topics = admin.describe_topics_by_controller(&names).await?;
    for wanted in wanted {
        let of = &wanted.of;
        let topic = topics.get(&of.topic).and_then(|topic| topic.as_ref().ok());
        let found = topic.and_then(|topic| topic.partitions.iter().find(|found| found.partition == of.partition));
        match order(broker, wanted, moving.contains_key(of), found) {
            Ok(Some(replicas)) => drop(targets.insert(of.clone(), Some(replicas))),
            Ok(None) => {}
            Err(why) => drop(failures.insert(of.clone(), why)),
        }
    }
    if targets.is_empty() {
        return Ok(failures);
    }
    for (of, outcome) in admin.alter_reassignments_of_same_size(&targets).await? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_order_of_replicas_changes_and_only_where_nothing_moves() {
        let found = |replicas: &[i32]| PartitionDescription {
            partition: 0,
            leader: Some(1),
            leader_epoch: None,
            replicas: replicas.to_vec(),
            in_sync: replicas.to_vec(),
            offline: Vec::new(),
        };
        let wanted = Wanted { of: TopicPartition::new("logs", 0), leader: Some(1), replicas: [1, 2, 3].into() };
        let order = |moving, replicas: &[i32]| order(2, &wanted, moving, Some(&found(replicas)));
        assert_eq!(order(false, &[1, 2, 3]), Ok(Some(vec![2, 1, 3])));
        assert_eq!(order(false, &[3, 1, 2]), Ok(Some(vec![2, 3, 1])), "the order of now counts for the others");
        assert_eq!(order(false, &[2, 1, 3]), Ok(None));
        assert_eq!(order(true, &[2, 1, 4]), Ok(None), "nothing is to be changed");
        assert!(order(true, &[1, 2, 3]).expect_err("refused").contains("on the move"));
        // A move that has ended since: not the broker's, off the broker, and to fewer replicas.
        for moved in [&[1, 2, 4][..], &[1, 3, 4], &[1, 2]] {
            assert!(order(false, moved).expect_err("refused").contains("have moved meanwhile"), "{moved:?}");
        }
        assert!(super::order(2, &wanted, false, None).expect_err("refused").contains("not there any more"));
    }
}
