//! DeleteTopics, by name or by id (KIP-516). Answers when the topics' partitions are gone from this broker, or with
//! REQUEST_TIMED_OUT, and goes on, when that is not done in the request's time.

use millpond_cluster::{TopicReference, delete_topics};
use millpond_record::TopicId;
use millpond_wire::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};
use tracing::info;

use crate::dispatch::{Api, Call, Step, patience};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::DELETE_TOPICS, advertised: (1, 6), served_from: 1, handle, pipelined: false };

/// From here on topics may be named by id.
const FIRST_BY_ID: i16 = 6;

fn handle(mut call: Call) -> Step {
    let request: DeleteTopicsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let references = references(&call, &request);
    Step::Stage(Box::pin(async move {
        let Call { shared, .. } = &call;
        let deadline = shared.runtime.now() + patience(request.timeout_ms);
        let controller = call.controller();
        let before = controller.image();
        let deleted = controller.delete_topics_by(call.patience(deadline), references.clone()).await;
        let late = deleted.is_none();
        let deleted = match deleted {
            Some(deleted) => deleted.map(|deleted| (errors::topics(deleted.results), deleted.index)),
            None => Ok((controller.known(&before, |image| delete_topics(image, &references).results).await, None)),
        };
        let responses = match deleted {
            Ok((results, index)) => {
                let snapshot = match index {
                    Some(index) => {
                        let settled = shared.metadata.settled_by(&shared.runtime, deadline, index).await;
                        if settled.is_some() {
                            call.known_elsewhere(index).await;
                        }
                        settled
                    }
                    None if late => None,
                    None => Some(shared.metadata.snapshot()),
                };
                let answers = references.iter().zip(results);
                answers
                    .map(|(reference, result)| match result {
                        Ok(topic) => {
                            let fault = match &snapshot {
                                None => errors::not_in_time(),
                                Some(snapshot) if snapshot.undeleted.contains(&topic.id) => {
                                    errors::not_deleted(&topic.name)
                                }
                                Some(_) => {
                                    info!(topic = topic.name, "topic deleted");
                                    Fault { code: ErrorCode::NONE, message: None }
                                }
                            };
                            answer(Some(topic.name.as_str().into()), topic.id, fault.code, fault.message)
                        }
                        Err(fault) => {
                            answer(name_in_answer(reference, fault.code), reference.id, fault.code, fault.message)
                        }
                    })
                    .collect()
            }
            Err(error) => {
                let fault = errors::controller(&error);
                let of = |reference: &TopicReference| reference.name.as_deref().map(Str::from);
                references
                    .iter()
                    .map(|reference| answer(of(reference), reference.id, fault.code, fault.message.clone()))
                    .collect()
            }
        };
        Step::Reply(call.answer(&DeleteTopicsResponse { responses, ..Default::default() }))
    }))
}

fn references(call: &Call, request: &DeleteTopicsRequest) -> Vec<TopicReference> {
    if call.version < FIRST_BY_ID {
        let names = request.topic_names.iter();
        return names.map(|name| TopicReference { name: Some(name.to_string()), id: TopicId::ZERO }).collect();
    }
    let topics = request.topics.iter();
    topics
        .map(|topic| TopicReference { name: topic.name.as_ref().map(Str::to_string), id: TopicId(topic.topic_id) })
        .collect()
}

/// A topic that is named by its id has no name in the answer unless it is known.
fn name_in_answer(reference: &TopicReference, code: ErrorCode) -> Option<Str> {
    match code {
        ErrorCode::UNKNOWN_TOPIC_ID => None,
        _ => reference.name.as_deref().map(Str::from),
    }
}

fn answer(name: Option<Str>, id: TopicId, code: ErrorCode, message: Option<Str>) -> DeletableTopicResult {
    DeletableTopicResult { name, topic_id: id.0, error_code: code.0, error_message: message }
}
