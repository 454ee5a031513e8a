//! Where partitions begin and end, and where a time is in them.

use std::collections::BTreeMap;

use millpond_wire::ErrorCode;
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic};

use super::{Admin, Outcomes, TopicPartition};
use crate::clock;
use crate::cluster::Target;
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
        let config = self.cluster.config();
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
            self.ask_leaders(&open, &mut outcomes).await?;
        }
    }

    /// Asks once for all that has no answer yet.
    async fn ask_leaders(
        &self,
        open: &BTreeMap<&TopicPartition, OffsetAt>,
        outcomes: &mut Outcomes<TopicPartition, Option<i64>>,
    ) -> Result<()> {
        let mut names: Vec<&str> = open.keys().map(|of| of.topic.as_str()).collect();
        names.dedup();
        let metadata = self.cluster.metadata(Some(&names)).await?;
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
        for (of, at) in open {
            match leaders.get(of).copied().unwrap_or(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0)) {
                Ok(leader) => by_leader.entry(leader).or_default().push((of, *at)),
                Err(code) => drop(outcomes.insert((*of).clone(), refused(of, code))),
            }
        }
        for (leader, asked) in by_leader {
            match self.ask_leader(leader, &asked).await {
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
                // Another may lead by now.
                Err(error) if error.is_retriable() => {
                    outcomes.extend(asked.iter().map(|(of, _)| ((*of).clone(), Err(error.clone()))));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn ask_leader(&self, leader: i32, asked: &[(&TopicPartition, OffsetAt)]) -> Result<ListOffsetsResponse> {
        let build = |_| {
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for (of, at) in asked {
                let partition = ListOffsetsPartition {
                    partition_index: of.partition,
                    current_leader_epoch: -1,
                    timestamp: at.timestamp(),
                };
                topics.entry(&of.topic).or_default().push(partition);
            }
            let topic = |(name, partitions): (&str, _)| ListOffsetsTopic { name: name.into(), partitions };
            ListOffsetsRequest {
                replica_id: -1,
                topics: topics.into_iter().map(topic).collect(),
                timeout_ms: self.broker_timeout_ms(),
                ..Default::default()
            }
        };
        self.cluster.call(Target::Broker(leader), 1, build, |_| Ok(())).await
    }
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
