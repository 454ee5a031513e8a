//! Builds batches: for the metadata log, for tests and clients. The broker's produce path never comes here.

use bytes::Bytes;

use crate::batch::{Attributes, BatchHeader, CRC_COVERS_FROM, HEADER_BYTES, TimestampType};
use crate::checksum::crc32c;
use crate::codec::{Codec, compress};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::record::{self, Record, RecordHeader};
use crate::varint::{MAX_VARINT_BYTES, MAX_VARLONG_BYTES};

/// Collects records and makes a batch of them.
///
/// ```
/// use millpond_record::{BatchBuilder, BatchView, Codec, Timestamp};
///
/// let batch = BatchBuilder::new().codec(Codec::Zstd).record(Timestamp(1000), Some(b"key"), Some(b"value")).build();
/// assert_eq!(BatchView::parse(&batch).unwrap().header().record_count, 1);
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    codec: Codec,
    /// Room for the header, then the records.
    bytes: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// An empty, uncompressed batch at offset 0 without producer id.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            header: BatchHeader {
                base_offset: Offset(0),
                size_bytes: HEADER_BYTES as u32,
                leader_epoch: LeaderEpoch::NONE,
                crc: 0,
                attributes: Attributes(0),
                last_offset_delta: -1,
                base_timestamp: Timestamp::NONE,
                max_timestamp: Timestamp::NONE,
                producer_id: ProducerId::NONE,
                producer_epoch: ProducerEpoch::NONE,
                base_sequence: -1,
                record_count: 0,
            },
            codec: Codec::None,
            bytes: vec![0; HEADER_BYTES],
        }
    }

    /// An empty batch with room for this many bytes, header included.
    pub fn with_capacity(bytes: usize) -> BatchBuilder {
        let mut builder = BatchBuilder::new();
        builder.bytes.reserve_exact(bytes.saturating_sub(HEADER_BYTES));
        builder
    }

    /// Compresses the records.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the base offset, which producers leave 0.
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Sets the leader epoch, which producers leave -1.
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.leader_epoch = epoch;
        self
    }

    /// Makes it a batch of an idempotent producer; `sequence` is that of the first record.
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> Self {
        (self.header.producer_id, self.header.producer_epoch, self.header.base_sequence) = (id, epoch, sequence);
        self
    }

    /// Makes it a batch of a transaction.
    pub fn transactional(self) -> Self {
        self.flag(Attributes::TRANSACTIONAL)
    }

    /// Makes it a control batch: its records are markers, not data.
    pub fn control(self) -> Self {
        self.flag(Attributes::CONTROL)
    }

    /// Sets whose clock the times are from. With LogAppendTime the max timestamp is the append time.
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::LogAppendTime => self.flag(Attributes::LOG_APPEND_TIME),
            TimestampType::CreateTime => {
                self.header.attributes.0 &= !Attributes::LOG_APPEND_TIME;
                self
            }
        }
    }

    /// Like [`append`](Self::append), for a chain of calls.
    pub fn record(mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.append(timestamp, key, value);
        self
    }

    /// Adds a record at the next offset. The first record's time is the batch's base timestamp.
    pub fn append(&mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>) -> &mut Self {
        self.append_with_headers(timestamp, key, value, std::iter::empty())
    }

    /// Like [`append`](Self::append), with headers.
    pub fn append_with_headers<'a>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = RecordHeader<'a>> + Clone,
    ) -> &mut Self {
        if self.is_empty() {
            self.header.base_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.0.wrapping_sub(self.header.base_timestamp.0);
        let offset_delta = self.header.last_offset_delta + 1;
        record::encode(&mut self.bytes, (timestamp_delta, offset_delta), key, value, headers);
        self.count(timestamp, offset_delta)
    }

    /// The most bytes that a record adds to a batch, for these lengths of key and value, and of name and value of each
    /// header.
    pub fn most_record_bytes(key: usize, value: usize, headers: impl Iterator<Item = (usize, usize)>) -> usize {
        // The record's length and its deltas, key, value and number of headers.
        const FIXED: usize = 5 * MAX_VARINT_BYTES + MAX_VARLONG_BYTES + 1;
        let headers = headers.map(|(name, value)| 2 * MAX_VARINT_BYTES + name + value);
        headers.fold(FIXED.saturating_add(key).saturating_add(value), usize::saturating_add)
    }

    /// Adds a record as it is, with the deltas that it has: with headers, or with a gap before it.
    /// The times of its kind count from [`base_timestamp`](Self::base_timestamp).
    pub fn push(&mut self, record: &Record<'_>) -> &mut Self {
        record.encode(&mut self.bytes);
        let timestamp = self.header.base_timestamp.0.wrapping_add(record.timestamp_delta);
        self.count(Timestamp(timestamp), record.offset_delta)
    }

    fn count(&mut self, timestamp: Timestamp, offset_delta: i32) -> &mut Self {
        let header = &mut self.header;
        header.max_timestamp = if header.record_count == 0 { timestamp } else { header.max_timestamp.max(timestamp) };
        header.last_offset_delta = header.last_offset_delta.max(offset_delta);
        header.record_count += 1;
        self
    }

    /// How many records there are.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Sets the time that the deltas of pushed records count from. Before the first record.
    pub fn base_timestamp(mut self, timestamp: Timestamp) -> Self {
        debug_assert!(self.is_empty(), "the base timestamp comes before the records");
        self.header.base_timestamp = timestamp;
        self
    }

    /// Whether no record was added yet.
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// The size that the batch would have uncompressed, in bytes.
    pub fn uncompressed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch. A builder without records makes one that takes no offset; a producer must not send it.
    ///
    /// # Panics
    ///
    /// If the batch is 2 GiB or more.
    pub fn build(&self) -> Bytes {
        let payload = if self.is_empty() { Vec::new() } else { compress(self.codec, &self.bytes[HEADER_BYTES..]) };
        let mut header = self.header;
        header.attributes.0 |= self.codec as i16;
        assemble(header, &payload)
    }

    /// As [`build`](Self::build), without a copy of the records when they are not compressed.
    ///
    /// # Panics
    ///
    /// If the batch is 2 GiB or more.
    pub fn into_batch(mut self) -> Bytes {
        if self.codec != Codec::None {
            return self.build();
        }
        let (head, records) = self.bytes.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&finished(self.header, records).encode());
        self.bytes.into()
    }

    fn flag(mut self, bit: i16) -> Self {
        self.header.attributes.0 |= bit;
        self
    }
}

