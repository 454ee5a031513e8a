//! A batch on its way from the first record to its outcome.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millpond_record::{BatchBuilder, Codec, ProducerEpoch, ProducerId, RecordHeader, Timestamp, set_producer};
use tokio::time::Instant;

use super::delivery::{Delivery, Outcome, Slot};
use super::record::NewRecord;
use crate::error::Error;

/// The identity of an idempotent producer on one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// What makes a batch of an idempotent producer known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    /// Of its first record.
    pub(crate) sequence: i32,
}

/// The records of a batch: collected, or as they are sent. Boxed, as it is handed around.
#[derive(Debug)]
pub(crate) enum Payload {
    Collected(Box<BatchBuilder>),
    Made { bytes: Bytes, stamp: Option<Stamp> },
}

impl Payload {
    /// Compressed and with this stamp, as it is sent. What was made so before is kept as it is.
    pub(crate) fn made(self, stamp: Option<Stamp>) -> (Payload, Bytes) {
        let bytes = match (self, stamp) {
            (Payload::Collected(builder), None) => builder.into_batch(),
            (Payload::Collected(builder), Some(Stamp { identity, sequence })) => {
                builder.producer(ProducerId(identity.id), ProducerEpoch(identity.epoch), sequence).into_batch()
            }
            (Payload::Made { bytes, stamp: has }, stamp) if has == stamp => bytes,
            (Payload::Made { bytes, .. }, stamp) => {
                let (id, epoch, sequence) = match stamp {
                    Some(Stamp { identity, sequence }) => {
                        (ProducerId(identity.id), ProducerEpoch(identity.epoch), sequence)
                    }
                    None => (ProducerId::NONE, ProducerEpoch::NONE, -1),
                };
                let mut changed = BytesMut::from(&bytes[..]);
                set_producer(&mut changed, id, epoch, sequence);
                changed.freeze()
            }
        };
        (Payload::Made { bytes: bytes.clone(), stamp }, bytes)
    }
}

/// A batch that tells its outcome, and what memory it gives back.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) slot: Arc<Slot>,
    pub(crate) outcome: Outcome,
    /// Bytes of the producer's memory that are free again.
    pub(crate) freed: usize,
}

/// Records of one partition that are sent together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// `None` while it is on the way.
    pub(crate) payload: Option<Payload>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) records: i32,
    /// Not compressed.
    pub(crate) bytes: usize,
    /// Of the producer's memory.
    reserved: usize,
    /// When its first record came.
    pub(crate) created: Instant,
    pub(crate) attempts: u32,
    /// Why the last attempt failed.
    pub(crate) last_error: Option<Error>,
}

impl Batch {
    /// An empty one with room for `bytes`.
    pub(crate) fn new(partition: i32, codec: Codec, bytes: usize, now: Instant) -> Batch {
        let builder = BatchBuilder::with_capacity(bytes).codec(codec);
        Batch {
            bytes: builder.uncompressed_bytes(),
            payload: Some(Payload::Collected(Box::new(builder))),
            slot: Slot::new(partition),
            records: 0,
            reserved: 0,
            created: now,
            attempts: 0,
            last_error: None,
        }
    }

    /// Adds a record, for which `reserved` bytes of memory were set aside.
    pub(crate) fn append(&mut self, record: &NewRecord<'_>, timestamp: i64, reserved: usize) -> Delivery {
        let Some(Payload::Collected(builder)) = &mut self.payload else {
            unreachable!("records are added to a batch that was not sent");
        };
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| RecordHeader { name: name.as_bytes(), value: *value });
        builder.append_with_headers(Timestamp(timestamp), record.key, record.value, headers);
        let delivery = self.slot.delivery(self.records, timestamp);
        self.records += 1;
        self.bytes = builder.uncompressed_bytes();
        self.reserved += reserved;
        delivery
    }

    /// Ends with this outcome.
    pub(crate) fn done(self, outcome: Outcome) -> Done {
        Done { slot: self.slot, outcome, freed: self.reserved }
    }

    /// Tells an outcome while its memory is still in use.
    pub(crate) fn told(&self, outcome: Outcome) -> Done {
        Done { slot: Arc::clone(&self.slot), outcome, freed: 0 }
    }
}
