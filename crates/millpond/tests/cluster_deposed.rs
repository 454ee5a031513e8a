//! A broker that was deposed while it was cut off, and has not heard of it: it says nothing that a client would take as
//! settled and that its successor knows better.

#![expect(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use millpond_wire::create_topics::{CreatableTopic, CreateTopicsRequest};
use millpond_wire::delete_groups::DeleteGroupsRequest;
use millpond_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use millpond_wire::metadata::MetadataRequest;
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millpond_wire::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use support::cluster::{Cluster, IDS, throughout, until};
use support::{Client, batch};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const REQUEST_TIMED_OUT: i16 = 7;
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_MEMBER_ID: i16 = 25;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const GROUP_ID_NOT_FOUND: i16 = 69;
const FENCED_INSTANCE_ID: i16 = 82;

#[test]
fn a_leader_that_is_cut_off_never_has_a_consumer_start_again() {
    let cluster = Cluster::behind_proxies("deposed");
    cluster.create_topic("logs", 1, &IDS);
    let old = cluster.leader("logs", 0);
    let mut before = cluster.client(old);
    for number in 0..5 {
        let value = format!("value {number}");
        until("it is written", || cluster.takes(old, "logs", 0, &value).then_some(()));
    }
    let network = cluster.network.clone().expect("it has proxies");
    network.isolate(old);
    let cut = Instant::now();
    let mut codes = BTreeSet::new();
    let mut ask = |client: &mut Client, offset: i64| {
        let (code, ..) = client.fetch("logs", 0, offset).expect("it answers");
        assert_ne!(code, OFFSET_OUT_OF_RANGE, "offset {offset}, {:?} after the cut", cut.elapsed());
        codes.insert(code);
    };
    let others: Vec<i32> = IDS.into_iter().filter(|id| *id != old).collect();
    let new = until("the others have a leader", || {
        ask(&mut before, 6);
        let named = cluster.leader_by(others[0], "logs", 0);
        named.filter(|leader| *leader != old && cluster.takes(*leader, "logs", 0, "more"))
    });
    let end = {
        let (code, end, _) = cluster.client(new).fetch("logs", 0, 0).expect("it answers");
        assert_eq!(code, 0);
        end
    };
    assert!(end > 5);
    let epoch = leader_epoch(&mut cluster.client(new), "logs", 0);
    assert_eq!(end_of_epoch(&mut cluster.client(new), "logs", 0, epoch), (0, end));
    throughout(Duration::from_secs(3), || {
        ask(&mut before, end);
        let code = delete_up_to(&mut before, "logs", 0, end);
        assert_ne!(code, OFFSET_OUT_OF_RANGE, "{:?} after the cut", cut.elapsed());
        let (code, end) = end_of_epoch(&mut before, "logs", 0, epoch);
        assert_ne!((code, end), (0, -1), "{:?} after the cut", cut.elapsed());
    });
    // It takes nothing that could not survive.
    assert_ne!(before.produce("logs", 0, -1, batch(&["lost"])).0, 0);
    network.heal();
    until("all know the new leader", || {
        ask(&mut before, end);
        (cluster.leader_by(old, "logs", 0) == Some(new)).then_some(())
    });
    throughout(Duration::from_secs(1), || ask(&mut before, end));
    println!("the leader that was cut off answered {codes:?}");
    let read = cluster.read("logs", 0);
    assert!((0..5).all(|number| read[&number] == format!("value {number}")) && read[&5] == "more");
}

fn leader_epoch(client: &mut Client, topic: &str, partition: i32) -> i32 {
    let answer = client.call(12, &MetadataRequest { topics: None, ..Default::default() });
    let found = answer.topics.iter().find(|found| found.name.as_deref() == Some(topic)).expect("the topic");
    let found = found.partitions.iter().find(|found| found.partition_index == partition).expect("the partition");
    found.leader_epoch
}

fn delete_up_to(client: &mut Client, topic: &str, partition_index: i32, offset: i64) -> i16 {
    let partitions = vec![DeleteRecordsPartition { partition_index, offset }];
    let topics = vec![DeleteRecordsTopic { name: topic.to_owned().into(), partitions }];
    client.call(2, &DeleteRecordsRequest { topics, timeout_ms: 5000 }).topics[0].partitions[0].error_code
}

