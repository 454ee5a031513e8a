//! Metadata records to and from one v2 batch of group 0: a decision's records are committed together or not at all.

use bytes::Bytes;
use millpond_record::{BatchBuilder, DecompressLimit, RecordsError, Timestamp, records};

use crate::record::{MetadataRecord, RecordError};

/// The largest metadata batch: a request that needs more is refused before it is proposed.
pub const MAX_METADATA_BATCH_BYTES: usize = 16 << 20;

/// Why records do not make a batch, or a batch does not hold metadata.
#[derive(Debug, thiserror::Error)]
pub enum BatchFormatError {
    #[error("no metadata records to make a batch of")]
    Empty,
    #[error("a metadata batch of {0} bytes is above the limit of {MAX_METADATA_BATCH_BYTES}: ask for less at once")]
    TooLarge(usize),
    #[error("the batch is not readable: {0}")]
    Unreadable(#[from] RecordsError),
    #[error("a record without a key is no metadata record")]
    NoKey,
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// One batch with these records, uncompressed, all of the time `now`.
pub fn encode_batch(metadata: &[MetadataRecord], now: Timestamp) -> Result<Bytes, BatchFormatError> {
    if metadata.is_empty() {
        return Err(BatchFormatError::Empty);
    }
    let mut batch = BatchBuilder::new();
    for record in metadata {
        let (key, value) = record.encode();
        batch.append(now, Some(&key), value.as_deref());
    }
    let batch = batch.build();
    if batch.len() > MAX_METADATA_BATCH_BYTES { Err(BatchFormatError::TooLarge(batch.len())) } else { Ok(batch) }
}

/// The records of a batch, without those that this version may ignore.
pub fn decode_batch(batch: &[u8]) -> Result<Vec<MetadataRecord>, BatchFormatError> {
    let limit = DecompressLimit(MAX_METADATA_BATCH_BYTES);
    let mut metadata = Vec::new();
    for record in &records(batch, limit)? {
        let record = record?;
        let key = record.key.ok_or(BatchFormatError::NoKey)?;
        metadata.extend(MetadataRecord::decode(key, record.value)?);
    }
    Ok(metadata)
}
