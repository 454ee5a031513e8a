//! Reads partitions and tells the history what it sees.

use std::collections::BTreeMap;

use millpond_record::{BatchView, DecompressLimit, HEADER_BYTES, records};
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use millpond_wire::{ErrorCode, Str};

use crate::client::Client;
use crate::history::{History, Known, Partition, Seen, TopicState};
use crate::payload;

/// The largest batch that clients look into, uncompressed.
const LIMIT: DecompressLimit = DecompressLimit(16 << 20);
/// ListOffsets' names for the end and the start of a partition.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A partition with the name of its topic.
#[derive(Clone, Debug)]
pub struct Target {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
}

/// All partitions of all topics that exist.
pub fn targets(history: &History) -> Vec<Target> {
    let mut targets = Vec::new();
    for (topic, id, partitions) in history.present_topics() {
        for index in 0..partitions {
            targets.push(Target { topic: topic.clone(), partition: Partition { topic: id, index } });
        }
    }
    targets
}

/// How a fetch is asked for.
#[derive(Clone, Copy, Debug)]
struct Limits {
    wait_ms: i32,
    min_bytes: i32,
    max_bytes: i32,
    partition_max_bytes: i32,
}

/// What a partition answers: the offset to go on from and the high watermark, or the error.
type Found = (Target, Result<(i64, i64), ErrorCode>);

