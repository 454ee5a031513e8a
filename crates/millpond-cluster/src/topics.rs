//! Create and delete topics: what is allowed, and the records that do it (Kafka's `ReplicationControlManager`).

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::{BrokerId, GroupId, PartitionIndex, TopicId};

use crate::allocation::Allocation;
use crate::config::{
    ConfigError, EffectiveConfig, TopicDefaults, check_durable_if_internal, check_topic_configs, effective_configs,
};
use crate::image::Image;
use crate::names::{TopicNameError, check_topic_name, is_internal_topic, metric_name};
use crate::placement::Placement;
use crate::record::{MetadataRecord, Partition, TopicRecord};

/// A topic that a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// -1 takes the broker's default. Must be -1 with assignments.
    pub partitions: i32,
    /// -1 takes the broker's default. Must be -1 with assignments.
    pub replication_factor: i16,
    /// The brokers of each partition's replicas; empty lets the controller choose.
    pub assignments: Vec<(PartitionIndex, Vec<BrokerId>)>,
    pub configs: Vec<(String, Option<String>)>,
}

/// What bounds and completes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Partitions of a topic that asks for -1.
    pub default_partitions: u32,
    /// Replicas of a topic that asks for -1; `None` is 3 where three brokers or more are registered, else 1.
    pub default_replication_factor: Option<u16>,
    /// The most partitions that one request may create: they all go into one metadata batch.
    pub max_partitions_per_request: u32,
    /// The most partitions that the cluster may have.
    pub max_partitions: u64,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            default_partitions: 1,
            default_replication_factor: None,
            max_partitions_per_request: 10_000,
            max_partitions: 200_000,
        }
    }
}

/// Why a topic is not created or deleted.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopicError {
    /// INVALID_TOPIC_EXCEPTION
    #[error(transparent)]
    InvalidName(#[from] TopicNameError),
    /// TOPIC_ALREADY_EXISTS
    #[error("topic {0:?} already exists")]
    Exists(String),
    /// INVALID_REQUEST
    #[error("topic {0:?} is named more than once in the request")]
    NamedTwice(String),
    /// INVALID_PARTITIONS
    #[error("a topic cannot have {0} partitions: 1 or more, or -1 for the broker's default")]
    InvalidPartitions(i32),
    /// POLICY_VIOLATION
    #[error("{wanted} partitions are more than one request may create, which is {limit}")]
    TooManyPartitions { wanted: u64, limit: u64 },
    /// POLICY_VIOLATION
    #[error("with {wanted} partitions more the cluster would have more than its limit of {limit}")]
    ClusterFull { wanted: u64, limit: u64 },
    /// INVALID_REPLICATION_FACTOR
    #[error(
        "the replication factor cannot be {wanted}: from 1 to 5 and to the number of brokers, a majority of which must \
         be alive, so {most} at most now, or -1"
    )]
    InvalidReplicationFactor { wanted: i32, most: usize },
    /// INVALID_REQUEST
    #[error("with manual assignments the number of partitions and the replication factor must both be -1")]
    AssignmentWithCounts,
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("manual assignments must name the partitions from 0 on, each once; partition {0} is missing or repeated")]
    AssignmentGap(i32),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("partition {0} is assigned to no broker")]
    AssignmentEmpty(PartitionIndex),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("partition {partition} is assigned to broker {broker} twice")]
    AssignmentRepeats { partition: PartitionIndex, broker: BrokerId },
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("partition {partition} is assigned to broker {broker}, which is not registered")]
    AssignmentUnknownBroker { partition: PartitionIndex, broker: BrokerId },
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("partition {partition} has {found} replicas and partition 0 has {expected}: they must be as many")]
    AssignmentUneven { partition: PartitionIndex, expected: usize, found: usize },
    /// INVALID_CONFIG
    #[error(transparent)]
    InvalidConfig(#[from] ConfigError),
    /// INVALID_TOPIC_EXCEPTION
    #[error("topic {0:?} is the broker's own: it is neither deleted nor given more partitions")]
    Internal(String),
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no topic {0:?}")]
    UnknownName(String),
    /// UNKNOWN_TOPIC_ID
    #[error("there is no topic with id {0}")]
    UnknownId(TopicId),
    /// INVALID_REQUEST
    #[error("a topic is deleted by its name or by its id, not by both")]
    NameAndId,
    /// INVALID_REQUEST
    #[error("neither a name nor an id says which topic to delete")]
    NeitherNameNorId,
    /// INVALID_PARTITIONS
    #[error("topic {name:?} has {has} partitions and cannot have {wanted}: partitions can only be added")]
    NotMorePartitions { name: String, has: usize, wanted: i32 },
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("{added} partitions are added and {assigned} assigned to brokers: it must be as many, or none")]
    AssignmentCount { added: usize, assigned: usize },
}

