//! The values that cross the storage layer's boundary: what a group is, and what is known of it without opening it.

use bytes::Bytes;
use millpond_record::{
    FilePosition, GroupId, LogId, Offset, PartitionIndex, RaftIndex, ReplicaId, Term, Timestamp, TopicId,
};

use crate::StorageError;

/// Called once, on the driver's thread, when what was submitted is durable or never will be. It must be short, and it
/// must not call back into the storage layer's blocking operations.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// A share of a memory budget that an append holds; dropping it gives it back. See
/// [`DataDir::release`](crate::DataDir::release).
pub type Hold = std::sync::Arc<dyn std::any::Any + Send + Sync>;

/// When an append counts as flushed (the topic setting `millpond.flush`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// After a sync of the journal: survives a power loss.
    #[default]
    Durable,
    /// After the write into the page cache: survives the process, not the machine. Batches skip the journal; votes and
    /// other control records never do.
    Relaxed,
}

/// The settings of one partition log, kept in `groups.table` so that a log can be opened without the metadata image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// When an append counts as flushed.
    pub flush: FlushMode,
    /// A segment is closed when the next batch would take it beyond this many bytes (Kafka's `segment.bytes`).
    pub segment_bytes: u32,
    /// A segment is closed by the first append that comes more than this many milliseconds after the segment's own
    /// first one (Kafka's `segment.ms`).
    pub segment_ms: u64,
    /// By how much that time may be shorter, by a draw for each segment (Kafka's `segment.jitter.ms`): the segments of
    /// logs that were filled at the same time are not all closed at once.
    pub segment_jitter_ms: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { flush: FlushMode::Durable, segment_bytes: 1 << 30, segment_ms: u64::MAX, segment_jitter_ms: 0 }
    }
}

/// What a new group is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Never reused.
    pub group: GroupId,
    /// Topic name; with the partition it names the folder `<topic>-<partition>`.
    pub topic: String,
    /// The partition's index within its topic.
    pub partition: PartitionIndex,
    /// Tells this topic from an earlier one of the same name.
    pub topic_id: TopicId,
    /// This copy's Raft node id; never reused.
    pub replica: ReplicaId,
    /// The settings it starts with.
    pub options: LogOptions,
}

/// A Raft vote: for whom, in which term, and whether a quorum granted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term voted in.
    pub term: Term,
    /// The replica voted for.
    pub replica: ReplicaId,
    /// True when that replica is known to lead the term.
    pub committed: bool,
}

impl Vote {
    /// The order in which votes supersede each other: by term, then a committed vote over an open one. Two votes of one
    /// term for different replicas do not follow each other (one leader per term).
    pub fn supersedes(&self, other: &Vote) -> bool {
        (self.term, self.committed) > (other.term, other.committed)
    }
}

/// A place in a group's log: an entry, and the data offset that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The term of the entry.
    pub term: Term,
    /// The Raft index of the entry.
    pub index: RaftIndex,
    /// The offset that the next data batch takes.
    pub offset: Offset,
}

impl LogPosition {
    /// The entry's Raft log id.
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }
}

/// Where a term begins in a log; the list of them answers "which term has this index" and "where does this epoch end".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The term; as a leader epoch it is the same number.
    pub term: Term,
    /// The first entry of the term.
    pub index: RaftIndex,
    /// The base offset of that entry.
    pub offset: Offset,
}

/// How far a log's segments are known to be on disk: the active segment's name and its synced length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentPosition {
    /// Base offset in the active segment's name.
    pub base_offset: Offset,
    /// First Raft index in the active segment's name.
    pub first_index: RaftIndex,
    /// Synced bytes of the active segment; all older segments are synced whole.
    pub position: FilePosition,
}

/// What tells how old the newest record of a segment is. [`Timestamp::NONE`] for what is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Newest {
    /// The highest timestamp of a record.
    pub record: Timestamp,
    /// The leader's time of the last append.
    pub append: Timestamp,
}

impl Newest {
    /// The time that retention counts from at `now`: the record's timestamp, or, while that lies in the future, the
    /// time of the append, so that a timestamp of the future keeps nothing for ever.
    ///
    /// The timestamp of the past comes first although the append may be earlier: what was appended while the broker's
    /// clock was far behind (no battery, time not set yet) is not old when the clock is set right. And nothing has to
    /// be remembered of the clock, so that one that was far ahead once spoils nothing that comes after it.
    pub fn time(&self, now: Timestamp) -> Timestamp {
        let Newest { record, append } = *self;
        match (record < Timestamp(0), append < Timestamp(0)) {
            (true, _) => append,
            (false, true) => record,
            (false, false) if record <= now => record,
            (false, false) => record.min(append),
        }
    }
}

