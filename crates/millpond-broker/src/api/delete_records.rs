//! DeleteRecords: moves the log start of partitions up to an offset, for good.
//!
//! The answer comes when the move is durable. What then lies wholly below the log start leaves the disk in the
//! background.

use futures::future::join_all;
use millpond_cluster::is_internal_topic;
use millpond_raft::Partition;
use millpond_record::{Offset, PartitionIndex};
use millpond_storage::Freeing;
use millpond_wire::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step, patience};
use crate::errors::{self, Fault};
use crate::leadership::Doubt;

pub(crate) const API: Api =
    Api { key: ApiKey::DELETE_RECORDS, advertised: (0, 2), served_from: 0, handle, pipelined: false };

/// The offset that stands for the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;

fn handle(mut call: Call) -> Step {
    let request: DeleteRecordsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let runtime = &call.shared.runtime;
        let deadline = runtime.now() + patience(request.timeout_ms);
        let call = &call;
        let topics = request.topics.iter().map(|topic| async move {
            let partitions = topic.partitions.iter().map(|partition| async move {
                let index = PartitionIndex(partition.partition_index);
                let deleted = match find(call, &topic.name, index) {
                    // What was begun goes on when nobody waits for it any more.
                    Ok(found) => runtime
                        .timeout_at(deadline, delete(call, &found, partition.offset))
                        .await
                        .unwrap_or_else(|_| Err(ErrorCode::REQUEST_TIMED_OUT.into())),
                    Err(code) => Err(code.into()),
                };
                answer(index, deleted)
            });
            DeleteRecordsTopicResult { name: topic.name.clone(), partitions: join_all(partitions).await }
        });
        let topics = join_all(topics).await;
        Step::Reply(call.answer(&DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() }))
    }))
}

fn find(call: &Call, topic: &str, index: PartitionIndex) -> Result<Partition, ErrorCode> {
    let served = call.snapshot.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = served.led(index);
    if is_internal_topic(topic) {
        return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    if served.settings.cleanup.compact && !served.settings.cleanup.delete {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    partition.cloned()
}

/// Gives the log start that the partition has then: at least what was asked for.
async fn delete(call: &Call, partition: &Partition, asked: i64) -> Result<Offset, Fault> {
    let log = partition.log().await.map_err(|error| errors::raft(&error))?;
    let mut frontiers = log.frontiers();
    let offset = match asked {
        UP_TO_HIGH_WATERMARK => frontiers.high_watermark,
        asked => Offset(asked),
    };
    if offset > frontiers.high_watermark {
        // A leader that was deposed and has not heard of it has an older high watermark.
        if !Doubt::default().surely_leads(&call.shared.runtime, partition).await {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
        }
        frontiers = log.frontiers();
    }
    if offset < Offset(0) || offset > frontiers.high_watermark {
        return Err(errors::out_of_range(offset, &frontiers));
    }
    if offset > frontiers.log_start {
        partition.move_log_start(offset).await.map_err(|error| errors::propose(&error))?;
        // What each of several replicas frees is for the next look of retention to see to, together with its Raft
        // object.
        if !partition.is_replicated() {
            let freeing = log.free_below_log_start().map_err(|error| errors::storage(&error))?;
            if freeing == Freeing::AwaitsCheckpoint {
                call.shared.free_soon();
            }
        }
    }
    Ok(log.frontiers().log_start)
}

fn answer(index: PartitionIndex, deleted: Result<Offset, Fault>) -> DeleteRecordsPartitionResult {
    let (low_watermark, code) = match deleted {
        Ok(log_start) => (log_start.0, ErrorCode::NONE),
        Err(fault) => (-1, fault.code),
    };
    DeleteRecordsPartitionResult { partition_index: index.0, low_watermark, error_code: code.0 }
}
