//! Asks for the deletion of records.

use millpond_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use millpond_wire::{ErrorCode, Str};

use crate::client::Client;
use crate::consumer::targets;
use crate::history::TopicState;

/// Deletes up to a random offset of a random partition, now and then, until the run winds down.
pub async fn delete_records(mut client: Client) {
    while !client.shared.is_winding_down() {
        client.pause(0, 2_000).await;
        let mut all = targets(&client.shared.history());
        if all.is_empty() {
            continue;
        }
        let target = all.swap_remove(client.rng.index(all.len()));
        let partition = target.partition;
        let (known, before) = {
            let history = client.shared.history();
            (history.known(partition), history.topic(&target.topic))
        };
        // A little beyond what is known to be there; often all of it.
        let end = known.high_watermark();
        let offset = if client.rng.chance(0.4) { end } else { client.rng.below(end as u64 + 3) as i64 };
        client.shared.history().asking_to_delete(partition, offset);
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: Str::from(target.topic.as_str()),
                partitions: vec![DeleteRecordsPartition { partition_index: partition.index, offset }],
            }],
            timeout_ms: 20_000,
        };
        let version = client.version(&[0, 1, 2]);
        let Some(response) = client.call(version, &request).await else { continue };
        let now = client.runtime.wall_clock();
        let mut history = client.shared.history();
        let is_meant = matches!(before.1, TopicState::Present { id, .. } if id == partition.topic);
        if !is_meant || history.topic(&target.topic) != before {
            continue;
        }
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        match answer.map(|answer| (ErrorCode(answer.error_code), answer.low_watermark)) {
            Some((ErrorCode::NONE, low)) if low >= offset => history.log_start(partition, known, low, now),
            Some((ErrorCode::OFFSET_OUT_OF_RANGE, _)) if offset > end => {}
            Some((code, _)) if code.is_retriable() => {}
            other => history.fail(format!("{partition}: a deletion up to {offset} is answered {other:?}")),
        }
    }
}
