//! More partitions for a topic.

use millpond_wire::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
};

use super::{Admin, Outcomes, judge_parts};
use crate::cluster::Target;
use crate::error::{Error, Result};

impl Admin {
    /// Raises the number of partitions of topics to these totals. `assignments` may say for a topic where the new
    /// replicas are, a list for each new partition; without, the cluster places them.
    ///
    /// # Errors
    /// For a topic: `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PARTITIONS` (not more than it has),
    /// `INVALID_REPLICA_ASSIGNMENT`, `REASSIGNMENT_IN_PROGRESS`, `REQUEST_TIMED_OUT`. For the call: those of
    /// [`Cluster::call`](crate::Cluster::call).
    pub async fn create_partitions(
        &self,
        totals: &[(&str, i32)],
        assignments: &[(&str, Vec<Vec<i32>>)],
    ) -> Result<Outcomes<String, ()>> {
        let timeout_ms = self.broker_timeout_ms();
        let placed = |topic: &str| {
            let (_, lists) = assignments.iter().find(|(name, _)| *name == topic)?;
            Some(lists.iter().map(|brokers| CreatePartitionsAssignment { broker_ids: brokers.clone() }).collect())
        };
        let build = |_| {
            let topic = |(name, count): &(&str, i32)| CreatePartitionsTopic {
                name: (*name).into(),
                count: *count,
                assignments: placed(name),
            };
            CreatePartitionsRequest { topics: totals.iter().map(topic).collect(), timeout_ms, validate_only: false }
        };
        let judge = |response: &CreatePartitionsResponse| {
            judge_parts("adding partitions", response.results.iter().map(|topic| topic.error_code))
        };
        let response = self.cluster.call(Target::Controller, 0, build, judge).await?;
        let outcome = response.results.iter().map(|topic| {
            let grown = Error::check(topic.error_code, topic.error_message.as_deref(), || {
                format!("the topic {} gets no further partitions", topic.name)
            });
            (topic.name.as_str().to_owned(), grown)
        });
        Ok(outcome.collect())
    }
}
