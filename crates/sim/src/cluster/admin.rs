//! Creates the topics of a run.

use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::{ErrorCode, Str};

use super::router::Router;
use super::scenario::ClusterTopic;
use crate::history::TopicState;

/// Creates topics, each of which is known to exist when it is in the history. Any broker is asked, and another one
/// while it cannot.
pub async fn create_topics(mut router: Router, topics: Vec<ClusterTopic>) {
    for topic in &topics {
        if !create(&mut router, topic).await {
            return;
        }
        look_up(&mut router, topic).await;
    }
}

/// False when the topic is refused for good.
async fn create(router: &mut Router, topic: &ClusterTopic) -> bool {
    if topic.relaxed {
        router.cluster.shared.history().is_to_be_relaxed(&topic.name);
    }
    router.cluster.shared.history().set_topic(&topic.name, TopicState::Changing);
    loop {
        let min_insync = CreatableTopicConfig {
            name: Str::from("min.insync.replicas"),
            value: Some(Str::from(topic.min_insync.to_string().as_str())),
        };
        let relaxed = CreatableTopicConfig { name: Str::from("millpond.flush"), value: Some(Str::from("relaxed")) };
        let wanted = CreatableTopic {
            name: Str::from(topic.name.as_str()),
            num_partitions: topic.partitions,
            replication_factor: topic.replicas,
            configs: if topic.relaxed { vec![min_insync, relaxed] } else { vec![min_insync] },
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![wanted], timeout_ms: 3_000, ..CreateTopicsRequest::default() };
        let (broker, version) = (router.any(), router.rng.pick(&[5, 7]));
        let response = router.call(broker, version, &request).await;
        let code = response.and_then(|response| response.topics.first().map(|topic| ErrorCode(topic.error_code)));
        match code {
            Some(ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS) => return true,
            // Not all brokers are there yet.
            None | Some(ErrorCode::INVALID_REPLICATION_FACTOR) => router.pause(10, 200).await,
            Some(code) if code.is_retriable() => {
                router.note(&format!("{}: {code} from broker {broker}", topic.name));
                router.pause(10, 200).await;
            }
            Some(code) => {
                router.fail(format!("{}: cannot be created: {code}", topic.name));
                return false;
            }
        }
    }
}

async fn look_up(router: &mut Router, topic: &ClusterTopic) {
    loop {
        let response = router.refresh().await;
        let found = response.and_then(|response| {
            let named = |name: &Option<Str>| name.as_ref().is_some_and(|name| name.as_str() == topic.name);
            let found = response.topics.into_iter().find(|found| named(&found.name));
            found.filter(|found| found.error_code == 0 && found.partitions.len() == topic.partitions as usize)
        });
        if let Some(found) = found {
            let state = TopicState::Present { id: found.topic_id, partitions: topic.partitions };
            router.note(&format!("{} is created", topic.name));
            router.cluster.shared.history().set_topic(&topic.name, state);
            return;
        }
        router.pause(10, 200).await;
    }
}
