//! The small files: `groups.table`, `meta.properties`, `partition.metadata`, producer snapshots.

use std::path::Path;

use millpond_runtime::Disk;

use super::{DumpError, DumpItem, Sink};
use crate::meta::MetaProperties;
use crate::partition_folder::PartitionMetadata;
use crate::producer::{MAX_SNAPSHOT_BYTES, read_snapshot};
use crate::table::{MAX_TABLE_BYTES, read_as_far_as_possible};
use crate::types::{FlushMode, GroupRow, Taint};

const MAX_TEXT_BYTES: u64 = 64 << 10;

pub(super) fn table(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let bytes = disk.read(path, MAX_TABLE_BYTES).map_err(DumpError::Read)?;
    let (from, rows, wrong) = read_as_far_as_possible(&bytes);
    if let Some(from) = from {
        sink(
            DumpItem::new("table of groups")
                .with("replay_file", from.file_number)
                .with("replay_sequence", from.sequence)
                .with("rows", rows.len() as u64),
        )?;
    }
    for row in &rows {
        sink(group(row))?;
        for epoch in &row.epochs {
            let item = DumpItem::new("term").with("group", row.group.0).with("term", epoch.term.0);
            sink(item.with("first_index", epoch.index.0).with("first_offset", epoch.offset.0))?;
        }
    }
    wrong.map_or(Ok(()), |wrong| Err(DumpError::damaged(None, wrong.to_string())))
}

fn group(row: &GroupRow) -> DumpItem {
    let id = |id: millpond_record::LogId| id.to_string();
    DumpItem::new("group")
        .with("group", row.group.0)
        .with("topic", row.topic.clone())
        .with("partition", row.partition.0)
        .with("topic_id", row.topic_id.to_string())
        .with("replica", row.replica.0)
        .with("vote_term", row.vote.term.0)
        .with("vote_replica", row.vote.replica.0)
        .with("vote_committed", row.vote.committed)
        .with_some("purged", row.purged.map(|purged| id(purged.log_id())))
        .with("log_start", row.log_start.0)
        .with("log_end", row.log_end.0)
        .with_some("committed", row.committed.map(id))
        .with_some("last", row.last.map(id))
        .with_some("active_segment", row.durable.map(|at| format!("{:020}.{:010}", at.base_offset.0, at.first_index.0)))
        .with_some("synced_bytes", row.durable.map(|at| at.position.0))
        .with("journal_sequence", row.journal_sequence)
        .with("flush", if row.options.flush == FlushMode::Relaxed { "relaxed" } else { "durable" })
        .with("segment_bytes", row.options.segment_bytes)
        .with("segment_ms", row.options.segment_ms)
        .with("segment_jitter_ms", row.options.segment_jitter_ms)
        .with("retained_bytes", row.retained.bytes)
        .with("oldest_bytes", row.retained.oldest_bytes)
        .with_some("oldest_newest_record", row.retained.oldest_newest.map(|newest| newest.record.0))
        .with_some("oldest_last_append", row.retained.oldest_newest.map(|newest| newest.append.0))
        .with("active_since", row.retained.active_since.0)
        .with("last_append", row.retained.last_append.0)
        .with_some("freeable", row.retained.freeable.then_some(true))
        .with_some("set_aside", row.set_aside.then_some(true))
        .with_some("tainted", tainted(row.taint))
}

fn tainted(taint: Taint) -> Option<&'static str> {
    match taint {
        Taint::None => None,
        Taint::IfShared => Some("if shared"),
        Taint::Shared => Some("yes"),
    }
}

pub(super) fn meta(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let bytes = disk.read(path, MAX_TEXT_BYTES).map_err(DumpError::Read)?;
    let meta = MetaProperties::decode(&bytes).map_err(|error| DumpError::damaged(None, error.to_string()))?;
    sink(
        DumpItem::new("data directory")
            .with("cluster_id", meta.cluster_id)
            .with("node_id", meta.node_id.0)
            .with("directory_id", meta.directory_id.to_string())
            .with("boot_id", meta.boot_id.to_string())
            .with_some("machine_boot_id", meta.machine_boot_id)
            .with("clean_stop", meta.clean_stop),
    )
}

pub(super) fn partition_metadata(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let bytes = disk.read(path, MAX_TEXT_BYTES).map_err(DumpError::Read)?;
    let found = PartitionMetadata::decode(&bytes)
        .ok_or_else(|| DumpError::damaged(None, "it is not three lines with version, group and topic id"))?;
    sink(DumpItem::new("partition").with("group", found.group.0).with("topic_id", found.topic_id.to_string()))
}

pub(super) fn snapshot(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let bytes = disk.read(path, MAX_SNAPSHOT_BYTES).map_err(DumpError::Read)?;
    let snapshot =
        read_snapshot(&bytes).map_err(|_| DumpError::damaged(None, "its checksum or a field does not match"))?;
    sink(
        DumpItem::new("producer snapshot")
            .with("covers", snapshot.covers.to_string())
            .with("next_offset", snapshot.next_offset.0)
            .with("producers", snapshot.producers.len() as u64),
    )?;
    snapshot.producers.each_committed(&mut |id, batch, append_time| {
        sink(
            DumpItem::new("producer batch")
                .until(batch.next_offset)
                .with("producer_id", id.0)
                .with("producer_epoch", batch.epoch.0)
                .with("first_sequence", batch.first_sequence)
                .with("last_sequence", batch.last_sequence)
                .with("offset", batch.base_offset.0)
                .with("index", batch.index.0)
                .with("append_time", append_time.0),
        )
    })
}
