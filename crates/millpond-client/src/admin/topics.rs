//! Topics: create, delete, list, describe.

use std::collections::BTreeMap;

use millpond_record::TopicId;
use millpond_wire::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse};
use millpond_wire::metadata::{MetadataResponsePartition, MetadataResponseTopic};

use super::{Admin, Outcomes, judge_parts};
use crate::cluster::Target;
use crate::error::{Error, Result};

/// Since version 6 topics are deleted by name or by id, in another field.
const DELETE_BY_STATE: i16 = 6;

/// A topic to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    name: String,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    assignments: BTreeMap<i32, Vec<i32>>,
    configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the cluster's default for everything. (The defaults for partitions and replicas need Kafka 2.4.)
    pub fn new(name: impl Into<String>) -> NewTopic {
        NewTopic { name: name.into(), ..NewTopic::default() }
    }

    /// How many partitions, from 1.
    #[must_use]
    pub fn partitions(mut self, count: i32) -> NewTopic {
        self.partitions = Some(count);
        self
    }

    /// How many replicas each partition has, from 1 to the number of brokers.
    #[must_use]
    pub fn replication_factor(mut self, replicas: i16) -> NewTopic {
        self.replication_factor = Some(replicas);
        self
    }

    /// Where the replicas of a partition are, the preferred leader first. Given for one partition it must be for all,
    /// and says how many partitions and replicas there are.
    #[must_use]
    pub fn assignment(mut self, partition: i32, brokers: &[i32]) -> NewTopic {
        self.assignments.insert(partition, brokers.to_vec());
        self
    }

    /// A setting of the topic, as `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> NewTopic {
        self.configs.insert(name.into(), value.into());
        self
    }

    fn to_wire(&self) -> CreatableTopic {
        let assignment = |(partition, brokers): (&i32, &Vec<i32>)| CreatableReplicaAssignment {
            partition_index: *partition,
            broker_ids: brokers.clone(),
        };
        let config = |(name, value): (&String, &String)| CreatableTopicConfig {
            name: name.as_str().into(),
            value: Some(value.as_str().into()),
        };
        // With assignments the protocol wants both numbers to be left out.
        let placed = !self.assignments.is_empty();
        CreatableTopic {
            name: self.name.as_str().into(),
            num_partitions: self.partitions.filter(|_| !placed).unwrap_or(-1),
            replication_factor: self.replication_factor.filter(|_| !placed).unwrap_or(-1),
            assignments: self.assignments.iter().map(assignment).collect(),
            configs: self.configs.iter().map(config).collect(),
        }
    }
}

/// A topic that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id; `None` from brokers before Kafka 2.8.
    pub id: Option<TopicId>,
    /// How many partitions it has; `None` if the broker does not say.
    pub partitions: Option<i32>,
    /// How many replicas each has; `None` if the broker does not say.
    pub replication_factor: Option<i16>,
}

/// A topic in the list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id; `None` from brokers before Kafka 2.8.
    pub id: Option<TopicId>,
    /// Whether it is the cluster's own, as `__consumer_offsets`.
    pub is_internal: bool,
    /// How many partitions it has.
    pub partitions: usize,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id; `None` from brokers before Kafka 2.8.
    pub id: Option<TopicId>,
    /// Whether it is the cluster's own, as `__consumer_offsets`.
    pub is_internal: bool,
    /// Its partitions by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition as the broker that was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// From 0 on.
    pub partition: i32,
    /// The broker that leads it; `None` while nobody does.
    pub leader: Option<i32>,
    /// Counts its leaders; `None` from brokers that do not say.
    pub leader_epoch: Option<i32>,
    /// The brokers that hold a replica, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those that have all that is committed.
    pub in_sync: Vec<i32>,
    /// Those whose broker is not there.
    pub offline: Vec<i32>,
}

impl PartitionDescription {
    /// Whether a replica is missing among those that are in sync.
    pub fn is_under_replicated(&self) -> bool {
        self.replicas.iter().any(|replica| !self.in_sync.contains(replica))
    }

