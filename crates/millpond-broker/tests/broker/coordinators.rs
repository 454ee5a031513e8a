//! Finding coordinators, and the topic that they keep their groups in.

use crate::support::{Client, Served, assert_code, batch};
use millpond_wire::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::find_coordinator::{Coordinator, FindCoordinatorRequest};
use millpond_wire::metadata::{MetadataRequest, MetadataResponseTopic};
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millpond_wire::{ErrorCode, Records, Str};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const OFFSETS: &str = "__consumer_offsets";

fn find(client: &mut Client, version: i16, kind: i8, keys: &[&str]) -> Vec<Coordinator> {
    if version >= 4 {
        let coordinator_keys = keys.iter().copied().map(Str::from).collect();
        let request = FindCoordinatorRequest { key_type: kind, coordinator_keys, ..Default::default() };
        return client.call(version, &request).coordinators;
    }
    let request = FindCoordinatorRequest { key: Str::from(keys[0]), key_type: kind, ..Default::default() };
    let answer = client.call(version, &request);
    vec![Coordinator {
        key: request.key,
        node_id: answer.node_id,
        host: answer.host,
        port: answer.port,
        error_code: answer.error_code,
        error_message: answer.error_message,
    }]
}

fn topics(client: &mut Client) -> Vec<MetadataResponseTopic> {
    client.call(12, &MetadataRequest { topics: None, ..Default::default() }).topics
}

#[test]
fn the_first_look_for_a_group_makes_the_topic_and_is_answered_at_once() {
    let mut served = Served::start();
    let mut client = served.client();
    assert!(topics(&mut client).is_empty());
    let broker = client.call(12, &MetadataRequest::default()).brokers.remove(0);
    for version in 0..=6 {
        let keys = if version < 4 { &["g"][..] } else { &["g", "other"] };
        let found = find(&mut client, version, GROUP, keys);
        assert_eq!(found.iter().map(|one| &*one.key).collect::<Vec<_>>(), keys, "version {version}");
        for one in found {
            assert_code(one.error_code, ErrorCode::NONE);
            assert_eq!((one.node_id, one.host, one.port), (broker.node_id, broker.host.clone(), broker.port));
        }
    }
    let made = topics(&mut client);
    assert_eq!(made.iter().map(|topic| topic.name.as_deref()).collect::<Vec<_>>(), [Some(OFFSETS)]);
    assert!(made[0].is_internal);
    assert_eq!(made[0].partitions.len(), 50);
    served.restart();
    assert_eq!(topics(&mut served.client())[0].topic_id, made[0].topic_id);
}

#[test]
fn who_looks_at_the_same_time_finds_the_same_topic() {
    let served = Served::start();
    let mut clients: Vec<Client> = (0..8).map(|_| served.client()).collect();
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let sent: Vec<i32> = clients.iter_mut().map(|client| client.send(4, &request)).collect();
    for (client, id) in clients.iter_mut().zip(sent) {
        let answer = client.receive::<FindCoordinatorRequest>(4, id);
        assert_code(answer.coordinators[0].error_code, ErrorCode::NONE);
    }
}

#[test]
fn other_kinds_of_coordinators_are_this_broker_or_refused() {
    let served = Served::start();
    let mut client = served.client();
    for version in [1, 3, 4, 6] {
        assert_code(find(&mut client, version, TRANSACTION, &["tx"])[0].error_code, ErrorCode::NONE);
        for kind in [2, 9, -1] {
            let refused = find(&mut client, version, kind, &["x"]).remove(0);
            assert_code(refused.error_code, ErrorCode::INVALID_REQUEST);
            assert_eq!((refused.node_id, refused.port, &*refused.host), (-1, -1, ""));
            assert!(refused.error_message.is_some_and(|message| !message.is_empty()));
        }
    }
    assert!(topics(&mut client).is_empty(), "none of them needs the topic");
}

#[test]
fn no_client_writes_to_the_topic_or_deletes_it_or_adds_partitions() {
    let served = Served::start();
    let mut client = served.client();
    find(&mut client, 4, GROUP, &["g"]);
    let id = topics(&mut client)[0].topic_id;
    assert_code(client.produce(OFFSETS, -1, batch(&["a"])).error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    let data = PartitionProduceData { index: 0, records: Some(Records::from(batch(&["a"]))) };
    let by_id = TopicProduceData { topic_id: id, partition_data: vec![data], ..Default::default() };
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 10_000, topic_data: vec![by_id] };
    let answer = client.call(13, &request).responses.remove(0).partition_responses.remove(0);
    assert_code(answer.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);

    let by_name = DeleteTopicState { name: Some(OFFSETS.into()), ..Default::default() };
    let by_id = DeleteTopicState { topic_id: id, ..Default::default() };
    for topic in [by_name, by_id] {
        let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let refused = client.call(6, &request).responses.remove(0);
        assert_code(refused.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    }

    let more = CreatePartitionsTopic { name: OFFSETS.into(), count: 60, assignments: None };
    let request = CreatePartitionsRequest { topics: vec![more], timeout_ms: 10_000, validate_only: false };
    let refused = client.call(3, &request).results.remove(0);
    assert_code(refused.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    assert_eq!(topics(&mut client)[0].partitions.len(), 50);
}
