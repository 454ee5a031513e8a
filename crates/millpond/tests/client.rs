//! `millpond-client` against a real broker, which may be any: see `support::any_broker`.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millpond_client::{
    Admin, AlterConfig, ClientConfig, ConfigChange, ConfigResource, ConfigSource, Connection, ElectionType, ErrorCode,
    NewTopic, Tcp, TopicPartition,
};
use millpond_wire::metadata::MetadataRequest;
use support::PATIENCE;
use support::any_broker::{AnyBroker, unique};

fn config(broker: &AnyBroker) -> ClientConfig {
    broker.config().deadline(Duration::from_secs(20))
}

async fn admin(broker: &AnyBroker) -> Admin {
    Admin::connect(config(broker)).await.expect("it answers")
}

/// Asks until it is so: a broker of Kafka tells of a change some time after its controller has made it.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
    }
}

/// The id of the only broker.
async fn only_id(admin: &Admin) -> i32 {
    admin.describe_cluster().await.expect("an answer").brokers[0].id
}

#[tokio::test]
async fn topics_are_created_listed_described_grown_and_deleted() {
    let broker = AnyBroker::start("client-topics");
    let admin = admin(&broker).await;
    let (topic, none, only) = (unique("logs"), unique("none"), only_id(&admin).await);
    let (name, none) = (topic.as_str(), none.as_str());
    let listed = async || {
        let listed = admin.list_topics().await.expect("a list");
        listed.into_iter().find(|topic| topic.name == name).map(|topic| topic.partitions)
    };
    assert_eq!(listed().await, None);
    let logs = NewTopic::new(name).partitions(2).replication_factor(1).config("retention.ms", "3600000");
    let checked = admin.validate_topics(std::slice::from_ref(&logs)).await.expect("an answer");
    assert!(checked[name].is_ok());
    let created = admin.create_topics(&[logs.clone(), NewTopic::new("a b")]).await.expect("an answer");
    let made = created[name].as_ref().expect("created");
    assert_eq!((made.partitions, made.replication_factor, made.id.is_some()), (Some(2), Some(1), true));
    let refused = created["a b"].as_ref().expect_err("a bad name");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));
    let again = admin.create_topics(&[logs]).await.expect("an answer");
    let again = again[name].as_ref().expect_err("it exists");
    assert_eq!((again.code(), again.is_retriable()), (Some(ErrorCode::TOPIC_ALREADY_EXISTS), false));

    let grown = admin.create_partitions(&[(name, 3), (none, 2)], &[]).await.expect("an answer");
    assert!(grown[name].is_ok());
    let unknown = grown[none].as_ref().expect_err("there is none");
    assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    until("it is seen to have grown", async || listed().await == Some(3)).await;
    let described = admin.describe_topics(&[name, none]).await.expect("an answer");
    let logs = described[name].as_ref().expect("it is there");
    assert_eq!((logs.id, logs.partitions.len(), logs.is_internal), (made.id, 3, false));
    for (number, partition) in (0..).zip(&logs.partitions) {
        assert_eq!((partition.partition, partition.leader), (number, Some(only)));
        assert!(partition.replicas == [only] && !partition.is_under_replicated());
    }
    assert!(described[none].is_err());

    let deleted = admin.delete_topics(&[name, none]).await.expect("an answer");
    assert!(deleted[name].is_ok() && deleted[none].is_err());
    until("it is seen to be gone", async || listed().await.is_none()).await;
}

