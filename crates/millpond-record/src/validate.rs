//! What produce checks of a batch before it is proposed (`LogValidator`, `UnifiedLog`, `ProduceRequest`).
//!
//! Two tables hold the rules. `BATCH_RULES` look at the header, the sizes and the CRC of any batch. `RECORD_RULES` look
//! at the records, where these are walked: always when they are not compressed, which is cheap, and otherwise only with
//! [`ProduceRules::deep`] or on compacted topics. Walking reads lengths and deltas and copies nothing.

mod rules;

use bytes::Bytes;

use crate::batch::{BatchHeader, TimestampType};
use crate::codec::{Codec, CodecError, DecompressLimit, Decompressor};
use crate::ids::Timestamp;
use crate::record::{MalformedRecord, RecordInput, SliceInput, StreamInput, walk_record};
use crate::rewrite::Corrections;
use rules::{BATCH_RULES, Candidate, RECORD_RULES, WalkedRecord};

/// What a topic asks of the batches that are produced to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProduceRules {
    /// `max.message.bytes`: the most bytes of a batch as it is sent, header included.
    pub max_message_bytes: u32,
    /// `segment.bytes`: a batch must fit a segment.
    pub segment_bytes: u32,
    /// Whether the request may carry Zstandard: Produce 7 and later (KIP-110).
    pub zstd_allowed: bool,
    /// `millpond.validation = deep`: compressed records are walked too, decompressing them as a stream.
    pub deep: bool,
    /// `cleanup.policy` contains `compact`: every record needs a key, so compressed records are walked too.
    pub compacted: bool,
    /// What becomes of the records' times.
    pub timestamp: TimestampRules,
    /// The most bytes that compressed records may hold where they are walked.
    pub decompress_limit: DecompressLimit,
}

/// A topic's rules for the times of its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampRules {
    /// `message.timestamp.type`. With LogAppendTime the producer's times are not looked at.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how old a record may be, 0 or more; `i64::MAX` for any age.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far in the future a record may be, 0 or more.
    pub after_max_ms: i64,
}

impl Default for TimestampRules {
    /// Kafka's defaults: CreateTime, any age, one hour ahead.
    fn default() -> Self {
        TimestampRules { timestamp_type: TimestampType::CreateTime, before_max_ms: i64::MAX, after_max_ms: 3_600_000 }
    }
}

impl Default for ProduceRules {
    /// Kafka's defaults for a topic: 1 MiB and 12 bytes, segments of 1 GiB, not compacted. The decompression limit is
    /// 128 MiB.
    fn default() -> Self {
        ProduceRules {
            max_message_bytes: 1_048_588,
            segment_bytes: 1 << 30,
            zstd_allowed: true,
            deep: false,
            compacted: false,
            timestamp: TimestampRules::default(),
            decompress_limit: DecompressLimit(128 << 20),
        }
    }
}

/// A batch that may be proposed once its header is put right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The header as it was sent.
    pub header: BatchHeader,
    /// What must be put right before the batch is proposed; mostly nothing.
    pub corrections: Corrections,
}

impl Accepted {
    /// The batch to propose and its header. `sent` is what was validated; it is copied only if it needs a correction.
    ///
    /// # Panics
    ///
    /// If `sent` is not what was validated and is shorter than a header.
    pub fn into_batch(self, sent: &Bytes) -> (Bytes, BatchHeader) {
        if self.corrections.is_empty() {
            return (sent.clone(), self.header);
        }
        let batch = self.corrections.applied_to(sent);
        let header = BatchHeader::read(&batch).expect("a correction leaves a batch a batch");
        (batch, header)
    }
}

