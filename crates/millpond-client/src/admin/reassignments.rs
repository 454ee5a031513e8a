//! Moving replicas between brokers (KIP-455).

use std::collections::BTreeMap;

use millpond_wire::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition, ReassignableTopic,
};
use millpond_wire::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, ListPartitionReassignmentsTopics,
};

use super::{Admin, Outcomes, TopicPartition, by_topic, judge_parts};
use crate::cluster::Target;
use crate::error::{Error, Result};

/// A partition whose replicas are on the move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// All brokers that hold a replica now, those that come and those that go among them.
    pub replicas: Vec<i32>,
    /// Those that are being filled.
    pub adding: Vec<i32>,
    /// Those that go when the others are filled.
    pub removing: Vec<i32>,
}

impl Admin {
    /// Moves replicas: each partition to these brokers, the preferred leader first; `None` cancels a move that is under
    /// way. The answer comes when the moves have been taken on; [`list_reassignments`](Admin::list_reassignments) tells
    /// how far they are.
    ///
    /// # Errors
    /// For a partition: `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_REPLICA_ASSIGNMENT`, `NO_REASSIGNMENT_IN_PROGRESS` (to
    /// cancel), `INVALID_REPLICATION_FACTOR`. For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn alter_reassignments(
        &self,
        targets: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
    ) -> Result<Outcomes<TopicPartition, ()>> {
        self.reassign(targets, true).await
    }

    /// As [`alter_reassignments`](Admin::alter_reassignments), but a partition must keep the number of replicas that it
    /// has. Brokers that do not know that
    /// condition are asked without it.
    ///
    /// # Errors
    /// As of [`alter_reassignments`](Admin::alter_reassignments).
    pub async fn alter_reassignments_of_same_size(
        &self,
        targets: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
    ) -> Result<Outcomes<TopicPartition, ()>> {
        self.reassign(targets, false).await
    }

    async fn reassign(
        &self,
        targets: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
        other_size: bool,
    ) -> Result<Outcomes<TopicPartition, ()>> {
        let timeout_ms = self.broker_timeout_ms();
        let build = |version| {
            let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
            for (of, replicas) in targets {
                let partition = ReassignablePartition { partition_index: of.partition, replicas: replicas.clone() };
                topics.entry(&of.topic).or_default().push(partition);
            }
            let topic = |(name, partitions): (&str, _)| ReassignableTopic { name: name.into(), partitions };
            let topics = topics.into_iter().map(topic).collect();
            // Version 0 has no place for it, and allows all.
            let allow_replication_factor_change = other_size || version == 0;
            AlterPartitionReassignmentsRequest { timeout_ms, allow_replication_factor_change, topics }
        };
        let judge = |response: &AlterPartitionReassignmentsResponse| {
            Error::check(response.error_code, response.error_message.as_deref(), || "moving replicas".to_owned())?;
            let parts = response.responses.iter().flat_map(|topic| &topic.partitions);
            judge_parts("moving replicas", parts.map(|partition| partition.error_code))
        };
        let response = self.cluster.call(Target::Controller, 0, build, judge).await?;
        let mut outcomes = Outcomes::new();
        for topic in &response.responses {
            for partition in &topic.partitions {
                let of = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let taken = Error::check(partition.error_code, partition.error_message.as_deref(), || {
                    format!("{of} is not moved")
                });
                outcomes.insert(of, taken);
            }
        }
        Ok(outcomes)
    }

    /// The moves that are under way: of these partitions, or all.
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call).
    pub async fn list_reassignments(
        &self,
        of: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, Reassignment>> {
        let timeout_ms = self.broker_timeout_ms();
        let build = |_| {
            let topic = |(name, partition_indexes): (&str, _)| ListPartitionReassignmentsTopics {
                name: name.into(),
                partition_indexes,
            };
            let topics = of.map(|of| by_topic(of).into_iter().map(topic).collect());
            ListPartitionReassignmentsRequest { timeout_ms, topics }
        };
        let judge = |response: &ListPartitionReassignmentsResponse| {
            let what = || "asking for the moves that are under way".to_owned();
            Error::check(response.error_code, response.error_message.as_deref(), what)
        };
        let response = self.cluster.call(Target::Controller, 0, build, judge).await?;
        let mut moves = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                let moving = Reassignment {
                    replicas: partition.replicas,
                    adding: partition.adding_replicas,
                    removing: partition.removing_replicas,
                };
                moves.insert(TopicPartition::new(topic.name.as_str(), partition.partition_index), moving);
            }
        }
        Ok(moves)
    }
}
