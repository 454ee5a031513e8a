//! Who leads a partition, and which of its replicas are on brokers that are alive, as answers tell it.
//!
//! That is no part of the metadata: Raft elects leaders, brokers tell each other of them ([`Leaders`]), and watch each
//! other ([`Peers`]). What is said of a moment is the best that this broker knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millpond_cluster::{Broker, Image, Replica};
use millpond_raft::{GroupMember, Groups, Leader, Partition, Peers};
use millpond_record::{BrokerId, LeaderEpoch, PartitionIndex, TopicId};
use millpond_runtime::Runtime;
use millpond_storage::DirectoryId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metadata::{ServedTopic, Snapshot};

/// How long clients are told of a broker after it has stopped answering, and it may get new replicas: as long as Kafka
/// takes to miss one (`broker.session.timeout.ms`). A client that is not told of a broker forgets it, and librdkafka
/// 2.16 does not find one again that is back before it was done with that.
pub(crate) const TOLD_OF: Duration = Duration::from_secs(9);

/// What finding out for a request who leads may take. A broker that was deposed while it was cut off, or stood still,
/// may have to connect to the others first.
const DOUBT: Duration = Duration::from_millis(600);

/// Whether this broker leads what a request names, where the answer would be final and another may know better.
#[derive(Default)]
pub(crate) struct Doubt {
    /// When [`DOUBT`] is over, once there was any: the partitions of a request share it.
    ends: Option<Instant>,
}

impl Doubt {
    /// Whether this broker leads the partition beyond doubt. Otherwise another may lead, and have what is not here.
    pub(crate) async fn surely_leads(&mut self, runtime: &Runtime, partition: &Partition) -> bool {
        let now = runtime.now();
        let ends = *self.ends.get_or_insert(now + DOUBT);
        partition.surely_leads(ends.saturating_duration_since(now)).await
    }
}

/// What this broker knows of leaders and of who is alive.
#[derive(Clone)]
pub(crate) struct Leadership {
    broker: BrokerId,
    groups: Groups,
    peers: Peers,
    alive: watch::Receiver<Arc<BTreeSet<BrokerId>>>,
}

impl Leadership {
    pub(crate) fn new(broker: BrokerId, groups: Groups, peers: &Peers) -> Leadership {
        Leadership { broker, groups, peers: peers.clone(), alive: peers.alive() }
    }

