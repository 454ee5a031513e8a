//! Consumers of `millpond-client` that share a topic in a group, against a real broker, which may be any: see
//! `support::any_broker`.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millpond_client::{
    Admin, Assignor, ClientConfig, Consumer, ConsumerConfig, ErrorCode, GroupProtocol, NewRecord, OffsetReset,
    Producer, ProducerConfig, RebalanceKind, TopicPartition,
};
use support::PATIENCE;
use support::any_broker::{AnyBroker, unique};

const PARTITIONS: i32 = 6;

/// A broker with a topic, and the name of a group: the topic's, too.
fn start(name: &str) -> (AnyBroker, String) {
    let (broker, topic) = (AnyBroker::start(name), unique(name));
    broker.client().create_topic(&topic, PARTITIONS);
    (broker, topic)
}

fn member(group: &str) -> ConsumerConfig {
    ConsumerConfig::default()
        .offset_reset(OffsetReset::Earliest)
        .group(group)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_millis(100))
        .fetch_max_wait(Duration::from_millis(50))
}

async fn join(client: ClientConfig, config: ConsumerConfig, topic: &str) -> Consumer {
    let consumer = Consumer::connect(client, config).await.expect("it answers");
    consumer.subscribe(&[topic]).expect("a good name");
    consumer
}

async fn send(producer: &Producer, topic: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let partition = i32::try_from(number).expect("few") % PARTITIONS;
        let value = number.to_string();
        let record = NewRecord::to(topic).partition(partition).value(value.as_bytes());
        drop(producer.send(record).await.expect("taken in"));
    }
    producer.flush().await;
}

/// Numbers that were read, and how often.
type Seen = Arc<Mutex<BTreeMap<usize, usize>>>;

fn note(seen: &Seen, value: Option<&[u8]>) {
    let number = std::str::from_utf8(value.expect("a value")).expect("text").parse().expect("a number");
    *seen.lock().expect("no test panics here").entry(number).or_default() += 1;
}

/// Reads until something is so, in any case for a moment.
async fn read_until(consumer: &mut Consumer, seen: &Seen, what: &str, mut done: impl FnMut(&Consumer) -> bool) {
    let begun = Instant::now();
    while !done(consumer) {
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", consumer.assignment());
        if let Ok(record) = tokio::time::timeout(Duration::from_millis(20), consumer.recv()).await {
            note(seen, record.expect("a record").value.as_deref());
        }
    }
}

fn all(seen: &Seen, numbers: std::ops::Range<usize>) -> bool {
    let seen = seen.lock().expect("no test panics here");
    numbers.into_iter().all(|number| seen.contains_key(&number))
}

/// Two read a topic in a group, and one of them dies.
async fn nothing_is_skipped(name: &str, configure: impl FnOnce(ConsumerConfig) -> ConsumerConfig) {
    let (broker, logs) = start(&format!("groups-{name}"));
    let config = configure(member(&logs)).auto_commit(Some(Duration::from_millis(50)));
    let producer = Producer::connect(broker.config(), ProducerConfig::default()).await.expect("it answers");
    let seen = Seen::default();
    send(&producer, &logs, 0..600).await;
    let mut first = join(broker.config(), config.clone(), &logs).await;
    read_until(&mut first, &seen, "all is read by the only member", |_| all(&seen, 0..600)).await;
    assert_eq!(first.assignment().len(), 6);
    assert!(seen.lock().expect("no test panics here").values().all(|times| *times == 1), "once");

    // The second reads in a runtime of its own, which ends without a word.
    let shares = Arc::new(Mutex::new(BTreeSet::<TopicPartition>::new()));
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let other = other.expect("threads");
    {
        let (client, topic) = (broker.config(), logs.clone());
        let (seen, shares) = (Arc::clone(&seen), Arc::clone(&shares));
        other.spawn(async move {
            let mut second = join(client, config, &topic).await;
            loop {
                if let Ok(record) = tokio::time::timeout(Duration::from_millis(20), second.recv()).await {
                    note(&seen, record.expect("a record").value.as_deref());
                }
                *shares.lock().expect("no test panics here") = second.assignment().into_iter().collect();
            }
        });
    }
    let halved = |first: &Consumer| {
        let here: BTreeSet<TopicPartition> = first.assignment().into_iter().collect();
        let there = shares.lock().expect("no test panics here");
        here.len() == 3 && there.len() == 3 && here.is_disjoint(&there)
    };
    read_until(&mut first, &seen, "each has its half", halved).await;
    send(&producer, &logs, 600..1200).await;
    read_until(&mut first, &seen, "all is read by both", |_| all(&seen, 600..1200)).await;
    send(&producer, &logs, 1200..1300).await;
    other.shutdown_background();
    send(&producer, &logs, 1300..1800).await;
    read_until(&mut first, &seen, "all is read by who is left", |_| all(&seen, 0..1800)).await;
    assert_eq!(first.assignment().len(), 6);
    first.close().await;
    producer.close().await;

    let admin = Admin::connect(broker.config()).await.expect("it answers");
    let committed = admin.group_offsets(&logs).await.expect("an answer");
    assert!(committed.len() == 6 && committed.values().all(|committed| committed.offset == 300), "{committed:?}");
    let group = admin.describe_group(&logs).await.expect("an answer").expect("it is there");
    assert!(group.members.is_empty(), "it has left: {group:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_classic_protocol_nothing_is_skipped_when_a_member_comes_and_dies() {
    for (name, assignor) in [("range", Assignor::Range), ("sticky", Assignor::CooperativeSticky)] {
        let classic = |config: ConsumerConfig| config.group_protocol(GroupProtocol::Classic).assignors(&[assignor]);
        nothing_is_skipped(name, classic).await;
    }
}

/// Its sessions end after 45 s, which is the group's to say, so the test takes that long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_consumer_protocol_nothing_is_skipped_when_a_member_comes_and_dies() {
    nothing_is_skipped("consumer", |config| config.group_protocol(GroupProtocol::Consumer)).await;
}

