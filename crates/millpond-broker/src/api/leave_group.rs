//! LeaveGroup (KIP-345, KIP-800): members of a classic group go, or an admin takes them out.

use millpond_coordinator::Reply;
use millpond_wire::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::LEAVE_GROUP, advertised: (0, 5), served_from: 0, handle, pipelined: false };

/// From here on a request names many members.
const FIRST_WITH_MANY: i16 = 3;

fn handle(mut call: Call) -> Step {
    let mut request: LeaveGroupRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if call.version < FIRST_WITH_MANY {
        request.members = vec![MemberIdentity { member_id: request.member_id.clone(), ..Default::default() }];
    }
    Step::Stage(Box::pin(async move {
        let (group, members) = (request.group_id.clone(), request.members.clone());
        let leave = call
            .ask_group(&group, move |shard, ticket, now| shard.leave(ticket, now, &request.group_id, &request.members));
        let answer = leave.await;
        let left = match answer {
            Ok(Reply::Leave(Ok(left))) => left,
            Ok(Reply::Leave(Err(error))) => return Step::Reply(call.answer(&refused(errors::group(&error).code))),
            Ok(_) => unreachable!("a leave is answered as one"),
            Err(unavailable) => return Step::Reply(call.answer(&refused(errors::coordinator(unavailable)))),
        };
        let codes = left.into_iter().map(|result| result.err().map_or(ErrorCode::NONE, |e| errors::group(&e).code));
        let answers = members.into_iter().zip(codes).map(|(member, code)| MemberResponse {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            error_code: code.0,
        });
        let members: Vec<MemberResponse> = answers.collect();
        if call.version >= FIRST_WITH_MANY {
            return Step::Reply(call.answer(&LeaveGroupResponse { members, ..Default::default() }));
        }
        let code = members.first().map_or(0, |member| member.error_code);
        Step::Reply(call.answer(&refused(ErrorCode(code))))
    }))
}

fn refused(code: ErrorCode) -> LeaveGroupResponse {
    LeaveGroupResponse { error_code: code.0, ..Default::default() }
}