    /// What is known now. Leaders are looked up as they are asked for.
    pub(crate) fn now(&self) -> Look<'_> {
        Look { broker: self.broker, groups: &self.groups, peers: &self.peers, alive: Arc::clone(&self.alive.borrow()) }
    }

    /// Changes with every leader that is heard of.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.groups.leaders().changed()
    }

    /// Waits until all partitions of these topics, of each from an index on, have a leader that serves. What the
    /// snapshot does not serve is not waited for.
    pub(crate) async fn led(&self, snapshot: &Snapshot, topics: &[(TopicId, PartitionIndex)]) {
        self.until(|look| {
            let is_led = |(topic, first): &(TopicId, PartitionIndex)| {
                let Some(served) = snapshot.topic_by_id(*topic) else { return true };
                let mut awaited = served.topic.partitions.iter().filter(|partition| partition.index >= *first);
                awaited.all(|partition| look.has_leader(served, partition.index))
            };
            topics.iter().all(is_led)
        })
        .await;
    }

    /// The same for single partitions.
    pub(crate) async fn each_led(&self, partitions: &[(&ServedTopic, PartitionIndex)]) {
        self.until(|look| partitions.iter().all(|(served, index)| look.has_leader(served, *index))).await;
    }

    async fn until(&self, is_so: impl Fn(&Look<'_>) -> bool) {
        let (mut leaders, mut alive) = (self.changed(), self.alive.clone());
        loop {
            leaders.borrow_and_update();
            alive.borrow_and_update();
            if is_so(&self.now()) {
                return;
            }
            tokio::select! {
                biased;
                changed = leaders.changed() => if changed.is_err() { return },
                changed = alive.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Who leads and who is alive at one moment.
pub(crate) struct Look<'a> {
    broker: BrokerId,
    groups: &'a Groups,
    peers: &'a Peers,
    alive: Arc<BTreeSet<BrokerId>>,
}

/// What an answer says of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The leader, if it is alive.
    pub(crate) leader: Option<BrokerId>,
    /// The epoch of the last leader that is known, alive or not; [`LeaderEpoch::NONE`] if none is.
    pub(crate) epoch: LeaderEpoch,
    /// In the order of preference.
    pub(crate) replicas: Vec<i32>,
    /// Those on live brokers that are not just being filled, and whose data directory is still the one they are in.
    pub(crate) in_sync: Vec<i32>,
    /// Those on brokers that do not answer, or that have stopped.
    pub(crate) offline: Vec<i32>,
}

impl Look<'_> {
    pub(crate) fn is_alive(&self, broker: BrokerId) -> bool {
        broker == self.broker || self.alive.contains(&broker)
    }

    /// Whether the data directory is there that a replica is in.
    fn is_kept(&self, replica: &Replica) -> bool {
        self.peers.runs_on(replica.broker, DirectoryId(replica.directory.0))
    }

    /// Whether a partition has a leader that serves, or will not have one whatever is waited for.
    fn has_leader(&self, served: &ServedTopic, index: PartitionIndex) -> bool {
        let stopped = served.replica(index).is_some_and(|replica| replica.has_failed() && !replica.is_replicated());
        stopped || self.leader(served, index).is_some()
    }

    /// The leader of a partition, if one is known that is alive.
    pub(crate) fn leader(&self, served: &ServedTopic, index: PartitionIndex) -> Option<Leader> {
        self.last_leader(served, index).filter(|leader| self.is_alive(leader.broker))
    }

    /// The leader that was heard of last, alive or not. What this broker leads it knows at first hand.
    fn last_leader(&self, served: &ServedTopic, index: PartitionIndex) -> Option<Leader> {
        let replica = served.replica(index);
        if let Some(replica) = replica.filter(|replica| replica.leads()) {
            return Some(Leader { broker: self.broker, epoch: replica.leader_epoch() });
        }
        let leader = self.groups.leaders().of(served.described(index)?.group)?;
        // What this broker does not lead (any more) nobody is sent here for.
        Some(leader).filter(|leader| leader.broker != self.broker)
    }

    /// What an answer says of a partition; `None` for one that the topic does not have.
    pub(crate) fn standing(&self, served: &ServedTopic, index: PartitionIndex) -> Option<Standing> {
        let replica = served.replica(index);
        let failed_here = replica.is_some_and(|replica| replica.has_failed() || replica.is_tainted());
        let leader = self.last_leader(served, index);
        let last_epoch = match (leader, replica) {
            (Some(leader), _) => leader.epoch,
            (None, Some(replica)) => replica.leader_epoch(),
            (None, None) => LeaderEpoch::NONE,
        };
        let serves = |broker| self.is_alive(broker) && !(failed_here && broker == self.broker);
        Some(standing(served.described(index)?, leader.map(|leader| leader.broker), last_epoch, serves, |one| {
            self.is_kept(one)
        }))
    }
}

fn standing(
    partition: &millpond_cluster::Partition,
    leader: Option<BrokerId>,
    epoch: LeaderEpoch,
    serves: impl Fn(BrokerId) -> bool,
    is_kept: impl Fn(&Replica) -> bool,
) -> Standing {
    let mut seen = BTreeSet::new();
    // A broker whose replica was lost has two for a while, under two ids.
    let brokers = partition.all_replicas().map(|replica| replica.broker).filter(|broker| seen.insert(*broker));
    let brokers: Vec<BrokerId> = brokers.collect();
    let (live, offline): (Vec<BrokerId>, Vec<BrokerId>) = brokers.iter().partition(|broker| serves(**broker));
    // One that is to come has not what the others have, nor has one whose broker has lost its disk, of which the
    // metadata hears later.
    let has_all = |broker: &BrokerId| {
        let replica = partition.all_replicas().find(|replica| replica.broker == *broker);
        replica.is_some_and(|replica| !partition.adding.contains(&replica.id) && is_kept(replica))
    };
    let in_sync = live.into_iter().filter(has_all).collect();
    let numbers = |brokers: Vec<BrokerId>| brokers.into_iter().map(|broker| broker.0).collect();
    Standing {
        leader: leader.filter(|leader| serves(*leader)),
        epoch,
        replicas: numbers(brokers),
        in_sync: numbers(in_sync),
        offline: numbers(offline),
    }
}

/// How the partitions of the cluster are, as this broker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeadershipFigures {
    /// Partitions that this broker leads.
    pub(crate) led_here: u64,
    /// Of those, the ones that have a replica that is not in sync.
    pub(crate) under_replicated: u64,
    /// Partitions that nobody who is alive leads.
    pub(crate) leaderless: u64,
    /// Partitions whose replica here may miss what it acknowledged and takes no part.
    pub(crate) tainted: u64,
    /// By broker the most entries that its replica of a partition led here is behind the leader's.
    pub(crate) entries_behind: BTreeMap<BrokerId, u64>,
}

