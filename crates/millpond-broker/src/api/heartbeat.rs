//! Heartbeat: a member of a classic group is alive, and hears whether it must join again.

use millpond_coordinator::Reply;
use millpond_wire::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::HEARTBEAT, advertised: (0, 4), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: HeartbeatRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let group = request.group_id.clone();
        let answer = call.ask_group(&group, move |shard, ticket, now| shard.heartbeat(ticket, now, &request)).await;
        let code = match answer {
            Ok(Reply::Heartbeat(Ok(()))) => ErrorCode::NONE,
            Ok(Reply::Heartbeat(Err(error))) => errors::group(&error).code,
            Ok(_) => unreachable!("a heartbeat is answered as one"),
            Err(unavailable) => errors::coordinator(unavailable),
        };
        Step::Reply(call.answer(&HeartbeatResponse { error_code: code.0, ..Default::default() }))
    }))
}
