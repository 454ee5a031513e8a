//! What goes into a log and what comes out of it.

use bytes::Bytes;
use millpond_record::{BatchHeader, LogId, Offset, RaftIndex, RaftOnlyKind, StampedBatch, Term, Timestamp};

/// One entry to append, in its place in the Raft log.
#[derive(Clone, Debug)]
pub struct AppendEntry {
    /// Must be the index after the log's last entry.
    pub index: RaftIndex,
    /// The term of the leader that made the entry; never lower than that of the entry before.
    pub term: Term,
    /// What the entry holds.
    pub body: Body,
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A producer's batch on its leader: it is stamped and its sequence checked inside the append, nowhere else.
    Proposed(Proposal),
    /// A batch that its leader stamped. Its base offset must be this log's next offset.
    Stored(Stored),
    /// An entry of the broker itself, made into a batch inside the append.
    RaftOnly {
        /// What it is for.
        kind: RaftOnlyKind,
        /// Its content, as its owner encodes it. A membership is also kept as the log's membership, a log start moves
        /// the log start when it is committed (see [`log_start_payload`](crate::log_start_payload)).
        payload: Bytes,
        /// The leader's time.
        time: Timestamp,
    },
}

/// A producer's batch, validated and not yet stamped.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Exactly one batch of magic 2.
    pub batch: Bytes,
    /// Its header, as validated.
    pub header: BatchHeader,
    /// The leader's time of the append; retention goes by it where record times cannot be trusted.
    pub append_time: Timestamp,
    /// Bytes of the allocation that `batch` keeps alive: the request frame it was cut from, or the size of the batch if
    /// it has an allocation of its own. The tail cache counts it, and copies a batch smaller than a quarter of it.
    pub frame_bytes: usize,
}

/// A batch that was stamped by its leader.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The batch.
    pub batch: StampedBatch,
    /// The leader's time of the append; the batch's max timestamp if it is not known.
    pub append_time: Timestamp,
    /// As in [`Proposal`].
    pub frame_bytes: usize,
}

impl From<StampedBatch> for Stored {
    /// A batch in an allocation of its own whose append time is not known.
    fn from(batch: StampedBatch) -> Stored {
        Stored { append_time: batch.header().max_timestamp, frame_bytes: batch.size_bytes(), batch }
    }
}

/// What became of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The batch is in the log and readable.
    Appended {
        /// Its Raft index.
        index: RaftIndex,
        /// The offset of its first record.
        base_offset: Offset,
        /// The offset of its last record.
        last_offset: Offset,
    },
    /// The producer sent this batch before: nothing was appended (in a Raft group: a void entry).
    Duplicate {
        /// The offset of the original's first record.
        base_offset: Offset,
        /// The offset of the original's last record.
        last_offset: Offset,
        /// Set while the original is not committed: the answer must wait for this index.
        index: Option<RaftIndex>,
    },
    /// The producer's sequence or epoch does not fit: nothing was appended (in a Raft group: a void entry).
    Refused(SequenceError),
    /// The Raft-only entry is in the log.
    RaftOnly {
        /// Its Raft index.
        index: RaftIndex,
    },
}

/// Why the sequence check refused a batch (Kafka's `ProducerAppendInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The sequence does not follow the producer's last one, or a new epoch does not start at 0.
    #[error("sequence {found} is out of order, {expected} is next")]
    OutOfOrder {
        /// The base sequence of the batch.
        found: i32,
        /// The sequence that would be accepted.
        expected: i32,
    },
    /// The producer has a newer epoch: this one is fenced.
    #[error("producer epoch {found} is fenced by epoch {current}")]
    OldEpoch {
        /// The epoch of the batch.
        found: i16,
        /// The producer's epoch.
        current: i16,
    },
}

/// How far a log is. Always `log_start <= last_stable <= high_watermark <= log_end` and `committed <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontiers {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The offset after the last committed data batch: consumers read below it.
    pub high_watermark: Offset,
    /// The offset below which no transaction is open; the high watermark while there are none.
    pub last_stable: Offset,
    /// The offset that the next data batch takes.
    pub log_end: Offset,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
}

impl Frontiers {
    /// The order that must hold.
    pub(crate) fn assert_ordered(&self) {
        assert!(
            self.log_start <= self.last_stable
                && self.last_stable <= self.high_watermark
                && self.high_watermark <= self.log_end
                && self.committed.map(|id| id.index) <= self.last.map(|id| id.index),
            "the frontiers of a log are out of order: {self:?}"
        );
    }
}

/// An entry of the log as it is stored.
pub type StoredEntry = (LogId, StampedBatch);

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The offset of the record.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The leader epoch of its batch.
    pub leader_epoch: millpond_record::LeaderEpoch,
}
