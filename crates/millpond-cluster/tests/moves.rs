//! Brokers come and go, and replicas move, without a replica being lost or a rack forgotten.

use std::collections::{BTreeMap, BTreeSet};

use millpond_cluster::{
    BrokerError, DirectoryId, FEATURE_LEVEL, FEATURE_NAME, FIRST_METADATA_REPLICA, FeatureError, FeatureUpdate, Image,
    MetadataRecord, MorePartitions, NewTopic, Partition, ReassignError, Reassignment, Registered, Registration,
    TopicDefaults, TopicError, TopicLimits, cancel_decommission, create_partitions, create_topics, decommission, drain,
    left_to_move, lost_replicas, metadata_voters, moving, reassign_partitions, rebalance, register_broker,
    replace_replica, replace_replicas, replicas_on, settle_partition, unregister_broker, update_features,
};
use millpond_record::{BrokerId, PartitionIndex, ReplicaId};
use proptest::prelude::*;

fn registration(id: i32, rack: Option<&str>) -> Registration {
    Registration {
        id: BrokerId(id),
        host: "mill".to_owned(),
        port: 9092,
        peer: format!("mill-{id}:9093"),
        directory: DirectoryId([id as u8; 16]),
        rack: rack.map(str::to_owned),
        metadata_replica: None,
    }
}

fn applied(image: &Image, records: &[MetadataRecord]) -> Image {
    image.apply(records).expect("a decision's own records")
}

fn with_broker(image: &Image, registration: &Registration) -> Image {
    applied(image, &register_broker(image, registration, false).expect("a good registration").records)
}

/// Brokers 1, 2, 3 … in these racks.
fn cluster(racks: &[Option<&str>]) -> Image {
    (1..).zip(racks).fold(Image::default(), |image, (id, rack)| with_broker(&image, &registration(id, *rack)))
}

fn brokers(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn all(image: &Image) -> BTreeSet<BrokerId> {
    image.brokers().map(|broker| broker.id).collect()
}

fn create(image: &Image, usable: &BTreeSet<BrokerId>, topic: NewTopic) -> Result<Image, TopicError> {
    let mut next = image.next_group().0 as u8;
    let mut random = || {
        next += 1;
        [next; 16]
    };
    let (limits, defaults) = (TopicLimits::default(), TopicDefaults::default());
    let decision = create_topics(image, &[topic], usable, &limits, &defaults, &mut random);
    decision.results.into_iter().next().expect("one result").map(|_| applied(image, &decision.records))
}

fn topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor, ..NewTopic::default() }
}

fn with_topic(image: &Image, name: &str, partitions: i32, replication_factor: i16) -> Image {
    create(image, &all(image), topic(name, partitions, replication_factor)).expect("created")
}

fn on(partition: &Partition) -> Vec<i32> {
    partition.replicas.iter().map(|replica| replica.broker.0).collect()
}

fn partitions(image: &Image) -> impl Iterator<Item = &Partition> {
    image.topics().flat_map(|topic| &topic.partitions)
}

fn first(image: &Image) -> &Partition {
    partitions(image).next().expect("a partition")
}

fn loads(image: &Image) -> BTreeMap<i32, (usize, usize)> {
    let mut loads: BTreeMap<i32, (usize, usize)> = image.brokers().map(|broker| (broker.id.0, (0, 0))).collect();
    for partition in partitions(image) {
        for (at, broker) in on(partition).into_iter().enumerate() {
            let load = loads.get_mut(&broker).expect("registered");
            *load = (load.0 + 1, load.1 + usize::from(at == 0));
        }
    }
    loads
}

fn settled(image: &Image) -> Image {
    let records = moving(image).flat_map(|moving| {
        let Partition { topic, index, group, assignment_version, .. } = *moving.partition;
        settle_partition(image, topic, index, group, assignment_version)
    });
    applied(image, &records.collect::<Vec<_>>())
}

fn reassign(image: &Image, target: Option<&[i32]>) -> Result<Image, ReassignError> {
    let target = target.map(|ids| ids.iter().copied().map(BrokerId).collect());
    let wanted = Reassignment { topic: "t".to_owned(), partition: PartitionIndex(0), target };
    let decision = reassign_partitions(image, &[wanted], true);
    decision.results.into_iter().next().expect("one result").map(|()| applied(image, &decision.records))
}

