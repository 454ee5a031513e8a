//! Quotas against a whole broker: who is throttled, for how long, and who is not.

use std::time::{Duration, Instant};

use crate::support::{Client, Served, assert_code, batch, fetch_request, produce_request};
use millpond_wire::ErrorCode;
use millpond_wire::alter_client_quotas::{AlterClientQuotasRequest, EntityData, OpData, RequestEntryData};
use millpond_wire::describe_client_quotas::{ComponentData, DescribeClientQuotasRequest};
use millpond_wire::fetch::FetchRequest;
use millpond_wire::metadata::MetadataRequest;

/// Sets one quota of a client id (`None`: the default for all); `None` removes it.
fn set(client: &mut Client, client_id: Option<&str>, key: &str, value: Option<f64>, validate_only: bool) -> ErrorCode {
    let entity = vec![EntityData { entity_type: "client-id".into(), entity_name: client_id.map(Into::into) }];
    let ops = vec![OpData { key: key.into(), value: value.unwrap_or(0.0), remove: value.is_none() }];
    let request = AlterClientQuotasRequest { entries: vec![RequestEntryData { entity, ops }], validate_only };
    ErrorCode(client.call(1, &request).entries[0].error_code)
}

/// All quotas as text.
fn all(client: &mut Client) -> Vec<String> {
    let answer = client.call(1, &DescribeClientQuotasRequest::default());
    assert_code(answer.error_code, ErrorCode::NONE);
    let entries = answer.entries.expect("a list").into_iter();
    let text = entries.map(|entry| {
        let parts = entry.entity.iter().map(|part| part.entity_name.as_deref().unwrap_or("<default>").to_owned());
        let values = entry.values.iter().map(|value| format!("{}={}", value.key, value.value));
        parts.chain(values).collect::<Vec<_>>().join(" ")
    });
    text.collect()
}

/// Produces a kilobyte batch this often; the time that the last answer told to wait.
fn produce_throttle(client: &mut Client, times: usize) -> i32 {
    let batch = batch(&[&"x".repeat(1000)]);
    let answers = (0..times).map(|_| client.call(9, &produce_request("logs", -1, vec![(0, batch.clone())])));
    let last = answers.last().expect("one at least");
    assert_code(last.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
    last.throttle_time_ms
}

#[test]
fn quotas_are_kept_described_and_removed() {
    let mut served = Served::start();
    let mut client = served.client();
    assert_eq!(set(&mut client, Some("a"), "producer_byte_rate", Some(1000.0), true), ErrorCode::NONE);
    assert_eq!(all(&mut client), Vec::<String>::new());
    assert_eq!(set(&mut client, Some("a"), "producer_byte_rate", Some(1000.0), false), ErrorCode::NONE);
    assert_eq!(set(&mut client, Some("a"), "consumer_byte_rate", Some(5.0), false), ErrorCode::NONE);
    assert_eq!(set(&mut client, None, "consumer_byte_rate", Some(7.0), false), ErrorCode::NONE);
    for (key, value) in [("request_percentage", 50.0), ("no_such_rate", 1.0), ("producer_byte_rate", -5.0)] {
        assert_eq!(set(&mut client, Some("a"), key, Some(value), false), ErrorCode::INVALID_REQUEST);
    }
    served.restart();
    let mut client = served.client();
    let kept = ["<default> consumer_byte_rate=7", "a consumer_byte_rate=5 producer_byte_rate=1000"];
    assert_eq!(all(&mut client), kept);
    assert_eq!(set(&mut client, Some("a"), "producer_byte_rate", None, false), ErrorCode::NONE);
    assert_eq!(set(&mut client, Some("a"), "consumer_byte_rate", None, false), ErrorCode::NONE);
    assert_eq!(all(&mut client), kept[..1]);
    let tribe = ComponentData { entity_type: "tribe".into(), match_type: 2, r#match: None };
    let answer = client.call(1, &DescribeClientQuotasRequest { components: vec![tribe], strict: false });
    assert_code(answer.error_code, ErrorCode::UNSUPPORTED_VERSION);
}

#[test]
fn a_producer_above_its_quota_is_answered_first_and_then_not_read_from() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let (mut fast, mut other) = (served.client(), served.client());
    fast.rename("fast");
    assert_eq!(set(&mut client, Some("fast"), "producer_byte_rate", Some(1000.0), false), ErrorCode::NONE);
    assert_eq!(produce_throttle(&mut fast, 9), 0, "ten seconds' worth may come at once");
    let begin = Instant::now();
    let wait = produce_throttle(&mut fast, 2);
    assert!((1..=3000).contains(&wait), "{wait}");
    assert!(begin.elapsed() < Duration::from_millis(u64::from(wait.unsigned_abs())), "the answer does not wait");
    assert_eq!(produce_throttle(&mut other, 20), 0, "who has no quota is not slowed");
    fast.call(9, &MetadataRequest::default());
    assert!(begin.elapsed() >= Duration::from_millis(u64::from(wait.unsigned_abs())), "whatever is asked next waits");
    assert_eq!(client.fetch("logs", 0, 0).high_watermark, 31, "nothing is lost");
}

#[test]
fn a_consumer_above_its_default_quota_is_told_to_wait_and_gets_its_records() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    produce_throttle(&mut client, 30);
    assert_eq!(set(&mut client, None, "consumer_byte_rate", Some(1000.0), false), ErrorCode::NONE);
    let mut offset = 0;
    let mut consumer = served.client();
    consumer.rename("any");
    let (mut rounds, mut waited) = (0, 0);
    while waited == 0 {
        let request = FetchRequest { max_wait_ms: 0, ..fetch_request("logs", offset) };
        let answer = consumer.call(12, &request);
        let found = crate::support::values(&answer.responses[0].partitions[0]);
        assert!((1..=10).contains(&found.len()), "an answer has ten seconds' worth at most");
        offset += found.len() as i64;
        waited = answer.throttle_time_ms;
        rounds += 1;
        assert!(rounds < 5, "it is never told to wait");
    }
    assert!(rounds > 1, "the first ten seconds' worth are free");
    let mut another = served.client();
    another.rename("another");
    let answer = another.call(12, &FetchRequest { max_wait_ms: 0, ..fetch_request("logs", 0) });
    assert_eq!(answer.throttle_time_ms, 0, "each client id has the default for itself");
}

#[test]
fn the_broker_stops_while_a_client_is_throttled() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    assert_eq!(set(&mut client, None, "producer_byte_rate", Some(1.0), false), ErrorCode::NONE);
    assert!(produce_throttle(&mut client, 1) > 60_000);
    assert!(served.stop() < Duration::from_secs(2));
}
