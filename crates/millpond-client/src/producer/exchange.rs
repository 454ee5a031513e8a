//! A request of batches, and the answer to it, as the protocol has them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use millpond_record::TopicId;
use millpond_wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
};
use millpond_wire::{ErrorCode, Records, Str};

use super::accumulator::{Outbound, PartAnswer, Place};
use super::batch::Payload;
use super::queue::Verdict;
use crate::address::Address;
use crate::connection::Connection;
use crate::error::{Error, Result};

/// The first version with batches as they are today (Kafka 0.11).
const FIRST_WITH_BATCHES: i16 = 3;
/// The last version that names topics; later ones have their ids.
const LAST_WITH_NAMES: i16 = 12;

/// A batch that is on the way.
#[derive(Debug)]
pub(crate) struct PartOnTheWay {
    place: Place,
    topic: Str,
    topic_id: Option<TopicId>,
    payload: Payload,
}

/// A request that is on the way.
#[derive(Debug)]
pub(crate) struct OnTheWay {
    pub(crate) ticket: u64,
    parts: Vec<PartOnTheWay>,
}

/// Makes the request of what is to be sent. Here batches are compressed.
pub(crate) fn build(outbound: Outbound, acks: i16, timeout: Duration) -> (ProduceRequest, OnTheWay) {
    let mut topics: BTreeMap<usize, TopicProduceData> = BTreeMap::new();
    let mut parts = Vec::with_capacity(outbound.parts.len());
    for part in outbound.parts {
        let (payload, bytes): (Payload, Bytes) = part.payload.made(part.stamp);
        let (number, partition) = part.place;
        let topic = topics.entry(number).or_insert_with(|| TopicProduceData {
            name: part.topic.clone(),
            topic_id: part.topic_id.unwrap_or(TopicId::ZERO).0,
            ..Default::default()
        });
        let index = i32::try_from(partition).unwrap_or(i32::MAX);
        topic.partition_data.push(PartitionProduceData { index, records: Some(Records::from(bytes)) });
        parts.push(PartOnTheWay { place: part.place, topic: part.topic, topic_id: part.topic_id, payload });
    }
    let request = ProduceRequest {
        acks,
        timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        topic_data: topics.into_values().collect(),
        ..Default::default()
    };
    (request, OnTheWay { ticket: outbound.ticket, parts })
}

/// The version to send the request in: by topic id only if all ids are known.
pub(crate) fn version(connection: &Connection, request: &ProduceRequest) -> Result<i16> {
    let by_id = request.topic_data.iter().all(|topic| topic.topic_id != TopicId::ZERO.0);
    let most = if by_id { i16::MAX } else { LAST_WITH_NAMES };
    match connection.versions().newest::<ProduceRequest>(FIRST_WITH_BATCHES, most) {
        Some(version) => Ok(version),
        None => connection.version::<ProduceRequest>(FIRST_WITH_BATCHES),
    }
}

impl OnTheWay {
    /// One verdict for all batches.
    pub(crate) fn all(self, verdict: &Verdict) -> Vec<PartAnswer> {
        let answer = |part: PartOnTheWay| PartAnswer {
            place: part.place,
            payload: part.payload,
            verdict: verdict.clone(),
            leader: None,
        };
        self.parts.into_iter().map(answer).collect()
    }

    /// The verdict of the answer on each batch.
    pub(crate) fn judged(self, broker: &Address, response: &ProduceResponse) -> Vec<PartAnswer> {
        let mut told: BTreeMap<(&str, [u8; 16], i32), &PartitionProduceResponse> = BTreeMap::new();
        for topic in &response.responses {
            for partition in &topic.partition_responses {
                told.insert((topic.name.as_str(), topic.topic_id, partition.index), partition);
            }
        }
        let answer = |part: PartOnTheWay| {
            let index = i32::try_from(part.place.1).unwrap_or(i32::MAX);
            let id = part.topic_id.unwrap_or(TopicId::ZERO).0;
            // The answer has the name or the id, as its version has.
            let found = told.get(&(part.topic.as_str(), TopicId::ZERO.0, index)).or_else(|| told.get(&("", id, index)));
            let (verdict, leader) = match found {
                Some(told) => (verdict(&part.topic, told), hint(told)),
                None => {
                    let reason = format!("its answer to Produce leaves out partition {index} of {}", part.topic);
                    (Verdict::Lost(Error::Protocol { broker: broker.clone(), reason }), None)
                }
            };
            PartAnswer { place: part.place, payload: part.payload, verdict, leader }
        };
        self.parts.into_iter().map(answer).collect()
    }
}

fn verdict(topic: &str, told: &PartitionProduceResponse) -> Verdict {
    let base_offset = Some(told.base_offset).filter(|offset| *offset >= 0);
    let code = ErrorCode(told.error_code);
    // With this one the broker says where it has the batch already, if it knows.
    if code.is_none() || (code == ErrorCode::DUPLICATE_SEQUENCE_NUMBER && base_offset.is_some()) {
        let append_time = Some(told.log_append_time_ms).filter(|time| *time >= 0);
        return Verdict::Written { base_offset, append_time };
    }
    let records = told.record_errors.iter();
    let records = records.filter_map(|of| Some((of.batch_index, of.batch_index_error_message.as_ref()?.to_string())));
    let error = Error::Refused {
        what: format!("producing to partition {} of {topic}", told.index),
        code,
        message: told.error_message.as_ref().map(ToString::to_string),
    };
    Verdict::Refused { error, records: records.collect() }
}

fn hint(told: &PartitionProduceResponse) -> Option<(i32, i32)> {
    let leader = &told.current_leader;
    (leader.leader_id >= 0 && leader.leader_epoch >= 0).then_some((leader.leader_id, leader.leader_epoch))
}