#[test]
fn leaders_and_replicas_are_even_and_what_a_dead_broker_led_falls_to_all_others() {
    let image = with_topic(&cluster(&[None; 4]), "t", 12, 3);
    assert!(loads(&image).values().all(|load| *load == (9, 3)), "{:?}", loads(&image));
    let seconds: BTreeSet<i32> = partitions(&image).map(on).filter(|on| on[0] == 1).map(|on| on[1]).collect();
    assert_eq!(seconds, BTreeSet::from([2, 3, 4]));
}

#[test]
fn replicas_stand_in_as_many_racks_as_there_are_before_brokers_are_even() {
    let image = with_topic(&cluster(&[Some("a"), Some("a"), Some("a"), Some("b")]), "t", 9, 2);
    for partition in partitions(&image) {
        assert!(on(partition).contains(&4), "{:?}", on(partition));
    }
    let image = with_topic(&cluster(&[Some("a"), Some("a"), Some("b"), Some("b"), Some("c"), None]), "t", 30, 3);
    let rack = |broker: &i32| ["a", "a", "b", "b", "c", "none"][*broker as usize - 1];
    for partition in partitions(&image) {
        assert_eq!(on(partition).iter().map(rack).collect::<BTreeSet<_>>().len(), 3, "{:?}", on(partition));
    }
}

#[test]
fn a_new_broker_gets_what_is_new_first() {
    let image = with_topic(&cluster(&[None; 2]), "t", 4, 1);
    let image = with_broker(&image, &registration(3, None));
    let image = with_topic(&image, "u", 2, 1);
    assert_eq!(loads(&image)[&3], (2, 2));
}

#[test]
fn dead_brokers_get_a_minority_of_a_new_partition_where_the_others_are_too_few() {
    let image = cluster(&[None; 4]);
    let placed = |alive: &[i32], factor| create(&image, &brokers(alive), topic("t", 8, factor));
    let dead_have = |alive: &[i32], factor| {
        let image = placed(alive, factor).expect("created");
        assert!(partitions(&image).all(|partition| alive.contains(&on(partition)[0])), "the dead lead nothing");
        let dead = |one: &Partition| on(one).iter().filter(|broker| !alive.contains(broker)).count();
        partitions(&image).map(dead).collect::<BTreeSet<usize>>()
    };
    assert_eq!(dead_have(&[1, 2, 4], 3), BTreeSet::from([0]));
    assert_eq!(dead_have(&[1, 2], 3), BTreeSet::from([1]));
    assert_eq!(dead_have(&[3], 1), BTreeSet::from([0]));
    let refused = |wanted, most| Err(TopicError::InvalidReplicationFactor { wanted, most });
    assert_eq!(placed(&[1, 2], 4), refused(4, 3));
    assert_eq!(placed(&[3], 2), refused(2, 1));
    assert_eq!(placed(&[], 1), refused(1, 0));

    let more = MorePartitions { topic: "t".to_owned(), count: 12, assignments: None };
    let image = placed(&[1, 2, 3, 4], 3).expect("created");
    let grown = |alive: &[i32]| {
        create_partitions(&image, std::slice::from_ref(&more), &brokers(alive), &TopicLimits::default())
    };
    assert!(grown(&[1, 2]).results[0].is_ok());
    assert_eq!(grown(&[1]).results[0], Err(TopicError::InvalidReplicationFactor { wanted: 3, most: 1 }));
}

#[test]
fn brokers_that_leave_get_nothing() {
    let image = cluster(&[None; 3]);
    let image = applied(&image, &decommission(&image, BrokerId(2), &all(&image)).expect("it has nothing"));
    let refused = create(&image, &all(&image), topic("t", 1, 3));
    assert_eq!(refused, Err(TopicError::InvalidReplicationFactor { wanted: 3, most: 2 }));
    let image = create(&image, &all(&image), topic("t", 4, 2)).expect("created");
    assert_eq!(loads(&image)[&2], (0, 0));
}

