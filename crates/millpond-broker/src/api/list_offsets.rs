//! ListOffsets: log start, log end, and the first record that is not older than a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use millpond_raft::Partition;
use millpond_record::{LeaderEpoch, Offset, PartitionIndex, Timestamp};
use millpond_storage::{Found, Frontiers, Log, StorageError};
use millpond_wire::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use super::fetch::check_known_epoch;
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::LIST_OFFSETS, advertised: (1, 11), served_from: 1, handle, pipelined: false };

/// From here on answers carry the leader epoch.
const FIRST_WITH_EPOCH: i16 = 4;
const READ_COMMITTED: i8 = 1;
/// Logs of one request that are opened at once.
const OPEN_AT_ONCE: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The first record at or after a time.
    Time(Timestamp),
    /// The log end, as far as the client may read.
    Latest,
    /// The log start.
    Earliest,
    /// The first record with the highest timestamp (KIP-734).
    MaxTimestamp,
    /// What only tiered storage has.
    Tiered,
}

/// Special timestamps, and the version from which each is known (trap 20 of the surface page).
const SPECIAL: [(i64, i16, Asked); 6] = [
    (-1, 0, Asked::Latest),
    (-2, 0, Asked::Earliest),
    (-3, 7, Asked::MaxTimestamp),
    // The earliest offset that is on the broker's own disk: without tiered storage, the log start.
    (-4, 8, Asked::Earliest),
    (-5, 9, Asked::Tiered),
    (-6, 11, Asked::Tiered),
];

fn asked(timestamp: i64, version: i16) -> Result<Asked, ErrorCode> {
    if timestamp >= 0 {
        return Ok(Asked::Time(Timestamp(timestamp)));
    }
    let known = SPECIAL.iter().find(|(special, since, _)| *special == timestamp && *since <= version);
    known.map(|(_, _, asked)| *asked).ok_or(ErrorCode::UNSUPPORTED_VERSION)
}

fn handle(mut call: Call) -> Step {
    let request: ListOffsetsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let mut counts: BTreeMap<(&Str, i32), u32> = BTreeMap::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                *counts.entry((&topic.name, partition.partition_index)).or_default() += 1;
            }
        }
        let read_committed = request.isolation_level == READ_COMMITTED;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            // Logs that are not open yet are opened side by side.
            for asked in topic.partitions.chunks(OPEN_AT_ONCE) {
                let answers = asked.iter().map(|asked| {
                    let twice = counts.get(&(&topic.name, asked.partition_index)).is_some_and(|count| *count > 1);
                    let (call, name) = (&call, &topic.name);
                    async move {
                        let answer = match twice {
                            true => Err(ErrorCode::INVALID_REQUEST.into()),
                            false => look_up(call, name, asked, read_committed).await,
                        };
                        respond(call.version, asked.partition_index, answer)
                    }
                });
                partitions.extend(join_all(answers).await);
            }
            topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
        }
        let response = ListOffsetsResponse { topics, ..ListOffsetsResponse::default() };
        Step::Reply(call.answer(&response))
    }))
}

/// An offset with its time and epoch; each -1 where there is none.
const NOTHING: Found = Found { offset: Offset(-1), timestamp: Timestamp::NONE, leader_epoch: LeaderEpoch::NONE };

async fn look_up(
    call: &Call,
    topic: &str,
    partition: &ListOffsetsPartition,
    read_committed: bool,
) -> Result<Found, Fault> {
    let served = call.snapshot.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let index = PartitionIndex(partition.partition_index);
    check_known_epoch(served, index, LeaderEpoch(partition.current_leader_epoch))?;
    let handle = served.led(index)?;
    let asked = asked(partition.timestamp, call.version)?;
    let log = handle.log().await.map_err(|error| errors::raft(&error))?;
    let frontiers = log.frontiers();
    let end = if read_committed { frontiers.last_stable } else { frontiers.high_watermark };
    let at = |offset, leader_epoch| Found { offset, timestamp: Timestamp::NONE, leader_epoch };
    match asked {
        Asked::Latest => Ok(at(end, handle.leader_epoch())),
        Asked::Earliest => Ok(at(frontiers.log_start, earliest_epoch(&log, handle, &frontiers))),
        Asked::Tiered => Ok(NOTHING),
        Asked::Time(time) => search(call, log, move |log| log.offset_for_timestamp(time, end)).await,
        Asked::MaxTimestamp => search(call, log, move |log| log.max_timestamp(end)).await,
    }
}

/// The epoch of the record at the log start; of an empty log the current one.
fn earliest_epoch(log: &Log, partition: &Partition, frontiers: &Frontiers) -> LeaderEpoch {
    match frontiers.log_start < frontiers.log_end {
        true => log.leader_epoch_at(frontiers.log_start).unwrap_or(LeaderEpoch::NONE),
        false => partition.leader_epoch(),
    }
}

/// Looks into index and batches, which may have to be read from disk.
async fn search(
    call: &Call,
    log: Arc<Log>,
    look: impl FnOnce(&Log) -> Result<Option<Found>, StorageError> + Send + 'static,
) -> Result<Found, Fault> {
    let found = call.shared.runtime.blocking(move || look(&log)).await;
    Ok(found.map_err(|error| errors::storage(&error))?.unwrap_or(NOTHING))
}

fn respond(version: i16, index: i32, answer: Result<Found, Fault>) -> ListOffsetsPartitionResponse {
    match answer {
        Ok(found) => ListOffsetsPartitionResponse {
            partition_index: index,
            timestamp: found.timestamp.0,
            offset: found.offset.0,
            leader_epoch: if version >= FIRST_WITH_EPOCH { found.leader_epoch.0 } else { -1 },
            ..Default::default()
        },
        Err(fault) => ListOffsetsPartitionResponse {
            partition_index: index,
            error_code: fault.code.0,
            timestamp: -1,
            offset: -1,
            leader_epoch: -1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_special_timestamp_is_known_from_its_version_on() {
        for (timestamp, version) in [(-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 11), (-10, 11)] {
            assert_eq!(asked(timestamp, version), Err(ErrorCode::UNSUPPORTED_VERSION), "{timestamp} in {version}");
        }
        assert_eq!(asked(-3, 7), Ok(Asked::MaxTimestamp));
        assert_eq!(asked(-4, 8), Ok(Asked::Earliest));
        assert_eq!(asked(-5, 9), Ok(Asked::Tiered));
        assert_eq!(asked(0, 1), Ok(Asked::Time(Timestamp(0))));
    }
}
