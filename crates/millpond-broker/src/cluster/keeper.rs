//! What the controller sees to by itself, on the broker that leads group 0 and nowhere else: the members and voters of
//! group 0, replicas on disks that were lost, brokers that leave, and preferred leaders.
//!
//! Each round looks at what is there and does the next step of what should be: whatever controller comes next goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_cluster::{Image, METADATA_GROUP, drain, metadata_voters, replace_replicas};
use millpond_raft::{GroupMember, Leaders, MetadataGroup, RaftError};
use millpond_record::{BrokerId, GroupId, RaftIndex, ReplicaId};
use tokio::time::Instant;
use tracing::{debug, info};

use super::messages::{self, TRANSFER, Transfer};
use crate::broker::Shared;
use crate::errors::ControllerError;

/// Between two rounds, when nothing changes.
const ROUND: Duration = Duration::from_millis(500);
/// Between two looks for partitions that others than their preferred brokers lead.
const PREFERRED_INTERVAL: Duration = Duration::from_secs(30);
/// For so long a broker must have been alive before it gets back what it is preferred for.
const STEADY_TIME: Duration = Duration::from_secs(20);
/// Partitions that are handed to their preferred brokers in one round, and at once.
const PREFERRED_PER_ROUND: usize = 200;
const PREFERRED_AT_ONCE: usize = 8;
/// How long one may take.
const TRANSFER_TIME: Duration = Duration::from_secs(5);
/// After so long without a sign of life a broker is not waited for where something moves to it.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Partitions that move off leaving brokers at a time.
const DRAINED_AT_ONCE: usize = 20;
/// Partitions whose lost replicas are replaced in one batch.
const REPLACED_AT_ONCE: usize = 1000;
/// How far behind a new voter of group 0 may be, in entries.
const VOTER_LAG: u64 = 100;

/// Runs until the broker stops.
pub(crate) async fn run(shared: Weak<Shared>, group: MetadataGroup) {
    let Some(broker) = shared.upgrade() else { return };
    let (runtime, stopping) = (broker.runtime.clone(), broker.stopping.clone());
    let (mut follow, mut leadership) = (broker.controller.follow(), group.leadership());
    drop(broker);
    let mut keeper = Keeper { group, alive_since: BTreeMap::new(), dead_since: BTreeMap::new(), preferred_at: None };
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            changed = follow.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = runtime.sleep(ROUND) => {}
        }
        let Some(broker) = shared.upgrade() else { return };
        if !broker.controller.is_here() {
            keeper.alive_since.clear();
            keeper.dead_since.clear();
            keeper.preferred_at = None;
            continue;
        }
        if let Err(error) = keeper.round(&broker).await {
            debug!("the controller's round ended early: {error}");
        }
    }
}

struct Keeper {
    group: MetadataGroup,
    /// Since when the controller has seen each broker alive.
    alive_since: BTreeMap<BrokerId, Instant>,
    /// Since when it has missed each of the others.
    dead_since: BTreeMap<BrokerId, Instant>,
    preferred_at: Option<Instant>,
}

impl Keeper {
    async fn round(&mut self, broker: &Arc<Shared>) -> Result<(), ControllerError> {
        let alive = broker.controller.alive();
        let now = broker.runtime.now();
        self.alive_since.retain(|broker, _| alive.contains(broker));
        for id in alive.iter() {
            self.alive_since.entry(*id).or_insert(now);
        }
        let image = broker.controller.image();
        self.dead_since.retain(|broker, _| !alive.contains(broker));
        for dead in image.brokers().filter(|broker| !alive.contains(&broker.id)) {
            self.dead_since.entry(dead.id).or_insert(now);
        }
        if self.lay_down(&image, &alive, broker.node).await? {
            return Ok(());
        }
        self.keep_members(&image, &alive, broker.controller.applied_index()).await?;
        let at_work = Arc::clone(&alive);
        let lost = self.dead_since.iter().filter(|(_, since)| now >= **since + LOST_AFTER);
        let lost: BTreeSet<BrokerId> = lost.map(|(broker, _)| *broker).collect();
        let decide = move |image: &Image| {
            let mut records = replace_replicas(image, REPLACED_AT_ONCE);
            if records.is_empty() {
                records = drain(image, &at_work, &lost, DRAINED_AT_ONCE);
            }
            records
        };
        // Nobody is asked whether this is the controller, round for round, for nothing.
        if !decide(&broker.controller.image()).is_empty() {
            broker.controller.change(move |image| ((), decide(image))).await?;
        }
        let first = *self.preferred_at.get_or_insert(now);
        if now >= first + PREFERRED_INTERVAL {
            self.preferred_at = Some(now);
            self.prefer(broker, &image, now).await;
        }
        Ok(())
    }

