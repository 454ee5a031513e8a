//! Produce: record batches in, base offsets out.
//!
//! A request passes memory permits, then every batch is validated and proposed to its partition in the order of the
//! connection, and then the receipts are awaited without holding up later requests. Only where records must be
//! decompressed (compacted topics, `millpond.validation=deep`, another `compression.type`) is the work moved off the
//! connection's thread; the connection's later requests wait for it, so that their order stays.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use millpond_cluster::{CompressionType, TimestampType, TopicSettings, is_internal_topic};
use millpond_raft::{Acks, Partition, Proposal, Receipt, Written};
use millpond_record::{
    BatchHeader, Codec, DecompressLimit, InvalidBatch, PartitionIndex, ProduceRules, Timestamp, TimestampRules,
    TopicId, recompress, validate_produce,
};
use millpond_wire::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData, PartitionProduceResponse,
    ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use millpond_wire::{ApiKey, ErrorCode, Str};
use tokio::time::Instant;

use crate::dispatch::{Api, Call, Reply, Step};
use crate::errors::{self, Fault};
use crate::leadership::Hints;
use crate::memory::Share;
use crate::metadata::ServedTopic;
use crate::throttle::{Traffic, throttle_time_ms};

/// Versions 0 to 2 are advertised because librdkafka before 2.11.1 compresses only if they are; nobody sends them.
pub(crate) const API: Api = Api { key: ApiKey::PRODUCE, advertised: (0, 13), served_from: 3, handle, pipelined: true };

/// From here on topics are named by id (KIP-516).
const FIRST_BY_ID: i16 = 13;
/// From here on answers name the leader to a client that asked another broker (KIP-951).
const FIRST_WITH_LEADERS: i16 = 10;
/// From here on batches may be compressed with zstd (KIP-110).
const FIRST_WITH_ZSTD: i16 = 7;
/// Work on a request that its share does not count beside the frame; a few hundred partitions.
const FREE_WORK_BYTES: usize = 128 << 10;
/// How long, from its request on, a client whose partition is led here no more waits to be told who leads it now. A
/// hand-over takes a few milliseconds; a client that is told of nobody asks again after `retry.backoff.ms`, 100 ms in
/// Kafka's clients. Requests that came together do not wait one after the other.
const LEADER_PATIENCE: Duration = Duration::from_millis(100);
/// The most bytes that a compressed batch may hold where it is opened.
const DECOMPRESS_LIMIT: DecompressLimit = DecompressLimit(128 << 20);

fn handle(mut call: Call) -> Step {
    let bytes = call.frame_bytes;
    match call.share.take().or_else(|| call.shared.produce_memory.try_take(bytes)) {
        Some(share) => begin(call, share, bytes),
        None => begin_with(call, bytes),
    }
}

/// Begins when the memory is there.
fn begin_with(call: Call, bytes: usize) -> Step {
    Step::Stage(Box::pin(async move {
        let share = call.shared.produce_memory.take(bytes).await;
        begin(call, share, bytes)
    }))
}

/// Validates and proposes what needs no decompression; all of it, in most requests. `bytes` is what the share is for.
fn begin(call: Call, share: Share, bytes: usize) -> Step {
    let (request, work_bytes) = match call.decode_uncounted::<ProduceRequest>() {
        Ok(decoded) => decoded,
        Err(reason) => return Step::Close(reason),
    };
    let wanted = call.frame_bytes + work_bytes.saturating_sub(FREE_WORK_BYTES);
    if wanted > bytes {
        // Very many partitions with next to no records: more memory than the frame says. It is decoded again when there
        // is as much, so that what waits is the frame alone.
        drop((request, share));
        return begin_with(call, wanted);
    }
    let throttle = call.count_traffic(Traffic::Produce, call.frame_bytes);
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => return Step::Reply(refuse_all(&call, &request, &ErrorCode::INVALID_REQUIRED_ACKS.into())),
    };
    if request.transactional_id.is_some() {
        return Step::Reply(refuse_all(&call, &request, &errors::TRANSACTIONS_NOT_SERVED.into()));
    }
    if let Err(full) = call.shared.disk.take(call.frame_bytes) {
        return Step::Reply(refuse_all(&call, &request, &errors::disk_full(&full)));
    }
    let (timeout_ms, share) = (request.timeout_ms, Arc::new(share));
    let began = call.shared.runtime.now();
    let mut work = Work { began, acks, timeout_ms, throttle, share, topics: Vec::new(), call };
    let twice = named_twice(&work.call, &request);
    let mut opening = false;
    for topic in request.topic_data {
        let partitions = work.prepare_topic(&topic, &twice);
        opening |= partitions.iter().any(|partition| matches!(partition.state, State::ToOpen(_)));
        work.topics.push(TopicWork { name: topic.name, id: topic.topic_id, partitions });
    }
    if opening {
        return Step::Stage(Box::pin(async move {
            work.open_batches().await;
            work.propose()
        }));
    }
    work.propose()
}

