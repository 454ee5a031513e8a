//! ConsumerGroupHeartbeat (KIP-848): a member of a consumer group joins, stays or leaves, and is told its partitions.

use millpond_coordinator::{ConsumerHeartbeat, Reply};
use millpond_wire::ApiKey;
use millpond_wire::consumer_group_heartbeat::{
    Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};

use super::join_group::context;
use crate::coordinator::KnownTopics;
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::CONSUMER_GROUP_HEARTBEAT, advertised: (0, 1), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: ConsumerGroupHeartbeatRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let (group, context) = (request.group_id.clone(), context(&call, &request.member_id));
        let metadata = std::sync::Arc::clone(&call.shared.metadata);
        let answer = call.ask_group(&group, move |shard, ticket, now| {
            shard.consumer_heartbeat(ticket, now, &request, &context, &KnownTopics::now(&metadata))
        });
        let response = match answer.await {
            Ok(Reply::ConsumerHeartbeat(Ok(beat))) => response(beat),
            Ok(Reply::ConsumerHeartbeat(Err(error))) => refused(errors::group(&error)),
            Ok(_) => unreachable!("a heartbeat is answered as one"),
            Err(unavailable) => refused(errors::coordinator(unavailable).into()),
        };
        Step::Reply(call.answer(&response))
    }))
}

fn response(beat: ConsumerHeartbeat) -> ConsumerGroupHeartbeatResponse {
    let assignment = beat.assignment.map(|topics| {
        let topics = topics.into_iter().map(|(id, partitions)| TopicPartitions { topic_id: id.0, partitions });
        Assignment { topic_partitions: topics.collect() }
    });
    ConsumerGroupHeartbeatResponse {
        member_id: Some(beat.member_id),
        member_epoch: beat.member_epoch,
        heartbeat_interval_ms: beat.interval_ms,
        assignment,
        ..Default::default()
    }
}

fn refused(fault: Fault) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse { error_code: fault.code.0, error_message: fault.message, ..Default::default() }
}
