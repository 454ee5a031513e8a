//! `millpond produce`, run as a person runs it.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::io::Write;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Broker, Folder, PATIENCE};

fn start(broker: &Broker, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("produce").args(arguments).args(["--bootstrap", &broker.kafka.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// Output and error as text, and whether it succeeded.
fn told(child: Child) -> (String, String, bool) {
    let (out, err, code) = ended(child);
    (out, err, code == Some(0))
}

/// Output and error as text, and what it ended with.
fn ended(child: Child) -> (String, String, Option<i32>) {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Runs it with this on standard input.
fn run(broker: &Broker, arguments: &[&str], input: &str) -> (String, String, bool) {
    let mut child = start(broker, arguments);
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    told(child)
}

fn values(broker: &Broker, topic: &str, partition: i32) -> Vec<String> {
    let found = broker.client().read_all(topic, partition);
    found.into_iter().map(|(_, value)| String::from_utf8(value).expect("text")).collect()
}

#[test]
fn lines_become_records_and_the_summary_tells_of_them() {
    let folder = Folder::new("produce-lines");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    let (out, err, success) = run(&broker, &["logs"], "one\n\nthree\nlast");
    assert!(success && err.is_empty(), "{err}");
    assert!(out.starts_with("4 records (12 bytes) acknowledged in 1 partition of logs in "), "{out}");
    assert_eq!(values(&broker, "logs", 0), ["one", "", "three", "last"]);

    let many: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
    let (out, err, success) = run(&broker, &["logs", "--compression", "zstd", "--json"], &many);
    assert!(success && err.is_empty(), "{err}");
    let summary: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&summary["records"], &summary["acknowledged"]), (&50_000.into(), &50_000.into()));
    let only = &summary["partitions"][0];
    assert_eq!((&only["first_offset"], &only["last_offset"]), (&4.into(), &50_003.into()));
    assert!(values(&broker, "logs", 0)[4..].iter().map(String::as_str).eq(many.lines()));
}

/// A key that goes elsewhere than `abc`.
const LONG: &[u8] = b"a-little-bit-long-string";

#[test]
fn keys_choose_the_partition_unless_one_is_named() {
    let folder = Folder::new("produce-keys");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 3);
    let (_, err, success) =
        run(&broker, &["logs", "--key-separator", ":"], "abc:x\nabc:y:z\na-little-bit-long-string:w\n");
    assert!(success, "{err}");
    let partition = |key: &[u8]| i32::try_from(millpond_record::partition_for_key(key, 3)).expect("one of three");
    assert_ne!(partition(b"abc"), partition(LONG), "the keys are of use for this test");
    assert_eq!(values(&broker, "logs", partition(b"abc")), ["x", "y:z"]);
    assert_eq!(values(&broker, "logs", partition(LONG)), ["w"]);
    let other = 3 - partition(b"abc") - partition(LONG);
    let line = ["logs", "--key-separator", ":", "--partition", &other.to_string()];
    assert!(run(&broker, &line, "abc:v\n").2);
    assert_eq!(values(&broker, "logs", other), ["v"]);
    let (out, err, success) = run(&broker, &["logs", "--key-separator", ":", "--acks", "1"], "a:1\nb\n");
    assert!(!success && out.starts_with("1 record "), "what was read before is sent: {out}");
    assert!(err.contains("line 2 has no ':' between key and value"), "{err}");
    let (out, _, _) = run(&broker, &["logs", "--key-separator", ":", "--json"], "a:1\nb\n");
    let summary: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["error"], "line 2 has no ':' between key and value");
    assert_eq!((&summary["acknowledged"], &summary["bytes"]), (&1.into(), &2.into()));
}

#[test]
fn files_are_read_by_lines_or_as_wholes() {
    let folder = Folder::new("produce-files");
    let broker = Broker::start(folder.path(), &[]);
    let input = Folder::new("produce-files-input");
    let (first, second) = (input.file("first"), input.file("second"));
    std::fs::write(&first, "a\nb").expect("written");
    std::fs::write(&second, "c\n").expect("written");
    for (topic, more, expected) in
        [("lines", &["--acks", "0"][..], &["a", "b", "c"][..]), ("wholes", &["--whole-files"], &["a\nb", "c\n"])]
    {
        broker.client().create_topic(topic, 1);
        let line = [&[topic, &first, &second], more].concat();
        let (out, err, success) = run(&broker, &line, "not read");
        assert!(success && out.contains(if more[0] == "--acks" { " sent to " } else { " acknowledged in " }), "{err}");
        let start = std::time::Instant::now();
        while values(&broker, topic, 0) != expected {
            assert!(start.elapsed() < PATIENCE, "{:?}", values(&broker, topic, 0));
        }
    }
    let (_, err, success) = run(&broker, &["lines", &second, &first, "--key-separator", "a"], "");
    assert!(!success && err.contains(&format!("line 1 of {second} has no 'a' between key and value")), "{err}");
    std::fs::write(&second, "ac\nda\n").expect("written");
    let (_, err, success) = run(&broker, &["lines", &second, &first, "--key-separator", "a"], "");
    assert!(!success && err.contains(&format!("line 2 of {first} has no 'a' between key and value")), "{err}");
    std::fs::write(&second, vec![b'x'; (16 << 20) + 1]).expect("written");
    let (_, err, success) = run(&broker, &["lines", &second, "--whole-files"], "");
    assert!(!success && err.contains(&format!("{second} is longer than 16777216 bytes")), "{err}");
    let (_, err, success) = run(&broker, &["lines", &input.file("none")], "");
    assert!(!success && err.contains("cannot read ") && err.lines().count() == 1, "{err}");
}

