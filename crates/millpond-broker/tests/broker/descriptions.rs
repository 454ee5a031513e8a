//! DescribeCluster, DescribeTopicPartitions, DescribeProducers, DescribeLogDirs and OffsetForLeaderEpoch against a
//! whole broker.

use crate::support::{Client, Served, assert_code, batch};
use millpond_record::{BatchBuilder, ProducerEpoch, ProducerId, Timestamp};
use millpond_wire::ErrorCode;
use millpond_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use millpond_wire::delete_topics::DeleteTopicsRequest;
use millpond_wire::describe_cluster::DescribeClusterRequest;
use millpond_wire::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest, DescribeLogDirsResult};
use millpond_wire::describe_producers::{self, DescribeProducersRequest};
use millpond_wire::describe_topic_partitions::{Cursor, DescribeTopicPartitionsRequest, TopicRequest};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

#[test]
fn the_cluster_is_described_as_metadata_describes_it() {
    let served = Served::start();
    let mut client = served.client();
    let metadata = client.call(9, &MetadataRequest { topics: Some(Vec::new()), ..Default::default() });
    let ask = |endpoint_type| DescribeClusterRequest { endpoint_type, ..Default::default() };
    let cluster = client.call(2, &ask(1));
    assert_code(cluster.error_code, ErrorCode::NONE);
    assert_eq!((Some(cluster.cluster_id), cluster.controller_id), (metadata.cluster_id, metadata.controller_id));
    let (ours, theirs) = (&cluster.brokers[0], &metadata.brokers[0]);
    assert_eq!((ours.broker_id, &ours.host, ours.port), (theirs.node_id, &theirs.host, theirs.port));
    assert_code(client.call(1, &ask(2)).error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
    assert_code(client.call(1, &ask(7)).error_code, ErrorCode::UNSUPPORTED_ENDPOINT_TYPE);
}

type Page = Vec<(String, ErrorCode, Vec<i32>)>;

fn page(client: &mut Client, names: &[&str], limit: i32, cursor: Option<Cursor>) -> (Page, Option<Cursor>) {
    let topics = names.iter().map(|name| TopicRequest { name: (*name).into() }).collect();
    let request = DescribeTopicPartitionsRequest { topics, response_partition_limit: limit, cursor };
    let answer = client.call(0, &request);
    let topics = answer.topics.into_iter().map(|topic| {
        let indexes = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        (topic.name.expect("a name").to_string(), ErrorCode(topic.error_code), indexes)
    });
    (topics.collect(), answer.next_cursor)
}

#[test]
fn topics_come_page_by_page_in_order_of_their_names() {
    let served = Served::start();
    let mut client = served.client();
    client.create("b", 2, &[]);
    client.create("a", 3, &[]);
    let row = |name: &str, indexes: &[i32]| (name.to_owned(), ErrorCode::NONE, indexes.to_vec());
    let at = |name: &str, index| Some(Cursor { topic_name: name.into(), partition_index: index });
    let (all, next) = page(&mut client, &[], 2000, None);
    assert_eq!((all, next), (vec![row("a", &[0, 1, 2]), row("b", &[0, 1])], None));
    let (first, next) = page(&mut client, &["b", "a"], 2, None);
    assert_eq!((first, next.clone()), (vec![row("a", &[0, 1])], at("a", 2)));
    let (second, next) = page(&mut client, &["b", "a"], 2, next);
    assert_eq!((second, next.clone()), (vec![row("a", &[2]), row("b", &[0])], at("b", 1)));
    let (third, next) = page(&mut client, &["b", "a"], 2, next);
    assert_eq!((third, next), (vec![row("b", &[1])], None));
    let (full, next) = page(&mut client, &["a", "b"], 3, None);
    assert_eq!((full, next), (vec![row("a", &[0, 1, 2])], at("b", 0)));
    let failed = |name: &str, code| (name.to_owned(), code, vec![]);
    let (unknown, _) = page(&mut client, &["a", "none", "two words"], 2000, None);
    let (none, bad) = (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::INVALID_TOPIC_EXCEPTION);
    assert_eq!(unknown, [row("a", &[0, 1, 2]), failed("none", none), failed("two words", bad)]);
    let (refused, _) = page(&mut client, &["a"], 0, None);
    assert_eq!(refused, [failed("a", ErrorCode::INVALID_REQUEST)]);
}

fn leader_epoch(client: &mut Client, topic: &str) -> i32 {
    let topics = Some(vec![MetadataRequestTopic { name: Some(topic.into()), ..Default::default() }]);
    client.call(9, &MetadataRequest { topics, ..Default::default() }).topics[0].partitions[0].leader_epoch
}

/// Code, epoch and end offset.
fn epoch_end(client: &mut Client, topic: &str, partition: i32, asked: i32, current: i32) -> (ErrorCode, i32, i64) {
    let partition = OffsetForLeaderPartition { partition, current_leader_epoch: current, leader_epoch: asked };
    let topics = vec![OffsetForLeaderTopic { topic: topic.into(), partitions: vec![partition] }];
    let answer = client.call(4, &OffsetForLeaderEpochRequest { replica_id: -1, topics });
    let found = &answer.topics[0].partitions[0];
    (ErrorCode(found.error_code), found.leader_epoch, found.end_offset)
}

#[test]
fn a_leader_epoch_ends_where_the_next_one_begins() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let first = leader_epoch(&mut client, "logs");
    assert_eq!(epoch_end(&mut client, "logs", 0, first, first), (ErrorCode::NONE, first, 0), "nothing is written yet");
    client.produce("logs", -1, batch(&["a", "b"]));
    served.restart();
    let mut client = served.client();
    let second = leader_epoch(&mut client, "logs");
    assert!(second > first);
    assert_eq!(epoch_end(&mut client, "logs", 0, second, -1), (ErrorCode::NONE, second, 2), "it has no record yet");
    client.produce("logs", -1, batch(&["c"]));
    for (asked, current, expected) in [
        (first, -1, (ErrorCode::NONE, first, 2)),
        (first, second, (ErrorCode::NONE, first, 2)),
        (second, -1, (ErrorCode::NONE, second, 3)),
        (second + 1, -1, (ErrorCode::NONE, -1, -1)),
        (-1, -1, (ErrorCode::NONE, -1, -1)),
        (first, first, (ErrorCode::FENCED_LEADER_EPOCH, -1, -1)),
        (first, second + 1, (ErrorCode::UNKNOWN_LEADER_EPOCH, -1, -1)),
    ] {
        assert_eq!(epoch_end(&mut client, "logs", 0, asked, current), expected, "{asked} as of {current}");
    }
    for (topic, partition) in [("logs", 9), ("none", 0)] {
        let unknown = (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1, -1);
        assert_eq!(epoch_end(&mut client, topic, partition, first, -1), unknown);
    }
}

