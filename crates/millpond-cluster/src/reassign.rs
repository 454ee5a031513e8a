//! Move replicas (KIP-455; Kafka's `ReplicationControlManager.alterPartitionReassignments`).
//!
//! A partition's record names the replicas that its group should have. Who leads the group brings it there, and says
//! so; [`settle_partition`] then forgets what was on its way in or out.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::{BrokerId, GroupId, PartitionIndex, ReplicaId, TopicId};

use crate::allocation::Allocation;
use crate::image::{Image, Topic};
use crate::placement::Placement;
use crate::record::{MetadataRecord, Partition, Replica};
use crate::topics::MAX_REPLICATION_FACTOR;

/// Where a partition is to have its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub partition: PartitionIndex,
    /// The brokers, the preferred leader first; `None` takes back a move that is under way.
    pub target: Option<Vec<BrokerId>>,
}

/// Why a partition's replicas do not move.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReassignError {
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no partition {partition} of a topic {topic:?}")]
    UnknownPartition { topic: String, partition: PartitionIndex },
    /// NO_REASSIGNMENT_IN_PROGRESS
    #[error("no move of partition {partition} of topic {topic:?} is under way")]
    NotMoving { topic: String, partition: PartitionIndex },
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("the partition is assigned to no broker")]
    Empty,
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("the partition is assigned to broker {0} twice")]
    Repeats(BrokerId),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("the partition is assigned to broker {0}, which is not registered")]
    UnknownBroker(BrokerId),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("the partition is assigned to broker {0}, which is being decommissioned")]
    Draining(BrokerId),
    /// INVALID_REPLICATION_FACTOR
    #[error("a partition cannot have {0} replicas: at most {MAX_REPLICATION_FACTOR}")]
    TooMany(usize),
    /// INVALID_REPLICATION_FACTOR
    #[error("the request may not change the number of replicas from {from} to {to}")]
    OtherFactor { from: usize, to: usize },
    /// INVALID_REQUEST
    #[error("partition {partition} of topic {topic:?} is named more than once in the request")]
    NamedTwice { topic: String, partition: PartitionIndex },
}

/// The answer to a request to move replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReassignPartitions {
    /// One for each reassignment, in the order of the request.
    pub results: Vec<Result<(), ReassignError>>,
    /// What begins those that succeed. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Decides which replicas move where.
pub fn reassign_partitions(image: &Image, wanted: &[Reassignment], allow_other_factor: bool) -> ReassignPartitions {
    let mut times: BTreeMap<(&str, PartitionIndex), usize> = BTreeMap::new();
    for one in wanted {
        *times.entry((&one.topic, one.partition)).or_default() += 1;
    }
    let mut moves = Moves::new(image);
    let results = wanted.iter().map(|one| {
        if times.get(&(one.topic.as_str(), one.partition)).is_some_and(|times| *times > 1) {
            return Err(ReassignError::NamedTwice { topic: one.topic.clone(), partition: one.partition });
        }
        let partition = image.topic(&one.topic).and_then(|topic| topic.partition(one.partition));
        let Some(partition) = partition else {
            return Err(ReassignError::UnknownPartition { topic: one.topic.clone(), partition: one.partition });
        };
        match &one.target {
            Some(target) => {
                check_target(image, partition, target, allow_other_factor)?;
                moves.retarget(partition, target);
            }
            None if !partition.is_moving() => {
                return Err(ReassignError::NotMoving { topic: one.topic.clone(), partition: one.partition });
            }
            None => moves.take_back(partition),
        }
        Ok(())
    });
    let results = results.collect();
    ReassignPartitions { results, records: moves.records() }
}

fn check_target(
    image: &Image,
    partition: &Partition,
    target: &[BrokerId],
    allow_other_factor: bool,
) -> Result<(), ReassignError> {
    if target.is_empty() {
        return Err(ReassignError::Empty);
    }
    let mut seen = BTreeSet::new();
    for &id in target {
        if !seen.insert(id) {
            return Err(ReassignError::Repeats(id));
        }
        let broker = image.broker(id).ok_or(ReassignError::UnknownBroker(id))?;
        if broker.draining && !partition.all_replicas().any(|replica| replica.broker == id) {
            return Err(ReassignError::Draining(id));
        }
    }
    if target.len() > MAX_REPLICATION_FACTOR {
        return Err(ReassignError::TooMany(target.len()));
    }
    let from = partition.replicas.len();
    if !allow_other_factor && target.len() != from {
        return Err(ReassignError::OtherFactor { from, to: target.len() });
    }
    Ok(())
}