#[test]
fn a_mistake_is_one_sentence_with_a_hint() {
    let folder = Folder::new("produce-mistakes");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 2);
    for (line, expected) in [
        (&["lgos"][..], "there is no topic 'lgos'; the nearest is 'logs'"),
        (&["logs", "--partition", "2"], "logs has no partition 2; it has 2 partitions, from 0 on"),
        (&["logs", "--compression", "ztsd"], "which is one of none, gzip, snappy, lz4, zstd"),
        (&["logs", "--acks", "2"], "which is one of all, 1, 0"),
        (&["nope"], "there is no topic 'nope'; `millpond topic list` names those there are"),
        (&["logs", "--header", "x"], "it must have the form NAME=VALUE"),
        (&["logs", "--whole-files"], "FILES"),
    ] {
        let (out, err, success) = run(&broker, line, "x\n");
        assert!(!success && out.is_empty(), "{line:?}: {out}");
        assert!(err.contains(expected) && err.lines().count() == 1, "{line:?}: {err}");
    }
}

#[test]
fn a_record_that_is_not_taken_fails_the_command_and_not_the_others() {
    let folder = Folder::new("produce-refused");
    let broker = Broker::start(folder.path(), &["--set", "message.max.bytes=2000"]);
    broker.client().create_topic("logs", 1);
    // At this rate each has a batch of its own: what is sent with a record that is refused is refused with it.
    let lines = format!("good\n{}\ngood too\n", "x".repeat(5000));
    let (out, err, success) = run(&broker, &["logs", "--json", "--rate", "5"], &lines);
    let summary: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&summary["acknowledged"], &summary["failed"]), (&2.into(), &1.into()));
    assert!(!success && err.contains("1 record was not acknowledged") && err.contains("MESSAGE_TOO_LARGE"), "{err}");
    assert_eq!(values(&broker, "logs", 0), ["good", "good too"]);
}

#[test]
fn an_interrupt_stops_reading_and_keeps_what_was_read() {
    let folder = Folder::new("produce-interrupt");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    // At this rate most lines are read and not sent when it is interrupted.
    let mut child = start(&broker, &["logs", "--rate", "4"]);
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"one\ntwo\nthree\nfour\nfi").expect("it reads");
    let start = std::time::Instant::now();
    while values(&broker, "logs", 0).is_empty() {
        assert!(start.elapsed() < PATIENCE, "the lines are sent while the pipe is open");
    }
    interrupt(&child);
    let (out, err, code) = ended(child);
    drop(input);
    assert_eq!((code, err.as_str()), (Some(130), ""));
    assert!(out.starts_with("4 records (15 bytes) acknowledged"), "{out}");
    assert_eq!(values(&broker, "logs", 0), ["one", "two", "three", "four"]);
}

#[test]
fn it_ends_when_the_time_of_its_records_is_up_though_the_broker_stands_still() {
    let folder = Folder::new("produce-timeout");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 1);
    let mut child = start(&broker, &["logs", "--timeout", "2"]);
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"one\n").expect("it reads");
    let start = std::time::Instant::now();
    while values(&broker, "logs", 0).is_empty() {
        assert!(start.elapsed() < PATIENCE, "the lines are sent while the pipe is open");
    }
    broker.send("STOP");
    input.write_all(b"two\n").expect("it reads");
    drop(input);
    let start = std::time::Instant::now();
    let (out, err, code) = ended(child);
    let took = start.elapsed();
    broker.send("CONT");
    assert!(out.starts_with("1 record (3 bytes) acknowledged"), "{out}");
    assert!(err.contains("1 record was not acknowledged") && code == Some(1), "{err}");
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_a_broker() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["produce", "logs", "--bootstrap", &address]).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let connection = silent.accept().expect("it connects");
    interrupt(&child);
    let (out, err, code) = ended(child);
    drop(connection);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(130), "", "millpond: interrupted; nothing was read\n"));
}
