//! Who leads, what is told to who asks another, and what happens when the leader is gone.

use std::time::{Duration, Instant};

use super::{Cluster, create, metadata, others, partition};
use crate::support::{Client, assert_code, batch, fetch_request, produce_request, until, values};
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::describe_cluster::DescribeClusterRequest;
use millpond_wire::fetch::{FetchRequest, PartitionData};
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use millpond_wire::produce::ProduceRequest;
use millpond_wire::{ErrorCode, Str};

fn fetch(client: &mut Client, topic: &str, offset: i64, epoch: i32) -> PartitionData {
    let mut request = FetchRequest { max_wait_ms: 100, ..fetch_request(topic, offset) };
    request.topics[0].partitions[0].current_leader_epoch = epoch;
    client.call(12, &request).responses.remove(0).partitions.remove(0)
}

/// Waits until the leader hands out these records, and no others.
fn assert_holds(cluster: &Cluster, nodes: &[i32], topic: &str, expected: &[&str]) {
    cluster.with_leader(topic, nodes, "all records can be read", |client| {
        let data = fetch(client, topic, 0, -1);
        let found = if data.error_code == 0 { values(&data) } else { Vec::new() };
        assert!(expected.starts_with(&found.iter().map(String::as_str).collect::<Vec<_>>()), "{found:?}");
        found.len() == expected.len()
    });
}

#[test]
fn every_broker_tells_the_same_of_a_topic_whoever_made_it() {
    let cluster = Cluster::start();
    create(&mut cluster.client(2), "t", &[]);
    let leader = cluster.leader("t", &[1, 2, 3]);
    let mut controllers = Vec::new();
    for node in 1..=3 {
        let mut client = cluster.client(node);
        let told = metadata(&mut client, "t");
        let ids: Vec<i32> = told.brokers.iter().map(|broker| broker.node_id).collect();
        let racks: Vec<_> = told.brokers.iter().map(|broker| broker.rack.as_deref()).collect();
        assert_eq!((ids, racks), (vec![1, 2, 3], vec![Some("r1"), Some("r2"), Some("r3")]));
        let partition = &told.topics[0].partitions[0];
        let sorted = |nodes: &[i32]| {
            let mut nodes = nodes.to_vec();
            nodes.sort_unstable();
            nodes
        };
        assert_eq!((partition.error_code, partition.leader_id), (0, leader));
        assert_eq!(sorted(&partition.replica_nodes), [1, 2, 3]);
        assert_eq!(sorted(&partition.isr_nodes), [1, 2, 3]);
        assert!(partition.offline_replicas.is_empty());
        let described = client.call(2, &DescribeClusterRequest { endpoint_type: 1, ..Default::default() });
        assert_eq!(described.controller_id, told.controller_id);
        controllers.push(told.controller_id);
    }
    assert!(controllers.iter().all(|controller| *controller == controllers[0] && *controller > 0), "{controllers:?}");
}

