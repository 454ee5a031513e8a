//! ListPartitionReassignments (KIP-455): partitions whose replicas are on the move.

use std::collections::BTreeMap;

use millpond_cluster::{Moving, Replica, moving};
use millpond_wire::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};
use millpond_wire::{ApiKey, Str};

use crate::dispatch::{Api, Call, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::LIST_PARTITION_REASSIGNMENTS, advertised: (0, 0), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: ListPartitionReassignmentsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let wanted = |moving: &Moving<'_>| {
        request.topics.as_ref().is_none_or(|topics| {
            let mut named = topics.iter().filter(|topic| *topic.name == *moving.topic.name);
            named.any(|topic| topic.partition_indexes.contains(&moving.partition.index.0))
        })
    };
    let mut topics: BTreeMap<Str, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    for one in moving(&call.snapshot.image).filter(wanted) {
        topics.entry(Str::from(&*one.topic.name)).or_default().push(ongoing(&one));
    }
    let topics = topics.into_iter().map(|(name, partitions)| OngoingTopicReassignment { name, partitions });
    let topics = topics.collect();
    let response = ListPartitionReassignmentsResponse { error_message: None, topics, ..Default::default() };
    Step::Reply(call.answer(&response))
}

/// As Kafka tells it: all that there are, and which of them come and go.
fn ongoing(moving: &Moving<'_>) -> OngoingPartitionReassignment {
    let partition = moving.partition;
    let broker = |replica: &Replica| replica.broker.0;
    let adding = partition.replicas.iter().filter(|replica| partition.adding.contains(&replica.id));
    OngoingPartitionReassignment {
        partition_index: partition.index.0,
        replicas: partition.all_replicas().map(broker).collect(),
        adding_replicas: adding.map(broker).collect(),
        removing_replicas: partition.removing.iter().map(broker).collect(),
    }
}