/// A topic as it will be once the records are committed.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedTopic {
    pub name: String,
    pub id: TopicId,
    pub partitions: Vec<Partition>,
    pub replication_factor: u16,
    /// Every setting with its value in force.
    pub configs: Vec<EffectiveConfig>,
    /// Sentences on settings that are accepted but do nothing yet, for the broker's log.
    pub notices: Vec<String>,
}

/// The answer to a request to create topics.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTopics {
    /// One for each topic of the request, in its order.
    pub results: Vec<Result<CreatedTopic, TopicError>>,
    /// What creates those that succeed; empty when none does. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// The most replicas that a partition may have.
pub const MAX_REPLICATION_FACTOR: usize = 5;

/// From so many brokers on, topics have so many replicas unless something else is asked for.
const USUAL_REPLICATION_FACTOR: u16 = 3;

/// Decides which topics of a request are created, and how. `usable` are the brokers that are alive: those of them that
/// are registered and not being decommissioned get replicas. Where they are too few others that are registered get a
/// minority of each partition's. `random` gives the bytes of topic ids.
///
/// A request that only wants validation is the same; the caller then appends nothing.
pub fn create_topics(
    image: &Image,
    wanted: &[NewTopic],
    usable: &BTreeSet<BrokerId>,
    limits: &TopicLimits,
    defaults: &TopicDefaults,
    random: &mut dyn FnMut() -> [u8; 16],
) -> CreateTopics {
    let mut creation = Creation {
        image,
        limits,
        defaults,
        placement: Placement::of_new_partitions(image, usable),
        allocation: Allocation::new(image),
        partitions: 0,
        taken_ids: BTreeSet::new(),
        metric_names: BTreeMap::new(),
        records: image.opening(),
    };
    let opening = creation.records.len();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in wanted {
        *times.entry(&topic.name).or_default() += 1;
    }
    let results: Vec<_> = wanted
        .iter()
        .map(|topic| {
            if times.get(topic.name.as_str()).is_some_and(|times| *times > 1) {
                return Err(TopicError::NamedTwice(topic.name.clone()));
            }
            creation.create(topic, random)
        })
        .collect();
    let mut records = creation.records;
    if records.len() == opening {
        return CreateTopics { results, records: Vec::new() };
    }
    records.extend(creation.allocation.records());
    CreateTopics { results, records }
}

/// A request in progress: what its earlier topics took is not in the image yet.
struct Creation<'a> {
    image: &'a Image,
    limits: &'a TopicLimits,
    defaults: &'a TopicDefaults,
    placement: Placement,
    allocation: Allocation<'a>,
    partitions: u64,
    taken_ids: BTreeSet<TopicId>,
    metric_names: BTreeMap<String, String>,
    records: Vec<MetadataRecord>,
}