    fn from_wire(partition: &MetadataResponsePartition) -> PartitionDescription {
        PartitionDescription {
            partition: partition.partition_index,
            leader: Some(partition.leader_id).filter(|id| *id >= 0),
            leader_epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
            replicas: partition.replica_nodes.clone(),
            in_sync: partition.isr_nodes.clone(),
            offline: partition.offline_replicas.clone(),
        }
    }
}

impl TopicDescription {
    fn from_wire(topic: &MetadataResponseTopic) -> TopicDescription {
        let mut partitions: Vec<_> = topic.partitions.iter().map(PartitionDescription::from_wire).collect();
        partitions.sort_by_key(|partition| partition.partition);
        TopicDescription {
            name: name_of(topic),
            id: topic_id(topic.topic_id),
            is_internal: topic.is_internal,
            partitions,
        }
    }
}

fn name_of(topic: &MetadataResponseTopic) -> String {
    topic.name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default()
}

fn topic_id(id: [u8; 16]) -> Option<TopicId> {
    Some(TopicId(id)).filter(|id| *id != TopicId::ZERO)
}

impl Admin {
    /// Makes topics.
    ///
    /// # Errors
    /// For a topic: `TOPIC_ALREADY_EXISTS`, `INVALID_TOPIC_EXCEPTION`, `INVALID_PARTITIONS`,
    /// `INVALID_REPLICATION_FACTOR`, `INVALID_CONFIG`, `POLICY_VIOLATION`, `REQUEST_TIMED_OUT` (it may come to be
    /// later). For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<Outcomes<String, CreatedTopic>> {
        self.create(topics, false).await
    }

    /// Says what [`create_topics`](Admin::create_topics) would, and makes nothing.
    ///
    /// # Errors
    /// As [`create_topics`](Admin::create_topics).
    pub async fn validate_topics(&self, topics: &[NewTopic]) -> Result<Outcomes<String, CreatedTopic>> {
        self.create(topics, true).await
    }

    async fn create(&self, topics: &[NewTopic], validate_only: bool) -> Result<Outcomes<String, CreatedTopic>> {
        let timeout_ms = self.broker_timeout_ms();
        let build = |_| {
            let topics = topics.iter().map(NewTopic::to_wire).collect();
            CreateTopicsRequest { topics, timeout_ms, validate_only }
        };
        let judge = |response: &CreateTopicsResponse| {
            judge_parts("creating topics", response.topics.iter().map(|topic| topic.error_code))
        };
        let response = self.cluster.call(Target::Controller, 0, build, judge).await?;
        let outcome = response.topics.iter().map(|topic| {
            let made = Error::check(topic.error_code, topic.error_message.as_deref(), || {
                format!("the topic {} is not created", topic.name)
            });
            let made = made.map(|()| CreatedTopic {
                id: topic_id(topic.topic_id),
                partitions: Some(topic.num_partitions).filter(|count| *count > 0),
                replication_factor: Some(topic.replication_factor).filter(|count| *count > 0),
            });
            (topic.name.as_str().to_owned(), made)
        });
        Ok(outcome.collect())
    }

    /// Deletes topics and all that is in them.
    ///
    /// # Errors
    /// For a topic: `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_TOPIC_EXCEPTION` (the cluster's own), `REQUEST_TIMED_OUT`
    /// (it goes later). For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn delete_topics(&self, names: &[&str]) -> Result<Outcomes<String, ()>> {
        let timeout_ms = self.broker_timeout_ms();
        let build = |version| {
            let state = |name: &&str| DeleteTopicState { name: Some((*name).into()), ..Default::default() };
            match version >= DELETE_BY_STATE {
                true => {
                    DeleteTopicsRequest { topics: names.iter().map(state).collect(), timeout_ms, ..Default::default() }
                }
                false => DeleteTopicsRequest {
                    topic_names: names.iter().map(|name| (*name).into()).collect(),
                    timeout_ms,
                    ..Default::default()
                },
            }
        };
        let judge = |response: &DeleteTopicsResponse| {
            judge_parts("deleting topics", response.responses.iter().map(|topic| topic.error_code))
        };
        let response = self.cluster.call(Target::Controller, 0, build, judge).await?;
        let outcome = response.responses.iter().map(|topic| {
            let name = topic.name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default();
            let gone = Error::check(topic.error_code, topic.error_message.as_deref(), || {
                format!("the topic {name} is not deleted")
            });
            (name, gone)
        });
        Ok(outcome.collect())
    }

    /// All topics, by name, those of the cluster itself among them.
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call).
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        let response = self.cluster.metadata(None).await?;
        let mut topics: Vec<TopicListing> = response
            .topics
            .iter()
            .map(|topic| TopicListing {
                name: name_of(topic),
                id: topic_id(topic.topic_id),
                is_internal: topic.is_internal,
                partitions: topic.partitions.len(),
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Topics and their partitions. None is created by asking.
    ///
    /// # Errors
    /// For a topic: `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_TOPIC_EXCEPTION`, `TOPIC_AUTHORIZATION_FAILED`. For the
    /// call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Outcomes<String, TopicDescription>> {
        if names.is_empty() {
            return Ok(Outcomes::new());
        }
        self.descriptions(Target::Any, Some(names)).await
    }

    /// As [`describe_topics`](Admin::describe_topics), by the controller, which is the first to know of changes.
    ///
    /// # Errors
    /// As of [`describe_topics`](Admin::describe_topics).
    pub async fn describe_topics_by_controller(&self, names: &[&str]) -> Result<Outcomes<String, TopicDescription>> {
        if names.is_empty() {
            return Ok(Outcomes::new());
        }
        self.descriptions(Target::Controller, Some(names)).await
    }

    /// All topics and their partitions.
    ///
    /// # Errors
    /// As [`describe_topics`](Admin::describe_topics).
    pub async fn describe_all_topics(&self) -> Result<Outcomes<String, TopicDescription>> {
        self.descriptions(Target::Any, None).await
    }

    async fn descriptions(&self, target: Target, names: Option<&[&str]>) -> Result<Outcomes<String, TopicDescription>> {
        let response = self.cluster.metadata_of(target, names).await?;
        let outcome = response.topics.iter().map(|topic| {
            let name = name_of(topic);
            let found = Error::check(topic.error_code, None, || format!("describing the topic {name}"));
            (name, found.map(|()| TopicDescription::from_wire(topic)))
        });
        Ok(outcome.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_assignments_leaves_its_numbers_out() {
        let plain = NewTopic::new("logs").partitions(3).replication_factor(2).config("retention.ms", "5").to_wire();
        assert_eq!((plain.num_partitions, plain.replication_factor), (3, 2));
        assert_eq!(plain.configs[0].value.as_deref(), Some("5"));
        let placed = NewTopic::new("logs").partitions(3).replication_factor(2).assignment(0, &[2, 1]).to_wire();
        assert_eq!((placed.num_partitions, placed.replication_factor), (-1, -1));
        assert_eq!(placed.assignments[0].broker_ids, [2, 1]);
        assert_eq!(NewTopic::new("logs").to_wire().num_partitions, -1, "the cluster's default");
    }

    #[test]
    fn a_partition_is_under_replicated_when_a_replica_is_not_in_sync() {
        let partition = |in_sync: &[i32]| PartitionDescription {
            partition: 0,
            leader: Some(1),
            leader_epoch: None,
            replicas: vec![1, 2],
            in_sync: in_sync.to_vec(),
            offline: Vec::new(),
        };
        assert!(!partition(&[2, 1]).is_under_replicated());
        assert!(partition(&[1]).is_under_replicated());
        assert!(partition(&[1, 3]).is_under_replicated(), "another one in its place does not count");
    }
}