/// Partitions that the request names more than once, by topic: both batches are refused, because Kafka's clients never
/// do this and one of them would be lost without a word.
fn named_twice(call: &Call, request: &ProduceRequest) -> BTreeMap<(TopicId, i32), u32> {
    let mut counts = BTreeMap::new();
    if matches!(&request.topic_data[..], [topic] if topic.partition_data.len() < 2) {
        return counts;
    }
    for topic in &request.topic_data {
        if let Ok(served) = find(call, topic) {
            for partition in &topic.partition_data {
                *counts.entry((served.topic.id, partition.index)).or_insert(0) += 1;
            }
        }
    }
    counts.retain(|_, count| *count > 1);
    counts
}

fn find<'a>(call: &'a Call, topic: &TopicProduceData) -> Result<&'a Arc<ServedTopic>, ErrorCode> {
    let served = match call.version {
        FIRST_BY_ID.. => call.snapshot.topic_by_id(TopicId(topic.topic_id)).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?,
        _ => call.snapshot.topic(&topic.name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?,
    };
    if is_internal_topic(&served.topic.name) {
        return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    Ok(served)
}

/// A request between its arrival and its answer.
struct Work {
    call: Call,
    began: Instant,
    acks: Acks,
    timeout_ms: i32,
    /// How long the client must wait to keep its quota.
    throttle: Duration,
    topics: Vec<TopicWork>,
    /// Also held by every batch until it is durable.
    share: Arc<Share>,
}

struct TopicWork {
    name: millpond_wire::Str,
    id: [u8; 16],
    partitions: Vec<PartitionWork>,
}

struct PartitionWork {
    index: i32,
    /// Set on a LogAppendTime topic: the response names the time.
    log_append_time: Option<Timestamp>,
    state: State,
}

enum State {
    /// Its records must be decompressed first.
    ToOpen(Box<ToOpen>),
    /// Validated, to be proposed.
    Valid(Partition, Proposal),
    /// Proposed.
    Waiting(Receipt),
    /// In between two states.
    Taken,
    /// Written as far as `acks` asks.
    Written(Written),
    Refused(Refusal),
}

struct ToOpen {
    partition: Partition,
    sent: Bytes,
    rules: ProduceRules,
    target: Option<Codec>,
    now: Timestamp,
}

/// Why a partition's batch is not written.
struct Refusal {
    fault: Fault,
    records: Vec<BatchIndexAndErrorMessage>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal { fault, records: Vec::new() }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Fault::from(code).into()
    }
}

impl From<InvalidBatch> for Refusal {
    fn from(error: InvalidBatch) -> Refusal {
        let named = error.record_errors().iter().map(|record| BatchIndexAndErrorMessage {
            batch_index: record.index,
            batch_index_error_message: Some(record.fault.to_string().into()),
        });
        Refusal { records: named.collect(), fault: errors::invalid_batch(&error) }
    }
}

impl Work {
    fn prepare_topic(&self, topic: &TopicProduceData, twice: &BTreeMap<(TopicId, i32), u32>) -> Vec<PartitionWork> {
        let found = find(&self.call, topic);
        let now = Timestamp(self.call.shared.runtime.wall_clock());
        let prepare = |data: &PartitionProduceData| {
            let mut log_append_time = None;
            let state = match &found {
                Err(code) => Err((*code).into()),
                Ok(served) if twice.contains_key(&(served.topic.id, data.index)) => {
                    Err(ErrorCode::INVALID_REQUEST.into())
                }
                Ok(served) => {
                    if served.settings.timestamp_type == TimestampType::LogAppendTime {
                        log_append_time = Some(now);
                    }
                    self.prepare(served, data, now)
                }
            };
            PartitionWork { index: data.index, log_append_time, state: state.unwrap_or_else(State::Refused) }
        };
        topic.partition_data.iter().map(prepare).collect()
    }

