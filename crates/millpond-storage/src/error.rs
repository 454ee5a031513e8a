//! What can go wrong in a data directory, as far as a caller can tell it apart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond_record::{GroupId, Offset, RaftIndex};

/// Why an operation on an open data directory failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The journal could not be written or synced. Final: nothing is written any more, and the sync is not tried again.
    #[error(
        "the journal of the data directory {path} failed ({source}); nothing more is written: check the disk, restart"
    )]
    JournalFailed {
        /// The data directory.
        path: PathBuf,
        /// What the first failed write or sync said.
        source: Arc<io::Error>,
    },
    /// The data directory was closed.
    #[error("the data directory {0} is closed")]
    Closed(PathBuf),
    /// A batch is too long for a journal file.
    #[error(
        "a batch of {bytes} bytes does not fit into a journal file, which takes {limit}: raise the journal file size"
    )]
    BatchTooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// The most that fits.
        limit: u64,
    },
    /// The group exists already.
    #[error("group {0} exists already in this data directory")]
    GroupExists(GroupId),
    /// The group was deleted here a moment ago, and the journal still says so: a start would delete it again. It is
    /// being seen to; try again.
    #[error("group {0} was deleted here just now; it can be made again when that is behind the journal")]
    DeletedLately(GroupId),
    /// The group is not in this data directory.
    #[error("group {0} is not in this data directory")]
    NoSuchGroup(GroupId),
    /// The partition's folder belongs to another group that still exists.
    #[error("the folder {folder} belongs to group {owner}")]
    FolderTaken {
        /// Folder name.
        folder: String,
        /// The group that has it.
        owner: GroupId,
    },
    /// A topic name that cannot be a folder name.
    #[error("{0:?} cannot be a folder name; a topic name has 1 to 249 characters of A-Z a-z 0-9 . _ -")]
    BadTopicName(String),
    /// The copy is set aside: a write or sync of its segments failed, so it may miss what it acknowledged, or a start
    /// found it damaged.
    #[error("the copy of group {0} is set aside: it is damaged, or may miss what it acknowledged; add a new replica")]
    SetAside(GroupId),
    /// The segments of the log cannot be written for now. It is tried again; until then producers are refused.
    #[error("the log of group {group} takes nothing until its segments can be written again: {why}")]
    Stalled {
        /// The group.
        group: GroupId,
        /// What the last try said.
        why: Arc<StorageError>,
    },
    /// The log was deleted or closed meanwhile.
    #[error("the log of group {0} is closed")]
    LogClosed(GroupId),
    /// What is on disk contradicts itself.
    #[error("group {group} is damaged: {what}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// What does not fit, and where.
        what: String,
    },
    /// An entry does not follow the log's end.
    #[error("group {group}: entry {index} does not follow the log's last entry ({last:?})")]
    NotNext {
        /// The group.
        group: GroupId,
        /// The index of the refused entry.
        index: RaftIndex,
        /// The log's last entry.
        last: Option<RaftIndex>,
    },
    /// A truncation would drop committed entries, or purged ones.
    #[error("group {group}: truncating after {after:?} would drop entries up to {committed:?} that are committed")]
    TruncatesCommitted {
        /// The group.
        group: GroupId,
        /// The last entry to be kept.
        after: Option<RaftIndex>,
        /// The last committed or purged entry.
        committed: Option<RaftIndex>,
    },
    /// A truncation is on its way to the disk; the segments can be synced when the journal has it.
    #[error("group {0}: a truncation is not durable yet")]
    TruncationPending(GroupId),
    /// P can only move to a committed entry at the end of a segment.
    #[error("group {group}: entry {index} is not a committed entry at the end of a segment")]
    NotABoundary {
        /// The group.
        group: GroupId,
        /// The entry asked for.
        index: RaftIndex,
    },
    /// A stored batch does not begin at the log's end: this copy differs from its leader's.
    #[error("group {group}: a batch at offset {found} does not continue the log, whose next offset is {expected}")]
    OffsetMismatch {
        /// The group.
        group: GroupId,
        /// The log's next offset.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// The log is being switched over to what was received of another replica.
    #[error("the log of group {0} takes nothing while it is switched over to another replica's segments")]
    Installing(GroupId),
    /// The log cannot be switched over to what was, or should be, received of another replica. It is as it was.
    #[error("group {group} cannot be filled from another replica: {what}")]
    NotInstallable {
        /// The group.
        group: GroupId,
        /// What does not fit.
        what: String,
    },
    /// A piece of a segment that is not asked for or not there.
    #[error("group {group}: there is no such piece of a segment")]
    NoSuchPiece {
        /// The group.
        group: GroupId,
    },
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, as a verb: "read", "write", "sync".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl StorageError {
    /// An I/O error with what was tried on which file.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> StorageError {
        StorageError::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }
}

/// Why a data directory could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory {0} is in use by another process: stop it, or choose another --data-dir")]
    Locked(PathBuf),
    /// It belongs to another node.
    #[error(
        "the data directory {path} belongs to node {found}, not to node {expected}: \
         use --node-id {found}, or choose another --data-dir"
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// The node it belongs to.
        found: i32,
        /// The node that was configured.
        expected: i32,
    },
    /// It belongs to another cluster.
    #[error(
        "the data directory {path} belongs to cluster {found}, not to cluster {expected}: choose another --data-dir"
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// The cluster it belongs to.
        found: String,
        /// The cluster that was configured.
        expected: String,
    },
    /// A newer version wrote it.
    #[error("{path} has format version {found}, but this version reads up to {supported}: use a newer millpond")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// A file of the directory itself is missing or damaged.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// There is nothing of ours.
    #[error("{path} is not a data directory: {why}")]
    NotADataDirectory {
        /// The path that was named.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Options(String),
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A log could not be recovered.
    #[error("recovery of the data directory failed: {0}")]
    Recovery(#[from] StorageError),
}

impl OpenError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }
}
