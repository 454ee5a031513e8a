//! A data directory: one journal that makes writes durable, and per partition the segments that make them readable.
//!
//! [`DataDir`] owns the folder: its lock, `meta.properties`, `groups.table`, the journal and what recovery does with
//! them. [`Log`] is one partition: append, read, truncate, look up. The formats are described in `docs/formats.md` and
//! on top of the module that reads and writes each of them.
//!
//! This crate knows nothing of Raft's protocol, of Kafka's APIs or of clocks: terms, votes and times are arguments.

mod cache;
mod checkpoint;
mod data_dir;
mod dump;
mod error;
mod fields;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod journal;
mod log;
mod manifest;
mod meta;
mod options;
mod partition_folder;
mod producer;
mod registry;
mod replay;
mod retention;
mod segment;
mod stats;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod verify;
mod writer;

pub use data_dir::DataDir;
pub use dump::{DumpError, DumpItem, DumpKind, DumpValue, dump};
pub use error::{OpenError, StorageError};
pub use log::{
    AppendEntry, Body, ColdEntries, ColdRead, Entries, FileRun, Found, Freeing, Frontiers, Installation, Log, Outcome,
    Piece, Proposal, Read, ReadAhead, ReadError, SequenceError, Shipment, Stored, StoredEntry, VoidReason, Wanted,
    log_start_payload,
};
pub use manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError, ManifestSegment, SegmentPart};
pub use meta::{DirectoryId, MetaProperties};
pub use options::StorageOptions;
pub use producer::ActiveProducer;
pub use replay::{DamagedGroup, RecoveryReport};
pub use retention::{Limits, SegmentFacts, may_move_log_start, new_log_start};
pub use stats::{ROUND_BYTES_BOUNDS, ROUND_RECORDS_BOUNDS, SYNC_MICROS_BOUNDS, StorageStats};
pub use types::{
    Done, EpochStart, FlushMode, GroupRow, GroupSpec, Hold, LogOptions, LogPosition, Newest, PartitionSize, Retained,
    SegmentPosition, Taint, Vote,
};
pub use verify::{CompareSummary, Difference, Finding, Severity, VerifySummary, compare, verify};
pub use writer::WriteTroubles;
