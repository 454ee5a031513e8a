//! Reads partitions from their leaders and from followers, and tells the history what it sees.

use std::collections::BTreeMap;

use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use millpond_wire::{ErrorCode, Records, Str};

use super::router::Router;
use crate::consumer::{Target, check_batches, targets};
use crate::history::Partition;

/// What a reader is to whom it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Only the leader may answer.
    TheLeader,
    /// Any replica may (KIP-392).
    AReplica,
}

/// What an answer had of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The offset to go on from.
    pub next: i64,
    /// The high watermark.
    pub high_watermark: i64,
}

/// Fetches partitions at offsets from one broker. `None` without an answer; a partition that the answer does not name
/// is left out.
pub async fn fetch(
    router: &mut Router,
    broker: i32,
    asks: Asks,
    wanted: &[(Target, i64)],
    wait_ms: i32,
) -> Option<Vec<(Target, Result<Read, ErrorCode>)>> {
    let version = router.rng.pick(&[12, 13, 15, 16, 17]);
    let mut request = FetchRequest {
        replica_id: -1,
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        // No broker has a rack: nobody is sent elsewhere, and a follower answers who asks it.
        rack_id: Str::from(if asks == Asks::AReplica { "anywhere" } else { "" }),
        ..FetchRequest::default()
    };
    // The epoch that each is asked with, and what its leader must have by then.
    let mut asked = Vec::new();
    for (target, offset) in wanted {
        let epoch = router.place(target.partition).map_or(-1, |place| place.epoch);
        asked.push((epoch, router.cluster.least_watermark(target.partition, epoch)));
        let partition = FetchPartition {
            partition: target.partition.index,
            current_leader_epoch: if asks == Asks::TheLeader { epoch } else { -1 },
            fetch_offset: *offset,
            partition_max_bytes: 1 << 18,
            ..FetchPartition::default()
        };
        let mut topic = FetchTopic { partitions: vec![partition], ..FetchTopic::default() };
        if version >= 13 {
            topic.topic_id = target.partition.topic;
        } else {
            topic.topic = Str::from(target.topic.as_str());
        }
        request.topics.push(topic);
    }
    let response = router.call(broker, version, &request).await?;
    if response.error_code != 0 {
        router.fail(format!("a fetch fails with {}", ErrorCode(response.error_code)));
        return None;
    }
    let mut found = Vec::new();
    for ((target, offset), (epoch, least)) in wanted.iter().zip(asked) {
        let partition = target.partition;
        let mut topics = response.responses.iter().filter(|topic| {
            if version >= 13 { topic.topic_id == partition.topic } else { topic.topic.as_str() == target.topic }
        });
        let Some(data) =
            topics.find_map(|topic| topic.partitions.iter().find(|p| p.partition_index == partition.index))
        else {
            router.fail(format!("{partition}: a fetch does not answer for it"));
            continue;
        };
        router.heard(partition, data.current_leader.leader_id, data.current_leader.leader_epoch);
        let code = ErrorCode(data.error_code);
        if code == ErrorCode::OFFSET_OUT_OF_RANGE && !router.cluster.shared.history().is_given_up(partition) {
            // Nothing is ever deleted, and the offset was given by an answer: a consumer would start all over.
            router.fail(format!("{partition}: broker {broker} says that {offset} is out of range"));
        }
        if code == ErrorCode::NONE && asks == Asks::TheLeader && epoch >= 0 {
            router.cluster.watermark(partition, epoch, broker, least, data.high_watermark);
        }
        let result = if code == ErrorCode::NONE {
            let records = data.records.as_ref().map(Records::to_bytes).unwrap_or_default();
            let mut history = router.cluster.shared.history();
            let checked = check_batches(&mut history, partition, *offset, data.high_watermark, &records);
            checked.map(|next| Read { next, high_watermark: data.high_watermark }).map_err(|text| {
                history.fail(format!("{partition}: fetched at {offset} from broker {broker}: {text}"));
                ErrorCode::CORRUPT_MESSAGE
            })
        } else {
            Err(code)
        };
        found.push((target.clone(), result));
    }
    Some(found)
}

/// Follows all partitions until the run winds down.
pub async fn consume(mut router: Router) {
    let mut positions: BTreeMap<Partition, i64> = BTreeMap::new();
    while !router.cluster.shared.is_winding_down() {
        router.pause(0, 100).await;
        let asks = if router.rng.chance(0.2) { Asks::AReplica } else { Asks::TheLeader };
        let broker = router.any();
        let all = targets(&router.cluster.shared.history());
        let led = |router: &Router, target: &Target| router.place(target.partition).map(|place| place.leader);
        let answers = |target: &Target| match asks {
            Asks::TheLeader => led(&router, target) == Some(broker),
            Asks::AReplica => router.replicas(target.partition).contains(&broker),
        };
        let wanted: Vec<(Target, i64)> = all
            .into_iter()
            .filter(answers)
            .map(|target| {
                let position = *positions.entry(target.partition).or_default();
                (target, position)
            })
            .collect();
        let wait_ms = router.rng.below(500) as i32;
        let found = if wanted.is_empty() { None } else { fetch(&mut router, broker, asks, &wanted, wait_ms).await };
        let mut lost = found.is_none();
        for (target, result) in found.into_iter().flatten() {
            let read = match result {
                Ok(read) => read,
                Err(code) => {
                    if code == ErrorCode::OFFSET_OUT_OF_RANGE {
                        positions.remove(&target.partition);
                    }
                    lost = true;
                    continue;
                }
            };
            let again = router.rng.chance(0.03);
            let next = if again { router.rng.between(0, read.next as u64) as i64 } else { read.next };
            positions.insert(target.partition, next);
        }
        if lost {
            router.refresh().await;
        }
    }
}
