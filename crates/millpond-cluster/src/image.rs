//! The immutable image of the cluster's metadata.
//!
//! An image is cheap to clone and never changes: `apply` returns the next one, which shares what did not change (maps
//! are persistent, topics are behind `Arc`s). What an image holds depends only on the last value of every key, not on
//! the order in which keys came, so a compacted log gives the same image as the whole log.

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_record::{BrokerId, GroupId, PartitionIndex, ProducerId, ReplicaId, TopicId};
use rpds::RedBlackTreeMapSync;

use crate::names::metric_name;
use crate::quotas::{ClientQuota, QuotaEntity};
use crate::record::{Broker, FEATURE_LEVEL, MetadataRecord, Partition, TopicRecord};

/// The group that holds the metadata itself.
pub const METADATA_GROUP: GroupId = GroupId(0);

/// The replica id of group 0 on the broker that founds the cluster; the allocator starts behind it.
pub const FIRST_METADATA_REPLICA: ReplicaId = ReplicaId(1);

/// A topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: TopicId,
    /// Settings that were set on the topic itself, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// In order of their index, from 0.
    pub partitions: Vec<Partition>,
    /// How many partitions the topic has by its own record.
    partition_count: u32,
}

impl Topic {
    /// The partition with that index.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        let at = self.partitions.binary_search_by_key(&index, |partition| partition.index).ok()?;
        self.partitions.get(at)
    }

    /// The topic's own record.
    pub fn record(&self) -> TopicRecord {
        TopicRecord {
            id: self.id,
            name: self.name.to_string(),
            configs: self.configs.clone(),
            partitions: self.partition_count,
        }
    }

    fn put(&mut self, partition: Partition) {
        match self.partitions.binary_search_by_key(&partition.index, |partition| partition.index) {
            Ok(at) => self.partitions[at] = partition,
            Err(at) => self.partitions.insert(at, partition),
        }
    }
}

/// Why a record cannot be applied. A broker that meets one must stop: its image would differ from that of the others.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApplyError {
    #[error("the metadata log does not begin with a feature level")]
    NoFeatureLevel,
    #[error(
        "the cluster is at feature level {0}, this millpond knows levels 1 to {FEATURE_LEVEL}: run a newer version"
    )]
    UnknownFeatureLevel(u32),
    #[error("the feature level goes back from {from} to {to}")]
    FeatureLevelLowered { from: u32, to: u32 },
    #[error("the allocator of {what} goes back from {from} to {to}")]
    AllocatorLowered { what: &'static str, from: u64, to: u64 },
    #[error("topic {name:?} exists twice, as {first} and {second}")]
    NameTaken { name: String, first: TopicId, second: TopicId },
    #[error("topic {id} changes its name from {from:?} to {to:?}")]
    Renamed { id: TopicId, from: String, to: String },
}

/// The metadata of the cluster after some record of group 0.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    feature_level: Option<u32>,
    brokers: RedBlackTreeMapSync<BrokerId, Arc<Broker>>,
    by_name: RedBlackTreeMapSync<Arc<str>, Arc<Topic>>,
    by_id: RedBlackTreeMapSync<TopicId, Arc<Topic>>,
    by_metric_name: RedBlackTreeMapSync<String, Arc<str>>,
    /// Partitions whose topic's record is not there: it was removed (the partitions' removal follows), or
    /// compaction kept only a later version of it, which is still to come.
    orphans: RedBlackTreeMapSync<(TopicId, PartitionIndex), Partition>,
    /// Set at run time on one broker, or on all (`None`); never an empty map.
    broker_settings: RedBlackTreeMapSync<Option<BrokerId>, Arc<BTreeMap<String, String>>>,
    /// Never one without limits.
    client_quotas: RedBlackTreeMapSync<QuotaEntity, ClientQuota>,
    partition_count: u64,
    next_group: GroupId,
    next_replica: ReplicaId,
    next_producer_id: ProducerId,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            feature_level: None,
            brokers: RedBlackTreeMapSync::new_sync(),
            by_name: RedBlackTreeMapSync::new_sync(),
            by_id: RedBlackTreeMapSync::new_sync(),
            by_metric_name: RedBlackTreeMapSync::new_sync(),
            orphans: RedBlackTreeMapSync::new_sync(),
            broker_settings: RedBlackTreeMapSync::new_sync(),
            client_quotas: RedBlackTreeMapSync::new_sync(),
            partition_count: 0,
            next_group: GroupId(METADATA_GROUP.0 + 1),
            next_replica: ReplicaId(FIRST_METADATA_REPLICA.0 + 1),
            next_producer_id: ProducerId(0),
        }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("feature_level", &self.feature_level)
            .field("brokers", &self.brokers.values().collect::<Vec<_>>())
            .field("topics", &self.by_name.values().collect::<Vec<_>>())
            .field("orphans", &self.orphans.values().collect::<Vec<_>>())
            .field("broker_settings", &self.broker_settings)
            .field("client_quotas", &self.client_quotas)
            .field("next_group", &self.next_group)
            .field("next_replica", &self.next_replica)
            .field("next_producer_id", &self.next_producer_id)
            .finish()
    }
}