/// Puts size and CRC into the header and the payload behind it.
pub(crate) fn assemble(header: BatchHeader, payload: &[u8]) -> Bytes {
    [&finished(header, payload).encode(), payload].concat().into()
}

/// The header with the size and the CRC of a batch with this payload.
fn finished(mut header: BatchHeader, payload: &[u8]) -> BatchHeader {
    let size_bytes = HEADER_BYTES + payload.len();
    assert!(i32::try_from(size_bytes).is_ok(), "a batch is below 2 GiB, this one would be {size_bytes} bytes");
    header.size_bytes = size_bytes as u32;
    header.crc = crc32c(&[&header.encode()[CRC_COVERS_FROM..], payload]);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchView;
    use crate::codec::DecompressLimit;
    use crate::record::records;

    #[test]
    fn a_batch_is_the_same_whether_the_builder_is_kept_or_not() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::with_capacity(1000).codec(codec);
            let header = RecordHeader { name: b"trace", value: None };
            builder.append_with_headers(Timestamp(7), Some(b"key"), Some(&[b'x'; 300]), [header, header].into_iter());
            builder.append(Timestamp(5), None, None);
            assert_eq!(builder.record_count(), 2);
            let kept = builder.build();
            let taken = builder.into_batch();
            assert_eq!(kept, taken, "{codec}");
            assert!(BatchView::parse(&taken).expect("a batch").verify_crc());
            let records = records(&taken, DecompressLimit(1000)).expect("records");
            let records: Vec<_> = records.into_iter().map(|record| record.expect("a record").headers.len()).collect();
            assert_eq!(records, [2, 0]);
        }
    }

    #[test]
    fn no_record_takes_more_than_the_most() {
        for (key, value) in [(0, 0), (70, 9000), (3 << 20, 1)] {
            let (key, value) = (vec![1; key], vec![2; value]);
            let header = RecordHeader { name: b"n", value: Some(&value) };
            let mut builder = BatchBuilder::new();
            builder.append(Timestamp(i64::MIN), None, None);
            let before = builder.uncompressed_bytes();
            let most = BatchBuilder::most_record_bytes(key.len(), value.len(), [(1, value.len())].into_iter());
            builder.append_with_headers(Timestamp(i64::MAX), Some(&key), Some(&value), [header].into_iter());
            let taken = builder.uncompressed_bytes() - before;
            assert!((most - 40..=most).contains(&taken), "{taken} of {most}");
        }
    }
}
