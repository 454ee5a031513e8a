//! CreatePartitions and the settings APIs against a whole broker: what is refused, and that changes take effect at once
//! and outlive the broker.

use std::collections::BTreeMap;

use crate::support::{Client, Served, assert_code, batch, produce_request, until, values};
use millpond_wire::alter_configs::{self, AlterConfigsRequest};
use millpond_wire::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::delete_topics::DeleteTopicsRequest;
use millpond_wire::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult};
use millpond_wire::incremental_alter_configs::{AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest};
use millpond_wire::list_config_resources::ListConfigResourcesRequest;
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::{ErrorCode, Str};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;

fn grow(
    client: &mut Client,
    topic: &str,
    count: i32,
    assignments: Option<&[&[i32]]>,
    validate_only: bool,
) -> CreatePartitionsTopicResult {
    let assignments = assignments
        .map(|all| all.iter().map(|brokers| CreatePartitionsAssignment { broker_ids: brokers.to_vec() }).collect());
    let topics = vec![CreatePartitionsTopic { name: topic.into(), count, assignments }];
    let request = CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only };
    client.call(3, &request).results.remove(0)
}

fn partition_count(client: &mut Client, topic: &str) -> usize {
    let topics = Some(vec![MetadataRequestTopic { name: Some(topic.into()), ..Default::default() }]);
    let request = MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() };
    client.call(9, &request).topics[0].partitions.len()
}

fn alter(client: &mut Client, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> ErrorCode {
    let configs = changes.iter().map(|(name, operation, value)| AlterableConfig {
        name: Str::from(*name),
        config_operation: *operation,
        value: value.map(Str::from),
    });
    let resource = AlterConfigsResource { resource_type: kind, resource_name: name.into(), configs: configs.collect() };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    ErrorCode(client.call(1, &request).responses[0].error_code)
}

fn described(client: &mut Client, kind: i8, name: &str) -> BTreeMap<String, DescribeConfigsResourceResult> {
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.into(), configuration_keys: None };
    let request =
        DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, include_documentation: true };
    let result = client.call(4, &request).results.remove(0);
    assert_code(result.error_code, ErrorCode::NONE);
    result.configs.into_iter().map(|config| (config.name.to_string(), config)).collect()
}

#[test]
fn new_partitions_take_writes_when_the_answer_comes_and_the_old_ones_keep_theirs() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    client.produce("logs", -1, batch(&["kept"]));
    assert_code(grow(&mut client, "logs", 3, None, true).error_code, ErrorCode::NONE);
    assert_eq!(partition_count(&mut client, "logs"), 1, "nothing was asked for but whether it could be");
    assert_code(grow(&mut client, "logs", 3, Some(&[&[1], &[1]]), false).error_code, ErrorCode::NONE);
    let answer = client.call(9, &produce_request("logs", -1, vec![(2, batch(&["new"]))]));
    assert_code(answer.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
    assert_eq!(values(&client.fetch("logs", 0, 0)), ["kept"]);
    served.restart();
    let mut client = served.client();
    assert_eq!(partition_count(&mut client, "logs"), 3);
    let answer = client.call(9, &produce_request("logs", -1, vec![(2, batch(&["more"]))]));
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1);
}

