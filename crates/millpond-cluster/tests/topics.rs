//! Creating and deleting topics answers as Kafka does.

use std::collections::BTreeSet;

use millpond_cluster::{
    ConfigError, ConfigSource, CreateTopics, DirectoryId, EffectiveConfig, FIRST_METADATA_REPLICA, Image,
    MetadataRecord, NewTopic, PRODUCER_ID_BLOCK, Registration, TopicDefaults, TopicError, TopicLimits, TopicReference,
    allocate_producer_ids, create_topics, decode_batch, delete_topics, encode_batch, register_broker,
};
use millpond_record::{BrokerId, GroupId, PartitionIndex, ProducerId, ReplicaId, Timestamp, TopicId};

fn broker(id: i32) -> Registration {
    Registration {
        id: BrokerId(id),
        host: "mill".to_owned(),
        port: 9092,
        peer: format!("mill-{id}:9093"),
        directory: DirectoryId([id as u8; 16]),
        rack: None,
        metadata_replica: None,
    }
}

/// All registered brokers are alive.
fn all(image: &Image) -> BTreeSet<BrokerId> {
    image.brokers().map(|broker| broker.id).collect()
}

fn cluster(brokers: i32) -> Image {
    (1..=brokers).fold(Image::default(), |image, id| {
        let registered = register_broker(&image, &broker(id), false).expect("a new broker");
        image.apply(&registered.records).expect("a decision's own records")
    })
}

fn create(image: &Image, wanted: &[NewTopic]) -> CreateTopics {
    let mut next = 0u128;
    let mut random = || {
        next += 1;
        (next << 64).to_be_bytes()
    };
    create_topics(image, wanted, &all(image), &TopicLimits::default(), &TopicDefaults::default(), &mut random)
}

fn with(image: &Image, wanted: &[NewTopic]) -> Image {
    let decision = create(image, wanted);
    for result in &decision.results {
        assert!(result.is_ok(), "{result:?}");
    }
    image.apply(&decision.records).expect("a decision's own records")
}

fn topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor, ..NewTopic::default() }
}

fn assigned(assignments: &[(i32, &[i32])]) -> NewTopic {
    let assignments = assignments
        .iter()
        .map(|(index, brokers)| (PartitionIndex(*index), brokers.iter().copied().map(BrokerId).collect()))
        .collect();
    NewTopic { assignments, ..topic("t", -1, -1) }
}

fn refused(image: &Image, wanted: NewTopic) -> TopicError {
    let decision = create(image, &[wanted]);
    assert_eq!(decision.records, [], "nothing is created");
    decision.results.into_iter().next().expect("one result").expect_err("refused")
}

#[test]
fn a_created_topic_has_its_partitions_groups_and_replicas() {
    let image = cluster(3);
    let decision = create(&image, &[topic("a", 3, 2), topic("b", 1, 1)]);
    let created = decision.results[0].as_ref().expect("created");
    assert_eq!((created.partitions.len(), created.replication_factor), (3, 2));
    let after = image.apply(&decision.records).expect("applies");
    let a = after.topic("a").expect("a");
    assert_eq!(a.id, created.id);
    assert_eq!(a.partitions, created.partitions);
    assert_eq!(a.partition(PartitionIndex(2)).map(|partition| partition.group), Some(GroupId(3)));
    assert_eq!(a.partition(PartitionIndex(3)), None);
    assert_eq!(after.next_group(), GroupId(5));
    let mut replicas: Vec<u64> = after
        .topics()
        .flat_map(|topic| &topic.partitions)
        .flat_map(|partition| &partition.replicas)
        .map(|replica| replica.id.0)
        .collect();
    replicas.sort_unstable();
    // Each of the three brokers has a replica of group 0.
    let first = FIRST_METADATA_REPLICA.0 + 3;
    assert_eq!(replicas, (first..first + 7).collect::<Vec<_>>(), "replica ids are never used twice");
    assert_eq!(after.next_replica(), ReplicaId(first + 7));
    for replica in a.partitions.iter().flat_map(|partition| &partition.replicas) {
        assert_eq!(replica.directory, DirectoryId([replica.broker.0 as u8; 16]));
    }
}