#[tokio::test]
async fn settings_are_described_and_changed_one_by_one() {
    let broker = AnyBroker::start("client-configs");
    let admin = admin(&broker).await;
    let (topic, only) = (unique("logs"), only_id(&admin).await);
    let created = admin.create_topics(&[NewTopic::new(&topic).config("segment.ms", "7000000")]).await;
    assert!(created.expect("an answer")[&topic].is_ok());
    let (logs, one) = (ConfigResource::topic(&topic), ConfigResource::broker(only));
    let none = ConfigResource::topic(unique("none"));
    let change = |change: ConfigChange| AlterConfig {
        resource: logs.clone(),
        changes: BTreeMap::from([("retention.ms".to_owned(), change)]),
    };
    let retention = async |expected: (&str, ConfigSource)| {
        let told = async || {
            let found = admin.describe_configs(std::slice::from_ref(&logs)).await.expect("an answer");
            let Ok(entries) = found[&logs].as_ref() else { return false };
            let (entry, other) = (&entries["retention.ms"], &entries["segment.ms"]);
            // The other is left alone.
            (entry.value.as_deref(), entry.source, other.value.as_deref())
                == (Some(expected.0), expected.1, Some("7000000"))
        };
        until(&format!("{expected:?}"), told).await;
    };
    retention(("604800000", ConfigSource::Default)).await;
    let set = admin.alter_configs(&[change(ConfigChange::Set("5000000".into()))]).await.expect("an answer");
    assert!(set[&logs].is_ok());
    retention(("5000000", ConfigSource::Topic)).await;
    let bad = admin.alter_configs(&[change(ConfigChange::Set("soon".into()))]).await.expect("an answer");
    assert_eq!(bad[&logs].as_ref().expect_err("no number").code(), Some(ErrorCode::INVALID_CONFIG));
    let reset = admin.alter_configs(&[change(ConfigChange::Reset)]).await.expect("an answer");
    assert!(reset[&logs].is_ok());
    retention(("604800000", ConfigSource::Default)).await;

    let found = admin.describe_configs(&[logs.clone(), one.clone(), none.clone()]).await.expect("an answer");
    assert_eq!(found.len(), 3);
    let partitions = &found[&one].as_ref().expect("it is there")["num.partitions"];
    let partitions = partitions.value.as_deref().and_then(|value| value.parse::<i32>().ok());
    assert!(partitions.is_some_and(|partitions| partitions > 0), "{partitions:?}");
    assert_eq!(found[&none].as_ref().expect_err("none").code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

#[tokio::test]
async fn a_cluster_of_one_is_described() {
    let broker = AnyBroker::start("client-cluster");
    let cluster = admin(&broker).await.describe_cluster().await.expect("an answer");
    assert_eq!((cluster.controller, cluster.brokers.len()), (Some(cluster.brokers[0].id), 1));
    assert!(cluster.id.is_some_and(|id| id.len() == 22));
    let only = &cluster.brokers[0];
    let address = only.address.as_ref().expect("an address").to_string();
    assert_eq!((address, only.is_fenced), (broker.kafka.to_string(), false));
}

#[tokio::test]
async fn quorum_moves_and_elections_of_a_cluster_of_one_are_what_they_must_be() {
    let broker = AnyBroker::start("client-quorum");
    let admin = admin(&broker).await;
    let (topic, only) = (unique("logs"), only_id(&admin).await);
    let created = admin.create_topics(&[NewTopic::new(&topic).partitions(1)]).await.expect("an answer");
    assert!(created[&topic].is_ok());
    let quorum = admin.describe_quorum().await.expect("an answer");
    assert_eq!((quorum.leader, quorum.voters.len(), quorum.observers.len()), (Some(only), 1, 0));
    assert_eq!(quorum.lag(&quorum.voters[0]), Some(0));
    let logs = |partition| TopicPartition::new(topic.as_str(), partition);
    let elected = admin.elect_leaders(ElectionType::Preferred, Some(&[logs(0), logs(5)])).await.expect("an answer");
    assert!(!elected[&logs(0)].as_ref().expect("it leads already"));
    let unknown = elected[&logs(5)].as_ref().expect_err("there is none");
    assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let targets = BTreeMap::from([(logs(0), Some(vec![only + 6])), (logs(5), Some(vec![only]))]);
    let moved = admin.alter_reassignments(&targets).await.expect("an answer");
    let refused = moved[&logs(0)].as_ref().expect_err("there is no such broker");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_REPLICA_ASSIGNMENT));
    assert!(moved[&logs(5)].is_err());
    let cancelled = admin.alter_reassignments(&BTreeMap::from([(logs(0), None)])).await.expect("an answer");
    let nothing = cancelled[&logs(0)].as_ref().expect_err("nothing moves");
    assert_eq!(nothing.code(), Some(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
    assert!(admin.list_reassignments(None).await.expect("an answer").is_empty());
    let unknown = admin.unregister_broker(only + 8).await.expect_err("there is no such broker");
    assert_eq!(unknown.code(), Some(ErrorCode::BROKER_ID_NOT_REGISTERED));
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let broker = AnyBroker::start("client-pipelined");
    let address = broker.kafka.to_string().parse().expect("an address");
    let connection = Connection::open(&Tcp, &address, &config(&broker).max_in_flight(8)).await.expect("it accepts");
    let version = connection.version::<MetadataRequest>(4).expect("both speak it");
    let request = MetadataRequest { allow_auto_topic_creation: false, ..Default::default() };
    let calls = (0..100).map(|_| connection.call(version, &request, Duration::from_secs(20)));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.expect("an answer").brokers.len(), 1);
    }
    assert!(!connection.is_closed());
}
