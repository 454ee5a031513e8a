//! Builds batches: for the metadata log, for tests and clients. The produce path never comes here.

use bytes::Bytes;

use crate::batch::{Attributes, BatchHeader, CRC_COVERS_FROM, HEADER_BYTES, TimestampType};
use crate::checksum::crc32c;
use crate::codec::{Codec, compress};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::record::Record;

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
    records: Vec<u8>,
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
            records: Vec::new(),
        }
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
        if self.is_empty() {
            self.header.base_timestamp = timestamp;
        }
        self.push(&Record {
            offset_delta: self.header.last_offset_delta + 1,
            timestamp_delta: timestamp.0.wrapping_sub(self.header.base_timestamp.0),
            key,
            value,
            headers: Vec::new(),
        })
    }

    /// Adds a record as it is, with the deltas that it has: with headers, or with a gap before it.
    /// The times of its kind count from [`base_timestamp`](Self::base_timestamp).
    pub fn push(&mut self, record: &Record<'_>) -> &mut Self {
        record.encode(&mut self.records);
        let timestamp = self.header.base_timestamp.0.wrapping_add(record.timestamp_delta);
        self.header.max_timestamp =
            if self.is_empty() { Timestamp(timestamp) } else { self.header.max_timestamp.max(Timestamp(timestamp)) };
        self.header.last_offset_delta = self.header.last_offset_delta.max(record.offset_delta);
        self.header.record_count += 1;
        self
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
        HEADER_BYTES + self.records.len()
    }

    /// The batch. A builder without records makes one that takes no offset; a producer must not send it.
    ///
    /// # Panics
    ///
    /// If the batch is 2 GiB or more.
    pub fn build(&self) -> Bytes {
        let payload = if self.is_empty() { Vec::new() } else { compress(self.codec, &self.records) };
        let mut header = self.header;
        header.attributes.0 |= self.codec as i16;
        assemble(header, &payload)
    }

    fn flag(mut self, bit: i16) -> Self {
        self.header.attributes.0 |= bit;
        self
    }
}

/// Puts size and CRC into the header and the payload behind it.
pub(crate) fn assemble(mut header: BatchHeader, payload: &[u8]) -> Bytes {
    let size_bytes = HEADER_BYTES + payload.len();
    assert!(i32::try_from(size_bytes).is_ok(), "a batch is below 2 GiB, this one would be {size_bytes} bytes");
    header.size_bytes = size_bytes as u32;
    header.crc = crc32c(&[&header.encode()[CRC_COVERS_FROM..], payload]);
    [&header.encode(), payload].concat().into()
}
