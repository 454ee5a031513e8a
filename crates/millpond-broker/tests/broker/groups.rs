//! Groups and committed offsets, as raw clients see them: across restarts, lost connections and stops. What a
//! group does is tested in `millpond-coordinator`; here it is whether what it needs of the broker is there.

use std::time::{Duration, Instant};

use crate::support::{Client, Served, assert_code};
use millpond_wire::consumer_group_describe::ConsumerGroupDescribeRequest;
use millpond_wire::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use millpond_wire::delete_groups::DeleteGroupsRequest;
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::describe_groups::{DescribeGroupsRequest, DescribedGroup};
use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use millpond_wire::leave_group::{LeaveGroupRequest, MemberIdentity};
use millpond_wire::list_groups::ListGroupsRequest;
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use millpond_wire::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use millpond_wire::{ErrorCode, Str};

/// A broker with a topic "t", and with its coordinators found.
fn served() -> (Served, Client) {
    let served = Served::start();
    let mut client = served.client();
    client.create("t", 2, &[]);
    find(&mut client);
    (served, client)
}

fn find(client: &mut Client) {
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    assert_code(client.call(4, &request).coordinators[0].error_code, ErrorCode::NONE);
}

fn join_request(group: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Default::default() };
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member.into(),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

/// Joins under an id that the group gives first.
fn join(client: &mut Client, group: &str) -> JoinGroupResponse {
    let id = member_id(client, group);
    client.call(9, &join_request(group, &id))
}

fn member_id(client: &mut Client, group: &str) -> Str {
    let answer = client.call(9, &join_request(group, ""));
    assert_code(answer.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    answer.member_id
}

/// Syncs as the leader, who gives everything to itself.
fn sync(client: &mut Client, group: &str, joined: &JoinGroupResponse) -> SyncGroupResponse {
    let own = SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment: "all".into() };
    let request = SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: vec![own],
        ..Default::default()
    };
    client.call(5, &request)
}

/// A group with one member that has its assignment.
fn stable(client: &mut Client, group: &str) -> JoinGroupResponse {
    let joined = join(client, group);
    assert_code(joined.error_code, ErrorCode::NONE);
    assert_code(sync(client, group, &joined).error_code, ErrorCode::NONE);
    joined
}

fn heartbeat(client: &mut Client, group: &str, of: &JoinGroupResponse) -> ErrorCode {
    let (generation_id, member_id) = (of.generation_id, of.member_id.clone());
    let request = HeartbeatRequest { group_id: group.into(), generation_id, member_id, ..Default::default() };
    ErrorCode(client.call(4, &request).error_code)
}

fn commit_request(group: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_metadata: Some("note".into()),
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

/// Commits an offset of partition 0 from outside the group.
fn commit(client: &mut Client, group: &str, topic: &str, offset: i64) -> ErrorCode {
    ErrorCode(client.call(9, &commit_request(group, topic, offset)).topics[0].partitions[0].error_code)
}

/// The committed offset of partition 0.
fn committed(client: &mut Client, group: &str, topic: &str) -> i64 {
    let topic = OffsetFetchRequestTopics { name: topic.into(), partition_indexes: vec![0], ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() };
    let answer = client.call(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() }).groups.remove(0);
    assert_code(answer.error_code, ErrorCode::NONE);
    assert_code(answer.topics[0].partitions[0].error_code, ErrorCode::NONE);
    answer.topics[0].partitions[0].committed_offset
}

fn describe(client: &mut Client, group: &str) -> DescribedGroup {
    let request = DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
    client.call(5, &request).groups.remove(0)
}

/// Group and state of each, in the order of the names.
fn list(client: &mut Client, states: &[&str]) -> Vec<(String, String)> {
    let states_filter = states.iter().copied().map(Str::from).collect();
    let answer = client.call(5, &ListGroupsRequest { states_filter, ..Default::default() });
    assert_code(answer.error_code, ErrorCode::NONE);
    let groups = answer.groups.into_iter();
    let mut groups: Vec<_> = groups.map(|group| (group.group_id.to_string(), group.group_state.to_string())).collect();
    groups.sort_unstable();
    groups
}