impl Image {
    /// The feature level; `None` before the first record.
    pub fn feature_level(&self) -> Option<u32> {
        self.feature_level
    }

    /// The topic with that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics in order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.by_name.size()
    }

    /// How many partitions all topics have together.
    pub fn partition_count(&self) -> u64 {
        self.partition_count
    }

    /// A topic whose name would be the same in a metric: it differs from `name` at most in '.' and '_'.
    pub fn topic_with_metric_name_of(&self, name: &str) -> Option<&Arc<str>> {
        self.by_metric_name.get(&metric_name(name))
    }

    /// The broker with that id.
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// All registered brokers in order of their ids.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// How many brokers are registered.
    pub fn broker_count(&self) -> usize {
        self.brokers.size()
    }

    /// What was set at run time on one broker, or on all (`None`), by the names of broker settings.
    pub fn broker_settings(&self, broker: Option<BrokerId>) -> Option<&BTreeMap<String, String>> {
        self.broker_settings.get(&broker).map(|settings| &**settings)
    }

    /// All quotas of clients.
    pub fn client_quotas(&self) -> impl Iterator<Item = (&QuotaEntity, &ClientQuota)> {
        self.client_quotas.iter()
    }

    /// The quota of an entity.
    pub fn client_quota(&self, entity: &QuotaEntity) -> Option<&ClientQuota> {
        self.client_quotas.get(entity)
    }

    /// How many entities have quotas.
    pub fn client_quota_count(&self) -> usize {
        self.client_quotas.size()
    }

    /// The group id that the next partition gets.
    pub fn next_group(&self) -> GroupId {
        self.next_group
    }

    /// The replica id that the next replica gets.
    pub fn next_replica(&self) -> ReplicaId {
        self.next_replica
    }

    /// The first producer id of the next block.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// What a decision's records begin with: on an empty image the feature level, else nothing.
    pub(crate) fn opening(&self) -> Vec<MetadataRecord> {
        match self.feature_level {
            None => vec![MetadataRecord::FeatureLevel(FEATURE_LEVEL)],
            Some(_) => Vec::new(),
        }
    }

    /// The image after these records, in order. All or nothing; the same records give the same image everywhere.
    pub fn apply(&self, records: &[MetadataRecord]) -> Result<Image, ApplyError> {
        let mut change = Change { image: self.clone(), topics: BTreeMap::new() };
        for record in records {
            change.apply(record)?;
        }
        Ok(change.finish())
    }
}

/// An image in the making. A topic that changes is copied once, whatever the number of its partitions that change.
struct Change {
    image: Image,
    topics: BTreeMap<TopicId, Topic>,
}

