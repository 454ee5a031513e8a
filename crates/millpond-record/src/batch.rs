//! Kafka's record batch, magic 2 (KIP-98; `DefaultRecordBatch`): layout, header, borrowed view.
//!
//! ```text
//!  at  bytes
//!   0    8   base offset                 stamped by the broker, outside the CRC
//!   8    4   length                      of what follows: total size - 12; outside the CRC
//!  12    4   partition leader epoch      stamped by the broker, outside the CRC
//!  16    1   magic                       2; outside the CRC
//!  17    4   CRC-32C                     of everything from byte 21 on
//!  21    2   attributes                  bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control,
//!                                        6 delete horizon (base timestamp holds it), 15 Raft-only (ours)
//!  23    4   last offset delta           last offset = base offset + this
//!  27    8   base timestamp              of the first record
//!  35    8   max timestamp               of all records; the append time with LogAppendTime
//!  43    8   producer id                 -1 for none
//!  51    2   producer epoch              -1 for none
//!  53    4   base sequence               -1 for none
//!  57    4   record count
//!  61        records, compressed as the attributes say
//! ```
//!
//! All numbers are big-endian.

use crate::codec::Codec;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// The size of a batch without records: its header.
pub const HEADER_BYTES: usize = 61;

pub(crate) const BASE_OFFSET_AT: usize = 0;
pub(crate) const LENGTH_AT: usize = BASE_OFFSET_AT + 8;
pub(crate) const LEADER_EPOCH_AT: usize = LENGTH_AT + 4;
pub(crate) const MAGIC_AT: usize = LEADER_EPOCH_AT + 4;
pub(crate) const CRC_AT: usize = MAGIC_AT + 1;
pub(crate) const ATTRIBUTES_AT: usize = CRC_AT + 4;
const LAST_OFFSET_DELTA_AT: usize = ATTRIBUTES_AT + 2;
const BASE_TIMESTAMP_AT: usize = LAST_OFFSET_DELTA_AT + 4;
pub(crate) const MAX_TIMESTAMP_AT: usize = BASE_TIMESTAMP_AT + 8;
pub(crate) const PRODUCER_ID_AT: usize = MAX_TIMESTAMP_AT + 8;
pub(crate) const PRODUCER_EPOCH_AT: usize = PRODUCER_ID_AT + 8;
pub(crate) const BASE_SEQUENCE_AT: usize = PRODUCER_EPOCH_AT + 2;
const RECORD_COUNT_AT: usize = BASE_SEQUENCE_AT + 4;

/// The bytes that the length field does not count: base offset and the length itself.
pub(crate) const BEFORE_LENGTH_BYTES: usize = LEADER_EPOCH_AT;
/// The first byte under the CRC.
pub(crate) const CRC_COVERS_FROM: usize = ATTRIBUTES_AT;
pub(crate) const MAGIC: u8 = 2;

const _: () = {
    assert!(MAGIC_AT == 16);
    assert!(CRC_COVERS_FROM == 21);
    assert!(MAX_TIMESTAMP_AT == 35);
    assert!(RECORD_COUNT_AT + 4 == HEADER_BYTES);
};

/// Why bytes are not a batch of magic 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header.
    #[error("{found} bytes are too few for a batch header of {HEADER_BYTES}")]
    TooShort {
        /// How many bytes there are.
        found: usize,
    },
    /// The magic byte is not 2.
    #[error("the batch has magic {found}, only 2 is supported")]
    Magic {
        /// The magic byte, signed as Kafka reads it.
        found: i8,
    },
    /// The length field names a batch smaller than a header, or of negative size.
    #[error("the batch's length field is {found}, the least is {}", HEADER_BYTES - BEFORE_LENGTH_BYTES)]
    Length {
        /// The length field.
        found: i32,
    },
    /// The length field does not agree with the bytes at hand.
    #[error("the batch's length field makes it {declared} bytes, there are {found}")]
    Size {
        /// The total size by the length field, in bytes.
        declared: u32,
        /// How many bytes there are.
        found: usize,
    },
    /// The batch was to be Raft-only and is not, or the other way round, or its kind is unknown.
    #[error("the batch is not a Raft-only entry of a known kind")]
    NotRaftOnly,
    /// The CRC does not match the bytes.
    #[error("the batch's CRC-32C does not match its bytes")]
    Crc,
}

/// Whose clock the records' times are from (attribute bit 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimestampType {
    /// Each record carries the time that the producer gave it.
    CreateTime,
    /// All records have the time of the append, kept as the batch's max timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    pub(crate) const CODEC_MASK: i16 = 0x07;
    pub(crate) const LOG_APPEND_TIME: i16 = 0x08;
    pub(crate) const TRANSACTIONAL: i16 = 0x10;
    pub(crate) const CONTROL: i16 = 0x20;
    pub(crate) const DELETE_HORIZON: i16 = 0x40;
    /// Bit 15, ours: with the control bit it marks an entry that is in the Raft log only.
    pub(crate) const RAFT_ONLY: i16 = i16::MIN;
    /// Bits 6-15: no client may set them.
    pub(crate) const NOT_FOR_CLIENTS: i16 = !0x3f;

    /// How the records are compressed.
    ///
    /// # Errors
    ///
    /// The number if it names no codec (5, 6, 7).
    pub fn compression(self) -> Result<Codec, u8> {
        Codec::from_id((self.0 & Self::CODEC_MASK) as u8)
    }

    /// Whose clock the times are from.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker of the broker rather than data.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which tombstones may go (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// Whether the batch is an entry of the Raft log that no client ever sees: control bit *and* bit 15.
    pub fn is_raft_only(self) -> bool {
        let both = Self::RAFT_ONLY | Self::CONTROL;
        self.0 & both == both
    }
}

