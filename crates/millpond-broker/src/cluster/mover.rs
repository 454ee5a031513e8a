//! Brings the partitions that this broker leads to the replicas that their records ask for, few at a time, and tells
//! the controller when one is there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use millpond_cluster::{Partition, moving};
use millpond_record::{BrokerId, ReplicaId};
use tracing::{info, warn};

use super::messages::{self, SETTLED, Settled};
use crate::broker::Shared;

/// Partitions whose replicas this broker changes at a time: each new replica is filled with a whole log.
const AT_ONCE: usize = 4;
/// How long one change of replicas is followed before the records are looked at again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks while replicas are on the move, and when nothing seems to be.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const IDLE_LOOK: Duration = Duration::from_secs(10);

/// Runs until the broker stops.
pub(crate) async fn run(shared: Weak<Shared>) {
    let Some(broker) = shared.upgrade() else { return };
    let (runtime, stopping) = (broker.runtime.clone(), broker.stopping.clone());
    let mut follow = broker.controller.follow();
    drop(broker);
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            changed = follow.changed() => if changed.is_err() { return },
            () = runtime.sleep(pause) => {}
        }
        let Some(broker) = shared.upgrade() else { return };
        let image = broker.controller.image();
        let waiting: Vec<Partition> = moving(&image).map(|moving| moving.partition.clone()).collect();
        pause = if waiting.is_empty() { IDLE_LOOK } else { LOOK_AGAIN };
        let led = waiting
            .into_iter()
            .filter(|partition| broker.groups.partition(partition.group).is_some_and(|replica| replica.leads()));
        let moves = stream::iter(led).map(|partition| {
            // What takes longer goes on where it is at the next look, which also sees what was asked for meanwhile.
            let bringing = runtime.timeout(PATIENCE, bring(&broker, partition));
            async move { drop(bringing.await) }
        });
        let working = moves.buffer_unordered(AT_ONCE).collect::<Vec<()>>();
        tokio::select! {
            biased;
            // What is half done goes on with the next leader.
            () = stopping.cancelled() => return,
            _ = working => {}
        }
    }
}

/// Brings one partition to its replicas.
async fn bring(broker: &Arc<Shared>, partition: Partition) {
    let Some(replica) = broker.groups.partition(partition.group) else { return };
    let version = partition.assignment_version;
    if replica.members_version() != Some((version, true)) {
        let target: Vec<(ReplicaId, BrokerId)> =
            partition.replicas.iter().map(|replica| (replica.id, replica.broker)).collect();
        if let Err(error) = replica.change_members(&target, version).await {
            warn!(group = partition.group.0, "its replicas could not be moved, which is tried again: {error}");
            return;
        }
    }
    let settled = Settled {
        topic: Bytes::copy_from_slice(&partition.topic.0),
        partition: partition.index.0,
        group: partition.group.0,
        assignment_version: version,
    };
    match broker.controller.ask_controller(SETTLED, messages::write(&settled)).await {
        Ok(_) => info!(group = partition.group.0, version, "the partition has the replicas that it should have"),
        Err(error) => {
            warn!(group = partition.group.0, "the controller does not know that replicas have moved: {error}")
        }
    }
}
