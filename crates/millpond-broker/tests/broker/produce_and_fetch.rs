//! Produce, Fetch and ListOffsets against a whole broker: what is refused with which code, what comes back, and when.

use std::time::{Duration, Instant};

use crate::support::{Client, Served, assert_code, batch, fetch_request, produce_request, values};
use bytes::{Bytes, BytesMut};
use millpond_record::{BatchBuilder, BatchView, Codec, Timestamp, TimestampType, rewrite_crc};
use millpond_wire::fetch::{FetchPartition, FetchRequest};
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::produce::ProduceRequest;
use millpond_wire::{ErrorCode, Str};

/// A batch with one byte changed and its CRC put right.
fn changed(batch: &Bytes, at: usize, byte: u8) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    bytes[at] = byte;
    rewrite_crc(&mut bytes);
    bytes.freeze()
}

#[test]
fn a_batch_is_stored_as_sent_but_for_offset_and_leader_epoch() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let sent = [batch(&["a", "b"]), batch(&["c"])];
    let offsets: Vec<_> = sent.iter().map(|batch| client.produce("logs", -1, batch.clone()).base_offset).collect();
    assert_eq!(offsets, [0, 2]);
    let answer = client.fetch("logs", 0, 0);
    assert_eq!((answer.high_watermark, answer.last_stable_offset, answer.log_start_offset), (3, 3, 0));
    let stored = answer.records.expect("never null").to_bytes();
    let first = BatchView::first_of(&stored).expect("a batch");
    assert_eq!(first.bytes()[16..], sent[0][16..], "from magic on");
    assert_eq!(stored[first.size_bytes() + 16..], sent[1][16..]);
}

#[test]
fn a_refused_batch_gets_its_code_and_is_not_appended() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[("max.message.bytes", "2000")]);
    let good = batch(&["a", "b"]);
    let zstd = BatchBuilder::new().codec(Codec::Zstd).record(Timestamp(0), None, Some(b"z")).build();
    let mut damaged = BytesMut::from(&good[..]);
    damaged[70] ^= 1;
    let transactional = BatchBuilder::new()
        .producer(millpond_record::ProducerId(9), millpond_record::ProducerEpoch(0), 0)
        .transactional()
        .record(Timestamp(0), None, None)
        .build();
    for (what, sent, expected) in [
        ("a flipped bit", damaged.freeze(), ErrorCode::CORRUPT_MESSAGE),
        ("no bytes", Bytes::new(), ErrorCode::INVALID_RECORD),
        ("a cut batch", good.slice(..good.len() - 3), ErrorCode::INVALID_RECORD),
        ("two batches", [&good[..], &good[..]].concat().into(), ErrorCode::INVALID_RECORD),
        ("a base offset", changed(&good, 7, 5), ErrorCode::INVALID_RECORD),
        ("a control bit", changed(&good, 22, 0x20), ErrorCode::INVALID_RECORD),
        ("an undefined bit", changed(&good, 22, 0x40), ErrorCode::INVALID_RECORD),
        ("an unknown codec", changed(&good, 22, 6), ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
        ("too many bytes", batch(&[&"x".repeat(2000)]), ErrorCode::MESSAGE_TOO_LARGE),
        ("a transaction", transactional, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    ] {
        let answer = client.produce("logs", -1, sent);
        assert_eq!((ErrorCode(answer.error_code), answer.base_offset), (expected, -1), "{what}");
    }
    let early = client.call(6, &produce_request("logs", -1, vec![(0, zstd)]));
    assert_code(early.responses[0].partition_responses[0].error_code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(client.fetch("logs", 0, 0).high_watermark, 0);
    for acks in [2, -2] {
        assert_code(client.produce("logs", acks, good.clone()).error_code, ErrorCode::INVALID_REQUIRED_ACKS);
    }
}

#[test]
fn null_records_and_transactional_requests_are_refused_with_a_clear_code() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let mut request = produce_request("logs", -1, vec![(0, Bytes::new())]);
    request.topic_data[0].partition_data[0].records = None;
    let answer = client.call(9, &request);
    assert_code(answer.responses[0].partition_responses[0].error_code, ErrorCode::INVALID_RECORD);
    let request =
        ProduceRequest { transactional_id: Some("t".into()), ..produce_request("logs", -1, vec![(0, batch(&["a"]))]) };
    let answer = client.call(9, &request);
    assert_code(answer.responses[0].partition_responses[0].error_code, ErrorCode::UNSUPPORTED_VERSION);
    let request = millpond_wire::init_producer_id::InitProducerIdRequest {
        transactional_id: Some("t".into()),
        ..Default::default()
    };
    assert_code(client.call(4, &request).error_code, ErrorCode::UNSUPPORTED_VERSION);
}

#[test]
fn partitions_of_one_request_fail_each_for_itself_and_one_named_twice_loses_nothing() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 3, &[]);
    let good = |value: &str| batch(&[value]);
    let mut bad = BytesMut::from(&good("x")[..]);
    bad[65] ^= 1;
    let parts = vec![(2, good("a")), (0, bad.freeze()), (9, good("c")), (1, good("d"))];
    let answer = client.call(9, &produce_request("logs", -1, parts));
    let codes = |answer: &millpond_wire::produce::ProduceResponse| -> Vec<_> {
        let parts = answer.responses[0].partition_responses.iter();
        parts.map(|part| (part.index, ErrorCode(part.error_code))).collect()
    };
    let (none, unknown) = (ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(codes(&answer), [(2, none), (0, ErrorCode::CORRUPT_MESSAGE), (9, unknown), (1, none)]);

    let twice = vec![(0, good("first")), (0, good("second")), (1, good("e"))];
    let answer = client.call(9, &produce_request("logs", -1, twice));
    let refused = ErrorCode::INVALID_REQUEST;
    assert_eq!(codes(&answer), [(0, refused), (0, refused), (1, none)]);
    assert_eq!(client.fetch("logs", 0, 0).high_watermark, 0);
}