#[test]
fn topics_have_three_replicas_once_there_are_three_brokers_and_never_more_than_five() {
    for (count, replicas) in [(1, 1), (2, 1), (3, 3), (6, 3)] {
        let image = with_topic(&cluster(&vec![None; count]), "t", 1, -1);
        assert_eq!(first(&image).replicas.len(), replicas, "{count} brokers");
    }
    let refused = create(&cluster(&[None; 6]), &brokers(&[1, 2, 3, 4, 5, 6]), topic("t", 1, 6));
    assert_eq!(refused, Err(TopicError::InvalidReplicationFactor { wanted: 6, most: 6 }));
}

#[test]
fn a_broker_registers_once_and_again_only_when_something_changed() {
    let image = cluster(&[None; 2]);
    let again = register_broker(&image, &registration(2, None), true).expect("itself");
    let second = ReplicaId(FIRST_METADATA_REPLICA.0 + 1);
    assert_eq!(again, Registered { metadata_replica: second, records: vec![] });
    let moved = Registration { port: 9093, ..registration(2, Some("b")) };
    let image = with_broker(&image, &moved);
    let broker = image.broker(BrokerId(2)).expect("registered");
    assert_eq!((broker.port, broker.rack.as_deref(), broker.metadata_replica), (9093, Some("b"), second));
    let refused = |registration| register_broker(&image, &registration, false).expect_err("refused");
    assert!(matches!(refused(Registration { host: String::new(), ..moved.clone() }), BrokerError::NoAddress { .. }));
    assert_eq!(refused(registration(-1, None)), BrokerError::NegativeId(BrokerId(-1)));
    let without = Registration { peer: String::new(), ..registration(3, None) };
    assert_eq!(refused(without), BrokerError::NoPeerAddress(BrokerId(3)));
    let taken = Registration { peer: "mill-1:9093".to_owned(), ..registration(3, None) };
    assert!(matches!(refused(taken), BrokerError::PeerAddressTaken { other: BrokerId(1), .. }));
}

#[test]
fn an_id_is_taken_while_its_broker_runs_and_a_lost_folder_gets_new_replicas() {
    let image = with_topic(&cluster(&[None; 3]), "t", 2, 3);
    let emptied = Registration { directory: DirectoryId([99; 16]), ..registration(2, None) };
    let refused = register_broker(&image, &emptied, true);
    assert!(matches!(refused, Err(BrokerError::Taken { .. })), "{refused:?}");

    let next = image.next_replica();
    let registered = register_broker(&image, &emptied, false).expect("the old one is dead");
    assert_eq!(registered.metadata_replica, next, "a new replica of group 0, too");
    let after = applied(&image, &registered.records);
    for (before, partition) in partitions(&image).zip(partitions(&after)) {
        assert_eq!(on(before), on(partition), "the same brokers");
        assert_eq!(partition.assignment_version, 2);
        let old = before.replicas.iter().find(|replica| replica.broker == BrokerId(2)).expect("one");
        assert_eq!(partition.removing, [*old]);
        let new = partition.replicas.iter().find(|replica| replica.broker == BrokerId(2)).expect("one");
        assert_eq!((partition.adding.as_slice(), new.directory), ([new.id].as_slice(), DirectoryId([99; 16])));
        assert!(new.id >= next);
    }
    assert_eq!(replace_replicas(&after, 100), [], "nothing is left to replace");
    let done = settled(&after);
    assert_eq!(moving(&done).count(), 0);
}