#[test]
fn partitions_that_cannot_be_added_are_refused_with_kafkas_codes() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 2, &[]);
    for (topic, count, assignments, expected) in [
        ("logs", 2, None, ErrorCode::INVALID_PARTITIONS),
        ("logs", 0, None, ErrorCode::INVALID_PARTITIONS),
        ("logs", 2_000_000, None, ErrorCode::POLICY_VIOLATION),
        ("none", 3, None, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ("logs", 4, Some(&[&[1][..]][..]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        ("logs", 3, Some(&[&[7777]]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
    ] {
        let result = grow(&mut client, topic, count, assignments, false);
        assert_code(result.error_code, expected);
        assert!(result.error_message.is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(partition_count(&mut client, "logs"), 2);
}

#[test]
fn what_is_not_done_within_the_time_of_its_request_is_answered_so_and_goes_on() {
    let served = Served::start();
    let mut client = served.client();
    for timeout_ms in [0, -1, i32::MIN] {
        let mut create = |validate_only| {
            let topic =
                CreatableTopic { name: "late".into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
            let request = CreateTopicsRequest { topics: vec![topic], timeout_ms, validate_only };
            client.call(7, &request).topics.remove(0)
        };
        assert_code(create(true).error_code, ErrorCode::NONE);
        let late = create(false);
        assert_code(late.error_code, ErrorCode::REQUEST_TIMED_OUT);
        assert!(late.error_message.is_some_and(|message| message.contains("timeout")));
        until("it is created", || partition_count(&mut client, "late") == 1);

        let topics = vec![CreatePartitionsTopic { name: "late".into(), count: 2, assignments: None }];
        let grown = client.call(3, &CreatePartitionsRequest { topics, timeout_ms, validate_only: false });
        assert_code(grown.results[0].error_code, ErrorCode::REQUEST_TIMED_OUT);
        until("it has one more", || partition_count(&mut client, "late") == 2);

        let topic_names = vec!["late".into(), "unknown".into()];
        let request = DeleteTopicsRequest { topic_names, timeout_ms, ..Default::default() };
        let mut responses = client.call(5, &request).responses;
        assert_code(responses.remove(1).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        let deleted = responses.remove(0);
        assert_code(deleted.error_code, ErrorCode::REQUEST_TIMED_OUT);
        assert_eq!(deleted.name, Some("late".into()));
        until("it is deleted", || partition_count(&mut client, "late") == 0);
    }
}

#[test]
fn what_the_controller_has_no_time_for_yet_goes_on_too() {
    let served = Served::start();
    let mut clients: Vec<Client> = (0..24).map(|_| served.client()).collect();
    // All at once: the controller writes one after the other, and each write waits for the disk.
    let asked: Vec<i32> = clients
        .iter_mut()
        .enumerate()
        .map(|(number, client)| {
            let name = Str::from(format!("late-{number}").as_str());
            let topic = CreatableTopic { name, num_partitions: 1, replication_factor: 1, ..Default::default() };
            let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 0, validate_only: false };
            client.send(7, &request)
        })
        .collect();
    for (client, id) in clients.iter_mut().zip(asked) {
        let answer = client.receive::<CreateTopicsRequest>(7, id);
        assert_code(answer.topics[0].error_code, ErrorCode::REQUEST_TIMED_OUT);
    }
    for number in 0..24 {
        let name = format!("late-{number}");
        until("it is created", || partition_count(&mut clients[0], &name) == 1);
    }
}

#[test]
fn the_distance_of_index_entries_is_described_as_the_broker_has_it() {
    let served = Served::with(&[("log.index.interval.bytes", "8192")]);
    let mut client = served.client();
    client.create("logs", 1, &[("index.interval.bytes", "8192")]);
    let of_topic = |client: &mut Client| described(client, TOPIC, "logs").remove("index.interval.bytes");
    assert_eq!(of_topic(&mut client).and_then(|found| found.value), Some("8192".into()));
    assert_eq!(alter(&mut client, TOPIC, "logs", &[("index.interval.bytes", DELETE, None)]), ErrorCode::NONE);
    let inherited = of_topic(&mut client).expect("it is described");
    assert_eq!((inherited.value, inherited.config_source), (Some("8192".into()), 4), "the broker's configuration");
    for (kind, name, setting) in [(TOPIC, "logs", "index.interval.bytes"), (BROKER, "1", "log.index.interval.bytes")] {
        let refused = alter(&mut client, kind, name, &[(setting, SET, Some("4096"))]);
        assert_ne!(refused, ErrorCode::NONE, "{setting} is not 4096");
    }
}

#[test]
fn a_changed_setting_counts_for_the_next_batch_and_after_a_restart() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let big = batch(&[&"x".repeat(1000)]);
    let set = [("max.message.bytes", SET, Some("500")), ("message.timestamp.type", SET, Some("LogAppendTime"))];
    assert_eq!(alter(&mut client, TOPIC, "logs", &set), ErrorCode::NONE);
    assert_code(client.produce("logs", -1, big.clone()).error_code, ErrorCode::MESSAGE_TOO_LARGE);
    let small = client.produce("logs", -1, batch(&["small"]));
    assert!(small.error_code == 0 && small.log_append_time_ms > 0, "{small:?}");
    served.restart();
    let mut client = served.client();
    assert_code(client.produce("logs", -1, big.clone()).error_code, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(alter(&mut client, TOPIC, "logs", &[("max.message.bytes", DELETE, None)]), ErrorCode::NONE);
    assert_code(client.produce("logs", -1, big).error_code, ErrorCode::NONE);
}

#[test]
fn a_topic_goes_from_durable_to_relaxed_and_back_while_it_is_written_to() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let mut offset = 0;
    for flush in ["relaxed", "durable", "relaxed"] {
        assert_eq!(alter(&mut client, TOPIC, "logs", &[("millpond.flush", SET, Some(flush))]), ErrorCode::NONE);
        for _ in 0..3 {
            assert_eq!(client.produce("logs", -1, batch(&[flush])).base_offset, offset);
            offset += 1;
        }
        served.restart();
        client = served.client();
        let found = described(&mut client, TOPIC, "logs")["millpond.flush"].value.clone();
        assert_eq!(found.as_deref(), Some(flush));
    }
    assert_eq!(client.fetch("logs", 0, 0).high_watermark, offset);
}

#[test]
fn a_broker_setting_that_topics_inherit_changes_while_the_broker_runs() {
    let mut served = Served::with(&[("num.partitions", "3")]);
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let big = batch(&[&"x".repeat(1000)]);
    assert_eq!(alter(&mut client, BROKER, "", &[("message.max.bytes", SET, Some("800"))]), ErrorCode::NONE);
    assert_code(client.produce("logs", -1, big.clone()).error_code, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(alter(&mut client, BROKER, "1", &[("message.max.bytes", SET, Some("5000"))]), ErrorCode::NONE);
    assert_code(client.produce("logs", -1, big.clone()).error_code, ErrorCode::NONE);
    served.restart();
    let mut client = served.client();
    let broker = described(&mut client, BROKER, "1");
    let sources: Vec<_> = broker["message.max.bytes"].synonyms.iter().map(|synonym| synonym.source).collect();
    assert_eq!(sources, [2, 3, 5]);
    let topic = &described(&mut client, TOPIC, "logs")["max.message.bytes"];
    assert_eq!((topic.value.as_deref(), topic.config_source), (Some("5000"), 2));
    let partitions = &broker["num.partitions"];
    assert_eq!((partitions.value.as_deref(), partitions.config_source, partitions.read_only), (Some("3"), 4, true));
    assert_eq!(described(&mut client, BROKER, "").keys().collect::<Vec<_>>(), ["message.max.bytes"]);
    assert_eq!(alter(&mut client, BROKER, "1", &[("num.partitions", SET, Some("5"))]), ErrorCode::INVALID_REQUEST);
    for name in ["1", ""] {
        assert_eq!(alter(&mut client, BROKER, name, &[("message.max.bytes", DELETE, None)]), ErrorCode::NONE);
    }
    assert_eq!(described(&mut client, BROKER, "1")["message.max.bytes"].config_source, 5);
}

#[test]
fn the_default_of_millpond_flush_is_for_new_topics_only() {
    let mut served = Served::start();
    let mut client = served.client();
    client.create("before", 1, &[]);
    assert_eq!(alter(&mut client, BROKER, "", &[("millpond.flush", SET, Some("relaxed"))]), ErrorCode::NONE);
    client.create("after", 1, &[]);
    served.restart();
    let mut client = served.client();
    for (topic, expected, source) in [("before", "durable", 5), ("after", "relaxed", 1)] {
        let found = &described(&mut client, TOPIC, topic)["millpond.flush"];
        assert_eq!((found.value.as_deref(), found.config_source), (Some(expected), source), "{topic}");
    }
}

#[test]
fn replacing_the_settings_of_a_topic_takes_back_the_others() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[("retention.ms", "4000")]);
    let mut replace = |configs: &[(&str, Option<&str>)], validate_only| {
        let configs = configs.iter().map(|(name, value)| alter_configs::AlterableConfig {
            name: Str::from(*name),
            value: value.map(Str::from),
        });
        let resource = alter_configs::AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: "logs".into(),
            configs: configs.collect(),
        };
        let answer = client.call(2, &AlterConfigsRequest { resources: vec![resource], validate_only });
        let topic = described(&mut client, TOPIC, "logs");
        let own: Vec<_> = topic.into_values().filter(|config| config.config_source == 1).collect();
        let own: Vec<_> =
            own.iter().map(|config| format!("{}={}", config.name, config.value.clone().unwrap())).collect();
        (ErrorCode(answer.responses[0].error_code), own.join(" "))
    };
    let before = "retention.ms=4000".to_owned();
    assert_eq!(replace(&[("max.message.bytes", Some("7"))], true), (ErrorCode::NONE, before.clone()));
    assert_eq!(replace(&[("no.such", Some("7"))], false), (ErrorCode::INVALID_CONFIG, before.clone()));
    assert_eq!(replace(&[("retention.ms", None)], false), (ErrorCode::INVALID_REQUEST, before));
    let after = "max.message.bytes=7".to_owned();
    assert_eq!(replace(&[("max.message.bytes", Some("7"))], false), (ErrorCode::NONE, after));
    assert_eq!(replace(&[], false), (ErrorCode::NONE, String::new()));
}

#[test]
fn resources_that_are_not_there_or_have_no_settings_are_refused_with_a_sentence() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let resource = |kind, name: &str| DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let asked = [
        (resource(TOPIC, "none"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (resource(TOPIC, "two words"), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (resource(TOPIC, ""), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (resource(BROKER, "7"), ErrorCode::INVALID_REQUEST),
        (resource(BROKER, "x"), ErrorCode::INVALID_REQUEST),
        (resource(8, "1"), ErrorCode::INVALID_REQUEST),
        (resource(99, "x"), ErrorCode::INVALID_REQUEST),
        (resource(TOPIC, "logs"), ErrorCode::NONE),
        (resource(TOPIC, "logs"), ErrorCode::INVALID_REQUEST),
    ];
    let resources = asked.iter().map(|(resource, _)| resource.clone()).collect();
    let answer = client.call(4, &DescribeConfigsRequest { resources, ..Default::default() });
    for ((asked, expected), result) in asked.iter().zip(answer.results) {
        assert_eq!(ErrorCode(result.error_code), *expected, "{asked:?}");
    }
    let keys = Some(vec!["retention.ms".into(), "no.such".into()]);
    let some = DescribeConfigsResource { configuration_keys: keys, ..resource(TOPIC, "logs") };
    let answer = client.call(4, &DescribeConfigsRequest { resources: vec![some], ..Default::default() });
    let names: Vec<_> = answer.results[0].configs.iter().map(|config| config.name.as_str()).collect();
    assert_eq!(names, ["retention.ms"]);
    for (kind, name, change, expected) in [
        (TOPIC, "logs", ("retention.ms", 9, Some("5")), ErrorCode::INVALID_REQUEST),
        (TOPIC, "logs", ("retention.ms", SET, Some("abc")), ErrorCode::INVALID_CONFIG),
        (TOPIC, "", ("retention.ms", SET, Some("5")), ErrorCode::INVALID_REQUEST),
        (TOPIC, "two words", ("retention.ms", SET, Some("5")), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (BROKER, "", ("log.retention.ms", SET, Some("abc")), ErrorCode::INVALID_REQUEST),
    ] {
        assert_eq!(alter(&mut client, kind, name, &[change]), expected, "{name:?} {change:?}");
    }
}

#[test]
fn topics_and_brokers_are_listed_as_what_has_settings() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let mut list = |version, types: &[i8]| {
        let answer = client.call(version, &ListConfigResourcesRequest { resource_types: types.to_vec() });
        let found = answer.config_resources.into_iter();
        let found: Vec<_> = found.map(|found| (found.resource_type, found.resource_name.to_string())).collect();
        (ErrorCode(answer.error_code), found)
    };
    let (topic, broker) = ((TOPIC, "logs".to_owned()), (BROKER, "1".to_owned()));
    assert_eq!(list(1, &[]), (ErrorCode::NONE, vec![topic.clone(), broker.clone()]));
    assert_eq!(list(1, &[BROKER]), (ErrorCode::NONE, vec![broker]));
    assert_eq!(list(1, &[16, 32]), (ErrorCode::NONE, vec![]));
    assert_eq!(list(1, &[99]), (ErrorCode::UNSUPPORTED_VERSION, vec![]));
    assert_eq!(list(0, &[]), (ErrorCode::NONE, vec![]));
}

#[test]
fn a_refusal_that_would_quote_much_is_answered_with_the_beginning_of_it() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    // The longest string that a request of these versions may have; the answer's may be no longer.
    let long = "x".repeat(32_767);
    let topics = vec![CreatePartitionsTopic { name: long.as_str().into(), count: 3, assignments: None }];
    let answer = client.call(1, &CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only: false });
    assert_code(answer.results[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let change = |value: &str| AlterableConfig {
        name: "retention.ms".into(),
        config_operation: SET,
        value: Some(Str::from(value)),
    };
    let bad = AlterConfigsResource { resource_type: BROKER, resource_name: long.as_str().into(), configs: vec![] };
    let configs = vec![change(&long)];
    let unknown = AlterConfigsResource { resource_type: TOPIC, resource_name: "logs".into(), configs };
    let resources = vec![bad, unknown];
    let answer = client.call(0, &IncrementalAlterConfigsRequest { resources, validate_only: false });
    let codes: Vec<_> = answer.responses.iter().map(|response| ErrorCode(response.error_code)).collect();
    assert_eq!(codes, [ErrorCode::INVALID_REQUEST, ErrorCode::INVALID_CONFIG]);
    for message in answer.responses.iter().map(|response| response.error_message.as_deref().expect("a sentence")) {
        assert!(message.len() < 1100 && message.ends_with('…'), "{message}");
    }
    let topic = CreatableTopic {
        name: "new".into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![CreatableTopicConfig { name: "retention.ms".into(), value: Some(Str::from(long.as_str())) }],
        ..Default::default()
    };
    let answer = client.call(4, &CreateTopicsRequest { topics: vec![topic], ..Default::default() });
    assert_code(answer.topics[0].error_code, ErrorCode::INVALID_CONFIG);
}
