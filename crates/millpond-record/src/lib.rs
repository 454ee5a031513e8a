//! The ids, offsets and epochs that every layer speaks of, and record batches: view, validator, builder, codecs, CRC.
//!
//! This crate does no I/O and reads no clock: the time is an argument. A batch is validated once ([`validate_produce`])
//! and then moved as bytes ([`StampedBatch`]); records are decoded only where the broker must look inside
//! ([`records()`]).

mod batch;
mod builder;
mod checksum;
mod codec;
mod ids;
mod partitioner;
mod raft_only;
mod record;
mod rewrite;
mod stamped;
mod validate;
mod varint;

pub use batch::{Attributes, BatchError, BatchHeader, BatchView, HEADER_BYTES, TimestampType};
pub use builder::BatchBuilder;
pub use checksum::{Crc32c, crc32c, rewrite_crc, verify_crc};
pub use codec::{Codec, CodecError, DecompressLimit, compress, decompress};
pub use ids::{
    BrokerId, FilePosition, GroupId, InvalidTopicId, LeaderEpoch, LogId, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, RaftIndex, ReplicaId, Term, Timestamp, TopicId,
};
pub use partitioner::{murmur2, partition_for_key};
pub use raft_only::{RaftOnlyKind, parse_raft_only, raft_only_batch};
pub use record::{Record, RecordHeader, Records, RecordsCursor, RecordsError, RecordsIter, records, shared_payload};
pub use rewrite::{Corrections, recompress, set_create_time, set_log_append_time, set_max_timestamp, set_producer};
pub use stamped::StampedBatch;
pub use validate::{
    Accepted, InvalidBatch, InvalidKind, ProduceRules, RecordError, RecordFault, TimestampRules, validate_produce,
};
