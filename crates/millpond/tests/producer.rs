//! The producer of `millpond-client` against a real broker, which is killed in the middle of it.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::process::{Command, Stdio};

use millpond_client::{
    Acks, Admin, ClientConfig, Codec, Delivery, Error, ErrorCode, NewRecord, NewTopic, Producer, ProducerConfig,
};
use support::{Broker, Folder};

fn client(broker: &Broker) -> ClientConfig {
    ClientConfig::new(&broker.kafka.to_string()).expect("its address")
}

async fn producer(broker: &Broker, config: ProducerConfig) -> Producer {
    Producer::connect(client(broker), config).await.expect("it answers")
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
    let folder = Folder::new("producer-codecs");
    let broker = Broker::start(folder.path(), &[]);
    let lines: Vec<String> = (0..3000).map(|number| format!("line {number} {}", "abc".repeat(number % 30))).collect();
    for codec in Codec::ALL {
        broker.client().create_topic(codec.name(), 1);
        let producer = producer(&broker, default().codec(codec).batch_bytes(4000)).await;
        let offsets = produce(&producer, codec.name(), &lines).await;
        assert_eq!(offsets, (0..3000).map(Some).collect::<Vec<_>>(), "{codec}");
        producer.close().await;
        let found = broker.client().read_all(codec.name(), 0);
        let expected: Vec<(i64, Vec<u8>)> = (0..).zip(lines.iter().map(|line| line.clone().into_bytes())).collect();
        assert!(found == expected, "{codec}: {} records", found.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_idempotence_are_there_too() {
    let folder = Folder::new("producer-acks");
    let broker = Broker::start(folder.path(), &[]);
    let lines: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    for (topic, acks) in [("none", Acks::None), ("leader", Acks::Leader)] {
        broker.client().create_topic(topic, 1);
        let producer = producer(&broker, default().acks(acks).batch_bytes(500)).await;
        let offsets = produce(&producer, topic, &lines).await;
        let expected = |number| (acks == Acks::Leader).then_some(number);
        assert_eq!(offsets, (0..500).map(expected).collect::<Vec<_>>());
        // A request behind those that nobody answers: they were taken when it is.
        drop(producer);
        let found = loop {
            let found = broker.client().read_all(topic, 0);
            if found.len() >= lines.len() {
                break found;
            }
        };
        assert!(found.iter().map(|(_, value)| value).eq(lines.iter().map(String::as_bytes)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_acknowledged_record_is_there_once_and_in_order_when_the_broker_is_killed() {
    let folder = Folder::new("producer-kill");
    let mut broker = Broker::start(folder.path(), &[]);
    let address = broker.kafka.to_string();
    broker.client().create_topic("logs", 3);
    let producer = producer(&broker, default().batch_bytes(2000).codec(Codec::Lz4)).await;
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
                let mut again = Command::new(env!("CARGO_BIN_EXE_millpond"));
                again.args(["broker", "--data-dir", folder.path().to_str().expect("a plain path")]);
                again.args(["--kafka", &address, "--http", "127.0.0.1:0"]).stdout(Stdio::piped());
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
async fn what_a_topic_does_not_take_fails_and_the_rest_goes_on() {
    let folder = Folder::new("producer-refused");
    let broker = Broker::start(folder.path(), &[]);
    let admin = Admin::connect(client(&broker)).await.expect("it answers");
    let logs = NewTopic::new("logs").partitions(1).config("max.message.bytes", "1000");
    assert!(admin.create_topics(&[logs]).await.expect("an answer")["logs"].is_ok());
    let producer = Producer::new(admin.cluster().clone(), default().batch_bytes(1));
    let mut deliveries = Vec::new();
    for number in 0..30 {
        let value = "x".repeat(if number % 10 == 3 { 2000 } else { number + 1 });
        deliveries.push(producer.send(NewRecord::to("logs").value(value.as_bytes())).await.expect("taken in"));
    }
    let mut written = Vec::new();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(_) => written.push(number + 1),
            Err(error) => assert_eq!((number % 10, error.code()), (3, Some(ErrorCode::MESSAGE_TOO_LARGE))),
        }
    }
    let found: Vec<usize> = broker.client().read_all("logs", 0).iter().map(|(_, value)| value.len()).collect();
    assert_eq!((found.len(), &found), (27, &written), "once and in order");
    let error = producer.send(NewRecord::to("logs").partition(1)).await.expect_err("there is none");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}
