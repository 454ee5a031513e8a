//! Fetch: committed batches out, now or as soon as there are enough of them.
//!
//! A fetch enters no actor: it looks at each partition's frontiers, reads what is there from the tail cache (the very
//! bytes that were produced) or from the file, and if that is less than `min_bytes` waits on the partitions' watches
//! and the deadline. What was read is kept while it waits; only what is new is read then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use millpond_raft::{Partition, PartitionState};
use millpond_record::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use millpond_storage::{Frontiers, Log, Read};
use millpond_wire::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData,
};
use millpond_wire::{ApiKey, ErrorCode, Records};
use tokio::sync::watch;

use crate::dispatch::{Api, Call, Reply, Step};
use crate::errors::{self, Fault};
use crate::extent::next_offset;
use crate::memory::AnswerShare;
use crate::throttle::{Traffic, throttle_time_ms};

pub(crate) const API: Api = Api { key: ApiKey::FETCH, advertised: (4, 18), served_from: 4, handle, pipelined: false };

/// From here on topics are named by id (KIP-516).
const FIRST_BY_ID: i16 = 13;
const READ_COMMITTED: i8 = 1;
/// Logs of one request that are opened at once.
const OPEN_AT_ONCE: usize = 64;
/// A fetch that holds more than this does not wait on while memory for answers is short: what one client waits for may
/// not keep others from being answered.
const LIGHT_BYTES: usize = 64 << 10;
/// Asks for a new session; answered with session id 0, which says that there is none (KIP-227).
const INITIAL_EPOCH: i32 = 0;
/// A fetch without session.
const FINAL_EPOCH: i32 = -1;

fn handle(mut call: Call) -> Step {
    let request: FetchRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if !matches!(request.session_epoch, INITIAL_EPOCH | FINAL_EPOCH) {
        let response =
            FetchResponse { error_code: ErrorCode::FETCH_SESSION_ID_NOT_FOUND.0, ..FetchResponse::default() };
        return Step::Reply(call.answer(&response));
    }
    Step::Stage(Box::pin(async move {
        let mut fetch = Fetch::new(&call, &request).await;
        fetch.run(&call).await;
        let throttle = call.count_traffic(Traffic::Fetch, fetch.bytes);
        Step::reply(fetch.respond(&call, request.topics, throttle), throttle)
    }))
}

/// A fetch and what it has read so far.
struct Fetch {
    slots: Vec<Slot>,
    read_committed: bool,
    /// Bytes wanted before the answer.
    min_bytes: usize,
    /// Bytes that may still be read.
    budget: usize,
    bytes: usize,
    max_wait: Duration,
    share: AnswerShare,
    /// The memory for answers was used up before everything was read.
    starved: bool,
}

/// One partition of the request.
struct Slot {
    source: Result<Source, Fault>,
    /// What is read next.
    offset: Offset,
    max_bytes: usize,
    chunks: Vec<Bytes>,
    bytes: usize,
    /// There is more than the limits let through.
    limited: bool,
}

struct Source {
    partition: Partition,
    log: Arc<Log>,
    watch: watch::Receiver<PartitionState>,
    frontiers: Frontiers,
}

