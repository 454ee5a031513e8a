//! `millpond-client` against a real broker.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_client::{
    Admin, AlterConfig, ClientConfig, ConfigChange, ConfigResource, ConfigSource, Connection, ElectionType, Error,
    ErrorCode, NewTopic, Tcp, TopicPartition,
};
use millpond_wire::metadata::MetadataRequest;
use support::{Broker, Folder, batch};

fn config(broker: &Broker) -> ClientConfig {
    ClientConfig::new(&broker.kafka.to_string()).expect("its address").deadline(Duration::from_secs(20))
}

async fn admin(broker: &Broker) -> Admin {
    Admin::connect(config(broker)).await.expect("it answers")
}

#[tokio::test]
async fn topics_are_created_listed_described_grown_and_deleted() {
    let folder = Folder::new("client-topics");
    let broker = Broker::start(folder.path(), &[]);
    let admin = admin(&broker).await;
    assert_eq!(admin.list_topics().await.expect("a list"), []);
    let logs = NewTopic::new("logs").partitions(2).replication_factor(1).config("retention.ms", "3600000");
    let checked = admin.validate_topics(std::slice::from_ref(&logs)).await.expect("an answer");
    assert!(checked["logs"].is_ok());
    let created = admin.create_topics(&[logs.clone(), NewTopic::new("a b")]).await.expect("an answer");
    let made = created["logs"].as_ref().expect("created");
    assert_eq!((made.partitions, made.replication_factor, made.id.is_some()), (Some(2), Some(1), true));
    let refused = created["a b"].as_ref().expect_err("a bad name");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));
    let again = admin.create_topics(&[logs]).await.expect("an answer");
    let again = again["logs"].as_ref().expect_err("it exists");
    assert_eq!((again.code(), again.is_retriable()), (Some(ErrorCode::TOPIC_ALREADY_EXISTS), false));

    let grown = admin.create_partitions(&[("logs", 3), ("none", 2)], &[]).await.expect("an answer");
    assert!(grown["logs"].is_ok());
    let unknown = grown["none"].as_ref().expect_err("there is none");
    assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let described = admin.describe_topics(&["logs", "none"]).await.expect("an answer");
    let logs = described["logs"].as_ref().expect("it is there");
    assert_eq!((logs.id, logs.partitions.len(), logs.is_internal), (made.id, 3, false));
    for (number, partition) in (0..).zip(&logs.partitions) {
        assert_eq!((partition.partition, partition.leader), (number, Some(1)));
        assert!(partition.replicas == [1] && !partition.is_under_replicated());
    }
    assert!(described["none"].is_err());
    let listed = admin.list_topics().await.expect("a list");
    assert_eq!(listed.iter().map(|topic| (topic.name.as_str(), topic.partitions)).collect::<Vec<_>>(), [("logs", 3)]);

    let deleted = admin.delete_topics(&["logs", "none"]).await.expect("an answer");
    assert!(deleted["logs"].is_ok() && deleted["none"].is_err());
    assert_eq!(admin.list_topics().await.expect("a list"), []);
}