/// A decoded batch header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The size of the batch in bytes, with the 12 that the length field does not count. At least [`HEADER_BYTES`].
    pub size_bytes: u32,
    /// The term of the leader that appended the batch.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of the bytes from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// Last offset less base offset; -1 in a batch that takes no offset.
    pub last_offset_delta: i32,
    /// The time of the first record.
    pub base_timestamp: Timestamp,
    /// The greatest time of all records; the append time with LogAppendTime.
    pub max_timestamp: Timestamp,
    /// The producer, if it has an id.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence number of the first record; -1 for none.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes`. The records need not be there; CRC and values are not checked.
    ///
    /// # Errors
    ///
    /// [`BatchError::TooShort`], [`BatchError::Magic`], [`BatchError::Length`].
    pub fn read(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(BatchError::TooShort { found: bytes.len() })?;
        if head[MAGIC_AT] != MAGIC {
            return Err(BatchError::Magic { found: head[MAGIC_AT] as i8 });
        }
        let length = read_i32(head, LENGTH_AT);
        if length < (HEADER_BYTES - BEFORE_LENGTH_BYTES) as i32 {
            return Err(BatchError::Length { found: length });
        }
        Ok(BatchHeader::decode(head))
    }

    /// Decodes a header that is known to have magic 2 and a length of at least a header.
    pub(crate) fn decode(head: &[u8; HEADER_BYTES]) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(read_i64(head, BASE_OFFSET_AT)),
            size_bytes: read_u32(head, LENGTH_AT).wrapping_add(BEFORE_LENGTH_BYTES as u32),
            leader_epoch: LeaderEpoch(read_i32(head, LEADER_EPOCH_AT)),
            crc: read_u32(head, CRC_AT),
            attributes: Attributes(read_i16(head, ATTRIBUTES_AT)),
            last_offset_delta: read_i32(head, LAST_OFFSET_DELTA_AT),
            base_timestamp: Timestamp(read_i64(head, BASE_TIMESTAMP_AT)),
            max_timestamp: Timestamp(read_i64(head, MAX_TIMESTAMP_AT)),
            producer_id: ProducerId(read_i64(head, PRODUCER_ID_AT)),
            producer_epoch: ProducerEpoch(read_i16(head, PRODUCER_EPOCH_AT)),
            base_sequence: read_i32(head, BASE_SEQUENCE_AT),
            record_count: read_i32(head, RECORD_COUNT_AT),
        }
    }

    /// Encodes the header, CRC as it stands in the field.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(BASE_OFFSET_AT, &self.base_offset.0.to_be_bytes());
        put(LENGTH_AT, &self.size_bytes.wrapping_sub(BEFORE_LENGTH_BYTES as u32).to_be_bytes());
        put(LEADER_EPOCH_AT, &self.leader_epoch.0.to_be_bytes());
        put(MAGIC_AT, &[MAGIC]);
        put(CRC_AT, &self.crc.to_be_bytes());
        put(ATTRIBUTES_AT, &self.attributes.0.to_be_bytes());
        put(LAST_OFFSET_DELTA_AT, &self.last_offset_delta.to_be_bytes());
        put(BASE_TIMESTAMP_AT, &self.base_timestamp.0.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &self.max_timestamp.0.to_be_bytes());
        put(PRODUCER_ID_AT, &self.producer_id.0.to_be_bytes());
        put(PRODUCER_EPOCH_AT, &self.producer_epoch.0.to_be_bytes());
        put(BASE_SEQUENCE_AT, &self.base_sequence.to_be_bytes());
        put(RECORD_COUNT_AT, &self.record_count.to_be_bytes());
        head
    }

    /// The offset of the last record; one before the base offset in a batch that takes no offset.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.wrapping_add(i64::from(self.last_offset_delta)))
    }

    /// The offset of the batch that follows.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.wrapping_add(1))
    }

    /// The sequence number of the last record. Sequences wrap from 2³¹ − 1 to 0; -1 if the batch has none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        // Both are below 2^31, so the sum is below 2^32; the top bit cut off is the wrap.
        ((self.base_sequence as u32).wrapping_add(self.last_offset_delta as u32) & i32::MAX as u32) as i32
    }
}

/// A batch in a slice: exactly its bytes, with magic 2 and a length field that agrees. Nothing else is checked.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    header: BatchHeader,
}

impl<'a> BatchView<'a> {
    /// The batch that the slice is.
    ///
    /// # Errors
    ///
    /// [`BatchError`], also if the slice is longer or shorter than the batch says it is.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let header = BatchHeader::read(bytes)?;
        if header.size_bytes as usize != bytes.len() {
            return Err(BatchError::Size { declared: header.size_bytes, found: bytes.len() });
        }
        Ok(BatchView { bytes, header })
    }

    /// The first batch of a slice that may hold more. What follows begins at [`BatchHeader::size_bytes`].
    ///
    /// # Errors
    ///
    /// [`BatchError`], also if the slice ends before the batch does.
    pub fn first_of(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let header = BatchHeader::read(bytes)?;
        let bytes = bytes
            .get(..header.size_bytes as usize)
            .ok_or(BatchError::Size { declared: header.size_bytes, found: bytes.len() })?;
        Ok(BatchView { bytes, header })
    }

    /// The header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records as they are stored, compressed or not.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The total size in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the CRC matches.
    pub fn verify_crc(&self) -> bool {
        crate::checksum::verify_crc(self.bytes)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

pub(crate) fn read_i16(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(field(bytes, at))
}

pub(crate) fn read_i32(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(field(bytes, at))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

fn read_i64(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(field(bytes, at))
}
