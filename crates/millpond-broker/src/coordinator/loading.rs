//! Loading: a shard is what the records of its partition make of an empty one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millpond_coordinator::{GroupSettings, Record, RecordError, Shard};
use millpond_raft::{Partition, RaftError};
use millpond_record::{BatchError, BatchView, DecompressLimit, Offset, RecordsError, records};
use millpond_runtime::Runtime;
use millpond_storage::{Log, Read, ReadError};

/// Bytes that are read and replayed at once.
const STEP_BYTES: usize = 1 << 20;
/// The most that a compressed batch may hold: the topic's codec may have been changed.
const DECOMPRESS_LIMIT: DecompressLimit = DecompressLimit(128 << 20);

/// What a batch of one record takes beside the record's value: headers, and a group's name.
const BATCH_OVERHEAD_BYTES: usize = 8 << 10;

/// Why a shard cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Raft(#[from] RaftError),
    #[error("the partition has stopped")]
    Stopped,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("at offset {0}: {1}")]
    Batch(Offset, BatchError),
    #[error("at offset {0}: {1}")]
    Records(Offset, RecordsError),
    #[error("at offset {0}: {1}")]
    Replay(Offset, RecordError),
    #[error("the log has nothing from offset {from} on, although it goes to {end}")]
    Missing { from: Offset, end: Offset },
}

/// What serving begins with.
pub(super) struct Loaded {
    pub(super) shard: Shard,
    /// The longest batch that the log takes.
    pub(super) max_batch_bytes: u64,
}

/// Replays what the partition holds into an empty shard, which writes no record that the log does not take. All of it
/// is committed first: what an earlier shard proposed and was refused by a stalled disk may be in the log, and be
/// written later.
pub(super) async fn load(
    runtime: &Runtime,
    partition: &Partition,
    settings: GroupSettings,
) -> Result<Loaded, LoadError> {
    let log = partition.log().await?;
    // Only now: to watch a partition whose log is open tells that it serves, whoever opened it and has not said so yet.
    let mut state = partition.watch();
    let max_batch_bytes = log.max_batch_bytes();
    let max_record_bytes = usize::try_from(max_batch_bytes).unwrap_or(usize::MAX).saturating_sub(BATCH_OVERHEAD_BYTES);
    let max_record_bytes = max_record_bytes.min(settings.max_record_bytes);
    let mut shard = Shard::new(GroupSettings { max_record_bytes, ..settings });
    let last = log.frontiers().last.map(|last| last.index);
    let settled = state
        .wait_for(|state| !state.serving || state.frontiers.committed.map(|committed| committed.index) >= last)
        .await
        .map_err(|_| LoadError::Stopped)?
        .serving;
    if !settled {
        return Err(LoadError::Stopped);
    }
    let frontiers = log.frontiers();
    let (mut from, end) = (frontiers.log_start, frontiers.high_watermark);
    while from < end {
        let log = Arc::clone(&log);
        (shard, from) = runtime.blocking(move || step(&log, shard, from, end)).await?;
    }
    Ok(Loaded { shard, max_batch_bytes })
}

/// Reads and replays some batches; the offset after them.
fn step(log: &Log, mut shard: Shard, from: Offset, end: Offset) -> Result<(Shard, Offset), LoadError> {
    let chunks = match log.read(from, end, STEP_BYTES, true)? {
        Read::Ready(chunks) => chunks,
        Read::Cold(cold) => cold.run()?,
    };
    let bytes = whole(chunks);
    let (mut rest, mut next) = (&bytes[..], from);
    while !rest.is_empty() {
        let batch = BatchView::first_of(rest).map_err(|error| LoadError::Batch(next, error))?;
        let header = batch.header();
        if !header.attributes.is_control() {
            replay(&mut shard, batch.bytes(), next)?;
        }
        next = header.next_offset();
        rest = &rest[batch.size_bytes()..];
    }
    // To go on behind the gap would forget what groups were told is on disk.
    if next == from { Err(LoadError::Missing { from, end }) } else { Ok((shard, next)) }
}

fn replay(shard: &mut Shard, batch: &[u8], at: Offset) -> Result<(), LoadError> {
    for record in &records(batch, DECOMPRESS_LIMIT).map_err(|error| LoadError::Records(at, error))? {
        let record = record.map_err(|error| LoadError::Records(at, error))?;
        let Some(key) = record.key else { continue };
        let record = Record { key: Bytes::copy_from_slice(key), value: record.value.map(Bytes::copy_from_slice) };
        // What a later version wrote and this one does not know is skipped, as in Kafka.
        let _ = shard.replay(&record).map_err(|error| LoadError::Replay(at, error))?;
    }
    Ok(())
}

/// The chunks as one run of bytes: a batch may lie in two of them.
fn whole(chunks: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(chunks) {
        Ok([one]) => one,
        Err(many) => {
            let mut whole = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
            many.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        }
    }
}