#[test]
fn who_asks_a_follower_is_told_who_leads_and_where() {
    let cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    let leader = cluster.write("t", &[1, 2, 3], "a");
    let mut follower = cluster.client(others(leader)[0]);
    let port = metadata(&mut follower, "").brokers.iter().find(|broker| broker.node_id == leader).expect("it").port;
    let refused = follower.call(10, &produce_request("t", -1, vec![(0, batch(&["b"]))]));
    let partition = &refused.responses[0].partition_responses[0];
    assert_code(partition.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(partition.current_leader.leader_id, leader);
    assert!(partition.current_leader.leader_epoch >= 0);
    assert_eq!(refused.node_endpoints.len(), 1);
    assert_eq!((refused.node_endpoints[0].node_id, refused.node_endpoints[0].port), (leader, port));

    let data = fetch(&mut follower, "t", 0, -1);
    assert_code(data.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(data.current_leader.leader_id, leader);
    let asked = ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: Str::from("t"), partitions: vec![asked] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let listed = follower.call(7, &request);
    assert_code(listed.topics[0].partitions[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);

    assert_holds(&cluster, &[1, 2, 3], "t", &["a"]);
}

#[test]
fn a_broker_that_stops_tells_its_clients_who_leads_instead() {
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    let leader = cluster.write("t", &[1, 2, 3], "a");
    let mut client = cluster.client(leader);
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.stop(leader));
        let refused = loop {
            let mut answer = client.call(10, &produce_request("t", -1, vec![(0, batch(&["b"]))]));
            let partition = answer.responses.remove(0).partition_responses.remove(0);
            // On a busy machine the next leader may not be there when the first answer has waited for it, or the one
            // that stops is elected once more.
            let is_another = others(leader).contains(&partition.current_leader.leader_id);
            if partition.error_code != ErrorCode::NONE.0 && is_another {
                break partition;
            }
        };
        assert_code(refused.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        assert_eq!(partition(&mut client, "t").leader_id, refused.current_leader.leader_id, "it can still be asked");
    });
}

#[test]
fn requests_that_came_together_do_not_wait_for_a_leader_one_after_the_other() {
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    let leader = cluster.write("t", &[1, 2, 3], "a");
    let [left, other] = others(leader)[..] else { unreachable!("three less one") };
    let mut client = cluster.client(left);
    cluster.kill(other);
    cluster.kill(leader);
    until("the leader is missed", || partition(&mut client, "t").leader_id == -1);
    let began = Instant::now();
    let sent: Vec<i32> =
        (0..30).map(|_| client.send(10, &produce_request("t", -1, vec![(0, batch(&["b"]))]))).collect();
    for id in sent {
        let answer = client.receive::<ProduceRequest>(10, id);
        assert_code(answer.responses[0].partition_responses[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "100 ms for all, not for each: {:?}", began.elapsed());
}

#[test]
fn what_was_acknowledged_is_read_from_the_next_leader() {
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    let mut leader = -1;
    for value in ["a", "b", "c"] {
        leader = cluster.write("t", &[1, 2, 3], value);
    }
    let epoch = partition(&mut cluster.client(leader), "t").leader_epoch;
    cluster.kill(leader);
    let left = others(leader);
    assert_holds(&cluster, &left, "t", &["a", "b", "c"]);
    cluster.with_leader("t", &left, "old epochs are fenced, and later ones unknown", |client| {
        let told = partition(client, "t");
        assert!(told.leader_epoch > epoch, "{} after {epoch}", told.leader_epoch);
        assert_eq!((told.isr_nodes.len(), &told.offline_replicas[..]), (2, &[leader][..]));
        let mut code = |epoch| ErrorCode(fetch(client, "t", 0, epoch).error_code);
        let current = told.leader_epoch;
        (code(epoch), code(current + 1), code(current))
            == (ErrorCode::FENCED_LEADER_EPOCH, ErrorCode::UNKNOWN_LEADER_EPOCH, ErrorCode::NONE)
    });
    cluster.write("t", &left, "d");
    assert_holds(&cluster, &left, "t", &["a", "b", "c", "d"]);
    cluster.with_leader("t", &left, "what no replica has is out of range", |client| {
        fetch(client, "t", 99, -1).error_code == ErrorCode::OFFSET_OUT_OF_RANGE.0
    });
    let next = cluster.leader("t", &left);
    let ids: Vec<i32> = metadata(&mut cluster.client(next), "").brokers.iter().map(|broker| broker.node_id).collect();
    assert_eq!(ids, [1, 2, 3], "a broker that may be back at any moment is still named");
    until("the missing replica is counted", || {
        cluster.node(cluster.leader("t", &left)).metric("millpond_under_replicated_partitions") >= 1.0
    });
}

#[test]
fn a_topic_that_is_created_while_a_broker_is_away_takes_writes_and_has_its_replica_there_later() {
    let mut cluster = Cluster::start();
    cluster.stop(3);
    create(&mut cluster.client(1), "t", &[]);
    cluster.write("t", &[1, 2], "a");
    cluster.with_leader("t", &[1, 2], "it has three replicas, of which one is away", |client| {
        let told = partition(client, "t");
        (told.replica_nodes.len(), told.isr_nodes.len(), &told.offline_replicas[..]) == (3, 2, &[3][..])
    });
    cluster.start_again(3);
    cluster.write("t", &[1, 2, 3], "b");
    cluster.kill(1);
    assert_holds(&cluster, &[2, 3], "t", &["a", "b"]);
}

#[test]
fn with_too_few_replicas_alive_nothing_is_written_that_all_must_have() {
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "strict", &[("min.insync.replicas", "3")]);
    create(&mut cluster.client(1), "t", &[]);
    let leader = cluster.write("strict", &[1, 2, 3], "a");
    cluster.kill(others(leader)[0]);
    let left = [leader, others(leader)[1]];
    cluster.with_leader("strict", &left, "the broker is known to be gone", |client| {
        partition(client, "strict").isr_nodes.len() == 2
    });
    cluster.with_leader("strict", &left, "the record is refused", |client| {
        client.produce("strict", -1, batch(&["b"])).error_code == ErrorCode::NOT_ENOUGH_REPLICAS.0
    });
    assert_holds(&cluster, &left, "strict", &["a"]);
    cluster.with_leader("strict", &left, "the leader alone takes it", |client| {
        client.produce("strict", 1, batch(&["c"])).error_code == ErrorCode::NONE.0
    });
    cluster.write("t", &left, "a");
    assert_holds(&cluster, &left, "t", &["a"]);
}

#[test]
fn what_one_broker_says_is_created_or_deleted_all_brokers_know_at_once() {
    let cluster = Cluster::start();
    let mut clients: Vec<Client> = (1..=3).map(|node| cluster.client(node)).collect();
    for round in 0..12 {
        let name = format!("topic-{round}");
        create(&mut clients[round % 3], &name, &[]);
        for client in &mut clients {
            assert_code(metadata(client, &name).topics[0].error_code, ErrorCode::NONE);
        }
        let topic = DeleteTopicState { name: Some(name.as_str().into()), ..Default::default() };
        let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        assert_code(clients[round % 3].call(6, &request).responses[0].error_code, ErrorCode::NONE);
        for client in &mut clients {
            assert_code(metadata(client, &name).topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
    }
}
