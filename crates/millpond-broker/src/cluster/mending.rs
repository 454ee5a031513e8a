//! Has replicas here whose copy cannot be used any more replaced: the controller gives each a new id, under which it
//! begins empty and is filled by the others. One that has lost what it acknowledged must not vote under its old id.
//! A tainted replica, which may have lost something in a power cut, is replaced likewise where a majority of the others
//! has not; where there is none the operator is told what to do. Of a pair the other one is enough, led or not: nothing
//! was acknowledged without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use millpond_cluster::Partition;
use millpond_record::{GroupId, ReplicaId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::messages::{self, LOST, Lost};
use super::unclean::{self, Verdict};
use crate::broker::Shared;

/// Between two looks for damaged replicas.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a partition has peace after its replica was replaced: each time twice as long as the time before, up to the
/// longest. A disk that damages whatever is written to it is not filled again and again.
const PEACE: Duration = Duration::from_secs(10);
const LONGEST_PEACE: Duration = Duration::from_secs(60 * 60);
/// Partitions with a tainted replica here that are looked at in one round: the others are asked about each.
const TAINTED_AT_ONCE: usize = 50;
/// About how many of them at once.
const ASKED_AT_ONCE: usize = 8;
/// For how long a partition must lack a majority before its operator is told: brokers may be about to start.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// When the replica of a group was asked to be replaced last, and for how long it is not again.
struct Asked {
    at: Instant,
    peace: Duration,
}

/// Runs until the broker stops.
pub(crate) async fn run(shared: Weak<Shared>) {
    let mut asked: BTreeMap<GroupId, Asked> = BTreeMap::new();
    let mut tainted = Tainted::default();
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
        let replaced = damaged(&broker).into_iter().chain(tainted.round(&broker).await);
        for (group, lost) in replaced.collect::<Vec<_>>() {
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
                    info!(
                        group = group.0,
                        replica = lost.replica,
                        tainted = lost.tainted,
                        "a replica is to be replaced"
                    );
                }
                Err(error) => {
                    asked.insert(group, Asked { at: now, peace: last });
                    warn!(group = group.0, replica = lost.replica, "a replica is not replaced yet: {error}");
                }
            }
        }
    }
}

/// The damaged replicas here, and whether their partitions are led by other brokers.
fn all_damaged(broker: &Arc<Shared>) -> impl Iterator<Item = (GroupId, ReplicaId, bool)> {
    broker.groups.partitions().into_iter().filter_map(|group| {
        let partition = broker.groups.partition(group).filter(millpond_raft::Partition::is_damaged)?;
        let leader = broker.groups.leaders().of(group).map(|leader| leader.broker);
        let is_led = leader.is_some_and(|leader| leader != broker.node && broker.peers.is_alive(leader));
        Some((group, partition.id(), is_led))
    })
}

/// The damaged replicas here whose partitions are led by another broker: a majority has what they had.
fn damaged(broker: &Arc<Shared>) -> Vec<(GroupId, Lost)> {
    let led = all_damaged(broker).filter(|(.., is_led)| *is_led);
    let damaged: BTreeMap<GroupId, ReplicaId> = led.map(|(group, replica, _)| (group, replica)).collect();
    if damaged.is_empty() {
        return Vec::new();
    }
    let image = broker.controller.image();
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    let lost = partitions.filter_map(|partition| {
        let replica = *damaged.get(&partition.group)?;
        let wanted = partition.replicas.iter().any(|known| known.id == replica);
        wanted.then(|| (partition.group, lost(partition, replica, false)))
    });
    lost.collect()
}

fn lost(partition: &Partition, replica: ReplicaId, tainted: bool) -> Lost {
    Lost {
        topic: Bytes::copy_from_slice(&partition.topic.0),
        partition: partition.index.0,
        group: partition.group.0,
        replica: replica.0,
        tainted,
    }
}

/// The partitions whose tainted replicas here lack a majority that misses nothing; and those that nobody leads and
/// whose replicas here are damaged.
#[derive(Default)]
struct Tainted {
    /// Since when each is known to, and whether the operator was told.
    waiting: BTreeMap<GroupId, (Instant, bool)>,
    /// The last that was looked at.
    last: Option<GroupId>,
}

impl Tainted {
    /// Looks at some of them, in turn. Gives the replicas that can be replaced: a majority has what they had, and is
    /// led, or the other one of a pair has.
    async fn round(&mut self, broker: &Arc<Shared>) -> Vec<(GroupId, Lost)> {
        let damaged = all_damaged(broker).filter(|(.., is_led)| !is_led).map(|(group, ..)| group);
        let all: BTreeSet<GroupId> = broker.groups.tainted().into_iter().chain(damaged).collect();
        let all: Vec<GroupId> = all.into_iter().collect();
        self.waiting.retain(|group, _| all.binary_search(group).is_ok());
        let behind = all.partition_point(|group| Some(*group) <= self.last);
        let turn: Vec<GroupId> = all[behind..].iter().chain(&all[..behind]).take(TAINTED_AT_ONCE).copied().collect();
        let Some(last) = turn.last() else { return Vec::new() };
        self.last = Some(*last);
        let image = broker.controller.image();
        let partitions = image.topics().flat_map(|topic| topic.partitions.iter().map(move |one| (&topic.name, one)));
        let known: BTreeMap<GroupId, _> =
            partitions.map(|(name, partition)| (partition.group, (name, partition))).collect();
        let wanted =
            turn.iter().filter_map(|group| Some((*group, *known.get(group)?, broker.groups.partition(*group)?)));
        let asked = wanted.map(|(group, (name, partition), here)| async move {
            (group, name, partition, here, unclean::ask(broker, partition).await)
        });
        let mut found = stream::iter(asked.collect::<Vec<_>>()).buffered(ASKED_AT_ONCE);
        let mut replaceable = Vec::new();
        while let Some((group, name, partition, here, found)) = found.next().await {
            let wanted = partition.replicas.iter().any(|replica| replica.id == here.id());
            match unclean::verdict(&found) {
                Verdict::Whole if wanted && unclean::is_led(broker, group) => {
                    replaceable.push((group, lost(partition, here.id(), true)));
                }
                Verdict::Whole => drop(self.waiting.remove(&group)),
                Verdict::Trust(_) | Verdict::NotEnough if wanted && found.is_whole_without(here.id()) => {
                    replaceable.push((group, lost(partition, here.id(), true)));
                }
                Verdict::Trust(_) | Verdict::NotEnough => {
                    let now = broker.runtime.now();
                    let (since, told) = self.waiting.entry(group).or_insert((now, false));
                    // One of the brokers says it.
                    if !*told && now >= *since + TOLD_AFTER && found.first_tainted() == Some(broker.node) {
                        *told = true;
                        warn!(group = group.0, "{}", unclean::decision_wanted(name, partition));
                    }
                }
            }
        }
        replaceable
    }
}
