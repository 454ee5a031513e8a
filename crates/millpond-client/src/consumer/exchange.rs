//! A fetch, and the answer to it, as the protocol has them.

use std::collections::BTreeMap;

use millpond_record::TopicId;
use millpond_wire::ErrorCode;
use millpond_wire::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionData as FetchedPartition,
};
use millpond_wire::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopic,
};

use super::config::{ConsumerConfig, Isolation};
use super::positions::{Answer, Check, EpochEnd, Outbound, Place, Wanted};
use super::session::Session;
use crate::cluster::{Cluster, Target};
use crate::connection::Connection;
use crate::error::{Error, Result};

/// The first version with batches as they are today (Kafka 0.11).
const FIRST_WITH_BATCHES: i16 = 4;
/// The first version with sessions.
const FIRST_WITH_SESSIONS: i16 = 7;
/// The first version of OffsetForLeaderEpoch that readers may ask (KIP-320).
const EPOCHS_FOR_READERS: i16 = 3;
/// A reader is no replica.
const NO_REPLICA: i32 = -1;
/// The last version that names topics; later ones have their ids.
const LAST_WITH_NAMES: i16 = 12;

/// The version to fetch in: by topic id only if all ids are known.
pub(crate) fn version(connection: &Connection, wanted: &[Wanted]) -> Result<i16> {
    let by_id = wanted.iter().all(|wanted| wanted.topic_id.is_some());
    let most = if by_id { i16::MAX } else { LAST_WITH_NAMES };
    match connection.versions().newest::<FetchRequest>(FIRST_WITH_BATCHES, most) {
        Some(version) => Ok(version),
        None => connection.version::<FetchRequest>(FIRST_WITH_BATCHES),
    }
}

