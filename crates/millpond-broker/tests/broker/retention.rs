//! DeleteRecords and retention against a whole broker.

use std::time::{Duration, Instant};

use crate::support::{Client, Served, batch, until, values};
use millpond_wire::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsTopic,
};
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use millpond_wire::{ErrorCode, Str};

fn delete(client: &mut Client, version: i16, topic: &str, partition: i32, offset: i64) -> DeleteRecordsPartitionResult {
    let partition = DeleteRecordsPartition { partition_index: partition, offset };
    let topic = DeleteRecordsTopic { name: Str::from(topic), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 };
    client.call(version, &request).topics.remove(0).partitions.remove(0)
}

fn offset(client: &mut Client, topic: &str, timestamp: i64) -> i64 {
    let partition = ListOffsetsPartition { timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: Str::from(topic), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    client.call(7, &request).topics[0].partitions[0].offset
}

#[test]
fn delete_records_moves_the_log_start_up_and_never_down_and_everybody_is_told() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.produce("logs", -1, batch(&["a", "b", "c", "d", "e"]));
    for (version, (asked, low)) in (0..).zip([(3, 3), (3, 3), (1, 3)]) {
        let answer = delete(&mut client, version, "logs", 0, asked);
        assert_eq!((ErrorCode(answer.error_code), answer.low_watermark), (ErrorCode::NONE, low));
        assert_eq!(offset(&mut client, "logs", -2), low);
    }
    let answer = client.fetch("logs", 3, 0);
    // The batch that the log start lies in comes whole; clients skip what is before the offset that they asked for.
    assert_eq!((answer.log_start_offset, values(&answer).len()), (3, 5));
    assert_eq!(ErrorCode(client.fetch("logs", 2, 0).error_code), ErrorCode::OFFSET_OUT_OF_RANGE);

    let answer = delete(&mut client, 2, "logs", 0, -1);
    assert_eq!((ErrorCode(answer.error_code), answer.low_watermark), (ErrorCode::NONE, 5));
    assert_eq!((offset(&mut client, "logs", -2), offset(&mut client, "logs", -1)), (5, 5));
    assert_eq!((offset(&mut client, "logs", 0), offset(&mut client, "logs", -3)), (-1, -1));
    let produced = client.produce("logs", -1, batch(&["f"]));
    assert_eq!((produced.base_offset, produced.log_start_offset), (5, 5));
    assert_eq!(values(&client.fetch("logs", 5, 0)), ["f"]);
}

#[test]
fn what_delete_records_frees_leaves_the_disk_without_waiting_for_a_look_of_retention() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.produce("logs", -1, batch(&["a", "b", "c"]));
    assert_eq!(delete(&mut client, 2, "logs", 0, -1).low_watermark, 3);
    let deadline = Instant::now() + Duration::from_secs(20);
    while served.segments("logs").first().is_none_or(|first| first.as_str() < "00000000000000000003") {
        assert!(Instant::now() < deadline, "{:?} is there still", served.segments("logs"));
        std::thread::yield_now();
    }
    assert_eq!(client.fetch("logs", 3, 0).error_code, 0);
}

#[test]
fn delete_records_is_refused_as_kafka_refuses_it() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.create("tables", 1, &[("cleanup.policy", "compact")]);
    client.create("both", 1, &[("cleanup.policy", "compact,delete")]);
    client.create("neither", 1, &[("cleanup.policy", "")]);
    client.produce("logs", -1, batch(&["a"]));
    for (topic, partition, asked, expected) in [
        ("logs", 0, 2, ErrorCode::OFFSET_OUT_OF_RANGE),
        ("logs", 0, i64::MAX, ErrorCode::OFFSET_OUT_OF_RANGE),
        ("logs", 0, -2, ErrorCode::OFFSET_OUT_OF_RANGE),
        ("logs", 1, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ("logs", -1, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ("none", 0, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ("tables", 0, 0, ErrorCode::POLICY_VIOLATION),
        ("neither", 0, 0, ErrorCode::NONE),
        ("both", 0, 0, ErrorCode::NONE),
        ("logs", 0, 1, ErrorCode::NONE),
    ] {
        let answer = delete(&mut client, 2, topic, partition, asked);
        assert_eq!(ErrorCode(answer.error_code), expected, "{topic}-{partition} up to {asked}");
        let low = if expected == ErrorCode::NONE { asked } else { -1 };
        assert_eq!(answer.low_watermark, low, "{topic}-{partition} up to {asked}");
    }
}

#[test]
fn old_records_go_by_age_and_by_size_the_active_segment_too_and_their_files_with_them() {
    let served = Served::with(&[("log.retention.check.interval.ms", "20")]);
    let mut client = served.client();
    client.create("aged", 1, &[("retention.ms", "1000")]);
    client.create("sized", 1, &[("retention.bytes", "0")]);
    client.create("kept", 1, &[("retention.ms", "-1")]);
    for topic in ["aged", "sized", "kept"] {
        // The records say that they are of 2023.
        client.produce(topic, -1, batch(&["old", "older"]));
    }
    for topic in ["aged", "sized"] {
        until("the records go", || offset(&mut client, topic, -2) == 2);
        until("their segment goes", || served.segments(topic) == ["00000000000000000002"]);
    }
    assert_eq!((offset(&mut client, "kept", -2), offset(&mut client, "kept", -1)), (0, 2));
    assert_eq!(served.segments("kept"), ["00000000000000000000"]);
}
