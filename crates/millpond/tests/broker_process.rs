//! The built binary as a user meets it: ready line, signals, refusals, kill -9 and restart.

#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::time::Duration;

use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::init_producer_id::InitProducerIdRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use millpond_wire::sync_group::SyncGroupRequest;
use millpond_wire::{ErrorCode, Str};
use support::{Broker, Folder, batch, command, producer_batch, refused};

#[test]
fn what_was_acknowledged_is_there_after_kill_9_and_restart() {
    let folder = Folder::new("kill9");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 3);
    for i in 0..100 {
        let value = format!("value {i}");
        assert_eq!(client.produce("logs", i % 3, -1, batch(&[&value, "second"])), (0, i64::from(i / 3 * 2)));
    }
    let before: Vec<_> = (0..3).map(|partition| client.read_all("logs", partition)).collect();
    broker.kill();

    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    for (partition, before) in (0..).zip(&before) {
        assert_eq!(&client.read_all("logs", partition), before, "partition {partition}");
    }
    assert_eq!(client.produce("logs", 0, -1, batch(&["after"])), (0, 68));
    assert_eq!(client.read_all("logs", 0).last(), Some(&(68, b"after".to_vec())));
}

#[test]
fn an_idempotent_producer_holds_across_kill_9() {
    let folder = Folder::new("idempotent");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 1);
    let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let id = client.call(4, &request).producer_id;
    assert!(id >= 0);
    for sequence in 0..4 {
        let sent = producer_batch(id, 0, sequence, &["x"]);
        assert_eq!(client.produce("logs", 0, -1, sent), (0, i64::from(sequence)));
    }
    broker.kill();

    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    let again = |sequence| producer_batch(id, 0, sequence, &["x"]);
    assert_eq!(client.produce("logs", 0, -1, again(3)), (0, 3), "the last batch sent again");
    let gap = client.produce("logs", 0, -1, again(9));
    assert_eq!(gap.0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER.0);
    assert_eq!(client.produce("logs", 0, -1, again(4)), (0, 4), "the next batch");
    assert_eq!(client.read_all("logs", 0).len(), 5);
    let next = client.call(4, &request).producer_id;
    assert_ne!(next, id, "no producer id is given twice");
}

#[test]
fn offsets_and_members_of_groups_outlive_kill_9() {
    let folder = Folder::new("groups");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 1);
    let keys = vec!["g".into()];
    let found = client.call(4, &FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() });
    assert_eq!(found.coordinators[0].error_code, 0);
    let protocol = JoinGroupRequestProtocol { name: "range".into(), ..Default::default() };
    let join = JoinGroupRequest {
        group_id: "member".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    // Before version 4 a member is admitted at once.
    let joined = client.call(3, &join);
    assert_eq!(joined.error_code, 0);
    let (generation_id, member_id) = (joined.generation_id, joined.member_id);
    let group_id = Str::from_static("member");
    let sync = SyncGroupRequest {
        group_id: group_id.clone(),
        generation_id,
        member_id: member_id.clone(),
        ..Default::default()
    };
    assert_eq!(client.call(3, &sync).error_code, 0);
    let commit = |group: usize, offset| {
        let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic { name: "logs".into(), partitions: vec![partition], ..Default::default() };
        let group_id = format!("group-{group}").as_str().into();
        OffsetCommitRequest { group_id, generation_id_or_member_epoch: -1, topics: vec![topic], ..Default::default() }
    };
    for offset in 0..100 {
        for group in 0..4 {
            let answer = client.call(8, &commit(group, offset));
            assert_eq!(answer.topics[0].partitions[0].error_code, 0, "offset {offset} of group {group}");
        }
    }
    broker.kill();

    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    for group in 0..4 {
        let topic = OffsetFetchRequestTopic { name: "logs".into(), partition_indexes: vec![0] };
        let group_id = format!("group-{group}").as_str().into();
        let answer = client.call(7, &OffsetFetchRequest { group_id, topics: Some(vec![topic]), ..Default::default() });
        assert_eq!(answer.topics[0].partitions[0].committed_offset, 99, "group {group}");
    }
    let beat = HeartbeatRequest { group_id, generation_id, member_id, ..Default::default() };
    assert_eq!(client.call(4, &beat).error_code, 0, "the member goes on");
}

