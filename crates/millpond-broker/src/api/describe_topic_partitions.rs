//! DescribeTopicPartitions (KIP-966): topics page by page, in order of names.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_cluster::{check_topic_name, is_internal_topic};
use millpond_wire::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use super::metadata::TOPIC_OPERATIONS;
use crate::dispatch::{Api, Call, Step};
use crate::metadata::ServedTopic;

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_TOPIC_PARTITIONS, advertised: (0, 0), served_from: 0, handle, pipelined: false };

/// Partitions in one answer at most (Kafka's `max.request.partition.size.limit`).
const MAX_PAGE: usize = 2000;

fn handle(mut call: Call) -> Step {
    let request: DescribeTopicPartitionsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let bad_cursor = request.cursor.as_ref().is_some_and(|cursor| cursor.partition_index < 0);
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).min(MAX_PAGE);
    if bad_cursor || limit == 0 {
        // The response has no error of its own: as in Kafka it names no topic, or each of the request.
        let failed = |name: &Str| unknown(name.clone(), ErrorCode::INVALID_REQUEST);
        let topics = request.topics.iter().map(|topic| failed(&topic.name)).collect();
        return Step::Reply(call.answer(&DescribeTopicPartitionsResponse { topics, ..Default::default() }));
    }
    Step::Reply(call.answer(&page(&call, &request, limit)))
}

/// A topic of the page: there, or not.
enum Asked {
    Served(Arc<ServedTopic>),
    Unknown(Str),
}

impl Asked {
    fn name(&self) -> &str {
        match self {
            Asked::Served(topic) => &topic.topic.name,
            Asked::Unknown(name) => name,
        }
    }
}

fn page(call: &Call, request: &DescribeTopicPartitionsRequest, limit: usize) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref();
    let from = cursor.map_or("", |cursor| &cursor.topic_name);
    let names: BTreeSet<&Str> = request.topics.iter().map(|topic| &topic.name).collect();
    // No topics asks for all.
    let asked: Vec<Asked> = match names.is_empty() {
        true => call.snapshot.topics().map(|topic| Asked::Served(Arc::clone(topic))).collect(),
        false => {
            let found = names.into_iter().map(|name| match call.snapshot.topic(name) {
                Some(topic) => Asked::Served(Arc::clone(topic)),
                None => Asked::Unknown(name.clone()),
            });
            found.collect()
        }
    };
    let mut room = limit;
    let mut topics = Vec::new();
    for asked in asked.iter().filter(|asked| asked.name() >= from) {
        let topic = match asked {
            Asked::Unknown(name) => {
                topics.push(unknown(name.clone(), absent(name)));
                continue;
            }
            Asked::Served(topic) => topic,
        };
        let first = cursor.filter(|cursor| *cursor.topic_name == *topic.topic.name).map_or(0, |at| at.partition_index);
        let first = usize::try_from(first).unwrap_or(0);
        if room == 0 {
            return DescribeTopicPartitionsResponse { topics, next_cursor: next(topic, first), ..Default::default() };
        }
        let shown = topic.partition_count().saturating_sub(first).min(room);
        topics.push(describe(call, topic, first, shown));
        room -= shown;
        if first + shown < topic.partition_count() {
            let next_cursor = next(topic, first + shown);
            return DescribeTopicPartitionsResponse { topics, next_cursor, ..Default::default() };
        }
    }
    DescribeTopicPartitionsResponse { topics, ..Default::default() }
}

fn next(topic: &ServedTopic, index: usize) -> Option<Cursor> {
    let partition_index = i32::try_from(index).unwrap_or(i32::MAX);
    Some(Cursor { topic_name: Str::from(&*topic.topic.name), partition_index })
}

fn absent(name: &str) -> ErrorCode {
    match check_topic_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    }
}

fn unknown(name: Str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: code.0,
        name: Some(name),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn describe(call: &Call, topic: &ServedTopic, first: usize, shown: usize) -> DescribeTopicPartitionsResponseTopic {
    let look = call.shared.leadership.now();
    let described = topic.topic.partitions.iter().skip(first).take(shown);
    let partitions = described.filter_map(|described| {
        let standing = look.standing(topic, described.index)?;
        // As in Metadata.
        let code = if standing.leader.is_some() { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE };
        Some(DescribeTopicPartitionsResponsePartition {
            error_code: code.0,
            partition_index: described.index.0,
            leader_id: standing.leader.map_or(-1, |leader| leader.0),
            leader_epoch: standing.epoch.0,
            replica_nodes: standing.replicas,
            isr_nodes: standing.in_sync,
            // Who may lead besides those in sync is for an election to find out: whoever has what is committed.
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            offline_replicas: standing.offline,
        })
    });
    DescribeTopicPartitionsResponseTopic {
        name: Some(Str::from(&*topic.topic.name)),
        topic_id: topic.topic.id.0,
        is_internal: is_internal_topic(&topic.topic.name),
        partitions: partitions.collect(),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}