fn delete_topic(client: &mut Client, topic: &str) {
    let topic = DeleteTopicState { name: Some(topic.into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_code(client.call(6, &request).responses[0].error_code, ErrorCode::NONE);
}

#[test]
fn a_member_and_its_offsets_outlive_a_restart_of_the_broker() {
    let (mut served, mut client) = served();
    let joined = stable(&mut client, "g");
    let request = OffsetCommitRequest {
        generation_id_or_member_epoch: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..commit_request("g", "t", 42)
    };
    assert_code(client.call(9, &request).topics[0].partitions[0].error_code, ErrorCode::NONE);
    served.restart();
    let mut client = served.client();
    assert_eq!(heartbeat(&mut client, "g", &joined), ErrorCode::NONE);
    assert_eq!(committed(&mut client, "g", "t"), 42);
    let described = describe(&mut client, "g");
    assert_eq!((&*described.group_state, &*described.protocol_data), ("Stable", "range"));
    let member = &described.members[0];
    assert_eq!((&member.member_id, &member.member_assignment[..]), (&joined.member_id, &b"all"[..]));
    assert_eq!((&*member.client_id, &*member.client_host), ("test", "/127.0.0.1"));
    assert_eq!(commit(&mut client, "g", "t", 43), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn every_group_is_listed_after_a_restart_although_none_is_loaded() {
    let (mut served, mut client) = served();
    assert!(list(&mut client, &[]).is_empty());
    for group in ["a", "b", "c", "d"] {
        assert_eq!(commit(&mut client, group, "t", 5), ErrorCode::NONE);
    }
    stable(&mut client, "live");
    served.restart();
    let mut client = served.client();
    let all = ["a", "b", "c", "d"].map(|group| (group.to_owned(), "Empty".to_owned()));
    assert_eq!(list(&mut client, &["Empty"]), all);
    assert_eq!(list(&mut client, &["stable"]), [("live".to_owned(), "Stable".to_owned())]);
    assert_eq!(list(&mut client, &[]).len(), 5);
}

#[test]
fn a_join_waits_for_the_other_members_and_holds_no_answer_of_other_clients() {
    let (served, mut first) = served();
    let old = stable(&mut first, "g");
    let (mut second, mut other) = (served.client(), served.client());
    let id = member_id(&mut second, "g");
    let parked = second.send(9, &join_request("g", &id));
    while heartbeat(&mut first, "g", &old) != ErrorCode::REBALANCE_IN_PROGRESS {}
    assert_eq!(commit(&mut other, "other", "t", 1), ErrorCode::NONE);
    assert_eq!(describe(&mut other, "g").group_state, "PreparingRebalance");
    let again = first.call(9, &join_request("g", &old.member_id));
    let joined = second.receive::<JoinGroupRequest>(9, parked);
    assert_eq!((again.generation_id, joined.generation_id), (2, 2));
    assert_eq!(again.members.len() + joined.members.len(), 2, "the leader alone is told who is there");
}

/// Before version 4 a member is told its id by the answer to its join only: nobody could ever ask for it again.
#[test]
fn a_member_whose_connection_breaks_before_it_knows_its_id_is_gone_from_the_group() {
    let (served, mut first) = served();
    let old = stable(&mut first, "g");
    let mut second = served.client();
    second.send(3, &JoinGroupRequest { protocol_type: "consumer".into(), ..join_request("g", "") });
    while heartbeat(&mut first, "g", &old) != ErrorCode::REBALANCE_IN_PROGRESS {}
    assert_eq!(describe(&mut first, "g").members.len(), 2);
    drop(second);
    let start = Instant::now();
    while describe(&mut first, "g").members.len() != 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "it keeps its place though nobody can take it");
    }
    let again = first.call(9, &join_request("g", &old.member_id));
    assert_code(again.error_code, ErrorCode::NONE);
    assert_eq!(again.members.len(), 1);
    assert_code(sync(&mut first, "g", &again).error_code, ErrorCode::NONE);
}

#[test]
fn a_stop_answers_those_who_wait_for_their_group() {
    let (mut served, mut first) = served();
    let old = stable(&mut first, "g");
    let mut second = served.client();
    let id = member_id(&mut second, "g");
    let parked = second.send(9, &join_request("g", &id));
    while heartbeat(&mut first, "g", &old) != ErrorCode::REBALANCE_IN_PROGRESS {}
    assert!(served.stop() < Duration::from_millis(600), "nobody is waited for");
    assert_code(second.receive::<JoinGroupRequest>(9, parked).error_code, ErrorCode::NOT_COORDINATOR);
}

#[test]
fn a_commit_of_a_member_to_a_group_that_is_not_there_is_an_old_generation_before_version_9() {
    let (_served, mut client) = served();
    let request = OffsetCommitRequest {
        generation_id_or_member_epoch: 5,
        member_id: "ghost".into(),
        ..commit_request("none", "t", 1)
    };
    for (version, expected) in
        [(2, ErrorCode::ILLEGAL_GENERATION), (8, ErrorCode::ILLEGAL_GENERATION), (9, ErrorCode::GROUP_ID_NOT_FOUND)]
    {
        assert_code(client.call(version, &request).topics[0].partitions[0].error_code, expected);
    }
}

#[test]
fn a_member_that_offers_very_many_protocols_is_refused() {
    let (_served, mut client) = served();
    let mut request = join_request("g", "");
    let offered = |count: usize| {
        let name = |number| JoinGroupRequestProtocol { name: Str::from(&*format!("p{number}")), ..Default::default() };
        (0..count).map(name).collect()
    };
    for (count, expected) in [(33, ErrorCode::INVALID_REQUEST), (32, ErrorCode::MEMBER_ID_REQUIRED)] {
        request.protocols = offered(count);
        assert_code(client.call(9, &request).error_code, expected);
    }
}

#[test]
fn a_deleted_topic_takes_its_offsets_along() {
    let (_served, mut client) = served();
    client.create("other", 1, &[]);
    for topic in ["t", "other"] {
        assert_eq!(commit(&mut client, "g", topic, 7), ErrorCode::NONE);
    }
    delete_topic(&mut client, "t");
    client.create("t", 1, &[]);
    assert_eq!(committed(&mut client, "g", "t"), -1);
    assert_eq!(committed(&mut client, "g", "other"), 7);
}

#[test]
fn offsets_of_a_topic_that_was_deleted_while_the_group_was_not_loaded_are_gone_too() {
    let (mut served, mut client) = served();
    for topic in ["gone", "again", "kept"] {
        client.create(topic, 1, &[]);
        assert_eq!(commit(&mut client, "g", topic, 7), ErrorCode::NONE);
    }
    served.restart();
    let mut client = served.client();
    delete_topic(&mut client, "gone");
    delete_topic(&mut client, "again");
    client.create("again", 1, &[]);
    let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: None, ..Default::default() };
    let answer = client.call(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() });
    let names: Vec<_> = answer.groups[0].topics.iter().map(|topic| &*topic.name).collect();
    assert_eq!(names, ["kept"]);
}

