//! Adding partitions, changing settings and setting quotas answer as Kafka does.

use std::collections::{BTreeMap, BTreeSet};

use millpond_cluster::{
    AlterConfigError, ClientQuota, ConfigAlteration, ConfigError, ConfigOperation, ConfigResource, DirectoryId, Image,
    MetadataRecord, MorePartitions, NewTopic, QuotaAlteration, QuotaError, QuotaFilter, Registration, TopicDefaults,
    TopicError, TopicLimits, alter_client_quotas, alter_configs, create_partitions, create_topics, decode_batch,
    describe_client_quotas, encode_batch, quota_for, register_broker,
};
use millpond_record::{BrokerId, PartitionIndex, Timestamp};

/// Applies records as brokers get them: from the bytes of a batch.
fn applied(image: &Image, records: &[MetadataRecord]) -> Image {
    let batch = encode_batch(records, Timestamp(0)).expect("small");
    image.apply(&decode_batch(&batch).expect("readable")).expect("a decision's own records")
}

/// Two brokers and topic "logs" with two partitions of one replica.
fn cluster() -> Image {
    let mut image = Image::default();
    for id in 1..=2 {
        let directory = DirectoryId([id as u8; 16]);
        let (host, peer) = ("mill".to_owned(), format!("mill:{id}"));
        let broker =
            Registration { id: BrokerId(id), host, port: 9092, peer, directory, rack: None, metadata_replica: None };
        image = applied(&image, &register_broker(&image, &broker, false).expect("a new broker").records);
    }
    let topic = NewTopic { name: "logs".to_owned(), partitions: 2, replication_factor: 1, ..NewTopic::default() };
    let mut random = || [7; 16];
    let decision =
        create_topics(&image, &[topic], &both(), &TopicLimits::default(), &TopicDefaults::default(), &mut random);
    applied(&image, &decision.records)
}

/// Both brokers are alive.
fn both() -> BTreeSet<BrokerId> {
    [1, 2].map(BrokerId).into()
}

fn more(count: i32, assignments: Option<&[&[i32]]>) -> MorePartitions {
    let assignments = assignments
        .map(|all| all.iter().map(|brokers| brokers.iter().copied().map(BrokerId).collect::<Vec<_>>()).collect());
    MorePartitions { topic: "logs".to_owned(), count, assignments }
}

#[test]
fn new_partitions_have_groups_and_replicas_of_their_own_and_the_old_ones_stay() {
    let before = cluster();
    let limits = TopicLimits::default();
    let decision = create_partitions(&before, &[more(5, None)], &both(), &limits);
    let grown = decision.results[0].as_ref().expect("it grows");
    assert_eq!(grown.partitions, 5);
    let after = applied(&before, &decision.records);
    let (old, new) = (before.topic("logs").expect("there"), after.topic("logs").expect("there"));
    assert_eq!((new.partitions.len(), after.partition_count()), (5, 5));
    assert_eq!(new.partitions[..2], old.partitions[..]);
    let mut groups: Vec<_> = new.partitions.iter().map(|partition| partition.group).collect();
    let mut replicas: Vec<_> = new.partitions.iter().map(|partition| partition.replicas[0].id).collect();
    groups.dedup();
    replicas.dedup();
    assert_eq!((groups.len(), replicas.len()), (5, 5));
    assert!(after.next_group() > groups[4] && after.next_replica() > replicas[4]);

    let placed = create_partitions(&after, &[more(7, Some(&[&[2], &[1]]))], &both(), &limits);
    let placed = applied(&after, &placed.records);
    let brokers: Vec<i32> =
        placed.topic("logs").expect("there").partitions[5..].iter().map(|at| at.replicas[0].broker.0).collect();
    assert_eq!(brokers, [2, 1]);
}

