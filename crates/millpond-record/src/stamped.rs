//! A batch as the log keeps it: its own copy of the header, stamped, and the producer's bytes shared.

use std::fmt;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use crate::batch::{
    BASE_OFFSET_AT, BatchError, BatchHeader, BatchView, CRC_COVERS_FROM, HEADER_BYTES, LEADER_EPOCH_AT,
};
use crate::checksum::crc32c;
use crate::ids::{LeaderEpoch, Offset};

/// A batch with its base offset and leader epoch. [`Bytes`] that are shared with the request cannot be stamped in
/// place, so the header is copied (61 bytes) and the records are not. A clone shares the records.
///
/// It always has magic 2, a whole header, and a length field that agrees with its size.
#[derive(Clone, PartialEq, Eq)]
pub struct StampedBatch {
    head: [u8; HEADER_BYTES],
    tail: Bytes,
}

impl StampedBatch {
    /// Stamps a batch with its place in the log. Both fields lie outside the CRC, which stays as it is.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if the bytes are not exactly one batch of magic 2. The CRC is not checked here.
    pub fn new(batch: Bytes, base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<StampedBatch, BatchError> {
        let mut stamped = StampedBatch::from_bytes(batch)?;
        stamped.head[BASE_OFFSET_AT..BASE_OFFSET_AT + 8].copy_from_slice(&base_offset.0.to_be_bytes());
        stamped.head[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
        Ok(stamped)
    }

    /// A batch that was stamped before, as read from a log or received from a peer.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if the bytes are not exactly one batch of magic 2. The CRC is not checked here.
    pub fn from_bytes(mut batch: Bytes) -> Result<StampedBatch, BatchError> {
        BatchView::parse(&batch)?;
        let head = *batch.first_chunk().expect("a parsed batch has a whole header");
        Ok(StampedBatch { head, tail: batch.split_off(HEADER_BYTES) })
    }

    /// Like [`from_bytes`](Self::from_bytes), from bytes that are not shared: the records are copied.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_slice(batch: &[u8]) -> Result<StampedBatch, BatchError> {
        BatchView::parse(batch)?;
        let (head, tail) = batch.split_first_chunk().expect("a parsed batch has a whole header");
        Ok(StampedBatch { head: *head, tail: Bytes::copy_from_slice(tail) })
    }

    /// The decoded header.
    pub fn header(&self) -> BatchHeader {
        BatchHeader::decode(&self.head)
    }

    /// The stamped header. With the CRC that it holds it names the whole batch: the input of the running hash.
    pub fn head(&self) -> &[u8; HEADER_BYTES] {
        &self.head
    }

    /// What follows the header: the records as they are stored, or the payload of a Raft-only entry.
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// The total size in bytes.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.tail.len()
    }

    /// Header and rest, to be written one after the other.
    pub fn chunks(&self) -> [&[u8]; 2] {
        [&self.head, &self.tail]
    }

    /// [`chunks`](Self::chunks) for a vectored write.
    pub fn io_slices(&self) -> [IoSlice<'_>; 2] {
        self.chunks().map(IoSlice::new)
    }

    /// [`chunks`](Self::chunks) as owned bytes for a response: the header is copied, the rest is shared.
    pub fn to_chunks(&self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.head), self.tail.clone()]
    }

    /// The batch in one piece; copies it.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.size_bytes());
        for chunk in self.chunks() {
            bytes.extend_from_slice(chunk);
        }
        bytes.freeze()
    }

    /// Whether the CRC matches.
    pub fn verify_crc(&self) -> bool {
        crc32c(&[&self.head[CRC_COVERS_FROM..], &self.tail]) == self.header().crc
    }

    /// For builders in this crate, which make head and tail agree.
    pub(crate) fn from_parts(head: [u8; HEADER_BYTES], tail: Bytes) -> StampedBatch {
        let stamped = StampedBatch { head, tail };
        debug_assert_eq!(stamped.header().size_bytes as usize, stamped.size_bytes());
        stamped
    }
}

impl fmt::Debug for StampedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StampedBatch").field(&self.header()).finish()
    }
}