#[test]
fn before_the_topic_is_there_nobody_coordinates_and_no_group_is_listed() {
    let served = Served::start();
    let mut client = served.client();
    client.create("t", 1, &[]);
    assert!(list(&mut client, &[]).is_empty());
    assert_code(client.call(9, &join_request("g", "")).error_code, ErrorCode::NOT_COORDINATOR);
    assert_eq!(commit(&mut client, "g", "t", 1), ErrorCode::NOT_COORDINATOR);
    assert_code(describe(&mut client, "g").error_code, ErrorCode::NOT_COORDINATOR);
    for version in [1, 2, 7] {
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
        let request = OffsetFetchRequest { group_id: "g".into(), topics: Some(vec![topic]), ..Default::default() };
        let answer = client.call(version, &request);
        let code = if version == 1 { answer.topics[0].partitions[0].error_code } else { answer.error_code };
        assert_code(code, ErrorCode::NOT_COORDINATOR);
    }
}

#[test]
fn topics_are_named_by_id_from_version_10_on() {
    let (_served, mut client) = served();
    let topics = Some(vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }]);
    let id = client.call(12, &MetadataRequest { topics, ..Default::default() }).topics[0].topic_id;
    let unknown = [9; 16];
    let mut request = commit_request("g", "", 5);
    request.topics =
        [id, unknown].map(|topic_id| OffsetCommitRequestTopic { topic_id, ..request.topics[0].clone() }).to_vec();
    let answer = client.call(10, &request);
    let codes: Vec<_> = answer.topics.iter().map(|topic| (topic.topic_id, topic.partitions[0].error_code)).collect();
    assert_eq!(codes, [(id, 0), (unknown, ErrorCode::UNKNOWN_TOPIC_ID.0)]);

    let named = [id, unknown].map(|topic_id| OffsetFetchRequestTopics {
        topic_id,
        partition_indexes: vec![0],
        ..Default::default()
    });
    for topics in [Some(named.to_vec()), None] {
        let all = topics.is_none();
        let group = OffsetFetchRequestGroup { group_id: "g".into(), topics, ..Default::default() };
        let answer = client.call(10, &OffsetFetchRequest { groups: vec![group], ..Default::default() });
        let found = answer.groups[0].topics.iter();
        let found: Vec<_> = found
            .map(|topic| (topic.topic_id, topic.partitions[0].committed_offset, topic.partitions[0].error_code))
            .collect();
        let expected = [(id, 5, 0), (unknown, -1, ErrorCode::UNKNOWN_TOPIC_ID.0)];
        assert_eq!(found, expected[..if all { 1 } else { 2 }]);
    }
}

