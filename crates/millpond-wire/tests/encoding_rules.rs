//! What encoding promises beyond the bytes: what is refused, what is dropped, what is not copied; and what decoding
//! refuses.

use bytes::Bytes;
use millpond_wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use millpond_wire::describe_topic_partitions::{Cursor, DescribeTopicPartitionsRequest};
use millpond_wire::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData};
use millpond_wire::list_offsets::ListOffsetsRequest;
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::sasl_authenticate::SaslAuthenticateRequest;
use millpond_wire::{
    ApiKey, Chunk, DecodeError, Decoder, Elsewhere, EncodeError, Encoder, Message, Records, RequestHeader,
    SPLICE_BYTES, Str, decode_request_by_key, encode_response,
};

fn encode<M: Message>(value: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut encoder = Encoder::new();
    value.encode(&mut encoder, version)?;
    Ok(encoder.finish().to_bytes())
}

fn decode<M: Message>(bytes: &[u8], version: i16) -> Result<M, DecodeError> {
    let mut decoder = Decoder::new(Bytes::copy_from_slice(bytes));
    let value = M::decode(&mut decoder, version)?;
    decoder.finish()?;
    Ok(value)
}

#[test]
fn a_value_that_the_version_has_no_place_for_is_refused() {
    let request = ListOffsetsRequest { isolation_level: 1, ..Default::default() };
    let refused = EncodeError::NoSuchField { field: "ListOffsetsRequest.IsolationLevel", version: 1 };
    assert_eq!(encode(&request, 1), Err(refused));
    assert!(encode(&request, 2).is_ok());
}

#[test]
fn an_ignorable_value_that_the_version_has_no_place_for_is_dropped() {
    let response = ApiVersionsResponse { throttle_time_ms: 5, ..Default::default() };
    assert_eq!(encode(&response, 0), encode(&ApiVersionsResponse::default(), 0));
    assert_ne!(encode(&response, 1), encode(&ApiVersionsResponse::default(), 1));
}

#[test]
fn a_tagged_value_of_a_later_version_is_refused_in_an_earlier_one() {
    let leader = LeaderIdAndEpoch { leader_id: 1, leader_epoch: 2 };
    let partition = PartitionData { current_leader: leader, ..Default::default() };
    let topic = FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
    let response = FetchResponse { responses: vec![topic], ..Default::default() };
    let refused = EncodeError::NoSuchField { field: "PartitionData.CurrentLeader", version: 11 };
    assert_eq!(encode(&response, 11), Err(refused));
    assert!(encode(&response, 12).is_ok());
}

#[test]
fn null_is_refused_both_ways_where_the_version_does_not_allow_it() {
    let all_topics = MetadataRequest { topics: None, ..Default::default() };
    assert_eq!(encode(&all_topics, 0), Err(EncodeError::Null { field: "MetadataRequest.Topics" }));
    assert_eq!(encode(&all_topics, 1), Ok(Bytes::from_static(&[0xff; 4])));
    assert_eq!(decode::<MetadataRequest>(&[0xff; 4], 1), Ok(all_topics));
    assert_eq!(decode::<MetadataRequest>(&[0xff; 4], 0), Err(DecodeError::Null { at: 0 }));
    // A client software name, then a version; the name is null.
    assert_eq!(decode::<ApiVersionsRequest>(&[0, 2, b'1', 0], 3), Err(DecodeError::Null { at: 0 }));
}

#[test]
fn a_version_outside_the_specification_is_refused_both_ways() {
    let unsupported = EncodeError::UnsupportedVersion { api: ApiKey::FETCH, version: 3 };
    assert_eq!(encode(&FetchRequest::default(), 3), Err(unsupported));
    let unsupported = DecodeError::UnsupportedVersion { api: ApiKey::FETCH, version: 19 };
    assert_eq!(decode::<FetchRequest>(&[], 19), Err(unsupported));
    assert_eq!(decode_request_by_key(ApiKey(4), 0, Bytes::new()), Err(DecodeError::UnknownApi(ApiKey(4))));
}

