//! `millpond group reset-offsets`: a group without members goes on from elsewhere.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use millpond_client::{Admin, OffsetAt, TopicPartition};
use serde::Serialize;

use super::arguments::{Goal, ResetArguments, topic_of};
use super::{no_such_group, print};
use crate::cluster::{connect, counted, hint};
use crate::output::printable;
use crate::table::Table;
use crate::topic::no_such_topic;

/// What becomes of a partition; a line of `--json`'s list.
#[derive(Debug, Serialize)]
struct Reset {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
    /// Why it was not done.
    error: Option<String>,
}

pub(super) async fn run(arguments: &ResetArguments) -> Result<()> {
    let goal = arguments.goal()?;
    let named = arguments.topic.iter().map(|text| topic_of(text)).collect::<Result<Vec<_>>>()?;
    let admin = connect(&arguments.reach).await?;
    let group = &arguments.group;
    let found = admin.describe_group(group).await.map_err(hint)?;
    let is_new = found.is_none();
    match found {
        Some(found) if !found.members.is_empty() => bail!(
            "the group {group} has {}; stop them first, `millpond group describe {group}` names them",
            counted(found.members.len(), "member")
        ),
        Some(_) => {}
        // Offsets for certain topics make a group, which may be a slip: it is said below.
        None if named.is_empty() => return Err(no_such_group(&admin, group).await),
        None => {}
    }
    let before = admin.group_offsets(group).await.map_err(hint)?;
    let before: BTreeMap<TopicPartition, i64> = before.into_iter().map(|(of, found)| (of, found.offset)).collect();
    let wanted = match named.is_empty() {
        true => before.keys().cloned().collect(),
        false => partitions(&admin, &named).await?,
    };
    if wanted.is_empty() {
        bail!("the group {group} has committed nothing; --topic names what it is to begin with");
    }
    let targets = targets(&admin, goal, &wanted).await?;
    let mut outcomes = match arguments.dry_run {
        true => BTreeMap::new(),
        false => admin.alter_group_offsets(group, &targets).await.map_err(hint)?,
    };
    let resets: Vec<Reset> = targets
        .iter()
        .map(|(of, to)| Reset {
            topic: of.topic.clone(),
            partition: of.partition,
            from: before.get(of).copied(),
            to: *to,
            error: match outcomes.remove(of) {
                Some(Err(error)) => Some(error.to_string()),
                None if !arguments.dry_run => Some("the broker did not say what became of it".to_owned()),
                Some(Ok(())) | None => None,
            },
        })
        .collect();
    print(arguments.reach.json, &resets, |out| {
        let mut table = Table::new(&["TOPIC", "PARTITION", "FROM", "TO", "ERROR"]);
        for reset in &resets {
            let from = reset.from.map(|from| from.to_string()).unwrap_or_default();
            let error = reset.error.clone().unwrap_or_default();
            table.row([reset.topic.clone(), reset.partition.to_string(), from, reset.to.to_string(), error]);
        }
        table.print(out)?;
        if is_new {
            out.line(&format!("the group is new: there was none of the name {}", printable(group)))?;
        }
        if arguments.dry_run { out.line("nothing was changed (--dry-run)") } else { Ok(()) }
    })?;
    match resets.iter().filter(|reset| reset.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} not reset", counted(resets.len(), "partition")),
    }
}

/// The partitions that were named.
async fn partitions(admin: &Admin, named: &[(String, Option<i32>)]) -> Result<Vec<TopicPartition>> {
    let topics = admin.list_topics().await.map_err(hint)?;
    let mut wanted = Vec::new();
    for (name, partition) in named {
        let Some(topic) = topics.iter().find(|topic| topic.name == *name) else {
            bail!("{}", no_such_topic(name, topics.iter().map(|topic| topic.name.as_str())));
        };
        let count = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        match partition {
            Some(partition) if *partition >= count => {
                bail!("{name} has no partition {partition}; it has 0 to {}", count.saturating_sub(1))
            }
            Some(partition) => wanted.push(TopicPartition::new(name.as_str(), *partition)),
            None => wanted.extend((0..count).map(|partition| TopicPartition::new(name.as_str(), partition))),
        }
    }
    Ok(wanted)
}

/// The offset in each partition that is meant; what a partition does not have is taken to the nearest that it has.
pub(crate) async fn targets(
    admin: &Admin,
    goal: Goal,
    wanted: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, i64>> {
    let starts = places(admin, wanted, OffsetAt::Earliest).await?;
    let ends = places(admin, wanted, OffsetAt::Latest).await?;
    let times = match goal {
        Goal::Timestamp(time) => places(admin, wanted, OffsetAt::Time(time)).await?,
        _ => BTreeMap::new(),
    };
    let mut targets = BTreeMap::new();
    for of in wanted {
        let (Some(Some(start)), Some(Some(end))) = (starts.get(of), ends.get(of)) else {
            bail!("{of} does not say where it begins and ends");
        };
        let found = times.get(of).copied().flatten();
        targets.insert(of.clone(), target(goal, *start, *end, found));
    }
    Ok(targets)
}

async fn places(
    admin: &Admin,
    wanted: &[TopicPartition],
    at: OffsetAt,
) -> Result<BTreeMap<TopicPartition, Option<i64>>> {
    let asked = wanted.iter().cloned().map(|of| (of, at)).collect();
    let found = admin.list_offsets(&asked).await.map_err(hint)?;
    found.into_iter().map(|(of, found)| Ok((of, found.map_err(hint)?))).collect()
}

/// The offset that a goal is in a partition; `found`: the first record that is not older than the time.
fn target(goal: Goal, start: i64, end: i64, found: Option<i64>) -> i64 {
    let wished = match goal {
        Goal::Earliest => start,
        Goal::Latest => end,
        Goal::Offset(offset) => offset,
        Goal::Timestamp(_) => found.unwrap_or(end),
        Goal::BeforeEnd(count) => end.saturating_sub(count),
    };
    // Not `clamp`, which panics where a broker says that the start lies behind the end.
    wished.min(end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_brought_into_what_can_be_read() {
        for (goal, found, expected) in [
            (Goal::Earliest, None, 10),
            (Goal::Latest, None, 20),
            (Goal::Offset(15), None, 15),
            (Goal::Offset(5), None, 10),
            (Goal::Offset(25), None, 20),
            (Goal::Timestamp(1), Some(12), 12),
            (Goal::Timestamp(1), None, 20),
            (Goal::BeforeEnd(3), None, 17),
            (Goal::BeforeEnd(i64::MAX), None, 10),
        ] {
            assert_eq!(target(goal, 10, 20, found), expected, "{goal:?}");
        }
    }
}
