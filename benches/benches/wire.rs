//! What reading and writing frames costs. Records are not copied, so Produce and Fetch should cost the same for a batch
//! of any size.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millpond_wire::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use millpond_wire::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millpond_wire::{Decoder, Message, Str, encode_request, encode_response};

const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 17;
const METADATA_VERSION: i16 = 12;
const BATCH_BYTES: [usize; 2] = [16 << 10, 1_000_000];
const METADATA_PARTITIONS: i32 = 1000;

/// Bytes in front of a body in a flexible version: length, key, version, correlation id, client id, no tagged fields.
const REQUEST_HEAD_BYTES: usize = 4 + 2 + 2 + 4 + 2 + CLIENT_ID.len() + 1;
/// The same for a response: length, correlation id, no tagged fields.
const RESPONSE_HEAD_BYTES: usize = 4 + 4 + 1;
const CLIENT_ID: &str = "bench";

fn produce_request(batch: Bytes) -> ProduceRequest {
    let partition = PartitionProduceData { index: 3, records: Some(batch.into()) };
    let topic =
        TopicProduceData { name: "orders".into(), partition_data: vec![partition], ..TopicProduceData::default() };
    ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..ProduceRequest::default() }
}

/// One partition with one batch as the log keeps it: a stamped head and a shared tail.
fn fetch_response(batch: &Bytes) -> FetchResponse {
    let partition = PartitionData {
        partition_index: 3,
        high_watermark: 1_000_000,
        last_stable_offset: 1_000_000,
        log_start_offset: 0,
        aborted_transactions: None,
        records: Some(vec![batch.slice(..61), batch.slice(61..)].into()),
        ..PartitionData::default()
    };
    let topic = FetchableTopicResponse {
        topic_id: *b"0123456789abcdef",
        partitions: vec![partition],
        ..FetchableTopicResponse::default()
    };
    FetchResponse { responses: vec![topic], ..FetchResponse::default() }
}

fn metadata_response() -> MetadataResponse {
    let broker = |node_id| MetadataResponseBroker { node_id, host: "mill.example".into(), port: 9092, rack: None };
    let partition = |partition_index| MetadataResponsePartition {
        partition_index,
        leader_id: 1 + partition_index % 3,
        leader_epoch: 7,
        replica_nodes: vec![1, 2, 3],
        isr_nodes: vec![1, 2, 3],
        ..MetadataResponsePartition::default()
    };
    let topic = MetadataResponseTopic {
        name: Some("orders".into()),
        topic_id: *b"0123456789abcdef",
        partitions: (0..METADATA_PARTITIONS).map(partition).collect(),
        ..MetadataResponseTopic::default()
    };
    MetadataResponse {
        brokers: (1..=3).map(broker).collect(),
        cluster_id: Some("pond".into()),
        controller_id: 1,
        topics: vec![topic],
        ..MetadataResponse::default()
    }
}

fn decode<M: Message>(body: &Bytes, version: i16) -> M {
    let mut decoder = Decoder::new(black_box(body).clone());
    let message = M::decode(&mut decoder, version).expect("the frame is whole");
    decoder.finish().expect("the frame is whole");
    message
}

fn produce(criterion: &mut Criterion) {
    for batch_bytes in BATCH_BYTES {
        let request = produce_request(Bytes::from(vec![0x5a; batch_bytes]));
        let client = Some(Str::from_static(CLIENT_ID));
        let encode = |request: &ProduceRequest| {
            encode_request(1, client.clone(), PRODUCE_VERSION, request).expect("the request fits the version")
        };
        let body = encode(&request).to_bytes().slice(REQUEST_HEAD_BYTES..);
        assert_eq!(decode::<ProduceRequest>(&body, PRODUCE_VERSION), request);

        let mut group = criterion.benchmark_group("produce_request");
        group.bench_function(BenchmarkId::new("decode", batch_bytes), |bench| {
            bench.iter(|| decode::<ProduceRequest>(&body, PRODUCE_VERSION));
        });
        group.bench_function(BenchmarkId::new("encode", batch_bytes), |bench| {
            bench.iter(|| encode(black_box(&request)));
        });
        group.finish();
    }
}

fn fetch(criterion: &mut Criterion) {
    for batch_bytes in BATCH_BYTES {
        let response = fetch_response(&Bytes::from(vec![0x5a; batch_bytes]));
        let encode = |response: &FetchResponse| {
            encode_response(1, FETCH_VERSION, response).expect("the response fits the version")
        };
        let body = encode(&response).to_bytes().slice(RESPONSE_HEAD_BYTES..);
        assert_eq!(decode::<FetchResponse>(&body, FETCH_VERSION), response);

        let mut group = criterion.benchmark_group("fetch_response");
        group.bench_function(BenchmarkId::new("decode", batch_bytes), |bench| {
            bench.iter(|| decode::<FetchResponse>(&body, FETCH_VERSION));
        });
        group.bench_function(BenchmarkId::new("encode", batch_bytes), |bench| {
            bench.iter(|| encode(black_box(&response)));
        });
        group.finish();
    }
}

fn metadata(criterion: &mut Criterion) {
    let response = metadata_response();
    let encode = |response: &MetadataResponse| {
        encode_response(1, METADATA_VERSION, response).expect("the response fits the version")
    };
    let body = encode(&response).to_bytes().slice(RESPONSE_HEAD_BYTES..);
    assert_eq!(decode::<MetadataResponse>(&body, METADATA_VERSION), response);

    let mut group = criterion.benchmark_group("metadata_response");
    group.throughput(Throughput::Elements(METADATA_PARTITIONS as u64));
    group.bench_function("decode", |bench| bench.iter(|| decode::<MetadataResponse>(&body, METADATA_VERSION)));
    group.bench_function("encode", |bench| bench.iter(|| encode(black_box(&response))));
    group.finish();
}

criterion_group!(benches, produce, fetch, metadata);
criterion_main!(benches);