#[test]
fn a_text_longer_than_its_length_can_say_is_refused() {
    let topic = MetadataRequestTopic { name: Some(Str::from("x".repeat(40_000))), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let refused = EncodeError::TooLong { field: "MetadataRequestTopic.Name", length: 40_000 };
    assert_eq!(encode(&request, 8), Err(refused));
    assert!(encode(&request, 9).is_ok(), "a compact length has no such limit");
}

fn fetch_response(chunks: Vec<Bytes>) -> FetchResponse {
    let partition = PartitionData { records: Some(Records::from(chunks)), ..Default::default() };
    let topic = FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
    FetchResponse { responses: vec![topic], ..Default::default() }
}

#[test]
fn long_records_keep_their_place_in_memory_and_short_ones_are_copied() {
    let head = Bytes::from(vec![1; 61]);
    let tail = Bytes::from(vec![2; SPLICE_BYTES]);
    let next = Bytes::from(vec![3; SPLICE_BYTES]);
    let response = fetch_response(vec![head, tail.clone(), next.clone()]);
    for version in [4, 18] {
        let chunks = encode_response(1, version, &response).expect("a value for this version");
        let pieces: Vec<(*const u8, usize)> =
            chunks.as_slice().iter().filter_map(Chunk::here).map(|one| (one.as_ptr(), one.len())).collect();
        assert_eq!(pieces[1..3], [(tail.as_ptr(), tail.len()), (next.as_ptr(), next.len())], "version {version}");
        assert_eq!(pieces.iter().map(|(_, length)| length).sum::<usize>(), chunks.len());
        let whole = chunks.to_bytes();
        assert_eq!(whole.len() - 4, u32::from_be_bytes(whole[..4].try_into().expect("four bytes")) as usize);
        let mut decoder = Decoder::new(whole.slice(if version >= 12 { 9.. } else { 8.. }));
        assert_eq!(FetchResponse::decode(&mut decoder, version), Ok(response.clone()));
    }
}

#[test]
fn what_is_elsewhere_has_its_place_in_the_frame_and_counts() {
    let far = Elsewhere::new(70_000, "a place");
    let near = Bytes::from(vec![7; 20]);
    let records = Records::from_iter([Chunk::Here(near.clone()), Chunk::Elsewhere(far.clone()), Chunk::Here(near)]);
    assert_eq!(records.len(), 70_040);
    let mut response = fetch_response(Vec::new());
    response.responses[0].partitions[0].records = Some(records);
    for version in [4, 18] {
        let chunks = encode_response(1, version, &response).expect("a value for this version");
        let [Chunk::Here(before), Chunk::Elsewhere(found), Chunk::Here(after)] = chunks.as_slice() else {
            panic!("three pieces, not {chunks:?}");
        };
        assert_eq!((found, found.place::<&str>()), (&far, Some(&"a place")));
        assert_eq!(before.len() + 70_000 + after.len(), chunks.len());
        assert_eq!(u32::from_be_bytes(before[..4].try_into().expect("four bytes")) as usize, chunks.len() - 4);
        assert!(before.ends_with(&[7; 20]) && after.starts_with(&[7; 20]), "version {version}");
    }
}

#[test]
fn decoded_records_and_texts_are_slices_of_the_frame() {
    let frame = encode(&fetch_response(vec![Bytes::from(vec![9; 3000])]), 12).expect("a value for this version");
    let response = FetchResponse::decode(&mut Decoder::new(frame.clone()), 12).expect("just encoded");
    let records = response.responses[0].partitions[0].records.as_ref().expect("not null").to_bytes();
    assert!(frame.as_ptr_range().contains(&records.as_ptr()));
}

#[test]
fn a_nullable_struct_starts_with_a_byte_that_tells() {
    let mut request = DescribeTopicPartitionsRequest { response_partition_limit: 2000, ..Default::default() };
    assert_eq!(encode(&request, 0), Ok(Bytes::from_static(&[1, 0, 0, 7, 0xd0, 0xff, 0])));
    request.cursor = Some(Cursor { topic_name: "t".into(), partition_index: 3 });
    let bytes = encode(&request, 0).expect("a value for this version");
    assert_eq!(bytes, [1, 0, 0, 7, 0xd0, 1, 2, b't', 0, 0, 0, 3, 0, 0].as_slice());
    assert_eq!(decode(&bytes, 0), Ok(request));
}

#[test]
fn unknown_tagged_fields_are_skipped_and_known_ones_must_fill_their_length() {
    let plain = encode(&FetchRequest::default(), 12).expect("a value for this version");
    let body = &plain[..plain.len() - 1];
    let with_tags = |tags: &[u8]| decode::<FetchRequest>(&[body, tags].concat(), 12);
    assert_eq!(with_tags(&[1, 99, 3, 1, 2, 3]), Ok(FetchRequest::default()));
    // Tag 1 exists from version 15 only.
    assert_eq!(with_tags(&[1, 1, 2, 0, 0]), Ok(FetchRequest::default()));
    let cluster = Some(Str::from_static("a"));
    assert_eq!(with_tags(&[1, 0, 2, 2, b'a']).map(|request| request.cluster_id), Ok(cluster));

    let end = body.len();
    assert_eq!(with_tags(&[1, 0, 3, 2, b'a', 0]), Err(DecodeError::TaggedField { at: end + 6, tag: 0 }));
    // The content may not run over its length, though the frame goes on.
    let over = DecodeError::Length { at: end + 3, length: 2 };
    assert_eq!(with_tags(&[1, 0, 2, 3, b'a', b'b']), Err(over));
    assert_eq!(with_tags(&[1, 99, 4, 1, 2, 3]), Err(DecodeError::Length { at: end + 2, length: 4 }));
    assert_eq!(with_tags(&[2, 99, 1, 1]), Err(DecodeError::Truncated { at: end + 4, needed: 1 }));
}

#[test]
fn lengths_beyond_the_frame_and_numbers_beyond_32_bits_are_refused() {
    let auth = decode::<SaslAuthenticateRequest>;
    let bytes = |bytes: &'static [u8]| Ok(SaslAuthenticateRequest { auth_bytes: Bytes::from_static(bytes) });
    assert_eq!(auth(&[0, 0, 0, 2, 8, 9], 0), bytes(&[8, 9]));
    assert_eq!(auth(&[0, 0, 0, 3, 8, 9], 0), Err(DecodeError::Length { at: 0, length: 3 }));
    assert_eq!(auth(&[0xff, 0xff, 0xff, 0xfe], 0), Err(DecodeError::Length { at: 0, length: -2 }));
    assert_eq!(auth(&[0, 0, 0], 0), Err(DecodeError::Truncated { at: 0, needed: 1 }));
    assert_eq!(auth(&[0, 0, 0, 2, 8, 9, 1], 0), Err(DecodeError::TrailingBytes { left: 1 }));
    // Compact: one more than the length.
    assert_eq!(auth(&[3, 8, 9, 0], 2), bytes(&[8, 9]));
    assert_eq!(auth(&[0x83, 0x80, 0x80, 0x80, 0x00, 8, 9, 0], 2), bytes(&[8, 9]));
    assert_eq!(auth(&[0x83, 0x80, 0x80, 0x80, 0x80, 0x00, 8, 9, 0], 2), Err(DecodeError::Varint { at: 0 }));
    assert_eq!(auth(&[0xff, 0xff, 0xff, 0xff, 0x1f, 8, 9, 0], 2), Err(DecodeError::Varint { at: 0 }));
    let most = i64::from(u32::MAX) - 1;
    assert_eq!(auth(&[0xff, 0xff, 0xff, 0xff, 0x0f, 8, 9, 0], 2), Err(DecodeError::Length { at: 0, length: most }));
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let result = decode::<ApiVersionsRequest>(&[3, 0xc3, 0x28, 2, b'1', 0], 3);
    assert_eq!(result, Err(DecodeError::NotUtf8 { at: 1 }));
}

#[test]
fn a_header_is_read_for_a_version_that_is_not_known_but_not_for_an_unknown_api() {
    let mut decoder = Decoder::new(Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 1, b'c', 0, 0xee]));
    let header = RequestHeader::decode(&mut decoder).expect("ApiVersions is answered in any version");
    assert_eq!((header.api_key, header.api_version), (ApiKey::API_VERSIONS, 99));
    assert_eq!(header.client_id, Some(Str::from_static("c")));
    assert_eq!(decoder.remaining(), 1);

    let mut decoder = Decoder::new(Bytes::from_static(&[0, 4, 0, 0, 0, 0, 0, 7, 0xff, 0xff]));
    assert_eq!(RequestHeader::decode(&mut decoder), Err(DecodeError::UnknownApi(ApiKey(4))));
}

#[test]
fn keys_are_known_by_number_and_name() {
    assert_eq!(ApiKey::from_i16(68), Some(ApiKey::CONSUMER_GROUP_HEARTBEAT));
    assert_eq!(ApiKey::from_i16(88), None);
    assert_eq!(ApiKey::INIT_PRODUCER_ID.name(), Some("InitProducerId"));
    assert_eq!(ApiKey::INIT_PRODUCER_ID.spec().map(|spec| (spec.min, spec.max, spec.unstable)), Some((0, 6, Some(6))));
    assert_eq!(format!("{} {}", ApiKey::FETCH, ApiKey(88)), "Fetch API 88");
}
