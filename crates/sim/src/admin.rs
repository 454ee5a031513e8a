//! Creates and deletes topics, and compares the metadata with what was acknowledged.

use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponseTopic};
use millpond_wire::{ErrorCode, Str};

use crate::client::Client;
use crate::history::{Partition, Retention, TopicState};

/// Versions in which topics have ids.
const METADATA_VERSIONS: [i16; 4] = [10, 11, 12, 13];

/// How the names of topics begin that come and go.
const PASSING: &str = "passing-";

/// A topic to create.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its number of partitions.
    pub partitions: i32,
    /// Settings by Kafka's names.
    pub configs: Vec<(&'static str, String)>,
}

impl NewTopic {
    /// Whether an acknowledgement of it does not survive the machine.
    pub fn is_relaxed(&self) -> bool {
        self.configs.iter().any(|(name, value)| *name == "millpond.flush" && value == "relaxed")
    }
}

/// Creates a topic and comes back when it is known to exist. False when the broker refused it for good.
pub async fn create_topic(client: &mut Client, topic: &NewTopic) -> bool {
    client.shared.history().set_topic(&topic.name, TopicState::Changing);
    loop {
        let configs = topic.configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: Str::from(*name),
            value: Some(Str::from(value.as_str())),
        });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: Str::from(topic.name.as_str()),
                num_partitions: topic.partitions,
                replication_factor: 1,
                configs: configs.collect(),
                ..CreatableTopic::default()
            }],
            timeout_ms: 20_000,
            ..CreateTopicsRequest::default()
        };
        let version = client.version(&[2, 4, 5, 6, 7]);
        let Some(response) = client.call(version, &request).await else { continue };
        let code = response.topics.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |topic| ErrorCode(topic.error_code));
        match code {
            ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => break,
            code if code.is_retriable() => client.pause(10, 200).await,
            code => {
                client.shared.history().fail(format!("{}: cannot be created: {code}", topic.name));
                return false;
            }
        }
    }
    loop {
        if let Some(found) = lookup(client, &topic.name).await
            && let Some((id, partitions)) = found
        {
            let state = TopicState::Present { id, partitions };
            let first = Partition { topic: id, index: 0 };
            let retention = retention_of(&topic.configs);
            if retention != Retention::default() {
                client.shared.history().set_retention(id, retention);
            }
            client.note(&format!("{} is created with {partitions} partitions: {first}", topic.name));
            client.shared.history().set_topic(&topic.name, state);
            return true;
        }
        client.pause(10, 200).await;
    }
}

fn retention_of(configs: &[(&'static str, String)]) -> Retention {
    let value = |name: &str| {
        let found = configs.iter().find(|(config, _)| *config == name);
        found.and_then(|(_, value)| value.parse().ok()).filter(|limit: &i64| *limit >= 0)
    };
    Retention { retention_ms: value("retention.ms"), by_size: value("retention.bytes").is_some() }
}

/// Deletes a topic and comes back when it is known to be gone. False when the broker refused that for good.
pub async fn delete_topic(client: &mut Client, name: &str) -> bool {
    let TopicState::Present { id, .. } = client.shared.history().topic(name).1 else { return false };
    client.shared.history().set_topic(name, TopicState::Changing);
    loop {
        let version = client.version(&[1, 4, 5, 6]);
        let mut request = DeleteTopicsRequest { timeout_ms: 20_000, ..DeleteTopicsRequest::default() };
        if version < 6 {
            request.topic_names.push(Str::from(name));
        } else if client.rng.chance(0.5) {
            request.topics.push(DeleteTopicState { name: None, topic_id: id });
        } else {
            request.topics.push(DeleteTopicState { name: Some(Str::from(name)), topic_id: [0; 16] });
        }
        let Some(response) = client.call(version, &request).await else { continue };
        let code = response.responses.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |t| ErrorCode(t.error_code));
        match code {
            ErrorCode::NONE | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => break,
            code if code.is_retriable() => client.pause(10, 200).await,
            code => {
                client.shared.history().fail(format!("{name}: cannot be deleted: {code}"));
                return false;
            }
        }
    }
    client.note(&format!("{name} is deleted"));
    client.shared.history().set_topic(name, TopicState::Absent);
    true
}

/// Asks for one topic: its id and number of partitions, `Some(None)` when there is none; `None` without an answer.
async fn lookup(client: &mut Client, name: &str) -> Option<Option<([u8; 16], i32)>> {
    let version = client.version(&METADATA_VERSIONS);
    let topic = MetadataRequestTopic { topic_id: [0; 16], name: Some(Str::from(name)) };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..MetadataRequest::default() };
    let response = client.call(version, &request).await?;
    let topic = response.topics.first()?;
    match ErrorCode(topic.error_code) {
        ErrorCode::NONE => Some(Some((topic.topic_id, topic.partitions.len() as i32))),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Some(None),
        _ => None,
    }
}

/// Compares the metadata of all topics with what was acknowledged. False without an answer.
pub async fn check_metadata(client: &mut Client) -> bool {
    let (names, known) = {
        let history = client.shared.history();
        let names: Vec<_> = history.topic_names().into_iter().map(|name| (history.topic(&name), name)).collect();
        let known: Vec<_> = history
            .present_topics()
            .into_iter()
            .flat_map(|(_, topic, partitions)| (0..partitions).map(move |index| Partition { topic, index }))
            .map(|partition| (partition, history.known(partition)))
            .collect();
        (names, known)
    };
    let version = client.version(&METADATA_VERSIONS);
    let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let Some(response) = client.call(version, &request).await else { return false };
    let mut history = client.shared.history();
    let found = |name: &str| -> Option<&MetadataResponseTopic> {
        response.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|found| found.as_str() == name))
    };
    for (before, name) in names {
        let found = found(&name).map(|topic| (topic.topic_id, topic.partitions.len() as i32));
        history.metadata(&name, before, found);
    }
    for topic in &response.topics {
        for partition in topic.partitions.iter().filter(|partition| partition.error_code == 0) {
            let key = Partition { topic: topic.topic_id, index: partition.partition_index };
            if let Some((_, known)) = known.iter().find(|(known, _)| *known == key) {
                history.leader_epoch(key, *known, partition.leader_epoch);
            }
        }
    }
    true
}

/// Whether a topic of this name comes and goes.
pub fn is_passing(name: &str) -> bool {
    name.starts_with(PASSING)
}

/// Makes and deletes topics of a few names until the run winds down. All that it has begun it finishes.
pub async fn administrate(mut client: Client) {
    while !client.shared.is_winding_down() {
        client.pause(0, 3_000).await;
        let name = format!("{PASSING}{}", client.rng.below(2));
        let state = client.shared.history().topic(&name).1;
        match state {
            TopicState::Present { .. } => {
                delete_topic(&mut client, &name).await;
            }
            _ => {
                let partitions = client.rng.between(1, 3) as i32;
                create_topic(&mut client, &NewTopic { name, partitions, configs: Vec::new() }).await;
            }
        }
        check_metadata(&mut client).await;
    }
}
