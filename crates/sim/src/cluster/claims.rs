//! What may not differ whoever is asked (invariant 4): every answer that names a leader and its epoch must agree with
//! all others, who acknowledges a batch led the epoch that it is stored with, and a leader's high watermark is never
//! below what any client has read from it or from the leaders before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::Shared;
use crate::history::Partition;

/// What the clients of a cluster share: the run, and who was said to lead when.
#[derive(Clone)]
pub struct Cluster {
    /// The run.
    pub shared: Shared,
    said: Arc<Mutex<Said>>,
    /// Brokers whose machines may have lost power.
    lost_power: Arc<Mutex<BTreeSet<i32>>>,
}

#[derive(Default)]
struct Said {
    /// The leader of each epoch.
    leaders: BTreeMap<(Partition, i32), i32>,
    /// The highest high watermark that the leader of each epoch has told.
    watermarks: BTreeMap<Partition, BTreeMap<i32, i64>>,
    /// Who acknowledged the batch that begins at an offset, for batches that were sent once.
    acknowledged: BTreeMap<(Partition, i64), i32>,
}

impl Cluster {
    /// A cluster that nobody has heard anything of.
    pub fn new(shared: Shared) -> Cluster {
        Cluster { shared, said: Arc::default(), lost_power: Arc::default() }
    }

    /// A broker's machine loses power, or may.
    pub fn loses_power(&self, broker: i32) {
        self.lost_power.lock().unwrap_or_else(PoisonError::into_inner).insert(broker);
    }

    /// How many brokers' machines may have lost power so far.
    pub fn power_cuts(&self) -> usize {
        self.lost_power.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Somebody says that a broker leads a partition in an epoch.
    pub fn leads(&self, partition: Partition, epoch: i32, broker: i32) {
        let before = *self.said().leaders.entry((partition, epoch)).or_insert(broker);
        if before != broker {
            let text = format!("{partition}: epoch {epoch} is led by broker {before} and by broker {broker}");
            self.shared.history().fail(text);
        }
    }

    /// What the leader of an epoch must have as its high watermark, if it is asked from now on.
    pub fn least_watermark(&self, partition: Partition, epoch: i32) -> i64 {
        let said = self.said();
        let watermarks = said.watermarks.get(&partition).map(|known| known.range(..=epoch).map(|(_, known)| *known));
        watermarks.and_then(Iterator::max).unwrap_or(0)
    }

    /// A broker has answered as the leader of an epoch, which was asked when `least` was its least high watermark.
    pub fn watermark(&self, partition: Partition, epoch: i32, broker: i32, least: i64, watermark: i64) {
        if watermark < least && !self.shared.history().is_given_up(partition) {
            let text = format!(
                "{partition}: the high watermark of broker {broker} in epoch {epoch} is {watermark}, and was {least}"
            );
            self.shared.history().fail(text);
        }
        let mut said = self.said();
        let known = said.watermarks.entry(partition).or_default().entry(epoch).or_default();
        *known = watermark.max(*known);
    }

    /// A broker has acknowledged a batch at this offset, which it was sent for the first time.
    pub fn acknowledged(&self, partition: Partition, offset: i64, broker: i32) {
        self.said().acknowledged.insert((partition, offset), broker);
    }

    /// Whoever acknowledged a batch led the epoch that it is stored with. To be asked when all of a partition was read.
    pub fn compare_acknowledged(&self, partition: Partition) {
        let acknowledged: Vec<(i64, i32)> = {
            let said = self.said();
            let of_partition = said.acknowledged.range((partition, i64::MIN)..=(partition, i64::MAX));
            of_partition.map(|(&(_, offset), &broker)| (offset, broker)).collect()
        };
        for (offset, broker) in acknowledged {
            let seen = self.shared.history().seen(partition, offset);
            let seen = seen.filter(|_| !self.shared.history().is_given_up(partition));
            if let Some(seen) = seen {
                self.leads(partition, seen.epoch, broker);
            }
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use millpond_runtime::sim::{NodeId, World, block_on};

    use super::*;

    #[test]
    fn an_epoch_with_two_leaders_is_a_contradiction_and_two_epochs_with_one_leader_are_not() {
        block_on(1, async {
            let world = World::new(1);
            let address = world.address(NodeId(1), 9092);
            let cluster = Cluster::new(Shared::new(world, address));
            let partition = Partition { topic: [1; 16], index: 0 };
            cluster.leads(partition, 4, 1);
            cluster.leads(partition, 5, 1);
            cluster.leads(Partition { index: 1, ..partition }, 5, 2);
            cluster.leads(partition, 4, 1);
            assert!(cluster.shared.history().failures().is_empty());
            cluster.leads(partition, 5, 3);
            assert_eq!(cluster.shared.history().failures().len(), 1);
        });
    }

    #[test]
    fn a_leader_may_not_be_behind_what_it_or_an_earlier_one_has_told_and_may_be_behind_later_ones() {
        block_on(1, async {
            let world = World::new(1);
            let address = world.address(NodeId(1), 9092);
            let cluster = Cluster::new(Shared::new(world, address));
            let partition = Partition { topic: [1; 16], index: 0 };
            let least = |epoch| cluster.least_watermark(partition, epoch);
            cluster.watermark(partition, 4, 1, least(4), 10);
            cluster.watermark(partition, 6, 2, least(6), 12);
            assert_eq!([least(3), least(4), least(5), least(6), least(7)], [0, 10, 10, 12, 12]);
            cluster.watermark(partition, 4, 1, least(4), 11);
            assert!(cluster.shared.history().failures().is_empty());
            cluster.watermark(partition, 7, 3, least(7), 11);
            assert_eq!(cluster.shared.history().failures().len(), 1);
        });
    }
}
