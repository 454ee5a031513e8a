//! Frames put together by hand from the protocol's description.

use std::fmt::Debug;

use bytes::Bytes;
use millpond_wire::api_versions::{ApiVersion, ApiVersionsResponse, FinalizedFeatureKey};
use millpond_wire::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use millpond_wire::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millpond_wire::{
    ApiKey, Decoder, Message, Request, RequestHeader, ResponseHeader, Str, encode_request, encode_response,
};

/// Bytes from hexadecimal pieces; a piece with quotes is text.
fn frame(pieces: &[&str]) -> Bytes {
    let mut bytes = Vec::new();
    for piece in pieces.iter().flat_map(|piece| piece.split_whitespace()) {
        match piece.strip_prefix('\'') {
            Some(text) => bytes.extend(text.trim_end_matches('\'').bytes()),
            None => bytes.extend(
                (0..piece.len()).step_by(2).map(|at| u8::from_str_radix(&piece[at..at + 2], 16).expect("hexadecimal")),
            ),
        }
    }
    Bytes::from(bytes)
}

fn check_response<M: Message + PartialEq + Debug>(response: &M, version: i16, golden: &[&str]) {
    let golden = frame(golden);
    let written = encode_response(7, version, response).expect("a value for this version");
    assert_eq!(written.to_bytes(), golden);
    assert_eq!(written.len(), golden.len());

    let mut decoder = Decoder::new(golden.slice(4..));
    assert_eq!(ResponseHeader::decode(&mut decoder, M::KEY, version), Ok(ResponseHeader { correlation_id: 7 }));
    assert_eq!(M::decode(&mut decoder, version).as_ref(), Ok(response));
    assert_eq!(decoder.finish(), Ok(()));
}

fn check_request<R: Request + PartialEq + Debug>(request: &R, version: i16, golden: &[&str]) {
    let golden = frame(golden);
    let client = Some(Str::from_static("kcat"));
    let written = encode_request(1, client.clone(), version, request).expect("a value for this version");
    assert_eq!(written.to_bytes(), golden);

    let mut decoder = Decoder::new(golden.slice(4..));
    let header = RequestHeader { api_key: R::KEY, api_version: version, correlation_id: 1, client_id: client };
    assert_eq!(RequestHeader::decode(&mut decoder), Ok(header));
    assert_eq!(R::decode(&mut decoder, version).as_ref(), Ok(request));
    assert_eq!(decoder.finish(), Ok(()));
}

fn api_versions() -> ApiVersionsResponse {
    let own = ApiVersion { api_key: 18, min_version: 0, max_version: 4 };
    ApiVersionsResponse { error_code: 0, api_keys: vec![own], ..Default::default() }
}

#[test]
fn api_versions_0_is_an_error_and_a_plain_list() {
    let response = ApiVersionsResponse { error_code: 35, ..api_versions() };
    check_response(&response, 0, &["00000010 00000007", "0023", "00000001 0012 0000 0004"]);
}

/// Response header 0 also in a flexible version (trap 1), and no tagged field that holds its default (trap 2).
#[test]
fn api_versions_3_has_the_old_header_and_leaves_out_default_tags() {
    check_response(&api_versions(), 3, &["00000013 00000007", "0000", "02 0012 0000 0004 00", "00000000", "00"]);
    let feature =
        FinalizedFeatureKey { name: "transaction.version".into(), max_version_level: 2, min_version_level: 2 };
    let response =
        ApiVersionsResponse { finalized_features_epoch: 5, finalized_features: vec![feature], ..api_versions() };
    check_response(
        &response,
        3,
        &[
            "00000039 00000007",
            "0000",
            "02 0012 0000 0004 00",
            "00000000",
            "02",                                             // two tagged fields:
            "01 08 0000000000000005",                         // tag 1, eight bytes, the epoch
            "02 1a 02 14 'transaction.version' 0002 0002 00", // tag 2, 26 bytes, the features
        ],
    );
}

#[test]
fn produce_3_carries_its_records_as_they_are() {
    let partition = PartitionProduceData { index: 6, records: Some(Bytes::from_static(b"batch").into()) };
    let topic = TopicProduceData { name: "orders".into(), partition_data: vec![partition], ..Default::default() };
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 30_000, topic_data: vec![topic] };
    check_request(
        &request,
        3,
        &[
            "00000033 0000 0003 00000001 0004 'kcat'",
            "ffff",          // no transactional id
            "ffff 00007530", // acks, timeout
            "00000001 0006 'orders'",
            "00000001 00000006",
            "00000005 'batch'",
        ],
    );
}

fn fetched() -> PartitionData {
    PartitionData {
        partition_index: 2,
        high_watermark: 12,
        last_stable_offset: 11,
        aborted_transactions: None,
        records: Some(Bytes::from_static(b"batch").into()),
        ..Default::default()
    }
}