impl Creation<'_> {
    fn create(&mut self, wanted: &NewTopic, random: &mut dyn FnMut() -> [u8; 16]) -> Result<CreatedTopic, TopicError> {
        let name = &wanted.name;
        self.check_name(name)?;
        let placed = self.place(wanted)?;
        let (mut configs, notices) = check_topic_configs(&wanted.configs, self.defaults)?;
        check_durable_if_internal(name, &configs)?;
        // The default for topics is for those of clients.
        for (name, value) in self.defaults.written_into_topics().filter(|_| !is_internal_topic(&wanted.name)) {
            configs.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }

        let id = self.new_id(random);
        let count = u32::try_from(placed.len()).expect("the number of partitions is limited");
        let replication_factor = placed.first().map_or(0, Vec::len);
        let partitions: Vec<Partition> = (0..)
            .zip(placed)
            .map(|(at, brokers)| self.allocation.partition(id, PartitionIndex(at), &brokers))
            .collect();
        self.partitions += u64::from(count);
        self.metric_names.insert(metric_name(name), name.clone());
        let topic = TopicRecord { id, name: name.clone(), configs: configs.clone(), partitions: count };
        self.records.push(MetadataRecord::Topic(topic));
        self.records.extend(partitions.iter().cloned().map(MetadataRecord::Partition));
        Ok(CreatedTopic {
            name: name.clone(),
            id,
            partitions,
            replication_factor: u16::try_from(replication_factor).unwrap_or(u16::MAX),
            configs: effective_configs(&configs, self.defaults),
            notices,
        })
    }

    fn check_name(&self, name: &str) -> Result<(), TopicError> {
        check_topic_name(name)?;
        if self.image.topic(name).is_some() {
            return Err(TopicError::Exists(name.to_owned()));
        }
        let same_request = self.metric_names.get(&metric_name(name)).map(String::as_str);
        if let Some(existing) = self.image.topic_with_metric_name_of(name).map(|name| &**name).or(same_request) {
            let (name, existing) = (name.to_owned(), existing.to_owned());
            return Err(TopicNameError::Collides { name, existing }.into());
        }
        Ok(())
    }

    /// The brokers of every partition.
    fn place(&mut self, wanted: &NewTopic) -> Result<Vec<Vec<BrokerId>>, TopicError> {
        if !wanted.assignments.is_empty() {
            if (wanted.partitions, wanted.replication_factor) != (-1, -1) {
                return Err(TopicError::AssignmentWithCounts);
            }
            self.check_room(wanted.assignments.len() as u64)?;
            return self.check_assignments(&wanted.assignments);
        }
        let partitions = match wanted.partitions {
            -1 => self.limits.default_partitions,
            count => {
                u32::try_from(count).ok().filter(|count| *count > 0).ok_or(TopicError::InvalidPartitions(count))?
            }
        };
        let most = self.placement.most_replicas();
        let (replicas, asked) = match wanted.replication_factor {
            -1 => {
                let factor = self.default_replication_factor();
                (usize::from(factor), i32::from(factor))
            }
            factor => (usize::try_from(factor).unwrap_or(0), i32::from(factor)),
        };
        if replicas == 0 || replicas > most.min(MAX_REPLICATION_FACTOR) {
            return Err(TopicError::InvalidReplicationFactor { wanted: asked, most });
        }
        self.check_room(u64::from(partitions))?;
        Ok((0..partitions).map(|_| self.placement.place(replicas)).collect())
    }

    fn default_replication_factor(&self) -> u16 {
        self.limits.default_replication_factor.unwrap_or_else(|| {
            if self.image.broker_count() >= usize::from(USUAL_REPLICATION_FACTOR) {
                USUAL_REPLICATION_FACTOR
            } else {
                1
            }
        })
    }

    fn check_room(&self, partitions: u64) -> Result<(), TopicError> {
        check_room(self.image, self.limits, self.partitions + partitions)
    }

    fn check_assignments(
        &self,
        assignments: &[(PartitionIndex, Vec<BrokerId>)],
    ) -> Result<Vec<Vec<BrokerId>>, TopicError> {
        let mut sorted: Vec<_> = assignments.iter().collect();
        sorted.sort_by_key(|(index, _)| *index);
        let mut placed: Vec<Vec<BrokerId>> = Vec::with_capacity(sorted.len());
        for (expected, (partition, brokers)) in (0..).zip(sorted) {
            let partition = *partition;
            if partition.0 != expected {
                return Err(TopicError::AssignmentGap(expected));
            }
            let Some(first) = placed.first().or(Some(brokers)).filter(|_| !brokers.is_empty()) else {
                return Err(TopicError::AssignmentEmpty(partition));
            };
            if first.len() != brokers.len() {
                let (expected, found) = (first.len(), brokers.len());
                return Err(TopicError::AssignmentUneven { partition, expected, found });
            }
            check_brokers(self.image, partition, brokers)?;
            placed.push(brokers.clone());
        }
        Ok(placed)
    }

    /// A random id (UUID version 4) that no topic has and that no tool takes for an option (a leading '-').
    fn new_id(&mut self, random: &mut dyn FnMut() -> [u8; 16]) -> TopicId {
        let mut bytes = random();
        loop {
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            if bytes[0] >> 2 == DASH {
                bytes[0] ^= 0x80;
            }
            let id = TopicId(bytes);
            if self.image.topic_by_id(id).is_none() && self.taken_ids.insert(id) {
                return id;
            }
            // Counting on ends even if the source of randomness always says the same.
            bytes = u128::from_be_bytes(bytes).wrapping_add(1).to_be_bytes();
        }
    }
}

