//! The commands for the operator, run as a person runs them.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its files")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{Broker, Folder, batch, command, refused};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millpond")).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Standard output and error as text, and whether the command succeeded.
fn told(arguments: &[&str]) -> (String, String, bool) {
    let output = run(arguments);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.success())
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("it can be written");
}

#[test]
fn verify_tells_a_running_a_killed_a_clean_and_a_damaged_directory_apart() {
    let folder = Folder::new("verify");
    let dir = folder.path().to_str().expect("a plain path").to_owned();
    let verify = ["verify", "--data-dir", &dir];
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 2);
    for i in 0..20 {
        assert_eq!(client.produce("logs", i % 2, -1, batch(&["x", "y"])).0, 0);
    }
    let (out, err, success) = told(&verify);
    assert!(!success && out.is_empty() && err.contains("in use by another process"), "{err}");
    broker.kill();
    let (out, err, success) = told(&verify);
    assert!(success && err.is_empty(), "{out}{err}");
    assert!(out.contains("needs recovery: ") && out.contains("nothing is damaged"), "{out}");
    let broker = Broker::start(folder.path(), &[]);
    assert_eq!(broker.client().read_all("logs", 0).len(), 20);
    assert!(broker.signal("TERM").0.success());
    let (out, _, success) = told(&verify);
    assert!(success && out.lines().count() == 1 && out.contains("as it was written"), "{out}");
    let log = folder.path().join("logs-1/00000000000000000000.0000000000.log");
    flip(&log, 70);
    let (out, _, success) = told(&verify);
    let damage = format!("damage: {}, byte 0, offset 0: the CRC-32C", log.display());
    assert!(!success && out.contains(&damage) && out.ends_with("DAMAGED.\n"), "{out}");
}

#[test]
fn dump_prints_files_of_a_running_broker_and_ends_at_damage() {
    let folder = Folder::new("dump");
    let broker = Broker::start(folder.path(), &[]);
    assert!(broker.ready.starts_with("millpond ready node=1 "), "{}", broker.ready);
    let mut client = broker.client();
    client.create_topic("logs", 1);
    for _ in 0..5 {
        assert_eq!(client.produce("logs", 0, -1, batch(&["x", "y"])).0, 0);
    }
    assert!(broker.signal("TERM").0.success());
    let log = folder.path().join("logs-0/00000000000000000000.0000000000.log");
    let path = log.to_str().expect("a plain path");
    let (out, _, success) = told(&["dump", path]);
    assert!(success && out.lines().count() == 8 && out.contains("offset=8 last_offset=9 records=2"), "{out}");
    let (out, _, _) = told(&["dump", path, "--offset", "5", "--limit", "2", "--json"]);
    let lines: Vec<_> = out.lines().collect();
    assert!(lines.len() == 3 && lines[1].contains("\"offset\":4,") && lines[2].contains("\"offset\":6,"), "{out}");
    for name in ["groups.table", "meta.properties", "logs-0/partition.metadata", "journal/0000000000000001.wal"] {
        let (out, err, success) = told(&["dump", &folder.file(name)]);
        assert!(success && !out.is_empty() && err.is_empty(), "{name}: {out}{err}");
    }
    flip(&log, 70);
    let (_, err, success) = told(&["dump", path]);
    assert!(!success && err.contains("damaged at byte 0") && err.lines().count() == 1, "{err}");
    let mut head = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["dump", &folder.file("groups.table")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(head.stdout.take());
    let ended = head.wait_with_output().expect("it ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn mistakes_are_answered_in_one_sentence_and_explain_knows_every_setting() {
    let (out, _, success) = told(&["config", "explain", "num.partitions"]);
    assert!(success && out.contains("Partitions of a topic that names no number."), "{out}");
    for line in [
        &["config", "explain", "num.partition"][..],
        &["config", "explan"],
        &["dump", "."],
        &["verify", "--dta-dir", "x"],
        &["dump", "/nowhere/at/all.log"],
        &["verify", "--data-dir", "/nowhere"],
        &["verify", "--data-dir", "/nowhere", "--data-dir", "/elsewhere"],
        &["verify", "--cluster", "--data-dir", "/nowhere"],
        &["broker", "--set", "num.partition=3"],
    ] {
        let (out, err, success) = told(line);
        assert!(!success && out.is_empty() && err.lines().count() == 1 && err.starts_with("millpond: "), "{err}");
    }
    let folder = Folder::new("a-file");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let output = refused(command(&file, &[]));
    let err = String::from_utf8(output.stderr).expect("text");
    assert!(err.contains("is not a data directory: it, or a part of its path, is a file"), "{err}");
}

#[test]
fn the_page_of_metrics_and_its_documentation_name_the_same_figures() {
    let folder = Folder::new("metrics");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 1);
    assert_eq!(client.produce("logs", 0, -1, batch(&["x", "y"])).0, 0);
    assert_eq!(client.read_all("logs", 0).len(), 2);
    let (_, page) = broker.metrics_when("millpond_log_end_offset{topic=\"logs\",partition=\"0\"} 2");
    for line in ["millpond_produced_batches_total 1", "millpond_produced_records_total 2", "millpond_stalled_logs 0"] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    let served = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut served: Vec<String> = served.map(str::to_owned).collect();
    let docs = include_str!("../../../docs/operations.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `millpond_"));
    let mut described: Vec<String> = rows
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let (name, kind) = (cells.next().expect("a name"), cells.next().expect("a kind"));
            format!("{} {kind}", name.trim_matches('`').split('{').next().expect("a name"))
        })
        .collect();
    served.sort();
    described.sort();
    assert_eq!(served, described);
}

#[test]
fn a_shell_completes_commands_options_and_their_values() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, err, success) = told(&["completions", shell]);
        assert!(success && err.is_empty() && script.contains("reset-offsets"), "{shell}: {err}");
    }
    // What bash would offer for words of which the last one is being written.
    let offered = |words: &str| {
        let line = format!(
            "eval \"$({} completions bash)\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _millpond millpond \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
             echo \"${{COMPREPLY[*]}}\"",
            env!("CARGO_BIN_EXE_millpond")
        );
        let output = Command::new("bash").args(["-c", &line]).output().expect("bash runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    assert_eq!(offered("millpond prod"), "produce");
    assert_eq!(offered("millpond group res"), "reset-offsets");
    assert_eq!(offered("millpond consume --until"), "--until-end");
    let (_, err, success) = told(&["completions", "bsh"]);
    assert!(
        !success && err.contains("'bsh' is no value of <SHELL>, which is one of bash, elvish, fish, powershell, zsh"),
        "{err}"
    );
}
