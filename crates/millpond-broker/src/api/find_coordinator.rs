//! FindCoordinator (KIP-699, KIP-907): which broker keeps a group, or a producer's transactions.
//!
//! The first look for a group makes `__consumer_offsets`, and is answered when its partitions take writes; Kafka
//! answers COORDINATOR_NOT_AVAILABLE and has the client ask again.

use std::sync::Arc;

use millpond_cluster::OFFSETS_TOPIC_NAME;
use millpond_record::BrokerId;
use millpond_wire::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::coordinator::{offsets_topic, partition_of};
use crate::dispatch::{Api, Call, Step};
use crate::leadership::Look;
use crate::metadata::Snapshot;

pub(crate) const API: Api =
    Api { key: ApiKey::FIND_COORDINATOR, advertised: (0, 6), served_from: 0, handle, pipelined: false };

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// From here on many keys are asked for at once.
const FIRST_WITH_MANY: i16 = 4;

fn handle(mut call: Call) -> Step {
    let request: FindCoordinatorRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    match request.key_type {
        GROUP => Step::Stage(Box::pin(async move {
            let snapshot = offsets_topic(&call.shared, &call.snapshot).await;
            let look = call.shared.leadership.now();
            let found = |group: &Str| find(snapshot.as_ref(), &look, group);
            Step::Reply(call.answer(&respond(&call, &request, found)))
        })),
        // Any broker will do: that it serves no transactions is InitProducerId's to say, where clients take it as
        // final.
        TRANSACTION => {
            let here = |_: &Str| address(&call.snapshot, call.shared.node);
            Step::Reply(call.answer(&respond(&call, &request, here)))
        }
        _ => {
            let refused = |_: &Str| Err(ErrorCode::INVALID_REQUEST);
            Step::Reply(call.answer(&respond(&call, &request, refused)))
        }
    }
}

/// The broker that leads the partition which keeps a group.
fn find(snapshot: Option<&Arc<Snapshot>>, look: &Look<'_>, group: &str) -> Result<Coordinator, ErrorCode> {
    let snapshot = snapshot.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let topic = snapshot.topic(OFFSETS_TOPIC_NAME).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let standing = look.standing(topic, partition_of(group, topic.partition_count()));
    let leader = standing.and_then(|standing| standing.leader).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    address(snapshot, leader)
}

fn address(snapshot: &Snapshot, broker: BrokerId) -> Result<Coordinator, ErrorCode> {
    let broker = snapshot.image.broker(broker).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let (host, port) = (broker.host.as_str().into(), i32::from(broker.port));
    Ok(Coordinator { node_id: broker.id.0, host, port, ..Coordinator::default() })
}

fn respond(
    call: &Call,
    request: &FindCoordinatorRequest,
    find: impl Fn(&Str) -> Result<Coordinator, ErrorCode>,
) -> FindCoordinatorResponse {
    let answer = |key: &Str| match find(key) {
        Ok(found) => Coordinator { key: key.clone(), ..found },
        Err(code) => {
            let message = match code {
                ErrorCode::INVALID_REQUEST => "a coordinator is looked for by key type 0 (groups) or 1 (transactions)",
                _ => "the coordinator is not available now",
            };
            Coordinator {
                key: key.clone(),
                node_id: -1,
                port: -1,
                error_code: code.0,
                error_message: Some(Str::from_static(message)),
                ..Coordinator::default()
            }
        }
    };
    if call.version >= FIRST_WITH_MANY {
        let coordinators = request.coordinator_keys.iter().map(answer).collect();
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let Coordinator { node_id, host, port, error_code, error_message, .. } = answer(&request.key);
    FindCoordinatorResponse { error_code, error_message, node_id, host, port, ..Default::default() }
}
