//! OffsetFetch (KIP-447, KIP-709, KIP-848): how far groups have read.
//!
//! Without transactions no offset is ever pending, so that `RequireStable` asks for what is given anyway: an offset is
//! shown when it is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use millpond_coordinator::{CommittedOffset, GroupError, Shard};
use millpond_record::{PartitionIndex, TopicId};
use millpond_wire::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::coordinator::{GROUPS_AT_ONCE, LedForSure};
use crate::dispatch::{Api, Call, CloseReason, Step};
use crate::errors;
use crate::metadata::Snapshot;

pub(crate) const API: Api =
    Api { key: ApiKey::OFFSET_FETCH, advertised: (1, 10), served_from: 1, handle, pipelined: false };

/// From here on the whole answer has an error code; before, each partition has it.
const FIRST_WITH_CODE: i16 = 2;
/// From here on a request names many groups.
const FIRST_WITH_MANY: i16 = 8;
/// From here on topics are named by id.
const FIRST_BY_ID: i16 = 10;
/// Partitions that a request may name: no client follows as many.
const MAX_PARTITIONS: usize = 200_000;
/// What one takes of memory, whose four bytes in the request say little about it.
const WORK_PER_PARTITION: usize = 160;

fn handle(mut call: Call) -> Step {
    let request: OffsetFetchRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let in_topics = request.topics.iter().flatten().map(|topic| topic.partition_indexes.len());
    let in_groups = request.groups.iter().flat_map(|group| group.topics.iter().flatten());
    let partitions: usize = in_topics.chain(in_groups.map(|topic| topic.partition_indexes.len())).sum();
    if partitions > MAX_PARTITIONS {
        let why = format!("it asked for {partitions} committed offsets, more than {MAX_PARTITIONS} at once");
        return Step::Close(CloseReason::Refused(why));
    }
    call.count_work(partitions * WORK_PER_PARTITION);
    Step::Stage(Box::pin(async move {
        if call.version >= FIRST_WITH_MANY {
            let groups = request.groups.iter().map(|group| &group.group_id);
            let led = call.shared.coordinators.led_for_sure(&call.snapshot, groups).await;
            let (asker, led) = (&call, &led);
            let fetched = request.groups.into_iter().map(|group| async move { fetch(asker, led, &group).await });
            let groups = stream::iter(fetched).buffered(GROUPS_AT_ONCE).collect().await;
            return Step::Reply(call.answer(&OffsetFetchResponse { groups, ..Default::default() }));
        }
        let topics = request.topics.map(|topics| {
            let topic = |topic: millpond_wire::offset_fetch::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
                name: topic.name,
                partition_indexes: topic.partition_indexes,
                ..Default::default()
            };
            topics.into_iter().map(topic).collect()
        });
        let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
        let led = call.shared.coordinators.led_for_sure(&call.snapshot, [&group.group_id].into_iter()).await;
        let found = fetch(&call, &led, &group).await;
        Step::Reply(call.answer(&of_one_group(call.version, &group, found)))
    }))
}

/// The answer before there were many groups in one.
fn of_one_group(version: i16, asked: &OffsetFetchRequestGroup, found: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let topics = match found.error_code {
        code if code != 0 && version < FIRST_WITH_CODE => {
            let failed = |topic: &OffsetFetchRequestTopics| {
                let (name, code) = (topic.name.clone(), ErrorCode(code));
                let partitions = topic.partition_indexes.iter().map(|index| partition(*index, None, code)).collect();
                OffsetFetchResponseTopics { name, partitions, ..Default::default() }
            };
            asked.topics.iter().flatten().map(failed).collect()
        }
        _ => found.topics,
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| OffsetFetchResponsePartition {
            partition_index: partition.partition_index,
            committed_offset: partition.committed_offset,
            committed_leader_epoch: partition.committed_leader_epoch,
            metadata: partition.metadata,
            error_code: partition.error_code,
        });
        OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect() }
    });
    OffsetFetchResponse { topics: topics.collect(), error_code: found.error_code, ..Default::default() }
}

