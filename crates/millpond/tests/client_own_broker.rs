//! `millpond-client` against a broker of our own, because it is killed in the middle of it, or because it must have an
//! HTTP port. What can run against any broker is in `client.rs`, `producer.rs`, `consumer.rs` and `consumer_groups.rs`.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_client::{
    Admin, ClientConfig, Codec, Consumer, ConsumerConfig, Delivery, Error, NewRecord, NewTopic, OffsetReset, Producer,
    ProducerConfig, TopicPartition,
};
use support::{Broker, Folder, PATIENCE, batch};

fn config(broker: &Broker) -> ClientConfig {
    ClientConfig::new(&broker.kafka.to_string()).expect("its address")
}

/// A broker with the same data at the same address.
fn restart(folder: &Folder, kafka: SocketAddr) -> Command {
    let mut again = Command::new(env!("CARGO_BIN_EXE_millpond"));
    again.args(["broker", "--data-dir", folder.path().to_str().expect("a plain path")]);
    again.args(["--kafka", &kafka.to_string(), "--http", "127.0.0.1:0"]).stdout(Stdio::piped());
    again
}

#[tokio::test]
async fn calls_go_on_when_the_broker_has_been_killed_and_started_again() {
    let folder = Folder::new("client-restart");
    let broker = Broker::start(folder.path(), &[]);
    let again = restart(&folder, broker.kafka);
    let admin = Admin::connect(config(&broker)).await.expect("it answers");
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
async fn what_is_no_kafka_port_is_said_to_be_none() {
    let folder = Folder::new("client-http");
    let broker = Broker::start(folder.path(), &[]);
    let config = ClientConfig::new(&broker.http.to_string()).expect("an address");
    let error = Admin::connect(config).await.err().expect("HTTP is another protocol");
    let Error::NoBroker(reasons) = &error else { panic!("{error}") };
    assert!(matches!(reasons[..], [Error::Protocol { .. } | Error::Disconnected { .. }]), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_acknowledged_record_is_there_once_and_in_order_when_the_broker_is_killed() {
    let folder = Folder::new("producer-kill");
    let mut broker = Broker::start(folder.path(), &[]);
    let address = broker.kafka;
    broker.client().create_topic("logs", 3);
    let batches = ProducerConfig::default().batch_bytes(2000).codec(Codec::Lz4);
    let producer = Producer::connect(config(&broker), batches).await.expect("it answers");
    // By partition: the number of each record in the order in which it was sent, with its delivery.
    let mut sent: Vec<Vec<(u32, Delivery)>> = vec![Vec::new(), Vec::new(), Vec::new()];
    let mut number = 0_u32;
    for _ in 0..4 {
        let until = number + 4000;
        let mut killed = None;
        while number < until {
            let value = number.to_string();
            let delivery = producer.send(NewRecord::to("logs").value(value.as_bytes())).await.expect("taken in");
            sent[usize::try_from(delivery.partition()).expect("from 0 on")].push((number, delivery));
            number += 1;
            if number == until - 2000 {
                // Some of it is on the way, some is in the journal, some is answered.
                broker.kill();
                let again = restart(&folder, address);
                killed = Some(tokio::task::spawn_blocking(move || Broker::run(again)));
                break;
            }
        }
        while number < until {
            let value = number.to_string();
            let delivery = producer.send(NewRecord::to("logs").value(value.as_bytes())).await.expect("taken in");
            sent[usize::try_from(delivery.partition()).expect("from 0 on")].push((number, delivery));
            number += 1;
        }
        broker = killed.expect("it was killed").await.expect("it starts again");
    }
    producer.close().await;
    for (partition, sent) in (0..).zip(sent) {
        let found = broker.client().read_all("logs", partition);
        let found: Vec<(i64, u32)> = found
            .into_iter()
            .map(|(offset, value)| (offset, String::from_utf8(value).expect("text").parse().expect("a number")))
            .collect();
        assert!(found.is_sorted_by(|(_, a), (_, b)| a < b), "once and in order");
        for (number, delivery) in sent {
            let written = delivery.await.expect("the broker came back in time");
            let place = found.binary_search_by_key(&number, |(_, number)| *number).expect("it is there");
            if let Some(offset) = written.offset {
                assert_eq!(found[place].0, offset);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_comes_once_and_in_order_when_the_broker_is_killed() {
    let folder = Folder::new("consumer-kill");
    let mut broker = Broker::start(folder.path(), &[]);
    let address = broker.kafka;
    broker.client().create_topic("logs", 3);
    let earliest = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let mut consumer = Consumer::connect(config(&broker), earliest).await.expect("it answers");
    consumer.assign((0..3).map(|partition| TopicPartition::new("logs", partition))).expect("good names");
    let producer = Producer::connect(config(&broker), ProducerConfig::default()).await.expect("it answers");
    let mut next_offsets = BTreeMap::new();
    for round in 0..3 {
        for number in 0..3000 {
            let value = number.to_string();
            drop(producer.send(NewRecord::to("logs").value(value.as_bytes())).await.expect("taken in"));
        }
        for read in 0..3000 {
            if read == 1000 && round < 2 {
                broker.kill();
                let again = restart(&folder, address);
                broker = tokio::task::spawn_blocking(move || Broker::run(again)).await.expect("it starts again");
            }
            let record = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("good");
            let expected = next_offsets.entry(record.partition).or_insert(0);
            assert_eq!(record.offset, *expected, "partition {}", record.partition);
            *expected += 1;
        }
    }
    producer.close().await;
    assert_eq!(next_offsets.values().sum::<i64>(), 9000);
    let more = tokio::time::timeout(Duration::from_secs(1), consumer.recv()).await;
    assert!(more.is_err(), "{more:?}");
}