#[test]
fn what_does_not_exist_is_refused_by_partition_and_the_rest_is_committed() {
    let (_served, mut client) = served();
    let mut request = commit_request("g", "t", 5);
    let of = |index| OffsetCommitRequestPartition { partition_index: index, ..request.topics[0].partitions[0].clone() };
    request.topics[0].partitions = vec![of(0), of(9), of(1)];
    request
        .topics
        .push(OffsetCommitRequestTopic { name: "none".into(), ..commit_request("g", "", 5).topics.remove(0) });
    let answer = client.call(9, &request);
    let codes: Vec<Vec<_>> =
        answer.topics.iter().map(|topic| topic.partitions.iter().map(|p| p.error_code).collect()).collect();
    assert_eq!(codes, [vec![0, 3, 0], vec![3]]);

    let delete = |topic: &str, index| OffsetDeleteRequestTopic {
        name: topic.into(),
        partitions: vec![OffsetDeleteRequestPartition { partition_index: index }],
    };
    let topics = vec![delete("t", 0), delete("t", 9), delete("none", 0)];
    let answer = client.call(0, &OffsetDeleteRequest { group_id: "g".into(), topics });
    let codes: Vec<_> = answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!((answer.error_code, codes), (0, vec![0, 3, 3]));
    assert_eq!(committed(&mut client, "g", "t"), -1);
}