impl Fetch {
    async fn new(call: &Call, request: &FetchRequest) -> Fetch {
        let max_bytes = usize::try_from(request.max_bytes);
        let limit = max_bytes.unwrap_or(0).min(call.shared.config.fetch_max_bytes as usize).min(call.fetch_limit());
        let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let mut opening = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                opening.push(Slot::open(call, topic, partition, max_bytes.is_ok()));
            }
        }
        // Logs that are not open yet are opened side by side.
        let slots = stream::iter(opening).buffered(OPEN_AT_ONCE).collect().await;
        Fetch {
            slots,
            read_committed: request.isolation_level == READ_COMMITTED,
            // More than may be read is never waited for.
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(limit),
            budget: limit,
            share: call.shared.answer_memory.share(),
            starved: false,
            bytes: 0,
            // A client that is gone is seen when its answer is written.
            max_wait: max_wait.min(call.shared.config.max_idle),
        }
    }

    /// Reads until there is enough, or the time is over.
    async fn run(&mut self, call: &Call) {
        for at in 0..self.slots.len() {
            self.read(call, at).await;
        }
        if self.is_done() || self.max_wait.is_zero() {
            return;
        }
        let deadline = call.shared.runtime.sleep(self.max_wait);
        tokio::pin!(deadline);
        let stopping = call.shared.stopping.cancelled();
        tokio::pin!(stopping);
        let holds_much = call.work_bytes() + self.share.bytes() > LIGHT_BYTES;
        let memory_used_up = call.shared.answer_memory.used_up();
        tokio::pin!(memory_used_up);
        let mut watches: FuturesUnordered<_> = (0..self.slots.len()).map(|at| changed(at, self.watch(at))).collect();
        while !self.is_done() {
            let first = tokio::select! {
                biased;
                () = &mut deadline => return,
                () = &mut stopping => return,
                () = &mut memory_used_up, if holds_much => return,
                first = watches.next() => first,
            };
            // Whatever else changed meanwhile is read in the same go.
            let mut next = first;
            while let Some((at, watch)) = next {
                if let Ok(source) = &mut self.slots[at].source {
                    source.watch = watch;
                }
                self.read(call, at).await;
                if self.is_done() || deadline.is_elapsed() {
                    // Where a slot stands is not kept any more: another read would give the same batches again.
                    return;
                }
                watches.push(changed(at, self.watch(at)));
                next = watches.next().now_or_never().flatten();
            }
        }
    }

    fn watch(&self, at: usize) -> Option<watch::Receiver<PartitionState>> {
        self.slots[at].source.as_ref().ok().map(|source| source.watch.clone())
    }

    /// Enough was read, nothing can be waited for, or an error is to be told at once.
    fn is_done(&self) -> bool {
        self.bytes >= self.min_bytes
            || self.starved
            || self.slots.is_empty()
            || self.slots.iter().any(|slot| slot.source.is_err() || slot.limited)
    }

    /// Reads what is there now of one partition, within the limits. The first batch of a response comes whole.
    async fn read(&mut self, call: &Call, at: usize) {
        let whole_first = self.bytes == 0;
        let slot = &mut self.slots[at];
        let Ok(source) = &mut slot.source else { return };
        let state = *source.watch.borrow_and_update();
        if !state.serving {
            let fault =
                if source.partition.has_failed() { ErrorCode::KAFKA_STORAGE_ERROR } else { absent(call.version) };
            slot.source = Err(fault.into());
            return;
        }
        source.frontiers = state.frontiers;
        let beyond = slot.offset > source.frontiers.log_end;
        if beyond || slot.offset < source.frontiers.log_start {
            // What is watched changes with the commit; a producer with acks=1 knows of the log's end before that, and a
            // consumer told OFFSET_OUT_OF_RANGE there would reset its position.
            let live = source.log.frontiers();
            if slot.offset < live.log_start || slot.offset > live.log_end {
                slot.source = Err(errors::out_of_range(slot.offset, &live));
                return;
            }
        }
        let frontiers = &source.frontiers;
        let end = if self.read_committed { frontiers.last_stable } else { frontiers.high_watermark };
        if slot.offset >= end {
            return;
        }
        let wanted = self.budget.min(slot.max_bytes - slot.bytes.min(slot.max_bytes));
        // Taken before it is read. Without any the answer goes out as it is, and the next request waits for memory.
        let Some(max_bytes) = self.share.reserve(wanted) else {
            self.starved = true;
            return;
        };
        let read = match source.log.read(slot.offset, end, max_bytes, whole_first) {
            Ok(Read::Ready(chunks)) => Ok(chunks),
            Ok(Read::Cold(cold)) => {
                let read = call.shared.runtime.blocking(move || cold.run()).await;
                read.map_err(|error| errors::read(&error))
            }
            Err(error) => Err(errors::read(&error)),
        };
        match read {
            Ok(chunks) => {
                let bytes = chunks.iter().map(Bytes::len).sum();
                call.shared.metrics.fetched_bytes.increment(bytes as u64);
                self.budget = self.budget.saturating_sub(bytes);
                self.bytes += bytes;
                // The first batch comes whole, however little there was.
                self.share.grow(bytes.saturating_sub(max_bytes));
                self.share.shrink(max_bytes.saturating_sub(bytes));
                slot.bytes += bytes;
                if self.bytes < self.min_bytes {
                    // Only a fetch that goes on to wait needs to know where it stands.
                    slot.offset = next_offset(&chunks).unwrap_or(slot.offset);
                    slot.limited = slot.offset < end;
                }
                slot.chunks.extend(chunks);
            }
            Err(fault) => {
                self.share.shrink(max_bytes);
                slot.source = Err(fault);
            }
        }
    }

    fn respond(self, call: &Call, topics: Vec<FetchTopic>, throttle: Duration) -> Reply {
        let read_committed = self.read_committed;
        let mut slots = self.slots.into_iter();
        let responses = topics.into_iter().map(|topic| FetchableTopicResponse {
            topic: topic.topic,
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .zip(slots.by_ref())
                .map(|(partition, slot)| slot.respond(partition.partition, read_committed))
                .collect(),
        });
        let response = FetchResponse {
            responses: responses.collect(),
            throttle_time_ms: throttle_time_ms(throttle),
            ..FetchResponse::default()
        };
        // The answer counts all of its bytes; what was read needs no share of its own any more.
        call.answer(&response)
    }
}