impl Change {
    fn apply(&mut self, record: &MetadataRecord) -> Result<(), ApplyError> {
        if self.image.feature_level.is_none() && !matches!(record, MetadataRecord::FeatureLevel(_)) {
            return Err(ApplyError::NoFeatureLevel);
        }
        let image = &mut self.image;
        match record {
            MetadataRecord::FeatureLevel(level) => self.set_feature_level(*level)?,
            MetadataRecord::Broker(broker) => image.brokers.insert_mut(broker.id, Arc::new(broker.clone())),
            MetadataRecord::BrokerRemoved(id) => {
                image.brokers.remove_mut(id);
            }
            MetadataRecord::Topic(topic) => self.put_topic(topic)?,
            MetadataRecord::TopicRemoved(id) => self.remove_topic(*id),
            MetadataRecord::Partition(partition) => match self.topic_mut(partition.topic) {
                Some(topic) => topic.put(partition.clone()),
                None => self.image.orphans.insert_mut((partition.topic, partition.index), partition.clone()),
            },
            MetadataRecord::PartitionRemoved(topic, index) => match self.topic_mut(*topic) {
                Some(topic) => topic.partitions.retain(|partition| partition.index != *index),
                None => {
                    self.image.orphans.remove_mut(&(*topic, *index));
                }
            },
            MetadataRecord::NextGroup(next) => {
                forward("group ids", image.next_group.0, next.0)?;
                image.next_group = *next;
            }
            MetadataRecord::NextReplica(next) => {
                forward("replica ids", image.next_replica.0, next.0)?;
                image.next_replica = *next;
            }
            MetadataRecord::NextProducerId(next) => {
                forward("producer ids", image.next_producer_id.0.unsigned_abs(), next.0.unsigned_abs())?;
                image.next_producer_id = *next;
            }
            MetadataRecord::BrokerSettings(broker, settings) if settings.is_empty() => {
                image.broker_settings.remove_mut(broker);
            }
            MetadataRecord::BrokerSettings(broker, settings) => {
                image.broker_settings.insert_mut(*broker, Arc::new(settings.clone()));
            }
            MetadataRecord::ClientQuota(entity, quota) if quota.is_empty() => {
                image.client_quotas.remove_mut(entity);
            }
            MetadataRecord::ClientQuota(entity, quota) => image.client_quotas.insert_mut(entity.clone(), *quota),
        }
        Ok(())
    }

    fn set_feature_level(&mut self, level: u32) -> Result<(), ApplyError> {
        if level == 0 || level > FEATURE_LEVEL {
            return Err(ApplyError::UnknownFeatureLevel(level));
        }
        match self.image.feature_level {
            Some(from) if from > level => Err(ApplyError::FeatureLevelLowered { from, to: level }),
            _ => {
                self.image.feature_level = Some(level);
                Ok(())
            }
        }
    }

    fn put_topic(&mut self, record: &TopicRecord) -> Result<(), ApplyError> {
        if let Some(topic) = self.topic_mut(record.id) {
            if *topic.name != *record.name {
                let (from, to) = (topic.name.to_string(), record.name.clone());
                return Err(ApplyError::Renamed { id: record.id, from, to });
            }
            topic.configs.clone_from(&record.configs);
            topic.partition_count = record.partitions;
            return Ok(());
        }
        let image = &mut self.image;
        if let Some(first) = image.by_name.get(record.name.as_str()) {
            return Err(ApplyError::NameTaken { name: record.name.clone(), first: first.id, second: record.id });
        }
        let all_indexes = (record.id, PartitionIndex(0))..=(record.id, PartitionIndex(i32::MAX));
        let partitions: Vec<Partition> = image.orphans.range(all_indexes).map(|(_, orphan)| orphan.clone()).collect();
        for orphan in &partitions {
            image.orphans.remove_mut(&(record.id, orphan.index));
        }
        let name: Arc<str> = record.name.as_str().into();
        let topic = Topic {
            name: Arc::clone(&name),
            id: record.id,
            configs: record.configs.clone(),
            partitions,
            partition_count: record.partitions,
        };
        image.by_metric_name.insert_mut(metric_name(&name), Arc::clone(&name));
        // A place holder in the indexes, so that a second topic of that name in the same records is seen.
        let placed = Arc::new(Topic { partitions: Vec::new(), ..topic.clone() });
        image.by_name.insert_mut(name, Arc::clone(&placed));
        image.by_id.insert_mut(record.id, placed);
        self.topics.insert(record.id, topic);
        Ok(())
    }

    fn remove_topic(&mut self, id: TopicId) {
        let Some(stored) = self.image.by_id.get(&id).cloned() else { return };
        let topic = match self.topics.remove(&id) {
            Some(changed) => changed,
            None => (*stored).clone(),
        };
        let image = &mut self.image;
        image.by_id.remove_mut(&id);
        image.by_name.remove_mut(&topic.name);
        image.by_metric_name.remove_mut(&metric_name(&topic.name));
        image.partition_count -= stored.partitions.len() as u64;
        for partition in topic.partitions {
            image.orphans.insert_mut((id, partition.index), partition);
        }
    }