/// Whether one request may add `wanted` partitions.
pub(crate) fn check_room(image: &Image, limits: &TopicLimits, wanted: u64) -> Result<(), TopicError> {
    let limit = u64::from(limits.max_partitions_per_request);
    if wanted > limit {
        return Err(TopicError::TooManyPartitions { wanted, limit });
    }
    let limit = limits.max_partitions;
    if image.partition_count() + wanted > limit {
        return Err(TopicError::ClusterFull { wanted, limit });
    }
    Ok(())
}

/// A manual assignment names registered brokers, each once.
pub(crate) fn check_brokers(image: &Image, partition: PartitionIndex, brokers: &[BrokerId]) -> Result<(), TopicError> {
    let mut seen = BTreeSet::new();
    if brokers.len() > MAX_REPLICATION_FACTOR {
        let wanted = i32::try_from(brokers.len()).unwrap_or(i32::MAX);
        return Err(TopicError::InvalidReplicationFactor { wanted, most: image.broker_count() });
    }
    for &broker in brokers {
        if !seen.insert(broker) {
            return Err(TopicError::AssignmentRepeats { partition, broker });
        }
        if image.broker(broker).is_none() {
            return Err(TopicError::AssignmentUnknownBroker { partition, broker });
        }
    }
    Ok(())
}

/// The digit '-' of base64url.
const DASH: u8 = 62;

/// Which topic to delete: by name, or by id with no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicReference {
    pub name: Option<String>,
    /// [`TopicId::ZERO`] with a name.
    pub id: TopicId,
}

/// A topic that goes when the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    pub name: String,
    pub id: TopicId,
    /// The groups of its partitions.
    pub groups: Vec<GroupId>,
}

/// The answer to a request to delete topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteTopics {
    /// One for each reference of the request, in its order.
    pub results: Vec<Result<DeletedTopic, TopicError>>,
    /// What deletes those that succeed. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Decides which topics of a request are deleted. A topic that is named more than once stays.
pub fn delete_topics(image: &Image, references: &[TopicReference]) -> DeleteTopics {
    let found: Vec<_> = references.iter().map(|reference| find(image, reference)).collect();
    let mut times: BTreeMap<TopicId, usize> = BTreeMap::new();
    for id in found.iter().flatten().map(|topic| topic.id) {
        *times.entry(id).or_default() += 1;
    }
    let mut records = Vec::new();
    let results = found.into_iter().map(|topic| {
        let topic = topic?;
        if times.get(&topic.id).is_some_and(|times| *times > 1) {
            return Err(TopicError::NamedTwice(topic.name.to_string()));
        }
        records.push(MetadataRecord::TopicRemoved(topic.id));
        let indexes = topic.partitions.iter().map(|partition| partition.index);
        records.extend(indexes.map(|index| MetadataRecord::PartitionRemoved(topic.id, index)));
        let groups = topic.partitions.iter().map(|partition| partition.group).collect();
        Ok(DeletedTopic { name: topic.name.to_string(), id: topic.id, groups })
    });
    let results = results.collect();
    DeleteTopics { results, records }
}

fn find<'a>(image: &'a Image, reference: &TopicReference) -> Result<&'a crate::image::Topic, TopicError> {
    let topic = match (&reference.name, reference.id) {
        (Some(name), TopicId::ZERO) => image.topic(name).ok_or_else(|| TopicError::UnknownName(name.clone()))?,
        (None, TopicId::ZERO) => return Err(TopicError::NeitherNameNorId),
        (None, id) => image.topic_by_id(id).ok_or(TopicError::UnknownId(id))?,
        (Some(_), _) => return Err(TopicError::NameAndId),
    };
    if is_internal_topic(&topic.name) {
        return Err(TopicError::Internal(topic.name.to_string()));
    }
    Ok(topic)
}