#[test]
fn partitions_that_cannot_be_added_are_refused_for_kafkas_reasons_and_nothing_changes() {
    let image = cluster();
    let limits = TopicLimits { max_partitions_per_request: 100, max_partitions: 50, ..TopicLimits::default() };
    let refused = |wanted: MorePartitions| {
        let decision = create_partitions(&image, &[wanted], &both(), &limits);
        assert_eq!(decision.records, []);
        decision.results.into_iter().next().expect("a result").expect_err("refused")
    };
    for wanted in [2, 1, 0, -1, i32::MIN] {
        let error = TopicError::NotMorePartitions { name: "logs".to_owned(), has: 2, wanted };
        assert_eq!(refused(more(wanted, None)), error);
    }
    assert_eq!(refused(more(103, None)), TopicError::TooManyPartitions { wanted: 101, limit: 100 });
    assert_eq!(refused(more(52, None)), TopicError::ClusterFull { wanted: 50, limit: 50 });
    let unknown = MorePartitions { topic: "none".to_owned(), ..more(3, None) };
    assert_eq!(refused(unknown), TopicError::UnknownName("none".to_owned()));
    let (two, three) = (PartitionIndex(2), PartitionIndex(3));
    for (count, assignments, error) in [
        (4, &[&[1][..]][..], TopicError::AssignmentCount { added: 2, assigned: 1 }),
        (3, &[], TopicError::AssignmentCount { added: 1, assigned: 0 }),
        (3, &[&[7777]], TopicError::AssignmentUnknownBroker { partition: two, broker: BrokerId(7777) }),
        (4, &[&[1], &[]], TopicError::AssignmentEmpty(three)),
        (3, &[&[1, 2]], TopicError::AssignmentUneven { partition: two, expected: 1, found: 2 }),
    ] {
        assert_eq!(refused(more(count, Some(assignments))), error);
    }
    let twice = create_partitions(&image, &[more(3, None), more(4, None)], &both(), &limits);
    assert!(twice.results.iter().all(|result| matches!(result, Err(TopicError::NamedTwice(_)))));
    assert_eq!(twice.records, []);
}

fn logs() -> ConfigResource {
    ConfigResource::Topic("logs".to_owned())
}

fn set(value: &str) -> ConfigOperation {
    ConfigOperation::Set(value.to_owned())
}

/// Changes settings one by one; the image afterwards.
fn alter(
    image: &Image,
    resource: &ConfigResource,
    changes: &[(&str, ConfigOperation)],
) -> Result<Image, AlterConfigError> {
    let changes = changes.iter().map(|(name, operation)| ((*name).to_owned(), operation.clone())).collect();
    let wanted = [(resource.clone(), ConfigAlteration::Each(changes))];
    let decision = alter_configs(image, &TopicDefaults::default(), &wanted);
    match decision.results.into_iter().next().expect("a result") {
        Err(error) => {
            assert_eq!(decision.records, []);
            Err(error)
        }
        Ok(_) if decision.records.is_empty() => Ok(image.clone()),
        Ok(_) => Ok(applied(image, &decision.records)),
    }
}

fn own(image: &Image) -> Vec<(&str, &str)> {
    image.topic("logs").expect("there").configs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_topics_settings_are_set_deleted_appended_to_and_subtracted_from() {
    let append = |items: &str| ConfigOperation::Append(items.to_owned());
    let subtract = |items: &str| ConfigOperation::Subtract(items.to_owned());
    let mut image = cluster();
    for (name, operation, expected) in [
        ("max.message.bytes", set(" 500 "), &[("max.message.bytes", "500")][..]),
        ("max.message.bytes", ConfigOperation::Delete, &[]),
        ("max.message.bytes", ConfigOperation::Delete, &[]),
        ("cleanup.policy", append("compact"), &[("cleanup.policy", "delete,compact")]),
        ("cleanup.policy", append("compact, delete"), &[("cleanup.policy", "delete,compact")]),
        ("cleanup.policy", subtract("delete"), &[("cleanup.policy", "compact")]),
        ("cleanup.policy", subtract("delete"), &[("cleanup.policy", "compact")]),
    ] {
        image = alter(&image, &logs(), &[(name, operation)]).expect("a good change");
        assert_eq!(own(&image), expected);
    }
    assert_eq!(image.topic("logs").expect("there").partitions.len(), 2);
}

#[test]
fn a_change_that_is_bad_in_one_setting_makes_none() {
    let image = alter(&cluster(), &logs(), &[("retention.ms", set("4000"))]).expect("a good change");
    for changes in [
        &[("max.message.bytes", set("5000")), ("no.such.config", set("1"))][..],
        &[("retention.ms", set("abc"))],
        &[("retention.ms", ConfigOperation::Append("5".to_owned()))],
        &[("retention.ms", ConfigOperation::Subtract("5".to_owned()))],
        &[("retention.ms", set("1")), ("retention.ms", set("2"))],
        &[("flush.messages", set("1"))],
    ] {
        alter(&image, &logs(), changes).expect_err("refused");
    }
    let unknown = alter(&image, &ConfigResource::Topic("none".to_owned()), &[("retention.ms", set("1"))]);
    assert_eq!(unknown, Err(AlterConfigError::UnknownTopic("none".to_owned())));
    let bad_name = alter(&image, &ConfigResource::Topic("two words".to_owned()), &[]);
    assert!(matches!(bad_name, Err(AlterConfigError::InvalidName(_))));
    let entry = (logs(), ConfigAlteration::Each(vec![("retention.ms".to_owned(), set("1"))]));
    let twice = alter_configs(&image, &TopicDefaults::default(), &[entry.clone(), entry]);
    assert_eq!(twice.results, [Err(AlterConfigError::ResourceTwice), Err(AlterConfigError::ResourceTwice)]);
    assert_eq!(twice.records, []);
}

#[test]
fn replacing_takes_back_what_is_not_named() {
    let image = alter(&cluster(), &logs(), &[("retention.ms", set("4000"))]).expect("a good change");
    let replace = |settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        alter_configs(&image, &TopicDefaults::default(), &[(logs(), ConfigAlteration::Replace(settings))])
    };
    let replaced = applied(&image, &replace(&[("max.message.bytes", "2222")]).records);
    assert_eq!(own(&replaced), [("max.message.bytes", "2222")]);
    assert_eq!(own(&applied(&image, &replace(&[]).records)), []);
    let refused = replace(&[("no.such", "1")]);
    let error = ConfigError::Unknown("no.such".to_owned());
    assert_eq!((refused.results, refused.records), (vec![Err(AlterConfigError::Invalid(error))], vec![]));
}