#[test]
fn a_deleted_topic_stays_deleted_and_its_name_begins_anew() {
    let folder = Folder::new("deleted");
    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    client.create_topic("logs", 2);
    assert_eq!(client.produce("logs", 0, -1, batch(&["old"])), (0, 0));
    let request = millpond_wire::delete_topics::DeleteTopicsRequest {
        topic_names: vec!["logs".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(client.call(5, &request).responses[0].error_code, 0);
    assert_eq!(client.produce("logs", 0, -1, batch(&["x"])).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
    client.create_topic("logs", 1);
    broker.kill();

    let broker = Broker::start(folder.path(), &[]);
    let mut client = broker.client();
    assert_eq!(client.read_all("logs", 0), []);
    assert_eq!(client.produce("logs", 1, -1, batch(&["x"])).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
    assert_eq!(client.produce("logs", 0, -1, batch(&["new"])), (0, 0));
}

#[test]
fn sigterm_and_sigint_stop_it_cleanly_within_two_seconds() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new(&format!("stop-{signal}"));
        let broker = Broker::start(folder.path(), &[]);
        let mut client = broker.client();
        client.create_topic("logs", 1);
        assert_eq!(client.produce("logs", 0, -1, batch(&["kept"])), (0, 0));
        let (status, took) = broker.signal(signal);
        assert!(status.success(), "{status}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let broker = Broker::start(folder.path(), &[]);
        assert_eq!(broker.client().read_all("logs", 0), [(0, b"kept".to_vec())]);
    }
}

#[test]
fn an_idle_broker_has_little_memory_of_its_own() {
    let folder = Folder::new("memory");
    let broker = Broker::start(folder.path(), &[]);
    let kib = broker.own_memory_kib();
    assert!((100..16 << 10).contains(&kib), "{kib} KiB");
}

#[test]
fn the_ready_line_names_node_and_addresses_and_is_the_only_output() {
    let folder = Folder::new("ready");
    let broker = Broker::start(folder.path(), &["--node-id", "7"]);
    assert_eq!(broker.ready, format!("millpond ready node=7 kafka={} http={}", broker.kafka, broker.http));
    assert_ne!(broker.kafka.port(), 0);
}

#[test]
fn http_says_live_and_ready_and_counts_requests() {
    let folder = Folder::new("http");
    let broker = Broker::start(folder.path(), &[]);
    assert_eq!(broker.get("/live"), ("HTTP/1.1 200 OK".into(), "live\n".into()));
    assert_eq!(broker.get("/ready"), ("HTTP/1.1 200 OK".into(), "ready\n".into()));
    assert_eq!(broker.get("/nothing").0, "HTTP/1.1 404 Not Found");
    let mut client = broker.client();
    client.create_topic("logs", 2);
    assert_eq!(client.produce("logs", 1, -1, batch(&["a", "b"])), (0, 0));
    // The memory of a request comes back when its batch is durable, which may be just after its answer.
    let (status, page) = broker.metrics_when("millpond_produce_in_flight_bytes 0");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        "millpond_request_seconds_count{api=\"Produce\"} 1",
        "millpond_request_seconds_count{api=\"CreateTopics\"} 1",
        "millpond_log_end_offset{topic=\"logs\",partition=\"1\"} 2",
        "millpond_log_end_offset{topic=\"logs\",partition=\"0\"} 0",
        "millpond_leaders 2",
        "millpond_connections 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    let rounds = page.lines().find_map(|line| line.strip_prefix("millpond_journal_rounds_total "));
    assert!(rounds.is_some_and(|rounds| rounds.parse::<u64>().is_ok_and(|rounds| rounds > 0)), "{rounds:?}");
}

/// The broker does not start, says why in one line on standard error, and nothing on standard output.
fn one_sentence(command: std::process::Command, expected: &str) {
    let output = refused(command);
    assert!(!output.status.success(), "{expected}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("millpond: ")).collect();
    assert!(said.len() == 1 && said[0].contains(expected), "{expected:?} in {text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_second_broker_on_the_same_folder_is_refused_with_a_sentence() {
    let folder = Folder::new("second");
    let broker = Broker::start(folder.path(), &[]);
    one_sentence(command(folder.path(), &[]), "is in use by another process");
    assert_eq!(broker.get("/ready").0, "HTTP/1.1 200 OK", "the first one is not disturbed");
}

#[test]
fn a_port_in_use_is_refused_with_a_sentence() {
    let (folder, other) = (Folder::new("port"), Folder::new("port-other"));
    let broker = Broker::start(folder.path(), &[]);
    let address = broker.kafka.to_string();
    let config = other.file("millpond.toml");
    std::fs::write(&config, format!("listeners = \"{address}\"\nlog.dir = \"{}\"\n", other.file("data")))
        .expect("a file is written");
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    second.args(["broker", "--config", &config, "--http", "127.0.0.1:0"]);
    second.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    one_sentence(second, &format!("cannot listen on {address} (listeners)"));
}

#[test]
fn a_folder_of_another_node_is_refused_with_a_sentence_that_names_it() {
    let folder = Folder::new("node");
    let (status, _) = Broker::start(folder.path(), &["--node-id", "3"]).signal("TERM");
    assert!(status.success());
    one_sentence(command(folder.path(), &["--node-id", "4"]), "belongs to node 3, not to node 4");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused_with_a_sentence() {
    let folder = Folder::new("file");
    let file = folder.file("not-a-folder");
    std::fs::write(&file, "x").expect("a file is written");
    one_sentence(command(std::path::Path::new(&file), &[]), "not-a-folder");
}

#[test]
fn bad_settings_are_refused_with_a_sentence_each() {
    let folder = Folder::new("bad");
    for (arguments, expected) in [
        (&["--set", "num.partition=3"][..], "there is no setting 'num.partition'; did you mean 'num.partitions'?"),
        (&["--set", "num.partitions=none"], "'none' is no value for num.partitions, which is a whole number"),
        (&["--set", "millpond.flush=never"], "which is one of durable, relaxed"),
        (&["--node-id", "-1"], "'-1' is no value for node.id"),
        (&["--advertise", "nowhere"], "'nowhere' is no value for advertised.listeners"),
        (&["--config", "/no/such/file.toml"], "cannot read /no/such/file.toml"),
        (&["--log-level", "loud"], "'loud' is no value for --log-level, which is off, error"),
    ] {
        one_sentence(command(folder.path(), arguments), expected);
    }
    let file = folder.file("mistakes.toml");
    for (text, expected) in [
        ("num.partition = 3", "there is no setting 'num.partition'; did you mean 'num.partitions'?"),
        ("num.partitions = 0", "'0' is no value for num.partitions, which is a whole number"),
        ("num.partitions = 1\nnum.partitions = 2", "line 2: num.partitions is given twice"),
    ] {
        std::fs::write(&file, text).expect("a file is written");
        let arguments = ["--config", &file, "--set", "millpond.flush=relaxed"];
        one_sentence(command(folder.path(), &arguments), &format!("in {file}: {expected}"));
    }
    std::fs::write(&file, "num.partitions = 2").expect("a file is written");
    let arguments = ["--config", &file, "--set", "num.partitions=0"];
    one_sentence(command(folder.path(), &arguments), "millpond: '0' is no value for num.partitions");
}

#[test]
fn help_has_examples_and_version_says_which() {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_millpond")).args(arguments).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(run(&["broker", "--help"]).contains("millpond broker --kafka 127.0.0.1:0 --http 127.0.0.1:0"));
    assert_eq!(run(&["--version"]).trim(), concat!("millpond ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_flush_default_of_the_broker_is_written_into_new_topics() {
    let folder = Folder::new("flush");
    let broker = Broker::start(folder.path(), &["--set", "millpond.flush=relaxed"]);
    let request = millpond_wire::create_topics::CreateTopicsRequest {
        topics: vec![millpond_wire::create_topics::CreatableTopic {
            name: "logs".into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let response = broker.client().call(7, &request);
    let configs = response.topics[0].configs.as_ref().expect("settings");
    let flush = configs.iter().find(|config| config.name == "millpond.flush").expect("the setting");
    let set_on_the_topic = 1;
    assert_eq!((flush.value.as_deref(), flush.config_source), (Some("relaxed"), set_on_the_topic));
}