    /// The working copy of a topic; `None` when no such topic exists.
    fn topic_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        match self.topics.entry(id) {
            std::collections::btree_map::Entry::Occupied(changed) => Some(changed.into_mut()),
            std::collections::btree_map::Entry::Vacant(untouched) => {
                let topic = self.image.by_id.get(&id)?;
                Some(untouched.insert((**topic).clone()))
            }
        }
    }

    fn finish(self) -> Image {
        let Change { mut image, topics } = self;
        for (id, topic) in topics {
            let before = image.by_id.get(&id).map_or(0, |topic| topic.partitions.len() as u64);
            image.partition_count = image.partition_count - before + topic.partitions.len() as u64;
            let topic = Arc::new(topic);
            image.by_name.insert_mut(Arc::clone(&topic.name), Arc::clone(&topic));
            image.by_id.insert_mut(id, topic);
        }
        debug_assert_eq!(image.by_name.size(), image.by_id.size(), "a topic has one name and one id");
        image
    }
}

fn forward(what: &'static str, from: u64, to: u64) -> Result<(), ApplyError> {
    if to < from { Err(ApplyError::AllocatorLowered { what, from, to }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: u8, name: &str, partitions: u32) -> MetadataRecord {
        let id = TopicId([id; 16]);
        MetadataRecord::Topic(TopicRecord { id, name: name.to_owned(), configs: BTreeMap::new(), partitions })
    }

    fn founded() -> Image {
        Image::default().apply(&[MetadataRecord::FeatureLevel(1)]).expect("a feature level is a good first record")
    }

    #[test]
    fn the_first_record_is_the_feature_level() {
        let refused = Image::default().apply(&[topic(1, "a", 1)]);
        assert_eq!(refused, Err(ApplyError::NoFeatureLevel));
        assert_eq!(founded().feature_level(), Some(1));
    }

    #[test]
    fn a_feature_level_above_what_is_known_is_refused() {
        let refused = Image::default().apply(&[MetadataRecord::FeatureLevel(FEATURE_LEVEL + 1)]);
        assert_eq!(refused, Err(ApplyError::UnknownFeatureLevel(FEATURE_LEVEL + 1)));
    }

    #[test]
    fn an_allocator_never_goes_back() {
        let image = founded().apply(&[MetadataRecord::NextGroup(GroupId(10))]).expect("forward");
        let refused = image.apply(&[MetadataRecord::NextGroup(GroupId(9))]);
        assert_eq!(refused, Err(ApplyError::AllocatorLowered { what: "group ids", from: 10, to: 9 }));
    }

    #[test]
    fn two_topics_cannot_share_a_name_even_within_one_batch() {
        let refused = founded().apply(&[topic(1, "a", 1), topic(2, "a", 1)]);
        assert!(matches!(refused, Err(ApplyError::NameTaken { .. })), "{refused:?}");
    }

    #[test]
    fn what_does_not_change_is_shared_with_the_image_before() {
        let before = founded().apply(&[topic(1, "a", 1), topic(2, "b", 1)]).expect("two topics");
        let after = before.apply(&[MetadataRecord::TopicRemoved(TopicId([2; 16]))]).expect("one topic");
        assert!(Arc::ptr_eq(before.topic("a").expect("a"), after.topic("a").expect("a")));
        assert!(after.topic("b").is_none());
        assert!(before.topic("b").is_some(), "an image never changes");
    }

    #[test]
    fn a_name_is_free_again_after_its_topic_is_removed() {
        let image = founded().apply(&[topic(1, "a.b", 1)]).expect("a topic");
        assert!(image.topic_with_metric_name_of("a_b").is_some());
        let image = image.apply(&[MetadataRecord::TopicRemoved(TopicId([1; 16])), topic(2, "a.b", 1)]).expect("again");
        assert_eq!(image.topic("a.b").map(|topic| topic.id), Some(TopicId([2; 16])));
        assert!(image.topic_by_id(TopicId([1; 16])).is_none());
    }
}
