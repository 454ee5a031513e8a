//! The committed offsets of one group.

use std::collections::BTreeMap;

use millpond_record::{Offset, PartitionIndex, Timestamp, TopicId};
use millpond_wire::Str;

/// What a topic or an offset takes in memory besides its text, about.
const FIXED_BYTES: usize = 128;

/// An offset that a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Of the next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record read; -1: unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants to keep with it.
    pub metadata: Str,
    pub committed_at: Timestamp,
    /// When the offset expires whatever the broker's retention; old clients could say so.
    pub expires_at: Option<Timestamp>,
    /// [`TopicId::ZERO`] when the commit named the topic only.
    pub topic_id: TopicId,
}

impl CommittedOffset {
    /// Whether it belongs to the topic of this id, and not to one that had its name before.
    pub(crate) fn is_of(&self, topic_id: TopicId) -> bool {
        self.topic_id == TopicId::ZERO || topic_id == TopicId::ZERO || self.topic_id == topic_id
    }

    fn bytes(&self) -> usize {
        FIXED_BYTES + self.metadata.len()
    }
}

/// Committed offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    topics: BTreeMap<Str, BTreeMap<PartitionIndex, CommittedOffset>>,
    bytes: usize,
}

impl Offsets {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// What they take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, topic: &str, partition: PartitionIndex) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Str, PartitionIndex, &CommittedOffset)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(&partition, committed)| (topic, partition, committed))
        })
    }

    /// The offsets of one topic.
    pub(crate) fn of_topic(&self, topic: &str) -> impl Iterator<Item = (PartitionIndex, &CommittedOffset)> {
        self.topics.get(topic).into_iter().flatten().map(|(&partition, committed)| (partition, committed))
    }

    /// Keeps a copy of its own of what it is given: the texts may lie in a frame or a batch.
    pub(crate) fn set(&mut self, topic: &str, partition: PartitionIndex, mut committed: CommittedOffset) {
        committed.metadata = committed.metadata.detached();
        self.bytes += committed.bytes();
        let before = match self.topics.get_mut(topic) {
            Some(partitions) => partitions.insert(partition, committed),
            None => {
                self.bytes += FIXED_BYTES + topic.len();
                self.topics.insert(Str::from(topic), BTreeMap::from([(partition, committed)]));
                None
            }
        };
        self.bytes -= before.map_or(0, |before| before.bytes());
    }

    pub(crate) fn remove(&mut self, topic: &str, partition: PartitionIndex) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        let removed = partitions.remove(&partition);
        self.bytes -= removed.map_or(0, |removed| removed.bytes());
        if partitions.is_empty() {
            self.topics.remove(topic);
            self.bytes -= FIXED_BYTES + topic.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(metadata: &str) -> CommittedOffset {
        CommittedOffset {
            offset: Offset(7),
            leader_epoch: -1,
            metadata: Str::from(metadata),
            committed_at: Timestamp(1),
            expires_at: None,
            topic_id: TopicId::ZERO,
        }
    }

    #[test]
    fn what_was_counted_for_an_offset_is_given_back_with_it() {
        let mut offsets = Offsets::default();
        offsets.set("t", PartitionIndex(0), committed("some words"));
        offsets.set("t", PartitionIndex(0), committed(""));
        offsets.set("t", PartitionIndex(1), committed("x"));
        offsets.set("u", PartitionIndex(0), committed(""));
        assert_eq!(offsets.bytes(), 5 * FIXED_BYTES + 3);
        assert_eq!(offsets.iter().count(), 3);
        for (topic, partition) in [("t", 0), ("t", 1), ("u", 0), ("u", 0), ("v", 0)] {
            offsets.remove(topic, PartitionIndex(partition));
        }
        assert_eq!((offsets.bytes(), offsets.is_empty()), (0, true));
    }

    #[test]
    fn an_offset_of_a_topic_that_had_the_name_before_is_told_by_its_id() {
        let (one, other) = (TopicId([1; 16]), TopicId([2; 16]));
        let of_one = CommittedOffset { topic_id: one, ..committed("") };
        assert!(of_one.is_of(one) && of_one.is_of(TopicId::ZERO) && !of_one.is_of(other));
        assert!(committed("").is_of(other));
    }
}