#[test]
fn a_topic_with_a_codec_of_its_own_stores_every_batch_in_it_and_keeps_their_order() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[("compression.type", "zstd")]);
    let codecs = [Codec::None, Codec::Gzip, Codec::Zstd, Codec::Lz4, Codec::Snappy, Codec::None];
    let ids: Vec<_> = codecs
        .iter()
        .enumerate()
        .map(|(i, codec)| {
            let value = i.to_string();
            let sent = BatchBuilder::new().codec(*codec).record(Timestamp(5), None, Some(value.as_bytes())).build();
            client.send(9, &produce_request("logs", -1, vec![(0, sent)]))
        })
        .collect();
    for id in ids {
        assert_eq!(client.receive::<ProduceRequest>(9, id).responses[0].partition_responses[0].error_code, 0);
    }
    let answer = client.fetch("logs", 0, 0);
    assert_eq!(values(&answer), ["0", "1", "2", "3", "4", "5"]);
    let bytes = answer.records.expect("never null").to_bytes();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let stored = BatchView::first_of(rest).expect("a batch");
        assert_eq!(stored.header().attributes.compression(), Ok(Codec::Zstd));
        rest = &rest[stored.size_bytes()..];
    }
}

#[test]
fn a_batch_that_outgrows_its_limits_in_the_topics_codec_is_refused() {
    let served = Served::start();
    let mut client = served.client();
    let zeros = BatchBuilder::new().codec(Codec::Gzip).record(Timestamp(5), None, Some(&vec![0; 2_000_000])).build();
    for (topic, most, code) in [
        ("messages", "1500000", ErrorCode::MESSAGE_TOO_LARGE),
        ("segments", "3000000", ErrorCode::RECORD_LIST_TOO_LARGE),
    ] {
        let limits = [("compression.type", "uncompressed"), ("max.message.bytes", most), ("segment.bytes", "1600000")];
        client.create(topic, 1, &limits);
        assert_code(client.produce(topic, -1, zeros.clone()).error_code, code);
    }
}

#[test]
fn log_append_time_is_in_the_batch_and_in_the_answer() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let answer = client.produce("logs", -1, batch(&["a"]));
    assert!(answer.log_append_time_ms > 1_700_000_000_000, "{answer:?}");
    let stored = client.fetch("logs", 0, 0).records.expect("never null").to_bytes();
    let stored = BatchView::first_of(&stored).expect("a batch");
    assert!(stored.verify_crc());
    assert_eq!(stored.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(stored.header().max_timestamp.0, answer.log_append_time_ms);
}

#[test]
fn more_in_sync_replicas_than_there_are_ask_for_all_there_are() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[("min.insync.replicas", "2")]);
    assert_code(client.produce("logs", -1, batch(&["a"])).error_code, ErrorCode::NONE);
    assert_code(client.produce("logs", 1, batch(&["a"])).error_code, ErrorCode::NONE);
}

