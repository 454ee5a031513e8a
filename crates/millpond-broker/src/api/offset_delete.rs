//! OffsetDelete (KIP-496): forgets offsets that a group has committed.

use millpond_coordinator::{OffsetToDelete, Reply};
use millpond_record::PartitionIndex;
use millpond_wire::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::OFFSET_DELETE, advertised: (0, 0), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: OffsetDeleteRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let (mut topics, mut wanted, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for asked in &request.topics {
        let served = call.snapshot.topic(&asked.name);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let index = PartitionIndex(partition.partition_index);
            let mut answer = OffsetDeleteResponsePartition { partition_index: index.0, error_code: 0 };
            if served.is_some_and(|topic| topic.described(index).is_some()) {
                places.push((topics.len(), partitions.len()));
                wanted.push(OffsetToDelete { topic: asked.name.clone(), partition: index });
            } else {
                answer.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
            }
            partitions.push(answer);
        }
        topics.push(OffsetDeleteResponseTopic { name: asked.name.clone(), partitions });
    }
    Step::Stage(Box::pin(async move {
        let group = request.group_id.clone();
        let delete =
            call.ask_group(&group, move |shard, ticket, _| shard.delete_offsets(ticket, &request.group_id, &wanted));
        let error_code = match delete.await {
            Ok(Reply::DeleteOffsets(Ok(deleted))) => {
                for ((topic, partition), result) in places.into_iter().zip(deleted) {
                    let code = result.err().map_or(ErrorCode::NONE, |error| errors::group(&error).code);
                    topics[topic].partitions[partition].error_code = code.0;
                }
                return Step::Reply(call.answer(&OffsetDeleteResponse { topics, ..Default::default() }));
            }
            Ok(Reply::DeleteOffsets(Err(error))) => errors::group(&error).code,
            Ok(_) => unreachable!("a deletion of offsets is answered as one"),
            Err(unavailable) => errors::coordinator(unavailable),
        };
        Step::Reply(call.answer(&OffsetDeleteResponse { error_code: error_code.0, ..Default::default() }))
    }))
}
