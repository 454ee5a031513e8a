//! AlterPartitionReassignments (KIP-455): which brokers a partition's replicas are to be on. It is answered when the
//! move is decided; the replicas are moved live, and ListPartitionReassignments tells how far that is.

use millpond_cluster::{ReassignError, Reassignment, reassign_partitions};
use millpond_record::{BrokerId, PartitionIndex};
use millpond_wire::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartitionResponse,
    ReassignableTopicResponse,
};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::ALTER_PARTITION_REASSIGNMENTS, advertised: (0, 1), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: AlterPartitionReassignmentsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let wanted: Vec<Reassignment> = wanted(&request);
        let allow = request.allow_replication_factor_change;
        let controller = call.controller();
        let decided = controller.change(move |image| {
            let decision = reassign_partitions(image, &wanted, allow);
            (decision.results, decision.records)
        });
        let response = match decided.await {
            Ok(decided) => respond(&request, decided.decision),
            Err(error) => {
                let fault = errors::controller(&error);
                AlterPartitionReassignmentsResponse {
                    error_code: fault.code.0,
                    error_message: fault.message,
                    ..Default::default()
                }
            }
        };
        Step::Reply(call.answer(&response))
    }))
}

fn wanted(request: &AlterPartitionReassignmentsRequest) -> Vec<Reassignment> {
    let partitions = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Reassignment {
            topic: topic.name.to_string(),
            partition: PartitionIndex(partition.partition_index),
            target: partition.replicas.as_ref().map(|ids| ids.iter().copied().map(BrokerId).collect()),
        })
    });
    partitions.collect()
}

/// `results`: one for each partition, in the request's order.
fn respond(
    request: &AlterPartitionReassignmentsRequest,
    results: Vec<Result<(), ReassignError>>,
) -> AlterPartitionReassignmentsResponse {
    let mut results = results.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut results).map(|(partition, result)| {
            let fault = result.err().map(|error| errors::reassign(&error));
            let fault = fault.unwrap_or(Fault { code: ErrorCode::NONE, message: None });
            ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code: fault.code.0,
                error_message: fault.message,
            }
        });
        ReassignableTopicResponse { name: topic.name.clone(), partitions: partitions.collect() }
    });
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses: topics.collect(),
        ..Default::default()
    }
}
