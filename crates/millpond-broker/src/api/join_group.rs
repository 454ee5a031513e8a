//! JoinGroup (KIP-345, KIP-394, KIP-559, KIP-800, KIP-814): a member enters a classic group, or the group's next
//! generation. The answer comes when the generation is complete.

use millpond_coordinator::{JoinContext, JoinReply, Joined, Reply};
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::coordinator::KnownTopics;
use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::JOIN_GROUP, advertised: (0, 9), served_from: 0, handle, pipelined: false };

/// From here on an answer may name no protocol.
const FIRST_WITHOUT_PROTOCOL: i16 = 7;

/// The most protocols that a member may offer; clients offer a handful. All that members offer is compared in every
/// rebalance, each with each.
const MAX_PROTOCOLS: usize = 32;

fn handle(mut call: Call) -> Step {
    let request: JoinGroupRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if request.protocols.len() > MAX_PROTOCOLS {
        return Step::Reply(refused(&call, request.member_id, ErrorCode::INVALID_REQUEST));
    }
    Step::Stage(Box::pin(async move {
        // A member may wait for long, and must not keep the frame.
        let (group, member_id) = (request.group_id.detached(), request.member_id.detached());
        let context = context(&call, &member_id);
        let metadata = std::sync::Arc::clone(&call.shared.metadata);
        let answer = call.ask_group(&group, move |shard, ticket, now| {
            shard.join(ticket, now, &request, &context, &KnownTopics::now(&metadata))
        });
        let answer = answer.await;
        let JoinReply { member_id, outcome } = match answer {
            Ok(Reply::Join(reply)) => reply,
            Ok(_) => unreachable!("a join is answered as one"),
            Err(unavailable) => return Step::Reply(refused(&call, member_id, errors::coordinator(unavailable))),
        };
        Step::Reply(match outcome {
            Ok(joined) => {
                call.shared.metrics.group_joins.increment(1);
                call.answer(&response(&call, member_id, joined))
            }
            Err(error) => refused(&call, member_id, errors::group(&error).code),
        })
    }))
}

/// Who asks, and a random number for its id if it has none: a member that has one sends a heartbeat with it every few
/// seconds, and the number is a system call.
pub(super) fn context(call: &Call, member_id: &str) -> JoinContext {
    let mut random = [0; 16];
    if member_id.is_empty() {
        call.shared.runtime.fill_random(&mut random);
    }
    JoinContext {
        version: call.version,
        client_id: call.client_id(),
        client_host: format!("/{}", call.peer.ip()).into(),
        random: u128::from_be_bytes(random),
    }
}

fn response(call: &Call, member_id: Str, joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| JoinGroupResponseMember {
        member_id: member.member_id,
        group_instance_id: member.instance_id,
        metadata: member.metadata,
    });
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: joined.protocol_type,
        protocol_name: protocol_name(call.version, joined.protocol),
        leader: joined.leader,
        skip_assignment: joined.skip_assignment,
        member_id,
        members: members.collect(),
        ..Default::default()
    }
}

fn refused(call: &Call, member_id: Str, code: ErrorCode) -> crate::dispatch::Reply {
    let protocol_name = protocol_name(call.version, None);
    call.answer(&JoinGroupResponse { error_code: code.0, protocol_name, member_id, ..Default::default() })
}

fn protocol_name(version: i16, name: Option<Str>) -> Option<Str> {
    name.or((version < FIRST_WITHOUT_PROTOCOL).then_some(Str::EMPTY))
}
