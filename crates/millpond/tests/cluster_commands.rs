//! `millpond cluster`, run as a person runs it, against a cluster of one.

#![expect(clippy::disallowed_methods, reason = "drives a real process and its output")]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::cluster::{Cluster, IDS, throughout, until};
use support::{Broker, Folder, batch};

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
    assert!(lines[0].starts_with("cluster ") && lines[0].ends_with(", broker 1 is the controller"), "{out}");
    let counts = "1 of 1 broker alive; 3 partitions in 1 topic, 0 without a leader, 0 under-replicated";
    assert_eq!(lines[1], counts);
    let cells: Vec<&str> = lines[4].split('\t').collect();
    assert_eq!(cells, ["1", &kafka, "-", "yes", "3", "3", "leader", "0"], "{out}");

    let (out, _, success) = told(&["cluster", "status", "--bootstrap", &kafka, "--json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(success);
    assert_eq!((&json["controller"], &json["partitions"]), (&1.into(), &3.into()));
    let only = &json["brokers"][0];
    assert_eq!((&only["id"], &only["alive"], &only["leaders"]), (&1.into(), &true.into(), &3.into()));
    assert_eq!(only["address"], kafka.as_str());
    assert_eq!(json["under_replicated"], Value::Array(Vec::new()));
    assert_eq!(json["moving"], Value::Array(Vec::new()));
    assert_eq!((&json["quorum"]["leader"], &json["quorum"]["voters"]), (&1.into(), &vec![1].into()));
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
        (&["cluster", "trust", "lgos", "0", "--bootstrap", &kafka], "the nearest is 'logs'"),
        (&["cluster", "trust", "logs", "2", "--bootstrap", &kafka], "no partition 2; it has 0 to 1"),
        (&["cluster", "trust", "logs", "one", "--bootstrap", &kafka], "'one' is no value of <PARTITION>"),
        (&["cluster", "trust", "logs"], "<PARTITION>"),
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

#[test]
fn what_the_protocol_lacks_is_asked_over_http_and_told_in_the_words_of_the_cluster() {
    let folder = Folder::new("cluster-http");
    let broker = Broker::start(folder.path(), &[]);
    let http = broker.http.to_string();
    let (out, err, success) = told(&["cluster", "rebalance", "--http", &http]);
    assert!(success && err.is_empty() && out == "replicas and leaders are as even as they can be\n", "{out}{err}");
    let (out, _, success) = told(&["cluster", "rebalance", "--http", &http, "--json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(success && json["moves"] == 0 && json["message"].is_string(), "{out}");
    let kafka = broker.kafka.to_string();
    let (_, err, success) = told(&["cluster", "rebalance", "--http", &http, "--wait", "--bootstrap", &kafka]);
    assert!(success, "{err}");
    for option in [&[][..], &["--wait"], &["--cancel"]] {
        let (out, err, success) = told(&[&["cluster", "decommission", "7", "--http", &http], option].concat());
        assert!(!success && out.is_empty() && err == "millpond: broker 7 is not registered\n", "{option:?}: {err}");
    }
    let (out, err, success) = told(&["cluster", "decommission", "1", "--cancel", "--http", &http]);
    assert!(!success && out.is_empty() && err == "millpond: broker 1 is not being decommissioned\n", "{err}");
    let (_, err, success) = told(&["cluster", "decommission", "1", "--cancel", "--wait", "--http", &http]);
    assert!(!success && err.lines().count() == 1, "{err}");
}

#[test]
fn a_decommission_is_waited_for_until_the_broker_has_nothing_and_can_be_taken_back() {
    let cluster = Cluster::start("decommission", &[]);
    cluster.create_topic("logs", 6, &[3, 1]);
    for partition in 0..6 {
        let written = || cluster.takes(cluster.leader("logs", partition), "logs", partition, "x").then_some(());
        support::cluster::until("it is written", written);
    }
    let http = cluster.up[&1].http.to_string();
    let row = || {
        let status: Value = serde_json::from_str(&cluster.up[&2].get("/admin/status").1).expect("JSON");
        let brokers = status["brokers"].as_array().expect("brokers").clone();
        let third = brokers.into_iter().find(|row| row["id"] == 3).expect("the third");
        (third["decommissioning"].as_bool().expect("a truth"), third["replicas"].as_u64().expect("a number"))
    };
    let (out, err, success) = told(&["cluster", "decommission", "3", "--wait", "--http", &http]);
    assert!(success && out == "broker 3 is being decommissioned: 6 replicas move elsewhere\n", "{out}{err}");
    let (head, body) = cluster.up[&1].get("/admin/decommission/3");
    let left: Value = serde_json::from_str(&body).expect("JSON");
    assert!(head.contains(" 200 ") && left["replicas"] == 0, "{head}{body}");
    support::cluster::until("all know", || (row() == (true, 0)).then_some(()));

    // The first two have what is left between them: the second cannot go as well.
    let (_, err, success) = told(&["cluster", "decommission", "2", "--http", &http]);
    assert!(!success && err.contains("only 1 brokers would be left"), "{err}");
    let (out, err, success) = told(&["cluster", "decommission", "3", "--cancel", "--http", &http]);
    assert!(success && out == "broker 3 stays, with what has not moved elsewhere\n", "{out}{err}");
    support::cluster::until("all know", || (row() == (false, 0)).then_some(()));
    let (head, body) = cluster.up[&1].get("/admin/decommission/3");
    assert!(head.contains(" 409 ") && body.contains("is not being decommissioned"), "{head}{body}");
    for partition in 0..6 {
        assert!(cluster.read("logs", partition).values().any(|value| value == "x"), "partition {partition}");
    }
}

#[test]
fn a_leader_that_leads_already_stays_where_it_is() {
    let folder = Folder::new("cluster-transfer");
    let broker = Broker::start(folder.path(), &[]);
    broker.client().create_topic("logs", 2);
    let kafka = broker.kafka.to_string();
    let (out, err, success) = told(&["cluster", "transfer-leader", "logs", "1", "1", "--bootstrap", &kafka]);
    assert!(success, "{err}");
    let rows: Vec<&str> = out.lines().collect();
    assert_eq!(rows, ["TOPIC\tPARTITION\tFROM\tTO\tOUTCOME", "logs\t1\t1\t1\talready there"]);
    let (out, err, success) = told(&["cluster", "transfer-leader", "1", "--json", "--bootstrap", &kafka]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(success && json.as_array().is_some_and(|all| all.len() == 2), "{out}{err}");
    assert_eq!(json[1]["outcome"], "already there");
}

#[test]
fn a_broker_that_is_told_to_stop_is_not_ready_while_it_hands_over() {
    let cluster = Cluster::start("cluster-leaving", &[]);
    cluster.create_topic("logs", 1, &[2, 1, 3]);
    until("it leads", || (cluster.leader("logs", 0) == 2).then_some(()));
    let broker = &cluster.up[&2];
    assert_eq!(broker.get("/ready").0, "HTTP/1.1 200 OK");
    broker.send("TERM");
    // Its port would be closed before that if it were ready to the end.
    until("it says so", || (broker.get("/ready").0 == "HTTP/1.1 503 Service Unavailable").then_some(()));
}

#[test]
fn what_power_cuts_left_of_a_relaxed_topic_is_replaced_by_a_majority_or_waits_for_an_operator() {
    let mut cluster = Cluster::start("cluster-trust", &[]);
    cluster.create_topic_with("fast", 1, &IDS, &[("millpond.flush", "relaxed")]);
    cluster.create_topic("safe", 1, &IDS);
    let mut acknowledged = BTreeMap::new();
    for (topic, number) in (0..10).flat_map(|number| [("fast", number), ("safe", number)]) {
        let value = format!("{topic} {number}");
        until("it is written", || {
            let leader = cluster.leader(topic, 0);
            let (code, offset) = cluster.client(leader).produce(topic, 0, -1, batch(&[&value]));
            (code == 0).then(|| acknowledged.entry(topic).or_insert_with(BTreeMap::new).insert(offset, value.clone()))
        });
    }
    let tainted = |cluster: &Cluster, id| {
        let (_, body) = cluster.up[&id].get("/metrics");
        let line = body.lines().find_map(|line| line.strip_prefix("millpond_tainted_partitions "));
        line.expect("the figure").to_owned()
    };

    // One of three: the others have all, and it makes room for a replica that they fill.
    cluster.kill(3);
    cluster.reboot(3);
    cluster.restart(&[3]);
    until("the tainted replica is replaced", || (tainted(&cluster, 3) == "0").then_some(()));
    until("all are in sync", || {
        let (out, _, _) = told(&["cluster", "status", "--json", "--bootstrap", &cluster.up[&1].kafka.to_string()]);
        let json: Value = serde_json::from_str(&out).ok()?;
        let none = |field: &str| json[field].as_array().is_some_and(Vec::is_empty);
        (none("under_replicated") && none("without_leader") && none("moving")).then_some(())
    });
    cluster.assert_kept("fast", 0, &acknowledged["fast"]);

    // All of them: nobody can tell what is lost.
    IDS.iter().for_each(|id| cluster.kill(*id));
    IDS.iter().for_each(|id| cluster.reboot(*id));
    cluster.restart(&IDS);
    cluster.assert_kept("safe", 0, &acknowledged["safe"]);
    let kafka = cluster.up[&1].kafka.to_string();
    until("the replicas are tainted", || IDS.iter().all(|id| tainted(&cluster, *id) == "1").then_some(()));
    throughout(Duration::from_secs(1), || {
        assert!(IDS.iter().all(|id| cluster.leader_by(*id, "fast", 0).is_none()), "nobody leads it");
    });
    let (out, err, success) = told(&["cluster", "trust", "safe", "0", "--bootstrap", &kafka]);
    assert!(success && out.contains("a majority of its replicas misses nothing"), "{out}{err}");
    let (out, err, success) = told(&["cluster", "trust", "fast", "0", "--bootstrap", &kafka]);
    assert!(success && out == "fast-0 has a leader that goes on with what remains\n", "{out}{err}");
    cluster.assert_kept("fast", 0, &acknowledged["fast"]);
    until("the third replica is replaced", || IDS.iter().all(|id| tainted(&cluster, *id) == "0").then_some(()));
    cluster.assert_kept("fast", 0, &acknowledged["fast"]);

    // One is left, and another is away: it is not for one of three to decide.
    IDS.iter().for_each(|id| cluster.kill(*id));
    cluster.reboot(1);
    cluster.restart(&[1, 2]);
    until("the replica is tainted", || (tainted(&cluster, 1) == "1").then_some(()));
    let kafka = cluster.up[&1].kafka.to_string();
    cluster.kill(2);
    let (out, err, success) = told(&["cluster", "trust", "fast", "0", "--bootstrap", &kafka]);
    assert!(!success && out.is_empty() && err.lines().count() == 1, "{out}{err}");
    cluster.restart(&[2]);
    let kafka = cluster.up[&2].kafka.to_string();
    let (out, err, success) = told(&["cluster", "trust", "fast", "0", "--json", "--bootstrap", &kafka]);
    assert!(success && out.contains("led"), "{out}{err}");
    cluster.assert_kept("fast", 0, &acknowledged["fast"]);
}
