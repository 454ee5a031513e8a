//! The producer against brokers that take records well, badly, late, or not at all.

#![expect(clippy::disallowed_methods, reason = "reads the clock that the test has paused")]

mod fake;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Asked, METADATA, Network, Reply, config, metadata, reply, serve};
use millpond_client::{
    Acks, Cluster, Codec, Error, ErrorCode, NewRecord, Producer, ProducerConfig, TopicId, TrySendError,
};
use millpond_record::{BatchView, DecompressLimit, records};
use millpond_wire::ApiKey;
use millpond_wire::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use millpond_wire::metadata::{MetadataRequest, MetadataResponsePartition, MetadataResponseTopic};
use millpond_wire::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceRequest,
    ProduceResponse, TopicProduceResponse,
};
use tokio::time::Instant;

const APIS: &[(ApiKey, i16, i16)] = &[METADATA, (ApiKey::PRODUCE, 0, 13), (ApiKey::INIT_PRODUCER_ID, 0, 5)];
const BROKERS: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];
const ID: [u8; 16] = [7; 16];

/// A batch as a broker saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    broker: i32,
    version: i16,
    acks: i16,
    partition: i32,
    /// Producer id, epoch and sequence.
    stamp: (i64, i16, i32),
    values: Vec<String>,
}

/// What a broker answers for a partition: an error code and the rest, the base offset above all.
type Answer = Arc<dyn Fn(&Seen) -> Option<PartitionProduceResponse> + Send + Sync>;

/// Two brokers with one topic, `logs`.
struct Fake {
    network: Arc<Network>,
    leader: Arc<AtomicI32>,
    seen: Arc<Mutex<Vec<Seen>>>,
    metadata_asked: Arc<AtomicUsize>,
}

impl Fake {
    /// `answer` gives the answer for a batch, or none at all.
    fn start(
        apis: &'static [(ApiKey, i16, i16)],
        partitions: i32,
        answer: impl Fn(&Seen) -> Option<PartitionProduceResponse> + Send + Sync + 'static,
    ) -> Fake {
        let fake = Fake {
            network: Network::new(),
            leader: Arc::new(AtomicI32::new(1)),
            seen: Arc::default(),
            metadata_asked: Arc::default(),
        };
        let answer: Answer = Arc::new(answer);
        let ids = Arc::new(AtomicI64::new(42));
        for (id, host, _) in BROKERS.iter().copied() {
            let (leader, seen) = (Arc::clone(&fake.leader), Arc::clone(&fake.seen));
            let (asked_for, answer) = (Arc::clone(&fake.metadata_asked), Arc::clone(&answer));
            let ids = Arc::clone(&ids);
            fake.network.broker(&format!("{host}:1"), move |peer| {
                let (leader, seen) = (Arc::clone(&leader), Arc::clone(&seen));
                let (asked_for, answer) = (Arc::clone(&asked_for), Arc::clone(&answer));
                let ids = Arc::clone(&ids);
                async move {
                    serve(peer, apis, |asked| match asked.header.api_key {
                        ApiKey::METADATA => {
                            let names = asked.body::<MetadataRequest>().topics.unwrap_or_default();
                            asked_for.fetch_add(usize::from(!names.is_empty()), Ordering::Relaxed);
                            let mut told = metadata(1, BROKERS);
                            told.topics = names.iter().map(|_| topic(partitions, &leader)).collect();
                            reply(asked, &told)
                        }
                        ApiKey::INIT_PRODUCER_ID => {
                            let request: InitProducerIdRequest = asked.body();
                            assert_eq!((request.transactional_id, request.producer_id), (None, -1));
                            let producer_id = ids.fetch_add(1, Ordering::Relaxed);
                            reply(asked, &InitProducerIdResponse { producer_id, ..Default::default() })
                        }
                        _ => produced(asked, id, &seen, &answer),
                    })
                    .await;
                }
            });
        }
        fake
    }

    async fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::new(self.cluster().await, config)
    }

    async fn cluster(&self) -> Cluster {
        Cluster::connect_with(config(), self.network.clone()).await.expect("a broker answers")
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics here").clone()
    }
}

fn topic(partitions: i32, leader: &AtomicI32) -> MetadataResponseTopic {
    let partition = |partition_index| MetadataResponsePartition {
        partition_index,
        leader_id: leader.load(Ordering::Relaxed),
        leader_epoch: leader.load(Ordering::Relaxed),
        ..Default::default()
    };
    MetadataResponseTopic {
        error_code: if partitions == 0 { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0 } else { 0 },
        name: Some("logs".into()),
        topic_id: ID,
        partitions: (0..partitions).map(partition).collect(),
        ..Default::default()
    }
}