    /// Makes every registered broker a member of group 0, the right ones voters, and nobody else anything.
    async fn keep_members(
        &self,
        image: &Image,
        alive: &BTreeSet<BrokerId>,
        applied: Option<RaftIndex>,
    ) -> Result<(), RaftError> {
        let members = self.group.members();
        let registered: BTreeMap<ReplicaId, BrokerId> =
            image.brokers().map(|broker| (broker.metadata_replica, broker.id)).collect();
        for (&replica, &broker) in &registered {
            if alive.contains(&broker) && !members.iter().any(|member| member.replica == replica) {
                self.group.add_learner(replica, broker).await?;
                info!(broker = broker.0, "the broker follows the cluster's metadata");
            }
        }
        let voters: BTreeSet<ReplicaId> = members.iter().filter(|member| member.voter).map(|one| one.replica).collect();
        let wanted = wanted_voters(image, &members, alive, applied);
        if !wanted.is_empty() && wanted != voters {
            self.group.set_voters(wanted.clone()).await?;
            let brokers: Vec<i32> =
                wanted.iter().filter_map(|replica| registered.get(replica)).map(|id| id.0).collect();
            info!(?brokers, "these brokers vote on the cluster's metadata");
        }
        for member in self.group.members() {
            if !member.voter && !registered.contains_key(&member.replica) {
                self.group.remove(member.replica).await?;
                info!(broker = member.broker.0, "a replica of the metadata that was lost or has left is forgotten");
            }
        }
        Ok(())
    }

