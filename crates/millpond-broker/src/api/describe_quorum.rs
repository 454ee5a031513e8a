//! DescribeQuorum (KIP-595, KIP-836, KIP-853): who leads the metadata group, and how far its replicas are. Offsets are
//! positions in the Raft log, as in Kafka.

use millpond_cluster::Image;
use millpond_raft::GroupMember;
use millpond_record::RaftIndex;
use millpond_wire::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, Listener, Node, ReplicaState, ResponsePartitionData,
    ResponseTopicData,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::dispatch::{Api, Call, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_QUORUM, advertised: (0, 2), served_from: 0, handle, pipelined: false };

const METADATA_TOPIC: &str = "__cluster_metadata";
/// The name of the listener that brokers are told of.
const LISTENER: &str = "PEER";
/// From here on data directories, and the addresses of brokers, are told.
const FIRST_WITH_DIRECTORIES: i16 = 2;
const UNKNOWN: i64 = -1;

fn handle(mut call: Call) -> Step {
    let request: DescribeQuorumRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let image = call.shared.controller.image();
    let topics = request.topics.iter().map(|topic| ResponseTopicData {
        topic_name: topic.topic_name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| match (&*topic.topic_name, partition.partition_index) {
                (METADATA_TOPIC, 0) => metadata_log(&call, &image),
                (_, index) => failed(index, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            })
            .collect(),
    });
    let response = DescribeQuorumResponse {
        error_code: ErrorCode::NONE.0,
        error_message: None,
        topics: topics.collect(),
        nodes: if call.version >= FIRST_WITH_DIRECTORIES { nodes(&image) } else { Vec::new() },
    };
    Step::Reply(call.answer(&response))
}

fn failed(index: i32, code: ErrorCode) -> ResponsePartitionData {
    ResponsePartitionData { partition_index: index, error_code: code.0, error_message: None, ..Default::default() }
}

/// Only the leader knows how far the others are.
fn metadata_log(call: &Call, image: &Image) -> ResponsePartitionData {
    let shared = &call.shared;
    let leadership = *shared.controller.leadership().borrow();
    if !leadership.here {
        return failed(0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
    let now = shared.runtime.wall_clock();
    let members = shared.metadata_group.members();
    let state = |member: &GroupMember| {
        let leads = member.broker == shared.node;
        let matched = if leads { shared.controller.applied_index().max(member.matched) } else { member.matched };
        let directory = image.broker(member.broker).map(|broker| broker.directory.0);
        ReplicaState {
            replica_id: member.broker.0,
            replica_directory_id: directory.filter(|_| call.version >= FIRST_WITH_DIRECTORIES).unwrap_or_default(),
            log_end_offset: end(matched),
            last_fetch_timestamp: UNKNOWN,
            last_caught_up_timestamp: if leads { now } else { UNKNOWN },
        }
    };
    ResponsePartitionData {
        partition_index: 0,
        error_code: ErrorCode::NONE.0,
        error_message: None,
        leader_id: shared.node.0,
        leader_epoch: i32::try_from(leadership.term.0).unwrap_or(i32::MAX),
        high_watermark: end(shared.controller.applied_index()),
        current_voters: members.iter().filter(|member| member.voter).map(state).collect(),
        observers: members.iter().filter(|member| !member.voter).map(state).collect(),
    }
}

/// Behind the last entry.
fn end(last: Option<RaftIndex>) -> i64 {
    last.map_or(UNKNOWN, |last| i64::try_from(last.0).map_or(i64::MAX, |last| last.saturating_add(1)))
}

fn nodes(image: &Image) -> Vec<Node> {
    let nodes = image.brokers().filter_map(|broker| {
        let address: millpond_runtime::HostPort = broker.peer.parse().ok()?;
        let listener =
            Listener { name: Str::from_static(LISTENER), host: address.host.as_str().into(), port: address.port };
        Some(Node { node_id: broker.id.0, listeners: vec![listener] })
    });
    nodes.collect()
}