#[test]
fn topic_ids_are_version_4_uuids_that_no_tool_takes_for_an_option() {
    let image = cluster(1);
    let mut same = || [0xfb; 16];
    let limits = TopicLimits::default();
    let wanted = [topic("a", 1, 1), topic("b", 1, 1)];
    let decision = create_topics(&image, &wanted, &all(&image), &limits, &TopicDefaults::default(), &mut same);
    let ids: Vec<TopicId> = decision.results.iter().map(|result| result.as_ref().expect("created").id).collect();
    assert_ne!(ids[0], ids[1], "even if the source of randomness always says the same");
    for id in ids {
        assert!(!id.to_string().starts_with('-'), "{id}");
        assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (4, 2), "{:02x?}", id.0);
    }
}

#[test]
fn minus_one_takes_the_defaults_of_the_broker() {
    let limits = TopicLimits { default_partitions: 6, default_replication_factor: Some(2), ..TopicLimits::default() };
    let mut random = || [7; 16];
    let wanted = [topic("a", -1, -1)];
    let decision =
        create_topics(&cluster(2), &wanted, &all(&cluster(2)), &limits, &TopicDefaults::default(), &mut random);
    let created = decision.results[0].as_ref().expect("created");
    assert_eq!((created.partitions.len(), created.replication_factor), (6, 2));
}

#[test]
fn bad_topics_are_refused_for_kafkas_reasons_and_create_nothing() {
    let image = with(&cluster(1), &[topic("taken", 1, 1), topic("x.y_z", 1, 1)]);
    assert_eq!(refused(&image, topic("taken", 1, 1)), TopicError::Exists("taken".to_owned()));
    assert!(matches!(refused(&image, topic("two words", 1, 1)), TopicError::InvalidName(_)));
    assert!(matches!(refused(&image, topic("x_y.z", 1, 1)), TopicError::InvalidName(_)));
    for partitions in [0, -2, i32::MIN] {
        assert_eq!(refused(&image, topic("t", partitions, 1)), TopicError::InvalidPartitions(partitions));
    }
    assert!(matches!(refused(&image, topic("t", 1_000_000, 1)), TopicError::TooManyPartitions { .. }));
    for factor in [0, -2, 2, i16::MAX, i16::MIN] {
        assert!(
            matches!(refused(&image, topic("t", 1, factor)), TopicError::InvalidReplicationFactor { .. }),
            "{factor}"
        );
    }
    let configs = vec![("retention.ms".to_owned(), Some("abc".to_owned()))];
    assert!(matches!(refused(&image, NewTopic { configs, ..topic("t", 1, 1) }), TopicError::InvalidConfig(_)));
}

#[test]
fn a_cluster_without_brokers_places_no_replica() {
    let error = refused(&Image::default(), topic("t", 1, 1));
    assert_eq!(error, TopicError::InvalidReplicationFactor { wanted: 1, most: 0 });
}

#[test]
fn manual_assignments_are_checked() {
    let image = cluster(2);
    let good = with(&image, &[assigned(&[(1, &[2, 1]), (0, &[1, 2])])]);
    let placed: Vec<Vec<i32>> = good
        .topic("t")
        .expect("t")
        .partitions
        .iter()
        .map(|partition| partition.replicas.iter().map(|replica| replica.broker.0).collect())
        .collect();
    assert_eq!(placed, [[1, 2], [2, 1]]);

    let counted = NewTopic { partitions: 2, ..assigned(&[(0, &[1]), (1, &[1])]) };
    assert_eq!(refused(&image, counted), TopicError::AssignmentWithCounts);
    let factored = NewTopic { replication_factor: 1, ..assigned(&[(0, &[1])]) };
    assert_eq!(refused(&image, factored), TopicError::AssignmentWithCounts);
    let (zero, one) = (PartitionIndex(0), PartitionIndex(1));
    for (assignments, error) in [
        (assigned(&[(0, &[7777])]), TopicError::AssignmentUnknownBroker { partition: zero, broker: BrokerId(7777) }),
        (assigned(&[(0, &[1, 1])]), TopicError::AssignmentRepeats { partition: zero, broker: BrokerId(1) }),
        (assigned(&[(0, &[1]), (2, &[1])]), TopicError::AssignmentGap(1)),
        (assigned(&[(1, &[1])]), TopicError::AssignmentGap(0)),
        (assigned(&[(0, &[1]), (0, &[2])]), TopicError::AssignmentGap(1)),
        (assigned(&[(-1, &[1])]), TopicError::AssignmentGap(0)),
        (assigned(&[(0, &[])]), TopicError::AssignmentEmpty(zero)),
        (assigned(&[(0, &[1]), (1, &[])]), TopicError::AssignmentEmpty(one)),
        (assigned(&[(0, &[1]), (1, &[1, 2])]), TopicError::AssignmentUneven { partition: one, expected: 1, found: 2 }),
    ] {
        assert_eq!(refused(&image, assignments), error);
    }
}

