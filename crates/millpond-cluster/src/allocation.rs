//! New partitions with their group and replica ids, which are never used again.

use millpond_record::{BrokerId, GroupId, PartitionIndex, ReplicaId, TopicId};

use crate::image::Image;
use crate::record::{MetadataRecord, Partition, Replica};

/// The allocators while a request is decided: what its earlier topics took is not in the image yet.
pub(crate) struct Allocation<'a> {
    image: &'a Image,
    next_group: GroupId,
    next_replica: ReplicaId,
}

impl<'a> Allocation<'a> {
    pub(crate) fn new(image: &'a Image) -> Allocation<'a> {
        Allocation { image, next_group: image.next_group(), next_replica: image.next_replica() }
    }

    /// The group id that the next partition gets.
    pub(crate) fn next_group(&self) -> GroupId {
        self.next_group
    }

    /// A new partition on registered brokers.
    pub(crate) fn partition(&mut self, topic: TopicId, index: PartitionIndex, brokers: &[BrokerId]) -> Partition {
        let group = self.next_group;
        self.next_group = GroupId(group.0 + 1);
        let replicas = brokers.iter().map(|&broker| {
            let id = self.next_replica;
            self.next_replica = ReplicaId(id.0 + 1);
            let directory = self.image.broker(broker).expect("only registered brokers get replicas").directory;
            Replica { id, broker, directory }
        });
        Partition { topic, index, group, replicas: replicas.collect(), assignment_version: 1 }
    }

    /// The records that keep what was taken.
    pub(crate) fn records(&self) -> [MetadataRecord; 2] {
        [MetadataRecord::NextGroup(self.next_group), MetadataRecord::NextReplica(self.next_replica)]
    }
}
