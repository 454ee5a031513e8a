//! Groups whose coordinator goes away.

use super::{Cluster, create};
use crate::support::{Client, assert_code, until};
use millpond_wire::ErrorCode;
use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::list_groups::ListGroupsRequest;
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};

/// The broker that coordinates the group "g", and is one of `nodes`.
pub fn coordinator(client: &mut Client, nodes: &[i32]) -> i32 {
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let mut found = -1;
    until("there is a coordinator", || {
        let one = client.call(4, &request).coordinators.remove(0);
        found = one.node_id;
        one.error_code == 0 && nodes.contains(&found)
    });
    found
}

fn commit(client: &mut Client, offset: i64) -> ErrorCode {
    commit_of(client, "t", offset)
}

/// Commits an offset of the topic's first partition for the group "g".
pub fn commit_of(client: &mut Client, topic: &str, offset: i64) -> ErrorCode {
    let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let topic = OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    ErrorCode(client.call(9, &request).topics[0].partitions[0].error_code)
}

fn committed(client: &mut Client) -> (ErrorCode, i64) {
    let topic = OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0], ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: Some(vec![topic]), ..Default::default() };
    let answer = client.call(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() }).groups.remove(0);
    let offset = answer.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
    (ErrorCode(answer.error_code), offset)
}

#[test]
fn a_group_goes_on_when_its_coordinator_is_gone() {
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    let first = coordinator(&mut cluster.client(1), &[1, 2, 3]);
    let others = super::others(first);
    for node in &others {
        let mut client = cluster.client(*node);
        assert_eq!(coordinator(&mut client, &[1, 2, 3]), first, "all brokers name the same");
        assert_eq!(commit(&mut client, 5), ErrorCode::NOT_COORDINATOR);
        assert_eq!(committed(&mut client).0, ErrorCode::NOT_COORDINATOR);
    }
    let mut client = cluster.client(first);
    until("the coordinator is loaded", || commit(&mut client, 7) == ErrorCode::NONE);
    assert_eq!(committed(&mut client), (ErrorCode::NONE, 7));
    let listed = |client: &mut Client| {
        let answer = client.call(4, &ListGroupsRequest::default());
        assert_code(answer.error_code, ErrorCode::NONE);
        answer.groups.len()
    };
    assert_eq!(listed(&mut client), 1);
    assert_eq!(listed(&mut cluster.client(others[0])), 0, "a broker lists what it coordinates");
    drop(client);

    cluster.kill(first);
    let next = coordinator(&mut cluster.client(others[0]), &others);
    let mut client = cluster.client(next);
    until("the next coordinator has the group", || committed(&mut client) == (ErrorCode::NONE, 7));
    assert_eq!(commit(&mut client, 8), ErrorCode::NONE);
    assert_eq!(committed(&mut client), (ErrorCode::NONE, 8));
}
