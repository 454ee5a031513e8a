//! OffsetCommit (KIP-211, KIP-320, KIP-848): a member of a group, or whoever uses a group for its offsets alone, says
//! how far it has read. The answer comes when that is on disk, and does not hold up later commits of the connection.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_coordinator::{CommitOffsets, Committer, Effects, OffsetToCommit, Reply as GroupReply, Shard};
use millpond_record::{Offset, PartitionIndex, TopicId};
use millpond_wire::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::dispatch::{Api, Call, Reply, Step};
use crate::errors;
use crate::metadata::{ServedTopic, Snapshot};

pub(crate) const API: Api =
    Api { key: ApiKey::OFFSET_COMMIT, advertised: (2, 10), served_from: 2, handle, pipelined: true };

/// From here on topics are named by id.
const FIRST_BY_ID: i16 = 10;

fn handle(mut call: Call) -> Step {
    let request: OffsetCommitRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let Sorted { mut topics, offsets, places } = sort(&call.snapshot, &request, call.version >= FIRST_BY_ID);
    if offsets.is_empty() {
        return Step::Reply(call.answer(&OffsetCommitResponse { topics, ..Default::default() }));
    }
    let group = request.group_id.clone();
    let commit = CommitOffsets {
        group_id: request.group_id,
        committer: Committer {
            member_id: request.member_id,
            instance_id: request.group_instance_id,
            generation: request.generation_id_or_member_epoch,
        },
        version: call.version,
        retention_ms: Some(request.retention_time_ms).filter(|retention| *retention >= 0),
        offsets,
    };
    let (metadata, seen) = (Arc::clone(&call.shared.metadata), Arc::clone(&call.snapshot));
    let asked = call.ask_group(&group, move |shard, ticket, now| {
        let mut effects = shard.commit_offsets(ticket, now, &commit);
        forget_deleted(shard, &commit, &seen, &metadata.snapshot(), &mut effects);
        effects
    });
    Step::Reply(Reply::Later(Box::pin(async move {
        let code_of_all = match asked.await {
            Ok(GroupReply::CommitOffsets(Ok(committed))) => {
                let count = committed.iter().filter(|result| result.is_ok()).count();
                call.shared.metrics.offset_commits.increment(count as u64);
                for ((topic, partition), result) in places.into_iter().zip(committed) {
                    let code = result.err().map_or(ErrorCode::NONE, |error| errors::commit(&error, call.version).code);
                    topics[topic].partitions[partition].error_code = code.0;
                }
                return call.answer(&OffsetCommitResponse { topics, ..Default::default() });
            }
            Ok(GroupReply::CommitOffsets(Err(error))) => errors::commit(&error, call.version).code,
            Ok(_) => unreachable!("a commit is answered as one"),
            Err(unavailable) => errors::coordinator(unavailable),
        };
        for (topic, partition) in places {
            topics[topic].partitions[partition].error_code = code_of_all.0;
        }
        call.answer(&OffsetCommitResponse { topics, ..Default::default() })
    })))
}

/// A topic that was deleted between the look at the request and its turn takes its offsets along, as if the commit had
/// come just before: the coordinator may have been told of the deletion already, and is not told twice.
fn forget_deleted(
    shard: &mut Shard,
    commit: &CommitOffsets,
    seen: &Arc<Snapshot>,
    now: &Arc<Snapshot>,
    to: &mut Effects,
) {
    if Arc::ptr_eq(seen, now) {
        return;
    }
    let topics: BTreeSet<(&Str, TopicId)> = commit.offsets.iter().map(|one| (&one.topic, one.topic_id)).collect();
    for (topic, id) in topics.into_iter().filter(|(_, id)| now.image.topic_by_id(*id).is_none()) {
        to.records.extend(shard.on_topic_deleted(topic, id).records);
    }
}

/// A request, sorted by whether its partitions exist.
struct Sorted {
    /// The answer; what does not exist has its error.
    topics: Vec<OffsetCommitResponseTopic>,
    /// Of partitions that exist.
    offsets: Vec<OffsetToCommit>,
    /// Where each of them is in the answer: topic, partition.
    places: Vec<(usize, usize)>,
}

fn sort(snapshot: &Snapshot, request: &OffsetCommitRequest, by_id: bool) -> Sorted {
    let (mut offsets, mut places) = (Vec::new(), Vec::new());
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let found = find(snapshot, asked, by_id);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let index = PartitionIndex(partition.partition_index);
            let code = match found {
                Ok(topic) if topic.described(index).is_some() => {
                    places.push((topics.len(), partitions.len()));
                    offsets.push(OffsetToCommit {
                        topic: if by_id { Str::from(&*topic.topic.name) } else { asked.name.clone() },
                        topic_id: topic.topic.id,
                        partition: index,
                        offset: Offset(partition.committed_offset),
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.committed_metadata.clone().unwrap_or_default(),
                    });
                    ErrorCode::NONE
                }
                Ok(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Err(code) => code,
            };
            partitions.push(OffsetCommitResponsePartition { partition_index: index.0, error_code: code.0 });
        }
        topics.push(OffsetCommitResponseTopic { name: asked.name.clone(), topic_id: asked.topic_id, partitions });
    }
    Sorted { topics, offsets, places }
}

fn find<'a>(
    snapshot: &'a Snapshot,
    asked: &OffsetCommitRequestTopic,
    by_id: bool,
) -> Result<&'a Arc<ServedTopic>, ErrorCode> {
    match by_id {
        true => snapshot.topic_by_id(TopicId(asked.topic_id)).ok_or(ErrorCode::UNKNOWN_TOPIC_ID),
        false => snapshot.topic(&asked.name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    }
}