/// Why a batch is refused. [`kind`](InvalidBatch::kind) sorts the reasons as Kafka's error codes do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidBatch {
    /// There is no whole batch: no bytes, or fewer than its length field says.
    #[error("exactly one batch is expected, the {found} bytes do not hold one")]
    NoBatch {
        /// How many bytes were sent.
        found: usize,
    },
    /// The length field is too small for any batch.
    #[error("the batch's length field is {found}, too small for a batch")]
    Length {
        /// The length field.
        found: i32,
    },
    /// The magic byte is none that was ever used.
    #[error("the batch has magic {found}, which does not exist")]
    UnknownMagic {
        /// The magic byte.
        found: i8,
    },
    /// A message of a format before record batches.
    #[error("messages of magic {found} are not supported: produce record batches (magic 2)")]
    OldMagic {
        /// The magic byte, 0 or 1.
        found: i8,
    },
    /// Bytes behind the batch that are no batch.
    #[error("{found} bytes behind the batch are no batch")]
    GarbageBehind {
        /// How many bytes.
        found: usize,
    },
    /// More than one batch, or the beginning of another.
    #[error("exactly one batch is expected, {found} bytes follow it")]
    SeveralBatches {
        /// How many bytes follow the first batch.
        found: usize,
    },
    /// The batch is larger than `max.message.bytes`.
    #[error("the batch has {found} bytes, max.message.bytes is {limit}")]
    TooLarge {
        /// The batch's size.
        found: u32,
        /// The limit.
        limit: u32,
    },
    /// The batch is larger than `segment.bytes`.
    #[error("the batch has {found} bytes, segment.bytes is {limit}")]
    LargerThanSegment {
        /// The batch's size.
        found: u32,
        /// The limit.
        limit: u32,
    },
    /// The CRC does not match.
    #[error("the batch's CRC-32C does not match its bytes")]
    Crc,
    /// The base offset is not 0.
    #[error("the batch has base offset {found}, a producer must send 0")]
    BaseOffset {
        /// The base offset.
        found: i64,
    },
    /// The record count is not above 0, or not last offset delta + 1.
    #[error("the batch counts {count} records and has last offset delta {last_offset_delta}")]
    Count {
        /// The record count.
        count: i32,
        /// The last offset delta.
        last_offset_delta: i32,
    },
    /// The control bit is set.
    #[error("only the broker writes control batches")]
    ControlBatch,
    /// A bit is set that clients must leave 0.
    #[error("the batch has attributes {found:#06x}, bits 6 to 15 must be 0")]
    Attributes {
        /// The attribute bits.
        found: u16,
    },
    /// A producer id without epoch or sequence, a negative id, or a transaction without an id.
    #[error("producer id {id} with epoch {epoch} and base sequence {sequence} is no valid combination for the batch")]
    Producer {
        /// The producer id.
        id: i64,
        /// The producer epoch.
        epoch: i16,
        /// The base sequence.
        sequence: i32,
    },
    /// The codec's number names none.
    #[error("the batch names codec {found}, which does not exist")]
    UnknownCodec {
        /// The number.
        found: u8,
    },
    /// Zstandard in a Produce version that does not have it.
    #[error("zstd needs Produce version 7 or later")]
    ZstdNotAllowed,
    /// The records' times are beyond the topic's limits, by the header: the records were not walked.
    #[error("the batch's times {base} to {max} are beyond message.timestamp.before.max.ms or .after.max.ms")]
    Timestamps {
        /// The base timestamp.
        base: i64,
        /// The max timestamp.
        max: i64,
    },
    /// A record does not parse.
    #[error("record {index} of the batch is malformed: {reason}")]
    MalformedRecord {
        /// Which record, from 0.
        index: i32,
        /// What is wrong.
        reason: &'static str,
    },
    /// The records do not decompress.
    #[error("the records do not decompress: {0}")]
    Undecodable(CodecError),
    /// The records are fewer than the header counts.
    #[error("the batch holds {found} records, its header counts {declared}")]
    TooFewRecords {
        /// The header's count.
        declared: i32,
        /// How many there are.
        found: i32,
    },
    /// Bytes follow the last record that the header counts.
    #[error("bytes follow the {declared} records that the batch's header counts")]
    BytesBehindRecords {
        /// The header's count.
        declared: i32,
    },
    /// Single records are at fault: what RecordErrors of the response names (KIP-467). Never empty.
    #[error("record {} of the batch: {}", .0[0].index, .0[0].fault)]
    Records(Vec<RecordError>),
}

/// A record at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordError {
    /// Which record of the batch, from 0.
    pub index: i32,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// What is wrong with a record that does parse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RecordFault {
    /// No key, on a compacted topic.
    #[error("a compacted topic cannot accept a record without key")]
    NullKey,
    /// Its time is beyond the topic's limits, or beyond what a time can be.
    #[error("its timestamp is beyond message.timestamp.before.max.ms or message.timestamp.after.max.ms")]
    Timestamp,
    /// Its offset delta is not its place in the batch.
    #[error("its offset delta is not its place in the batch")]
    OffsetDelta,
}

/// How Kafka sorts refusals. Each kind is one error code of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InvalidKind {
    /// CORRUPT_MESSAGE, which clients retry: the bytes are not what was sent.
    CorruptMessage,
    /// INVALID_RECORD.
    InvalidRecord,
    /// INVALID_TIMESTAMP.
    InvalidTimestamp,
    /// MESSAGE_TOO_LARGE.
    MessageTooLarge,
    /// RECORD_LIST_TOO_LARGE.
    RecordListTooLarge,
    /// UNSUPPORTED_COMPRESSION_TYPE.
    UnsupportedCompressionType,
}