#[test]
fn a_topic_named_twice_is_not_created_and_the_others_are() {
    let image = cluster(1);
    let wanted = [topic("twice", 1, 1), topic("twice", 2, 1), topic("two words", 1, 1), topic("good", 1, 1)];
    let decision = create(&image, &wanted);
    let twice = TopicError::NamedTwice("twice".to_owned());
    assert_eq!(decision.results[0].as_ref().err(), Some(&twice));
    assert_eq!(decision.results[1].as_ref().err(), Some(&twice));
    assert!(matches!(decision.results[2], Err(TopicError::InvalidName(_))));
    assert!(decision.results[3].is_ok());
    let after = image.apply(&decision.records).expect("applies");
    assert_eq!(after.topics().map(|topic| topic.name.to_string()).collect::<Vec<_>>(), ["good"]);
}

#[test]
fn names_collide_within_one_request_too() {
    let decision = create(&cluster(1), &[topic("a.b", 1, 1), topic("a_b", 1, 1)]);
    assert!(decision.results[0].is_ok());
    assert!(matches!(decision.results[1], Err(TopicError::InvalidName(_))), "{:?}", decision.results[1]);
}

#[test]
fn the_limits_hold_over_the_whole_request_and_the_whole_cluster() {
    let limits = TopicLimits { max_partitions_per_request: 10, max_partitions: 15, ..TopicLimits::default() };
    let mut image = cluster(1);
    let mut random = {
        let mut next = 0u128;
        move || {
            next += 1;
            next.to_be_bytes()
        }
    };
    let wanted = [topic("a", 6, 1), topic("b", 6, 1), topic("c", 4, 1)];
    let decision = create_topics(&image, &wanted, &all(&image), &limits, &TopicDefaults::default(), &mut random);
    assert!(decision.results[0].is_ok() && decision.results[2].is_ok());
    let too_many = TopicError::TooManyPartitions { wanted: 12, limit: 10 };
    assert_eq!(decision.results[1].as_ref().err(), Some(&too_many));
    image = image.apply(&decision.records).expect("applies");
    assert_eq!(image.partition_count(), 10);
    let decision = create_topics(&image, &wanted[1..2], &all(&image), &limits, &TopicDefaults::default(), &mut random);
    assert_eq!(decision.results[0].as_ref().err(), Some(&TopicError::ClusterFull { wanted: 6, limit: 15 }));
}

#[test]
fn the_answer_gives_every_setting_with_its_source() {
    let mut defaults = TopicDefaults::default();
    defaults.set("millpond.flush", "relaxed").expect("a good default");
    let config = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    let configs = vec![config("retention.ms", "12345"), config("min.compaction.lag.ms", "1")];
    let wanted = [NewTopic { configs, ..topic("a", 1, 1) }];
    let mut random = || [7; 16];
    let decision =
        create_topics(&cluster(1), &wanted, &all(&cluster(1)), &TopicLimits::default(), &defaults, &mut random);
    let created = decision.results[0].as_ref().expect("created");
    let of = |name: &str| {
        let found = created.configs.iter().find(|effective| effective.config.name == name).expect("every setting");
        (found.value.clone(), found.source)
    };
    assert_eq!(of("retention.ms"), ("12345".to_owned(), ConfigSource::Topic));
    assert_eq!(of("cleanup.policy"), ("delete".to_owned(), ConfigSource::Default));
    assert_eq!(of("millpond.flush"), ("relaxed".to_owned(), ConfigSource::Topic), "written into the topic");
    assert_eq!(created.notices.len(), 1, "compaction is not built yet, and the answer says so");
}