fn produced(asked: &Asked, broker: i32, seen: &Mutex<Vec<Seen>>, answer: &Answer) -> Reply {
    let request: ProduceRequest = asked.body();
    let (version, acks) = (asked.header.api_version, request.acks);
    let mut responses = Vec::new();
    let mut response = ProduceResponse::default();
    for topic in &request.topic_data {
        let named = if version < 13 { topic.name == "logs" } else { topic.topic_id == ID };
        assert!(named, "version {version} names the topic as it must");
        let mut partition_responses = Vec::new();
        for data in &topic.partition_data {
            let bytes = data.records.as_ref().expect("records").to_bytes();
            let header = *BatchView::parse(&bytes).expect("one whole batch").header();
            let records = records(&bytes, DecompressLimit(1 << 20)).expect("records");
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            let values = records.into_iter().map(|record| text(record.expect("a record").value)).collect();
            let stamp = (header.producer_id.0, header.producer_epoch.0, header.base_sequence);
            let batch = Seen { broker, version, acks, partition: data.index, stamp, values };
            seen.lock().expect("no test panics here").push(batch.clone());
            let Some(told) = answer(&batch) else { return Reply::Close };
            if told.current_leader.leader_id == 2 {
                response.node_endpoints =
                    vec![NodeEndpoint { node_id: 2, host: "b".into(), port: 1, ..Default::default() }];
            }
            partition_responses.push(PartitionProduceResponse { index: data.index, ..told });
        }
        let (name, topic_id) = if version < 13 { (topic.name.clone(), [0; 16]) } else { (Default::default(), ID) };
        responses.push(TopicProduceResponse { name, topic_id, partition_responses });
    }
    response.responses = responses;
    if acks == 0 { Reply::Nothing } else { reply(asked, &response) }
}

fn at(base_offset: i64) -> Option<PartitionProduceResponse> {
    Some(PartitionProduceResponse { base_offset, ..Default::default() })
}

fn refused(code: ErrorCode) -> Option<PartitionProduceResponse> {
    Some(PartitionProduceResponse { error_code: code.0, base_offset: -1, ..Default::default() })
}

fn logs(value: &str) -> NewRecord<'_> {
    NewRecord::to("logs").value(value.as_bytes())
}

fn default() -> ProducerConfig {
    ProducerConfig::default()
}