impl Look<'_> {
    pub(crate) fn figures(&self, snapshot: &Snapshot) -> LeadershipFigures {
        let mut figures = LeadershipFigures::default();
        for topic in snapshot.topics() {
            for partition in &topic.topic.partitions {
                let replica = topic.replica(partition.index);
                figures.tainted += u64::from(replica.is_some_and(|replica| replica.is_tainted()));
                let Some(here) = replica.filter(|replica| replica.leads()) else {
                    figures.leaderless += u64::from(self.leader(topic, partition.index).is_none());
                    continue;
                };
                figures.led_here += 1;
                let standing = self.standing(topic, partition.index);
                let missing = standing.is_some_and(|standing| standing.in_sync.len() < standing.replicas.len());
                figures.under_replicated += u64::from(missing);
                if here.is_replicated() {
                    figures.count_behind(self.broker, &here.progress());
                }
            }
        }
        figures
    }
}

impl LeadershipFigures {
    /// `members`: of a partition that broker `leader` leads. A replica of which nothing is known has nothing.
    fn count_behind(&mut self, leader: BrokerId, members: &[GroupMember]) {
        let entries = |member: &GroupMember| member.matched.map_or(0, |matched| matched.0 + 1);
        let most = members.iter().map(entries).max().unwrap_or(0);
        for member in members.iter().filter(|member| member.broker != leader) {
            let behind = self.entries_behind.entry(member.broker).or_default();
            *behind = (*behind).max(most - entries(member));
        }
    }
}

/// The leaders that an answer sends clients to who asked the wrong broker (KIP-951).
pub(crate) struct Hints<'a> {
    look: Look<'a>,
    snapshot: &'a Snapshot,
    named: BTreeSet<BrokerId>,
}

impl<'a> Hints<'a> {
    pub(crate) fn new(leadership: &'a Leadership, snapshot: &'a Snapshot) -> Hints<'a> {
        Hints { look: leadership.now(), snapshot, named: BTreeSet::new() }
    }

    /// The leader of a partition, if one is known whose address is, too.
    pub(crate) fn leader(&mut self, served: &ServedTopic, index: PartitionIndex) -> Option<Leader> {
        let leader = self.look.leader(served, index)?;
        self.snapshot.image.broker(leader.broker)?;
        self.named.insert(leader.broker);
        Some(leader)
    }

    /// The brokers that were named.
    pub(crate) fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.named.iter().filter_map(|broker| self.snapshot.image.broker(*broker)).map(|broker| &**broker)
    }
}

/// The brokers that clients are told of, the one that answers among them: those that are alive or were so lately.
pub(crate) fn known_brokers<'a>(image: &'a Image, look: &Look<'_>) -> impl Iterator<Item = &'a Arc<Broker>> {
    let known = look.peers.alive_within(TOLD_OF);
    image.brokers().filter(move |broker| known.contains(&broker.id))
}