#[test]
fn brokers_take_at_run_time_what_topics_inherit_and_nothing_else() {
    let (one, all) = (ConfigResource::Broker(Some(BrokerId(1))), ConfigResource::Broker(None));
    let image = alter(&cluster(), &one, &[("message.max.bytes", set("1048590"))]).expect("a good change");
    let image = alter(&image, &all, &[("log.retention.ms", set("1000"))]).expect("a good change");
    let settings = |broker: Option<i32>| image.broker_settings(broker.map(BrokerId)).cloned().unwrap_or_default();
    let entry = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    assert_eq!(settings(Some(1)), entry("message.max.bytes", "1048590"));
    assert_eq!(settings(None), entry("log.retention.ms", "1000"));
    assert_eq!(settings(Some(2)), BTreeMap::new());
    let reset = alter(&image, &one, &[("message.max.bytes", ConfigOperation::Delete)]).expect("a good change");
    assert_eq!(reset.broker_settings(Some(BrokerId(1))), None);
    for name in ["node.id", "max.message.bytes", "no.such"] {
        let refused = alter(&image, &one, &[(name, set("5"))]);
        assert_eq!(refused, Err(AlterConfigError::NotAtRunTime(name.to_owned())));
    }
    let nobody = alter(&image, &ConfigResource::Broker(Some(BrokerId(9))), &[]);
    assert_eq!(nobody, Err(AlterConfigError::UnknownBroker(BrokerId(9))));
}

type Entity<'a> = &'a [(&'a str, Option<&'a str>)];

fn quota(entity: Entity<'_>, changes: &[(&str, Option<f64>)]) -> QuotaAlteration {
    QuotaAlteration {
        entity: entity.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect(),
        changes: changes.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
    }
}

fn with_quotas(image: &Image, wanted: &[QuotaAlteration]) -> Image {
    let decision = alter_client_quotas(image, wanted);
    assert!(decision.results.iter().all(Result::is_ok), "{:?}", decision.results);
    applied(image, &decision.records)
}

const CLIENT: Entity<'_> = &[("client-id", Some("c"))];
const USER: Entity<'_> = &[("user", Some("u"))];
const BOTH: Entity<'_> = &[("user", Some("u")), ("client-id", Some("c"))];
const ANY_CLIENT: Entity<'_> = &[("client-id", None)];

