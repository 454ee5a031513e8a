//! The consumer of `millpond-client` against a real broker, which may be any: see `support::any_broker`.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use millpond_client::{
    Admin, Codec, Consumer, ConsumerConfig, ConsumerRecord, NewRecord, OffsetAt, OffsetReset, Producer, ProducerConfig,
    TopicPartition,
};
use support::PATIENCE;
use support::any_broker::{AnyBroker, unique};

fn earliest() -> ConsumerConfig {
    ConsumerConfig::default().offset_reset(OffsetReset::Earliest)
}

async fn consumer(broker: &AnyBroker, config: ConsumerConfig, topic: &str, partitions: i32) -> Consumer {
    let consumer = Consumer::connect(broker.config(), config).await.expect("it answers");
    consumer.assign((0..partitions).map(|partition| TopicPartition::new(topic, partition))).expect("good names");
    consumer
}

async fn next(consumer: &mut Consumer) -> ConsumerRecord {
    tokio::time::timeout(PATIENCE, consumer.try_next()).await.expect("in time").expect("good").expect("it goes on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_every_codec_come_once_and_in_order() {
    let broker = AnyBroker::start("consumer-codecs");
    // An hour ago: older records a broker may take for expired.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    let begin = i64::try_from(since.as_millis()).expect("before the year 292277026") - 3_600_000;
    for codec in Codec::ALL {
        let topic = unique(codec.name());
        broker.client().create_topic(&topic, 1);
        let config = ProducerConfig::default().codec(codec).batch_bytes(4000);
        let producer = Producer::connect(broker.config(), config).await.expect("it answers");
        for number in 0..3000 {
            let value = format!("line {number} {}", "abc".repeat(number % 30));
            let headers = [("number", Some(value.as_bytes()))];
            let record = NewRecord::to(&topic).key(b"key").value(value.as_bytes()).headers(&headers);
            drop(producer.send(record.timestamp(begin + i64::try_from(number).expect("few"))).await.expect("taken in"));
        }
        producer.close().await;
        let mut consumer = consumer(&broker, earliest().max_partition_fetch_bytes(10_000), &topic, 1).await;
        for number in 0..3000 {
            let record = next(&mut consumer).await;
            let value = format!("line {number} {}", "abc".repeat(number % 30));
            assert_eq!(record.offset, i64::try_from(number).expect("few"), "{codec}");
            assert_eq!((record.timestamp, record.key.as_deref()), (begin + record.offset, Some(&b"key"[..])));
            assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "{codec}");
            assert_eq!(record.headers, [("number".into(), Some(value.into()))]);
        }
        let partition = TopicPartition::new(topic.as_str(), 0);
        consumer.seek_to(&partition, OffsetAt::Time(begin + 2500)).expect("assigned");
        assert_eq!(next(&mut consumer).await.offset, 2500);
        consumer.seek(&partition, 17).expect("assigned");
        assert_eq!(next(&mut consumer).await.offset, 17);
        let end = consumer.offsets(&BTreeMap::from([(partition.clone(), OffsetAt::Latest)])).await.expect("an answer");
        assert!(matches!(end.get(&partition), Some(Ok(Some(3000)))), "{end:?}");
        consumer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_is_read_from_its_begin() {
    let broker = AnyBroker::start("consumer-again");
    let admin = Admin::connect(broker.config()).await.expect("it answers");
    let topic = unique("logs");
    let producer = Producer::new(admin.cluster().clone(), ProducerConfig::default());
    // It is waited for.
    let config = earliest().metadata_max_age(Duration::from_secs(1));
    let mut consumer = consumer(&broker, config, &topic, 1).await;
    for round in ["first", "second"] {
        broker.client().create_topic(&topic, 1);
        for _ in 0..3 {
            drop(producer.send(NewRecord::to(&topic).value(round.as_bytes())).await.expect("taken in"));
        }
        producer.flush().await;
        for offset in 0..3 {
            let record = next(&mut consumer).await;
            assert_eq!((record.offset, record.value.as_deref()), (offset, Some(round.as_bytes())));
        }
        if round == "first" {
            assert!(admin.delete_topics(&[&topic]).await.expect("an answer")[&topic].is_ok());
        }
    }
}