async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let record = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("a record");
        found.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_one_begins_where_the_last_one_has_committed() {
    let (broker, logs) = start("groups-commit");
    let producer = Producer::connect(broker.config(), ProducerConfig::default()).await.expect("it answers");
    for number in 0..30 {
        let value = number.to_string();
        let record = NewRecord::to(&logs).partition(0).value(value.as_bytes());
        drop(producer.send(record).await.expect("taken in"));
    }
    producer.close().await;
    let partition = TopicPartition::new(logs.as_str(), 0);
    let by_hand = member(&logs).auto_commit(None);

    let mut consumer = join(broker.config(), by_hand.clone(), &logs).await;
    assert_eq!(numbers(&mut consumer, 10).await.last().map(String::as_str), Some("9"));
    consumer.commit().await.expect("committed");
    assert_eq!(consumer.committed().await.expect("an answer").get(&partition), Some(&10));
    numbers(&mut consumer, 5).await;
    consumer.close().await;

    let mut consumer = join(broker.config(), by_hand.clone(), &logs).await;
    assert_eq!(numbers(&mut consumer, 1).await, ["10"], "what was not committed comes again");
    // Nobody waits for them, and the consumer ends at once.
    drop(consumer.commit_offsets(&BTreeMap::from([(partition.clone(), 11)])));
    drop(consumer.commit_offsets(&BTreeMap::from([(partition.clone(), 12)])));
    consumer.close().await;

    // At the end all that was given counts.
    let mut consumer = join(broker.config(), member(&logs), &logs).await;
    assert_eq!(numbers(&mut consumer, 8).await.first().map(String::as_str), Some("12"));
    consumer.close().await;

    // Without being a member, the group only keeps how far it has come.
    let mut consumer = Consumer::connect(broker.config(), member(&logs)).await.expect("it answers");
    consumer.assign([partition.clone()]).expect("a good name");
    assert_eq!(numbers(&mut consumer, 2).await, ["20", "21"]);
    consumer.commit().await.expect("committed");
    assert_eq!(consumer.committed().await.expect("an answer").get(&partition), Some(&22));
    consumer.subscribe(&[&logs]).expect("a good name");
    assert!(consumer.assign([partition.clone()]).is_err(), "the group says what is read");
    assert_eq!(numbers(&mut consumer, 1).await, ["22"]);
    consumer.unsubscribe();
    let begun = Instant::now();
    while !consumer.assignment().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it leaves");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_a_member_is_told() {
    let (broker, logs) = start("groups-refused");
    let config = member(&logs).group_protocol(GroupProtocol::Classic).session_timeout(Duration::from_millis(1));
    let mut consumer = join(broker.config(), config, &logs).await;
    let error = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("in time").expect_err("refused");
    assert_eq!(error.code(), Some(ErrorCode::INVALID_SESSION_TIMEOUT), "{error}");
    let consumer = Consumer::connect(broker.config(), ConsumerConfig::default()).await.expect("it answers");
    let error = consumer.subscribe(&[&logs]).expect_err("it has no group");
    assert_eq!(error.to_string(), "the request cannot be sent: the consumer has no group");
    assert!(consumer.commit().await.is_err());
}