impl Slot {
    /// `good_limit`: the limit of the whole request is not negative. Kafka answers UNKNOWN_SERVER_ERROR to such limits.
    async fn open(call: &Call, topic: &FetchTopic, partition: &FetchPartition, good_limit: bool) -> Slot {
        let max_bytes = usize::try_from(partition.partition_max_bytes);
        let source = match good_limit && max_bytes.is_ok() {
            true => source(call, topic, partition).await,
            false => Err(ErrorCode::INVALID_REQUEST.into()),
        };
        Slot {
            source,
            offset: Offset(partition.fetch_offset),
            max_bytes: max_bytes.unwrap_or(0),
            chunks: Vec::new(),
            bytes: 0,
            limited: false,
        }
    }

    fn respond(self, index: i32, read_committed: bool) -> PartitionData {
        // An empty list says that nothing is aborted, null that it was not asked.
        let aborted_transactions = read_committed.then(Vec::new);
        match self.source {
            Ok(source) => PartitionData {
                partition_index: index,
                high_watermark: source.frontiers.high_watermark.0,
                last_stable_offset: source.frontiers.last_stable.0,
                log_start_offset: source.frontiers.log_start.0,
                aborted_transactions,
                records: Some(Records::from(self.chunks)),
                ..PartitionData::default()
            },
            Err(fault) => PartitionData {
                partition_index: index,
                error_code: fault.code.0,
                high_watermark: -1,
                aborted_transactions,
                records: Some(Records::default()),
                ..PartitionData::default()
            },
        }
    }
}

/// Completes with the partition's place when its state changes or it is no more; never where there is none.
async fn changed(
    at: usize,
    watch: Option<watch::Receiver<PartitionState>>,
) -> (usize, watch::Receiver<PartitionState>) {
    let Some(mut watch) = watch else { return std::future::pending().await };
    // An error says that nobody will change it any more; its last value tells why.
    let _ = watch.changed().await;
    (at, watch)
}

async fn source(call: &Call, topic: &FetchTopic, asked: &FetchPartition) -> Result<Source, Fault> {
    let partition = find(call, topic, asked)?;
    let log = partition.log().await.map_err(|error| errors::raft(&error))?;
    check_leader_epoch(LeaderEpoch(asked.current_leader_epoch), partition.leader_epoch())?;
    let watch = partition.watch();
    let frontiers = watch.borrow().frontiers;
    Ok(Source { partition: partition.clone(), log, watch, frontiers })
}

/// What a topic that is not there is answered.
fn absent(version: i16) -> ErrorCode {
    if version >= FIRST_BY_ID { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION }
}

fn find<'a>(call: &'a Call, topic: &FetchTopic, asked: &FetchPartition) -> Result<&'a Partition, ErrorCode> {
    let served = if call.version >= FIRST_BY_ID {
        call.snapshot.topic_by_id(TopicId(topic.topic_id)).ok_or(absent(call.version))?
    } else {
        call.snapshot.topic(&topic.topic).ok_or(absent(call.version))?
    };
    served.partition(PartitionIndex(asked.partition)).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

/// What a client believes of the leader against what is so (KIP-320); -1 believes nothing.
pub(super) fn check_leader_epoch(believed: LeaderEpoch, current: LeaderEpoch) -> Result<(), ErrorCode> {
    match believed {
        LeaderEpoch(..0) => Ok(()),
        believed if believed > current => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        believed if believed < current => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_too_new_is_unknown_and_one_that_is_too_old_is_fenced() {
        let check = |believed, current| check_leader_epoch(LeaderEpoch(believed), LeaderEpoch(current));
        assert_eq!(check(-1, 5), Ok(()));
        assert_eq!(check(5, 5), Ok(()));
        assert_eq!(check(6, 5), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
        assert_eq!(check(4, 5), Err(ErrorCode::FENCED_LEADER_EPOCH));
    }
}