#[cfg(test)]
mod tests {
    use millpond_cluster::DirectoryId;
    use millpond_record::{GroupId, RaftIndex, ReplicaId};

    use super::*;

    fn partition(brokers: &[i32]) -> millpond_cluster::Partition {
        let replicas = (1..).zip(brokers).map(|(id, broker)| Replica {
            id: ReplicaId(id),
            broker: BrokerId(*broker),
            directory: DirectoryId::default(),
        });
        millpond_cluster::Partition {
            topic: TopicId([1; 16]),
            index: PartitionIndex(0),
            group: GroupId(7),
            replicas: replicas.collect(),
            adding: Vec::new(),
            removing: Vec::new(),
            founding: Vec::new(),
            assignment_version: 1,
        }
    }

    #[test]
    fn a_replica_that_is_to_come_is_not_in_sync_and_one_on_its_way_out_is_a_replica() {
        let mut moving = partition(&[2, 3, 1]);
        moving.removing = vec![moving.replicas.remove(0)];
        moving.adding = vec![moving.replicas[1].id];
        let told = standing(&moving, Some(BrokerId(3)), LeaderEpoch(5), |_| true, |_| true);
        assert_eq!((told.replicas, told.in_sync, told.offline), (vec![3, 1, 2], vec![3, 2], vec![]));
    }

    #[test]
    fn a_replica_of_which_the_disk_is_gone_is_not_in_sync_although_its_broker_is_there() {
        let three = partition(&[2, 3, 1]);
        let told = standing(&three, Some(BrokerId(3)), LeaderEpoch(5), |_| true, |one| one.broker != BrokerId(2));
        assert_eq!((told.replicas, told.in_sync, told.offline), (vec![2, 3, 1], vec![3, 1], vec![]));
    }

    #[test]
    fn a_leader_that_does_not_serve_is_none_and_its_epoch_stays() {
        let three = partition(&[2, 3, 1]);
        let told = |leader: Option<i32>, alive: &[i32]| {
            let alive: BTreeSet<i32> = alive.iter().copied().collect();
            standing(&three, leader.map(BrokerId), LeaderEpoch(5), |broker| alive.contains(&broker.0), |_| true)
        };
        let all = Standing {
            leader: Some(BrokerId(3)),
            epoch: LeaderEpoch(5),
            replicas: vec![2, 3, 1],
            in_sync: vec![2, 3, 1],
            offline: vec![],
        };
        assert_eq!(told(Some(3), &[1, 2, 3]), all);
        let without_two = Standing { in_sync: vec![3, 1], offline: vec![2], ..all.clone() };
        assert_eq!(told(Some(3), &[1, 3]), without_two);
        let without_leader = Standing { leader: None, in_sync: vec![2, 1], offline: vec![3], ..all.clone() };
        assert_eq!(told(Some(3), &[1, 2]), without_leader);
        assert_eq!(told(None, &[1, 2, 3]), Standing { leader: None, ..all });
    }

    #[test]
    fn of_what_a_follower_misses_the_most_of_any_partition_is_told() {
        let mut figures = LeadershipFigures::default();
        let members = |matched: [Option<u64>; 3]| {
            let members = (1..).zip(matched).map(|(broker, matched)| GroupMember {
                replica: ReplicaId(10),
                broker: BrokerId(broker),
                voter: true,
                matched: matched.map(RaftIndex),
            });
            members.collect::<Vec<_>>()
        };
        figures.count_behind(BrokerId(1), &members([Some(20), Some(20), Some(15)]));
        figures.count_behind(BrokerId(1), &members([Some(8), Some(6), Some(8)]));
        assert_eq!(figures.entries_behind, BTreeMap::from([(BrokerId(2), 2), (BrokerId(3), 5)]));
        figures.count_behind(BrokerId(1), &members([Some(8), None, Some(8)]));
        assert_eq!(figures.entries_behind[&BrokerId(2)], 9, "it is not known to have anything");
    }
}