#[test]
fn fetch_4_answers_in_the_old_encoding() {
    let topic = FetchableTopicResponse { topic: "orders".into(), partitions: vec![fetched()], ..Default::default() };
    check_response(
        &FetchResponse { responses: vec![topic], ..Default::default() },
        4,
        &[
            "0000003b 00000007",
            "00000000",
            "00000001 0006 'orders'",
            "00000001 00000002 0000 000000000000000c 000000000000000b",
            "ffffffff", // no list of aborted transactions
            "00000005 'batch'",
        ],
    );
}

#[test]
fn fetch_12_answers_in_the_compact_encoding_and_tags_the_leader() {
    let leader = LeaderIdAndEpoch { leader_id: 3, leader_epoch: 9 };
    let partition = PartitionData { error_code: 6, current_leader: leader, log_start_offset: 1, ..fetched() };
    let topic = FetchableTopicResponse { topic: "orders".into(), partitions: vec![partition], ..Default::default() };
    check_response(
        &FetchResponse { session_id: 5, responses: vec![topic], ..Default::default() },
        12,
        &[
            "0000004f 00000007 00",
            "00000000 0000 00000005",
            "02 07 'orders'",
            "02 00000002 0006 000000000000000c 000000000000000b 0000000000000001",
            "00",       // no list of aborted transactions
            "ffffffff", // no preferred replica
            "06 'batch'",
            "01 01 09 00000003 00000009 00", // one tagged field: tag 1, nine bytes, the leader
            "00",                            // the topic's tags
            "00",                            // the response's tags
        ],
    );
}

#[test]
fn fetch_12_asks_with_header_2_and_a_client_id_in_the_old_encoding() {
    let partition =
        FetchPartition { partition: 2, fetch_offset: 11, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: "orders".into(), partitions: vec![partition], ..Default::default() };
    let request = FetchRequest {
        cluster_id: Some("pond".into()),
        max_wait_ms: 500,
        min_bytes: 1,
        topics: vec![topic],
        ..Default::default()
    };
    check_request(
        &request,
        12,
        &[
            "0000005d 0001 000c 00000001 0004 'kcat' 00",
            "ffffffff 000001f4 00000001 7fffffff 00",
            "00000000 ffffffff", // no session
            "02 07 'orders'",
            "02 00000002 ffffffff 000000000000000b ffffffff ffffffffffffffff 00100000 00",
            "00",
            "01", // no forgotten topics
            "01", // no rack
            "01 00 05 05 'pond'",
        ],
    );
}

#[test]
fn metadata_12_names_topics_by_name_and_id() {
    let broker = MetadataResponseBroker { node_id: 1, host: "mill".into(), port: 9092, rack: None };
    let partition = MetadataResponsePartition {
        partition_index: 0,
        leader_id: 1,
        leader_epoch: 4,
        replica_nodes: vec![1],
        isr_nodes: vec![1],
        ..Default::default()
    };
    let known = MetadataResponseTopic {
        name: Some("orders".into()),
        topic_id: *b"0123456789abcdef",
        partitions: vec![partition],
        ..Default::default()
    };
    let unknown = MetadataResponseTopic { error_code: 100, name: None, ..Default::default() };
    let response = MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some("pond".into()),
        controller_id: 1,
        topics: vec![known, unknown],
        ..Default::default()
    };
    check_response(
        &response,
        12,
        &[
            "00000078 00000007 00",
            "00000000",
            "02 00000001 05 'mill' 00002384 00 00",
            "05 'pond' 00000001",
            "03 0000 07 'orders' '0123456789abcdef' 00",
            "02 0000 00000000 00000001 00000004 02 00000001 02 00000001 01 00",
            "80000000 00",
            "0064 00 00000000000000000000000000000000 00 01 80000000 00",
            "00",
        ],
    );
}

#[test]
fn headers_have_the_version_that_the_api_version_asks_for() {
    use millpond_wire::{request_header_version as request, response_header_version as response};
    assert_eq!((request(ApiKey::PRODUCE, 8), response(ApiKey::PRODUCE, 8)), (Some(1), Some(0)));
    assert_eq!((request(ApiKey::PRODUCE, 9), response(ApiKey::PRODUCE, 9)), (Some(2), Some(1)));
    assert_eq!((request(ApiKey::API_VERSIONS, 2), response(ApiKey::API_VERSIONS, 2)), (Some(1), Some(0)));
    assert_eq!((request(ApiKey::API_VERSIONS, 99), response(ApiKey::API_VERSIONS, 99)), (Some(2), Some(0)));
    assert_eq!((request(ApiKey::SASL_HANDSHAKE, 1), response(ApiKey::SASL_HANDSHAKE, 1)), (Some(1), Some(0)));
    assert_eq!((request(ApiKey(4), 0), response(ApiKey(4), 0)), (None, None));
}