/// What a log keeps, as far as retention must know it without opening the log. Segments that lie wholly below the log
/// start are left out of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retained {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes of the oldest one.
    pub oldest_bytes: u64,
    /// The newest record of the oldest one. `None` when only the segment knows.
    pub oldest_newest: Option<Newest>,
    /// When the active segment's first batch was appended; [`Timestamp::NONE`] while it is empty.
    pub active_since: Timestamp,
    /// When the active segment's last batch was appended; [`Timestamp::NONE`] while it is empty.
    pub last_append: Timestamp,
    /// There are segments wholly below the log start, which can be removed.
    pub freeable: bool,
}

impl Retained {
    /// Of an empty log.
    pub const NOTHING: Retained = Retained {
        bytes: 0,
        oldest_bytes: 0,
        oldest_newest: None,
        active_since: Timestamp::NONE,
        last_append: Timestamp::NONE,
        freeable: false,
    };
}

/// What a partition keeps (Kafka's DescribeLogDirs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSize {
    /// The partition's group.
    pub group: GroupId,
    /// The topic's name.
    pub topic: String,
    /// The partition's index within its topic.
    pub partition: PartitionIndex,
    /// Bytes of all segments that are not wholly below the log start, written yet or not; 0 without records.
    pub bytes: u64,
}

/// What a replica may have lost of what it has acknowledged, although its log is whole in itself: the machine of a
/// [relaxed](FlushMode::Relaxed) one was started again, and the last run had not ended with a clean stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taint {
    /// Nothing that others do not know of.
    #[default]
    None,
    /// Something, if the partition has other replicas. Its log knows: no change of its members is lost.
    IfShared,
    /// Something: there are other replicas, or were just now, and the log may not know of them any more.
    Shared,
}

/// One group as `groups.table` keeps it: enough to answer for it without opening its folder.
///
/// A row describes the log after every journal record of the group with a sequence number below `journal_sequence`,
/// and after none from there on; replay relies on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The group.
    pub group: GroupId,
    /// Topic name.
    pub topic: String,
    /// Partition index.
    pub partition: PartitionIndex,
    /// Topic id.
    pub topic_id: TopicId,
    /// This copy's Raft node id.
    pub replica: ReplicaId,
    /// The latest vote.
    pub vote: Vote,
    /// P: everything up to and including this entry is behind a snapshot. `None` while nothing was purged.
    pub purged: Option<LogPosition>,
    /// Membership as of P, in the Raft layer's encoding; empty while nothing was purged.
    pub membership_at_p: Bytes,
    /// The latest membership, in the Raft layer's encoding; empty when the log has none yet.
    pub membership: Bytes,
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The offset that the next data batch takes.
    pub log_end: Offset,
    /// The last entry known to be committed; a lower bound.
    pub committed: Option<LogId>,
    /// The last entry of the log.
    pub last: Option<LogId>,
    /// How far the segments are synced; `None` when the log has no segment yet.
    pub durable: Option<SegmentPosition>,
    /// Where each term begins, oldest first.
    pub epochs: Vec<EpochStart>,
    /// The journal sequence number up to which (exclusive) this row holds what the journal says.
    pub journal_sequence: u64,
    /// Set when a sync of this log's segments failed: the copy may miss what it acknowledged and is never opened again.
    pub set_aside: bool,
    /// What it may have lost in a power cut. Kept with the row and not with the log, which cannot tell.
    pub taint: Taint,
    /// The log's settings.
    pub options: LogOptions,
    /// What retention needs to know of the log.
    pub retained: Retained,
}

impl GroupRow {
    /// The row of a group that was just created by the journal record before `journal_sequence`.
    pub fn new(spec: &GroupSpec, journal_sequence: u64) -> GroupRow {
        GroupRow {
            group: spec.group,
            topic: spec.topic.clone(),
            partition: spec.partition,
            topic_id: spec.topic_id,
            replica: spec.replica,
            vote: Vote::default(),
            purged: None,
            membership_at_p: Bytes::new(),
            membership: Bytes::new(),
            log_start: Offset(0),
            log_end: Offset(0),
            committed: None,
            last: None,
            durable: None,
            epochs: Vec::new(),
            journal_sequence,
            set_aside: false,
            taint: Taint::None,
            options: spec.options,
            retained: Retained::NOTHING,
        }
    }

    /// The name of the group's folder in the data directory.
    pub fn folder(&self) -> String {
        folder_name(&self.topic, self.partition)
    }
}

/// The folder of a partition: Kafka's naming, `<topic>-<partition>`.
pub(crate) fn folder_name(topic: &str, partition: PartitionIndex) -> String {
    format!("{topic}-{}", partition.0)
}

/// Whether a topic's name can name a folder: Kafka's rule, 1 to 249 characters of `A-Z a-z 0-9 . _ -`, not `.` or `..`.
pub(crate) fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}
