//! Brings the partitions that this broker leads to the replicas that their records ask for, few at a time, and tells
//! the controller when one is there.
//!
//! A new replica is filled with a whole log. That goes on in the group by itself once the replica is a member, whoever
//! waits for it; so a partition that is being filled keeps its place among the few until it is done, and one whose new
//! replica is on a dead broker takes none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millpond_cluster::{Image, Partition, moving};
use millpond_record::{BrokerId, GroupId, RaftIndex, ReplicaId};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::messages::{self, SETTLED, Settled};
use crate::broker::Shared;

/// Partitions whose replicas this broker changes at a time.
const AT_ONCE: usize = 4;
/// How long one change of replicas is followed before the records are looked at again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks while replicas are on the move, and when nothing seems to be.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// How often a move that does not come about is told of, which is tried again and again: one may wait for good, where
/// the disks of half of the replicas are lost.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Moves that did not come about, and when that was told.
#[derive(Default)]
struct Told(Mutex<BTreeMap<GroupId, (u64, Instant)>>);

impl Told {
    /// Whether it is to be told now that a partition's move to a version of its replicas does not come about.
    fn is_due(&self, group: GroupId, version: u64, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.get(&group).is_none_or(|(of, at)| *of != version || now >= *at + TELL_AGAIN);
        if due {
            told.insert(group, (version, now));
        }
        due
    }

    /// Forgets all moves but these.
    fn keep(&self, asked: &BTreeSet<(GroupId, u64)>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|group, (version, _)| asked.contains(&(*group, *version)));
    }
}

/// A partition that is led here, and whose replicas are on the move.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Led {
    partition: Partition,
    /// Its group has a replica already that does not vote yet.
    filling: bool,
    /// Its group has the replicas of the record; the controller does not know yet.
    complete: bool,
}

/// Who comes first: what has only to be told, then what is being filled. What waits for a dead broker is left out. Of
/// those that took long the time before all but a few come last: they may wait for what never comes, a disk with room,
/// say, and the others must not wait for them.
fn in_turn(led: Vec<Led>, alive: &BTreeSet<BrokerId>, slow: &BTreeSet<GroupId>) -> VecDeque<Led> {
    let can_be = |one: &Led| {
        let Partition { replicas, adding, .. } = &one.partition;
        let mut coming = replicas.iter().filter(|replica| adding.contains(&replica.id));
        one.complete || coming.all(|replica| alive.contains(&replica.broker))
    };
    let mut turn: Vec<Led> = led.into_iter().filter(can_be).collect();
    turn.sort_by_key(|one| (!one.complete, !one.filling));
    let mut places = AT_ONCE - 1;
    let (mut first, last): (Vec<Led>, Vec<Led>) = turn.into_iter().partition(|one| {
        let is_slow = !one.complete && slow.contains(&one.partition.group);
        let goes_on = !is_slow || places > 0;
        places -= usize::from(is_slow && goes_on);
        goes_on
    });
    first.extend(last);
    first.into()
}

/// Whether the partition's record is still this one.
fn is_current(image: &Image, partition: &Partition) -> bool {
    let found = image.topic_by_id(partition.topic).and_then(|topic| topic.partition(partition.index));
    found.is_some_and(|found| {
        found.group == partition.group && found.assignment_version == partition.assignment_version && found.is_moving()
    })
}

/// The moves that are asked for.
fn asked_for(image: &Image) -> BTreeSet<(GroupId, u64)> {
    moving(image).map(|moving| (moving.partition.group, moving.partition.assignment_version)).collect()
}

/// Runs until the broker stops.
pub(crate) async fn run(shared: Weak<Shared>) {
    let Some(broker) = shared.upgrade() else { return };
    let (runtime, stopping) = (broker.runtime.clone(), broker.stopping.clone());
    let mut follow = broker.controller.follow();
    drop(broker);
    let mut pause = Duration::ZERO;
    let (mut slow, told) = (BTreeSet::new(), Told::default());
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            changed = follow.changed() => if changed.is_err() { return },
            () = runtime.sleep(pause) => {}
        }
        let Some(broker) = shared.upgrade() else { return };
        pause = tokio::select! {
            biased;
            // What is half done goes on with the next leader.
            () = stopping.cancelled() => return,
            pause = pass(&broker, &mut follow, &mut slow, &told) => pause,
        }
    }
}

