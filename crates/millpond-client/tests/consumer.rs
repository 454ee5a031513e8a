//! The consumer against brokers that give records well, badly, late, or not at all.

#![expect(clippy::disallowed_methods, reason = "waits on the clock that the test has paused")]

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use fake::{Asked, METADATA, Network, Peer, metadata, versions};
use futures::{FutureExt, StreamExt};
use millpond_client::{
    Cluster, Codec, Consumer, ConsumerConfig, Error, ErrorCode, OffsetAt, OffsetReset, TopicPartition,
};
use millpond_record::{BatchBuilder, Offset, Timestamp};
use millpond_wire::fetch::{
    FetchRequest, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use millpond_wire::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use millpond_wire::metadata::{MetadataRequest, MetadataResponsePartition, MetadataResponseTopic};
use millpond_wire::{ApiKey, Records};

const APIS: &[(ApiKey, i16, i16)] = &[METADATA, (ApiKey::FETCH, 4, 17), (ApiKey::LIST_OFFSETS, 1, 10)];
const BROKERS: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];
const ID: [u8; 16] = [7; 16];
const SESSION: i32 = 77;

/// A fetch as a broker saw it: what it names, and what it forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    broker: i32,
    version: i16,
    session: (i32, i32),
    named: Vec<i32>,
    forgotten: Vec<i32>,
}

/// A partition: its leader, its first offset, and its batches with their first offsets.
type Log = (i32, i64, Vec<(i64, Bytes)>);

#[derive(Default)]
struct State {
    /// By partition.
    logs: Vec<Log>,
    /// What brokers remember of the session: offsets by partition.
    sessions: BTreeMap<i32, BTreeMap<i32, i64>>,
    seen: Vec<Seen>,
    /// The next fetches are answered so: an error code for all, or -1 for a lost connection.
    troubles: Vec<i16>,
    /// A refusal of a broker that does not lead names who does.
    hints: bool,
    metadata_asked: usize,
    /// This broker never answers who looks up offsets.
    mute: i32,
}

impl State {
    fn end(&self, partition: usize) -> i64 {
        let (_, start, batches) = &self.logs[partition];
        batches.last().map_or(*start, |(base, batch)| base + i64::from(count(batch)))
    }

    fn append(&mut self, partition: usize, values: &[&str]) {
        let base = self.end(partition);
        let mut builder = BatchBuilder::new().codec(Codec::Lz4).base_offset(Offset(base));
        for value in values {
            builder = builder.record(Timestamp(base), None, Some(value.as_bytes()));
        }
        self.logs[partition].2.push((base, builder.build()));
    }
}

fn count(batch: &Bytes) -> i32 {
    millpond_record::BatchView::parse(batch).expect("a batch").header().record_count
}

/// Two brokers with one topic, `logs`.
#[derive(Clone)]
struct Fake {
    network: Arc<Network>,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// One partition for each leader.
    fn start(apis: &'static [(ApiKey, i16, i16)], leaders: &[i32]) -> Fake {
        let logs = leaders.iter().map(|leader| (*leader, 0, Vec::new())).collect();
        let state = State { logs, hints: true, ..State::default() };
        let fake = Fake { network: Network::new(), state: Arc::new(Mutex::new(state)) };
        for (id, host, _) in BROKERS.iter().copied() {
            let here = fake.clone();
            fake.network.broker(&format!("{host}:1"), move |peer| here.clone().serve(peer, apis, id));
        }
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics here")
    }

    async fn serve(self, mut peer: Peer, apis: &'static [(ApiKey, i16, i16)], broker: i32) {
        while let Some(asked) = peer.request().await {
            match asked.header.api_key {
                ApiKey::API_VERSIONS => peer.answer(&asked, &versions(apis)).await,
                ApiKey::METADATA => {
                    let names = asked.body::<MetadataRequest>().topics.unwrap_or_default();
                    let mut told = metadata(1, BROKERS);
                    {
                        let mut state = self.state();
                        state.metadata_asked += usize::from(!names.is_empty());
                        told.topics = names.iter().map(|_| topic(&state)).collect();
                    }
                    peer.answer(&asked, &told).await;
                }
                ApiKey::LIST_OFFSETS if self.state().mute == broker => {}
                ApiKey::LIST_OFFSETS => {
                    let told = self.offsets(&asked);
                    peer.answer(&asked, &told).await;
                }
                _ => match self.fetched(&asked, broker).await {
                    Some(told) => peer.answer(&asked, &told).await,
                    None => return,
                },
            }
        }
    }

