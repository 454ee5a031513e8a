//! CreateTopics (KIP-4, KIP-464, KIP-525). Answers when every partition has a leader that takes writes, which is later
//! than Kafka does and saves clients the retries. What is not done in the request's time is answered with
//! REQUEST_TIMED_OUT and goes on.

use std::collections::BTreeSet;

use millpond_cluster::{CreatedTopic, NewTopic, OFFSETS_TOPIC_NAME};
use millpond_record::{BrokerId, PartitionIndex};
use millpond_wire::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use millpond_wire::{ApiKey, ErrorCode, Str};
use tracing::info;

use crate::coordinator::as_offsets_topic;
use crate::dispatch::{Api, Call, Step, patience};
use crate::errors::{self, ControllerError, Fault};
use crate::metadata::Progress;

pub(crate) const API: Api =
    Api { key: ApiKey::CREATE_TOPICS, advertised: (2, 7), served_from: 2, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: CreateTopicsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let wanted: Vec<NewTopic> = request.topics.iter().map(new_topic).collect();
    Step::Stage(Box::pin(async move {
        let (controller, deadline) = (call.controller(), call.shared.runtime.now() + patience(request.timeout_ms));
        if request.validate_only {
            let decided = controller.surely(|image| controller.validate_topics(image, &wanted).results).await;
            let response = match decided {
                Ok(results) => respond(&request, errors::topics(results), Progress::NotWritten),
                Err(error) => refuse(&request, &error),
            };
            return Step::Reply(call.answer(&response));
        }
        let before = controller.image();
        let response = match controller.create_topics_by(call.patience(deadline), wanted).await {
            Some(Ok(created)) => {
                let results = errors::topics(created.decision.results);
                match created.index {
                    None => respond(&request, results, Progress::NotWritten),
                    Some(index) => {
                        let all = |created: &CreatedTopic| (created.id, PartitionIndex(0));
                        let topics: Vec<_> = results.iter().flatten().map(all).collect();
                        match call.led_by(deadline, index, &topics).await {
                            Some(snapshot) => respond(&request, results, Progress::Done(&snapshot)),
                            None => respond(&request, results, Progress::Late),
                        }
                    }
                }
            }
            None => {
                let wanted: Vec<NewTopic> = request.topics.iter().map(new_topic).collect();
                let known = controller.known(&before, |image| controller.validate_topics(image, &wanted).results).await;
                respond(&request, known, Progress::Late)
            }
            Some(Err(error)) => refuse(&request, &error),
        };
        Step::Reply(call.answer(&response))
    }))
}

fn refuse(request: &CreateTopicsRequest, error: &ControllerError) -> CreateTopicsResponse {
    let fault = errors::controller(error);
    let names: BTreeSet<&Str> = request.topics.iter().map(|topic| &topic.name).collect();
    let topics = names.into_iter().map(|name| failed(name.clone(), fault.clone()));
    CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    let assignments = topic.assignments.iter().map(|assignment| {
        (PartitionIndex(assignment.partition_index), assignment.broker_ids.iter().copied().map(BrokerId).collect())
    });
    let configs = topic.configs.iter();
    let wanted = NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.collect(),
        configs: configs.map(|c| (c.name.to_string(), c.value.as_ref().map(Str::to_string))).collect(),
    };
    if wanted.name == OFFSETS_TOPIC_NAME { as_offsets_topic(wanted) } else { wanted }
}

/// One answer for each name, in the request's order.
fn respond(
    request: &CreateTopicsRequest,
    results: Vec<Result<CreatedTopic, Fault>>,
    progress: Progress<'_>,
) -> CreateTopicsResponse {
    let mut seen = BTreeSet::new();
    let answers = request.topics.iter().zip(results).filter(|(topic, _)| seen.insert(topic.name.clone()));
    let topics = answers.map(|(topic, result)| match result {
        Err(fault) => failed(topic.name.clone(), fault),
        Ok(created) => match progress {
            Progress::NotWritten => described(&created, false),
            Progress::Late => failed(topic.name.clone(), errors::not_in_time()),
            Progress::Done(snapshot) if snapshot.topic_by_id(created.id).is_none() => {
                failed(topic.name.clone(), errors::not_served(&created.name))
            }
            Progress::Done(_) => {
                info!(topic = created.name, partitions = created.partitions.len(), "topic created");
                created.notices.iter().for_each(|notice| info!(topic = created.name, "{notice}"));
                described(&created, true)
            }
        },
    });
    CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
}

fn failed(name: Str, fault: Fault) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: fault.code.0,
        error_message: fault.message,
        num_partitions: -1,
        replication_factor: -1,
        // Null would say that the settings may not be seen.
        configs: Some(Vec::new()),
        ..Default::default()
    }
}

fn described(topic: &CreatedTopic, exists: bool) -> CreatableTopicResult {
    let configs = topic.configs.iter().map(|effective| CreatableTopicConfigs {
        name: Str::from_static(effective.config.name),
        value: Some(effective.value.as_str().into()),
        read_only: false,
        config_source: effective.source.code(),
        is_sensitive: false,
    });
    CreatableTopicResult {
        name: topic.name.as_str().into(),
        topic_id: if exists { topic.id.0 } else { [0; 16] },
        error_code: ErrorCode::NONE.0,
        num_partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(topic.replication_factor).unwrap_or(i16::MAX),
        configs: Some(configs.collect()),
        ..Default::default()
    }
}
