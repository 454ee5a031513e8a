//! OffsetForLeaderEpoch (KIP-320): where the records of a leader epoch end, for consumers that look whether what they
//! read is still there.

use millpond_record::{LeaderEpoch, Offset, PartitionIndex};
use millpond_wire::ApiKey;
use millpond_wire::ErrorCode;
use millpond_wire::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

use super::fetch::check_known_epoch;
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};
use crate::leadership::Doubt;

pub(crate) const API: Api =
    Api { key: ApiKey::OFFSET_FOR_LEADER_EPOCH, advertised: (2, 4), served_from: 2, handle, pipelined: false };

/// The answer where no record has the epoch or one before it.
const UNDEFINED: (LeaderEpoch, Offset) = (LeaderEpoch::NONE, Offset(-1));

fn handle(mut call: Call) -> Step {
    let request: OffsetForLeaderEpochRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let (mut topics, mut doubt) = (Vec::with_capacity(request.topics.len()), Doubt::default());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let (code, (epoch, end)) = match end_of_epoch(&call, &topic.topic, asked, &mut doubt).await {
                    Ok(found) => (ErrorCode::NONE, found),
                    Err(fault) => (fault.code, UNDEFINED),
                };
                partitions.push(EpochEndOffset {
                    error_code: code.0,
                    partition: asked.partition,
                    leader_epoch: epoch.0,
                    end_offset: end.0,
                });
            }
            topics.push(OffsetForLeaderTopicResult { topic: topic.topic.clone(), partitions });
        }
        Step::Reply(call.answer(&OffsetForLeaderEpochResponse { topics, ..Default::default() }))
    }))
}

/// The largest epoch of the log that is not above the asked one, and the offset behind its last record.
async fn end_of_epoch(
    call: &Call,
    topic: &str,
    asked: &OffsetForLeaderPartition,
    doubt: &mut Doubt,
) -> Result<(LeaderEpoch, Offset), Fault> {
    let served = call.snapshot.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let index = PartitionIndex(asked.partition);
    check_known_epoch(served, index, LeaderEpoch(asked.current_leader_epoch))?;
    let partition = served.led(index)?;
    let log = partition.log().await.map_err(|error| errors::raft(&error))?;
    let mut current = partition.leader_epoch();
    let epoch = LeaderEpoch(asked.leader_epoch);
    if epoch < LeaderEpoch(0) {
        return Ok(UNDEFINED);
    }
    if epoch > current {
        // A leader that was deposed and has not heard of it would have the reader believe that its records are gone.
        if !doubt.surely_leads(&call.shared.runtime, partition).await {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
        }
        current = partition.leader_epoch();
        if epoch > current {
            return Ok(UNDEFINED);
        }
    }
    if epoch == current {
        // It may have no record yet.
        return Ok((current, log.frontiers().log_end));
    }
    Ok(log.epoch_end_offset(epoch).unwrap_or(UNDEFINED))
}
