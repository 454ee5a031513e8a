//! Where partitions begin and end, and where a time is in them.

use std::collections::BTreeMap;

use futures::future::join_all;
use millpond_wire::ErrorCode;
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic};

use super::{Admin, Outcomes, TopicPartition, broker_timeout_ms};
use crate::clock;
use crate::cluster::{Cluster, Target};
use crate::error::{Error, Result};

/// The offset that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first that can be read.
    Earliest,
    /// The one that the next record gets.
    Latest,
    /// Of the first record that is not older: milliseconds since 1970.
    Time(i64),
}

impl OffsetAt {
    fn timestamp(self) -> i64 {
        match self {
            OffsetAt::Latest => -1,
            OffsetAt::Earliest => -2,
            OffsetAt::Time(time) => time.max(0),
        }
    }
}

impl Admin {
    /// Looks up offsets, each at the partition's leader; `None` for a time after that of every record.
    ///
    /// # Errors
    /// For a partition: `UNKNOWN_TOPIC_OR_PARTITION`; `LEADER_NOT_AVAILABLE` or `NOT_LEADER_OR_FOLLOWER` when it has no
    /// leader until the deadline. For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn list_offsets(
        &self,
        wanted: &BTreeMap<TopicPartition, OffsetAt>,
    ) -> Result<Outcomes<TopicPartition, Option<i64>>> {
        look_up(&self.cluster, wanted, 0).await
    }
}

/// Asks the leaders, and again for what passes until the deadline.
///
/// # Errors
/// As of [`ask_leaders`].
pub(crate) async fn look_up(
    cluster: &Cluster,
    wanted: &BTreeMap<TopicPartition, OffsetAt>,
    isolation: i8,
) -> Result<Outcomes<TopicPartition, Option<i64>>> {
    let config = cluster.config();
    let deadline = clock::now() + config.deadline;
    let mut outcomes = Outcomes::new();
    let mut tries = 0_u32;
    loop {
        let open = wanted.iter().map(|(of, at)| (of, *at)).filter(|(of, _)| is_open(outcomes.get(*of)));
        let open: BTreeMap<&TopicPartition, OffsetAt> = open.collect();
        tries = tries.saturating_add(1);
        let pause = config.pause_after(tries, u64::from(tries));
        if open.is_empty() || tries > 1 && clock::now() + pause >= deadline {
            return Ok(outcomes);
        }
        if tries > 1 {
            clock::sleep(pause).await;
        }
        outcomes.extend(ask_leaders(cluster, &open, isolation).await?);
    }
}

/// Asks the leaders, once. `isolation` is the level as the protocol has it: with 1 the latest offset is the one up to
/// which nothing is in an open transaction.
///
/// # Errors
/// Of the whole: when nobody tells who leads.
pub(crate) async fn ask_leaders(
    cluster: &Cluster,
    wanted: &BTreeMap<&TopicPartition, OffsetAt>,
    isolation: i8,
) -> Result<Outcomes<TopicPartition, Option<i64>>> {
    let mut outcomes = Outcomes::new();
    let mut names: Vec<&str> = wanted.keys().map(|of| of.topic.as_str()).collect();
    names.dedup();
    let metadata = cluster.metadata(Some(&names)).await?;
    let mut leaders: BTreeMap<TopicPartition, std::result::Result<i32, i16>> = BTreeMap::new();
    for topic in &metadata.topics {
        let name = topic.name.as_deref().unwrap_or_default();
        for partition in &topic.partitions {
            let leader = match (topic.error_code, partition.error_code, partition.leader_id) {
                (0, 0, id) if id >= 0 => Ok(id),
                (0, 0, _) => Err(ErrorCode::LEADER_NOT_AVAILABLE.0),
                (0, code, _) | (code, _, _) => Err(code),
            };
            leaders.insert(TopicPartition::new(name, partition.partition_index), leader);
        }
    }
    let mut by_leader: BTreeMap<i32, Vec<(&TopicPartition, OffsetAt)>> = BTreeMap::new();
    for (of, at) in wanted {
        match leaders.get(of).copied().unwrap_or(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0)) {
            Ok(leader) => by_leader.entry(leader).or_default().push((of, *at)),
            Err(code) => drop(outcomes.insert((*of).clone(), refused(of, code))),
        }
    }
    let asked = by_leader.into_iter().map(|(leader, asked)| async move {
        let answer = ask_leader(cluster, leader, &asked, isolation).await;
        (asked, answer)
    });
    for (asked, answer) in join_all(asked).await {
        match answer {
            Ok(response) => {
                for topic in &response.topics {
                    for one in &topic.partitions {
                        let of = TopicPartition::new(topic.name.as_str(), one.partition_index);
                        let found = refused(&of, one.error_code);
                        let found = found.map(|_| Some(one.offset).filter(|offset| *offset >= 0));
                        outcomes.insert(of, found);
                    }
                }
            }
            // Another may lead by the next time.
            Err(error) => outcomes.extend(asked.iter().map(|(of, _)| ((*of).clone(), Err(error.clone())))),
        }
    }
    Ok(outcomes)
}

async fn ask_leader(
    cluster: &Cluster,
    leader: i32,
    asked: &[(&TopicPartition, OffsetAt)],
    isolation: i8,
) -> Result<ListOffsetsResponse> {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (of, at) in asked {
        let partition =
            ListOffsetsPartition { partition_index: of.partition, current_leader_epoch: -1, timestamp: at.timestamp() };
        topics.entry(&of.topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, _)| ListOffsetsTopic { name: name.into(), partitions };
    let request = ListOffsetsRequest {
        replica_id: -1,
        isolation_level: isolation,
        topics: topics.into_iter().map(topic).collect(),
        timeout_ms: broker_timeout_ms(cluster),
    };
    // Only from version 2 on can the level be said.
    cluster.call_once(Target::Broker(leader), if isolation > 0 { 2 } else { 1 }, |_| request.clone()).await
}

fn refused(of: &TopicPartition, code: i16) -> Result<Option<i64>> {
    Error::check(code, None, || format!("the offsets of {of}")).map(|()| None)
}

/// Whether there is no answer, or one that passes.
fn is_open(outcome: Option<&Result<Option<i64>>>) -> bool {
    match outcome {
        None => true,
        Some(Ok(_)) => false,
        // That a topic does not exist is final here: whoever asks has seen it.
        Some(Err(error)) => error.is_retriable() && error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_asked_again_and_nothing_else() {
        let of = TopicPartition::new("t", 0);
        assert!(is_open(None));
        assert!(!is_open(Some(&Ok(None))) && !is_open(Some(&Ok(Some(3)))));
        for (code, open) in [
            (ErrorCode::NOT_LEADER_OR_FOLLOWER, true),
            (ErrorCode::LEADER_NOT_AVAILABLE, true),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, false),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, false),
        ] {
            assert_eq!(is_open(Some(&refused(&of, code.0))), open, "{code}");
        }
    }
}
