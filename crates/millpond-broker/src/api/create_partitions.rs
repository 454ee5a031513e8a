//! CreatePartitions (KIP-195). Answers when the new partitions take writes, like CreateTopics.

use millpond_cluster::{GrownTopic, MorePartitions};
use millpond_record::{BrokerId, PartitionIndex};
use millpond_wire::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use millpond_wire::{ApiKey, ErrorCode, Str};
use tracing::info;

use crate::dispatch::{Api, Call, Step, patience};
use crate::errors::{self, ControllerError, Fault};
use crate::metadata::{Progress, Snapshot};

pub(crate) const API: Api =
    Api { key: ApiKey::CREATE_PARTITIONS, advertised: (0, 3), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: CreatePartitionsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let wanted: Vec<MorePartitions> = request.topics.iter().map(more_partitions).collect();
    Step::Stage(Box::pin(async move {
        let (controller, deadline) = (call.controller(), call.shared.runtime.now() + patience(request.timeout_ms));
        if request.validate_only {
            let decided = controller.surely(|image| controller.validate_partitions(image, &wanted).results).await;
            let response = match decided {
                Ok(results) => respond(&request, errors::topics(results), Progress::NotWritten),
                Err(error) => refuse(&request, &error),
            };
            return Step::Reply(call.answer(&response));
        }
        let before = controller.image();
        let response = match controller.create_partitions_by(call.patience(deadline), wanted).await {
            Some(Ok(decided)) => {
                let results = errors::topics(decided.decision.results);
                match decided.index {
                    None => respond(&request, results, Progress::NotWritten),
                    Some(index) => {
                        let new = |grown: &GrownTopic| {
                            let before = call.snapshot.topic_by_id(grown.id).map_or(0, |topic| topic.partition_count());
                            (grown.id, PartitionIndex(i32::try_from(before).unwrap_or(i32::MAX)))
                        };
                        let topics: Vec<_> = results.iter().flatten().map(new).collect();
                        match call.led_by(deadline, index, &topics).await {
                            Some(snapshot) => respond(&request, results, Progress::Done(&snapshot)),
                            None => respond(&request, results, Progress::Late),
                        }
                    }
                }
            }
            None => {
                let wanted: Vec<MorePartitions> = request.topics.iter().map(more_partitions).collect();
                let known =
                    controller.known(&before, |image| controller.validate_partitions(image, &wanted).results).await;
                respond(&request, known, Progress::Late)
            }
            Some(Err(error)) => refuse(&request, &error),
        };
        Step::Reply(call.answer(&response))
    }))
}

fn refuse(request: &CreatePartitionsRequest, error: &ControllerError) -> CreatePartitionsResponse {
    let fault = errors::controller(error);
    let results = request.topics.iter().map(|topic| answer(topic.name.clone(), Err(fault.clone())));
    CreatePartitionsResponse { results: results.collect(), ..Default::default() }
}

fn more_partitions(topic: &CreatePartitionsTopic) -> MorePartitions {
    let assignments = topic.assignments.as_ref().map(|assignments| {
        let brokers = assignments.iter().map(|assigned| assigned.broker_ids.iter().copied().map(BrokerId).collect());
        brokers.collect()
    });
    MorePartitions { topic: topic.name.to_string(), count: topic.count, assignments }
}

fn respond(
    request: &CreatePartitionsRequest,
    results: Vec<Result<GrownTopic, Fault>>,
    progress: Progress<'_>,
) -> CreatePartitionsResponse {
    let results = request.topics.iter().zip(results).map(|(topic, result)| {
        let result = match result {
            Err(fault) => Err(fault),
            Ok(grown) => match progress {
                Progress::NotWritten => Ok(()),
                Progress::Late => Err(errors::not_in_time()),
                Progress::Done(snapshot) if !serves(snapshot, &grown) => Err(errors::not_served(&topic.name)),
                Progress::Done(_) => {
                    info!(topic = %topic.name, partitions = grown.partitions, "partitions added");
                    Ok(())
                }
            },
        };
        answer(topic.name.clone(), result)
    });
    CreatePartitionsResponse { results: results.collect(), ..Default::default() }
}

fn serves(snapshot: &Snapshot, grown: &GrownTopic) -> bool {
    snapshot.topic_by_id(grown.id).is_some_and(|topic| topic.partition_count() >= grown.partitions)
}

fn answer(name: Str, result: Result<(), Fault>) -> CreatePartitionsTopicResult {
    let fault = result.err().unwrap_or(Fault { code: ErrorCode::NONE, message: None });
    CreatePartitionsTopicResult { name, error_code: fault.code.0, error_message: fault.message }
}
