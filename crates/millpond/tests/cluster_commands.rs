//! `millpond cluster`, run as a person runs it, against a cluster of one.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Broker, Folder};

/// Standard output and error as text, and whether the command succeeded.
fn told(arguments: &[&str]) -> (String, String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[test]
fn status_tells_of_brokers_and_partitions_as_text_and_as_json() {
    let folder = Folder::new("status");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 3);
    let kafka = broker.kafka.to_string();
    let (out, err, success) = told(&["cluster", "status", "--bootstrap", &kafka]);
    assert!(success && err.is_empty(), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains(": 1 of 1 broker alive, broker 1 is the controller; 3 partitions in 1 topic;"), "{out}");
    assert!(lines[0].ends_with("0 without a leader, 0 under-replicated"), "{out}");
    let cells: Vec<&str> = lines[3].split('\t').collect();
    assert_eq!(cells[..6], ["1", &kafka, "-", "yes", "3", "3"], "{out}");

    let (out, _, success) = told(&["cluster", "status", "--bootstrap", &kafka, "--json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(success);
    assert_eq!((&json["controller"], &json["partitions"]), (&1.into(), &3.into()));
    let only = &json["brokers"][0];
    assert_eq!((&only["id"], &only["alive"], &only["leaders"]), (&1.into(), &true.into(), &3.into()));
    assert_eq!(only["address"], kafka.as_str());
    assert_eq!(json["under_replicated"], Value::Array(Vec::new()));
}

#[test]
fn a_mistake_is_one_sentence_with_a_hint() {
    let folder = Folder::new("cluster-mistakes");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 2);
    let kafka = broker.kafka.to_string();
    let http = broker.http.to_string();
    for (line, expected) in [
        (&["cluster", "status", "--bootstrap", "x"][..], "'x' is no address; it must have the form HOST:PORT"),
        (&["cluster", "status", "--bootstrap", "127.0.0.1:1"], "--bootstrap HOST:PORT names another"),
        (&["cluster", "stats"], "there is no command 'stats'; the nearest is 'status' (see millpond cluster --help)"),
        (&["cluster", "transfer-leader", "logs", "0", "7", "--bootstrap", &kafka], "there is no broker 7; there are 1"),
        (&["cluster", "transfer-leader", "lgos", "0", "1", "--bootstrap", &kafka], "the nearest is 'logs'"),
        (&["cluster", "transfer-leader", "logs", "2", "1", "--bootstrap", &kafka], "no partition 2; it has 0 to 1"),
        (&["cluster", "transfer-leader", "logs", "1", "--bootstrap", &kafka], "(see millpond cluster transfer-leader"),
        (&["cluster", "decommission", "2", "--http", "127.0.0.1:1"], "--http HOST:PORT names the HTTP port of another"),
        (&["cluster", "decommission", "2", "--http", &kafka], "does not answer as a broker's HTTP port"),
        (&["cluster", "decommission", "two", "--http", &http], "'two' is no value of <BROKER>"),
    ] {
        let (out, err, success) = told(line);
        assert!(!success && out.is_empty(), "{line:?}: {out}");
        assert!(err.starts_with("millpond: ") && err.lines().count() == 1, "{line:?}: {err}");
        assert!(err.contains(expected), "{line:?}: {err}");
    }
}