#[test]
fn quotas_are_set_found_by_filters_and_removed() {
    let rate = |value| [("producer_byte_rate", Some(value))];
    let image = with_quotas(
        &cluster(),
        &[quota(CLIENT, &rate(1000.0)), quota(USER, &rate(3000.0)), quota(BOTH, &rate(2000.0))],
    );
    let filter = |kind: &str, match_type, name: Option<&str>| QuotaFilter {
        entity_type: kind.to_owned(),
        match_type,
        name: name.map(str::to_owned),
    };
    let found = |filters: &[QuotaFilter], strict| {
        let found = describe_client_quotas(&image, filters, strict).expect("a good filter");
        found.into_iter().map(|(_, quota)| quota.produce.expect("set")).collect::<Vec<_>>()
    };
    let by_client = [filter("client-id", 0, Some("c"))];
    assert_eq!(found(&by_client, false), [1000, 2000]);
    assert_eq!(found(&by_client, true), [1000]);
    assert_eq!(found(&[filter("user", 2, None)], false), [3000, 2000]);
    assert_eq!(found(&[filter("user", 1, None)], false), []);
    assert_eq!(found(&[], false), [1000, 3000, 2000]);
    assert_eq!(found(&[], true), []);
    assert_eq!(found(&[filter("ip", 2, None)], false), []);
    for (bad, error) in [
        (vec![filter("tribe", 0, Some("x"))], QuotaError::UnknownEntityType("tribe".to_owned())),
        (vec![filter("user", 0, None)], QuotaError::BadMatch(0)),
        (vec![filter("user", 1, Some("x"))], QuotaError::BadMatch(1)),
        (vec![filter("user", 3, None)], QuotaError::BadMatch(3)),
        (vec![filter("user", 2, None), filter("user", 1, None)], QuotaError::EntityTypeTwice("user".to_owned())),
    ] {
        assert_eq!(describe_client_quotas(&image, &bad, false), Err(error));
    }
    let removed =
        with_quotas(&image, &[CLIENT, USER, BOTH].map(|entity| quota(entity, &[("producer_byte_rate", None)])));
    assert_eq!(removed.client_quota_count(), 0);
    let again = alter_client_quotas(&removed, &[quota(CLIENT, &[("producer_byte_rate", None)])]);
    assert_eq!((again.results, again.records), (vec![Ok(())], vec![]));
}

#[test]
fn a_bad_quota_is_refused_with_its_reason() {
    let image = cluster();
    let long = "x".repeat(2000);
    let one = [("producer_byte_rate", Some(1.0))];
    for (wanted, error) in [
        (quota(CLIENT, &[("no_such_rate", Some(1.0))]), QuotaError::UnknownKey("no_such_rate".to_owned())),
        (
            quota(CLIENT, &[("request_percentage", Some(50.0))]),
            QuotaError::NotEnforced("request_percentage".to_owned()),
        ),
        (quota(&[], &one), QuotaError::NoEntity),
        (quota(&[("ip", Some("1.2.3.4"))], &[("connection_creation_rate", Some(5.0))]), QuotaError::Address),
        (quota(&[("tribe", None)], &one), QuotaError::UnknownEntityType("tribe".to_owned())),
        (quota(&[("user", None), ("user", Some("u"))], &one), QuotaError::EntityTypeTwice("user".to_owned())),
        (quota(&[("user", Some(""))], &one), QuotaError::BadName),
        (quota(&[("user", Some(&long))], &one), QuotaError::BadName),
        (quota(CLIENT, &[one[0], one[0]]), QuotaError::KeyTwice("producer_byte_rate".to_owned())),
    ] {
        let decision = alter_client_quotas(&image, &[wanted]);
        assert_eq!((decision.results, decision.records), (vec![Err(error)], vec![]));
    }
    for value in [-5.0, 0.0, 0.5, 10.5, f64::NAN, f64::INFINITY] {
        let decision = alter_client_quotas(&image, &[quota(CLIENT, &[("consumer_byte_rate", Some(value))])]);
        assert_eq!(decision.results, [Err(QuotaError::BadValue("consumer_byte_rate".to_owned()))], "{value}");
    }
    let twice = alter_client_quotas(&image, &[quota(CLIENT, &one), quota(CLIENT, &one)]);
    assert_eq!(twice.results, [Ok(()), Err(QuotaError::EntityTwice)]);
}

#[test]
fn the_most_specific_quota_counts_and_says_who_shares_it() {
    let produce = |quota: &ClientQuota| quota.produce;
    let order: [Entity<'_>; 8] = [
        BOTH,
        &[("user", Some("u")), ("client-id", None)],
        USER,
        &[("user", None), ("client-id", Some("c"))],
        &[("user", None), ("client-id", None)],
        &[("user", None)],
        CLIENT,
        ANY_CLIENT,
    ];
    let mut image = cluster();
    // Widest first: each one that is added counts from then on.
    for (rank, entity) in order.into_iter().enumerate().rev() {
        image = with_quotas(&image, &[quota(entity, &[("producer_byte_rate", Some(rank as f64 + 1.0))])]);
        let (scope, limit) = quota_for(&image, "u", "c", produce).expect("one counts");
        assert_eq!(limit, rank as u64 + 1);
        let has = |kind: &str| entity.iter().any(|(part, _)| *part == kind);
        assert_eq!(scope.user, has("user").then(|| "u".to_owned()));
        assert_eq!(scope.client_id, has("client-id").then(|| "c".to_owned()));
        assert_eq!(quota_for(&image, "u", "c", |quota| quota.fetch), None, "another quota is not limited");
    }
    let (scope, limit) = quota_for(&image, "u", "another", produce).expect("one counts");
    assert_eq!((limit, scope.client_id.as_deref()), (2, Some("another")), "each client id has a limit of its own");
}