    fn prepare(&self, topic: &ServedTopic, data: &PartitionProduceData, now: Timestamp) -> Result<State, Refusal> {
        let partition = topic.led(PartitionIndex(data.index))?;
        // Null records are refused like none: Kafka never answers them.
        let sent = data.records.as_ref().map(|records| records.to_bytes()).unwrap_or_default();
        let rules = rules(&topic.settings, self.call.version);
        let target = target_codec(topic.settings.compression);
        if must_open(&sent, &rules, target) {
            let partition = partition.clone();
            return Ok(State::ToOpen(Box::new(ToOpen { partition, sent, rules, target, now })));
        }
        let accepted = validate_produce(&sent, &rules, now)?;
        check_not_transactional(&accepted.header)?;
        let copied = !accepted.corrections.is_empty();
        let (batch, header) = accepted.into_batch(&sent);
        let frame_bytes = if copied { batch.len() } else { self.call.pinned_bytes };
        Ok(State::Valid(partition.clone(), Proposal { batch, header, append_time: now, frame_bytes }))
    }

    /// Decompresses what must be, a few requests at a time.
    async fn open_batches(&mut self) {
        let shared = Arc::clone(&self.call.shared);
        let turn = shared.opening.acquire().await;
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.state = match std::mem::replace(&mut partition.state, State::Taken) {
                State::ToOpen(job) => shared.runtime.blocking(move || job.run()).await.unwrap_or_else(State::Refused),
                other => other,
            };
        }
        drop(turn);
    }

    /// Proposes what is valid, in the request's order, and promises the answer.
    fn propose(mut self) -> Step {
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.state = match std::mem::replace(&mut partition.state, State::Taken) {
                State::Valid(partition, proposal) => {
                    self.call.shared.metrics.produced(&proposal.header);
                    State::Waiting(partition.propose(proposal, self.acks, Some(self.share.clone())))
                }
                other => other,
            };
        }
        let throttle = self.throttle;
        Step::reply(Reply::Later(Box::pin(self.answer())), throttle)
    }

    async fn answer(mut self) -> Reply {
        self.receive().await;
        if matches!(self.acks, Acks::None) {
            return self.silence();
        }
        self.await_leaders().await;
        let topics = std::mem::take(&mut self.topics);
        let responses = topics.into_iter().map(|topic| TopicProduceResponse {
            name: topic.name,
            topic_id: topic.id,
            partition_responses: topic.partitions.into_iter().map(PartitionWork::response).collect(),
        });
        let mut response = ProduceResponse {
            responses: responses.collect(),
            throttle_time_ms: throttle_time_ms(self.throttle),
            ..Default::default()
        };
        if self.call.version >= FIRST_WITH_LEADERS {
            self.name_leaders(&mut response);
        }
        self.call.answer(&response)
    }

    /// Waits a moment until it is known who leads what this broker does not lead (any more).
    async fn await_leaders(&self) {
        let mut asked = Vec::new();
        for topic in &self.topics {
            for partition in &topic.partitions {
                let State::Refused(refusal) = &partition.state else { continue };
                if refusal.fault.code == ErrorCode::NOT_LEADER_OR_FOLLOWER
                    && let Some(served) = self.served(&topic.name, topic.id)
                {
                    asked.push((served, PartitionIndex(partition.index)));
                }
            }
        }
        if !asked.is_empty() {
            let shared = &self.call.shared;
            let patience = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0)).min(LEADER_PATIENCE);
            let deadline = self.began + patience;
            let _ = shared.runtime.timeout_at(deadline, shared.leadership.each_led(&asked)).await;
        }
    }

    fn served(&self, name: &str, id: [u8; 16]) -> Option<&ServedTopic> {
        let snapshot = &self.call.snapshot;
        let served = match self.call.version {
            FIRST_BY_ID.. => snapshot.topic_by_id(TopicId(id)),
            _ => snapshot.topic(name),
        };
        served.map(|served| &**served)
    }

    /// Tells a client that asked the wrong broker which is the right one (KIP-951).
    fn name_leaders(&self, response: &mut ProduceResponse) {
        let topics = response.responses.iter_mut();
        let asked = topics.flat_map(|topic| {
            let (name, id) = (&topic.name, topic.topic_id);
            topic.partition_responses.iter_mut().map(move |partition| (name, id, partition))
        });
        let mut wrong =
            asked.filter(|(_, _, partition)| partition.error_code == ErrorCode::NOT_LEADER_OR_FOLLOWER.0).peekable();
        if wrong.peek().is_none() {
            return;
        }
        let snapshot = &self.call.snapshot;
        let mut hints = Hints::new(&self.call.shared.leadership, snapshot);
        for (name, id, partition) in wrong {
            let leader = self.served(name, id).and_then(|served| hints.leader(served, PartitionIndex(partition.index)));
            if let Some(leader) = leader {
                partition.current_leader =
                    LeaderIdAndEpoch { leader_id: leader.broker.0, leader_epoch: leader.epoch.0 };
            }
        }
        let endpoints = hints.brokers().map(|broker| NodeEndpoint {
            node_id: broker.id.0,
            host: broker.host.as_str().into(),
            port: i32::from(broker.port),
            rack: broker.rack.as_deref().map(Str::from),
        });
        response.node_endpoints = endpoints.collect();
    }

    /// Waits for the receipts, at most as long as the client wants to wait.
    async fn receive(&mut self) {
        if self.poll_receipts_once() {
            return;
        }
        // Nobody waits for the answer of acks=0, and its only bad one closes the connection.
        let patience = if self.acks == Acks::None { i32::MAX } else { self.timeout_ms };
        let timeout = Duration::from_millis(u64::try_from(patience).unwrap_or(0));
        let runtime = self.call.shared.runtime.clone();
        let waiting = poll_fn(|context| match self.poll_receipts(context) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        if runtime.timeout(timeout, waiting).await.is_err() {
            for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                if let State::Waiting(_) = partition.state {
                    partition.state = State::Refused(ErrorCode::REQUEST_TIMED_OUT.into());
                }
            }
        }
    }

    /// Whether all receipts are there without waiting: no timer is needed then.
    fn poll_receipts_once(&mut self) -> bool {
        self.poll_receipts(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    fn poll_receipts(&mut self, context: &mut std::task::Context<'_>) -> bool {
        let mut all = true;
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if let State::Waiting(receipt) = &mut partition.state {
                match Pin::new(receipt).poll(context) {
                    Poll::Ready(Ok(written)) => partition.state = State::Written(written),
                    Poll::Ready(Err(error)) => partition.state = State::Refused(errors::propose(&error).into()),
                    Poll::Pending => all = false,
                }
            }
        }
        all
    }

    /// acks=0: nothing is answered, and the only way to tell of an error is to close the connection.
    fn silence(&self) -> Reply {
        for topic in &self.topics {
            for partition in &topic.partitions {
                if let State::Refused(refusal) = &partition.state {
                    let (code, message) = (refusal.fault.code, refusal.fault.message.as_deref().unwrap_or(""));
                    let place = format!("{}-{}", topic.name, partition.index);
                    return Reply::Close(format!("a produce with acks=0 to {place} failed: {code} {message}"));
                }
            }
        }
        Reply::Nothing
    }
}