#[test]
fn a_waiting_fetch_is_answered_by_the_next_append_whatever_its_acks() {
    let served = Served::start();
    let (mut reader, mut writer) = (served.client(), served.client());
    writer.create("logs", 1, &[]);
    for (offset, acks) in [(0, -1), (1, 1), (2, 0)] {
        let id = reader.send(12, &FetchRequest { max_wait_ms: 50_000, ..fetch_request("logs", offset) });
        let value = format!("acks {acks}");
        writer.send(9, &produce_request("logs", acks, vec![(0, batch(&[&value]))]));
        let start = Instant::now();
        let answer = reader.receive::<FetchRequest>(12, id);
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(values(&answer.responses[0].partitions[0]), [value]);
        if acks != 0 {
            writer.receive_frame().expect("an answer");
        }
    }
}

#[test]
fn a_fetch_behind_what_acks_1_has_just_acknowledged_is_in_range() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    for offset in 0..200 {
        let produce = client.send(9, &produce_request("logs", 1, vec![(0, batch(&["a"]))]));
        // The log end as the producer will know it; the flush may still be under way.
        let fetch = client.send(12, &fetch_request("logs", offset + 1));
        let written = client.receive::<ProduceRequest>(9, produce);
        assert_eq!(written.responses[0].partition_responses[0].base_offset, offset);
        let answer = client.receive::<FetchRequest>(12, fetch);
        assert_code(answer.responses[0].partitions[0].error_code, ErrorCode::NONE);
    }
}

#[test]
fn a_fetch_that_waits_gives_each_batch_once_however_partitions_fill() {
    let served = Served::start();
    let (mut reader, mut writer) = (served.client(), served.client());
    writer.create("logs", 2, &[]);
    let mut request = FetchRequest { min_bytes: 6000, max_wait_ms: 50_000, ..fetch_request("logs", 0) };
    let second = FetchPartition { partition: 1, partition_max_bytes: 1 << 20, ..Default::default() };
    request.topics[0].partitions.push(second);
    let id = reader.send(12, &request);
    for i in 0..10 {
        let parts = (0..2).map(|part| (part, batch(&[&format!("{part}-{i}-{}", "x".repeat(400))]))).collect();
        writer.call(9, &produce_request("logs", -1, parts));
    }
    let answer = reader.receive::<FetchRequest>(12, id);
    for (part, data) in (0..).zip(&answer.responses[0].partitions) {
        for (i, value) in values(data).iter().enumerate() {
            assert!(value.starts_with(&format!("{part}-{i}-")), "{value}");
        }
    }
}

#[test]
fn min_bytes_counts_over_all_partitions_and_is_not_waited_for_where_limits_hold_data_back() {
    let served = Served::start();
    let (mut reader, mut writer) = (served.client(), served.client());
    writer.create("logs", 2, &[]);
    let thousand = "x".repeat(1000);
    writer.call(9, &produce_request("logs", -1, vec![(0, batch(&[&thousand]))]));
    let mut request = FetchRequest { min_bytes: 1900, max_wait_ms: 50_000, ..fetch_request("logs", 0) };
    let second = FetchPartition { partition: 1, partition_max_bytes: 1 << 20, ..Default::default() };
    request.topics[0].partitions.push(second);
    let id = reader.send(12, &request);
    writer.call(9, &produce_request("logs", -1, vec![(1, batch(&[&thousand]))]));
    let answer = reader.receive::<FetchRequest>(12, id);
    let lengths: Vec<_> = answer.responses[0].partitions.iter().map(|part| values(part).len()).collect();
    assert_eq!(lengths, [1, 1]);

    writer.call(9, &produce_request("logs", -1, vec![(0, batch(&[&thousand]))]));
    let start = Instant::now();
    let mut limited = FetchRequest { min_bytes: 1 << 20, max_wait_ms: 50_000, ..fetch_request("logs", 0) };
    limited.topics[0].partitions[0].partition_max_bytes = 1500;
    let answer = reader.call(12, &limited);
    assert!(start.elapsed() < Duration::from_secs(20), "more is there than the limit lets through");
    assert_eq!(values(&answer.responses[0].partitions[0]).len(), 1);
}

