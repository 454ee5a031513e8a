//! `millpond bench`, run as a person runs it.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::{Broker, Folder, PATIENCE};

fn start(broker: &Broker, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("bench").args(arguments).args(["--bootstrap", &broker.kafka.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// Output and error as text, and what it ended with.
fn ended(child: Child) -> (String, String, Option<i32>) {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// The figures of a run that goes well.
fn measured(broker: &Broker, arguments: &[&str]) -> Value {
    let (out, err, code) = ended(start(broker, &[arguments, &["--json"]].concat()));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&found["failed"], &found["error"]), (&0.into(), &Value::Null), "{found}");
    for figure in ["seconds", "records_per_second", "megabytes_per_second", "cpu_seconds", "records_per_cpu_second"] {
        assert!(found[figure].as_f64().expect("a number") > 0.0, "{figure} of {found}");
    }
    found
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_was_produced_is_there_and_is_consumed() {
    let folder = Folder::new("bench-produce");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 2);
    let produced = measured(&broker, &["produce", "logs", "--records", "20000", "--size", "100", "--keys", "9"]);
    // With keys of five letters.
    assert_eq!((&produced["records"], &produced["bytes"]), (&20_000.into(), &2_100_000.into()));
    let latency = &produced["latency_ms"];
    assert_eq!(latency["count"], 20_000);
    let order = ["min", "p50", "p90", "p99", "p999", "p9999", "max"].map(|name| number(&latency[name]));
    assert!(order.is_sorted() && order[6] > 0.0, "{latency}");
    let there: Vec<_> = (0..2).flat_map(|partition| broker.client().read_all("logs", partition)).collect();
    assert_eq!(there.len(), 20_000);
    assert!(there.iter().all(|(_, value)| value.len() == 100));

    let consumed = measured(&broker, &["consume", "logs"]);
    assert_eq!((&consumed["records"], &consumed["latency_ms"]), (&20_000.into(), &Value::Null));
    assert_eq!(consumed["bytes"], produced["bytes"], "keys count, too");
    assert_eq!(measured(&broker, &["consume", "logs", "--records", "1234"])["records"], 1234);
}

#[test]
fn a_topic_without_records_is_read_at_once() {
    let folder = Folder::new("bench-empty");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 3);
    let (out, err, code) = ended(start(&broker, &["consume", "logs", "--json"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&found["records"], &found["records_per_second"]), (&0.into(), &0.0.into()));
}

#[test]
fn a_rate_is_kept_and_latency_counts_from_when_a_record_was_due() {
    let folder = Folder::new("bench-rate");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    let line = ["produce", "logs", "--rate", "200", "--seconds", "2", "--size", "10", "--linger", "0"];
    let produced = measured(&broker, &line);
    assert_eq!(produced["records"], 400, "so many were due");
    assert!(number(&produced["seconds"]) >= 1.99, "{produced}");

    // A broker that is held up for a while: those that were due meanwhile count with their waiting.
    let child = start(&broker, &["produce", "logs", "--rate", "200", "--seconds", "3", "--linger", "0", "--json"]);
    let begun = Instant::now();
    while broker.client().read_all("logs", 0).len() < 450 {
        assert!(begun.elapsed() < PATIENCE, "it begins to send");
    }
    broker.send("STOP");
    let stopped = Instant::now();
    while stopped.elapsed().as_secs() < 1 {
        std::thread::yield_now();
    }
    broker.send("CONT");
    let (out, err, code) = ended(child);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let held: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(held["records"], 600);
    let latency = &held["latency_ms"];
    // A third of the run was the pause; records were due evenly in it.
    assert!(number(&latency["p90"]) > 300.0 && number(&latency["max"]) > 900.0, "{latency}");
}

#[test]
fn latency_is_measured_from_end_to_end_of_this_run_only() {
    let folder = Folder::new("bench-latency");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 3);
    measured(&broker, &["produce", "logs", "--records", "1000"]);
    let line =
        ["latency", "logs", "--rate", "500", "--seconds", "1", "--warmup", "1", "--size", "100", "--linger", "0"];
    let found = measured(&broker, &line);
    assert_eq!((&found["records"], &found["latency_ms"]["count"]), (&1000.into(), &500.into()));
    assert!(number(&found["latency_ms"]["max"]) >= number(&found["latency_ms"]["p50"]), "{found}");
}

#[test]
fn a_person_gets_tables() {
    let folder = Folder::new("bench-tables");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    let (out, err, code) = ended(start(&broker, &["produce", "logs", "--records", "100"]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "no progress where there is no terminal");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("RECORDS\tFAILED\tSECONDS\t") && lines[1].starts_with("100\t0\t"), "{out}");
    assert!(lines[2].starts_with("LATENCY MS\tMIN\t") && lines[3].starts_with("of 100\t"), "{out}");
    assert_eq!(lines.len(), 4, "{out}");
    let (out, _, _) = ended(start(&broker, &["consume", "logs"]));
    assert_eq!(out.lines().count(), 2, "{out}");
}

#[test]
fn an_interrupt_ends_it_with_the_figures_of_what_was_done() {
    let folder = Folder::new("bench-interrupt");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    for command in ["produce", "latency"] {
        let before = broker.client().read_all("logs", 0).len();
        let child = start(&broker, &[command, "logs", "--rate", "100", "--seconds", "600", "--json"]);
        let begun = Instant::now();
        while broker.client().read_all("logs", 0).len() < before + 20 {
            assert!(begun.elapsed() < PATIENCE, "it begins to send");
        }
        let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let (out, err, code) = ended(child);
        assert_eq!((code, err.as_str()), (Some(130), ""), "{command}");
        let found: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&found["error"], &found["failed"]), (&"interrupted".into(), &0.into()), "{found}");
        let there = broker.client().read_all("logs", 0).len() - before;
        assert_eq!(found["records"], there, "{command}");
    }
}