/// By the consumer protocol the coordinator matches topics, by the classic one the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_match_an_expression_are_read_also_those_that_are_made_later() {
    for (name, protocol) in [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)] {
        let (broker, prefix) = (AnyBroker::start(&format!("groups-matched-{name}")), unique(name));
        let topic = |number: &str| format!("{prefix}-{number}");
        let producer = Producer::connect(broker.config(), ProducerConfig::default()).await.expect("it answers");
        let send_one = async |topic: &str| {
            broker.client().create_topic(topic, 2);
            let written = producer.send(NewRecord::to(topic).value(topic.as_bytes())).await.expect("taken in");
            written.await.expect("written");
        };
        for number in ["1", "2", "other"] {
            send_one(&topic(number)).await;
        }
        let config = member(&prefix).group_protocol(protocol).metadata_max_age(Duration::from_secs(1));
        let mut consumer = Consumer::connect(broker.config(), config).await.expect("it answers");
        consumer.subscribe_pattern(&format!("{prefix}-[0-9]+")).expect("good");
        let mut found = numbers(&mut consumer, 2).await;
        found.sort();
        assert_eq!(found, [topic("1"), topic("2")]);
        assert_eq!(consumer.assignment().len(), 4);
        send_one(&topic("30")).await;
        assert_eq!(numbers(&mut consumer, 1).await, [topic("30")]);
        consumer.close().await;
    }
}

/// Two members that commit only what they part with, and at the end: no record is given twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_commits_what_is_revoked_hands_over_without_a_record_read_twice() {
    for (name, protocol, assignor) in [
        ("range", GroupProtocol::Classic, Assignor::Range),
        ("sticky", GroupProtocol::Classic, Assignor::CooperativeSticky),
        ("consumer", GroupProtocol::Consumer, Assignor::CooperativeSticky),
    ] {
        let (broker, logs) = start(&format!("groups-handed-{name}"));
        let config = member(&logs).auto_commit(None).group_protocol(protocol).assignors(&[assignor]);
        let producer = Producer::connect(broker.config(), ProducerConfig::default()).await.expect("it answers");
        let seen = Seen::default();
        send(&producer, &logs, 0..600).await;
        let (client, topic) = (broker.config(), logs.clone());
        let begins = async |seen: Seen| {
            let mut consumer = Consumer::connect(client.clone(), config.clone()).await.expect("it answers");
            let mut rebalances = consumer.rebalances().expect("it has a group");
            consumer.subscribe(&[&topic]).expect("a good name");
            let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
            let reads = tokio::spawn(async move {
                let mut revoked = 0;
                loop {
                    tokio::select! {
                        biased;
                        _ = &mut stopped => break,
                        Some(rebalance) = rebalances.next() => match rebalance.kind() {
                            RebalanceKind::Assigned => {}
                            RebalanceKind::Revoked => {
                                rebalance.commit().await.expect("they are its own still");
                                revoked += rebalance.partitions().len();
                            }
                            RebalanceKind::Lost => panic!("lost: {rebalance:?}"),
                        },
                        record = consumer.recv() => note(&seen, record.expect("a record").value.as_deref()),
                    }
                }
                consumer.commit().await.expect("it is a member");
                consumer.close().await;
                revoked
            });
            (stop, reads)
        };
        let reaches = async |count: usize| {
            let begun = Instant::now();
            while !all(&seen, 0..count) {
                assert!(begun.elapsed() < PATIENCE, "{name}: {count} are read");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (stop_first, first) = begins(Arc::clone(&seen)).await;
        reaches(300).await;
        let (stop_second, second) = begins(Arc::clone(&seen)).await;
        let admin = Admin::connect(broker.config()).await.expect("it answers");
        let begun = Instant::now();
        let has_share = |member: &millpond_client::GroupMember| member.assignment.len() == 3;
        loop {
            let group = admin.describe_group(&logs).await.expect("an answer").expect("it is there");
            if group.members.len() == 2 && group.members.iter().all(has_share) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{name}: each has its half: {group:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        send(&producer, &logs, 600..1200).await;
        reaches(1200).await;
        stop_first.send(()).expect("it waits for that");
        let revoked = first.await.expect("no panic");
        assert!(revoked >= 3, "{name}: {revoked} were revoked");
        send(&producer, &logs, 1200..1800).await;
        reaches(1800).await;
        stop_second.send(()).expect("it waits for that");
        second.await.expect("no panic");
        producer.close().await;
        let mut seen = seen.lock().expect("no test panics here");
        seen.retain(|_, times| *times > 1);
        assert!(seen.is_empty(), "{name}: {seen:?}");
    }
}