#[tokio::test]
async fn settings_are_described_and_changed_one_by_one() {
    let folder = Folder::new("client-configs");
    let broker = Broker::start(folder.path(), &[]);
    let admin = admin(&broker).await;
    let created = admin.create_topics(&[NewTopic::new("logs").config("segment.ms", "7000000")]).await;
    assert!(created.expect("an answer")["logs"].is_ok());
    let (logs, one, none) = (ConfigResource::topic("logs"), ConfigResource::broker(1), ConfigResource::topic("none"));
    let change = |change: ConfigChange| AlterConfig {
        resource: ConfigResource::topic("logs"),
        changes: BTreeMap::from([("retention.ms".to_owned(), change)]),
    };
    let retention = async |expected: (&str, ConfigSource)| {
        let found = admin.describe_configs(&[ConfigResource::topic("logs")]).await.expect("an answer");
        let entries = found[&ConfigResource::topic("logs")].as_ref().expect("it is there");
        let entry = &entries["retention.ms"];
        assert_eq!((entry.value.as_deref(), entry.source), (Some(expected.0), expected.1));
        assert_eq!(entries["segment.ms"].value.as_deref(), Some("7000000"), "it is left alone");
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
    assert_eq!(partitions.value.as_deref(), Some("1"));
    assert_eq!(found[&none].as_ref().expect_err("none").code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

#[tokio::test]
async fn a_cluster_of_one_is_described() {
    let folder = Folder::new("client-cluster");
    let broker = Broker::start(folder.path(), &[]);
    let cluster = admin(&broker).await.describe_cluster().await.expect("an answer");
    assert_eq!((cluster.controller, cluster.brokers.len()), (Some(1), 1));
    assert!(cluster.id.is_some_and(|id| id.len() == 22));
    let only = &cluster.brokers[0];
    let address = only.address.as_ref().expect("an address").to_string();
    assert_eq!((only.id, address, only.is_fenced), (1, broker.kafka.to_string(), false));
}

#[tokio::test]
async fn quorum_moves_and_elections_of_a_cluster_of_one_are_what_they_must_be() {
    let folder = Folder::new("client-quorum");
    let broker = Broker::start(folder.path(), &[]);
    let admin = admin(&broker).await;
    let created = admin.create_topics(&[NewTopic::new("logs")]).await.expect("an answer");
    assert!(created["logs"].is_ok());
    let quorum = admin.describe_quorum().await.expect("an answer");
    assert_eq!((quorum.leader, quorum.voters.len(), quorum.observers.len()), (Some(1), 1, 0));
    assert_eq!(quorum.lag(&quorum.voters[0]), Some(0));
    let logs = |partition| TopicPartition::new("logs", partition);
    let elected = admin.elect_leaders(ElectionType::Preferred, Some(&[logs(0), logs(5)])).await.expect("an answer");
    assert!(!elected[&logs(0)].as_ref().expect("it leads already"));
    let unknown = elected[&logs(5)].as_ref().expect_err("there is none");
    assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let targets = BTreeMap::from([(logs(0), Some(vec![7])), (logs(5), Some(vec![1]))]);
    let moved = admin.alter_reassignments(&targets).await.expect("an answer");
    let refused = moved[&logs(0)].as_ref().expect_err("there is no broker 7");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_REPLICA_ASSIGNMENT));
    assert!(moved[&logs(5)].is_err());
    let cancelled = admin.alter_reassignments(&BTreeMap::from([(logs(0), None)])).await.expect("an answer");
    let nothing = cancelled[&logs(0)].as_ref().expect_err("nothing moves");
    assert_eq!(nothing.code(), Some(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
    assert!(admin.list_reassignments(None).await.expect("an answer").is_empty());
    let unknown = admin.unregister_broker(9).await.expect_err("there is no broker 9");
    assert_eq!(unknown.code(), Some(ErrorCode::BROKER_ID_NOT_REGISTERED));
}

#[tokio::test]
async fn calls_go_on_when_the_broker_has_been_killed_and_started_again() {
    let folder = Folder::new("client-restart");
    let broker = Broker::start(folder.path(), &[]);
    let mut again = Command::new(env!("CARGO_BIN_EXE_millpond"));
    again.args(["broker", "--data-dir", folder.path().to_str().expect("a plain path")]);
    again.args(["--kafka", &broker.kafka.to_string(), "--http", "127.0.0.1:0"]).stdout(Stdio::piped());
    let admin = admin(&broker).await;
    let created = admin.create_topics(&[NewTopic::new("logs").partitions(2)]).await.expect("an answer");
    assert!(created["logs"].is_ok());
    assert_eq!(broker.client().produce("logs", 0, -1, batch(&["x"])), (0, 0));
    broker.kill();
    let call = admin.describe_topics(&["logs"]);
    let restarted = async { Broker::run(again) };
    // The call begins while nobody is there.
    let (described, _broker) = tokio::join!(call, restarted);
    assert_eq!(described.expect("it waits")["logs"].as_ref().expect("it is there").partitions.len(), 2);
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let folder = Folder::new("client-pipelined");
    let broker = Broker::start(folder.path(), &[]);
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

#[tokio::test]
async fn what_is_no_kafka_port_is_said_to_be_none() {
    let folder = Folder::new("client-http");
    let broker = Broker::start(folder.path(), &[]);
    let config = ClientConfig::new(&broker.http.to_string()).expect("an address");
    let error = Admin::connect(config).await.err().expect("HTTP is another protocol");
    let Error::NoBroker(reasons) = &error else { panic!("{error}") };
    assert!(matches!(reasons[..], [Error::Protocol { .. } | Error::Disconnected { .. }]), "{error}");
}