#[test]
fn a_directory_of_another_time_takes_nobodys_place() {
    let image = with_topic(&cluster(&[None; 3]), "t", 2, 3);
    let first_one = Registration { metadata_replica: Some(ReplicaId(2)), ..registration(2, None) };
    let again = register_broker(&image, &first_one, false).expect("what the cluster has");
    assert_eq!(again, Registered { metadata_replica: ReplicaId(2), records: vec![] });
    // It comes back with an empty directory; then the old one is started, while the new one runs or does not.
    let emptied = Registration { directory: DirectoryId([99; 16]), ..registration(2, None) };
    let image = with_broker(&image, &emptied);
    let refused = Err(BrokerError::Replaced(BrokerId(2)));
    assert_eq!(register_broker(&image, &first_one, false), refused);
    assert_eq!(register_broker(&image, &first_one, true), refused);
    let second = image.broker(BrokerId(2)).expect("registered").metadata_replica;
    let second_one = Registration { metadata_replica: Some(second), ..emptied };
    assert_eq!(register_broker(&image, &second_one, false).expect("the one in use").records, []);
    // A copy of another directory's replica is not it, either.
    let copied = Registration { directory: DirectoryId([98; 16]), ..second_one };
    assert_eq!(register_broker(&image, &copied, false), refused);

    // Who was unregistered is not registered again.
    let fourth = Registration { metadata_replica: Some(ReplicaId(4)), ..registration(4, None) };
    assert_eq!(register_broker(&image, &fourth, false), Err(BrokerError::Replaced(BrokerId(4))));
    // Who founds holds the first replica before it is registered.
    let founder = Registration { metadata_replica: Some(FIRST_METADATA_REPLICA), ..registration(1, None) };
    let founded = register_broker(&Image::default(), &founder, true).expect("the founder");
    assert_eq!(founded.metadata_replica, FIRST_METADATA_REPLICA);
}

#[test]
fn a_move_names_what_comes_and_what_goes_and_is_over_when_it_is_settled() {
    let image = with_topic(&cluster(&[None; 4]), "t", 1, 3);
    let before = first(&image).clone();
    assert_eq!(on(&before), [1, 2, 3]);
    let image = reassign(&image, Some(&[4, 2, 3])).expect("good");
    let during = first(&image).clone();
    assert_eq!(on(&during), [4, 2, 3]);
    assert_eq!(during.adding, [during.replicas[0].id]);
    assert_eq!(during.removing, [before.replicas[0]]);
    assert_eq!(during.replicas[1..], before.replicas[1..], "what stays keeps its id");
    assert_eq!(during.assignment_version, 2);

    let Partition { topic, index, group, .. } = during;
    assert_eq!(settle_partition(&image, topic, index, group, 1), [], "an older version");
    let image = settled(&image);
    assert_eq!(first(&image), &Partition { adding: vec![], removing: vec![], founding: vec![], ..during });
    assert_eq!(reassign(&image, None), Err(ReassignError::NotMoving { topic: "t".to_owned(), partition: index }));
}

#[test]
fn a_move_that_is_taken_back_or_changed_on_its_way_keeps_the_replicas_that_are_there() {
    let start = with_topic(&cluster(&[None; 4]), "t", 1, 2);
    let before = first(&start).clone();
    let image = reassign(&start, Some(&[3, 4])).expect("good");
    let back = first(&reassign(&image, None).expect("under way")).clone();
    let ids = |partition: &Partition| partition.replicas.iter().map(|replica| replica.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&back), ids(&before));
    assert_eq!(back.assignment_version, 3);
    assert_eq!(back.removing.iter().map(|replica| replica.broker).collect::<BTreeSet<_>>(), brokers(&[3, 4]));

    let image = reassign(&image, Some(&[1, 3])).expect("another target");
    let other = first(&image);
    assert_eq!(other.replicas[0], before.replicas[0]);
    assert_eq!(other.removing.iter().map(|replica| replica.broker).collect::<BTreeSet<_>>(), brokers(&[2, 4]));
}

#[test]
fn another_order_of_preference_moves_nothing() {
    let image = with_topic(&cluster(&[None; 3]), "t", 1, 3);
    let image = reassign(&image, Some(&[3, 1, 2])).expect("good");
    let partition = first(&image);
    assert_eq!((on(partition), partition.assignment_version, partition.is_moving()), (vec![3, 1, 2], 1, false));
}

