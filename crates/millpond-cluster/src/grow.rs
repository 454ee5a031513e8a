//! Add partitions to a topic (Kafka's `ReplicationControlManager.createPartitions`).

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::{BrokerId, PartitionIndex, TopicId};

use crate::allocation::Allocation;
use crate::image::{Image, Topic};
use crate::names::is_internal_topic;
use crate::placement::Placement;
use crate::record::{MetadataRecord, Partition, TopicRecord};
use crate::topics::{TopicError, TopicLimits, check_brokers, check_room};

/// A topic that is to have more partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MorePartitions {
    pub topic: String,
    /// How many partitions it is to have in all.
    pub count: i32,
    /// The brokers of each new partition's replicas; `None` lets the controller choose.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// A topic as it will be once the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrownTopic {
    pub id: TopicId,
    /// How many partitions it then has.
    pub partitions: usize,
}

/// The answer to a request to add partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePartitions {
    /// One for each topic of the request, in its order.
    pub results: Vec<Result<GrownTopic, TopicError>>,
    /// What adds the partitions of those that succeed; empty when none does. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Decides which topics of a request grow, and where their new partitions are. `usable` as for `create_topics`.
///
/// A request that only wants validation is the same; the caller then appends nothing.
pub fn create_partitions(
    image: &Image,
    wanted: &[MorePartitions],
    usable: &BTreeSet<BrokerId>,
    limits: &TopicLimits,
) -> CreatePartitions {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for more in wanted {
        *times.entry(&more.topic).or_default() += 1;
    }
    let mut placement = Placement::of_new_partitions(image, usable);
    let mut allocation = Allocation::new(image);
    let mut records = Vec::new();
    let mut added = 0u64;
    let grow = |more: &MorePartitions| {
        if times.get(more.topic.as_str()).is_some_and(|times| *times > 1) {
            return Err(TopicError::NamedTwice(more.topic.clone()));
        }
        let topic = image.topic(&more.topic).ok_or_else(|| TopicError::UnknownName(more.topic.clone()))?;
        if is_internal_topic(&topic.name) {
            // Where a group is kept is a matter of how many partitions there are.
            return Err(TopicError::Internal(topic.name.to_string()));
        }
        let has = topic.partitions.len();
        let count = new_partitions(topic, more)?;
        check_room(image, limits, added + u64::from(count))?;
        let replicas = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
        let placed = match &more.assignments {
            Some(assignments) => {
                check_assignments(image, has, count, replicas, assignments)?;
                assignments.clone()
            }
            None if replicas > placement.most_replicas() => {
                let wanted = i32::try_from(replicas).unwrap_or(i32::MAX);
                return Err(TopicError::InvalidReplicationFactor { wanted, most: placement.most_replicas() });
            }
            None => (0..count).map(|_| placement.place(replicas)).collect(),
        };
        added += u64::from(count);
        let partitions = u32::try_from(has).unwrap_or(u32::MAX).saturating_add(count);
        records.push(MetadataRecord::Topic(TopicRecord { partitions, ..topic.record() }));
        records.extend(placed.iter().zip(has..).map(|(brokers, index)| {
            let index = PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX));
            let partition: Partition = allocation.partition(topic.id, index, brokers);
            MetadataRecord::Partition(partition)
        }));
        Ok(GrownTopic { id: topic.id, partitions: has + placed.len() })
    };
    let results = wanted.iter().map(grow).collect();
    if !records.is_empty() {
        records.extend(allocation.records());
    }
    CreatePartitions { results, records }
}

fn new_partitions(topic: &Topic, more: &MorePartitions) -> Result<u32, TopicError> {
    let has = topic.partitions.len();
    let added = usize::try_from(more.count).ok().and_then(|count| count.checked_sub(has)).filter(|added| *added > 0);
    let added = added.and_then(|added| u32::try_from(added).ok());
    added.ok_or_else(|| TopicError::NotMorePartitions { name: topic.name.to_string(), has, wanted: more.count })
}

fn check_assignments(
    image: &Image,
    has: usize,
    added: u32,
    replicas: usize,
    assignments: &[Vec<BrokerId>],
) -> Result<(), TopicError> {
    let (added, assigned) = (added as usize, assignments.len());
    if added != assigned {
        return Err(TopicError::AssignmentCount { added, assigned });
    }
    for (brokers, index) in assignments.iter().zip(has..) {
        let partition = PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX));
        if brokers.is_empty() {
            return Err(TopicError::AssignmentEmpty(partition));
        }
        if brokers.len() != replicas {
            return Err(TopicError::AssignmentUneven { partition, expected: replicas, found: brokers.len() });
        }
        check_brokers(image, partition, brokers)?;
    }
    Ok(())
}