impl PartitionWork {
    fn response(self) -> PartitionProduceResponse {
        match self.state {
            State::Written(written) => PartitionProduceResponse {
                index: self.index,
                base_offset: written.base_offset.0,
                log_append_time_ms: self.log_append_time.map_or(-1, |time| time.0),
                log_start_offset: written.log_start.0,
                ..Default::default()
            },
            State::Refused(refusal) => refused(self.index, refusal),
            State::ToOpen(_) | State::Valid(..) | State::Taken | State::Waiting(_) => {
                unreachable!("a request is answered when each of its batches is written or refused")
            }
        }
    }
}

fn refused(index: i32, refusal: Refusal) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code: refusal.fault.code.0,
        base_offset: -1,
        record_errors: refusal.records,
        error_message: refusal.fault.message,
        ..Default::default()
    }
}

/// Every partition of the request gets the same error.
fn refuse_all(call: &Call, request: &ProduceRequest, fault: &Fault) -> Reply {
    if request.acks == 0 {
        let (code, message) = (fault.code, fault.message.as_deref().unwrap_or(""));
        return Reply::Close(format!("a produce with acks=0 failed: {code} {message}"));
    }
    let responses = request.topic_data.iter().map(|topic| TopicProduceResponse {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partition_responses: topic
            .partition_data
            .iter()
            .map(|data| refused(data.index, fault.clone().into()))
            .collect(),
    });
    call.answer(&ProduceResponse { responses: responses.collect(), ..Default::default() })
}