#[test]
fn a_mistake_is_one_sentence_with_a_hint() {
    let folder = Folder::new("bench-mistakes");
    let broker = Broker::start(folder.path(), &[]);
    let missing = "there is no topic 'lgos', nor any other; `millpond topic create lgos` makes it";
    for command in ["produce", "consume", "latency"] {
        let (out, err, code) = ended(start(&broker, &[command, "lgos"]));
        assert!(code == Some(1) && out.is_empty() && err.contains(missing) && err.lines().count() == 1, "{err}");
    }
    broker.client().create_topic("logs", 1);
    for (line, expected) in [
        (&["produce", "lgos"][..], "there is no topic 'lgos'; the nearest is 'logs'"),
        (&["prodcue", "logs"], "there is no command 'prodcue'; the nearest is 'produce' (see millpond bench --help)"),
        (&["produce", "logs", "--recods", "1"], "the nearest is --records (see millpond bench produce --help)"),
        (&["produce", "logs", "--compression", "ztsd"], "which is one of none, gzip, snappy, lz4, zstd"),
        (&["latency", "logs", "--size", "15"], "--size 15 is too short"),
    ] {
        let (out, err, code) = ended(start(&broker, line));
        assert!(code != Some(0) && out.is_empty(), "{line:?}: {out}");
        assert!(err.contains(expected) && err.lines().count() == 1, "{line:?}: {err}");
    }
}

#[test]
fn records_that_are_refused_fail_the_command_and_are_counted() {
    let folder = Folder::new("bench-refused");
    let broker = Broker::start(folder.path(), &["--set", "message.max.bytes=2000"]);
    broker.client().create_topic("logs", 1);
    let (out, err, code) = ended(start(&broker, &["produce", "logs", "--records", "3", "--size", "5000", "--json"]));
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&found["records"], &found["failed"]), (&0.into(), &3.into()));
    assert_eq!(code, Some(1));
    assert!(err.contains("records that failed: 3") && err.contains("MESSAGE_TOO_LARGE"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}