#[test]
fn a_client_id_that_is_too_long_for_a_quota_has_the_default_and_is_not_copied_whole() {
    let longest = "x".repeat(1024);
    let named = [("client-id", Some(longest.as_str()))];
    let rate = |value| [("producer_byte_rate", Some(value))];
    let image = with_quotas(&cluster(), &[quota(&named, &rate(5.0)), quota(ANY_CLIENT, &rate(7.0))]);
    let limit = |client_id: &str| quota_for(&image, "u", client_id, |quota| quota.produce).expect("one counts");
    assert_eq!(limit(&longest).1, 5);
    assert_eq!(limit(&format!("{longest}x")).1, 7);
    let (scope, shared) = limit(&"ä".repeat(20_000));
    assert!(shared == 7 && scope.client_id.is_some_and(|name| name.len() < 1100));
}

#[test]
fn an_item_of_a_long_list_is_looked_up_once_and_the_list_is_refused_for_its_length() {
    let logs = ConfigResource::Topic("logs".to_owned());
    let items: Vec<String> = (0..700_000).map(|number| number.to_string()).collect();
    let long = items.join(",");
    for operation in [ConfigOperation::Append, ConfigOperation::Subtract, ConfigOperation::Set] {
        let refused = alter(&cluster(), &logs, &[("cleanup.policy", operation(long.clone()))]);
        let error = ConfigError::TooLong { name: "cleanup.policy", bytes: long.len() };
        assert_eq!(refused, Err(AlterConfigError::Invalid(error)));
    }
    let broker = ConfigResource::Broker(None);
    let refused = alter(&cluster(), &broker, &[("log.cleanup.policy", ConfigOperation::Append(long.clone()))]);
    assert!(matches!(refused, Err(AlterConfigError::Invalid(ConfigError::TooLong { .. }))), "{refused:?}");
    let zeros = format!("{}5", "0".repeat(40_000));
    let refused = alter(&cluster(), &logs, &[("retention.ms", set(&zeros))]);
    assert!(matches!(refused, Err(AlterConfigError::Invalid(ConfigError::TooLong { .. }))), "{refused:?}");
}

#[test]
fn the_lags_of_compaction_must_go_together_whichever_is_set_first() {
    let logs = ConfigResource::Topic("logs".to_owned());
    let refused = |image: &Image, name, value| {
        let refused = alter(image, &logs, &[(name, set(value))]);
        matches!(refused, Err(AlterConfigError::Invalid(ConfigError::CompactionLags { min: 2000, max: 1000 })))
    };
    let min = alter(&cluster(), &logs, &[("min.compaction.lag.ms", set("2000"))]).expect("below the default");
    assert!(refused(&min, "max.compaction.lag.ms", "1000"));
    let max = alter(&cluster(), &logs, &[("max.compaction.lag.ms", set("1000"))]).expect("above the default");
    assert!(refused(&max, "min.compaction.lag.ms", "2000"));
    let both = [("min.compaction.lag.ms", set("2000")), ("max.compaction.lag.ms", set("2000"))];
    alter(&max, &logs, &both).expect("as long as each other");
}

#[test]
fn a_topic_of_the_brokers_own_stays_durable() {
    let name = "__consumer_offsets".to_owned();
    let topic = NewTopic { name: name.clone(), partitions: 1, replication_factor: 1, ..NewTopic::default() };
    let mut random = || [8; 16];
    let defaults = TopicDefaults::default();
    let decision = create_topics(&cluster(), &[topic], &both(), &TopicLimits::default(), &defaults, &mut random);
    let image = applied(&cluster(), &decision.records);
    let alter = |alteration| {
        let wanted = [(ConfigResource::Topic(name.clone()), alteration)];
        alter_configs(&image, &defaults, &wanted).results.remove(0)
    };
    let flush = |value: &str| ("millpond.flush".to_owned(), value.to_owned());
    let each = |operation| ConfigAlteration::Each(vec![("millpond.flush".to_owned(), operation)]);
    let refused = Err(AlterConfigError::Invalid(ConfigError::InternalNotDurable(name.clone())));
    assert_eq!(alter(each(set("relaxed"))), refused);
    assert_eq!(alter(ConfigAlteration::Replace(vec![flush("relaxed")])), refused);
    assert_eq!(alter(each(set("durable"))), Ok(vec![]));
    assert_eq!(alter(each(ConfigOperation::Delete)), Ok(vec![]));
    assert_eq!(alter(ConfigAlteration::Replace(vec![flush("durable")])), Ok(vec![]));
}
