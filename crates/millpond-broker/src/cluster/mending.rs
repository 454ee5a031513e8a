//! Has replicas here whose copy cannot be used any more replaced: the controller gives each a new id, under which it
//! begins empty and is filled by the others. One that has lost what it acknowledged must not vote under its old id.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{GroupId, PartitionIndex, ReplicaId, TopicId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::messages::{self, LOST, Lost};
use crate::broker::Shared;

/// Between two looks for damaged replicas.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a partition has peace after its replica was replaced: each time twice as long as the time before, up to the
/// longest. A disk that damages whatever is written to it is not filled again and again.
const PEACE: Duration = Duration::from_secs(10);
const LONGEST_PEACE: Duration = Duration::from_secs(60 * 60);

/// When the replica of a group was asked to be replaced last, and for how long it is not again.
struct Asked {
    at: Instant,
    peace: Duration,
}

/// Runs until the broker stops.
pub(crate) async fn run(shared: Weak<Shared>) {
    let mut asked: BTreeMap<GroupId, Asked> = BTreeMap::new();
    let Some(broker) = shared.upgrade() else { return };
    let (runtime, stopping) = (broker.runtime.clone(), broker.stopping.clone());
    drop(broker);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = runtime.sleep(LOOK_AGAIN) => {}
        }
        let Some(broker) = shared.upgrade() else { return };
        let now = runtime.now();
        for (group, lost) in damaged(&broker) {
            let before = asked.get(&group);
            if before.is_some_and(|before| now < before.at + before.peace) {
                continue;
            }
            let (last, next) = match before {
                Some(before) => (before.peace, (before.peace * 2).min(LONGEST_PEACE)),
                None => (PEACE, PEACE),
            };
            match broker.controller.ask_controller(LOST, messages::write(&lost)).await {
                Ok(_) => {
                    asked.insert(group, Asked { at: now, peace: next });
                    info!(group = group.0, replica = lost.replica, "a damaged replica is to be replaced");
                }
                Err(error) => {
                    asked.insert(group, Asked { at: now, peace: last });
                    warn!(group = group.0, replica = lost.replica, "a damaged replica is not replaced yet: {error}");
                }
            }
        }
    }
}

/// The damaged replicas here whose partitions are led by another broker: a majority has what they had.
fn damaged(broker: &Arc<Shared>) -> Vec<(GroupId, Lost)> {
    let replica = |group: GroupId| {
        let partition = broker.groups.partition(group).filter(millpond_raft::Partition::is_damaged)?;
        let leader = broker.groups.leaders().of(group)?;
        let led = leader.broker != broker.node && broker.peers.is_alive(leader.broker);
        led.then(|| (group, partition.id()))
    };
    let damaged: BTreeMap<GroupId, ReplicaId> = broker.groups.partitions().into_iter().filter_map(replica).collect();
    if damaged.is_empty() {
        return Vec::new();
    }
    let image = broker.controller.image();
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    let lost = partitions.filter_map(|partition| {
        let replica = *damaged.get(&partition.group)?;
        let wanted = partition.replicas.iter().any(|known| known.id == replica);
        wanted.then(|| (partition.group, lost(partition.topic, partition.index, partition.group, replica)))
    });
    lost.collect()
}

fn lost(topic: TopicId, partition: PartitionIndex, group: GroupId, replica: ReplicaId) -> Lost {
    Lost { topic: Bytes::copy_from_slice(&topic.0), partition: partition.0, group: group.0, replica: replica.0 }
}
