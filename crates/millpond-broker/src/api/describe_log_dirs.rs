//! DescribeLogDirs (KIP-113, KIP-827): how much each partition takes, and the size of the volume that it is on. There
//! is one directory, and everybody may see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millpond_storage::PartitionSize;
use millpond_wire::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::broker::Shared;
use crate::dispatch::{Api, Call, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_LOG_DIRS, advertised: (1, 4), served_from: 1, handle, pipelined: false };

/// Where the size of the volume is not known.
const UNKNOWN: i64 = -1;

fn handle(mut call: Call) -> Step {
    let request: DescribeLogDirsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let shared = Arc::clone(&call.shared);
        let result = call.shared.runtime.blocking(move || describe(&shared, &request)).await;
        Step::Reply(call.answer(&DescribeLogDirsResponse { results: vec![result], ..Default::default() }))
    }))
}

/// The directory with the partitions of the request that are in it. Blocking.
fn describe(shared: &Shared, request: &DescribeLogDirsRequest) -> DescribeLogDirsResult {
    let log_dir = shared.log_dir.clone();
    if shared.has_failed() {
        return DescribeLogDirsResult { log_dir, error_code: ErrorCode::KAFKA_STORAGE_ERROR.0, ..Default::default() };
    }
    // Null asks for all, and what is not there is passed over.
    let wanted: Option<BTreeSet<(&str, i32)>> = request.topics.as_ref().map(|topics| {
        let pairs = topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic.as_str(), *index)));
        pairs.collect()
    });
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for PartitionSize { topic, partition, bytes, .. } in shared.partition_sizes() {
        if wanted.as_ref().is_none_or(|wanted| wanted.contains(&(topic.as_str(), partition.0))) {
            topics.entry(topic).or_default().push(DescribeLogDirsPartition {
                partition_index: partition.0,
                partition_size: i64::try_from(bytes).unwrap_or(i64::MAX),
                ..DescribeLogDirsPartition::default()
            });
        }
    }
    let topics =
        topics.into_iter().map(|(name, partitions)| DescribeLogDirsTopic { name: Str::from(name), partitions });
    let known = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (total_bytes, usable_bytes) = match shared.space() {
        Ok(space) => (known(space.total_bytes), known(space.available_bytes)),
        Err(_) => (UNKNOWN, UNKNOWN),
    };
    DescribeLogDirsResult { log_dir, topics: topics.collect(), total_bytes, usable_bytes, ..Default::default() }
}
