//! `millpond topic`, run as a person runs it.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Broker, Folder};

/// Output and error as text, and whether it succeeded.
fn run(broker: &Broker, arguments: &[&str]) -> (String, String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("topic").args(arguments).args(["--bootstrap", &broker.kafka.to_string()]);
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.success())
}

fn good(broker: &Broker, arguments: &[&str]) -> String {
    let (out, err, success) = run(broker, arguments);
    assert!(success && err.is_empty(), "{arguments:?}: {err}");
    out
}

fn json(broker: &Broker, arguments: &[&str]) -> Value {
    serde_json::from_str(&good(broker, &[arguments, &["--json"]].concat())).expect("JSON")
}

#[test]
fn topics_are_made_told_of_changed_and_deleted() {
    let folder = Folder::new("topic-life");
    let broker = Broker::start(folder.path(), &[]);
    let made = good(&broker, &["create", "logs", "metrics", "--partitions", "2", "--set", "retention.ms=5000000"]);
    let line = |name: &str| format!("{name} is created with 2 partitions of 1 replica\n");
    assert_eq!(made, line("logs") + &line("metrics"));
    let listed = good(&broker, &["list"]);
    let names: Vec<&str> = listed.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
    assert_eq!(names, ["TOPIC", "logs", "metrics"]);
    assert_eq!(json(&broker, &["list"])[1]["partitions"], 2);

    let described = good(&broker, &["describe", "logs"]);
    let lines: Vec<&str> = described.lines().collect();
    assert!(lines[0].starts_with("logs: 2 partitions, id "), "{described}");
    assert_eq!(lines[1], "retention.ms=5000000");
    assert!(lines[3].starts_with("0\t1\t") && lines[3].ends_with("\t1\t1\t-"), "{described}");
    assert_eq!(json(&broker, &["describe"])[1]["name"], "metrics");

    let line = ["alter", "logs", "--partitions", "3", "--set", "segment.ms=7000000", "--reset", "retention.ms"];
    assert_eq!(good(&broker, &line), "2 settings of logs changed; logs has 3 partitions\n");
    let logs = &json(&broker, &["describe", "logs"])[0];
    assert_eq!(logs["settings"], serde_json::json!({ "segment.ms": "7000000" }));
    assert_eq!(logs["partitions"][2]["leader"], 1);

    assert_eq!(good(&broker, &["delete", "logs", "metrics"]), "logs is deleted\nmetrics is deleted\n");
    assert_eq!(json(&broker, &["list"]), serde_json::json!([]));
}

#[test]
fn a_mistake_is_one_sentence_and_the_rest_is_done() {
    let folder = Folder::new("topic-mistakes");
    let broker = Broker::start(folder.path(), &[]);
    let (out, err, success) = run(&broker, &["create", "logs", "a b"]);
    assert!(!success && out.starts_with("logs is created"), "{out}");
    assert!(err.contains("a b") && err.lines().count() == 1, "{err}");
    for (line, expected) in [
        (&["describe", "lgos"][..], "there is no topic 'lgos'; the nearest is 'logs'"),
        (&["create", "logs"], "TOPIC_ALREADY_EXISTS"),
        (&["alter", "logs"], "there is nothing to alter"),
        (&["alter", "lgos", "--partitions", "9"], "the nearest is 'logs'"),
        (&["alter", "logs", "--set", "retention.ms=soon"], "INVALID_CONFIG"),
        (&["alter", "logs", "--set", "retention.ms=1", "--reset", "retention.ms"], "both set and reset"),
        (&["alter", "logs", "--reset", "retenton.ms"], "no topic setting 'retenton.ms'; the nearest is 'retention.ms'"),
        (&["alter", "logs", "--reset", "foo"], "there is no topic setting 'foo'; `millpond config explain` names"),
        (&["alter", "lgos", "--reset", "retention.ms"], "the nearest is 'logs'"),
        (&["delete", "lgos"], "there is no topic 'lgos'; the nearest is 'logs'"),
        (&["create", "x", "--set", "retention.m=1"], "; the nearest is 'retention.ms'"),
        (&["alter", "logs", "--set", "log.retention.ms=5"], "; the nearest is 'retention.ms'"),
        (&["lst"], "the nearest is 'list'"),
    ] {
        let (_, err, success) = run(&broker, line);
        assert!(!success && err.contains(expected) && err.lines().count() == 1, "{line:?}: {err}");
    }
    let failed = run(&broker, &["create", "logs", "new", "--json"]);
    let told: Value = serde_json::from_str(&failed.0).expect("JSON");
    assert!(!failed.2 && told[0]["error"].is_string() && told[1]["outcome"].is_string(), "{told}");
}