#[test]
fn idempotent_producers_are_listed_with_their_last_sequence_also_after_a_restart() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    for (id, sequence, count) in [(41, 0, 2), (40, 0, 1), (41, 2, 1)] {
        let mut batch = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(3), sequence);
        for _ in 0..count {
            batch = batch.record(Timestamp(1_700_000_000_000), None, Some(b"x"));
        }
        assert_code(client.produce("logs", -1, batch.build()).error_code, ErrorCode::NONE);
    }
    for _ in 0..2 {
        let topic = describe_producers::TopicRequest { name: "logs".into(), partition_indexes: vec![0, 9, 0] };
        let answer = served.client().call(0, &DescribeProducersRequest { topics: vec![topic] });
        let partitions = &answer.topics[0].partitions;
        let codes: Vec<_> = partitions.iter().map(|partition| ErrorCode(partition.error_code)).collect();
        let expected = [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::INVALID_REQUEST];
        assert_eq!(codes, expected);
        let found = partitions[0].active_producers.iter();
        let found: Vec<_> = found.map(|one| (one.producer_id, one.producer_epoch, one.last_sequence)).collect();
        assert_eq!(found, [(40, 3, 0), (41, 3, 2)]);
        served.restart();
    }
}

/// The one directory; `None` asks for all partitions.
fn log_dir(client: &mut Client, version: i16, wanted: Option<&[(&str, &[i32])]>) -> DescribeLogDirsResult {
    let topic = |(name, partitions): &(&str, &[i32])| DescribableLogDirTopic {
        topic: (*name).into(),
        partitions: partitions.to_vec(),
    };
    let topics = wanted.map(|wanted| wanted.iter().map(topic).collect());
    let mut answer = client.call(version, &DescribeLogDirsRequest { topics });
    assert_code(answer.error_code, ErrorCode::NONE);
    assert_eq!(answer.results.len(), 1);
    answer.results.remove(0)
}

/// Topic, partition and bytes.
fn sizes(dir: &DescribeLogDirsResult) -> Vec<(&str, i32, i64)> {
    assert_code(dir.error_code, ErrorCode::NONE);
    let partitions = dir.topics.iter().flat_map(|topic| topic.partitions.iter().map(|one| (topic.name.as_str(), one)));
    let sizes = partitions.map(|(topic, one)| {
        assert!((one.offset_lag, one.is_future_key) == (0, false));
        (topic, one.partition_index, one.partition_size)
    });
    sizes.collect()
}

#[test]
fn what_partitions_take_on_the_volume_is_described_also_of_those_that_rest() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 2, &[]);
    client.create("empty", 1, &[]);
    let written = batch(&[&"x".repeat(1000)]);
    let bytes = written.len() as i64;
    client.produce("logs", -1, written);
    for life in ["that wrote it", "that has it from the last"] {
        let mut client = served.client();
        for version in 1..=4 {
            let dir = log_dir(&mut client, version, Some(&[("logs", &[0, 1, 1, 9]), ("none", &[0]), ("empty", &[])]));
            let found = sizes(&dir);
            let [("logs", 0, first), ("logs", 1, 0)] = found[..] else { panic!("{found:?} in the life {life}") };
            // Beside the batch there are entries of Raft alone.
            assert!((bytes..bytes + 500).contains(&first), "{first} in the life {life}");
            assert!(dir.log_dir.starts_with('/'), "{}", dir.log_dir);
            let known = if version < 4 {
                dir.total_bytes == -1
            } else {
                0 < dir.usable_bytes && dir.usable_bytes < dir.total_bytes
            };
            assert!(known, "{dir:?}");
            let all = log_dir(&mut client, version, None);
            assert_eq!(sizes(&all), [("empty", 0, 0), ("logs", 0, first), ("logs", 1, 0)]);
            assert_eq!(sizes(&log_dir(&mut client, version, Some(&[]))), []);
        }
        served.restart();
    }
    let mut client = served.client();
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: -1 }];
    let topics = vec![DeleteRecordsTopic { name: "logs".into(), partitions }];
    client.call(2, &DeleteRecordsRequest { topics, timeout_ms: 10_000 });
    assert_eq!(sizes(&log_dir(&mut client, 4, Some(&[("logs", &[0])]))), [("logs", 0, 0)]);
    client.call(5, &DeleteTopicsRequest { topic_names: vec!["logs".into()], timeout_ms: 10_000, ..Default::default() });
    assert_eq!(sizes(&log_dir(&mut client, 4, None)), [("empty", 0, 0)]);
}
