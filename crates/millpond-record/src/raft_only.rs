//! Entries that are in the Raft log only. They look like empty control batches, so that a segment stays a sequence of
//! batches that Kafka's tools read over; they take no offset and never leave the broker.
//!
//! ```text
//!  at  bytes
//!   0   61   batch header: attributes = control bit and bit 15, last offset delta -1, record count 0,
//!            base offset = that of the next data batch, no producer
//!  61    1   kind
//!  62        payload, as its owner encodes it
//! ```
//!
//! The batch's CRC covers kind and payload.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{Attributes, BatchError, BatchHeader, CRC_COVERS_FROM, HEADER_BYTES};
use crate::checksum::crc32c;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::stamped::StampedBatch;

/// What a Raft-only entry is for. The numbers are on disk and never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RaftOnlyKind {
    /// The first entry of a new leader.
    Blank = 1,
    /// The members of the group from here on.
    Membership = 2,
    /// The log start moves (retention, DeleteRecords).
    LogStart = 3,
    /// A step of compaction that every replica takes.
    CompactionStep = 4,
    /// A proposal that the leader's append refused: it keeps its index and nothing of the producer's bytes.
    Void = 5,
}

impl RaftOnlyKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [RaftOnlyKind; 5] = [
        RaftOnlyKind::Blank,
        RaftOnlyKind::Membership,
        RaftOnlyKind::LogStart,
        RaftOnlyKind::CompactionStep,
        RaftOnlyKind::Void,
    ];

    fn from_id(id: u8) -> Option<RaftOnlyKind> {
        RaftOnlyKind::ALL.into_iter().find(|kind| *kind as u8 == id)
    }
}

/// Makes the batch of a Raft-only entry.
///
/// # Panics
///
/// If the payload is 2 GiB or more; payloads are made by the broker and small.
pub fn raft_only_batch(
    kind: RaftOnlyKind,
    payload: &[u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    timestamp: Timestamp,
) -> StampedBatch {
    let mut tail = BytesMut::with_capacity(1 + payload.len());
    tail.put_u8(kind as u8);
    tail.put_slice(payload);
    let size_bytes = u32::try_from(HEADER_BYTES + tail.len()).ok().filter(|size| *size <= i32::MAX as u32);
    let mut header = BatchHeader {
        base_offset,
        size_bytes: size_bytes.expect("the payload of a Raft-only entry is far below 2 GiB"),
        leader_epoch,
        crc: 0,
        attributes: Attributes(Attributes::CONTROL | Attributes::RAFT_ONLY),
        last_offset_delta: -1,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        base_sequence: -1,
        record_count: 0,
    };
    header.crc = crc32c(&[&header.encode()[CRC_COVERS_FROM..], &tail]);
    StampedBatch::from_parts(header.encode(), tail.freeze())
}

/// The kind and payload of a Raft-only entry. The payload shares the batch's bytes. The CRC is not checked here.
///
/// # Errors
///
/// [`BatchError::NotRaftOnly`] if the batch is a data batch, takes offsets, has no kind or one that is not known.
pub fn parse_raft_only(batch: &StampedBatch) -> Result<(RaftOnlyKind, Bytes), BatchError> {
    let header = batch.header();
    let shape = (header.attributes.is_raft_only(), header.last_offset_delta, header.record_count);
    if shape != (true, -1, 0) {
        return Err(BatchError::NotRaftOnly);
    }
    let kind = batch.tail().first().copied().and_then(RaftOnlyKind::from_id).ok_or(BatchError::NotRaftOnly)?;
    Ok((kind, batch.tail().slice(1..)))
}
