//! The producer of `millpond-client` against a real broker, which may be any: see `support::any_broker`.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use millpond_client::{Acks, Admin, Codec, Delivery, Error, ErrorCode, NewRecord, NewTopic, Producer, ProducerConfig};
use support::any_broker::{AnyBroker, unique};

async fn producer(broker: &AnyBroker, config: ProducerConfig) -> Producer {
    Producer::connect(broker.config(), config).await.expect("it answers")
}

fn default() -> ProducerConfig {
    ProducerConfig::default()
}

/// Sends `lines` to a topic and gives their offsets in partition 0.
async fn produce(producer: &Producer, topic: &str, lines: &[String]) -> Vec<Option<i64>> {
    let mut deliveries: Vec<Delivery> = Vec::new();
    for line in lines {
        deliveries.push(producer.send(NewRecord::to(topic).value(line.as_bytes())).await.expect("taken in"));
    }
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.expect("written").offset);
    }
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_every_codec_are_there_in_order_and_at_their_offsets() {
    let broker = AnyBroker::start("producer-codecs");
    let lines: Vec<String> = (0..3000).map(|number| format!("line {number} {}", "abc".repeat(number % 30))).collect();
    for codec in Codec::ALL {
        let topic = unique(codec.name());
        broker.client().create_topic(&topic, 1);
        let producer = producer(&broker, default().codec(codec).batch_bytes(4000)).await;
        let offsets = produce(&producer, &topic, &lines).await;
        assert_eq!(offsets, (0..3000).map(Some).collect::<Vec<_>>(), "{codec}");
        producer.close().await;
        let found = broker.client().read_all(&topic, 0);
        let expected: Vec<(i64, Vec<u8>)> = (0..).zip(lines.iter().map(|line| line.clone().into_bytes())).collect();
        assert!(found == expected, "{codec}: {} records", found.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_idempotence_are_there_too() {
    let broker = AnyBroker::start("producer-acks");
    let lines: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    for (topic, acks) in [(unique("none"), Acks::None), (unique("leader"), Acks::Leader)] {
        broker.client().create_topic(&topic, 1);
        let producer = producer(&broker, default().acks(acks).batch_bytes(500)).await;
        let offsets = produce(&producer, &topic, &lines).await;
        let expected = |number| (acks == Acks::Leader).then_some(number);
        assert_eq!(offsets, (0..500).map(expected).collect::<Vec<_>>());
        // A request behind those that nobody answers: they were taken when it is.
        drop(producer);
        let found = loop {
            let found = broker.client().read_all(&topic, 0);
            if found.len() >= lines.len() {
                break found;
            }
        };
        assert!(found.iter().map(|(_, value)| value).eq(lines.iter().map(String::as_bytes)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_topic_does_not_take_fails_and_the_rest_goes_on() {
    let broker = AnyBroker::start("producer-refused");
    let admin = Admin::connect(broker.config()).await.expect("it answers");
    let topic = unique("logs");
    let logs = NewTopic::new(&topic).partitions(1).config("max.message.bytes", "1000");
    assert!(admin.create_topics(&[logs]).await.expect("an answer")[&topic].is_ok());
    let producer = Producer::new(admin.cluster().clone(), default().batch_bytes(1));
    let mut deliveries = Vec::new();
    for number in 0..30 {
        let value = "x".repeat(if number % 10 == 3 { 2000 } else { number + 1 });
        deliveries.push(producer.send(NewRecord::to(&topic).value(value.as_bytes())).await.expect("taken in"));
    }
    let mut written = Vec::new();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(_) => written.push(number + 1),
            Err(error) => assert_eq!((number % 10, error.code()), (3, Some(ErrorCode::MESSAGE_TOO_LARGE))),
        }
    }
    let found: Vec<usize> = broker.client().read_all(&topic, 0).iter().map(|(_, value)| value.len()).collect();
    assert_eq!((found.len(), &found), (27, &written), "once and in order");
    let error = producer.send(NewRecord::to(&topic).partition(1)).await.expect_err("there is none");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}