#[test]
fn bad_moves_are_refused_for_kafkas_reasons() {
    let image = with_topic(&cluster(&[None; 7]), "t", 1, 3);
    let refused = |target: &[i32]| reassign(&image, Some(target)).expect_err("refused");
    assert_eq!(refused(&[]), ReassignError::Empty);
    assert_eq!(refused(&[1, 1]), ReassignError::Repeats(BrokerId(1)));
    assert_eq!(refused(&[1, 99]), ReassignError::UnknownBroker(BrokerId(99)));
    assert_eq!(refused(&[1, -1]), ReassignError::UnknownBroker(BrokerId(-1)));
    assert_eq!(refused(&[1, 2, 3, 4, 5, 6]), ReassignError::TooMany(6));
    let one = |topic: &str, partition, target: &[i32]| Reassignment {
        topic: topic.to_owned(),
        partition: PartitionIndex(partition),
        target: Some(target.iter().copied().map(BrokerId).collect()),
    };
    let decision = reassign_partitions(&image, &[one("t", 0, &[1, 2]), one("u", 0, &[1]), one("t", 5, &[1])], false);
    assert_eq!(decision.results[0], Err(ReassignError::OtherFactor { from: 3, to: 2 }));
    assert!(matches!(decision.results[1], Err(ReassignError::UnknownPartition { .. })));
    assert!(matches!(decision.results[2], Err(ReassignError::UnknownPartition { .. })));
    let twice = reassign_partitions(&image, &[one("t", 0, &[1]), one("t", 0, &[2])], true);
    assert!(twice.results.iter().all(|result| matches!(result, Err(ReassignError::NamedTwice { .. }))));
    assert_eq!((decision.records, twice.records), (vec![], vec![]));
}

