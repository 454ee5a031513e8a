//! SyncGroup (KIP-345, KIP-559): the leader of a classic group's generation brings the assignments, and each member
//! waits for its own.

use millpond_coordinator::Reply;
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupResponse};
use millpond_wire::{ApiKey, ErrorCode};

use crate::coordinator::KnownTopics;
use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::SYNC_GROUP, advertised: (0, 5), served_from: 0, handle, pipelined: false };

/// From here on a member must say which protocol it follows.
const FIRST_WITH_PROTOCOL: i16 = 5;

fn handle(mut call: Call) -> Step {
    let request: SyncGroupRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let named = request.protocol_type.is_some() && request.protocol_name.is_some();
    if call.version >= FIRST_WITH_PROTOCOL && !named {
        return Step::Reply(call.answer(&refused(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)));
    }
    Step::Stage(Box::pin(async move {
        // A member may wait for long, and must not keep the frame.
        let group = request.group_id.detached();
        let metadata = std::sync::Arc::clone(&call.shared.metadata);
        let answer = call.ask_group(&group, move |shard, ticket, now| {
            shard.sync(ticket, now, &request, &KnownTopics::now(&metadata))
        });
        let response = match answer.await {
            Ok(Reply::Sync(Ok(synced))) => SyncGroupResponse {
                protocol_type: synced.protocol_type,
                protocol_name: synced.protocol,
                assignment: synced.assignment,
                ..Default::default()
            },
            Ok(Reply::Sync(Err(error))) => refused(errors::group(&error).code),
            Ok(_) => unreachable!("a sync is answered as one"),
            Err(unavailable) => refused(errors::coordinator(unavailable)),
        };
        Step::Reply(call.answer(&response))
    }))
}

fn refused(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: code.0, ..Default::default() }
}