/// Where the records of an epoch end for a reader that does not say which epoch it believes to be the leader's.
fn end_of_epoch(client: &mut Client, topic: &str, partition: i32, leader_epoch: i32) -> (i16, i64) {
    let asked = OffsetForLeaderPartition { partition, current_leader_epoch: -1, leader_epoch };
    let topics = vec![OffsetForLeaderTopic { topic: topic.to_owned().into(), partitions: vec![asked] }];
    let answer = client.call(4, &OffsetForLeaderEpochRequest { replica_id: -2, topics });
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.end_offset)
}

#[test]
fn a_controller_that_is_cut_off_refuses_nothing_by_what_it_has_alone() {
    let cluster = Cluster::behind_proxies("deposed-controller");
    cluster.create_topic("deleted", 1, &IDS);
    let says = |client: &mut Client| client.call(12, &MetadataRequest::default()).controller_id;
    let old = until("there is a controller", || {
        let named: BTreeSet<i32> = IDS.into_iter().map(|id| says(&mut cluster.client(id))).collect();
        (named.len() == 1).then(|| named.into_iter().next()).flatten().filter(|id| *id > 0)
    });
    let mut before = cluster.client(old);
    let network = cluster.network.clone().expect("it has proxies");
    network.isolate(old);
    let cut = Instant::now();
    let other = IDS.into_iter().find(|id| *id != old).expect("three brokers");
    let mut others = cluster.client(other);
    until("the others have a controller", || (![old, -1].contains(&says(&mut others))).then_some(()));
    let done = |code: i16, before: i16| (code == 0 || code == before).then_some(());
    until("a topic is deleted", || done(delete_topic(&mut others, "deleted", 5000), UNKNOWN_TOPIC_OR_PARTITION));
    until("a topic is created", || done(create_topic(&mut others, "created", 5000), TOPIC_ALREADY_EXISTS));
    assert_eq!(says(&mut before), old, "it still believes that it is the controller");
    let mut codes = BTreeSet::new();
    let mut ask = |client: &mut Client, timeout_ms: i32| {
        let created = create_topic(client, "deleted", timeout_ms);
        assert_ne!(created, TOPIC_ALREADY_EXISTS, "{timeout_ms}, {:?} after the cut", cut.elapsed());
        let deleted = delete_topic(client, "created", timeout_ms);
        assert_ne!(deleted, UNKNOWN_TOPIC_OR_PARTITION, "{timeout_ms}, {:?} after the cut", cut.elapsed());
        codes.extend([created, deleted]);
    };
    for timeout_ms in [0, 300, 5000] {
        ask(&mut before, timeout_ms);
    }
    // Behind one that writes, and never ends.
    let mut writes = cluster.client(old);
    writes.send(7, &creation("new", 60_000));
    let mut waiting = 0..;
    until("others wait for it", || {
        let name = format!("waits-{}", waiting.next().expect("a number"));
        (create_topic(&mut before, &name, 300) == REQUEST_TIMED_OUT).then_some(())
    });
    ask(&mut before, 300);
    assert_eq!(says(&mut before), old, "it still believes that it is the controller");
    network.heal();
    ask(&mut before, 5000);
    println!("the controller that was cut off answered {codes:?}");
}

fn creation(name: &str, timeout_ms: i32) -> CreateTopicsRequest {
    let name = name.to_owned().into();
    let topic = CreatableTopic { name, num_partitions: 1, replication_factor: 3, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], timeout_ms, ..Default::default() }
}

fn create_topic(client: &mut Client, name: &str, timeout_ms: i32) -> i16 {
    client.call(7, &creation(name, timeout_ms)).topics[0].error_code
}

