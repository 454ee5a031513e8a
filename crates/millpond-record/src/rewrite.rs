//! The changes that are made to a finished batch, each with a new CRC: by a broker before it is proposed, by a client
//! before it is sent again. All else of a batch stays as it is.

use bytes::{Bytes, BytesMut};

use crate::batch::{
    ATTRIBUTES_AT, Attributes, BASE_SEQUENCE_AT, BatchHeader, BatchView, HEADER_BYTES, MAX_TIMESTAMP_AT,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT, read_i16,
};
use crate::builder::assemble;
use crate::checksum::rewrite_crc;
use crate::codec::{Codec, DecompressLimit, compress, decompress};
use crate::ids::{ProducerEpoch, ProducerId, Timestamp};
use crate::record::RecordsError;

/// Makes it a batch of a LogAppendTime topic: all its records have the time of the append.
///
/// # Panics
///
/// If the slice is shorter than [`HEADER_BYTES`].
pub fn set_log_append_time(batch: &mut [u8], append_time: Timestamp) {
    set_attributes(batch, |bits| bits | Attributes::LOG_APPEND_TIME);
    put_max_timestamp(batch, append_time);
    rewrite_crc(batch);
}

/// Makes it a batch of a CreateTime topic: clears the timestamp-type bit that a client set.
///
/// # Panics
///
/// If the slice is shorter than [`HEADER_BYTES`].
pub fn set_create_time(batch: &mut [u8]) {
    set_attributes(batch, |bits| bits & !Attributes::LOG_APPEND_TIME);
    rewrite_crc(batch);
}

/// Puts right a max timestamp that is not that of the records.
///
/// # Panics
///
/// If the slice is shorter than [`HEADER_BYTES`].
pub fn set_max_timestamp(batch: &mut [u8], max_timestamp: Timestamp) {
    put_max_timestamp(batch, max_timestamp);
    rewrite_crc(batch);
}

/// Makes it a batch of this producer; `sequence` is that of its first record.
///
/// # Panics
///
/// If the slice is shorter than [`HEADER_BYTES`].
pub fn set_producer(batch: &mut [u8], id: ProducerId, epoch: ProducerEpoch, sequence: i32) {
    batch[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].copy_from_slice(&id.0.to_be_bytes());
    batch[PRODUCER_EPOCH_AT..PRODUCER_EPOCH_AT + 2].copy_from_slice(&epoch.0.to_be_bytes());
    batch[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
    rewrite_crc(batch);
}

fn set_attributes(batch: &mut [u8], change: impl Fn(i16) -> i16) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a header of {HEADER_BYTES} bytes, this one is {}", batch.len());
    let changed = change(read_i16(batch, ATTRIBUTES_AT));
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&changed.to_be_bytes());
}

fn put_max_timestamp(batch: &mut [u8], max_timestamp: Timestamp) {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp.0.to_be_bytes());
}

/// What must be put right in the header of a batch that is otherwise valid. By default nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Corrections {
    /// The topic is LogAppendTime: set the bit and this time.
    pub log_append_time: Option<Timestamp>,
    /// The topic is CreateTime and the client set the timestamp-type bit: clear it.
    pub clear_timestamp_type: bool,
    /// The records' greatest time, where the header names another.
    pub max_timestamp: Option<Timestamp>,
}

impl Corrections {
    /// Whether the batch stays as it is.
    pub fn is_empty(&self) -> bool {
        *self == Corrections::default()
    }

    /// Makes the changes, with a new CRC.
    ///
    /// # Panics
    ///
    /// If the slice is shorter than [`HEADER_BYTES`].
    pub fn apply(&self, batch: &mut [u8]) {
        if self.is_empty() {
            return;
        }
        if self.clear_timestamp_type {
            set_attributes(batch, |bits| bits & !Attributes::LOG_APPEND_TIME);
        }
        if let Some(max_timestamp) = self.max_timestamp {
            put_max_timestamp(batch, max_timestamp);
        }
        if let Some(append_time) = self.log_append_time {
            set_attributes(batch, |bits| bits | Attributes::LOG_APPEND_TIME);
            put_max_timestamp(batch, append_time);
        }
        rewrite_crc(batch);
    }

    /// The batch with the changes made; the same bytes if there are none.
    ///
    /// # Panics
    ///
    /// If it is shorter than [`HEADER_BYTES`].
    pub fn applied_to(&self, batch: &Bytes) -> Bytes {
        if self.is_empty() {
            return batch.clone();
        }
        let mut corrected = BytesMut::from(&batch[..]);
        self.apply(&mut corrected);
        corrected.freeze()
    }
}

/// The batch with its records in another codec (topics whose `compression.type` is not `producer`). Offsets, times,
/// producer and flags stay; size and CRC change. A batch that has the codec already is copied as it is.
///
/// # Errors
///
/// [`RecordsError`] if the bytes are no batch or do not decompress within the limit. The records are not parsed.
///
/// # Panics
///
/// If the result is 2 GiB or more: with a limit below 1 GiB it never is.
pub fn recompress(batch: &[u8], codec: Codec, limit: DecompressLimit) -> Result<Bytes, RecordsError> {
    let view = BatchView::parse(batch)?;
    let mut header: BatchHeader = *view.header();
    let from = header.attributes.compression().map_err(RecordsError::UnknownCodec)?;
    if from == codec {
        return Ok(Bytes::copy_from_slice(batch));
    }
    let records = decompress(from, view.payload(), limit)?;
    header.attributes.0 = header.attributes.0 & !Attributes::CODEC_MASK | codec as i16;
    Ok(assemble(header, &compress(codec, &records)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::BatchBuilder;

    #[test]
    fn a_batch_is_given_another_producer_and_nothing_else() {
        let batch = |id, epoch, sequence| {
            let builder = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
            builder.record(Timestamp(3), Some(b"k"), Some(b"v")).build()
        };
        let mut changed = BytesMut::from(&batch(1, 2, 3)[..]);
        set_producer(&mut changed, ProducerId(i64::MAX), ProducerEpoch(0), i32::MAX);
        assert_eq!(changed.freeze(), batch(i64::MAX, 0, i32::MAX));
    }
}
