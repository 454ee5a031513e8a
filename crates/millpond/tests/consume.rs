//! `millpond consume`, run as a person runs it.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Broker, Folder, batch};

fn start(broker: &Broker, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("consume").args(arguments).args(["--bootstrap", &broker.kafka.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// Output and error as text, and what it ended with.
fn ended(child: Child) -> (String, String, Option<i32>) {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn run(broker: &Broker, arguments: &[&str]) -> (String, String, Option<i32>) {
    ended(start(broker, arguments))
}

fn interrupt(child: &Child) {
    signal(child, "INT");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// A broker with `logs`: a to e in partition 0, x in partition 1.
fn with_records(name: &str) -> (Folder, Broker) {
    let folder = Folder::new(name);
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 2);
    for values in [&["a", "b"][..], &["c"], &["d", "e"]] {
        assert_eq!(broker.client().produce("logs", 0, -1, batch(values)).0, 0);
    }
    assert_eq!(broker.client().produce("logs", 1, -1, batch(&["x"])).0, 0);
    (folder, broker)
}

#[test]
fn records_are_printed_from_where_it_is_asked_to_the_end() {
    let (_folder, broker) = with_records("consume-from");
    for (from, expected) in [
        (&["earliest"][..], "a\nb\nc\nd\ne\n"),
        (&["latest"], ""),
        (&["offset", "3"], "d\ne\n"),
        (&["offset", "1000"], ""),
        (&["-2"], "d\ne\n"),
        (&["timestamp", "0"], "a\nb\nc\nd\ne\n"),
        (&["timestamp", "1700000000001"], ""),
    ] {
        let line = [&["logs", "--partition", "0", "--until-end", "--from"], from].concat();
        let (out, err, code) = run(&broker, &line);
        assert_eq!((out.as_str(), code), (expected, Some(0)), "{from:?}: {err}");
    }
    let (out, err, code) = run(&broker, &["logs", "--from", "earliest", "--until-end"]);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!((lines, code), (vec!["a", "b", "c", "d", "e", "x"], Some(0)));
    assert!(err.starts_with("millpond: 6 records (6 bytes) read from 2 partitions of logs in "), "{err}");
    for line in [
        &["logs", "--partition", "0", "--from", "earliest", "--count", "2"][..],
        &["--partition", "0", "--count", "2", "--from", "earliest", "logs"],
        &["--partition", "0", "--count", "2", "--from", "-5", "logs"],
    ] {
        let (out, err, code) = run(&broker, line);
        assert_eq!((out.as_str(), code), ("a\nb\n", Some(0)), "{line:?}: {err}");
    }
}

#[test]
fn records_are_printed_as_json_or_as_a_template_says() {
    let (_folder, broker) = with_records("consume-format");
    let line = ["logs", "--partition", "1", "--from", "earliest", "--until-end"];
    let (out, err, _) = run(&broker, &[&line[..], &["--json"]].concat());
    let record: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("one line of JSON: {out:?} {err}"));
    assert_eq!((&record["topic"], &record["partition"], &record["offset"]), (&"logs".into(), &1.into(), &0.into()));
    assert_eq!((&record["value"], &record["key"]), (&"x".into(), &Value::Null));
    let (out, _, _) = run(&broker, &[&line[..], &["--format", "{topic}-{partition}@{offset}:{value};"]].concat());
    assert_eq!(out, "logs-1@0:x;");
}

#[test]
fn it_follows_until_an_interrupt_and_tells_what_it_read() {
    let (_folder, broker) = with_records("consume-follow");
    let mut child = start(&broker, &["logs", "--partition", "0", "--from", "offset", "4"]);
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        line
    };
    assert_eq!(next(), "e\n");
    assert_eq!(broker.client().produce("logs", 0, -1, batch(&["new"])).0, 0);
    assert_eq!(next(), "new\n");
    interrupt(&child);
    let (_, err, code) = ended(child);
    assert_eq!(code, Some(130));
    assert!(err.starts_with("millpond: 2 records (4 bytes) read from 1 partition of logs"), "{err}");
}

#[test]
fn a_member_that_is_told_to_end_leaves_its_group_with_what_it_printed() {
    let (_folder, broker) = with_records("consume-terminate");
    let line = ["logs", "--group", "readers", "--from", "earliest"];
    let mut child = start(&broker, &line);
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut read: Vec<String> = (0..6).map(|_| String::new()).collect();
    for line in &mut read {
        out.read_line(line).expect("a line");
    }
    read.sort();
    assert_eq!(read.concat(), "a\nb\nc\nd\ne\nx\n");
    signal(&child, "TERM");
    let (_, err, code) = ended(child);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.starts_with("millpond: 6 records (6 bytes) read"), "{err}");
    assert_eq!(broker.client().produce("logs", 0, -1, batch(&["new"])).0, 0);
    let before = Instant::now();
    let (out, err, code) = run(&broker, &[&line[..], &["--count", "1"]].concat());
    assert_eq!((out.as_str(), code), ("new\n", Some(0)), "{err}");
    // Its session would last 45 s.
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (_folder, broker) = with_records("consume-pipe");
    let many: Vec<String> = (0..200).map(|number| format!("{number} {}", "x".repeat(1000))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for _ in 0..5 {
        assert_eq!(broker.client().produce("logs", 1, -1, batch(&many)).0, 0);
    }
    let mut child = start(&broker, &["logs", "--partition", "1", "--from", "earliest"]);
    let mut first = [0; 2];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a record");
    assert_eq!(&first, b"x\n");
    let (_, err, code) = ended(child);
    assert_eq!((err.as_str(), code), ("", Some(0)));
}

#[test]
fn a_group_goes_on_where_it_has_come_to() {
    let (_folder, broker) = with_records("consume-group");
    let line = |count: &'static str| ["logs", "--group", "readers", "--from", "earliest", "--count", count];
    let mut lines = Vec::new();
    for count in ["2", "4"] {
        let (out, err, code) = run(&broker, &line(count));
        assert_eq!(code, Some(0), "{err}");
        lines.extend(out.lines().map(str::to_owned));
    }
    lines.sort();
    assert_eq!(lines, ["a", "b", "c", "d", "e", "x"], "each once");
    let child = start(&broker, &line("1"));
    assert_eq!(broker.client().produce("logs", 1, -1, batch(&["y"])).0, 0);
    assert_eq!(ended(child).0, "y\n");
    let (_, err, code) = run(&broker, &["logs", "--group", "readers", "--from", "-3"]);
    assert!(err.contains("--from can be earliest or latest with --group") && code == Some(1), "{err}");
}

#[test]
fn topics_that_match_an_expression_are_read_by_a_group() {
    let (_folder, broker) = with_records("consume-pattern");
    for (topic, value) in [("metrics-1", "p"), ("metrics-2", "q"), ("metrics-x", "r")] {
        broker.client().create_topic(topic, 1);
        assert_eq!(broker.client().produce(topic, 0, -1, batch(&[value])).0, 0);
    }
    let line = ["--pattern", "metrics-[0-9]+", "--group", "readers", "--from", "earliest", "--count", "2"];
    let (out, err, code) = run(&broker, &[&line[..], &["--format", "{topic}:{value}\\n"]].concat());
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!((lines, code), (vec!["metrics-1:p", "metrics-2:q"], Some(0)), "{err}");
    let told = "2 records (2 bytes) read from 2 partitions of what matches 'metrics-[0-9]+' in ";
    assert!(err.starts_with(&format!("millpond: {told}")), "{err}");
    for (line, expected, status) in [
        (&["--pattern", "a"][..], "--group <NAME> is missing", 2),
        (&["--pattern", "a", "--group", "g", "--partition", "1"], "cannot be given with", 2),
        (&["--pattern", "a", "--group", "g", "logs"], "cannot be given with", 2),
        (&["--pattern", "a", "--group", "g", "--until-end"], "cannot be given with", 2),
        (&["--pattern", "a", "--group", "g", "--from", "offset", "3"], "--from can be earliest or latest", 1),
        (&["--pattern", "a(", "--group", "g"], "--pattern 'a(': ", 1),
        (&["--pattern", "", "--group", "g"], "an empty pattern matches no topic", 1),
        (&["--from", "earliest"], "is missing", 2),
    ] {
        let (out, err, code) = run(&broker, line);
        assert_eq!((out.as_str(), code, err.lines().count()), ("", Some(status), 1), "{line:?}: {err}");
        assert!(err.contains(expected), "{line:?}: {err}");
    }
}

#[test]
fn mistakes_are_one_sentence_with_the_nearest_name() {
    let (_folder, broker) = with_records("consume-mistakes");
    for (line, expected) in [
        (&["lgs"][..], "millpond: there is no topic 'lgs'; the nearest is 'logs'\n"),
        (&["logs", "--partition", "7"], "millpond: logs has no partition 7; it has 2 partitions, from 0 on\n"),
        (
            &["logs", "--from", "begin"],
            "millpond: 'begin' is no value of --from, which is earliest, latest, offset N, timestamp T or -N (see \
             millpond consume --help)\n",
        ),
    ] {
        let (out, err, code) = run(&broker, line);
        assert_eq!((out.as_str(), err.as_str(), code), ("", expected, Some(1)));
    }
    let (_, err, code) = run(&broker, &["logs", "--format", "{ofset}"]);
    assert!(err.contains("the nearest is {offset}") && code == Some(2), "{err}");
    let (_, err, code) = run(&broker, &["logs", "--format", "{value"]);
    assert!(err.contains("the { of '{value' has no }; {{ is the letter") && code == Some(2), "{err}");
    let (_, err, code) = run(&broker, &["logs", "--format", "%p/%o"]);
    assert!(err.contains("it names nothing of a record; {value} is its value") && code == Some(2), "{err}");
}
