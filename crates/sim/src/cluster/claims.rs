//! One leader per epoch (invariant 4): every answer that names a leader and its epoch must agree with all others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::Shared;
use crate::history::Partition;

/// What the clients of a cluster share: the run, and who was said to lead when.
#[derive(Clone)]
pub struct Cluster {
    /// The run.
    pub shared: Shared,
    leaders: Arc<Mutex<BTreeMap<(Partition, i32), i32>>>,
}

impl Cluster {
    /// A cluster that nobody has heard anything of.
    pub fn new(shared: Shared) -> Cluster {
        Cluster { shared, leaders: Arc::default() }
    }

    /// Somebody says that a broker leads a partition in an epoch.
    pub fn leads(&self, partition: Partition, epoch: i32, broker: i32) {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *leaders.entry((partition, epoch)).or_insert(broker);
        if before != broker {
            let text = format!("{partition}: epoch {epoch} is led by broker {before} and by broker {broker}");
            self.shared.history().fail(text);
        }
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
}