impl ToOpen {
    /// Validates a batch down to its records, and puts it into the topic's codec.
    fn run(self) -> Result<State, Refusal> {
        let accepted = validate_produce(&self.sent, &self.rules, self.now)?;
        check_not_transactional(&accepted.header)?;
        let (mut batch, mut header) = accepted.into_batch(&self.sent);
        if let Some(codec) = self.target {
            batch = recompress(&batch, codec, self.rules.decompress_limit).map_err(|error| errors::records(&error))?;
            header = BatchHeader::read(&batch).map_err(|error| errors::batch(&error))?;
            let found = header.size_bytes;
            if found > self.rules.max_message_bytes {
                return Err(InvalidBatch::TooLarge { found, limit: self.rules.max_message_bytes }.into());
            }
            if found > self.rules.segment_bytes {
                return Err(InvalidBatch::LargerThanSegment { found, limit: self.rules.segment_bytes }.into());
            }
        }
        // The batch may still be a slice of the frame; its own copy lets the frame go.
        let batch = Bytes::copy_from_slice(&batch);
        let proposal = Proposal { frame_bytes: batch.len(), batch, header, append_time: self.now };
        Ok(State::Valid(self.partition, proposal))
    }
}

/// Whether the batch must be decompressed. Bytes that are no batch are left to the validator.
fn must_open(sent: &[u8], rules: &ProduceRules, target: Option<Codec>) -> bool {
    let Ok(codec) = BatchHeader::read(sent).map(|header| header.attributes.compression()) else { return false };
    match codec {
        Ok(codec) if target.is_some_and(|target| target != codec) => true,
        Ok(Codec::None) | Err(_) => false,
        Ok(_) => rules.deep || rules.compacted,
    }
}

/// A transactional batch in a request without transactional id.
fn check_not_transactional(header: &BatchHeader) -> Result<(), Refusal> {
    if header.attributes.is_transactional() {
        return Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED.into());
    }
    Ok(())
}

fn rules(settings: &TopicSettings, version: i16) -> ProduceRules {
    ProduceRules {
        max_message_bytes: settings.max_message_bytes,
        segment_bytes: settings.segment_bytes,
        zstd_allowed: version >= FIRST_WITH_ZSTD,
        deep: settings.validation == millpond_cluster::Validation::Deep,
        compacted: settings.cleanup.compact,
        timestamp: TimestampRules {
            timestamp_type: match settings.timestamp_type {
                TimestampType::CreateTime => millpond_record::TimestampType::CreateTime,
                TimestampType::LogAppendTime => millpond_record::TimestampType::LogAppendTime,
            },
            before_max_ms: settings.timestamp_before_max_ms,
            after_max_ms: settings.timestamp_after_max_ms,
        },
        decompress_limit: DECOMPRESS_LIMIT,
    }
}

/// The codec that a topic's batches are stored in; `None` stores them as they come.
fn target_codec(compression: CompressionType) -> Option<Codec> {
    match compression {
        CompressionType::Producer => None,
        CompressionType::Uncompressed => Some(Codec::None),
        CompressionType::Gzip => Some(Codec::Gzip),
        CompressionType::Snappy => Some(Codec::Snappy),
        CompressionType::Lz4 => Some(Codec::Lz4),
        CompressionType::Zstd => Some(Codec::Zstd),
    }
}
