//! What the group of a consumer has heard of its positions, and is to hear.

use std::collections::BTreeSet;

use super::{Place, Positions};
use crate::admin::TopicPartition;
use crate::consumer::partition::{Fetch, Partition};
use crate::error::Error;

/// An offset that is committed: of the record that is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) partition: TopicPartition,
    pub(crate) offset: i64,
    /// Of the record before it.
    pub(crate) leader_epoch: Option<i32>,
}

impl Offset {
    /// Whether it is of this partition, and not before `at`.
    pub(crate) fn is_as_far_as(&self, partition: &TopicPartition, at: i64) -> bool {
        self.partition == *partition && self.offset >= at
    }
}

/// What the group has committed for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    /// Of the record before it; `None` if who has committed it did not say.
    pub(crate) leader_epoch: Option<i32>,
}

impl Positions {
    /// What the caller is done with and the group was not told.
    pub(crate) fn settled(&self) -> Vec<Offset> {
        let of = |partition: &Partition| {
            let (offset, leader_epoch) = partition.settled?;
            let news = partition.committed != Some(offset);
            news.then(|| Offset { partition: partition.name.clone(), offset, leader_epoch })
        };
        self.partitions.values().filter_map(of).collect()
    }

    /// What the caller is done with of these partitions, which is all that it was given of them, and the group was not
    /// told.
    pub(crate) fn settle_all_of(&mut self, partitions: &[TopicPartition]) -> Vec<Offset> {
        let places: Vec<Place> = partitions.iter().filter_map(|name| self.places.get(name).copied()).collect();
        for place in places {
            self.partitions.entry(place).and_modify(Partition::settle);
        }
        let mut offsets = self.settled();
        offsets.retain(|offset| partitions.contains(&offset.partition));
        offsets
    }

    /// The group was told.
    pub(crate) fn committed(&mut self, offsets: &[Offset]) {
        for told in offsets {
            let place = self.places.get(&told.partition);
            if let Some(partition) = place.and_then(|place| self.partitions.get_mut(place)) {
                partition.committed = Some(told.offset);
            }
        }
    }

    /// The same, of all but these.
    pub(crate) fn settled_but(&self, kept: &BTreeSet<TopicPartition>) -> Vec<Offset> {
        let mut offsets = self.settled();
        offsets.retain(|offset| !kept.contains(&offset.partition));
        offsets
    }

    /// What the caller was given of all but these, and the group was not told; done with or not.
    pub(crate) fn given_but(&self, kept: &BTreeSet<TopicPartition>) -> Vec<Offset> {
        let of = |partition: &Partition| {
            let (offset, leader_epoch) = (partition.position?, partition.leader_epoch);
            let news = partition.given && partition.committed != Some(offset) && !kept.contains(&partition.name);
            news.then(|| Offset { partition: partition.name.clone(), offset, leader_epoch })
        };
        self.partitions.values().filter_map(of).collect()
    }

    /// Reads nothing but `kept` of what is read; what the caller is done with of the others.
    pub(crate) fn revoke(&mut self, kept: &BTreeSet<TopicPartition>) -> Vec<Offset> {
        let offsets = self.settled_but(kept);
        let kept: BTreeSet<TopicPartition> = self.places.keys().filter(|name| kept.contains(name)).cloned().collect();
        // They have been read: their names are good.
        let _ = self.assign(&kept);
        offsets
    }

    /// The partitions that begin where the group has come to, with their generations.
    pub(crate) fn waits_for_commits(&self) -> Vec<(TopicPartition, u64)> {
        let waiting = self.partitions.values().filter(|partition| partition.fetch == Fetch::Committed);
        waiting.map(|partition| (partition.name.clone(), partition.generation)).collect()
    }

    /// Takes over what the group has committed for a partition; without anything the reset policy says where to begin.
    pub(crate) fn found_committed(&mut self, name: &TopicPartition, generation: u64, found: Option<Committed>) {
        let Some(place) = self.places.get(name).copied() else { return };
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        if partition.generation != generation || partition.fetch != Fetch::Committed {
            return;
        }
        match found {
            Some(Committed { offset, leader_epoch }) => partition.found_committed(offset, leader_epoch),
            None => self.reset(place, None),
        }
    }

    /// What the group has committed cannot be told.
    pub(crate) fn uncommitted(&mut self, waiting: &[(TopicPartition, u64)], error: &Error) {
        for (name, generation) in waiting {
            let place = self.places.get(name).copied();
            let place = place.filter(|place| self.partitions[place].generation == *generation);
            if let Some(place) = place {
                self.fail(place, error.clone());
            }
        }
    }
}
