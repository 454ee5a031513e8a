//! The rules as tables.

use super::{InvalidBatch, ProduceRules, RecordFault};
use crate::batch::{
    Attributes, BASE_OFFSET_AT, BEFORE_LENGTH_BYTES, BatchHeader, HEADER_BYTES, LEADER_EPOCH_AT, LENGTH_AT, MAGIC,
    MAGIC_AT, TimestampType, read_i32,
};
use crate::checksum::verify_crc;
use crate::codec::Codec;
use crate::ids::Timestamp;
use crate::record::RecordShape;

/// The least length field of any message: that of magic 0 without key and value (`LegacyRecord.RECORD_OVERHEAD_V0`).
const LEAST_LENGTH: i32 = 14;

const _: () = assert!(BASE_OFFSET_AT < LENGTH_AT && LENGTH_AT < LEADER_EPOCH_AT && LEADER_EPOCH_AT < MAGIC_AT);

/// What a client sent, under the rules of a topic at a time.
pub(super) struct Candidate<'a> {
    pub(super) sent: &'a [u8],
    pub(super) rules: &'a ProduceRules,
    pub(super) now: Timestamp,
}

/// A record that parsed.
pub(super) struct WalkedRecord {
    pub(super) index: i32,
    pub(super) shape: RecordShape,
    /// `None` if base timestamp and delta are beyond 64 bits.
    pub(super) timestamp: Option<Timestamp>,
}