/// Brings what is led here to its replicas, until nothing more can be done or something else is asked for. Gives how
/// long to wait before the next look.
///
/// `slow` are the partitions whose moves were not done within the time of the last pass.
async fn pass(
    broker: &Arc<Shared>,
    follow: &mut watch::Receiver<Option<RaftIndex>>,
    slow: &mut BTreeSet<GroupId>,
    told: &Told,
) -> Duration {
    follow.mark_unchanged();
    let image = broker.controller.image();
    let asked = asked_for(&image);
    told.keep(&asked);
    if asked.is_empty() {
        return IDLE_LOOK;
    }
    let led = moving(&image).filter_map(|moving| {
        let replica = broker.groups.partition(moving.partition.group).filter(|replica| replica.leads())?;
        let coming = |id| moving.partition.replicas.iter().any(|replica| replica.id == id);
        Some(Led {
            partition: moving.partition.clone(),
            filling: replica.progress().iter().any(|member| !member.voter && coming(member.replica)),
            complete: replica.members_version() == Some((moving.partition.assignment_version, true)),
        })
    });
    let mut turn = in_turn(led.collect(), &broker.controller.alive(), &std::mem::take(slow));
    let mut working = FuturesUnordered::new();
    let mut places = AT_ONCE;
    loop {
        while places > 0
            && let Some(next) = turn.pop_front()
        {
            places -= 1;
            // What takes longer goes on where it is at the next look.
            let group = next.partition.group;
            let bringing = broker.runtime.timeout(PATIENCE, bring(broker, next.partition, told));
            working.push(async move { (group, bringing.await.is_ok()) });
        }
        tokio::select! {
            biased;
            // What was asked for is begun with; what is under way goes on.
            changed = follow.changed() => {
                if changed.is_err() || asked_for(&broker.controller.image()) != asked {
                    return Duration::ZERO;
                }
            }
            done = working.next() => match done {
                Some((_, true)) => places += 1,
                Some((group, false)) => drop(slow.insert(group)),
                None => return LOOK_AGAIN,
            },
        }
    }
}