#[test]
fn a_topic_of_the_brokers_own_is_durable_whoever_makes_it_and_whatever_the_default_is() {
    let mut defaults = TopicDefaults::default();
    defaults.set("millpond.flush", "relaxed").expect("a good default");
    for name in ["__consumer_offsets", "__transaction_state", "ordinary"] {
        for own in [None, Some("durable"), Some("relaxed")] {
            let configs = own.map(|value| ("millpond.flush".to_owned(), Some(value.to_owned())));
            let wanted = [NewTopic { configs: configs.into_iter().collect(), ..topic(name, 1, 1) }];
            let mut random = || [7; 16];
            let decision =
                create_topics(&cluster(1), &wanted, &all(&cluster(1)), &TopicLimits::default(), &defaults, &mut random);
            let flush = decision.results.into_iter().next().expect("one result").map(|created| {
                let of = |effective: &&EffectiveConfig| effective.config.name == "millpond.flush";
                created.configs.iter().find(of).expect("every setting").value.clone()
            });
            let refused = TopicError::InvalidConfig(ConfigError::InternalNotDurable(name.to_owned()));
            let expected = match (name, own) {
                ("ordinary", own) => Ok(own.unwrap_or("relaxed").to_owned()),
                (_, Some("relaxed")) => Err(refused),
                _ => Ok("durable".to_owned()),
            };
            assert_eq!(flush, expected, "{name} with {own:?}");
        }
    }
}

#[test]
fn a_topic_is_deleted_by_name_or_by_id() {
    let image = with(&cluster(1), &[topic("a", 2, 1), topic("b", 1, 1), topic("c", 1, 1)]);
    let id = |name: &str| image.topic(name).expect("there").id;
    let by_name = |name: &str| TopicReference { name: Some(name.to_owned()), id: TopicId::ZERO };
    let by_id = |id| TopicReference { name: None, id };
    let unknown = TopicId([9; 16]);
    let references = [
        by_name("a"),
        by_id(id("b")),
        by_name("none"),
        by_id(unknown),
        TopicReference { name: Some("c".to_owned()), id: id("c") },
        by_id(TopicId::ZERO),
    ];
    let decision = delete_topics(&image, &references);
    let deleted = decision.results[0].as_ref().expect("deleted");
    assert_eq!((deleted.name.as_str(), deleted.groups.len()), ("a", 2));
    assert_eq!(decision.results[1].as_ref().map(|deleted| deleted.id), Ok(id("b")));
    assert_eq!(decision.results[2], Err(TopicError::UnknownName("none".to_owned())));
    assert_eq!(decision.results[3], Err(TopicError::UnknownId(unknown)));
    assert_eq!(decision.results[4], Err(TopicError::NameAndId));
    assert_eq!(decision.results[5], Err(TopicError::NeitherNameNorId));
    let after = image.apply(&decision.records).expect("applies");
    assert_eq!(after.topics().map(|topic| topic.name.to_string()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(after.partition_count(), 1);
    assert_eq!(after.next_group(), image.next_group(), "a group id is never used again");
}

#[test]
fn a_topic_that_is_named_twice_in_a_deletion_stays() {
    let image = with(&cluster(1), &[topic("a", 1, 1)]);
    let id = image.topic("a").expect("there").id;
    let by_name = TopicReference { name: Some("a".to_owned()), id: TopicId::ZERO };
    for references in [[by_name.clone(), by_name.clone()], [by_name, TopicReference { name: None, id }]] {
        let decision = delete_topics(&image, &references);
        assert_eq!(decision.records, []);
        assert!(decision.results.iter().all(|result| matches!(result, Err(TopicError::NamedTwice(_)))));
    }
}

#[test]
fn producer_ids_come_in_blocks_that_never_overlap() {
    let mut image = cluster(1);
    for block in 0..3 {
        let (ids, records) = allocate_producer_ids(&image).expect("there are many");
        assert_eq!((ids.first, ids.count), (ProducerId(block * i64::from(PRODUCER_ID_BLOCK)), PRODUCER_ID_BLOCK));
        image = image.apply(&records).expect("applies");
    }
    let end = image.apply(&[MetadataRecord::NextProducerId(ProducerId(i64::MAX - 1))]).expect("forward");
    assert!(allocate_producer_ids(&end).is_err());
}

#[test]
fn the_first_record_of_a_cluster_is_the_feature_level() {
    let registered = register_broker(&Image::default(), &broker(1), false).expect("a new broker");
    assert_eq!(registered.records[0], MetadataRecord::FeatureLevel(1));
    let (_, records) = allocate_producer_ids(&Image::default()).expect("there are many");
    assert_eq!(records[0], MetadataRecord::FeatureLevel(1));
}

#[test]
fn the_largest_request_fits_into_one_metadata_batch() {
    let image = cluster(5);
    let decision = create(&image, &[topic(&"n".repeat(249), 10_000, 5)]);
    let batch = encode_batch(&decision.records, Timestamp(0)).expect("within the limit");
    assert_eq!(decode_batch(&batch).expect("readable"), decision.records);
}