#[test]
fn the_first_batch_comes_whole_and_the_others_within_the_limits() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    for _ in 0..3 {
        client.produce("logs", -1, batch(&[&"x".repeat(1000)]));
    }
    let mut batches_for = |max_bytes: i32, partition_max_bytes: i32| {
        let mut request = FetchRequest { max_bytes, ..fetch_request("logs", 0) };
        request.topics[0].partitions[0].partition_max_bytes = partition_max_bytes;
        values(&client.call(12, &request).responses[0].partitions[0]).len()
    };
    assert_eq!(batches_for(0, 1 << 20), 1);
    assert_eq!(batches_for(1 << 20, 0), 1);
    assert_eq!(batches_for(2500, 1 << 20), 2);
    assert_eq!(batches_for(1 << 20, 1 << 20), 3);
    let negative = FetchRequest { max_bytes: -1, ..fetch_request("logs", 0) };
    assert_code(client.call(12, &negative).responses[0].partitions[0].error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn fetch_errors_come_at_once_with_their_codes() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.produce("logs", -1, batch(&["a"]));
    let start = Instant::now();
    for offset in [-1, 2, 99] {
        assert_code(client.fetch("logs", offset, 50_000).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    assert_code(client.fetch("none", 0, 50_000).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let epoch = leader_epoch(&mut client, "logs");
    for (believed, expected) in [
        (epoch, ErrorCode::NONE),
        (epoch + 1, ErrorCode::UNKNOWN_LEADER_EPOCH),
        (epoch - 1, ErrorCode::FENCED_LEADER_EPOCH),
    ] {
        let mut request = FetchRequest { max_wait_ms: 50_000, ..fetch_request("logs", 0) };
        request.topics[0].partitions[0].current_leader_epoch = believed;
        assert_code(client.call(12, &request).responses[0].partitions[0].error_code, expected);
    }
    let unknown_id = FetchRequest { max_wait_ms: 50_000, ..fetch_request("logs", 0) };
    let answer = client.call(13, &unknown_id);
    assert_code(answer.responses[0].partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    let session = FetchRequest { session_id: 5, session_epoch: 5, ..fetch_request("logs", 0) };
    assert_code(client.call(12, &session).error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert!(start.elapsed() < Duration::from_secs(20));
}

fn metadata(client: &mut Client, topic: &str, create: bool) -> millpond_wire::metadata::MetadataResponseTopic {
    let asked = MetadataRequestTopic { name: Some(Str::from(topic)), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: create, ..Default::default() };
    client.call(9, &request).topics.remove(0)
}

fn leader_epoch(client: &mut Client, topic: &str) -> i32 {
    metadata(client, topic, false).partitions[0].leader_epoch
}

#[test]
fn the_leader_epoch_in_metadata_is_the_one_in_the_batches() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let epoch = leader_epoch(&mut client, "logs");
    client.produce("logs", -1, batch(&["a"]));
    let stored = client.fetch("logs", 0, 0).records.expect("never null").to_bytes();
    assert_eq!(BatchView::first_of(&stored).expect("a batch").header().leader_epoch.0, epoch);
    assert_eq!(leader_epoch(&mut client, "logs"), epoch);
}

#[test]
fn a_missing_topic_is_created_only_where_the_client_allows_it_and_its_name_is_good() {
    let served = Served::start();
    let mut client = served.client();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_code(metadata(&mut client, "made", false).error_code, unknown);
    assert_code(metadata(&mut client, "made", false).error_code, unknown);
    assert_code(metadata(&mut client, "made", true).error_code, ErrorCode::LEADER_NOT_AVAILABLE);
    assert_eq!(metadata(&mut client, "made", true).partitions.len(), 1);
    assert_code(metadata(&mut client, "bad name", true).error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    let refusing = Served::with(&[("auto.create.topics.enable", "false")]);
    let mut client = refusing.client();
    for _ in 0..2 {
        assert_code(metadata(&mut client, "made", true).error_code, unknown);
    }
}

#[test]
fn list_offsets_finds_ends_times_and_the_newest_record() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let of = |times: &[i64]| {
        let mut builder = BatchBuilder::new();
        for time in times {
            builder = builder.record(Timestamp(*time), None, Some(b"v"));
        }
        builder.build()
    };
    client.produce("logs", -1, of(&[1000, 1010]));
    client.produce("logs", -1, of(&[1100, 1050]));
    let mut ask = |timestamp: i64, version: i16| {
        let partition = ListOffsetsPartition { timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: "logs".into(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer = client.call(version, &request).topics.remove(0).partitions.remove(0);
        (ErrorCode(answer.error_code), answer.offset, answer.timestamp)
    };
    let none = ErrorCode::NONE;
    for (timestamp, offset, found) in [
        (-1, 4, -1),
        (-2, 0, -1),
        (-3, 2, 1100),
        (-4, 0, -1),
        (-5, -1, -1),
        (0, 0, 1000),
        (1005, 1, 1010),
        (1011, 2, 1100),
        (1101, -1, -1),
    ] {
        assert_eq!(ask(timestamp, 9), (none, offset, found), "timestamp {timestamp}");
    }
    assert_eq!(ask(-3, 6), (ErrorCode::UNSUPPORTED_VERSION, -1, -1));
}