#[test]
fn a_broker_that_leaves_hands_every_replica_on_and_only_then_may_be_forgotten() {
    let image = with_topic(&cluster(&[Some("a"), Some("b"), Some("c"), Some("a")]), "t", 20, 3);
    assert_eq!(unregister_broker(&image, BrokerId(4), true), Err(BrokerError::Running(BrokerId(4))));
    assert!(matches!(unregister_broker(&image, BrokerId(4), false), Err(BrokerError::HasReplicas { .. })));
    assert_eq!(unregister_broker(&image, BrokerId(9), false), Err(BrokerError::NotRegistered(BrokerId(9))));
    let had = replicas_on(&image, BrokerId(4));
    assert!(had > 0);
    let mut image = applied(&image, &decommission(&image, BrokerId(4), &all(&image)).expect("three are left"));
    assert_eq!(left_to_move(&image, BrokerId(4)), Ok(had));
    assert_eq!(left_to_move(&image, BrokerId(3)), Err(BrokerError::NotLeaving(BrokerId(3))));
    let mut rounds = 0;
    loop {
        let records = drain(&image, &all(&image), &brokers(&[]), 4);
        if records.is_empty() {
            break;
        }
        image = applied(&image, &records);
        assert!(moving(&image).count() <= 4, "few at a time");
        assert_eq!(drain(&image, &all(&image), &brokers(&[]), 4), [], "no more than that before some are settled");
        image = settled(&image);
        rounds += 1;
        assert!(rounds <= had, "it comes to an end");
    }
    assert_eq!(left_to_move(&image, BrokerId(4)), Ok(0));
    for partition in partitions(&image) {
        assert_eq!(on(partition).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    }
    let image = applied(&image, &unregister_broker(&image, BrokerId(4), false).expect("it has nothing"));
    assert_eq!(image.broker(BrokerId(4)), None);
    assert_eq!(left_to_move(&image, BrokerId(4)), Err(BrokerError::NotRegistered(BrokerId(4))));
}

#[test]
fn a_partition_keeps_who_founds_it_until_its_first_move_is_over() {
    let image = with_topic(&cluster(&[None; 5]), "t", 1, 3);
    let before = first(&image).replicas.clone();
    assert_eq!(first(&image).founders(), before);
    // Whoever has not made its replica when the record changes must found the group with those that did, or will.
    let image = reassign(&image, Some(&[4, 2, 3])).expect("good");
    assert_eq!(first(&image).founders(), before);
    let image = reassign(&image, Some(&[4, 5, 3])).expect("good");
    assert_eq!((first(&image).assignment_version, first(&image).founders()), (3, &before[..]));
    assert_eq!(first(&settled(&image)).founders(), [], "who comes later is filled");
}

#[test]
fn a_move_off_a_leaving_broker_that_cannot_end_goes_elsewhere() {
    let image = with_topic(&cluster(&[None; 5]), "t", 1, 3);
    let lost = brokers(&[4]);
    let image = applied(&image, &decommission(&image, BrokerId(1), &all(&image)).expect("four are left"));
    let image = reassign(&image, Some(&[4, 2, 3])).expect("good");
    let usable = brokers(&[1, 2, 3, 5]);
    assert_eq!(drain(&image, &usable, &brokers(&[]), 4), [], "it may come back soon");
    let image = applied(&image, &drain(&image, &usable, &lost, 4));
    assert_eq!(on(first(&image)), [5, 2, 3]);
    assert_eq!(drain(&image, &usable, &lost, 4), []);
    // Nor does anything go on to a broker that is to leave itself.
    let image = with_topic(&cluster(&[None; 5]), "t", 1, 3);
    let image = reassign(&image, Some(&[4, 2, 3])).expect("good");
    let image = applied(&image, &decommission(&image, BrokerId(4), &all(&image)).expect("four are left"));
    let image = applied(&image, &drain(&image, &brokers(&[1, 2, 3, 5]), &brokers(&[]), 4));
    assert!(!on(first(&image)).contains(&4), "{:?}", on(first(&image)));
    assert_eq!(replicas_on(&settled(&image), BrokerId(4)), 0);
}

#[test]
fn a_broker_whose_replicas_would_find_no_place_stays() {
    let image = with_topic(&cluster(&[None; 3]), "t", 1, 3);
    let refused = decommission(&image, BrokerId(3), &all(&image));
    assert!(matches!(refused, Err(BrokerError::TooFewLeft { left: 2, replicas: 3, .. })), "{refused:?}");
    let refused = decommission(&cluster(&[None]), BrokerId(1), &brokers(&[1]));
    assert_eq!(refused, Err(BrokerError::TheOnlyOne(BrokerId(1))));
    let dead = decommission(&with_topic(&cluster(&[None; 3]), "t", 3, 1), BrokerId(1), &brokers(&[1]));
    assert!(matches!(dead, Err(BrokerError::TooFewLeft { left: 0, .. })), "{dead:?}");
}

#[test]
fn brokers_that_leave_together_need_a_place_for_each_of_their_replicas() {
    let leave = |image: &Image, id| decommission(image, BrokerId(id), &all(image));
    let image = with_topic(&cluster(&[None; 4]), "t", 4, 3);
    let image = applied(&image, &leave(&image, 1).expect("three are left for three replicas"));
    let refused = leave(&image, 2);
    assert!(matches!(refused, Err(BrokerError::TooFewLeft { left: 2, replicas: 3, .. })), "{refused:?}");
    // Nothing is moved off the first one yet: both of its replicas need another place.
    let image = with_topic(&cluster(&[None; 5]), "t", 1, 3);
    let image = applied(&image, &leave(&image, 1).expect("four are left"));
    let image = applied(&image, &leave(&image, 2).expect("three are left"));
    let refused = leave(&image, 3);
    assert!(matches!(refused, Err(BrokerError::TooFewLeft { left: 2, .. })), "{refused:?}");
    let image = settled(&applied(&image, &drain(&image, &all(&image), &brokers(&[]), 4)));
    assert_eq!(on(first(&image)).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([3, 4, 5]));
}

#[test]
fn a_decommission_that_is_taken_back_moves_nothing_more_and_the_broker_gets_replicas_again() {
    let image = with_topic(&cluster(&[None; 4]), "t", 8, 3);
    let nothing = cancel_decommission(&image, BrokerId(4));
    assert_eq!(nothing, Err(BrokerError::NotLeaving(BrokerId(4))));
    assert_eq!(nothing.expect_err("refused").to_string(), "broker 4 is not being decommissioned");
    assert_eq!(cancel_decommission(&image, BrokerId(9)), Err(BrokerError::NotRegistered(BrokerId(9))));
    let leaving = applied(&image, &decommission(&image, BrokerId(4), &all(&image)).expect("three are left"));
    let during = applied(&leaving, &drain(&leaving, &all(&leaving), &brokers(&[]), 2));
    assert_eq!(moving(&during).count(), 2);
    let back = settled(&applied(&during, &cancel_decommission(&during, BrokerId(4)).expect("it leaves")));
    assert_eq!(replicas_on(&back, BrokerId(4)), replicas_on(&image, BrokerId(4)) - 2, "what was on its way has gone");
    assert_eq!(drain(&back, &all(&back), &brokers(&[]), 2), []);
    let after = with_topic(&back, "u", 4, 3);
    assert!(replicas_on(&after, BrokerId(4)) > replicas_on(&back, BrokerId(4)));
}

#[test]
fn rebalancing_gives_a_new_broker_its_share_and_then_rests() {
    let image = with_topic(&cluster(&[None; 3]), "t", 12, 3);
    let image = with_broker(&image, &registration(4, None));
    let image = settled(&applied(&image, &rebalance(&image, &all(&image), 1000)));
    assert!(loads(&image).values().all(|load| *load == (9, 3)), "{:?}", loads(&image));
    assert_eq!(rebalance(&image, &all(&image), 1000), []);
}

#[test]
fn group_0_has_one_three_or_five_voters_and_keeps_a_dead_one_until_it_leaves() {
    let voters = |count: usize, voters: &[i32], alive: &[i32]| {
        let image = cluster(&vec![None; count]);
        metadata_voters(&image, &brokers(voters), &brokers(alive)).iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(voters(1, &[1], &[1]), [1]);
    assert_eq!(voters(2, &[1], &[1, 2]), [1]);
    assert_eq!(voters(3, &[1], &[1, 2, 3]), [1, 2, 3]);
    assert_eq!(voters(3, &[1], &[1, 2]), [1], "a dead broker does not become a voter");
    assert_eq!(voters(4, &[1, 2, 3], &[1, 2, 4]), [1, 2, 3], "a dead voter stays one");
    assert_eq!(voters(5, &[1, 2, 3], &[1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]);
    assert_eq!(voters(3, &[1, 3], &[1, 3]), [1, 3], "the second one comes back with nothing, and is not ready");
    assert_eq!(voters(4, &[1, 2, 3, 4], &[2, 3, 4]), [2, 3, 4], "of too many the dead one goes");
    let image = cluster(&[None; 4]);
    let image = applied(&image, &decommission(&image, BrokerId(2), &all(&image)).expect("it has nothing"));
    assert_eq!(metadata_voters(&image, &brokers(&[1, 2, 3]), &all(&image)), brokers(&[1, 3, 4]));
}

#[test]
fn the_feature_level_only_rises_and_only_to_what_is_known() {
    let image = cluster(&[None]);
    let update = |feature: &str, level, downgrade| {
        let updates = [FeatureUpdate { feature: feature.to_owned(), level, downgrade }];
        let decision = update_features(&image, &[("group.version", 1)], &updates);
        assert_eq!(decision.records, [], "there is one level");
        decision.results.into_iter().next().expect("one result")
    };
    let level = FEATURE_LEVEL as i16;
    assert_eq!(update(FEATURE_NAME, level, false), Ok(()));
    assert_eq!(update("metadata.version", 30, false), Err(FeatureError::Unknown("metadata.version".to_owned())));
    assert_eq!(update("group.version", 1, false), Ok(()));
    assert!(matches!(update("group.version", 2, false), Err(FeatureError::Fixed { only: 1, .. })));
    assert!(matches!(update(FEATURE_NAME, level + 1, false), Err(FeatureError::Unsupported { .. })));
    assert!(matches!(update(FEATURE_NAME, 0, false), Err(FeatureError::Lower { .. })));
    assert!(matches!(update(FEATURE_NAME, -1, true), Err(FeatureError::Lower { .. })));
    assert!(matches!(update(FEATURE_NAME, level, true), Err(FeatureError::NotLower { .. })));
}

proptest! {
    #[test]
    fn rebalancing_never_loses_a_replica_and_leaves_brokers_even(
        topics in prop::collection::vec((1..8i32, 1..4i16), 1..6),
        racks in prop::collection::vec(0..3usize, 3..6),
        added in 0..3i32,
    ) {
        let names = [None, Some("a"), Some("b")];
        let racks: Vec<Option<&str>> = racks.iter().map(|rack| names[*rack]).collect();
        let mut image = cluster(&racks);
        for (number, (partitions, factor)) in topics.iter().enumerate() {
            image = with_topic(&image, &format!("t{number}"), *partitions, *factor);
        }
        for id in 0..added {
            image = with_broker(&image, &registration(racks.len() as i32 + id + 1, None));
        }
        let after = applied(&image, &rebalance(&image, &all(&image), 1000));
        for (before, partition) in partitions(&image).zip(partitions(&after)) {
            prop_assert_eq!(before.replicas.len(), partition.replicas.len());
            let distinct: BTreeSet<i32> = on(partition).into_iter().collect();
            prop_assert_eq!(distinct.len(), partition.replicas.len(), "one replica a broker");
            for replica in &before.replicas {
                prop_assert!(partition.all_replicas().any(|now| now == replica), "none is forgotten while it may vote");
            }
        }
        prop_assert_eq!(rebalance(&settled(&after), &all(&after), 1000), vec![], "it rests");
        if racks.iter().all(Option::is_none) {
            let replicas: Vec<usize> = loads(&after).values().map(|load| load.0).collect();
            let spread = replicas.iter().max().expect("brokers") - replicas.iter().min().expect("brokers");
            prop_assert!(spread <= 1, "{replicas:?}");
        }
    }
}

#[test]
fn a_replica_whose_copy_is_lost_is_replaced_on_its_broker_under_a_new_id() {
    let image = with_topic(&cluster(&[None; 3]), "t", 1, 3);
    let before = first(&image).clone();
    let lost = before.replicas[1];
    let replace = |image: &Image, replica| {
        let Partition { topic, index, group, .. } = *first(image);
        replace_replica(image, topic, index, group, replica)
    };
    let image = applied(&image, &replace(&image, lost.id));
    let after = first(&image);
    assert_eq!(on(after), on(&before));
    let new = after.replicas[1];
    assert!(new.id > lost.id && before.replicas.iter().all(|known| known.id != new.id));
    assert_eq!((&after.adding[..], &after.removing[..]), (&[new.id][..], &[lost][..]));
    assert_eq!(after.assignment_version, before.assignment_version + 1);
    assert_eq!(after.founding, before.replicas, "who founded it may still have to");

    assert_eq!(replace(&image, lost.id), [], "it is said again");
    let again = applied(&image, &replace(&image, new.id));
    assert!(first(&again).replicas[1].id > new.id, "the new one is lost, too");
    assert_eq!(on(first(&settled(&again))), on(&before));

    let alone = with_topic(&cluster(&[None; 3]), "t", 1, 1);
    assert_eq!(replace(&alone, first(&alone).replicas[0].id), [], "nobody could fill it");
}

#[test]
fn a_replica_is_lost_with_its_disk_or_when_a_later_one_takes_its_place_and_stays_so() {
    let image = with_topic(&cluster(&[None, None, None]), "t", 1, 2);
    let lost =
        |image: &Image| -> Vec<(ReplicaId, BrokerId)> { lost_replicas(image, first(image)).into_iter().collect() };
    let (stays, old) = (first(&image).replicas[0], first(&image).replicas[1]);
    assert_eq!(lost(&image), []);
    let mut emptied = registration(old.broker.0, None);
    emptied.directory = DirectoryId([99; 16]);
    let registered = with_broker(&image, &emptied);
    let replaced = applied(&registered, &replace_replicas(&registered, 100));
    // Or the copy is damaged.
    let partition = first(&image);
    let records = replace_replica(&image, partition.topic, partition.index, partition.group, old.id);
    let damaged = applied(&image, &records);
    let third = (1..=3).find(|id| ![stays.broker, old.broker].contains(&BrokerId(*id))).expect("three brokers");
    for image in [&registered, &replaced, &damaged] {
        assert_eq!(lost(image), [(old.id, old.broker)]);
        // The new one is moved away before it is there: both are on their way out.
        let elsewhere = reassign(image, Some(&[stays.broker.0, third])).expect("a good move");
        assert!(lost(&elsewhere).contains(&(old.id, old.broker)), "it does not come back");
        assert!(lost(&elsewhere).iter().all(|(id, _)| *id == old.id), "the new one has its own place");
        let alone = reassign(image, Some(&[stays.broker.0])).expect("a good move");
        assert_eq!(lost(&alone), [(old.id, old.broker)]);
    }
    assert_eq!(lost(&settled(&replaced)), [], "nothing is left of it");
}