    fn offsets(&self, asked: &Asked) -> ListOffsetsResponse {
        let request: ListOffsetsRequest = asked.body();
        let state = self.state();
        let mut partitions = Vec::new();
        for wanted in &request.topics[0].partitions {
            let partition = usize::try_from(wanted.partition_index).expect("from 0 on");
            let (_, start, batches) = &state.logs[partition];
            let offset = match wanted.timestamp {
                -2 => *start,
                -1 => state.end(partition),
                time => batches.iter().map(|(base, _)| *base).find(|base| *base >= time).unwrap_or(-1),
            };
            let partition_index = wanted.partition_index;
            partitions.push(ListOffsetsPartitionResponse { partition_index, offset, ..Default::default() });
        }
        let topics = vec![ListOffsetsTopicResponse { name: "logs".into(), partitions }];
        ListOffsetsResponse { topics, ..Default::default() }
    }

    async fn fetched(&self, asked: &Asked, broker: i32) -> Option<FetchResponse> {
        let request: FetchRequest = asked.body();
        let version = asked.header.api_version;
        let told = self.read(&request, version, broker)?;
        if told.error_code != 0 || !told.responses.is_empty() {
            return Some(told);
        }
        tokio::time::sleep(Duration::from_millis(u64::try_from(request.max_wait_ms).expect("a time"))).await;
        // What it names is known by now.
        let again = FetchRequest { topics: Vec::new(), forgotten_topics_data: Vec::new(), ..request };
        Some(self.found(&again, version, broker))
    }

    /// Takes the request into the session.
    fn read(&self, request: &FetchRequest, version: i16, broker: i32) -> Option<FetchResponse> {
        let mut state = self.state();
        let mut named = Vec::new();
        let session = (request.session_id, request.session_epoch);
        if version < 7 || session.1 <= 0 {
            state.sessions.remove(&broker);
        }
        let known = state.sessions.entry(broker).or_default();
        for topic in &request.topics {
            assert!(if version < 13 { topic.topic == "logs" } else { topic.topic_id == ID });
            for partition in &topic.partitions {
                named.push(partition.partition);
                known.insert(partition.partition, partition.fetch_offset);
            }
        }
        let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| topic.partitions.clone());
        let forgotten: Vec<i32> = forgotten.collect();
        known.retain(|partition, _| !forgotten.contains(partition));
        state.seen.push(Seen { broker, version, session, named, forgotten });
        match state.troubles.pop() {
            Some(-1) => None,
            Some(error_code) => Some(FetchResponse { error_code, ..Default::default() }),
            None => {
                drop(state);
                Some(self.found(request, version, broker))
            }
        }
    }

    /// What there is for a session.
    fn found(&self, request: &FetchRequest, version: i16, broker: i32) -> FetchResponse {
        let state = self.state();
        let known = state.sessions.get(&broker).cloned().unwrap_or_default();
        let mut partitions = Vec::new();
        let mut node_endpoints = Vec::new();
        let mut room = usize::try_from(request.max_bytes).expect("a count");
        for (partition_index, offset) in known {
            let partition = usize::try_from(partition_index).expect("from 0 on");
            let (leader, start, batches) = &state.logs[partition];
            let end = state.end(partition);
            let mut told = PartitionData { partition_index, high_watermark: end, ..Default::default() };
            if *leader != broker {
                told.error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER.0;
                if state.hints {
                    told.current_leader = LeaderIdAndEpoch { leader_id: *leader, leader_epoch: 9 };
                    let host = if *leader == 1 { "a" } else { "b" };
                    node_endpoints = vec![NodeEndpoint { node_id: *leader, host: host.into(), port: 1, rack: None }];
                }
            } else if offset < *start || offset > end {
                told.error_code = ErrorCode::OFFSET_OUT_OF_RANGE.0;
            } else {
                let batch = batches.iter().find(|(base, batch)| base + i64::from(count(batch)) > offset);
                let Some((_, batch)) = batch.filter(|_| room > 0) else { continue };
                room = room.saturating_sub(batch.len());
                told.records = Some(Records::from(batch.clone()));
            }
            partitions.push(told);
        }
        let session_id = if version < 7 { 0 } else { SESSION };
        let (topic, topic_id) = if version < 13 { ("logs".into(), [0; 16]) } else { (Default::default(), ID) };
        let responses = match partitions.is_empty() {
            true => Vec::new(),
            false => vec![FetchableTopicResponse { topic, topic_id, partitions }],
        };
        FetchResponse { session_id, responses, node_endpoints, ..Default::default() }
    }

    async fn consumer(&self, config: ConsumerConfig) -> Consumer {
        let cluster = Cluster::connect_with(fake::config(), self.network.clone()).await.expect("a broker answers");
        let consumer = Consumer::new(cluster, config);
        let partitions = 0..i32::try_from(self.state().logs.len()).expect("few");
        consumer.assign(partitions.map(|partition| TopicPartition::new("logs", partition))).expect("good names");
        consumer
    }
}

