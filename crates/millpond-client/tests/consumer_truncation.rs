//! A consumer of a partition whose new leader lacks records that the old one gave (KIP-320).

#![expect(clippy::disallowed_methods, reason = "waits on the clock that the test has paused")]

mod fake;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use fake::{METADATA, Network, Peer, metadata, versions};
use millpond_client::{Cluster, Consumer, ConsumerConfig, Error, ErrorCode, OffsetReset, TopicPartition};
use millpond_record::{BatchBuilder, Offset, Timestamp};
use millpond_wire::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
use millpond_wire::metadata::{MetadataResponsePartition, MetadataResponseTopic};
use millpond_wire::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use millpond_wire::{ApiKey, Records};

type Apis = &'static [(ApiKey, i16, i16)];

const APIS: Apis = &[METADATA, (ApiKey::FETCH, 4, 12), (ApiKey::OFFSET_FOR_LEADER_EPOCH, 0, 4)];
/// Of a broker that readers may not ask for epochs.
const OLD: Apis = &[METADATA, (ApiKey::FETCH, 4, 12), (ApiKey::OFFSET_FOR_LEADER_EPOCH, 0, 2)];

/// The only partition: its leader's epoch, and the epoch of the record at each offset.
#[derive(Default)]
struct State {
    epoch: i32,
    log: Vec<i32>,
    /// What was asked about epochs: that of the leader and that of the record.
    asked: Vec<(i32, i32)>,
}

impl State {
    fn append(&mut self, records: usize) {
        let epoch = self.epoch;
        self.log.extend(std::iter::repeat_n(epoch, records));
    }

    /// A leader with no more than so many records is elected.
    fn elect(&mut self, records: usize) {
        self.epoch += 1;
        self.log.truncate(records);
    }

    fn batch(&self, offset: usize) -> Option<Bytes> {
        let epoch = *self.log.get(offset)?;
        let base = Offset(i64::try_from(offset).expect("few"));
        let mut batch = BatchBuilder::new().base_offset(base).record(Timestamp(0), None, None).build().to_vec();
        batch[12..16].copy_from_slice(&epoch.to_be_bytes());
        Some(batch.into())
    }

    fn epoch_end(&mut self, request: &OffsetForLeaderEpochRequest) -> EpochEndOffset {
        assert_eq!(request.replica_id, -1, "a reader is no replica");
        let asked = &request.topics[0].partitions[0];
        self.asked.push((asked.current_leader_epoch, asked.leader_epoch));
        if asked.current_leader_epoch != self.epoch {
            return EpochEndOffset { error_code: ErrorCode::FENCED_LEADER_EPOCH.0, ..Default::default() };
        }
        let up_to = self.log.iter().filter(|epoch| **epoch <= asked.leader_epoch);
        let (end, newest) = (up_to.clone().count(), up_to.max());
        EpochEndOffset {
            leader_epoch: newest.copied().unwrap_or(-1),
            end_offset: newest.map_or(-1, |_| i64::try_from(end).expect("few")),
            ..Default::default()
        }
    }
}

