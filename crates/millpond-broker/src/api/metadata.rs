//! Metadata: brokers, topics, leaders; and a topic is created when a client asks for it (`auto.create.topics.enable`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millpond_cluster::{NewTopic, TopicError, check_topic_name, is_internal_topic};
use millpond_record::{PartitionIndex, TopicId};
use millpond_wire::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use millpond_wire::{ApiKey, ErrorCode, Str};
use tracing::warn;

use crate::dispatch::{Api, Call, Step};
use crate::errors;
use crate::leadership::{Look, known_brokers};
use crate::metadata::{ServedTopic, Snapshot};

pub(crate) const API: Api =
    Api { key: ApiKey::METADATA, advertised: (0, 13), served_from: 0, handle, pipelined: false };

/// In version 0 an empty list asks for all topics, later null does.
const EMPTY_ASKS_FOR_ALL: i16 = 0;
/// From here on a topic may be asked for by its id.
const FIRST_BY_ID: i16 = 12;
/// From here on replicas that do not serve are named.
const FIRST_WITH_OFFLINE: i16 = 5;
/// How long a client that had topics created waits for their leaders; it then asks again.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Kafka's answer when authorized operations are not asked for.
pub(super) const NOT_ASKED: i32 = i32::MIN;

/// Bits of Kafka's `AclOperation` codes.
pub(super) const fn operations(codes: &[u8]) -> i32 {
    let mut bits = 0;
    let mut at = 0;
    while at < codes.len() {
        bits |= 1 << codes[at];
        at += 1;
    }
    bits
}

/// Read, write, create, delete, alter, describe, describe and alter configs: all that a topic knows. Nobody is refused.
pub(super) const TOPIC_OPERATIONS: i32 = operations(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
pub(super) const CLUSTER_OPERATIONS: i32 = operations(&[5, 7, 8, 9, 10, 11, 12]);

fn handle(mut call: Call) -> Step {
    let request: MetadataRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let missing = topics_to_create(&call, &request);
    if missing.is_empty() {
        let response = respond(&call, &call.snapshot, &request, &BTreeMap::new());
        return Step::Reply(call.answer(&response));
    }
    Step::Stage(Box::pin(async move {
        let topics = missing.iter().map(|name| NewTopic {
            name: name.to_string(),
            partitions: -1,
            replication_factor: -1,
            ..NewTopic::default()
        });
        let (snapshot, codes) = match call.shared.controller.create_topics(topics.collect()).await {
            Ok(created) => {
                let codes = missing.iter().zip(&created.decision.results).map(|(name, result)| {
                    let code = match result {
                        // Clients expect that a topic which was just created answers with a retriable error first, as
                        // in Kafka; they ask again at once, and find it. Somebody else may have created it just now.
                        Ok(_) | Err(TopicError::Exists(_)) => ErrorCode::LEADER_NOT_AVAILABLE,
                        Err(error) => errors::topic(error).code,
                    };
                    (name.clone(), code)
                });
                let codes = codes.collect();
                let refused = missing.iter().zip(&created.decision.results).filter_map(|(name, result)| match result {
                    Ok(_) | Err(TopicError::Exists(_)) => None,
                    Err(error) => Some((name, error)),
                });
                warn_of_refused(refused);
                let snapshot = match created.index {
                    Some(index) => {
                        let results = created.decision.results.iter().flatten();
                        let topics: Vec<_> = results.map(|created| (created.id, PartitionIndex(0))).collect();
                        let deadline = call.shared.runtime.now() + LEADER_PATIENCE;
                        let led = call.led_by(deadline, index, &topics).await;
                        led.unwrap_or_else(|| call.shared.metadata.snapshot())
                    }
                    None => call.shared.metadata.snapshot(),
                };
                (snapshot, codes)
            }
            Err(error) => {
                warn!(topics = missing.len(), "not created on demand: {error}");
                let code = match error.is_retriable() {
                    // They ask again at once, and find it, or have it created then.
                    true => ErrorCode::LEADER_NOT_AVAILABLE,
                    false => errors::controller(&error).code,
                };
                let codes = missing.iter().map(|name| (name.clone(), code));
                (call.shared.metadata.snapshot(), codes.collect())
            }
        };
        let response = respond(&call, &snapshot, &request, &codes);
        Step::Reply(call.answer(&response))
    }))
}

/// One line, however many topics a client asks for.
fn warn_of_refused<'a>(mut refused: impl Iterator<Item = (&'a Str, &'a TopicError)>) {
    if let Some((topic, error)) = refused.next() {
        warn!(%topic, others = refused.count(), "not created on demand: {error}");
    }
}

/// Topics that the client asks for, may create, and that are not there.
fn topics_to_create(call: &Call, request: &MetadataRequest) -> Vec<Str> {
    if !(request.allow_auto_topic_creation && call.shared.config.auto_create_topics) {
        return Vec::new();
    }
    let names = request.topics.iter().flatten().filter(|topic| topic.topic_id == TopicId::ZERO.0);
    let names: BTreeSet<&Str> = names.filter_map(|topic| topic.name.as_ref()).collect();
    let missing = names.into_iter().filter(|name| {
        call.snapshot.image.topic(name).is_none() && !is_internal_topic(name) && check_topic_name(name).is_ok()
    });
    missing.map(Str::detached).collect()
}

