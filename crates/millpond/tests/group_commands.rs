//! `millpond group`, run as a person runs it, against a cluster of one.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Broker, Folder, batch};

/// Standard output and error as text, and whether the command succeeded.
fn told(arguments: &[&str]) -> (String, String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.success())
}

/// The JSON that a command prints.
fn json_of(arguments: &[&str]) -> Value {
    let (out, err, success) = told(&[arguments, &["--json"]].concat());
    assert!(success, "{arguments:?}: {err}");
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn a_group_is_reset_listed_described_explained_and_deleted() {
    let folder = Folder::new("group-commands");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 2);
    for _ in 0..5 {
        assert_eq!(client.produce("logs", 0, -1, batch(&["x"])).0, 0);
    }
    let (kafka, http) = (broker.kafka.to_string(), broker.http.to_string());
    let line = |words: &[&'static str]| -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).chain(["--bootstrap".to_owned(), kafka.clone()]).collect()
    };
    let json = |words: &[&'static str]| json_of(&line(words).iter().map(String::as_str).collect::<Vec<_>>());
    let text = |words: &[&'static str]| told(&line(words).iter().map(String::as_str).collect::<Vec<_>>());

    assert_eq!(json(&["group", "list"]), json!([]));
    let (_, err, success) = text(&["group", "describe", "orders"]);
    assert!(!success && err == "millpond: there is no group 'orders', and no other\n", "{err}");
    let planned = json(&["group", "reset-offsets", "orders", "--to", "-2", "--topic", "logs", "--dry-run"]);
    assert_eq!((&planned[0]["from"], &planned[0]["to"], &planned[1]["to"]), (&Value::Null, &json!(3), &json!(0)));
    assert_eq!(json(&["group", "list"]), json!([]), "a dry run changes nothing");
    json(&["group", "reset-offsets", "orders", "--to", "-2", "--topic", "logs"]);
    let again = json(&["group", "reset-offsets", "orders", "--to", "offset", "1", "--topic", "logs:0"]);
    assert_eq!(again, json!([{ "topic": "logs", "partition": 0, "from": 3, "to": 1, "error": null }]));

    let listed = json(&["group", "list"]);
    assert_eq!((&listed[0]["group"], &listed[0]["state"]), (&json!("orders"), &json!("Empty")));
    let described = json(&["group", "describe", "orders"]);
    let first = &described["partitions"][0];
    assert_eq!((&first["committed"], &first["end"], &first["lag_records"]), (&json!(1), &json!(5), &json!(4)));
    assert_eq!((&first["lag_seconds"], &described["course"]), (&Value::Null, &Value::Null));
    let (out, err, success) = told(&["group", "describe", "orders", "--bootstrap", &kafka, "--http", &http]);
    assert!(
        success && out.starts_with("group orders: Empty, classic, 0 members, 4 records behind\n0 rebalances"),
        "{out}{err}"
    );
    let told_more = json_of(&["group", "describe", "orders", "--bootstrap", &kafka, "--http", &http]);
    assert!(told_more["partitions"][0]["lag_seconds"].is_f64(), "{told_more}");
    assert_eq!(told_more["partitions"][1]["lag_seconds"], json!(0.0));

    let (out, _, success) = text(&["group", "explain", "orders"]);
    let sentences = "The group has no members: nobody reads.\n4 records are unread in logs-0.\n";
    assert!(success && out == sentences, "{out}");
    let (_, err, success) = text(&["group", "explain", "order"]);
    assert!(!success && err == "millpond: there is no group 'order'; the nearest is 'orders'\n", "{err}");
    let (_, err, success) = text(&["group", "reset-offsets", "orders", "--to", "offset", "1", "--topic", "lgos"]);
    assert!(!success && err.contains("the nearest is 'logs'"), "{err}");

    let (out, err, success) = text(&["group", "delete", "orders"]);
    assert!(success && out == "group orders is deleted\n", "{out}{err}");
    let (_, err, success) = text(&["group", "delete", "orders"]);
    assert!(!success && err == "millpond: there is no group 'orders', and no other\n", "{err}");
}