#[test]
fn groups_on_many_partitions_are_deleted_in_one_request() {
    let (_served, mut client) = served();
    let names: Vec<String> = (0..60).map(|number| format!("group-{number}")).collect();
    for name in &names {
        assert_eq!(commit(&mut client, name, "t", 5), ErrorCode::NONE);
    }
    let joined = stable(&mut client, "live");
    let groups_names = names.iter().map(|name| Str::from(&**name)).chain(["live".into(), "none".into(), "".into()]);
    let answer = client.call(2, &DeleteGroupsRequest { groups_names: groups_names.collect() });
    let refused: Vec<_> = answer.results.iter().filter(|result| result.error_code != 0).collect();
    let refused: Vec<_> = refused.iter().map(|result| (&*result.group_id, result.error_code)).collect();
    let (live, none, empty) =
        (ErrorCode::NON_EMPTY_GROUP.0, ErrorCode::GROUP_ID_NOT_FOUND.0, ErrorCode::INVALID_GROUP_ID.0);
    assert_eq!(refused, [("live", live), ("none", none), ("", empty)]);
    let member = MemberIdentity { member_id: joined.member_id, ..Default::default() };
    let leave = LeaveGroupRequest { group_id: "live".into(), members: vec![member], ..Default::default() };
    assert_code(client.call(5, &leave).members[0].error_code, ErrorCode::NONE);
    assert_eq!(list(&mut client, &[]), [("live".to_owned(), "Empty".to_owned())]);
}

#[test]
fn commits_of_many_connections_are_all_there_after_a_restart() {
    let (mut served, _client) = served();
    let mut clients: Vec<Client> = (0..16).map(|_| served.client()).collect();
    for round in 1..=20 {
        let sent: Vec<(String, i32)> = (0..)
            .zip(&mut clients)
            .map(|(number, client): (i32, _)| {
                // Some share a group's partition, two share a group.
                let group = format!("group-{}", number / 2);
                let id = client.send(9, &commit_request(&group, "t", round * 100 + i64::from(number)));
                (group, id)
            })
            .collect();
        for (client, (_, id)) in clients.iter_mut().zip(sent) {
            let answer = client.receive::<OffsetCommitRequest>(9, id);
            assert_code(answer.topics[0].partitions[0].error_code, ErrorCode::NONE);
        }
    }
    served.restart();
    let mut client = served.client();
    for group in 0..8 {
        let found = committed(&mut client, &format!("group-{group}"), "t");
        assert!((2000 + group * 2..=2001 + group * 2).contains(&found), "group {group} is at {found}");
    }
}

#[test]
fn a_consumer_group_outlives_a_restart_and_follows_topics_that_are_made_later() {
    let (mut served, mut client) = served();
    let request = ConsumerGroupHeartbeatRequest {
        group_id: "k".into(),
        member_id: "member".into(),
        rebalance_timeout_ms: 30_000,
        subscribed_topic_regex: Some("t|later".into()),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    };
    let joined = client.call(1, &request);
    assert_code(joined.error_code, ErrorCode::NONE);
    let owned = |answer: &ConsumerGroupHeartbeatResponse| {
        let topics = answer.assignment.iter().flat_map(|assignment| &assignment.topic_partitions);
        topics.map(|topic| topic.partitions.len()).sum::<usize>()
    };
    assert_eq!((owned(&joined), joined.member_epoch), (2, 1));

    drop(client);
    served.restart();
    let mut client = served.client();
    find(&mut client);
    client.create("later", 3, &[]);
    let quiet = ConsumerGroupHeartbeatRequest {
        group_id: "k".into(),
        member_id: "member".into(),
        member_epoch: joined.member_epoch,
        ..Default::default()
    };
    let answer = client.call(1, &quiet);
    assert_code(answer.error_code, ErrorCode::NONE);
    assert_eq!((owned(&answer), answer.member_epoch), (5, 2));

    let describe = ConsumerGroupDescribeRequest { group_ids: vec!["k".into(), "none".into()], ..Default::default() };
    let described = client.call(1, &describe).groups;
    assert_eq!((&*described[0].group_state, described[0].group_epoch), ("Stable", 2));
    assert_eq!(described[0].members[0].assignment.topic_partitions.len(), 2);
    assert_code(described[1].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let leave = ConsumerGroupHeartbeatRequest { member_epoch: -1, ..quiet };
    assert_eq!(client.call(1, &leave).member_epoch, -1);
}