/// Makes the request.
pub(crate) fn build(outbound: &Outbound, session: &mut Session, version: i16, config: &ConsumerConfig) -> FetchRequest {
    let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    let by_id = version > LAST_WITH_NAMES;
    if version < FIRST_WITH_SESSIONS {
        session.lost();
    }
    let step = session.step(&outbound.wanted, by_id);
    let mut topics: Vec<FetchTopic> = Vec::new();
    for wanted in step.send {
        let id = wanted.topic_id.unwrap_or(TopicId::ZERO).0;
        // Next to each other only: the order of the partitions is a turn that goes round.
        if topics.last().is_none_or(|last| last.topic != wanted.topic || last.topic_id != id) {
            topics.push(FetchTopic { topic: wanted.topic.clone(), topic_id: id, ..Default::default() });
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(FetchPartition {
                partition: wanted.place.1,
                current_leader_epoch: wanted.leader_epoch.unwrap_or(-1),
                fetch_offset: wanted.offset,
                partition_max_bytes: bytes(config.max_partition_fetch_bytes),
                ..Default::default()
            });
        }
    }
    let mut forgotten: BTreeMap<(&str, [u8; 16]), Vec<i32>> = BTreeMap::new();
    for (topic, id, partition) in &step.forget {
        forgotten.entry((topic.as_str(), id.unwrap_or(TopicId::ZERO).0)).or_default().push(*partition);
    }
    let forgotten = forgotten.into_iter();
    FetchRequest {
        max_wait_ms: i32::try_from(outbound.max_wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: bytes(config.fetch_min_bytes),
        max_bytes: bytes(outbound.max_bytes),
        isolation_level: config.isolation.level(),
        session_id: step.id,
        session_epoch: step.epoch,
        topics,
        forgotten_topics_data: forgotten
            .map(|((topic, topic_id), partitions)| ForgottenTopic { topic: topic.into(), topic_id, partitions })
            .collect(),
        rack_id: config.client_rack.as_str().into(),
        ..Default::default()
    }
}

/// What the answer says of each partition; none if it is lost as a whole.
pub(crate) fn read(
    wanted: &[Wanted],
    session: &mut Session,
    response: FetchResponse,
    isolation: Isolation,
) -> Option<BTreeMap<Place, Answer>> {
    let code = ErrorCode(response.error_code);
    if !code.is_none() {
        let was_kept = session.is_kept();
        session.lost();
        // It begins a new one at once, but not again and again.
        return was_kept.then(BTreeMap::new);
    }
    session.answered(response.session_id);
    let mut places: BTreeMap<(&str, [u8; 16], i32), Place> = BTreeMap::new();
    for wanted in wanted {
        // The answer has the name or the id, as its version has.
        places.insert((wanted.topic.as_str(), TopicId::ZERO.0, wanted.place.1), wanted.place);
        if let Some(id) = wanted.topic_id {
            places.insert(("", id.0, wanted.place.1), wanted.place);
        }
    }
    let mut answers = BTreeMap::new();
    for topic in response.responses {
        for partition in topic.partitions {
            let place = places.get(&(topic.topic.as_str(), topic.topic_id, partition.partition_index));
            if let Some(place) = place {
                answers.insert(*place, answer(partition, isolation));
            }
        }
    }
    Some(answers)
}

fn answer(told: FetchedPartition, isolation: Isolation) -> Answer {
    let code = ErrorCode(told.error_code);
    if !code.is_none() {
        let leader = &told.current_leader;
        let named = leader.leader_id >= 0 && leader.leader_epoch >= 0;
        return Answer::Refused { code, leader: named.then_some((leader.leader_id, leader.leader_epoch)) };
    }
    let end = match isolation {
        Isolation::ReadUncommitted => told.high_watermark,
        Isolation::ReadCommitted => told.last_stable_offset,
    };
    let aborted = told.aborted_transactions.unwrap_or_default();
    Answer::Read {
        bytes: told.records.map(|records| records.to_bytes()).unwrap_or_default(),
        aborted: aborted.iter().map(|aborted| (aborted.first_offset, aborted.producer_id)).collect(),
        end: Some(end).filter(|end| *end >= 0),
        replica: Some(told.preferred_read_replica).filter(|replica| *replica >= 0),
    }
}

/// Asks a leader up to where it has what was written in certain epochs, once.
pub(crate) async fn epoch_ends(
    cluster: &Cluster,
    leader: i32,
    asked: Vec<Check>,
) -> Vec<(Check, Result<Option<EpochEnd>>)> {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for check in &asked {
        topics.entry(&check.name.topic).or_default().push(OffsetForLeaderPartition {
            partition: check.name.partition,
            current_leader_epoch: check.leader_epoch,
            leader_epoch: check.epoch,
        });
    }
    let topic = |(topic, partitions): (&str, _)| OffsetForLeaderTopic { topic: topic.into(), partitions };
    let topics = topics.into_iter().map(topic).collect();
    let request = OffsetForLeaderEpochRequest { replica_id: NO_REPLICA, topics };
    let answer = cluster.call_once(Target::Broker(leader), EPOCHS_FOR_READERS, |_| request.clone()).await;
    let of = |check: Check| {
        let told = answer.as_ref().map_err(Error::clone).and_then(|answer| epoch_end(answer, &check));
        (check, told)
    };
    asked.into_iter().map(of).collect()
}

/// What the answer says of one of them.
fn epoch_end(answer: &OffsetForLeaderEpochResponse, check: &Check) -> Result<Option<EpochEnd>> {
    let topic = answer.topics.iter().find(|topic| topic.topic.as_str() == check.name.topic);
    let told = topic.and_then(|topic| topic.partitions.iter().find(|one| one.partition == check.name.partition));
    // One that is left out is asked for again.
    let left_out = EpochEndOffset { error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0, ..Default::default() };
    let told = told.unwrap_or(&left_out);
    Error::check(told.error_code, None, || format!("asking for the epochs of {}", check.name))?;
    let end = EpochEnd { epoch: told.leader_epoch, offset: told.end_offset };
    Ok(Some(end).filter(|end| end.epoch >= 0 && end.offset >= 0))
}