/// Fetches from some partitions, now and then as the begin of a session that is followed for a while. `None` without an
/// answer.
async fn fetch(client: &mut Client, wanted: &[(Target, i64)], limits: Limits) -> Option<Vec<Found>> {
    let version = client.version(&[4, 6, 11, 12, 13, 15, 16, 17]);
    let begins_session = version >= 7 && client.rng.between(0, 3) == 0;
    let mut request = FetchRequest {
        replica_id: -1,
        max_wait_ms: limits.wait_ms,
        min_bytes: limits.min_bytes,
        max_bytes: limits.max_bytes,
        session_epoch: if begins_session { 0 } else { -1 },
        ..FetchRequest::default()
    };
    for (target, offset) in wanted {
        let partition = FetchPartition {
            partition: target.partition.index,
            fetch_offset: *offset,
            partition_max_bytes: limits.partition_max_bytes,
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
    let answer = fetch_once(client, version, &request, wanted).await?;
    if answer.session_id > 0 {
        request.session_id = answer.session_id;
        follow(client, version, request, wanted, answer.has_records).await;
    }
    Some(answer.found)
}

/// Goes on in a session, asking for the same again: what is named must be right, and if there were records, they must
/// come again or an error say where they are.
async fn follow(
    client: &mut Client,
    version: i16,
    mut request: FetchRequest,
    wanted: &[(Target, i64)],
    has_records: bool,
) {
    request.topics.clear();
    for epoch in 1..=client.rng.between(1, 4) {
        request.session_epoch = epoch as i32;
        let Some(answer) = fetch_once(client, version, &request, wanted).await else { return };
        if has_records && !answer.names_any {
            client
                .shared
                .history()
                .fail("a session keeps back the records that its client has not moved beyond".into());
        }
    }
}

/// One answer.
struct Answer {
    session_id: i32,
    found: Vec<Found>,
    /// Whether any partition is in it, and any with records.
    names_any: bool,
    has_records: bool,
}

/// One fetch, and the check of its answer. `None` without one.
async fn fetch_once(
    client: &mut Client,
    version: i16,
    request: &FetchRequest,
    wanted: &[(Target, i64)],
) -> Option<Answer> {
    let known: Vec<(Known, (u64, TopicState))> = {
        let history = client.shared.history();
        wanted.iter().map(|(t, _)| (history.known(t.partition), history.topic(&t.topic))).collect()
    };
    let response = client.call(version, request).await?;
    if response.error_code != 0 {
        client.shared.history().fail(format!("a fetch fails with {}", ErrorCode(response.error_code)));
        return None;
    }
    let now = client.runtime.wall_clock();
    let mut history = client.shared.history();
    let mut answer =
        Answer { session_id: response.session_id, found: Vec::new(), names_any: false, has_records: false };
    let mut named: usize = response.responses.iter().map(|topic| topic.partitions.len()).sum();
    answer.names_any = named > 0;
    for ((target, offset), (known, topic)) in wanted.iter().zip(known) {
        let found = response.responses.iter().find_map(|answer| {
            let is_topic = if version >= 13 {
                answer.topic_id == target.partition.topic
            } else {
                answer.topic.as_str() == target.topic
            };
            let partitions = answer.partitions.iter().filter(|_| is_topic);
            partitions.into_iter().find(|data| data.partition_index == target.partition.index)
        });
        let Some(data) = found else {
            if !request.topics.is_empty() {
                history.fail(format!("{}: a fetch does not answer for it", target.partition));
            }
            continue;
        };
        named = named.saturating_sub(1);
        answer.has_records |= data.records.as_ref().is_some_and(|records| !records.to_bytes().is_empty());
        if version < 13 && !is_still(&history, target, topic) {
            continue;
        }
        if history.is_void(target.partition, known) {
            // Asked for before a loss: it may be what is gone now.
            continue;
        }
        let result = check_partition(&mut history, target.partition, *offset, known, now, data);
        answer.found.push((target.clone(), result));
    }
    if named > 0 {
        history.fail("a fetch answers for partitions that were not asked for".into());
    }
    Some(answer)
}

/// Whether a topic's name has meant this topic since its state was `before`. If it was deleted and made again, what was
/// asked for by name may be answered for the other topic.
fn is_still(history: &History, target: &Target, before: (u64, TopicState)) -> bool {
    let is_meant = matches!(before.1, TopicState::Present { id, .. } if id == target.partition.topic);
    is_meant && history.topic(&target.topic) == before
}

/// Checks what was fetched from one partition and gives where to go on, and the high watermark.
fn check_partition(
    history: &mut History,
    partition: Partition,
    offset: i64,
    known: Known,
    now: i64,
    data: &PartitionData,
) -> Result<(i64, i64), ErrorCode> {
    let code = ErrorCode(data.error_code);
    if code != ErrorCode::NONE {
        let may_be_gone = history.may_be_gone(partition, offset, now);
        if code == ErrorCode::OFFSET_OUT_OF_RANGE && known.has(offset) && !may_be_gone {
            history.fail(format!("{partition}: {offset} is out of range, and was below the high watermark before"));
        }
        return Err(code);
    }
    history.high_watermark(partition, known, data.high_watermark);
    if known.lacks(offset) {
        history.fail(format!("{partition}: {offset} is given out, and was below the log start before"));
    }
    if data.log_start_offset >= 0 {
        history.log_start(partition, known, data.log_start_offset, now);
    }
    let records = data.records.as_ref().map(millpond_wire::Records::to_bytes).unwrap_or_default();
    match check_batches(history, partition, offset, data.high_watermark, &records) {
        Ok(next) => Ok((next, data.high_watermark)),
        Err(text) => {
            history.fail(format!("{partition}: fetched at {offset}: {text}"));
            Err(ErrorCode::CORRUPT_MESSAGE)
        }
    }
}

/// Checks the batches that were fetched at an offset and tells the history of their records. Gives the offset to go on
/// from.
///
/// # Errors
/// What is wrong with a batch.
pub fn check_batches(
    history: &mut History,
    partition: Partition,
    offset: i64,
    high_watermark: i64,
    mut bytes: &[u8],
) -> Result<i64, String> {
    let mut next = offset;
    let mut is_first = true;
    while !bytes.is_empty() {
        if bytes.len() < HEADER_BYTES {
            return Err(format!("{} bytes behind the last batch", bytes.len()));
        }
        let batch = BatchView::first_of(bytes).map_err(|error| error.to_string())?;
        let header = *batch.header();
        let (base, last) = (header.base_offset.0, header.last_offset().0);
        if header.attributes.is_raft_only() || header.attributes.is_control() {
            return Err(format!("a control batch at {base}"));
        }
        if !batch.verify_crc() {
            return Err(format!("the batch at {base} is damaged"));
        }
        if base > next || (base < next && !is_first) || last < next {
            return Err(format!("a batch {base}..={last} where {next} follows"));
        }
        if last >= high_watermark {
            return Err(format!("a batch {base}..={last} at or above the high watermark {high_watermark}"));
        }
        let parsed = records(batch.bytes(), LIMIT).map_err(|error| error.to_string())?;
        for record in &parsed {
            let record = record.map_err(|error| error.to_string())?;
            let offset = record.offset(&header).0;
            let id = record.value.and_then(payload::parse);
            let id = id.ok_or_else(|| format!("the record at {offset} is not what anybody wrote"))?;
            let seen = Seen { id, epoch: header.leader_epoch.0, timestamp: record.timestamp(&header).0 };
            history.read(partition, offset, seen);
        }
        next = last + 1;
        is_first = false;
        bytes = &bytes[batch.size_bytes()..];
    }
    Ok(next)
}

/// Asks for an offset by timestamp, or for the end or the start. `None` without an answer, or with an error.
async fn list_offset(client: &mut Client, target: &Target, timestamp: i64) -> Option<(i64, i64)> {
    let version = client.version(&[1, 2, 4, 6, 7, 9]);
    let partition = ListOffsetsPartition { partition_index: target.partition.index, timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: Str::from(target.topic.as_str()), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() };
    let before = client.shared.history().topic(&target.topic);
    let response = client.call(version, &request).await?;
    let answer = response.topics.first()?.partitions.first()?.clone();
    let is_meant = is_still(&client.shared.history(), target, before);
    (answer.error_code == 0 && is_meant).then_some((answer.offset, answer.timestamp))
}

/// The start of a partition.
async fn list_start(client: &mut Client, target: &Target) -> Option<i64> {
    let known = client.shared.history().known(target.partition);
    let (offset, _) = list_offset(client, target, EARLIEST).await?;
    let now = client.runtime.wall_clock();
    client.shared.history().log_start(target.partition, known, offset, now);
    Some(offset)
}

/// How many offsets lie between the start and the end of a partition.
pub async fn records_left(client: &mut Client, target: &Target) -> Option<i64> {
    let start = list_start(client, target).await?;
    let (end, _) = list_offset(client, target, LATEST).await?;
    Some(end - start)
}

/// Checks the start, the end, and a look-up by time.
async fn check_offsets(client: &mut Client, target: &Target) {
    let known = client.shared.history().known(target.partition);
    if let Some((offset, _)) = list_offset(client, target, LATEST).await {
        client.shared.history().high_watermark(target.partition, known, offset);
    }
    list_start(client, target).await;
    let timestamp = client.runtime.wall_clock() - client.rng.between(0, 20_000) as i64;
    let expected = client.shared.history().first_at(target.partition, timestamp);
    if let Some((offset, found)) = list_offset(client, target, timestamp).await {
        let now = client.runtime.wall_clock();
        let mut history = client.shared.history();
        if history.is_void(target.partition, known) {
            return;
        }
        let text = match expected {
            Some(expected)
                if (offset == -1 || offset > expected) && !history.may_be_gone(target.partition, expected, now) =>
            {
                format!("{expected} has it")
            }
            _ if offset >= 0 && found < timestamp => "that is before".to_owned(),
            _ if offset >= 0 && history.seen(target.partition, offset).is_some_and(|seen| seen.timestamp != found) => {
                "the record there has another time".to_owned()
            }
            _ => return,
        };
        history.fail(format!("{}: looked up {timestamp}, found {offset} at {found}, but {text}", target.partition));
    }
}

/// Follows all partitions until the run winds down; now and then starts again somewhere else.
pub async fn consume(mut client: Client) {
    let mut positions: BTreeMap<Partition, i64> = BTreeMap::new();
    while !client.shared.is_winding_down() {
        client.pause(0, 100).await;
        let all = targets(&client.shared.history());
        let mut wanted = Vec::new();
        for target in all {
            if client.rng.chance(0.7) {
                let offset = *positions.entry(target.partition).or_default();
                wanted.push((target, offset));
            }
        }
        if wanted.is_empty() {
            continue;
        }
        let limits = Limits {
            wait_ms: client.rng.below(500) as i32,
            min_bytes: client.rng.below(2_000) as i32,
            max_bytes: client.rng.between(1, 200_000) as i32,
            partition_max_bytes: client.rng.between(1, 100_000) as i32,
        };
        if client.rng.chance(0.1) {
            let (target, _) = &wanted[client.rng.index(wanted.len())].clone();
            check_offsets(&mut client, target).await;
        }
        let Some(results) = fetch(&mut client, &wanted, limits).await else { continue };
        for (target, result) in results {
            if let Err(ErrorCode::OFFSET_OUT_OF_RANGE) = result
                && let Some(start) = list_start(&mut client, &target).await
            {
                positions.insert(target.partition, start);
            }
            if let Ok((next, high_watermark)) = result {
                let seek = client.rng.chance(0.03);
                let next = if seek { client.rng.between(0, high_watermark as u64) as i64 } else { next };
                positions.insert(target.partition, next);
            } else if result == Err(ErrorCode::OFFSET_OUT_OF_RANGE) {
                // Its end was lost.
                positions.insert(target.partition, 0);
            }
        }
    }
}

/// Reads a partition from its start to its high watermark and tells the history that this is all. False when it could
/// not; a partition that may be offline need not answer.
pub async fn read_whole(client: &mut Client, target: &Target) -> bool {
    let (mut start, mut position) = (0, 0);
    let (mut refused, may_be_offline) = (0, is_offline(client, target));
    for _ in 0..10_000 {
        if refused > 10 && may_be_offline {
            client.note(&format!("{} of {} is offline", target.partition.index, target.topic));
            return true;
        }
        let limits = Limits { wait_ms: 0, min_bytes: 0, max_bytes: 1 << 20, partition_max_bytes: 1 << 20 };
        let wanted = [(target.clone(), position)];
        match fetch(client, &wanted, limits).await.and_then(|mut results| results.pop()) {
            Some((_, Ok((next, high_watermark)))) if next >= high_watermark => {
                client.note(&format!("{} of {} is read to {next}", target.partition.index, target.topic));
                client.shared.history().read_whole(target.partition, start, high_watermark);
                return true;
            }
            // Retention goes on meanwhile.
            Some((_, Err(ErrorCode::OFFSET_OUT_OF_RANGE))) => {
                if let Some(offset) = list_start(client, target).await {
                    (start, position) = (offset, position.max(offset));
                }
            }
            Some((_, Ok((next, _)))) => position = next,
            Some((_, Err(_))) if may_be_offline => {
                refused += 1;
                client.pause(10, 100).await;
            }
            Some((_, Err(code))) if !code.is_retriable() => {
                client.shared.history().fail(format!("{}: cannot be read: {code}", target.partition));
                return false;
            }
            _ => client.pause(10, 100).await,
        }
    }
    false
}

fn is_offline(client: &Client, target: &Target) -> bool {
    client.shared.history().may_be_offline(&target.topic, target.partition.index)
}