#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics here")
    }

    /// A consumer that has read five records.
    async fn start(apis: Apis, reset: OffsetReset) -> (Fake, Consumer) {
        let fake = Fake(Arc::default());
        fake.state().append(5);
        let (network, here) = (Network::new(), fake.clone());
        network.broker("a:1", move |peer| here.clone().serve(peer, apis));
        let cluster = Cluster::connect_with(fake::config(), network).await.expect("a broker answers");
        let mut consumer = Consumer::new(cluster, ConsumerConfig::default().offset_reset(reset));
        consumer.assign([of()]).expect("a good name");
        consumer.seek(&of(), 0).expect("assigned");
        assert_eq!(next(&mut consumer, 5).await, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        (fake, consumer)
    }

    async fn serve(self, mut peer: Peer, apis: Apis) {
        while let Some(asked) = peer.request().await {
            match asked.header.api_key {
                ApiKey::API_VERSIONS => peer.answer(&asked, &versions(apis)).await,
                ApiKey::METADATA => {
                    let mut told = metadata(1, &[(1, "a", 1)]);
                    let leader_epoch = self.state().epoch;
                    let partition = MetadataResponsePartition { leader_id: 1, leader_epoch, ..Default::default() };
                    let (name, partitions) = (Some("logs".into()), vec![partition]);
                    told.topics = vec![MetadataResponseTopic { name, partitions, ..Default::default() }];
                    peer.answer(&asked, &told).await;
                }
                ApiKey::OFFSET_FOR_LEADER_EPOCH => {
                    let partitions = vec![self.state().epoch_end(&asked.body())];
                    let topics = vec![OffsetForLeaderTopicResult { topic: "logs".into(), partitions }];
                    peer.answer(&asked, &OffsetForLeaderEpochResponse { topics, ..Default::default() }).await;
                }
                _ => {
                    let request: FetchRequest = asked.body();
                    let wanted = &request.topics[0].partitions[0];
                    let offset = usize::try_from(wanted.fetch_offset).expect("from 0 on");
                    let (fenced, batch) = {
                        let state = self.state();
                        (wanted.current_leader_epoch != state.epoch, state.batch(offset))
                    };
                    if !fenced && batch.is_none() {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    let error_code = if fenced { ErrorCode::FENCED_LEADER_EPOCH.0 } else { 0 };
                    let records = batch.filter(|_| !fenced).map(Records::from);
                    let partition = PartitionData { error_code, records, ..Default::default() };
                    let topic = FetchableTopicResponse {
                        topic: "logs".into(),
                        partitions: vec![partition],
                        ..Default::default()
                    };
                    peer.answer(&asked, &FetchResponse { responses: vec![topic], ..Default::default() }).await;
                }
            }
        }
    }
}

fn of() -> TopicPartition {
    TopicPartition::new("logs", 0)
}

/// Offsets and epochs of the next records.
async fn next(consumer: &mut Consumer, count: usize) -> Vec<(i64, i32)> {
    let mut found = Vec::new();
    while found.len() < count {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.recv()).await.expect("in time");
        let record = record.expect("a record");
        found.push((record.offset, record.leader_epoch.expect("it is said")));
    }
    found
}

#[tokio::test(start_paused = true)]
async fn what_a_new_leader_has_is_asked_once_and_read_on() {
    let (fake, mut consumer) = Fake::start(APIS, OffsetReset::None).await;
    fake.state().elect(5);
    fake.state().append(2);
    assert_eq!(next(&mut consumer, 2).await, [(5, 1), (6, 1)]);
    assert_eq!(fake.state().asked, [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_new_leader_lacks_is_replaced_by_what_it_has() {
    let (fake, mut consumer) = Fake::start(APIS, OffsetReset::Latest).await;
    fake.state().elect(3);
    fake.state().append(4);
    assert_eq!(next(&mut consumer, 4).await, [(3, 1), (4, 1), (5, 1), (6, 1)]);
    // Once more, by a leader that has nothing of the epoch that was read last.
    fake.state().elect(2);
    fake.state().append(1);
    assert_eq!(next(&mut consumer, 1).await, [(2, 2)]);
    assert_eq!(consumer.position(&of()), Some(3));
}

#[tokio::test(start_paused = true)]
async fn without_a_reset_policy_the_caller_is_told_and_decides() {
    let (fake, mut consumer) = Fake::start(APIS, OffsetReset::None).await;
    fake.state().elect(3);
    fake.state().append(1);
    let told = tokio::time::timeout(Duration::from_secs(30), consumer.recv()).await.expect("in time");
    let error = told.expect_err("records are gone");
    assert!(matches!(error, Error::Truncated { offset: 5, end: Some(3), .. }) && !error.is_retriable(), "{error}");
    consumer.seek(&of(), 3).expect("assigned");
    assert_eq!(next(&mut consumer, 1).await, [(3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_readers_may_not_ask_is_believed() {
    let (fake, mut consumer) = Fake::start(OLD, OffsetReset::None).await;
    fake.state().elect(5);
    fake.state().append(1);
    assert_eq!(next(&mut consumer, 1).await, [(5, 1)]);
    assert_eq!(fake.state().asked, []);
}
