//! Elections of partitions' leaders (KIP-183, KIP-460).

use millpond_wire::ErrorCode;
use millpond_wire::elect_leaders::{ElectLeadersRequest, ElectLeadersResponse, TopicPartitions};

use super::{Admin, Outcomes, TopicPartition, by_topic, judge_parts};
use crate::cluster::Target;
use crate::error::{Error, Result};

/// From this version on the kind of election can be said.
const WITH_TYPE: i16 = 1;

/// Who may become leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionType {
    /// The first replica of the partition, if it is in sync.
    Preferred,
    /// Any replica that is there, when none is in sync; what the others had more is lost. Millpond's brokers trust only
    /// replicas of relaxed topics that lost power like that, as few and with as long logs as there are.
    Unclean,
}

impl Admin {
    /// Makes these partitions elect, or all. `Ok(true)` is a new leader, `Ok(false)` that the right one leads already.
    ///
    /// # Errors
    /// For a partition: `UNKNOWN_TOPIC_OR_PARTITION`, `PREFERRED_LEADER_NOT_AVAILABLE`,
    /// `ELIGIBLE_LEADERS_NOT_AVAILABLE`. For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn elect_leaders(
        &self,
        election: ElectionType,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Outcomes<TopicPartition, bool>> {
        let timeout_ms = self.broker_timeout_ms();
        let (election_type, least) = match election {
            ElectionType::Preferred => (0, 0),
            ElectionType::Unclean => (1, WITH_TYPE),
        };
        let build = |_| {
            let topic = |(topic, partitions): (&str, Vec<i32>)| TopicPartitions { topic: topic.into(), partitions };
            let topic_partitions = partitions.map(|of| by_topic(of).into_iter().map(topic).collect());
            ElectLeadersRequest { election_type, topic_partitions, timeout_ms }
        };
        let judge = |response: &ElectLeadersResponse| {
            Error::check(response.error_code, None, || "electing leaders".to_owned())?;
            let parts = response.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
            judge_parts("electing leaders", parts.map(|partition| partition.error_code))
        };
        let response = self.cluster.call(Target::Controller, least, build, judge).await?;
        let mut outcomes = Outcomes::new();
        for topic in &response.replica_election_results {
            for partition in &topic.partition_result {
                let of = TopicPartition::new(topic.topic.as_str(), partition.partition_id);
                let elected = match ErrorCode(partition.error_code) {
                    ErrorCode::ELECTION_NOT_NEEDED => Ok(false),
                    code => Error::check(code.0, partition.error_message.as_deref(), || {
                        format!("no other leader was elected for {of}")
                    })
                    .map(|()| true),
                };
                outcomes.insert(of, elected);
            }
        }
        Ok(outcomes)
    }
}