#[tokio::test(start_paused = true)]
async fn records_are_collected_into_a_batch_and_each_is_told_its_offset() {
    let fake = Fake::start(APIS, 1, |_| at(100));
    for codec in Codec::ALL {
        let producer = fake.producer(default().codec(codec)).await;
        let mut deliveries = Vec::new();
        for number in 0..50 {
            deliveries.push(producer.send(logs(&format!("line {number}")).timestamp(5)).await.expect("taken in"));
        }
        for (number, delivery) in (0..).zip(deliveries) {
            let written = delivery.await.expect("written");
            assert_eq!((written.partition, written.offset, written.timestamp), (0, Some(100 + number), 5));
        }
        producer.close().await;
    }
    let seen = fake.seen();
    assert_eq!(seen.len(), 5, "one batch for each producer");
    assert!(seen.iter().all(|batch| batch.values.len() == 50 && batch.values[49] == "line 49" && batch.acks == -1));
    assert_eq!(seen[0].stamp, (42, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn topics_are_named_in_older_versions_and_have_their_ids_in_newer_ones() {
    for (apis, version) in [
        (&[METADATA, (ApiKey::PRODUCE, 0, 7), (ApiKey::INIT_PRODUCER_ID, 0, 1)][..], 7),
        (&[METADATA, (ApiKey::PRODUCE, 0, 12), (ApiKey::INIT_PRODUCER_ID, 0, 5)], 12),
        (APIS, 13),
        // Its metadata has no ids, so the newest version cannot be spoken.
        (&[(ApiKey::METADATA, 0, 9), (ApiKey::PRODUCE, 0, 13), (ApiKey::INIT_PRODUCER_ID, 0, 5)], 12),
    ] {
        let fake = Fake::start(apis, 1, |_| at(0));
        let producer = fake.producer(default()).await;
        let delivery = producer.send(logs("x")).await.expect("taken in");
        assert_eq!(delivery.await.expect("written").offset, Some(0));
        assert_eq!(fake.seen()[0].version, version);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_a_refusal_names_is_gone_to_at_once() {
    let fake = Fake::start(APIS, 1, |batch| match batch.broker {
        1 => {
            let current_leader = LeaderIdAndEpoch { leader_id: 2, leader_epoch: 9 };
            let error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER.0;
            Some(PartitionProduceResponse { error_code, current_leader, ..Default::default() })
        }
        _ => at(7),
    });
    let producer = fake.producer(default().linger(Duration::ZERO)).await;
    let started = Instant::now();
    let written = producer.send(logs("x")).await.expect("taken in").await.expect("written");
    assert_eq!(written.offset, Some(7));
    assert_eq!(fake.metadata_asked.load(Ordering::Relaxed), 1, "only to begin with");
    assert!(started.elapsed() < Duration::from_millis(40), "no pause: {:?}", started.elapsed());
    let seen = fake.seen();
    assert_eq!((seen[0].broker, seen[1].broker, seen[0].stamp), (1, 2, seen[1].stamp));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_no_leader_has_the_topic_asked_for() {
    let leader = Arc::new(Mutex::new(None::<Arc<AtomicI32>>));
    let known = Arc::clone(&leader);
    let fake = Fake::start(APIS, 1, move |batch| {
        if batch.broker == 1 {
            known.lock().expect("no test panics here").as_ref().expect("set").store(2, Ordering::Relaxed);
            return refused(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        at(7)
    });
    *leader.lock().expect("no test panics here") = Some(Arc::clone(&fake.leader));
    let producer = fake.producer(default()).await;
    let written = producer.send(logs("x")).await.expect("taken in").await.expect("written");
    assert_eq!(written.offset, Some(7));
    assert_eq!(fake.metadata_asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_connection_has_taken_is_sent_again_as_it_was() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(APIS, 1, move |_| if tries.fetch_add(1, Ordering::Relaxed) < 2 { None } else { at(3) });
    let producer = fake.producer(default()).await;
    let written = producer.send(logs("x")).await.expect("taken in").await.expect("written");
    assert_eq!(written.offset, Some(3));
    let seen = fake.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|batch| *batch == seen[0]), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_a_refused_batch_leaves_is_closed_with_the_next_epoch() {
    let fake = Fake::start(APIS, 1, |batch| match (batch.values[0].as_str(), batch.stamp.1) {
        ("bad", _) => refused(ErrorCode::MESSAGE_TOO_LARGE),
        ("after", 0) => refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER),
        _ => at(5),
    });
    let producer = fake.producer(default().linger(Duration::ZERO).batch_bytes(1)).await;
    assert!(producer.send(logs("good")).await.expect("taken in").await.is_ok());
    let bad = producer.send(logs("bad")).await.expect("taken in");
    let after = producer.send(logs("after")).await.expect("taken in");
    let error = bad.await.expect_err("too large");
    assert_eq!(error.to_string(), "producing to partition 0 of logs: MESSAGE_TOO_LARGE");
    assert!(after.await.is_ok());
    let last = fake.seen().pop().expect("something");
    assert_eq!((last.values[0].as_str(), last.stamp), ("after", (42, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_the_broker_has_forgotten_begins_a_new_series() {
    for (code, expected) in [
        (ErrorCode::UNKNOWN_PRODUCER_ID, (42, 1, 0)),
        (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, (42, 1, 0)),
        (ErrorCode::INVALID_PRODUCER_EPOCH, (43, 0, 0)),
    ] {
        let fake = Fake::start(APIS, 1, move |batch| if batch.stamp.2 == 0 { at(5) } else { refused(code) });
        let producer = fake.producer(default()).await;
        for value in ["first", "second"] {
            assert!(producer.send(logs(value)).await.expect("taken in").await.is_ok(), "{code}");
        }
        let last = fake.seen().pop().expect("something");
        assert_eq!((last.values[0].as_str(), last.stamp), ("second", expected), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_a_success() {
    let fake = Fake::start(APIS, 1, |_| refused(ErrorCode::DUPLICATE_SEQUENCE_NUMBER));
    let producer = fake.producer(default()).await;
    let written = producer.send(logs("x")).await.expect("taken in").await.expect("it is there");
    assert_eq!(written.offset, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_holds_a_record_no_longer_than_its_time() {
    let fake = Fake::start(APIS, 1, |_| None);
    let producer = fake.producer(default().delivery_timeout(Duration::from_secs(10))).await;
    let delivery = producer.send(logs("x")).await.expect("taken in");
    let started = Instant::now();
    let error = delivery.await.expect_err("nobody answers");
    assert!(matches!(error, Error::GaveUp { .. }) && error.is_retriable(), "{error}");
    assert!(started.elapsed() <= Duration::from_millis(10_050), "{:?}", started.elapsed());
    assert!((5..60).contains(&fake.seen().len()), "{} tries in 10 s", fake.seen().len());
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_memory_bounds_what_is_taken_in() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default().buffer_memory(1000).linger(Duration::from_secs(3600))).await;
    let value = "x".repeat(200);
    drop(producer.send(logs(&value)).await.expect("the topic is known now"));
    let mut taken = 1;
    let error = loop {
        match producer.try_send(logs(&value)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TrySendError::Full), "{error}");
    assert_eq!(taken, 4);
    let started = Instant::now();
    for _ in 0..20 {
        drop(producer.send(logs(&value)).await.expect("it waits for memory"));
    }
    assert!(started.elapsed() < Duration::from_secs(1), "whoever waits has the batch sent: {:?}", started.elapsed());
    producer.close().await;
    let values: usize = fake.seen().iter().map(|batch| batch.values.len()).sum();
    assert_eq!(values, 24);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_memory_ends() {
    let fake = Fake::start(APIS, 1, |_| None);
    let producer = fake.producer(default().buffer_memory(1000).max_block(Duration::from_secs(3))).await;
    let value = "x".repeat(800);
    drop(producer.send(logs(&value)).await.expect("it fits"));
    let started = Instant::now();
    let error = producer.send(logs(&value)).await.expect_err("the first is still there");
    assert!(error.to_string().contains("waiting for the producer's memory"), "{error}");
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_long_is_refused_before_it_is_queued() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default().max_request_bytes(1000)).await;
    let error = producer.send(logs(&"x".repeat(1000))).await.expect_err("too long");
    assert!(matches!(error, Error::TooLarge { limit: 939, .. }), "{error}");
    producer.close().await;
    assert!(fake.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_missing_is_waited_for_and_then_said_to_be() {
    let fake = Fake::start(APIS, 0, |_| at(0));
    let producer = fake.producer(default().max_block(Duration::from_secs(2))).await;
    assert!(matches!(producer.try_send(logs("x")), Err(TrySendError::NotKnown)));
    let error = producer.send(logs("x")).await.expect_err("there is none");
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{error}");
    assert!((4..40).contains(&fake.metadata_asked.load(Ordering::Relaxed)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_topic_keeps_no_memory_from_others() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default().buffer_memory(1000)).await;
    let value = "x".repeat(800);
    let missing = producer.send(NewRecord::to("missing").value(value.as_bytes()));
    let others = async {
        for _ in 0..10 {
            drop(producer.send(logs(&value)).await.expect("there is memory").await);
        }
    };
    tokio::select! {
        biased;
        _ = missing => panic!("there is no such topic"),
        () = others => {}
    }
    assert_eq!(fake.seen().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_topic_can_have_is_refused_at_once() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default()).await;
    let long = "x".repeat(40_000);
    for name in ["", "a b", &long] {
        let error = producer.send(NewRecord::to(name).value(b"x")).await.expect_err("no name");
        assert_eq!(error.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION), "{error}");
        assert!(matches!(producer.try_send(NewRecord::to(name)), Err(TrySendError::Failed(_))));
    }
    assert!(producer.send(logs("x")).await.expect("taken in").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_and_sizes_do_no_harm() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let ages = Duration::MAX;
    let config = default().linger(ages).delivery_timeout(ages).max_block(ages).metadata_max_age(ages);
    let producer = fake.producer(config.batch_bytes(usize::MAX).buffer_memory(usize::MAX)).await;
    let delivery = producer.send(logs("x")).await.expect("taken in");
    producer.flush().await;
    assert!(delivery.await.is_ok());
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_send_when_the_producer_is_closed_is_told_so() {
    let fake = Fake::start(APIS, 1, |_| None);
    let year = Duration::from_secs(365 * 24 * 3600);
    let config = default().buffer_memory(1000).max_block(year).delivery_timeout(Duration::from_secs(10));
    let producer = fake.producer(config).await;
    let value = "x".repeat(800);
    let first = producer.send(logs(&value)).await.expect("it fits");
    let started = Instant::now();
    let (topic, memory, ()) = tokio::join!(
        biased;
        producer.send(NewRecord::to("missing").value(b"x")),
        producer.send(logs(&value)),
        producer.clone().close(),
    );
    assert!(matches!(topic, Err(Error::Closed)), "{topic:?}");
    assert!(matches!(memory, Err(Error::Closed)), "{memory:?}");
    assert!(matches!(first.await, Err(Error::GaveUp { .. })));
    assert!(started.elapsed() < Duration::from_secs(11), "{:?}", started.elapsed());
}

#[test]
fn nobody_waits_for_a_producer_whose_runtime_is_gone() {
    let start = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let first = start();
    let (producer, delivery) = first.block_on(async {
        let fake = Fake::start(APIS, 1, |_| at(0));
        let producer = fake.producer(default().linger(Duration::from_secs(60))).await;
        let delivery = producer.send(logs("x")).await.expect("taken in");
        (producer, delivery)
    });
    drop(first);
    start().block_on(async {
        assert!(matches!(delivery.await, Err(Error::Closed)));
        assert!(matches!(producer.send(logs("y")).await, Err(Error::Closed)));
        producer.flush().await;
        producer.close().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_flushed_has_its_outcome() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default().linger(Duration::ZERO)).await;
    for round in 0..3000 {
        let delivery = producer.send(logs("x")).await.expect("taken in");
        for _ in 0..round % 50 {
            tokio::task::yield_now().await;
        }
        producer.flush().await;
        assert!(delivery.now().is_some(), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_missing_is_said_at_once() {
    let fake = Fake::start(APIS, 3, |_| at(0));
    let producer = fake.producer(default()).await;
    for partition in [3, -1] {
        let error = producer.send(logs("x").partition(partition)).await.expect_err("there is none");
        assert!(error.to_string().contains("the topic has 3 partitions"), "{error}");
    }
    assert_eq!(producer.send(logs("x").partition(2)).await.expect("taken in").partition(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_choose_their_partition_as_in_kafka_and_the_rest_is_spread_by_batches() {
    let fake = Fake::start(APIS, 3, |_| at(0));
    let producer = fake.producer(default().batch_bytes(1000)).await;
    for key in ["21", "a-little-bit-long-string", "abc"] {
        let delivery = producer.send(logs("x").key(key.as_bytes())).await.expect("taken in");
        let expected = millpond_record::partition_for_key(key.as_bytes(), 3);
        assert_eq!(u32::try_from(delivery.partition()), Ok(expected));
    }
    let mut runs: Vec<(i32, usize)> = Vec::new();
    for _ in 0..300 {
        let partition = producer.send(logs(&"x".repeat(100))).await.expect("taken in").partition();
        match runs.last_mut() {
            Some((last, count)) if *last == partition => *count += 1,
            _ => runs.push((partition, 1)),
        }
    }
    assert!((10..60).contains(&runs.len()), "a batch at a time: {runs:?}");
    let mut counts = BTreeMap::<i32, usize>::new();
    runs.iter().for_each(|(partition, count)| *counts.entry(*partition).or_default() += count);
    assert!(counts.len() == 3 && counts.values().all(|count| *count >= 30), "{counts:?}");
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_nobody_waits_for_an_answer() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default().acks(Acks::None).linger(Duration::ZERO).batch_bytes(1)).await;
    for _ in 0..20 {
        let written = producer.send(logs("x")).await.expect("taken in").await.expect("it has left");
        assert_eq!(written.offset, None);
    }
    producer.close().await;
    // What has left is read in the end.
    while fake.seen().len() < 20 {
        tokio::task::yield_now().await;
    }
    let seen = fake.seen();
    assert!(seen.iter().all(|batch| batch.acks == 0 && batch.stamp == (-1, -1, -1)));
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_a_leader_that_hangs_up_is_asked_after_before_more_is_sent() {
    let leader = Arc::new(Mutex::new(None::<Arc<AtomicI32>>));
    let known = Arc::clone(&leader);
    let fake = Fake::start(APIS, 1, move |batch| {
        if batch.broker == 1 && batch.values[0] == "3" {
            // It leads no more, and has no other way to say so.
            known.lock().expect("no test panics here").as_ref().expect("set").store(2, Ordering::Relaxed);
            return None;
        }
        at(0)
    });
    *leader.lock().expect("no test panics here") = Some(Arc::clone(&fake.leader));
    let producer = fake.producer(default().acks(Acks::None).linger(Duration::ZERO)).await;
    for number in 0..20 {
        drop(producer.send(logs(&number.to_string())).await.expect("taken in").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    producer.close().await;
    while fake.seen().last().is_none_or(|batch| batch.values[0] != "19") {
        tokio::task::yield_now().await;
    }
    let brokers: Vec<i32> = fake.seen().iter().map(|batch| batch.broker).collect();
    assert_eq!(brokers, [[1].repeat(4), [2].repeat(16)].concat(), "only what it had is lost");
}

#[tokio::test(start_paused = true)]
async fn without_idempotence_a_partition_has_one_batch_on_the_way() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(APIS, 1, move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => refused(ErrorCode::NOT_ENOUGH_REPLICAS),
        _ => at(0),
    });
    let producer = fake.producer(default().acks(Acks::Leader).linger(Duration::ZERO).batch_bytes(1)).await;
    for number in 0..4 {
        drop(producer.send(logs(&number.to_string())).await.expect("taken in"));
    }
    producer.flush().await;
    let values: Vec<String> = fake.seen().into_iter().map(|batch| batch.values.concat()).collect();
    assert_eq!(values, ["0", "0", "1", "2", "3"], "in order, whatever is sent again");
}

#[tokio::test(start_paused = true)]
async fn the_record_that_a_broker_names_hears_why() {
    let fake = Fake::start(APIS, 1, |_| {
        let blamed = BatchIndexAndErrorMessage { batch_index: 1, batch_index_error_message: Some("no key".into()) };
        let mut told = refused(ErrorCode::INVALID_RECORD)?;
        (told.record_errors, told.error_message) = (vec![blamed], Some("bad records".into()));
        Some(told)
    });
    let producer = fake.producer(default()).await;
    let first = producer.send(logs("x")).await.expect("taken in");
    let second = producer.send(logs("y")).await.expect("taken in");
    let said = (first.await.expect_err("refused").to_string(), second.await.expect_err("refused").to_string());
    let of = |why: &str| format!("producing to partition 0 of logs: {why} (INVALID_RECORD)");
    assert_eq!(said, (of("bad records"), of("no key")));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_sent_when_the_producer_is_closed_and_when_it_is_dropped() {
    for close in [true, false] {
        let fake = Fake::start(APIS, 1, |_| at(0));
        let producer = fake.producer(default().linger(Duration::from_millis(300))).await;
        let clone = producer.clone();
        let delivery = producer.send(logs("x")).await.expect("taken in");
        if close {
            producer.close().await;
            assert!(matches!(delivery.now(), Some(Ok(_))), "closing waits");
            assert!(matches!(clone.send(logs("y")).await, Err(Error::Closed)));
        } else {
            drop((producer, clone));
            assert!(delivery.await.is_ok());
        }
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_connected_to_again_and_not_hammered() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    // The leader is a broker that nobody knows.
    fake.leader.store(9, Ordering::Relaxed);
    let producer = fake.producer(default().delivery_timeout(Duration::from_secs(20))).await;
    let delivery = producer.send(logs("x")).await.expect("taken in");
    let error = delivery.await.expect_err("nobody leads");
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    let asked = fake.metadata_asked.load(Ordering::Relaxed);
    assert!((10..80).contains(&asked), "{asked} questions in 20 s");
}

#[tokio::test]
async fn a_broker_that_gives_no_producer_ids_is_said_to_be_too_old() {
    let fake = Fake::start(&[METADATA, (ApiKey::PRODUCE, 0, 2)], 1, |_| at(0));
    let producer = fake.producer(default()).await;
    let error = producer.send(logs("x")).await.expect("taken in").await.expect_err("no ids");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let producer = fake.producer(default().idempotent(false)).await;
    let error = producer.send(logs("x")).await.expect("taken in").await.expect_err("no batches");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn every_call_can_run_in_a_task_of_its_own() {
    fn in_a_task<F: Future + Send + 'static>(_: F) {}
    let fake = Fake::start(APIS, 1, |_| at(0));
    let producer = fake.producer(default()).await;
    assert_eq!(fake.cluster().await.controller(), Some(1));
    assert_eq!(TopicId(ID).0, ID);
    in_a_task(async move {
        let delivery = producer.send(logs("x")).await;
        producer.flush().await;
        (delivery.expect("taken in").await, producer.close().await)
    });
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_not_trusted_is_told_at_once() {
    let fake = Fake::start(APIS, 1, |_| at(0));
    fake.leader.store(2, Ordering::Relaxed);
    fake.network.distrust("b:1");
    let producer = fake.producer(default()).await;
    let started = Instant::now();
    let error = producer.send(logs("x")).await.expect("taken in").await.expect_err("nobody takes it");
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