async fn fetch(call: &Call, led: &LedForSure, asked: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let group_id = asked.group_id.clone();
    let by_id = call.version >= FIRST_BY_ID;
    let coordinators = &call.shared.coordinators;
    let who = (asked.member_id.clone(), asked.member_epoch);
    let found = match &asked.topics {
        None => {
            let (group, snapshot) = (group_id.clone(), Arc::clone(&call.snapshot));
            let all = move |shard: &Shard| may_fetch(shard, &group, who).map(|()| all(shard, &group, &snapshot));
            coordinators.look_led(led, &call.snapshot, &group_id, all).await
        }
        Some(topics) => {
            let (group, wanted) = (group_id.clone(), resolve(&call.snapshot, topics, by_id));
            let named = move |shard: &Shard| may_fetch(shard, &group, who).map(|()| named(shard, &group, wanted));
            coordinators.look_led(led, &call.snapshot, &group_id, named).await
        }
    };
    match found {
        Ok(Err(error)) => {
            OffsetFetchResponseGroup { group_id, error_code: errors::group(&error).code.0, ..Default::default() }
        }
        Ok(Ok(mut topics)) => {
            if asked.topics.is_none() && by_id {
                // What has no id any more cannot be named.
                let id =
                    |topic: &OffsetFetchResponseTopics| call.snapshot.image.topic(&topic.name).map(|found| found.id);
                topics.retain_mut(|topic| id(topic).map(|id| topic.topic_id = id.0).is_some());
            }
            OffsetFetchResponseGroup { group_id, topics, ..Default::default() }
        }
        Err(unavailable) => {
            OffsetFetchResponseGroup { group_id, error_code: errors::coordinator(unavailable).0, ..Default::default() }
        }
    }
}

/// Whether whoever asks may know: a member of a consumer group must be in its epoch.
fn may_fetch(shard: &Shard, group: &str, (member_id, epoch): (Option<Str>, i32)) -> Result<(), GroupError> {
    shard.may_fetch(group, member_id.as_ref().filter(|id| !id.is_empty()), epoch)
}

/// A topic that is asked for.
struct Wanted {
    /// As the request names it, for the answer.
    asked: OffsetFetchRequestTopics,
    /// `None`: the request names an id that no topic has.
    name: Option<Str>,
    id: TopicId,
}

fn resolve(snapshot: &Snapshot, topics: &[OffsetFetchRequestTopics], by_id: bool) -> Vec<Wanted> {
    let resolve = |asked: &OffsetFetchRequestTopics| {
        let found = match by_id {
            true => snapshot.image.topic_by_id(TopicId(asked.topic_id)),
            false => snapshot.image.topic(&asked.name),
        };
        let id = found.map_or(TopicId::ZERO, |topic| topic.id);
        let name = match by_id {
            true => found.map(|topic| Str::from(&*topic.name)),
            false => Some(asked.name.clone()),
        };
        Wanted { asked: asked.clone(), name, id }
    };
    topics.iter().map(resolve).collect()
}

fn named(shard: &Shard, group: &str, wanted: Vec<Wanted>) -> Vec<OffsetFetchResponseTopics> {
    let topic = |Wanted { asked, name, id }: Wanted| {
        let partitions = asked.partition_indexes.iter().map(|&index| match &name {
            Some(name) => {
                let committed = shard.committed_offset(group, name, id, PartitionIndex(index));
                partition(index, committed, ErrorCode::NONE)
            }
            None => partition(index, None, ErrorCode::UNKNOWN_TOPIC_ID),
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopics { name: asked.name, topic_id: asked.topic_id, partitions }
    };
    wanted.into_iter().map(topic).collect()
}

/// Offsets of all topics that there are. Those of a topic that is gone may be there a little longer.
fn all(shard: &Shard, group: &str, snapshot: &Snapshot) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: BTreeMap<&Str, Vec<OffsetFetchResponsePartitions>> = BTreeMap::new();
    let exists = |topic: &str, committed: &CommittedOffset| {
        let found = snapshot.image.topic(topic);
        found.is_some_and(|found| committed.topic_id == TopicId::ZERO || committed.topic_id == found.id)
    };
    for (topic, index, committed) in shard.committed_offsets(group) {
        if !exists(topic, committed) {
            continue;
        }
        topics.entry(topic).or_default().push(partition(index.0, Some(committed), ErrorCode::NONE));
    }
    let topic = |(name, partitions): (&Str, _)| OffsetFetchResponseTopics {
        name: name.clone(),
        partitions,
        ..Default::default()
    };
    topics.into_iter().map(topic).collect()
}

/// An offset, or that there is none, which is no error.
fn partition(index: i32, committed: Option<&CommittedOffset>, code: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: committed.map_or(-1, |committed| committed.offset.0),
        committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
        metadata: Some(committed.map(|committed| committed.metadata.clone()).unwrap_or_default()),
        error_code: code.0,
    }
}
