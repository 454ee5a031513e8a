//! What holds for every request: negotiation, order of answers, refusals that close the connection, the stop.

use std::time::{Duration, Instant};

use crate::support::{Client, Served, assert_code, batch, fetch_request, produce_request};
use bytes::{BufMut, Bytes};
use millpond_wire::ErrorCode;
use millpond_wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use millpond_wire::metadata::MetadataRequest;
use millpond_wire::{Decoder, Message};

fn software() -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() }
}

fn alive(served: &Served) {
    let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    assert_eq!(served.client().call(9, &request).brokers.len(), 1);
}

/// A frame with a plain request header (version 1) and this body.
fn frame(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_i32(i32::try_from(8 + 2 + body.len()).expect("small"));
    bytes.put_i16(key);
    bytes.put_i16(version);
    bytes.put_i32(7);
    bytes.put_i16(-1);
    bytes.put_slice(body);
    bytes
}

#[test]
fn api_versions_lists_what_is_served_and_answers_a_version_that_is_too_new_in_version_0() {
    let served = Served::start();
    let mut client = served.client();
    let reply = client.call(4, &software());
    assert_code(reply.error_code, ErrorCode::NONE);
    let ranges: Vec<_> = reply.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    assert!(ranges.contains(&(0, 0, 13)) && ranges.contains(&(1, 4, 18)) && ranges.contains(&(18, 0, 4)), "{ranges:?}");

    client.send_bytes(&frame(18, 99, b""));
    let mut decoder = Decoder::new(client.receive_frame().expect("an answer").slice(4..));
    let reply = ApiVersionsResponse::decode(&mut decoder, 0).expect("version 0");
    decoder.finish().expect("nothing behind it");
    assert_code(reply.error_code, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(reply.api_keys.iter().map(|api| api.api_key).collect::<Vec<_>>(), [18]);
    assert_code(client.call(3, &software()).error_code, ErrorCode::NONE);
}

#[test]
fn what_is_not_served_closes_its_connection_and_no_other() {
    let served = Served::start();
    let length = |length: i32| length.to_be_bytes().to_vec();
    for (what, bytes) in [
        ("an unknown API key", frame(9999, 0, b"")),
        ("a negative API key", frame(-1, 0, b"")),
        ("a Metadata that is too new", frame(3, 99, &[0; 20])),
        ("a Produce that is advertised for librdkafka only", frame(0, 2, &[0; 8])),
        ("a Fetch that is too old", frame(1, 3, &[0; 30])),
        ("a negative length", length(-5)),
        ("a length of nothing", length(0)),
        ("a length beyond the limit", length((100 << 20) + 1)),
        ("an array longer than its frame", frame(3, 1, &i32::MAX.to_be_bytes())),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ] {
        let mut client = served.client();
        client.send_bytes(&bytes);
        assert_eq!(client.receive_frame(), None, "{what}");
    }
    alive(&served);
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_answered() {
    let served = Served::start();
    let mut client = served.client();
    for byte in frame(3, 1, &0_i32.to_be_bytes()) {
        client.send_bytes(&[byte]);
    }
    assert_eq!(client.receive_frame().expect("an answer")[..4], 7_i32.to_be_bytes());
}

#[test]
fn answers_keep_the_order_of_requests_behind_a_fetch_that_waits() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let waiting = millpond_wire::fetch::FetchRequest { max_wait_ms: 300, ..fetch_request("logs", 0) };
    let start = Instant::now();
    let fetch = client.send(12, &waiting);
    let metadata = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    let others: Vec<_> = (0..10).map(|_| client.send(9, &metadata)).collect();
    client.receive::<millpond_wire::fetch::FetchRequest>(12, fetch);
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    for id in others {
        client.receive::<MetadataRequest>(9, id);
    }
}

#[test]
fn produce_requests_are_pipelined_and_answered_in_order() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let ids: Vec<_> =
        (0..500).map(|i| client.send(9, &produce_request("logs", -1, vec![(0, batch(&[&i.to_string()]))]))).collect();
    for (offset, id) in (0..).zip(ids) {
        let reply = client.receive::<millpond_wire::produce::ProduceRequest>(9, id);
        assert_eq!(reply.responses[0].partition_responses[0].base_offset, offset);
    }
}

#[test]
fn requests_larger_than_the_memory_for_produce_pass_one_at_a_time() {
    let served = Served::with(&[("queued.max.request.bytes", "1048576"), ("message.max.bytes", "3000000")]);
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let large = "x".repeat(2_000_000);
    let ids: Vec<_> =
        (0..5).map(|_| client.send(9, &produce_request("logs", -1, vec![(0, batch(&[&large]))]))).collect();
    for (offset, id) in (0..).zip(ids) {
        let reply = client.receive::<millpond_wire::produce::ProduceRequest>(9, id);
        assert_eq!(reply.responses[0].partition_responses[0].base_offset, offset);
    }
}

/// Sends fetches until the broker reads no more of them.
fn send_without_reading(client: &mut Client, count: usize) {
    for _ in 0..count {
        client.send(12, &fetch_request("logs", 0));
    }
}

#[test]
fn a_client_that_does_not_read_its_answers_holds_up_nobody() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let value = "x".repeat(900_000);
    assert_eq!(client.produce("logs", -1, batch(&[&value])).error_code, 0);
    let mut lazy = served.client();
    // About 90 MB of answers, far beyond what sockets hold.
    send_without_reading(&mut lazy, 100);
    for _ in 0..20 {
        alive(&served);
    }
}

#[test]
fn acks_0_is_not_answered_and_a_failed_one_closes_the_connection() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.send(9, &produce_request("logs", 0, vec![(0, batch(&["a"]))]));
    let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    client.call(9, &request);
    assert_eq!(crate::support::values(&client.fetch("logs", 0, 10_000)), ["a"]);

    let mut failing = served.client();
    failing.send(9, &produce_request("no-such-topic", 0, vec![(0, batch(&["a"]))]));
    assert_eq!(failing.receive_frame(), None);
}

#[test]
fn a_stop_answers_waiting_fetches_at_once_and_closes_the_connections() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let waiting = millpond_wire::fetch::FetchRequest { max_wait_ms: 60_000, ..fetch_request("logs", 0) };
    let fetch = client.send(12, &waiting);
    // The answer to a request behind it would come after it, so the fetch is seen by other means: its frame is read.
    let probe: Bytes = served.client().call(3, &software()).api_keys.len().to_string().into();
    assert!(!probe.is_empty());
    let took = served.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let ended = match client.receive_frame() {
        Some(answer) => answer[..4] == fetch.to_be_bytes() && client.receive_frame().is_none(),
        None => true, // The stop came before the request was read.
    };
    assert!(ended);
}
