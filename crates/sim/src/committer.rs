//! Commits offsets for a group of its own, from outside, and looks at what is committed.

use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millpond_wire::{ErrorCode, Str};

use crate::client::Client;

/// The first topic of every scenario, which stays.
const TOPIC: &str = "topic-0";

/// The group of a committer.
pub fn group(number: usize) -> String {
    format!("group-{number}")
}

/// The offset of a committer's commit of this number: no two have the same, and they go up and down.
fn offset_of(number: i64) -> i64 {
    number * 7_919 % 1_000_003
}

/// Commits offsets until the run winds down.
pub async fn commit_offsets(mut client: Client, group: String) {
    let mut found = false;
    let mut number = 0;
    while !client.shared.is_winding_down() {
        if !found {
            found = find(&mut client, &group).await;
            continue;
        }
        if client.rng.chance(0.2) {
            found = look(&mut client, &group).await.is_some();
            continue;
        }
        number += 1;
        found = commit(&mut client, &group, offset_of(number)).await;
        let (low, high) = client.rng.pick(&[(0, 2), (0, 20), (100, 1_000)]);
        client.pause(low, high).await;
    }
}

/// Finds the coordinator, which is the broker or nobody.
async fn find(client: &mut Client, group: &str) -> bool {
    let version = client.version(&[0, 3, 4, 6]);
    let mut request = FindCoordinatorRequest::default();
    match version {
        ..4 => request.key = Str::from(group),
        _ => request.coordinator_keys.push(Str::from(group)),
    }
    let Some(response) = client.call(version, &request).await else { return false };
    let code = response.coordinators.first().map_or(response.error_code, |coordinator| coordinator.error_code);
    expected(client, group, "looked for", ErrorCode(code)).await
}

/// Commits an offset; whether the coordinator is there still.
async fn commit(client: &mut Client, group: &str, offset: i64) -> bool {
    let partition = OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_metadata: Some(Str::from(group)),
        ..OffsetCommitRequestPartition::default()
    };
    let topic = OffsetCommitRequestTopic { name: Str::from(TOPIC), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: Str::from(group),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    };
    let version = client.version(&[2, 5, 7, 8, 9]);
    client.shared.history().committing(group, offset);
    let Some(response) = client.call(version, &request).await else { return false };
    let answered = response.topics.first().and_then(|topic| topic.partitions.first());
    match answered.map(|partition| ErrorCode(partition.error_code)) {
        Some(ErrorCode::NONE) => {
            client.shared.history().committed(group, offset);
            true
        }
        // Not made yet.
        Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
            client.shared.history().not_committed(group, offset);
            true
        }
        Some(code) => expected(client, group, "commits", code).await,
        None => {
            client.shared.history().fail(format!("{group}: a commit is answered without its partition"));
            true
        }
    }
}

/// Whether the code is that of success. Others than those of a coordinator that is elsewhere fail the run.
async fn expected(client: &mut Client, group: &str, what: &str, code: ErrorCode) -> bool {
    match code {
        ErrorCode::NONE => return true,
        ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS | ErrorCode::NOT_COORDINATOR => {
            client.pause(10, 500).await
        }
        code => client.shared.history().fail(format!("{group} {what}: {code}")),
    }
    false
}

/// Holds the committed offset against what was acknowledged. `None` without an answer.
pub async fn look(client: &mut Client, group: &str) -> Option<()> {
    let topic = OffsetFetchRequestTopics { name: Str::from(TOPIC), partition_indexes: vec![0], ..Default::default() };
    let asked = OffsetFetchRequestGroup { group_id: Str::from(group), topics: Some(vec![topic]), ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![asked], ..OffsetFetchRequest::default() };
    let version = client.version(&[8, 9]);
    let response = client.call(version, &request).await?;
    let answered = response.groups.first()?;
    if !expected(client, group, "looks at its offset", ErrorCode(answered.error_code)).await {
        return None;
    }
    let partition = answered.topics.first().and_then(|topic| topic.partitions.first())?;
    client.shared.history().found_committed(group, partition.committed_offset);
    Some(())
}