/// A rule for the batch as a whole.
pub(super) struct BatchRule {
    #[cfg_attr(not(test), expect(dead_code, reason = "names the row for readers and for its test"))]
    pub(super) name: &'static str,
    pub(super) holds: fn(&Candidate<'_>) -> bool,
    pub(super) error: fn(&Candidate<'_>) -> InvalidBatch,
}

/// A rule for each record that is walked.
pub(super) struct RecordRule {
    #[cfg_attr(not(test), expect(dead_code, reason = "names the row for readers and for its test"))]
    pub(super) name: &'static str,
    pub(super) holds: fn(&WalkedRecord, &Candidate<'_>) -> bool,
    pub(super) fault: RecordFault,
}

/// In this order. Each rule may rely on those above it; what cannot be trusted before the CRC is checked (all but sizes
/// and magic) comes after it.
pub(super) const BATCH_RULES: [BatchRule; 20] = [
    BatchRule {
        name: "there are bytes up to the length field",
        holds: |c| c.sent.len() >= BEFORE_LENGTH_BYTES,
        error: |c| InvalidBatch::NoBatch { found: c.sent.len() },
    },
    BatchRule {
        name: "the length field is that of a message or more",
        holds: |c| c.length() >= LEAST_LENGTH,
        error: |c| InvalidBatch::Length { found: c.length() },
    },
    BatchRule {
        name: "there are bytes up to the magic byte",
        holds: |c| c.sent.len() > MAGIC_AT,
        error: |c| InvalidBatch::NoBatch { found: c.sent.len() },
    },
    BatchRule {
        name: "the magic byte is 0, 1 or 2",
        holds: |c| (0..=MAGIC as i8).contains(&c.magic()),
        error: |c| InvalidBatch::UnknownMagic { found: c.magic() },
    },
    BatchRule {
        name: "the magic byte is 2",
        holds: |c| c.magic() == MAGIC as i8,
        error: |c| InvalidBatch::OldMagic { found: c.magic() },
    },
    BatchRule {
        name: "the batch is not cut short",
        holds: |c| c.sent.len() >= c.declared_bytes(),
        error: |c| InvalidBatch::NoBatch { found: c.sent.len() },
    },
    BatchRule {
        name: "the length field is that of a batch header or more",
        holds: |c| c.declared_bytes() >= HEADER_BYTES,
        error: |c| InvalidBatch::Length { found: c.length() },
    },
    BatchRule {
        name: "what follows the batch, if anything, could be a batch",
        holds: |c| is_like_a_batch(c.behind()),
        error: |c| InvalidBatch::GarbageBehind { found: c.behind().len() },
    },
    BatchRule {
        name: "there is one batch",
        holds: |c| c.behind().is_empty(),
        error: |c| InvalidBatch::SeveralBatches { found: c.behind().len() },
    },
    BatchRule {
        name: "the size is within max.message.bytes",
        holds: |c| c.size_bytes() <= c.rules.max_message_bytes,
        error: |c| InvalidBatch::TooLarge { found: c.size_bytes(), limit: c.rules.max_message_bytes },
    },
    BatchRule {
        name: "the size is within segment.bytes",
        holds: |c| c.size_bytes() <= c.rules.segment_bytes,
        error: |c| InvalidBatch::LargerThanSegment { found: c.size_bytes(), limit: c.rules.segment_bytes },
    },
    BatchRule { name: "the CRC matches", holds: |c| verify_crc(c.sent), error: |_| InvalidBatch::Crc },
    BatchRule {
        name: "the base offset is 0",
        holds: |c| c.header().base_offset.0 == 0,
        error: |c| InvalidBatch::BaseOffset { found: c.header().base_offset.0 },
    },
    BatchRule {
        name: "no control bit",
        holds: |c| !c.header().attributes.is_control(),
        error: |_| InvalidBatch::ControlBatch,
    },
    BatchRule {
        name: "no attribute bit from 6 to 15",
        holds: |c| c.header().attributes.0 & Attributes::NOT_FOR_CLIENTS == 0,
        error: |c| InvalidBatch::Attributes { found: c.header().attributes.0 as u16 },
    },
    BatchRule {
        name: "the codec exists",
        holds: |c| c.header().attributes.compression().is_ok(),
        error: |c| InvalidBatch::UnknownCodec { found: c.header().attributes.compression().err().unwrap_or_default() },
    },
    BatchRule {
        name: "zstd only where the request may carry it",
        holds: |c| c.rules.zstd_allowed || c.codec() != Codec::Zstd,
        error: |_| InvalidBatch::ZstdNotAllowed,
    },
    BatchRule {
        name: "the record count is above 0 and last offset delta + 1",
        holds: |c| {
            let header = c.header();
            header.record_count > 0 && header.last_offset_delta == header.record_count - 1
        },
        error: |c| {
            let header = c.header();
            InvalidBatch::Count { count: header.record_count, last_offset_delta: header.last_offset_delta }
        },
    },
    BatchRule {
        name: "a producer id comes with epoch and sequence, a transaction with a producer id",
        holds: |c| {
            let header = c.header();
            if header.producer_id.is_some() {
                header.producer_epoch.0 >= 0 && header.base_sequence >= 0
            } else {
                header.producer_id.0 == -1 && !header.attributes.is_transactional()
            }
        },
        error: |c| {
            let header = c.header();
            InvalidBatch::Producer {
                id: header.producer_id.0,
                epoch: header.producer_epoch.0,
                sequence: header.base_sequence,
            }
        },
    },
    BatchRule {
        name: "the header's times are within the limits, where the records are not walked",
        holds: |c| {
            let header = c.header();
            c.walks_records() || (c.time_allowed(header.base_timestamp) && c.time_allowed(header.max_timestamp))
        },
        error: |c| {
            let header = c.header();
            InvalidBatch::Timestamps { base: header.base_timestamp.0, max: header.max_timestamp.0 }
        },
    },
];

/// All of them for every record.
pub(super) const RECORD_RULES: [RecordRule; 3] = [
    RecordRule {
        name: "the offset delta is the record's place",
        holds: |record, _| record.shape.offset_delta == record.index,
        fault: RecordFault::OffsetDelta,
    },
    RecordRule {
        name: "the time is within the limits",
        holds: |record, c| record.timestamp.is_some_and(|time| c.time_allowed(time)),
        fault: RecordFault::Timestamp,
    },
    RecordRule {
        name: "a compacted topic's record has a key",
        holds: |record, c| record.shape.has_key || !c.rules.compacted,
        fault: RecordFault::NullKey,
    },
];

impl<'a> Candidate<'a> {
    /// The length field. There are bytes up to its end.
    fn length(&self) -> i32 {
        read_i32(self.sent, LENGTH_AT)
    }

    fn magic(&self) -> i8 {
        self.sent[MAGIC_AT] as i8
    }

    /// The size by the length field, which is not negative.
    fn declared_bytes(&self) -> usize {
        BEFORE_LENGTH_BYTES + self.length() as usize
    }

    /// What was sent behind the batch, which is not cut short.
    fn behind(&self) -> &'a [u8] {
        &self.sent[self.declared_bytes()..]
    }

    /// The size of the one batch, which is all that was sent. A length field has 31 bits: it fits.
    fn size_bytes(&self) -> u32 {
        self.sent.len() as u32
    }

    /// The header of a batch that is whole.
    #[inline]
    pub(super) fn header(&self) -> BatchHeader {
        BatchHeader::decode(self.sent.first_chunk().expect("the rules for sizes come first"))
    }

    /// The codec, once it is known to exist.
    pub(super) fn codec(&self) -> Codec {
        self.header().attributes.compression().unwrap_or_default()
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        &self.sent[HEADER_BYTES..]
    }

    /// Whether compressed records must be looked at.
    pub(super) fn opens_compressed(&self) -> bool {
        self.rules.deep || self.rules.compacted
    }

    fn walks_records(&self) -> bool {
        self.codec() == Codec::None || self.opens_compressed()
    }

    /// Whether a record may have this time. One without a time always may.
    #[inline]
    fn time_allowed(&self, time: Timestamp) -> bool {
        let limits = &self.rules.timestamp;
        limits.timestamp_type == TimestampType::LogAppendTime
            || time == Timestamp::NONE
            || (time.0 >= self.now.0.saturating_sub(limits.before_max_ms)
                && time.0 <= self.now.0.saturating_add(limits.after_max_ms))
    }
}

/// Whether bytes behind a batch are a batch or the beginning of one, as far as length and magic say.
fn is_like_a_batch(bytes: &[u8]) -> bool {
    (bytes.len() < BEFORE_LENGTH_BYTES || read_i32(bytes, LENGTH_AT) >= LEAST_LENGTH)
        && bytes.get(MAGIC_AT).is_none_or(|magic| *magic <= MAGIC)
}