/// New targets of partitions, as records in the making.
struct Moves<'a> {
    image: &'a Image,
    allocation: Allocation<'a>,
    changed: Vec<MetadataRecord>,
}

impl<'a> Moves<'a> {
    fn new(image: &'a Image) -> Moves<'a> {
        Moves { image, allocation: Allocation::new(image), changed: Vec::new() }
    }

    /// Gives a partition replicas on registered brokers, the preferred leader first. A replica that a broker has, and
    /// has not lost, stays.
    fn retarget(&mut self, partition: &Partition, brokers: &[BrokerId]) {
        let replicas = brokers.iter().map(|&id| {
            let registered = self.image.broker(id).map(|broker| broker.directory);
            let mut known = partition.all_replicas();
            match known.find(|replica| replica.broker == id && Some(replica.directory) == registered) {
                Some(replica) => *replica,
                None => self.allocation.replica(id),
            }
        });
        let replicas = replicas.collect();
        self.change(partition, replicas);
    }

    /// Brings a partition back to what it had before the move that is under way.
    fn take_back(&mut self, partition: &Partition) {
        let staying = partition.replicas.iter().filter(|replica| !partition.adding.contains(&replica.id));
        let mut seen = BTreeSet::new();
        let brokers = staying.chain(&partition.removing).map(|replica| replica.broker);
        let registered = brokers.filter(|broker| self.image.broker(*broker).is_some() && seen.insert(*broker));
        let brokers: Vec<BrokerId> = registered.collect();
        if !brokers.is_empty() {
            self.retarget(partition, &brokers);
        }
    }

    fn change(&mut self, before: &Partition, replicas: Vec<Replica>) {
        let is = |among: &[Replica], id| among.iter().any(|replica| replica.id == id);
        let settled = |id| is(&before.replicas, id) && !before.adding.contains(&id);
        let adding = replicas.iter().map(|replica| replica.id).filter(|id| !settled(*id)).collect();
        let removing = before.all_replicas().filter(|replica| !is(&replicas, replica.id)).copied().collect();
        let same = replicas.len() == before.replicas.len() && replicas.iter().all(|one| is(&before.replicas, one.id));
        if same && replicas == before.replicas {
            return;
        }
        // Another order of preference moves nothing.
        let assignment_version = before.assignment_version + u64::from(!same);
        // Not all of them may have been made.
        let founding = if same { before.founding.clone() } else { before.founders().to_vec() };
        self.changed.push(MetadataRecord::Partition(Partition {
            replicas,
            adding,
            removing,
            founding,
            assignment_version,
            ..before.clone()
        }));
    }

    fn records(mut self) -> Vec<MetadataRecord> {
        if !self.changed.is_empty() && self.allocation.took_replicas() {
            self.changed.push(self.allocation.replica_record());
        }
        self.changed
    }
}

/// Whether the broker of a replica has another data directory since. It never comes back with the old one.
fn has_lost_disk(image: &Image, replica: &Replica) -> bool {
    let registered = image.broker(replica.broker).map(|broker| broker.directory);
    registered.is_some_and(|directory| directory != replica.directory)
}

/// The replicas that the partition's group may still have, and that take part in nothing any more: their disks are
/// lost, or their copies could not be used, and their brokers were given later ones in the same place. With the brokers
/// that they were on. A replica that is lost stays so for as long as the record names it.
pub fn lost_replicas(image: &Image, partition: &Partition) -> BTreeMap<ReplicaId, BrokerId> {
    let is_replaced = |old: &Replica| {
        let mut later = partition.all_replicas().filter(|other| other.id > old.id);
        later.any(|other| (other.broker, other.directory) == (old.broker, old.directory))
    };
    let lost = partition.all_replicas().filter(|replica| has_lost_disk(image, replica) || is_replaced(replica));
    lost.map(|replica| (replica.id, replica.broker)).collect()
}

/// New replicas, with new ids, for those whose broker lost the data directory that they were in; at most `limit`
/// partitions.
pub fn replace_replicas(image: &Image, limit: usize) -> Vec<MetadataRecord> {
    let lost = |replica: &Replica| has_lost_disk(image, replica);
    let mut moves = Moves::new(image);
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    for partition in partitions.filter(|partition| partition.replicas.iter().any(lost)).take(limit) {
        moves.retarget(partition, &brokers_of(partition));
    }
    moves.records()
}

/// A new replica, with a new id, on the broker of one whose copy cannot be used any more. Empty where the partition has
/// no such replica any more, or no other one that could fill it.
pub fn replace_replica(
    image: &Image,
    topic: TopicId,
    index: PartitionIndex,
    group: GroupId,
    replica: ReplicaId,
) -> Vec<MetadataRecord> {
    let found = image.topic_by_id(topic).and_then(|topic| topic.partition(index));
    let Some(partition) = found.filter(|found| found.group == group && found.replicas.len() > 1) else {
        return Vec::new();
    };
    let mut moves = Moves::new(image);
    let mut replicas = partition.replicas.clone();
    if let Some(lost) = replicas.iter_mut().find(|known| known.id == replica) {
        *lost = moves.allocation.replica(lost.broker);
        moves.change(partition, replicas);
    }
    moves.records()
}

fn brokers_of(partition: &Partition) -> Vec<BrokerId> {
    partition.replicas.iter().map(|replica| replica.broker).collect()
}

/// Moves replicas off brokers that are being decommissioned, so that at most `limit` partitions of those move at a
/// time. `usable` are the brokers that are alive. A move that is under way is given another target where it goes to a
/// broker that is being decommissioned, or to one of `lost`: those that have been dead for long. Empty when nothing is
/// left to move, or nothing can be now.
pub fn drain(
    image: &Image,
    usable: &BTreeSet<BrokerId>,
    lost: &BTreeSet<BrokerId>,
    limit: usize,
) -> Vec<MetadataRecord> {
    let draining: BTreeSet<BrokerId> = image.brokers().filter(|b| b.draining).map(|b| b.id).collect();
    if draining.is_empty() {
        return Vec::new();
    }
    let leaves = |replica: &Replica| draining.contains(&replica.broker);
    let partitions = || image.topics().flat_map(|topic| &topic.partitions);
    let under_way = partitions().filter(|partition| partition.removing.iter().any(leaves)).count();
    let mut free = limit.saturating_sub(under_way);
    let mut placement = Placement::new(image, usable);
    let mut moves = Moves::new(image);
    for partition in partitions() {
        let leaving = partition.removing.iter().any(leaves);
        // Nothing of a new replica on a lost broker is missed: it was never filled.
        let stuck =
            |replica: &Replica| leaving && lost.contains(&replica.broker) && partition.adding.contains(&replica.id);
        let from: Vec<BrokerId> =
            partition.replicas.iter().filter(|one| leaves(one) || stuck(one)).map(|one| one.broker).collect();
        if from.is_empty() || (!leaving && free == 0) {
            continue;
        }
        let mut brokers = brokers_of(partition);
        for at in 0..brokers.len() {
            let from = match brokers[at] {
                broker if from.contains(&broker) => broker,
                _ => continue,
            };
            let staying: Vec<BrokerId> = brokers.iter().copied().filter(|broker| *broker != from).collect();
            if let Some(to) = placement.next(&staying, 0) {
                placement.move_replica(from, to, at == 0);
                brokers[at] = to;
            }
        }
        if brokers != brokers_of(partition) {
            free = free.saturating_sub(usize::from(!leaving));
            moves.retarget(partition, &brokers);
        }
    }
    moves.records()
}

/// How often all partitions are looked at for moves that even out what brokers have.
const REBALANCE_PASSES: usize = 16;

/// Evens out replicas and preferred leaders over the brokers that are alive (`usable`), keeping partitions spread over
/// racks; at most `limit` partitions change. A partition that moves already is left alone.
pub fn rebalance(image: &Image, usable: &BTreeSet<BrokerId>, limit: usize) -> Vec<MetadataRecord> {
    let mut placement = Placement::new(image, usable);
    let partitions = image.topics().flat_map(|topic| &topic.partitions).filter(|partition| !partition.is_moving());
    let mut targets: Vec<(&Partition, Vec<BrokerId>)> = partitions.map(|one| (one, brokers_of(one))).collect();
    let mut changed: BTreeSet<GroupId> = BTreeSet::new();
    for even_out in [even_out_replicas, even_out_leaders] {
        for _ in 0..REBALANCE_PASSES {
            let mut again = false;
            for (partition, brokers) in &mut targets {
                if (changed.len() < limit || changed.contains(&partition.group)) && even_out(&mut placement, brokers) {
                    changed.insert(partition.group);
                    again = true;
                }
            }
            if !again {
                break;
            }
        }
    }
    let mut moves = Moves::new(image);
    for (partition, brokers) in targets.iter().filter(|(partition, _)| changed.contains(&partition.group)) {
        moves.retarget(partition, brokers);
    }
    moves.records()
}

/// Moves one replica of a partition to a broker that has fewer by two or more, if that crowds no rack.
fn even_out_replicas(placement: &mut Placement, brokers: &mut [BrokerId]) -> bool {
    for at in 0..brokers.len() {
        let from = brokers[at];
        let staying: Vec<BrokerId> = brokers.iter().copied().filter(|broker| *broker != from).collect();
        let loads: BTreeMap<BrokerId, u64> = placement.loads().map(|(id, load)| (id, load.replicas)).collect();
        let Some(has) = loads.get(&from) else { continue };
        let free = loads.iter().filter(|(id, replicas)| {
            let crowds = placement.crowd(**id, &staying) > placement.crowd(from, &staying);
            !brokers.contains(id) && **replicas + 2 <= *has && !crowds
        });
        if let Some(to) = free.min_by_key(|(_, replicas)| **replicas).map(|(id, _)| *id) {
            placement.move_replica(from, to, at == 0);
            brokers[at] = to;
            return true;
        }
    }
    false
}

/// Puts another of a partition's replicas first, if its broker is to lead fewer partitions by two or more.
fn even_out_leaders(placement: &mut Placement, brokers: &mut [BrokerId]) -> bool {
    let loads: BTreeMap<BrokerId, u64> = placement.loads().map(|(id, load)| (id, load.leaders)).collect();
    let Some(leads) = brokers.first().and_then(|first| loads.get(first)) else { return false };
    let others = brokers.iter().enumerate().filter_map(|(at, broker)| Some((at, *loads.get(broker)?)));
    match others.min_by_key(|(_, leaders)| *leaders) {
        Some((at, leaders)) if leaders + 2 <= *leads => {
            placement.move_leader(brokers[0], brokers[at]);
            brokers[..=at].rotate_right(1);
            true
        }
        _ => false,
    }
}

/// The group of a partition has just the replicas of this version of its record: nothing is on its way any more.
/// Empty when the record is of another version, or says so already.
pub fn settle_partition(
    image: &Image,
    topic: TopicId,
    index: PartitionIndex,
    group: GroupId,
    assignment_version: u64,
) -> Vec<MetadataRecord> {
    let partition = image.topic_by_id(topic).and_then(|topic| topic.partition(index));
    let settled = partition.filter(|partition| {
        partition.group == group && partition.assignment_version == assignment_version && partition.is_moving()
    });
    let record = |partition: &Partition| {
        MetadataRecord::Partition(Partition {
            adding: Vec::new(),
            removing: Vec::new(),
            founding: Vec::new(),
            ..partition.clone()
        })
    };
    settled.map(record).into_iter().collect()
}

/// A partition whose replicas are on the move.
#[derive(Clone, Copy, Debug)]
pub struct Moving<'a> {
    pub topic: &'a Topic,
    pub partition: &'a Partition,
}

/// All partitions whose replicas are on the move, in the order of topics and indexes.
pub fn moving(image: &Image) -> impl Iterator<Item = Moving<'_>> {
    image.topics().flat_map(|topic| {
        let moving = topic.partitions.iter().filter(|partition| partition.is_moving());
        moving.map(move |partition| Moving { topic, partition })
    })
}