impl InvalidBatch {
    /// The sort of refusal.
    pub fn kind(&self) -> InvalidKind {
        match self {
            InvalidBatch::Length { .. }
            | InvalidBatch::UnknownMagic { .. }
            | InvalidBatch::GarbageBehind { .. }
            | InvalidBatch::Crc => InvalidKind::CorruptMessage,
            InvalidBatch::NoBatch { .. }
            | InvalidBatch::OldMagic { .. }
            | InvalidBatch::SeveralBatches { .. }
            | InvalidBatch::BaseOffset { .. }
            | InvalidBatch::Count { .. }
            | InvalidBatch::ControlBatch
            | InvalidBatch::Attributes { .. }
            | InvalidBatch::Producer { .. }
            | InvalidBatch::MalformedRecord { .. }
            | InvalidBatch::Undecodable(_)
            | InvalidBatch::TooFewRecords { .. }
            | InvalidBatch::BytesBehindRecords { .. } => InvalidKind::InvalidRecord,
            InvalidBatch::TooLarge { .. } => InvalidKind::MessageTooLarge,
            InvalidBatch::LargerThanSegment { .. } => InvalidKind::RecordListTooLarge,
            InvalidBatch::UnknownCodec { .. } | InvalidBatch::ZstdNotAllowed => InvalidKind::UnsupportedCompressionType,
            InvalidBatch::Timestamps { .. } => InvalidKind::InvalidTimestamp,
            // As Kafka has it: one wrong time makes it a refusal for its time.
            InvalidBatch::Records(errors) if errors.iter().any(|error| error.fault == RecordFault::Timestamp) => {
                InvalidKind::InvalidTimestamp
            }
            InvalidBatch::Records(_) => InvalidKind::InvalidRecord,
        }
    }

    /// The records at fault, where single ones are.
    pub fn record_errors(&self) -> &[RecordError] {
        match self {
            InvalidBatch::Records(errors) => errors,
            _ => &[],
        }
    }
}

/// The most records that a refusal names: a batch of a million null keys is not answered with a million errors.
const MAX_RECORD_ERRORS: usize = 1000;

/// Checks what a client sent for one partition. `now` is the time of the append.
///
/// # Errors
///
/// The first rule that is broken; of the rules for single records all that are, up to 1,000.
pub fn validate_produce(records: &[u8], rules: &ProduceRules, now: Timestamp) -> Result<Accepted, InvalidBatch> {
    let candidate = Candidate { sent: records, rules, now };
    for rule in &BATCH_RULES {
        if !(rule.holds)(&candidate) {
            return Err((rule.error)(&candidate));
        }
    }
    let header = candidate.header();
    let mut corrections = Corrections::default();
    let max_timestamp = match candidate.codec() {
        Codec::None => Some(walk(SliceInput::new(candidate.payload()), &header, &candidate)?),
        codec if candidate.opens_compressed() => {
            let source = Decompressor::new(codec, candidate.payload(), rules.decompress_limit);
            Some(walk(StreamInput::new(source.map_err(InvalidBatch::Undecodable)?), &header, &candidate)?)
        }
        _ => None,
    };
    match rules.timestamp.timestamp_type {
        TimestampType::LogAppendTime => corrections.log_append_time = Some(now),
        TimestampType::CreateTime => {
            corrections.clear_timestamp_type = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
            corrections.max_timestamp = max_timestamp.filter(|found| *found != header.max_timestamp);
        }
    }
    Ok(Accepted { header, corrections })
}

/// Checks every record; returns the greatest of their times.
fn walk<I: RecordInput>(
    mut input: I,
    header: &BatchHeader,
    candidate: &Candidate<'_>,
) -> Result<Timestamp, InvalidBatch> {
    let declared = header.record_count;
    let mut max_timestamp = Timestamp(i64::MIN);
    let mut errors = Vec::new();
    for index in 0..declared {
        if input.at_end().map_err(|error| malformed(&mut input, index, error))? {
            return Err(InvalidBatch::TooFewRecords { declared, found: index });
        }
        let shape = walk_record(&mut input).map_err(|error| malformed(&mut input, index, error))?;
        let timestamp = header.base_timestamp.0.checked_add(shape.timestamp_delta).map(Timestamp);
        let record = WalkedRecord { index, shape, timestamp };
        for rule in &RECORD_RULES {
            if !(rule.holds)(&record, candidate) && errors.len() < MAX_RECORD_ERRORS {
                errors.push(RecordError { index, fault: rule.fault });
            }
        }
        max_timestamp = max_timestamp.max(timestamp.unwrap_or(max_timestamp));
    }
    if !input.at_end().map_err(|error| malformed(&mut input, declared, error))? {
        return Err(InvalidBatch::BytesBehindRecords { declared });
    }
    if errors.is_empty() { Ok(max_timestamp) } else { Err(InvalidBatch::Records(errors)) }
}

fn malformed(input: &mut impl RecordInput, index: i32, MalformedRecord(reason): MalformedRecord) -> InvalidBatch {
    match input.take_failure() {
        Some(error) => InvalidBatch::Undecodable(error),
        None => InvalidBatch::MalformedRecord { index, reason },
    }
}

#[cfg(test)]
mod tests;
