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

    /// A new partition on registered brokers.
    pub(crate) fn partition(&mut self, topic: TopicId, index: PartitionIndex, brokers: &[BrokerId]) -> Partition {
        let group = self.next_group;
        self.next_group = GroupId(group.0 + 1);
        let replicas = brokers.iter().map(|&broker| self.replica(broker)).collect();
        Partition {
            topic,
            index,
            group,
            replicas,
            adding: vec![],
            removing: vec![],
            founding: vec![],
            assignment_version: 1,
        }
    }

    /// A new replica on a registered broker, in the data directory that the broker has now.
    pub(crate) fn replica(&mut self, broker: BrokerId) -> Replica {
        let id = self.next_replica;
        self.next_replica = ReplicaId(id.0 + 1);
        let directory = self.image.broker(broker).expect("only registered brokers get replicas").directory;
        Replica { id, broker, directory }
    }

    /// Whether any replica id was taken.
    pub(crate) fn took_replicas(&self) -> bool {
        self.next_replica != self.image.next_replica()
    }

    /// The record that keeps which replica ids were taken.
    pub(crate) fn replica_record(&self) -> MetadataRecord {
        MetadataRecord::NextReplica(self.next_replica)
    }

    /// The records that keep what was taken.
    pub(crate) fn records(&self) -> [MetadataRecord; 2] {
        [MetadataRecord::NextGroup(self.next_group), MetadataRecord::NextReplica(self.next_replica)]
    }
}
