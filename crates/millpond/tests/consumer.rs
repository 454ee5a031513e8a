//! The consumer of `millpond-client` against a real broker, which is killed in the middle of it.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::TryStreamExt;
use millpond_client::{
    Admin, ClientConfig, Codec, Consumer, ConsumerConfig, ConsumerRecord, NewRecord, OffsetAt, OffsetReset, Producer,
    ProducerConfig, TopicPartition,
};
use support::{Broker, Folder, PATIENCE};

fn client(broker: &Broker) -> ClientConfig {
    ClientConfig::new(&broker.kafka.to_string()).expect("its address")
}

fn earliest() -> ConsumerConfig {
    ConsumerConfig::default().offset_reset(OffsetReset::Earliest)
}

async fn consumer(broker: &Broker, config: ConsumerConfig, topic: &str, partitions: i32) -> Consumer {
    let consumer = Consumer::connect(client(broker), config).await.expect("it answers");
    consumer.assign((0..partitions).map(|partition| TopicPartition::new(topic, partition))).expect("good names");
    consumer
}

async fn next(consumer: &mut Consumer) -> ConsumerRecord {
    tokio::time::timeout(PATIENCE, consumer.try_next()).await.expect("in time").expect("good").expect("it goes on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_every_codec_come_once_and_in_order() {
    let folder = Folder::new("consumer-codecs");
    let broker = Broker::start(folder.path(), &[]);
    for codec in Codec::ALL {
        broker.client().create_topic(codec.name(), 1);
        let config = ProducerConfig::default().codec(codec).batch_bytes(4000);
        let producer = Producer::connect(client(&broker), config).await.expect("it answers");
        for number in 0..3000 {
            let value = format!("line {number} {}", "abc".repeat(number % 30));
            let headers = [("number", Some(value.as_bytes()))];
            let record = NewRecord::to(codec.name()).key(b"key").value(value.as_bytes()).headers(&headers);
            drop(producer.send(record.timestamp(1000 + i64::try_from(number).expect("few"))).await.expect("taken in"));
        }
        producer.close().await;
        let mut consumer = consumer(&broker, earliest().max_partition_fetch_bytes(10_000), codec.name(), 1).await;
        for number in 0..3000 {
            let record = next(&mut consumer).await;
            let value = format!("line {number} {}", "abc".repeat(number % 30));
            assert_eq!(record.offset, i64::try_from(number).expect("few"), "{codec}");
            assert_eq!((record.timestamp, record.key.as_deref()), (1000 + record.offset, Some(&b"key"[..])));
            assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "{codec}");
            assert_eq!(record.headers, [("number".into(), Some(value.into()))]);
        }
        let partition = TopicPartition::new(codec.name(), 0);
        consumer.seek_to(&partition, OffsetAt::Time(3500)).expect("assigned");
        assert_eq!(next(&mut consumer).await.offset, 2500);
        consumer.seek(&partition, 17).expect("assigned");
        assert_eq!(next(&mut consumer).await.offset, 17);
        let end = consumer.offsets(&BTreeMap::from([(partition.clone(), OffsetAt::Latest)])).await.expect("an answer");
        assert!(matches!(end.get(&partition), Some(Ok(Some(3000)))), "{end:?}");
        consumer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_comes_once_and_in_order_when_the_broker_is_killed() {
    let folder = Folder::new("consumer-kill");
    let mut broker = Broker::start(folder.path(), &[]);
    let address = broker.kafka.to_string();
    broker.client().create_topic("logs", 3);
    let mut consumer = consumer(&broker, earliest(), "logs", 3).await;
    let producer = Producer::connect(client(&broker), ProducerConfig::default()).await.expect("it answers");
    let mut next_offsets = BTreeMap::new();
    for round in 0..3 {
        for number in 0..3000 {
            let value = number.to_string();
            drop(producer.send(NewRecord::to("logs").value(value.as_bytes())).await.expect("taken in"));
        }
        for read in 0..3000 {
            if read == 1000 && round < 2 {
                broker.kill();
                let mut again = Command::new(env!("CARGO_BIN_EXE_millpond"));
                again.args(["broker", "--data-dir", folder.path().to_str().expect("a plain path")]);
                again.args(["--kafka", &address, "--http", "127.0.0.1:0"]).stdout(Stdio::piped());
                broker = tokio::task::spawn_blocking(move || Broker::run(again)).await.expect("it starts again");
            }
            let record = next(&mut consumer).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_is_read_from_its_begin() {
    let folder = Folder::new("consumer-again");
    let broker = Broker::start(folder.path(), &[]);
    let admin = Admin::connect(client(&broker)).await.expect("it answers");
    let producer = Producer::new(admin.cluster().clone(), ProducerConfig::default());
    // It is waited for.
    let config = earliest().metadata_max_age(Duration::from_secs(1));
    let mut consumer = consumer(&broker, config, "logs", 1).await;
    for round in ["first", "second"] {
        broker.client().create_topic("logs", 1);
        for _ in 0..3 {
            drop(producer.send(NewRecord::to("logs").value(round.as_bytes())).await.expect("taken in"));
        }
        producer.flush().await;
        for offset in 0..3 {
            let record = next(&mut consumer).await;
            assert_eq!((record.offset, record.value.as_deref()), (offset, Some(round.as_bytes())));
        }
        if round == "first" {
            assert!(admin.delete_topics(&["logs"]).await.expect("an answer")["logs"].is_ok());
        }
    }
}