    /// A controller that is being decommissioned hands its office on. Whether it did.
    async fn lay_down(
        &self,
        image: &Image,
        alive: &BTreeSet<BrokerId>,
        here: BrokerId,
    ) -> Result<bool, ControllerError> {
        if !image.broker(here).is_some_and(|broker| broker.draining) {
            return Ok(false);
        }
        let stays = |broker: BrokerId| image.broker(broker).is_some_and(|broker| !broker.draining);
        let members = self.group.members();
        let mut voters = members.iter().filter(|member| member.voter && member.broker != here);
        match voters.find(|member| alive.contains(&member.broker) && stays(member.broker)) {
            Some(other) => {
                self.group.transfer(other.broker).await?;
                info!(broker = other.broker.0, "this broker leaves, and another is the controller");
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Has partitions handed to the brokers that are preferred for them.
    async fn prefer(&self, broker: &Arc<Shared>, image: &Image, now: Instant) {
        let steady = |id: &BrokerId| self.alive_since.get(id).is_some_and(|since| now >= *since + STEADY_TIME);
        let brokers: BTreeSet<BrokerId> = self.alive_since.keys().copied().filter(steady).collect();
        let moves = unpreferred(image, broker.groups.leaders(), &brokers);
        let handed = stream::iter(moves.into_iter().take(PREFERRED_PER_ROUND)).map(|(group, from, to)| {
            let body = messages::write(&Transfer { group: group.0, to: to.0 });
            async move {
                match broker.peers.call(from, TRANSFER, body, TRANSFER_TIME).await {
                    Ok(_) => true,
                    Err(error) => {
                        debug!(group = group.0, "not handed to broker {to}: {error}");
                        false
                    }
                }
            }
        });
        let handed =
            handed.buffer_unordered(PREFERRED_AT_ONCE).filter(|done| futures::future::ready(*done)).count().await;
        if handed > 0 {
            info!(partitions = handed, "led by their preferred brokers again");
        }
    }
}

/// Which replicas should be voters of group 0 now: those of the right brokers, a new one once it has caught up.
fn wanted_voters(
    image: &Image,
    members: &[GroupMember],
    alive: &BTreeSet<BrokerId>,
    applied: Option<RaftIndex>,
) -> BTreeSet<ReplicaId> {
    let registered = |member: &&GroupMember| {
        image.broker(member.broker).is_some_and(|broker| broker.metadata_replica == member.replica)
    };
    let near = |member: &&GroupMember| match (member.matched, applied) {
        (Some(matched), Some(applied)) => matched.0 + VOTER_LAG >= applied.0,
        _ => false,
    };
    let mine: Vec<&GroupMember> = members.iter().filter(registered).collect();
    let voters: BTreeSet<BrokerId> = mine.iter().filter(|member| member.voter).map(|member| member.broker).collect();
    let ready = mine.iter().filter(|member| !member.voter && near(member)).map(|member| member.broker);
    let ready: BTreeSet<BrokerId> =
        ready.chain(voters.iter().copied()).filter(|broker| alive.contains(broker)).collect();
    let wanted = metadata_voters(image, &voters, &ready);
    mine.iter().filter(|member| wanted.contains(&member.broker)).map(|member| member.replica).collect()
}

/// Partitions that another broker leads than the preferred one although that is among `brokers`: group, leader,
/// preferred broker.
pub(crate) fn unpreferred(
    image: &Image,
    leaders: &Leaders,
    brokers: &BTreeSet<BrokerId>,
) -> Vec<(GroupId, BrokerId, BrokerId)> {
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    let moves = partitions.filter_map(|partition| {
        let preferred = partition.replicas.first().filter(|first| !partition.adding.contains(&first.id))?;
        let leader = leaders.of(partition.group)?.broker;
        (leader != preferred.broker && brokers.contains(&preferred.broker) && partition.group != METADATA_GROUP)
            .then_some((partition.group, leader, preferred.broker))
    });
    moves.collect()
}

#[cfg(test)]
mod tests {
    use millpond_cluster::{DirectoryId, Registration, register_broker};

    use super::*;

    fn cluster(count: i32) -> Image {
        (1..=count).fold(Image::default(), |image, id| {
            let registration = Registration {
                id: BrokerId(id),
                host: "mill".to_owned(),
                port: 9092,
                peer: format!("mill-{id}:9093"),
                directory: DirectoryId([id as u8; 16]),
                rack: None,
                metadata_replica: None,
            };
            let registered = register_broker(&image, &registration, false).expect("a good registration");
            image.apply(&registered.records).expect("a decision's own records")
        })
    }

    fn member(replica: u64, broker: i32, voter: bool, matched: Option<u64>) -> GroupMember {
        GroupMember { replica: ReplicaId(replica), broker: BrokerId(broker), voter, matched: matched.map(RaftIndex) }
    }

    fn voters(image: &Image, members: &[GroupMember], alive: &[i32]) -> Vec<u64> {
        let alive = alive.iter().copied().map(BrokerId).collect();
        wanted_voters(image, members, &alive, Some(RaftIndex(1000))).into_iter().map(|replica| replica.0).collect()
    }

    #[test]
    fn three_brokers_vote_once_each_of_them_has_caught_up() {
        let image = cluster(3);
        let members =
            |matched| [member(1, 1, true, Some(1000)), member(2, 2, false, matched), member(3, 3, false, Some(990))];
        assert_eq!(voters(&image, &members(Some(950)), &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(voters(&image, &members(Some(10)), &[1, 2, 3]), [1], "one is far behind");
        assert_eq!(voters(&image, &members(None), &[1, 2, 3]), [1], "one has never answered");
        assert_eq!(voters(&image, &members(Some(950)), &[1, 3]), [1], "one is dead");
    }

    #[test]
    fn a_replica_that_was_lost_does_not_vote_and_its_successor_does_when_it_is_there() {
        let image = cluster(3);
        let emptied = Registration {
            id: BrokerId(3),
            host: "mill".to_owned(),
            port: 9092,
            peer: "mill-3:9093".to_owned(),
            directory: DirectoryId([99; 16]),
            rack: None,
            metadata_replica: None,
        };
        let registered = register_broker(&image, &emptied, false).expect("the old one is dead");
        let image = image.apply(&registered.records).expect("a decision's own records");
        let new = registered.metadata_replica.0;
        let (one, two) = (member(1, 1, true, Some(1000)), member(2, 2, true, Some(1000)));
        let before = [one, two, member(3, 3, true, Some(900)), member(new, 3, false, None)];
        assert_eq!(voters(&image, &before, &[1, 2, 3]), [1, 2], "what the third held is gone");
        let after = [one, two, member(3, 3, true, Some(900)), member(new, 3, false, Some(999))];
        assert_eq!(voters(&image, &after, &[1, 2, 3]), [1, 2, new]);
    }
}