fn topic(state: &State) -> MetadataResponseTopic {
    let partition = |(partition_index, log): (i32, &Log)| MetadataResponsePartition {
        partition_index,
        leader_id: log.0,
        leader_epoch: 5,
        ..Default::default()
    };
    MetadataResponseTopic {
        name: Some("logs".into()),
        topic_id: ID,
        partitions: (0..).zip(&state.logs).map(partition).collect(),
        ..Default::default()
    }
}

fn earliest() -> ConsumerConfig {
    ConsumerConfig::default().offset_reset(OffsetReset::Earliest)
}

fn of(partition: i32) -> TopicPartition {
    TopicPartition::new("logs", partition)
}

/// So many records: partition, offset and value of each.
async fn read(consumer: &mut Consumer, count: usize) -> Vec<(i32, i64, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let record = consumer.recv().await.expect("a record");
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
        found.push((record.partition, record.offset, value));
    }
    found
}

async fn nothing_comes(consumer: &mut Consumer) {
    let waited = tokio::time::timeout(Duration::from_secs(5), consumer.recv()).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn records_come_in_order_whatever_the_versions_are() {
    for (apis, version) in [
        (&[METADATA, (ApiKey::FETCH, 0, 4), (ApiKey::LIST_OFFSETS, 0, 1)][..], 4),
        (&[METADATA, (ApiKey::FETCH, 4, 12), (ApiKey::LIST_OFFSETS, 1, 7)], 12),
        (APIS, 17),
        // Its metadata has no ids, so the newest version cannot be spoken.
        (&[(ApiKey::METADATA, 0, 9), (ApiKey::FETCH, 4, 17), (ApiKey::LIST_OFFSETS, 1, 10)], 12),
    ] {
        let fake = Fake::start(apis, &[1, 2]);
        for partition in [0, 1] {
            fake.state().append(partition, &["a", "b", "c"]);
            fake.state().append(partition, &["d"]);
        }
        let mut consumer = fake.consumer(earliest()).await;
        let mut found = read(&mut consumer, 8).await;
        found.sort();
        let expected = [0, 1].iter().flat_map(|partition| {
            (0..).zip(["a", "b", "c", "d"]).map(|(offset, value)| (*partition, offset, value.to_owned()))
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!((consumer.position(&of(0)), consumer.lag(&of(1))), (Some(4), Some(0)));
        fake.state().append(1, &["e"]);
        assert_eq!(read(&mut consumer, 1).await, [(1, 4, "e".to_owned())]);
        assert!(fake.state().seen.iter().all(|seen| seen.version == version));
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_names_only_what_is_new_and_begins_anew_when_it_is_forgotten() {
    let fake = Fake::start(APIS, &[1; 50]);
    fake.state().append(7, &["a"]);
    let mut consumer = fake.consumer(earliest()).await;
    assert_eq!(read(&mut consumer, 1).await, [(7, 0, "a".to_owned())]);
    nothing_comes(&mut consumer).await;
    {
        let seen = &fake.state().seen;
        assert_eq!((seen[0].session, seen[0].named.len()), ((0, 0), 50));
        assert_eq!((seen[1].session, &seen[1].named), ((SESSION, 1), &vec![7]));
        assert!(seen[2..].iter().all(|seen| seen.named.is_empty() && seen.session.0 == SESSION), "{seen:?}");
    }
    consumer.pause(&of(7)).expect("assigned");
    fake.state().append(7, &["b"]);
    fake.state().append(8, &["c"]);
    assert_eq!(read(&mut consumer, 1).await, [(8, 0, "c".to_owned())]);
    nothing_comes(&mut consumer).await;
    assert!(fake.state().seen.iter().any(|seen| seen.forgotten == [7]));
    consumer.resume(&of(7)).expect("assigned");
    assert_eq!(read(&mut consumer, 1).await, [(7, 1, "b".to_owned())]);
    fake.state().troubles.push(ErrorCode::FETCH_SESSION_ID_NOT_FOUND.0);
    nothing_comes(&mut consumer).await;
    fake.state().append(9, &["d"]);
    assert_eq!(read(&mut consumer, 1).await, [(9, 0, "d".to_owned())]);
    assert_eq!(fake.state().seen.iter().filter(|seen| seen.session == (0, 0)).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_is_followed() {
    for hints in [true, false] {
        let fake = Fake::start(APIS, &[1]);
        fake.state().hints = hints;
        fake.state().append(0, &["a", "b"]);
        let mut consumer = fake.consumer(earliest()).await;
        assert_eq!(read(&mut consumer, 2).await.len(), 2);
        fake.state().logs[0].0 = 2;
        fake.state().append(0, &["c"]);
        assert_eq!(read(&mut consumer, 1).await, [(0, 2, "c".to_owned())]);
        assert_eq!(fake.state().metadata_asked, if hints { 2 } else { 3 }, "one is asked by the look-up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_loses_and_repeats_nothing() {
    let fake = Fake::start(APIS, &[1, 2]);
    let mut consumer = fake.consumer(earliest()).await;
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        fake.state().troubles.extend([-1, ErrorCode::UNKNOWN_SERVER_ERROR.0]);
        let partition = round % 2;
        fake.state().append(partition, &["a", "b"]);
        for found in read(&mut consumer, 2).await {
            assert!(seen.insert((found.0, found.1)), "{found:?} comes twice");
        }
    }
    let expected: BTreeSet<(i32, i64)> = (0..20).flat_map(|offset| [(0, offset), (1, offset)]).collect();
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn an_offset_out_of_range_is_reset_or_told() {
    let fake = Fake::start(APIS, &[1]);
    fake.state().append(0, &["a", "b"]);
    fake.state().append(0, &["c"]);
    fake.state().logs[0].1 = 2;
    let mut consumer = fake.consumer(earliest()).await;
    consumer.seek(&of(0), 0).expect("assigned");
    assert_eq!(read(&mut consumer, 1).await, [(0, 2, "c".to_owned())]);
    consumer.seek(&of(0), 1000).expect("assigned");
    assert_eq!(read(&mut consumer, 1).await, [(0, 2, "c".to_owned())]);

    let mut consumer = fake.consumer(ConsumerConfig::default()).await;
    consumer.seek(&of(0), 0).expect("assigned");
    nothing_comes(&mut consumer).await;
    assert_eq!(consumer.position(&of(0)), Some(3), "the end");
    fake.state().append(0, &["d"]);
    assert_eq!(read(&mut consumer, 1).await, [(0, 3, "d".to_owned())]);

    let mut consumer = fake.consumer(ConsumerConfig::default().offset_reset(OffsetReset::None)).await;
    let error = consumer.recv().await.expect_err("nothing says from where");
    assert!(matches!(error, Error::NoOffset { offset: None, .. }) && !error.is_retriable(), "{error}");
    consumer.seek(&of(0), 0).expect("assigned");
    let error = consumer.recv().await.expect_err("it is gone");
    assert!(matches!(error, Error::NoOffset { offset: Some(0), .. }), "{error}");
    nothing_comes(&mut consumer).await;
    consumer.seek(&of(0), 2).expect("assigned");
    assert_eq!(read(&mut consumer, 2).await, [(0, 2, "c".to_owned()), (0, 3, "d".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_and_what_is_damaged_is_told_once_and_the_others_go_on() {
    let fake = Fake::start(APIS, &[1, 1]);
    fake.state().append(0, &["a"]);
    fake.state().append(0, &["b"]);
    fake.state().append(0, &["c"]);
    {
        let mut state = fake.state();
        let batch = &mut state.logs[0].2[1].1;
        let mut bytes = batch.to_vec();
        *bytes.last_mut().expect("bytes") ^= 1;
        *batch = Bytes::from(bytes);
    }
    let mut consumer = fake.consumer(earliest()).await;
    assert_eq!(read(&mut consumer, 1).await, [(0, 0, "a".to_owned())]);
    let error = consumer.recv().await.expect_err("damage");
    assert!(matches!(&error, Error::Damaged { partition, offset: 1, .. } if *partition == of(0)), "{error}");
    // The answer to what was asked before the damage was found brings both.
    fake.state().append(0, &["d"]);
    fake.state().append(1, &["x"]);
    assert_eq!(read(&mut consumer, 1).await, [(1, 0, "x".to_owned())]);
    nothing_comes(&mut consumer).await;
    consumer.seek(&of(0), 2).expect("assigned");
    assert_eq!(read(&mut consumer, 2).await, [(0, 2, "c".to_owned()), (0, 3, "d".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn futures_that_are_dropped_take_nothing_away() {
    let fake = Fake::start(APIS, &[1]);
    let mut consumer = fake.consumer(earliest()).await;
    let mut found = Vec::new();
    for round in 0..200_i64 {
        if round % 3 == 0 {
            fake.state().append(0, &["a"]);
        }
        // Polled once, or for a while, and dropped.
        match round % 2 {
            0 => found.extend(consumer.recv().now_or_never().map(|record| record.expect("a record").offset)),
            _ => {
                let waited = tokio::time::timeout(Duration::from_millis(7), consumer.next()).await;
                let record = waited.ok().map(|record| record.expect("it goes on").expect("a record"));
                found.extend(record.map(|record| record.offset));
            }
        }
        assert_eq!(consumer.position(&of(0)).unwrap_or(0), i64::try_from(found.len()).expect("few"));
    }
    while found.len() < 67 {
        let some = consumer.recv_many(10).await.expect("records");
        found.extend(some.iter().map(|record| record.offset));
    }
    assert_eq!(found, (0..67).collect::<Vec<i64>>());
}

#[tokio::test(start_paused = true)]
async fn the_memory_bounds_what_is_fetched_ahead() {
    let fake = Fake::start(APIS, &[1, 2]);
    let value = "x".repeat(100);
    for _ in 0..100 {
        for partition in [0, 1] {
            fake.state().append(partition, &[&value]);
        }
    }
    let mut consumer = fake.consumer(earliest().buffer_memory(1000)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = fake.state().seen.len();
    assert!((2..30).contains(&asked), "{asked} fetches while nobody reads");
    assert_eq!(read(&mut consumer, 200).await.len(), 200);
    nothing_comes(&mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_time_is_sought_to_and_offsets_are_looked_up() {
    let fake = Fake::start(APIS, &[1, 2]);
    for value in ["a", "b", "c", "d"] {
        fake.state().append(1, &[value]);
    }
    let mut consumer = fake.consumer(ConsumerConfig::default()).await;
    consumer.seek_to(&of(1), OffsetAt::Time(2)).expect("assigned");
    assert_eq!(read(&mut consumer, 1).await, [(1, 2, "c".to_owned())]);
    consumer.seek_to(&of(1), OffsetAt::Time(1000)).expect("assigned");
    nothing_comes(&mut consumer).await;
    assert_eq!(consumer.position(&of(1)), Some(4));
    consumer.seek_to(&of(1), OffsetAt::Earliest).expect("assigned");
    assert_eq!(read(&mut consumer, 1).await, [(1, 0, "a".to_owned())]);
    let wanted = BTreeMap::from([(of(0), OffsetAt::Latest), (of(1), OffsetAt::Latest)]);
    let found = consumer.offsets(&wanted).await.expect("an answer");
    let found: Vec<_> = found.into_values().map(|offset| offset.expect("found")).collect();
    assert_eq!(found, [Some(0), Some(4)]);
    let other = TopicPartition::new("other", 0);
    for refused in [consumer.seek(&other, 0), consumer.pause(&other), consumer.seek(&of(1), -1)] {
        assert!(matches!(refused, Err(Error::Request { .. })));
    }
    consumer.assign([of(1)]).expect("good names");
    assert_eq!((consumer.assignment(), consumer.position(&of(1))), (vec![of(1)], Some(1)), "it goes on where it was");
    assert_eq!(read(&mut consumer, 1).await, [(1, 1, "b".to_owned())]);
    assert!(consumer.assign([TopicPartition::new("no name", 0)]).is_err());
    assert_eq!(consumer.assignment(), [of(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_waited_for() {
    let fake = Fake::start(APIS, &[2]);
    fake.state().append(0, &["a"]);
    let network = Arc::clone(&fake.network);
    let mut consumer = fake.consumer(earliest()).await;
    network.remove("b:1");
    nothing_comes(&mut consumer).await;
    let connects = network.connects("b:1");
    assert!((2..60).contains(&connects), "{connects} attempts in 5 s");
    let here = fake.clone();
    network.broker("b:1", move |peer| here.clone().serve(peer, APIS, 2));
    assert_eq!(read(&mut consumer, 1).await, [(0, 0, "a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_answer_holds_up_only_its_own_partitions() {
    let fake = Fake::start(APIS, &[1, 2]);
    fake.state().mute = 2;
    fake.state().append(0, &["a"]);
    fake.state().append(1, &["b"]);
    let mut consumer = fake.consumer(earliest()).await;
    let soon = tokio::time::timeout(Duration::from_secs(2), read(&mut consumer, 1));
    assert_eq!(soon.await.expect("in time"), [(0, 0, "a".to_owned())]);
    fake.state().mute = 0;
    assert_eq!(read(&mut consumer, 1).await, [(1, 0, "b".to_owned())]);
}