/// `codes`: what topics that the request was to create are answered.
fn respond(
    call: &Call,
    snapshot: &Snapshot,
    request: &MetadataRequest,
    codes: &BTreeMap<Str, ErrorCode>,
) -> MetadataResponse {
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NOT_ASKED };
    let look = call.shared.leadership.now();
    let answer = Answer { snapshot, version: call.version, look: &look, operations, codes };
    let topics = match request.topics.as_deref() {
        None => answer.all(),
        Some([]) if call.version == EMPTY_ASKS_FOR_ALL => answer.all(),
        Some(topics) => {
            let mut seen = BTreeSet::new();
            let first = topics.iter().filter(|topic| seen.insert((topic.topic_id, topic.name.as_deref())));
            first.map(|topic| answer.topic(topic)).collect()
        }
    };
    let brokers = known_brokers(&snapshot.image, &look).map(|broker| MetadataResponseBroker {
        node_id: broker.id.0,
        host: broker.host.as_str().into(),
        port: i32::from(broker.port),
        rack: broker.rack.as_deref().map(Str::from),
    });
    MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(call.shared.cluster_id.clone()),
        controller_id: call.shared.controller.broker().map_or(-1, |broker| broker.0),
        topics,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => NOT_ASKED,
        },
        ..MetadataResponse::default()
    }
}

struct Answer<'a> {
    snapshot: &'a Snapshot,
    version: i16,
    look: &'a Look<'a>,
    operations: i32,
    /// Topics that this request was to create, and what came of it.
    codes: &'a BTreeMap<Str, ErrorCode>,
}

impl Answer<'_> {
    fn all(&self) -> Vec<MetadataResponseTopic> {
        self.snapshot.topics().map(|topic| self.served(topic)).collect()
    }

    fn topic(&self, asked: &MetadataRequestTopic) -> MetadataResponseTopic {
        let id = TopicId(asked.topic_id);
        let by_id = id != TopicId::ZERO;
        match &asked.name {
            _ if by_id && self.version < FIRST_BY_ID => self.failed(asked, ErrorCode::INVALID_REQUEST),
            _ if by_id => match self.snapshot.topic_by_id(id) {
                Some(topic) => self.served(topic),
                None => {
                    let failed = self.failed(asked, ErrorCode::UNKNOWN_TOPIC_ID);
                    MetadataResponseTopic { name: None, ..failed }
                }
            },
            None => self.failed(asked, ErrorCode::INVALID_REQUEST),
            Some(name) => match (self.codes.get(name), self.snapshot.topic(name)) {
                (Some(code), _) => self.failed(asked, *code),
                (None, Some(topic)) => self.served(topic),
                (None, None) => self.failed(asked, self.absent(name)),
            },
        }
    }

    fn absent(&self, name: &str) -> ErrorCode {
        match check_topic_name(name) {
            Err(error) => errors::topic_name(&error).code,
            // It exists, and its partitions are about to be served.
            Ok(()) if self.snapshot.image.topic(name).is_some() => ErrorCode::LEADER_NOT_AVAILABLE,
            Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    fn failed(&self, asked: &MetadataRequestTopic, code: ErrorCode) -> MetadataResponseTopic {
        MetadataResponseTopic {
            error_code: code.0,
            name: Some(asked.name.clone().unwrap_or_default()),
            topic_id: asked.topic_id,
            topic_authorized_operations: NOT_ASKED,
            ..MetadataResponseTopic::default()
        }
    }

    fn served(&self, topic: &ServedTopic) -> MetadataResponseTopic {
        let partitions = topic.topic.partitions.iter().filter_map(|described| {
            let standing = self.look.standing(topic, described.index)?;
            let code = match standing.leader {
                Some(_) => ErrorCode::NONE,
                // Clients wait for one rather than send what would be refused.
                None => ErrorCode::LEADER_NOT_AVAILABLE,
            };
            Some(MetadataResponsePartition {
                error_code: code.0,
                partition_index: described.index.0,
                leader_id: standing.leader.map_or(-1, |leader| leader.0),
                leader_epoch: standing.epoch.0,
                replica_nodes: standing.replicas,
                isr_nodes: standing.in_sync,
                offline_replicas: if self.version >= FIRST_WITH_OFFLINE { standing.offline } else { Vec::new() },
            })
        });
        MetadataResponseTopic {
            name: Some(Str::from(&*topic.topic.name)),
            topic_id: topic.topic.id.0,
            is_internal: is_internal_topic(&topic.topic.name),
            partitions: partitions.collect(),
            topic_authorized_operations: self.operations,
            ..MetadataResponseTopic::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_bits_and_describe_is_bit_8() {
        assert_eq!(operations(&[]), 0);
        assert_eq!(operations(&[0, 3]), 0b1001);
        const { assert!(TOPIC_OPERATIONS & 1 << 8 != 0 && CLUSTER_OPERATIONS & 1 << 8 != 0) };
    }
}