fn delete_topic(client: &mut Client, name: &str, timeout_ms: i32) -> i16 {
    let topic = DeleteTopicState { name: Some(name.to_owned().into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms, ..Default::default() };
    client.call(6, &request).responses[0].error_code
}

#[test]
fn a_coordinator_that_is_cut_off_gives_the_last_offset_or_none_and_refuses_no_member_of_its_successor() {
    let cluster = Cluster::behind_proxies("deposed-coordinator");
    cluster.create_topic("logs", 1, &IDS);
    // Who is asked for a coordinator first makes the topic of the groups' offsets.
    let find = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let found = |client: &mut Client| client.call(4, &find).coordinators[0].node_id;
    let takes = |id: &i32, offset: i64| *id > 0 && commit(&mut cluster.client(*id), offset) == 0;
    let old = until("there is a coordinator", || Some(found(&mut cluster.client(1))).filter(|id| takes(id, 5)));
    let mut before = cluster.client(old);
    until("it knows that for sure", || (committed(&mut before) == (0, 5)).then_some(()));
    let unknown = heartbeat(&mut before, "who is that", 1);
    assert!([UNKNOWN_MEMBER_ID, NOT_COORDINATOR].contains(&unknown), "{unknown}");
    let (first, _) = until("the group has a member", || join(&mut before));
    let network = cluster.network.clone().expect("it has proxies");
    network.isolate(old);
    let cut = Instant::now();
    let new = until("the next coordinator has one", || IDS.into_iter().find(|id| *id != old && takes(id, 9)));
    let (member, generation) = until("it comes again", || join(&mut cluster.client(new)));
    assert_ne!(member, first, "it has the place of the one before");
    let mut codes = BTreeSet::new();
    let mut ask = |client: &mut Client| {
        let (code, offset) = committed(client);
        assert!(code != 0 || offset == 9, "{offset}, {:?} after the cut", cut.elapsed());
        let beat = heartbeat(client, &member, generation);
        let of_the_group = [UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID].contains(&beat);
        assert!(!of_the_group, "{beat}, {:?} after the cut", cut.elapsed());
        codes.extend([code, beat]);
    };
    throughout(Duration::from_secs(2), || ask(&mut before));
    // Its hash is that of "g", modulo the fifty partitions.
    let request = DeleteGroupsRequest { groups_names: vec!["5".into()] };
    let deleted = before.call(2, &request).results[0].error_code;
    assert_ne!(deleted, GROUP_ID_NOT_FOUND, "{:?} after the cut", cut.elapsed());
    assert_eq!(found(&mut before), old, "it still believes that it is the coordinator");
    network.heal();
    throughout(Duration::from_secs(1), || ask(&mut before));
    println!("the coordinator that was cut off answered {codes:?}");
    let last = |id: i32| (committed(&mut cluster.client(id)) == (0, 9)).then_some(());
    until("it is there", || IDS.into_iter().find_map(last));
}

/// Commits an offset of the first partition of "logs" for the group "g".
fn commit(client: &mut Client, committed_offset: i64) -> i16 {
    let partition = OffsetCommitRequestPartition { committed_offset, ..Default::default() };
    let topic = OffsetCommitRequestTopic { name: "logs".into(), partitions: vec![partition], ..Default::default() };
    let group_id = "g".into();
    let request =
        OffsetCommitRequest { group_id, generation_id_or_member_epoch: -1, topics: vec![topic], ..Default::default() };
    client.call(9, &request).topics[0].partitions[0].error_code
}

fn committed(client: &mut Client) -> (i16, i64) {
    let topic = OffsetFetchRequestTopics { name: "logs".into(), partition_indexes: vec![0], ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: Some(vec![topic]), ..Default::default() };
    let answer = client.call(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() }).groups.remove(0);
    let offset = answer.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
    (answer.error_code, offset)
}

/// Becomes the member of the group "g" with the instance id "i". Gives the member's id and the generation.
fn join(client: &mut Client) -> Option<(String, i32)> {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), ..Default::default() };
    let request = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        group_instance_id: Some("i".into()),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    let joined = client.call(5, &request);
    (joined.error_code == 0).then(|| (joined.member_id.to_string(), joined.generation_id))
}

fn heartbeat(client: &mut Client, member: &str, generation_id: i32) -> i16 {
    let member_id = member.to_owned().into();
    let request =
        HeartbeatRequest { group_id: "g".into(), generation_id, member_id, group_instance_id: Some("i".into()) };
    client.call(3, &request).error_code
}