/// Brings one partition to its replicas.
async fn bring(broker: &Arc<Shared>, partition: Partition, told: &Told) {
    if !is_current(&broker.controller.image(), &partition) {
        return;
    }
    let Some(replica) = broker.groups.partition(partition.group) else { return };
    let version = partition.assignment_version;
    if replica.members_version() != Some((version, true)) {
        let target: Vec<(ReplicaId, BrokerId)> =
            partition.replicas.iter().map(|replica| (replica.id, replica.broker)).collect();
        if let Err(error) = replica.change_members(&target, version).await {
            if told.is_due(partition.group, version, broker.runtime.now()) {
                let image = broker.controller.image();
                let topic = image.topic_by_id(partition.topic).map_or("", |topic| &topic.name);
                let partition = partition.index.0;
                warn!(topic, partition, "its replicas could not be moved, which is tried again: {error}");
            }
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

#[cfg(test)]
mod tests {
    use millpond_cluster::{
        DirectoryId, NewTopic, Reassignment, Registration, Replica, TopicDefaults, TopicLimits, create_topics,
        reassign_partitions, register_broker, settle_partition,
    };
    use millpond_record::{PartitionIndex, TopicId};

    use super::*;

    /// A partition that moves from broker 1 to `to`, at version 2.
    fn moves(index: i32, to: i32) -> Led {
        let replica =
            |id: u64, broker| Replica { id: ReplicaId(id), broker: BrokerId(broker), directory: DirectoryId([1; 16]) };
        let partition = Partition {
            topic: TopicId([7; 16]),
            index: PartitionIndex(index),
            group: GroupId(index as u64 + 1),
            replicas: vec![replica(20, to)],
            adding: vec![ReplicaId(20)],
            removing: vec![replica(10, 1)],
            founding: Vec::new(),
            assignment_version: 2,
        };
        Led { partition, filling: false, complete: false }
    }

    fn turns(led: &[Led], alive: &[i32]) -> Vec<i32> {
        let alive = alive.iter().copied().map(BrokerId).collect();
        in_turn(led.to_vec(), &alive, &BTreeSet::new()).into_iter().map(|one| one.partition.index.0).collect()
    }

    #[test]
    fn what_is_being_filled_keeps_its_place_and_what_waits_for_a_dead_broker_takes_none() {
        let filling = Led { filling: true, ..moves(2, 3) };
        let complete = Led { complete: true, ..moves(3, 2) };
        let all = [moves(0, 2), moves(1, 3), filling, complete];
        assert_eq!(turns(&all, &[1, 2, 3]), [3, 2, 0, 1]);
        assert_eq!(turns(&all, &[1, 2]), [3, 0]);
        assert_eq!(turns(&all, &[1]), [3], "that it is there is told, whoever is dead by now");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_move_that_does_not_come_about_is_told_of_now_and_then() {
        let (told, start) = (Told::default(), Instant::now());
        let due = |version, seconds| told.is_due(GroupId(1), version, start + Duration::from_secs(seconds));
        assert_eq!([due(2, 0), due(2, 1), due(2, 59), due(2, 60), due(2, 61)], [true, false, false, true, false]);
        assert!(due(3, 62), "another move");
        told.keep(&BTreeSet::from([(GroupId(1), 4)]));
        assert!(due(3, 63), "it is asked for anew");
    }

    #[test]
    fn what_takes_long_leaves_a_place_for_what_has_not_been_tried() {
        let alive = BTreeSet::from([BrokerId(1), BrokerId(2)]);
        let led: Vec<Led> = (0..6).map(|index| Led { filling: index < 4, ..moves(index, 2) }).collect();
        let slow: BTreeSet<GroupId> = led[..4].iter().map(|one| one.partition.group).collect();
        let order = |slow: &BTreeSet<GroupId>| -> Vec<i32> {
            in_turn(led.clone(), &alive, slow).into_iter().map(|one| one.partition.index.0).collect()
        };
        assert_eq!(order(&BTreeSet::new()), [0, 1, 2, 3, 4, 5]);
        assert_eq!(order(&slow), [0, 1, 2, 4, 5, 3], "the fourth place is another's");
        let told = Led { complete: true, ..led[3].clone() };
        let led = [led[0].clone(), led[1].clone(), led[2].clone(), told];
        let order = in_turn(led.to_vec(), &alive, &slow).into_iter().map(|one| one.partition.index.0);
        assert_eq!(order.collect::<Vec<_>>(), [3, 0, 1, 2], "what has only to be told waits for nothing");
    }

    /// Three brokers, and a topic with one partition on the first.
    fn image() -> Image {
        let image = (1..=3).fold(Image::default(), |image, id| {
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
        });
        let assignments = vec![(PartitionIndex(0), vec![BrokerId(1)])];
        let topic = NewTopic {
            name: "t".to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments,
            ..NewTopic::default()
        };
        let usable = (1..=3).map(BrokerId).collect();
        let (limits, defaults) = (TopicLimits::default(), TopicDefaults::default());
        let created = create_topics(&image, &[topic], &usable, &limits, &defaults, &mut || [7; 16]);
        image.apply(&created.records).expect("a decision's own records")
    }

    #[test]
    fn a_record_that_has_changed_since_is_not_worked_on() {
        let moved = |image: &Image, to| {
            let target = Some(vec![BrokerId(to)]);
            let wanted = Reassignment { topic: "t".to_owned(), partition: PartitionIndex(0), target };
            let records = reassign_partitions(image, &[wanted], false).records;
            image.apply(&records).expect("a decision's own records")
        };
        let of = |image: &Image| image.topic("t").expect("it is there").partitions[0].clone();
        let first = moved(&image(), 2);
        let partition = of(&first);
        assert!(is_current(&first, &partition));
        let second = moved(&first, 3);
        assert!(!is_current(&second, &partition), "another target");
        assert_ne!(asked_for(&first), asked_for(&second));
        let Partition { topic, index, group, assignment_version, .. } = partition.clone();
        let records = settle_partition(&first, topic, index, group, assignment_version);
        let settled = first.apply(&records).expect("a decision's own records");
        assert!(!is_current(&settled, &partition), "nothing is left to do");
        assert!(!is_current(&Image::default(), &partition), "the topic is gone");
    }
}
