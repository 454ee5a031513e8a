//! What a broker does where storage sets the limits: requests that the journal cannot take, a directory without its
//! metadata, answers that depend on what is durable.

use std::sync::Arc;

use crate::support::{Served, assert_code, batch, fetch_request, produce_request, values};
use millpond_broker::{Broker, BrokerConfig, StartError};
use millpond_record::{GroupId, PartitionIndex, ReplicaId, TopicId};
use millpond_runtime::{RealDisk, Runtime};
use millpond_storage::{DataDir, GroupSpec, LogOptions, StorageOptions};
use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::fetch::FetchRequest;
use millpond_wire::metadata::MetadataRequest;
use millpond_wire::produce::ProduceRequest;
use millpond_wire::{ErrorCode, Str};

fn topics(count: usize) -> CreateTopicsRequest {
    let config = |name: &'static str, value: &'static str| CreatableTopicConfig {
        name: Str::from_static(name),
        value: Some(Str::from_static(value)),
    };
    let topic = |number: usize| CreatableTopic {
        name: format!("{}-{number}", "topic".repeat(30)).into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![config("retention.ms", "86400000"), config("max.message.bytes", "100000")],
        ..Default::default()
    };
    CreateTopicsRequest { topics: (0..count).map(topic).collect(), timeout_ms: 60_000, ..Default::default() }
}

#[test]
fn a_change_of_the_metadata_that_fits_into_no_journal_file_is_refused_whole_and_the_broker_goes_on() {
    let served = Served::with(&[("millpond.journal.file.bytes", "1048576")]);
    let mut client = served.client();
    client.create("before", 1, &[]);
    let answer = client.call(7, &topics(5_000));
    assert_eq!(answer.topics.len(), 5_000);
    for topic in &answer.topics {
        assert_code(topic.error_code, ErrorCode::POLICY_VIOLATION);
        let message = topic.error_message.as_ref().expect("a sentence").to_string();
        assert!(message.contains("millpond.journal.file.bytes"), "{message}");
    }
    let answer = client.call(7, &topics(2));
    assert!(answer.topics.iter().all(|topic| topic.error_code == 0));
    let all = client.call(9, &MetadataRequest { topics: None, ..Default::default() });
    assert_eq!(all.topics.len(), 3);
    assert_code(client.produce("before", -1, batch(&["a"])).error_code, ErrorCode::NONE);
}

#[test]
fn a_directory_that_has_partitions_but_no_metadata_is_refused_and_nothing_of_it_is_deleted() {
    let folder = std::env::temp_dir().join(format!("millpond-broker-test-{}-lost", std::process::id()));
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    tokio.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        let (path, opening) = (folder.clone(), runtime.clone());
        let made = runtime.blocking(move || {
            let (data_dir, _) =
                DataDir::open(&opening, &path, StorageOptions::default(), Arc::new(|_| ())).expect("new");
            let spec = GroupSpec {
                group: GroupId(7),
                topic: "orphan".to_owned(),
                partition: PartitionIndex(0),
                topic_id: TopicId([7; 16]),
                replica: ReplicaId(9),
                options: LogOptions::default(),
            };
            data_dir.create_group(spec, Box::new(|result| result.expect("durable"))).expect("a group");
            data_dir.close().expect("a clean stop");
        });
        made.await;
        let given = [
            ("log.dir", folder.to_str().expect("a plain path")),
            ("listeners", "127.0.0.1:0"),
            ("millpond.http.listener", "127.0.0.1:0"),
        ];
        let config = BrokerConfig::resolve(given).expect("good settings");
        let refused = Broker::start(runtime, config).await;
        assert!(matches!(refused, Err(StartError::MetadataLost(_))), "it would delete the partition");
        assert!(folder.join("orphan-0").exists());
    });
    drop(tokio);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_produce_with_acks_0_waits_for_nobody_and_its_timeout_means_nothing() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    // The first batch waits for the partition to take leadership, which takes a sync: longer than no time at all.
    let request = ProduceRequest { timeout_ms: 0, ..produce_request("logs", 0, vec![(0, batch(&["a"]))]) };
    for _ in 0..10 {
        client.send(9, &request);
    }
    let alive = client.call(9, &MetadataRequest { topics: Some(Vec::new()), ..Default::default() });
    assert!(!alive.brokers.is_empty(), "a request that timed out would have closed the connection");
    let mut read = 0;
    while read < 10 {
        let found = values(&client.fetch("logs", read, 10_000));
        assert!(!found.is_empty(), "all ten are written");
        read += found.len() as i64;
    }
    let all = ProduceRequest { timeout_ms: 0, ..produce_request("logs", -1, vec![(0, batch(&["b"]))]) };
    let code = client.call(9, &all).responses[0].partition_responses[0].error_code;
    assert!([ErrorCode::NONE, ErrorCode::REQUEST_TIMED_OUT].contains(&ErrorCode(code)), "{code}");
}

#[test]
fn a_fetch_that_names_a_partition_twice_is_answered_twice_each_from_its_own_offset() {
    let served = Served::start();
    let (mut reader, mut writer) = (served.client(), served.client());
    writer.create("logs", 1, &[]);
    for value in ["a", "b"] {
        writer.produce("logs", -1, batch(&[value]));
    }
    let mut request = fetch_request("logs", 0);
    let mut second = request.topics[0].partitions[0].clone();
    second.fetch_offset = 1;
    request.topics[0].partitions.push(second);
    let answer = reader.call(12, &request);
    let found: Vec<_> = answer.responses[0].partitions.iter().map(values).collect();
    assert_eq!(found, [vec!["a", "b"], vec!["b"]]);

    // While it waits both are woken by the same append.
    for partition in &mut request.topics[0].partitions {
        partition.fetch_offset = 2;
    }
    let id = reader.send(12, &FetchRequest { min_bytes: 100, max_wait_ms: 50_000, ..request });
    writer.produce("logs", -1, batch(&["c"]));
    writer.produce("logs", -1, batch(&["d"]));
    let answer = reader.receive::<FetchRequest>(12, id);
    for partition in &answer.responses[0].partitions {
        assert_eq!(partition.error_code, 0);
        assert!(["c", "d"].starts_with(&values(partition).iter().map(String::as_str).collect::<Vec<_>>()[..]));
    }
}
